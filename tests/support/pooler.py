"""The pooler as a process: started, watched, reloaded and ended as an operator would."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
import yaml

from tests.support.postgres import PASSWORDS

Config = dict[str, Any]
Event = dict[str, Any]

START_TIMEOUT = 60.0  # seconds, on a loaded machine
LEAVE_TIMEOUT = 5.0  # seconds after a SIGTERM that waits for transactions
GONE_TIMEOUT = 30.0  # seconds after one that does not
_POLL = 0.01  # seconds


class PoolerError(AssertionError):
    """The pooler did what it must not; the test fails with this message."""


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Config:
    """`base` with `over` laid on it, mapping by mapping; a value of None takes a key away."""
    result = dict(base)
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


class Pooler:
    """One `python -m pooler CONFIG`; `close` at the end judges how it lived.

    Its environment is ours without POOLER_..., which are settings, and with `environment`.
    """

    command: tuple[str, ...] = (sys.executable, "-m", "pooler")

    def __init__(
        self,
        config: Config,
        folder: Path,
        *,
        options: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        # For ever.
        self.config = config
        self.folder = folder
        self.config_path = folder / "pooler.yaml"
        self._options = options
        inherited = {name: v for name, v in os.environ.items() if not name.startswith("POOLER_")}
        self._environment = {**inherited, **(environment or {})}
        # Per process.
        self._process: subprocess.Popen[bytes] | None = None
        self._expects_end = False
        self._log_path = folder / "pooler.log"
        self._offset = 0
        self._events: list[Event] = []
        # Known once it is ready.
        self.host = ""
        self.port = 0
        self.metrics_port = 0

    def __repr__(self) -> str:
        state = "not started" if self._process is None else f"pid {self._process.pid}"
        return f"<Pooler {state} {self.host}:{self.port}>"

    # Life.

    def start(self) -> None:
        """Start it, and wait until it serves."""
        self._write(self.config)
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.command, *self._options, self.config_path],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._expects_end = False
        self.wait_for_log(START_TIMEOUT, event="ready")
        self.host, self.port = self._address("listening")
        if self.log_contains(event="metrics"):
            _, self.metrics_port = self._address("metrics")

    def reload(self, config: Config) -> Event:
        """Put a new file in place, send SIGHUP; the event "reloaded" or "reload failed"."""
        seen = len(self.log)
        self.config = config
        self._write(config)
        self.signal(signal.SIGHUP)
        return self._wait(
            lambda: next(
                (e for e in self.log[seen:] if e.get("event") in ("reloaded", "reload failed")),
                None,
            ),
            10,
            "it to reload",
        )

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def terminate(self, timeout: float = 30.0) -> int:
        """SIGTERM, and wait for it to leave; its exit status."""
        self._expects_end = True
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """SIGKILL, as the kernel's out-of-memory killer does."""
        assert self._process is not None
        self._expects_end = True
        self._process.kill()
        self._process.wait()

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for an end that the test expects; the exit status."""
        assert self._process is not None
        self._expects_end = True
        return self._process.wait(timeout)

    def close(self) -> None:
        """End it and judge: it must have lived until now, leave when asked, and log no bug."""
        faults = []
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(LEAVE_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.terminate()  # the second one means "now"
                try:
                    self._process.wait(GONE_TIMEOUT)
                except subprocess.TimeoutExpired:
                    self.kill()
                    faults.append("it did not leave after a second SIGTERM")
        elif self._process is not None and not self._expects_end:
            faults.append(f"it died with status {self._process.returncode}")
        bugs = [event for event in self.log if _is_bug(event)]
        if bugs:
            faults.append(f"it logged a bug: {bugs[0]}")
        if faults:
            raise PoolerError(f"{self!r}: {'; '.join(faults)}")

    # Clients.

    def dsn(self, user: str = "app", dbname: str = "app", **options: str) -> str:
        """A URL for any driver, with the user's password unless one is given."""
        password = options.pop("password", PASSWORDS.get(user, ""))
        query = f"?{urlencode(options)}" if options else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{user}:{quote(password, safe='')}@{host}:{self.port}/{dbname}{query}"

    def connect(
        self, user: str = "app", dbname: str = "app", **options: Any
    ) -> psycopg.Connection[tuple[Any, ...]]:
        """A psycopg connection through the pooler, in autocommit unless told otherwise."""
        options = {"autocommit": True, "prepare_threshold": None, **options}
        return psycopg.connect(self.dsn(user, dbname), **options)

    # What it logged.

    @property
    def log(self) -> list[Event]:
        """Every line logged so far; one that isn't JSON as {"raw": line}."""
        with self._log_path.open("rb") as file:
            file.seek(self._offset)
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            if not line.endswith(b"\n"):
                break  # still being written
            self._offset += len(line)
            self._events.append(_parse(line))
        return self._events

    @property
    def log_text(self) -> str:
        """The log as it was written."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def log_contains(self, **fields: object) -> bool:
        """Whether a line was logged with all these fields."""
        return self._find(fields) is not None

    def wait_for_log(self, timeout: float = 30.0, /, **fields: object) -> Event:
        """The first line with all these fields, waiting for it; PoolerError when none comes."""
        return self._wait(lambda: self._find(fields), timeout, f"a log line with {fields}")

    # What it uses.

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "the pooler is not started"
        return self._process.pid

    @property
    def rss(self) -> int:
        """Resident memory, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise PoolerError(f"{self!r} has no memory: it ended")

    @property
    def cpu_seconds(self) -> float:
        """CPU time used so far by its process, user and system."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()  # the name before may hold spaces
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # Within.

    def _write(self, config: Config) -> None:
        """Replace the file as one, as an operator's tool does."""
        new = self.config_path.with_suffix(".new")
        new.write_text(yaml.safe_dump(config, sort_keys=False))
        new.replace(self.config_path)

    def _find(self, fields: Mapping[str, object]) -> Event | None:
        for event in self.log:
            if all(name in event and event[name] == value for name, value in fields.items()):
                return event
        return None

    def _wait(self, look: Callable[[], Event | None], timeout: float, what: str) -> Event:
        assert self._process is not None
        deadline = time.monotonic() + timeout
        while True:
            ended = self._process.poll() is not None  # before the look: its last words count
            if (event := look()) is not None:
                return event
            if ended:
                raise PoolerError(
                    f"waited for {what}, but {self!r} ended:\n{self.log_text[-2000:]}"
                )
            if time.monotonic() > deadline:
                raise PoolerError(f"waited {timeout} s for {what}")
            time.sleep(_POLL)

    def _address(self, event: str) -> tuple[str, int]:
        """The first TCP address of such an event, "HOST:PORT" or "[HOST]:PORT"."""
        for entry in self.log:
            if entry.get("event") == event and not entry["address"].startswith("/"):
                host, _, port = entry["address"].rpartition(":")
                return host.strip("[]"), int(port)
        return "", 0


def _parse(line: bytes) -> Event:
    text = line.decode(errors="replace").rstrip("\n")
    try:
        event = json.loads(text)
    except ValueError:
        return {"raw": text}
    return event if isinstance(event, dict) else {"raw": text}


def _is_bug(event: Event) -> bool:
    if "raw" in event:
        return str(event["raw"]).startswith("Traceback")
    severe = str(event.get("level", "")).lower() in ("error", "critical")
    return severe and event.get("event") == "bug"

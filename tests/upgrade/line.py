"""A pooler that is replaced by its successors: the tests follow it from process to process."""

import ctypes
import os
import re
import signal
import subprocess
import time
import urllib.request
from typing import Any

from tests.support.pooler import Event, Pooler

_PR_SET_CHILD_SUBREAPER = 36
UPGRADE_TIMEOUT = 30.0  # seconds


def adopt_orphans(adopts: bool, /) -> None:
    """Be the parent of processes whose own parent ends: else nobody could wait for a successor."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(adopts), 0, 0, 0)


class Successor:
    """A process that somebody else has started, as far as `Popen` is needed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return its status, None while it runs."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # its own parent is still there
                return None if os.path.exists(f"/proc/{self.pid}") else 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        end = time.monotonic() + (timeout or float("inf"))
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("pooler", timeout or 0.0)
            time.sleep(0.01)
        return status

    def terminate(self) -> None:
        """SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)


class Line(Pooler):
    """A pooler through its upgrades; `pid` is that of the process that serves."""

    _process: Any

    def console(self, command: str) -> list[tuple[Any, ...]]:
        """Give a command at the console; the rows that it answers."""
        with self.connect(dbname="pooler") as session:
            cursor = session.execute(command)
            return cursor.fetchall() if cursor.description else []

    def ask(self) -> int:
        """Ask for an upgrade; return how long the log was."""
        seen = len(self.log)
        self.signal(signal.SIGUSR2)
        return seen

    def event(self, seen: int, timeout: float = UPGRADE_TIMEOUT, **fields: object) -> Event:
        """Return the first event from there on that has these fields."""
        return self._wait(
            lambda: next(
                (
                    event
                    for event in self.log[seen:]
                    if all(event.get(name) == value for name, value in fields.items())
                ),
                None,
            ),
            timeout,
            f"a log line with {fields}",
        )

    def upgrade(self) -> Event:
        """Replace the process, and wait until the old one has ended, well."""
        seen = self.ask()
        event = self.event(seen, event="replaced")
        self.follow(event["successor"])
        return self.event(seen, event="upgraded")

    def follow(self, pid: int, expected: int = 0) -> None:
        """The pooler is another process now; the old one must end, and well."""
        old, self._process = self._process, Successor(pid)
        status = old.wait(UPGRADE_TIMEOUT)
        assert status == expected, f"the old process ended with status {status}"

    def close(self) -> None:
        """End it and judge; a successor that the test did not follow is ended, too."""
        strays = {event["successor"] for event in self.log if event.get("event") == "replaced"}
        try:
            super().close()
        finally:
            for pid in strays - {self.pid}:
                stray = Successor(pid)
                if stray.poll() is None:
                    stray.kill()
                    stray.wait(UPGRADE_TIMEOUT)


def metrics(line: Line) -> str:
    """What it tells Prometheus."""
    with urllib.request.urlopen(f"http://127.0.0.1:{line.metrics_port}/metrics") as answer:
        text: str = answer.read().decode()
        return text


def measured(line: Line, name: str) -> float:
    """The sum of what it tells Prometheus by this name, which may have labels."""
    pattern = rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$" if "{" not in name else name
    return sum(map(float, re.findall(pattern, metrics(line), re.MULTILINE)))

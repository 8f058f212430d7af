"""What is measured: PostgreSQL directly, PgBouncer, and the pooler in both of its builds."""

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

from pooler.embedded import free_port
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.processes import children
from tests.tls.certificates import Pair

ROOT = Path(__file__).parents[2]
BUILDS = ROOT / "build" / "bench"
USER = "app"
PGBOUNCER = "POOLER_BENCH_PGBOUNCER"
"""Names another PgBouncer than the one that is installed."""
CLIENTS = 11_000
"""Connections that each is to let in."""
_NOTHING: Mapping[str, object] = MappingProxyType({})
_CPU_CLOCK = 2  # CPUCLOCK_SCHED of linux/posix-timers.h: a process's CPU time, in nanoseconds


class Missing(Exception):
    """What cannot be measured here, and why."""


def family(pid: int) -> list[int]:
    """A process, and those that it has started: a pooler's workers, PostgreSQL's backends."""
    return [pid, *children(pid)]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children so far, those that have ended too; user and system."""
    seconds = _ended(pid)
    for each in family(pid):
        with contextlib.suppress(OSError):  # it has ended since
            seconds += time.clock_gettime((~each << 3) | _CPU_CLOCK)
    return seconds


def _ended(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise Missing(f"process {pid} has ended")


class Subject:
    """One of those who are compared, running."""

    def __init__(self, name: str, port: int, pid: int, version: str) -> None:
        self.name = name
        self.port = port
        self.pid = pid  # 0: not of one process
        self.version = version

    def url(self, **options: str) -> str:
        """A connection string."""
        query = "&".join(f"{key}={value}" for key, value in options.items())
        return f"postgresql://{USER}:{PASSWORDS[USER]}@127.0.0.1:{self.port}/bench?{query}"


def verifier(postgres: Postgres) -> str:
    """What PostgreSQL stores of the user's password."""
    rows = postgres.sql("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [USER])
    return str(rows[0][0])


def _pgbouncer_path() -> str:
    path = os.environ.get(PGBOUNCER) or shutil.which("pgbouncer", path=os.defpath + ":/usr/sbin")
    if not path:
        raise Missing(f"no pgbouncer is installed, and {PGBOUNCER} names none")
    return path


@contextlib.contextmanager
def pgbouncer(
    postgres: Postgres, folder: Path, pair: Pair, size: int, auth: str
) -> Iterator[Subject]:
    """A PgBouncer in front of `postgres`, set as ours is."""
    path = _pgbouncer_path()
    port = free_port()
    own = Pair(folder / "server.crt", folder / "server.key")  # of its own user
    pair.copy_to(own)
    users = folder / "userlist.txt"
    secret = verifier(postgres) if auth == "scram-sha-256" else PASSWORDS[USER]
    users.write_text(f'"{USER}" "{secret}"\n')
    database = f"host=127.0.0.1 port={postgres.port} dbname=bench password={PASSWORDS[USER]}"
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "auth_type": auth,
        "auth_file": users,
        "pool_mode": "transaction",
        "default_pool_size": size,
        "min_pool_size": size,
        "max_client_conn": CLIENTS,
        "logfile": folder / "pgbouncer.log",
        "unix_socket_dir": "",
        "client_tls_sslmode": "allow",
        "client_tls_cert_file": own.cert,
        "client_tls_key_file": own.key,
        "ignore_startup_parameters": "extra_float_digits",
        "log_connections": 0,
        "log_disconnections": 0,
    }
    version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout.split("\n")
    number = tuple(int(part) for part in version[0].split()[-1].split(".")[:2])
    if number >= (1, 21):
        settings["max_prepared_statements"] = 200
    file = folder / "pgbouncer.ini"
    lines = [f"{name} = {value}" for name, value in settings.items()]
    file.write_text("\n".join(["[databases]", f"bench = {database}", "[pgbouncer]", *lines, ""]))
    command = [path, str(file)]
    if os.getuid() == 0:
        for item in (folder, users, file, own.cert, own.key):
            shutil.chown(item, "postgres")
        command[1:1] = ["-u", "postgres"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield Subject("pgbouncer", port, process.pid, version[0])
    finally:
        process.terminate()
        process.wait(10)


def build(compiled: bool) -> Path:
    """Copy the sources apart, and compile the copy if need be; return its folder."""
    folder = BUILDS / ("compiled" if compiled else "interpreted")
    files = sorted((ROOT / "pooler").rglob("*.py"))
    wanted = "".join(f"{path} {path.stat().st_mtime_ns}\n" for path in files)
    stamp = folder / "stamp"
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("pooler", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
            archive.add(
                ROOT / name, name, filter=lambda item: None if item.name.endswith(".so") else item
            )
    packed.seek(0)
    with tarfile.open(fileobj=packed) as archive:
        archive.extractall(folder, filter="data")
    if compiled:
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        environment = {**os.environ, "POOLER_COMPILE": "yes"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise Missing(f"the compiled build: {done.stderr.strip().splitlines()[-1]}")
    stamp.write_text(wanted)
    return folder


class _Built(Pooler):
    """A pooler of one of the two copies."""

    command = (sys.executable, "-P", "-m", "pooler")  # -P: not the package of this folder


@contextlib.contextmanager
def ours(
    postgres: Postgres,
    folder: Path,
    pair: Pair,
    size: int,
    auth: str,
    compiled: bool,
    database: Mapping[str, object] = _NOTHING,
    **settings: object,
) -> Iterator[Subject]:
    """The pooler, with everything on that is on by default, and its metrics.

    `database` and `settings` are added to what the configuration says of it, and as a whole.
    """
    name = "compiled" if compiled else "interpreted"
    target = {
        "host": "127.0.0.1",
        "port": postgres.port,
        "dbname": "bench",
        "password": PASSWORDS[USER],
        "pool_size": size,
        "min_pool_size": size,
        **database,
    }
    config = {
        "listen": {"host": "127.0.0.1", "port": 0},
        "tls": {"cert_file": str(pair.cert), "key_file": str(pair.key)},
        "auth": {"type": auth},
        "users": {USER: {"password": verifier(postgres)}},
        "databases": {"bench": target},
        "limits": {"max_client_connections": CLIENTS},
        "metrics": {"listen": "127.0.0.1:0"},
        "logging": {"format": "json", "log_connections": False, "log_disconnections": False},
        **settings,
    }
    pooler = _Built(config, folder, environment={"PYTHONPATH": str(build(compiled))})
    pooler.start()
    try:
        assert pooler.log_contains(event="starting", build=name)
        yield Subject(name, pooler.port, pooler.pid, f"pooler {name}")
    finally:
        pooler.close()

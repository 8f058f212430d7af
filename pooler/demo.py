"""`pooler demo`: a PostgreSQL in a temporary folder, a pooler in front, and how to try them.

The pooler runs as a process of its own, just as in production; Ctrl-C ends both and leaves
nothing behind. Needs no more than this package and PostgreSQL's binaries.
"""

import argparse
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import yaml

from pooler.embedded import EmbeddedError, EmbeddedPostgres

HOST = "127.0.0.1"
PORT = 6432  # PgBouncer's
METRICS_PORT = 9127  # of PgBouncer's Prometheus exporter
POOL_SIZE = 5  # so few that sharing shows
_NAME = "demo"  # of the user, the password and the database

_PORT_ATTEMPTS = 100
_START_TIMEOUT = 30.0  # seconds
_LEAVE_TIMEOUT = 2.0  # seconds, after each signal; this is no place for patience
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoError(Exception):
    """What keeps the demo from running, in one line for the user."""


def run(args: argparse.Namespace) -> int:
    """Run until Ctrl-C or SIGTERM; the exit status. Takes `args.port` and `args.metrics`."""
    try:
        with _interruptible():
            _demo(args.port, args.metrics)
    except KeyboardInterrupt:
        print("\npooler demo: stopped, and everything is removed")
        return 0
    except (DemoError, EmbeddedError) as error:
        print(f"pooler demo: {error}", file=sys.stderr)
        return 1


def _demo(wanted_port: int | None, wanted_metrics: str | None) -> NoReturn:
    metrics_host, metrics_port = _split(wanted_metrics)
    print("pooler demo: starting PostgreSQL ...", flush=True)
    # The superuser's password stays with us: the port is open to all users of this machine.
    with EmbeddedPostgres(password=secrets.token_urlsafe()) as server:
        server.psql(
            f"CREATE ROLE {_NAME} LOGIN PASSWORD '{_NAME}';\nCREATE DATABASE {_NAME} OWNER {_NAME};"
        )
        port = choose_port(HOST, wanted_port, PORT)  # now, not a second before its use
        metrics = f"{metrics_host}:{choose_port(metrics_host, metrics_port, METRICS_PORT)}"
        config = {
            "listen": {"host": HOST, "port": port},
            "users": {_NAME: {"password": _NAME}},
            "databases": {_NAME: {"host": HOST, "port": server.port, "pool_size": POOL_SIZE}},
            "metrics": {"listen": metrics},
        }
        with _pooler(config, server.folder) as pooler:
            print(_guide(server, port, metrics), flush=True)
            raise DemoError(f"the pooler ended with status {pooler.wait()}")


@contextmanager
def _interruptible() -> Iterator[None]:
    """The first signal raises KeyboardInterrupt; later ones must not disturb the cleaning up."""

    def interrupt(*_: object) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _pooler(config: dict[str, object], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The pooler as a child process, from when it says that it is ready."""
    path = folder / "pooler.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(folder / "notify"))
        # Without POOLER_...: those would be taken for settings.
        inherited = {name: v for name, v in os.environ.items() if not name.startswith("POOLER_")}
        child = subprocess.Popen(
            [sys.executable, "-m", "pooler", path],
            env={**inherited, "NOTIFY_SOCKET": str(folder / "notify")},  # as systemd does
            start_new_session=True,  # Ctrl-C is ours
        )
        try:
            _wait_until_ready(child, notify)
            yield child
        finally:
            _end(child)


def _wait_until_ready(child: subprocess.Popen[bytes], notify: socket.socket) -> None:
    notify.settimeout(0.1)
    deadline = time.monotonic() + _START_TIMEOUT
    while child.poll() is None and time.monotonic() < deadline:
        try:
            if b"READY=1" in notify.recv(4096).splitlines():
                return
        except TimeoutError:
            continue
    raise DemoError("the pooler did not start; its log is above")


def _end(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM lets transactions finish, a second one does not, the rest is by force."""
    for end in (child.terminate, child.terminate, child.kill):
        end()
        try:
            child.wait(_LEAVE_TIMEOUT)
            return
        except subprocess.TimeoutExpired:
            continue


def _split(address: str | None) -> tuple[str, int | None]:
    """HOST:PORT; the port is None when there is no address."""
    if address is None:
        return HOST, None
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise DemoError(f"--metrics {address} is not HOST:PORT")
    return host, int(port)


def choose_port(host: str, wanted: int | None, default: int) -> int:
    """The port asked for, or the first free one from the default on, saying so."""
    if wanted is not None:
        if not _is_free(host, wanted):
            raise DemoError(f"port {wanted} of {host} is not free")
        return wanted
    for port in range(default, default + _PORT_ATTEMPTS):
        if _is_free(host, port):
            if port != default:
                print(f"pooler demo: port {default} is taken, using {port}")
            return port
    raise DemoError(f"no free port from {default} on")


def _is_free(host: str, port: int) -> bool:
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError:
        return False
    return True


def _guide(server: EmbeddedPostgres, port: int, metrics: str) -> str:
    url = f"postgresql://{_NAME}:{_NAME}@{HOST}:{port}/{_NAME}"
    psql, pgbench = _program("psql", server), _program("pgbench", server)
    script = f"import psycopg; print(psycopg.connect('{url}').execute('SELECT 1').fetchone())"
    return f"""
  A pooler with {POOL_SIZE} connections to a PostgreSQL of its own listens at

      {url}

  Try it:

      {psql} {url}
      {shlex.quote(sys.executable)} -c "{script}"
      {pgbench} -i -q {url}
      {pgbench} -c 50 -T 10 -P 1 {url}

  What it does, live: http://{metrics}/

  Ctrl-C ends it and removes everything.
"""


def _program(name: str, server: EmbeddedPostgres) -> str:
    """How to call it: by its name if it is on the PATH, else where the server's programs are."""
    return name if shutil.which(name) else shlex.quote(str(server.bin_dir / name))

"""When the new process fails, the old one has never stopped serving; when the old one is killed."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.adversity.witness import Census, Witness, login, until
from tests.support.postgres import Postgres
from tests.upgrade.conftest import StartLine
from tests.upgrade.line import Line


def children(pid: int) -> list[int]:
    """The processes that this one has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_bad_configuration_changes_nothing(start_line: StartLine) -> None:
    line = start_line()
    with Witness(line), socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        good = line.config
        for bad, words in (
            ({**good, "defaults": {"pool_size": "many"}}, "pool_size"),
            ({**good, "metrics": {"listen": f"127.0.0.1:{port}"}}, str(port)),
            ({**good, "listen": {"host": "127.0.0.1", "port": port}}, str(port)),
        ):
            line._write(bad)
            seen = line.ask()
            failure = line.event(seen, event="upgrade failed")
            assert words in failure["message"]
            with line.connect() as client:
                assert client.execute("SELECT 1").fetchone() == (1,)
        line._write(good)
        line.upgrade()


def test_a_successor_that_dies_before_it_serves(start_line: StartLine) -> None:
    line = start_line()
    with Witness(line):
        seen = line.ask()
        until(lambda: children(line.pid), 20)
        os.kill(children(line.pid)[0], signal.SIGKILL)
        failure = line.event(seen, event="upgrade failed")
        assert "ended before it was ready" in failure["message"]
        line.upgrade()


def test_a_successor_that_is_killed_while_clients_move(
    start_line: StartLine, postgres: Postgres
) -> None:
    """Those that it had are lost with it; the others, and whoever comes, are served as before."""
    line = start_line(databases={"*": {"pool_size": 3}})
    with Census(postgres, "app", limit=4), login(line) as stays, login(line) as moves:
        stays.values("BEGIN")
        seen = line.ask()
        successor = line.event(seen, event="replaced")["successor"]
        assert moves.values("SELECT 1") == [[b"1"]]
        os.kill(successor, signal.SIGKILL)
        gone = line.event(seen, event="the new process has gone")
        assert gone["lost"] >= 1
        assert moves.is_closed()
        assert stays.values("SELECT 1") == [[b"1"]]
        stays.values("COMMIT")
        with Witness(line):
            line.upgrade()
        assert stays.values("SELECT 2") == [[b"2"]]


def test_the_old_process_is_killed(start_line: StartLine) -> None:
    line = start_line(databases={"*": {"pool_size": 1}})
    with login(line) as stays, login(line) as moves:
        stays.values("BEGIN")
        seen = line.ask()
        successor = line.event(seen, event="replaced")["successor"]
        old = line.pid
        os.kill(old, signal.SIGKILL)
        line.follow(successor, expected=-signal.SIGKILL)
        line.event(seen, event="the old process was killed")
        line.event(seen, event="upgraded")
        assert stays.is_closed()
        assert moves.values("SELECT 1") == [[b"1"]]
        line.upgrade()


def ask(line: Line, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run `pooler upgrade`."""
    command = [sys.executable, "-m", "pooler", "upgrade", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def test_the_command_tells_the_outcome(start_line: StartLine, tmp_path: Path) -> None:
    path = tmp_path / "upgrade.sock"
    line = start_line(upgrade={"socket": str(path)})
    assert path.stat().st_mode & 0o777 == 0o600
    with Witness(line):
        seen = len(line.log)
        done = ask(line, str(line.config_path))
        assert done.returncode == 0, done.stderr
        pid = line.event(seen, event="replaced")["successor"]
        assert done.stdout == f"process {pid} serves\n"
        line.follow(pid)
        line.event(seen, event="upgraded")
        good = line.config
        bad = {**good, "databases": {"*": {"pool_size": -1, "host": "127.0.0.1"}}}
        broken = tmp_path / "socket.yaml"
        broken.write_bytes(line.config_path.read_bytes())
        line._write(bad)
        failed = ask(line, str(broken))
        assert failed.returncode == 1
        assert "pool_size" in failed.stderr
        line._write(good)
    assert ask(line, "--pid", "999999999").returncode == 1
    nobody = tmp_path / "nobody.yaml"
    text = line.config_path.read_text().replace("upgrade.sock", "nothing.sock")
    nobody.write_text(text)
    absent = ask(line, str(nobody))
    assert absent.returncode == 1
    assert "nothing.sock" in absent.stderr


def test_strangers_cannot_ask(start_line: StartLine, tmp_path: Path) -> None:
    """What is no request is refused, and an endless one cut off."""
    path = tmp_path / "upgrade.sock"
    line = start_line(upgrade={"socket": str(path)})
    for nonsense in (b"\n", b"{}\n", b'{"do": "end"}\n', b"x" * 100_000 + b"\n"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(path))
            sock.sendall(nonsense)
            assert b'"ok": false' in sock.recv(1000)
    with line.connect() as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(line.dsn(password="wrong"))

"""When the new process fails, the old one has never stopped serving; when the old one is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.adversity.witness import Census, Witness, goodbye, login, until
from tests.support import rawclient as raw
from tests.support.postgres import Postgres
from tests.support.processes import children
from tests.upgrade.conftest import StartLine
from tests.upgrade.line import measured


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
        until(lambda: children(line.pid))
        os.kill(children(line.pid)[0], signal.SIGKILL)
        failure = line.event(seen, event="upgrade failed")
        assert "ended before it was ready" in failure["message"]
        line.upgrade()


def test_a_successor_that_is_killed_while_clients_move(
    start_line: StartLine, postgres: Postgres, database: str
) -> None:
    """Those that it had are lost with it; the others, and whoever comes, are served as before."""
    line = start_line(databases={"*": {"pool_size": 3}})
    with Census(postgres, database, limit=4), login(line) as stays, login(line) as moves:
        stays.values("BEGIN")
        seen = line.ask()
        successor = line.event(seen, event="replaced")["successor"]
        until(lambda: measured(line, "pooler_client_connections") == 1)
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
        until(lambda: measured(line, "pooler_client_connections") == 1)
        old = line.pid
        os.kill(old, signal.SIGKILL)
        line.follow(successor, expected=-signal.SIGKILL)
        line.event(seen, event="the old process was killed")
        line.event(seen, event="upgraded")
        assert stays.is_closed()
        assert moves.values("SELECT 1") == [[b"1"]]
        line.upgrade()


def test_stopping_the_new_process_stops_the_old_one(start_line: StartLine) -> None:
    line = start_line()
    with login(line) as stays:
        stays.values("BEGIN")
        seen = line.ask()
        old, successor = line.pid, line.event(seen, event="replaced")["successor"]
        os.kill(successor, signal.SIGTERM)
        until(lambda: line.log_contains(event="stopping", clients=1))
        assert stays.values("SELECT 1") == [[b"1"]]
        stays.send(raw.query("COMMIT"))
        told = goodbye(stays, 20)
        assert told is not None
        assert told["C"] == "57P01"
        line.follow(successor)
        line.wait(20)
        assert not Path(f"/proc/{old}").exists()


def ask(*options: str) -> "subprocess.CompletedProcess[str]":
    """Run `pooler upgrade`."""
    command = [sys.executable, "-m", "pooler", "upgrade", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def test_the_command_tells_the_outcome(start_line: StartLine, tmp_path: Path) -> None:
    line = start_line(admin={"socket": str(tmp_path / "admin.sock")})
    where = ("--socket", str(tmp_path / "admin.sock"))
    with Witness(line):
        seen = len(line.log)
        done = ask(*where, "--json")
        assert done.returncode == 0, done.stderr
        pid = line.event(seen, event="replaced")["successor"]
        assert json.loads(done.stdout) == [{"pid": pid}]
        line.follow(pid)
        line.event(seen, event="upgraded")
        good = line.config
        line._write({**good, "defaults": {"pool_size": -1}})
        failed = ask(*where)
        assert failed.returncode == 1
        assert "pool_size" in failed.stderr
        line._write(good)


def test_what_operators_have_changed_stays_so(start_line: StartLine) -> None:
    """A pause, a disabled database, a SET."""
    line = start_line(admin={"users": ["app"]}, timeouts={"query_wait_notify": 0})

    with login(line) as client:
        client.values("SELECT 1")
        line.console("SET defaults.pool_size = 3")
        line.console("DISABLE other")
        line.console("PAUSE app")
        client.send(raw.query("SELECT 'after the pause'"))
        line.upgrade()
        assert client.is_silent()
        with pytest.raises(psycopg.OperationalError, match="disabled"):
            line.connect(dbname="other")
        line.console("RESUME app")
        assert raw.rows(client.read_until()) == [[b"after the pause"]]
        config = {name: value for name, value, *_ in line.console("SHOW CONFIG")}
        assert config["defaults.pool_size"] == "3"

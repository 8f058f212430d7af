"""Poolers with workers are replaced, also by poolers with another number of them."""

import os
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.adversity.witness import Census, Witness, login, until
from tests.support import rawclient as raw
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient
from tests.tls.certificates import Authority
from tests.upgrade.conftest import StartLine, sessions
from tests.upgrade.line import Line, measured

numbers = pytest.mark.parametrize(
    ("before", "after"), [(1, 2), (2, 1), pytest.param(3, 2, marks=pytest.mark.slow)]
)


def write(line: Line, **changes: Any) -> None:
    """Change the configuration of the next process."""
    line.config = {**line.config, **changes}
    line._write(line.config)


@numbers
def test_idle_clients_go_on(start_line: StartLine, before: int, after: int) -> None:
    line = start_line(workers=before)
    clients = []
    for number in range(8):
        client = line.connect(prepare_threshold=0)
        client.execute(f"SET my.own = '{number}'")
        client.execute("SELECT %s::int + 1", [number])
        clients.append(client)
    write(line, workers=after)
    with Witness(line):
        line.upgrade()
    for number, client in enumerate(clients):
        assert client.execute("SELECT current_setting('my.own')").fetchone() == (str(number),)
        assert client.execute("SELECT %s::int + 1", [number]).fetchone() == (number + 1,)
        client.close()


def test_under_load_whatever_the_number(
    start_line: StartLine, postgres: Postgres, database: str
) -> None:
    """Nobody is refused or gets a wrong answer, and the budget is one, all the way."""
    entry = {
        "host": postgres.host,
        "port": postgres.port,
        "dbname": database,
        "password": PASSWORDS["app"],
    }
    line = start_line(
        workers=1,
        auth={"type": "trust"},
        databases={"*": entry},
        defaults={"pool_size": 8},
        limits={"max_client_connections": 500},
        logging={"log_connections": False, "log_disconnections": False},
    )
    with (
        Census(postgres, database, limit=8),
        sessions(line, raw=60, psycopg=10, asyncpg=10) as finish,
    ):
        for number in (2, 3, 1):
            write(line, workers=number)
            line.upgrade()
        tally = finish()
    assert tally.answers > 50
    assert tally.logins > 1


def test_a_bad_configuration_changes_nothing(start_line: StartLine, tmp_path: Path) -> None:
    line = start_line(workers=2, listen={"unix_socket_dir": str(tmp_path)})
    (path,) = (path for path in tmp_path.iterdir() if path.name.startswith(".s.PGSQL."))
    unix_port = int(path.name.rpartition(".")[2])
    with Witness(line), socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        good = line.config
        for bad, words in (
            ({**good, "defaults": {"pool_size": "many"}}, "pool_size"),
            ({**good, "listen": {"host": "127.0.0.1", "port": port}}, str(port)),
            ({**good, "metrics": {"listen": f"127.0.0.1:{port}"}}, "worker 0"),
        ):
            line._write(bad)
            seen = line.ask()
            failure = line.event(seen, event="upgrade failed")
            assert words in failure["message"]
            with line.connect() as client:
                assert client.execute("SELECT 1").fetchone() == (1,)
            with RawClient(str(tmp_path), unix_port) as local:
                local.login("app", "app", PASSWORDS["app"])
        line._write(good)
        line.upgrade()


@pytest.mark.parametrize("after", [1, 2])
def test_a_successor_that_is_killed(
    start_line: StartLine, postgres: Postgres, database: str, after: int
) -> None:
    """Clients that it had are lost with it; the others, and whoever comes, are served as before."""
    line = start_line(workers=2, databases={"*": {"pool_size": 4}})
    write(line, workers=after)
    with Census(postgres, database, limit=5), ExitStack() as stack:
        busy = [stack.enter_context(login(line)) for _ in range(3)]
        for client in busy:
            client.values("BEGIN")
        rest = stack.enter_context(login(line))
        seen = line.ask()
        successor = line.event(seen, event="replaced")["successor"]
        until(lambda: measured(line, "pooler_client_connections") == 1, 20)
        os.kill(successor, signal.SIGKILL)
        gone = line.event(seen, event="the new process has gone")
        assert gone["lost"] == 1
        assert rest.is_closed()
        for client in busy:
            assert client.values("SELECT 1") == [[b"1"]]
            client.values("COMMIT")
        for _ in range(4):
            with line.connect() as another:
                assert another.execute("SELECT 1").fetchone() == (1,)
        with Witness(line):
            line.upgrade()
        for client in busy:
            assert client.values("SELECT 2") == [[b"2"]]


def test_the_old_supervisor_is_killed(start_line: StartLine) -> None:
    line = start_line(workers=2)
    with login(line) as stays, login(line) as moves:
        stays.values("BEGIN")
        seen = line.ask()
        successor = line.event(seen, event="replaced")["successor"]
        until(lambda: measured(line, "pooler_client_connections") == 1, 20)
        os.kill(line.pid, signal.SIGKILL)
        line.follow(successor, expected=-signal.SIGKILL)
        line.event(seen, event="the old process was killed")
        line.event(seen, event="upgraded")
        assert stays.is_closed()
        assert moves.values("SELECT 1") == [[b"1"]]
        line.upgrade()


@numbers
def test_limits_are_for_both(start_line: StartLine, before: int, after: int) -> None:
    """Those who stay with the old pooler count with those who come to the new one."""
    line = start_line(workers=before, limits={"max_client_connections": 4})
    write(line, workers=after)
    with ExitStack() as stack:
        clients = [stack.enter_context(login(line)) for _ in range(3)]
        for client in clients[:2]:
            client.values("BEGIN")
        seen = line.ask()
        successor = line.event(seen, event="replaced")["successor"]
        until(lambda: measured(line, "pooler_client_connections") == 1, 20)
        fourth = comes_in(line)  # as soon as who has moved counts once
        with pytest.raises(psycopg.OperationalError, match="max_client_connections"):
            line.connect()
        fourth.close()
        fourth = comes_in(line)
        for client in clients[:2]:
            client.values("COMMIT")
        line.follow(successor)
        line.event(seen, event="upgraded")
        with fourth, pytest.raises(psycopg.OperationalError, match="max_client_connections"):
            line.connect()
        comes_in(line).close()


def comes_in(line: Line) -> psycopg.Connection[Any]:
    """A client that is admitted, now or soon."""
    found: list[psycopg.Connection[Any]] = []

    def tries() -> bool:
        with suppress(psycopg.OperationalError):
            found.append(line.connect())
        return bool(found)

    until(tries, 20)
    return found[0]


@numbers
def test_cancels_and_commands_find_their_client(
    start_line: StartLine, postgres: Postgres, database: str, before: int, after: int
) -> None:
    def sleeps() -> bool:
        backends = [one for one in postgres.backends(database) if one["state"] == "active"]
        return any("pg_sleep" in one["query"] for one in backends)

    line = start_line(workers=before, admin={"users": ["app"]})
    write(line, workers=after)
    with ExitStack() as stack:
        clients = [stack.enter_context(login(line)) for _ in range(6)]
        for client in clients[:3]:
            client.values("BEGIN")
        seen = line.ask()
        successor = line.event(seen, event="replaced")["successor"]
        until(lambda: measured(line, "pooler_client_connections") == 3, 20)
        for client in clients:
            client.send(raw.query("SELECT pg_sleep(60)"))
            until(sleeps, 20)
            with RawClient(line.host, line.port) as canceller:
                canceller.send(raw.cancel_request(client.pid, client.key))
                assert canceller.is_closed()
            told = raw.error_fields(next(b for k, b in client.read_until() if k == b"E"))
            assert told["C"] == "57014"
        for client in clients[:3]:
            client.values("ROLLBACK")
        line.follow(successor)
        line.event(seen, event="upgraded")
        with line.connect(dbname="pooler") as console:
            shown = console.cursor(row_factory=dict_row).execute("SHOW CLIENTS").fetchall()
            idents = [row["id"] for row in shown if row["database"] == "app"]
            assert len(set(idents)) == 6
            for ident in idents:
                console.execute(f"KILL_CLIENT {ident}")
        assert all(client.is_closed() for client in clients)


def test_what_operators_have_changed_stays_so(start_line: StartLine) -> None:
    """A pause, a disabled database, a SET; asked for at a worker's console."""
    line = start_line(workers=2, admin={"users": ["app"]}, timeouts={"query_wait_notify": 0})

    with login(line) as client:
        client.values("SELECT 1")
        line.console("SET defaults.pool_size = 3")
        line.console("DISABLE other")
        line.console("PAUSE app")
        client.send(raw.query("SELECT 'after the pause'"))
        seen = len(line.log)
        ((pid,),) = line.console("UPGRADE")
        line.follow(int(pid))
        line.event(seen, event="upgraded")
        assert client.is_silent()
        with pytest.raises(psycopg.OperationalError, match="disabled"):
            line.connect(dbname="other")
        config = {name: value for name, value, *_ in line.console("SHOW CONFIG")}
        assert config["defaults.pool_size"] == "3"
        line.console("RESUME app")
        assert raw.rows(client.read_until()) == [[b"after the pause"]]


@numbers
def test_who_listens_hears_all_of_it_once(start_line: StartLine, before: int, after: int) -> None:
    line = start_line(
        workers=before,
        auth={"type": "trust"},
        databases={"*": {"pool_size": 4}},
        logging={"log_connections": False, "log_disconnections": False},
    )
    write(line, workers=after)
    with sessions(line, raw=4, psycopg=0, asyncpg=0, listeners=8) as finish:
        line.upgrade()
        tally = finish()
    assert tally.told > 20


def farewell(client: psycopg.Connection[Any]) -> str:
    """What a client is told that asks on and on, until it is sent away."""
    while True:
        try:
            client.execute("SELECT 1")
        except psycopg.errors.AdminShutdown as error:
            return str(error)


def test_tls_clients_stay_and_are_told_in_the_end(start_line: StartLine, tmp_path: Path) -> None:
    certificate = Authority(tmp_path).issue("pooler")
    line = start_line(
        workers=2,
        tls={"cert_file": str(certificate.cert), "key_file": str(certificate.key)},
        upgrade={"timeout": "500ms"},
    )
    with line.connect(sslmode="require") as stays, line.connect(sslmode="disable") as moves:
        seen = line.ask()
        successor = line.event(seen, event="replaced")["successor"]
        assert "has replaced this one" in farewell(stays)
        line.follow(successor)
        line.event(seen, event="upgraded")
        assert moves.execute("SELECT 1").fetchone() == (1,)

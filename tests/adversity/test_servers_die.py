"""Backends that die and a PostgreSQL that is away: one error for whom it hits, none for others."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import psycopg
import pytest

from tests.adversity.conftest import POOL_SIZE
from tests.adversity.witness import Census, Witness, goodbye, login, until
from tests.conftest import RunWithConfig
from tests.support import rawclient
from tests.support.faultproxy import reset
from tests.support.pooler import Pooler
from tests.support.postgres import Postgres
from tests.support.rawclient import RawClient, ServerError


def _pid(client: RawClient) -> int:
    return int(client.values("SELECT pg_backend_pid()")[0][0] or 0)


def _idle(client: RawClient) -> None:
    client.query("BEGIN")


def _at_work(client: RawClient) -> None:
    client.query("BEGIN")
    client.send(rawclient.query("SELECT pg_sleep(60)"))


def _copying_in(client: RawClient) -> None:
    client.query("BEGIN")
    client.send(rawclient.query("COPY t FROM STDIN"))
    client.read_until(b"G")
    client.send(rawclient.copy_data(b"1\n"))


def _in_a_pipeline(client: RawClient) -> None:
    client.query("BEGIN")
    client.send(rawclient.parse("SELECT 1"), rawclient.flush())
    client.read_until(b"1")


@pytest.mark.parametrize("phase", [_idle, _at_work, _copying_in, _in_a_pipeline])
def test_a_backend_dies_in_a_transaction(
    shared: Pooler, postgres: Postgres, database: str, phase: Callable[[RawClient], None]
) -> None:
    with Witness(shared, database), login(shared, database) as client:
        client.query("BEGIN")
        pid = _pid(client)
        client.query("COMMIT")
        client.query("BEGIN")
        pid = _pid(client)
        phase(client)
        postgres.sql("SELECT pg_terminate_backend(%s)", (pid,))
        error = client.read_until(b"E", 2)[-1]
        fields = rawclient.error_fields(error[1])
        assert (fields["S"], fields["C"]) == ("FATAL", "57P01")
        assert goodbye(client) is None  # once


def test_idle_backends_die_unnoticed(shared: Pooler, postgres: Postgres, database: str) -> None:
    with Census(postgres, database, POOL_SIZE):
        clients = [login(shared, database) for _ in range(POOL_SIZE)]
        for client in clients:
            client.query("BEGIN")
        for client in clients:
            client.query("COMMIT")
        for _ in range(10):
            before = {backend["pid"] for backend in postgres.backends(database)}
            postgres.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                (database,),
            )
            until(
                lambda before=before: (
                    not before  # type: ignore[misc]
                    & {backend["pid"] for backend in postgres.backends(database)}
                )
            )
            time.sleep(0.05)
            for client in clients:
                assert client.values("SELECT 1") == [[b"1"]]
        for client in clients:
            client.close()


def test_backends_die_under_load(shared: Pooler, postgres: Postgres, database: str) -> None:
    """Each client gets right answers, or one error and the end of its connection."""
    stop = threading.Event()
    wrong: list[BaseException] = []
    answers: list[int] = []
    codes: set[str | None] = set()

    def run(seed: int) -> None:
        number = seed * 1_000_000
        try:
            while not stop.is_set():
                try:
                    with shared.connect(dbname=database) as connection:
                        while not stop.is_set():
                            number += 1
                            row = connection.execute("SELECT %s::int", (number,)).fetchone()
                            assert row == (number,)
                            answers.append(number)
                except psycopg.OperationalError as error:
                    codes.add(error.sqlstate)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    with Census(postgres, database, POOL_SIZE):
        for thread in threads:
            thread.start()
        with postgres.connect() as killer:
            for _ in range(40):
                killer.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = %s ORDER BY random() LIMIT 1",
                    (database,),
                )
                time.sleep(0.025)
        stop.set()
        for thread in threads:
            thread.join(10)
    assert not wrong
    assert len(answers) > 100
    assert codes <= {"57P01", "08006", None}
    assert not shared.log_contains(event="bug")


# PostgreSQL as a whole.


def _config(postgres: Postgres) -> dict[str, object]:
    return {"*": {"host": postgres.host, "port": postgres.port, "pool_size": POOL_SIZE}}


def test_a_backend_is_killed_and_all_restart(
    run_with_config: RunWithConfig, own_postgres: Postgres
) -> None:
    pooler = run_with_config(databases=_config(own_postgres))
    with login(pooler) as idle, login(pooler) as busy, login(pooler) as hit:
        busy.query("BEGIN")
        hit.query("BEGIN")
        os.kill(_pid(hit), signal.SIGKILL)
        for client in (busy, hit):
            error = goodbye(client)
            assert error is not None
            assert error["C"] in ("08006", "57P02")
        idle.send(rawclient.query("SELECT 'back'"))
        assert rawclient.rows(idle.read_until(timeout=10)) == [[b"back"]]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart(
    run_with_config: RunWithConfig, own_postgres: Postgres, mode: Literal["fast", "immediate"]
) -> None:
    pooler = run_with_config(databases=_config(own_postgres))
    with login(pooler) as idle, login(pooler) as waiting, login(pooler) as busy:
        assert idle.values("SELECT 1") == [[b"1"]]
        busy.query("BEGIN")
        own_postgres.stop(mode)
        assert goodbye(busy) is not None
        waiting.send(rawclient.query("SELECT 'served'"))
        with login(pooler) as late:  # what a login needs is known
            late.send(rawclient.query("SELECT 'late'"))
            assert waiting.is_silent(0.3)
            own_postgres.start()
            assert rawclient.rows(waiting.read_until()) == [[b"served"]]
            assert rawclient.rows(late.read_until()) == [[b"late"]]
        assert idle.values("SELECT 2") == [[b"2"]]


def test_the_servers_own_refusal(run_with_config: RunWithConfig, own_postgres: Postgres) -> None:
    databases = _config(own_postgres)
    pooler = run_with_config(
        databases={
            **databases,
            "wrong": {
                "host": own_postgres.host,
                "port": own_postgres.port,
                "dbname": "app",
                "user": "app",
                "password": "wrong",
            },
        },
    )
    for name, code in (("nosuch", "3D000"), ("wrong", "28P01")):
        with pytest.raises(ServerError) as refusal:
            login(pooler, name)
        assert refusal.value.fields["C"] == code

    name = own_postgres.create_database()
    with login(pooler, name) as client:
        assert client.values("SELECT 1") == [[b"1"]]
        own_postgres.drop_database(name)
        pooler.wait_for_log(event="server closed", database=name)
        with pytest.raises(ServerError) as gone:
            client.values("SELECT 1")
        assert gone.value.fields["C"] == "3D000"
        with pytest.raises(ServerError) as gone:  # it is told again, and not dropped
            client.values("SELECT 1")
        assert gone.value.fields["C"] == "3D000"


def test_too_many_connections(run_with_config: RunWithConfig, own_postgres: Postgres) -> None:
    own_postgres.sql("ALTER ROLE app CONNECTION LIMIT 1")
    pooler = run_with_config(databases=_config(own_postgres))
    with psycopg.connect(own_postgres.dsn("app", "app")):
        with pytest.raises(ServerError) as refusal:
            login(pooler)
        assert refusal.value.fields["C"] == "53300"
    until(lambda: not own_postgres.backends("app"))
    with login(pooler) as first, login(pooler) as second:
        first.query("BEGIN")
        second.send(rawclient.query("SELECT 'second'"))
        assert second.is_silent(0.3)  # one connection is to be had: they take turns
        first.query("COMMIT")
        assert rawclient.rows(second.read_until()) == [[b"second"]]


@contextmanager
def _host(kind: str) -> Iterator[int]:
    """The port of a host that accepts and says nothing, resets, or is not there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        if kind == "absent":
            listener.close()
        stop = threading.Event()
        taken: list[socket.socket] = []

        def accept() -> None:
            listener.settimeout(0.05)
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                if kind == "resetting":
                    reset(connection)
                taken.append(connection)

        thread = threading.Thread(target=accept)
        if kind != "absent":
            thread.start()
        try:
            yield port
        finally:
            stop.set()
            if kind != "absent":
                thread.join()
            for connection in taken:
                connection.close()


@pytest.mark.parametrize(
    ("kind", "balance"),
    [
        ("silent", "round-robin"),
        ("resetting", "disable"),
        pytest.param("silent", "disable", marks=pytest.mark.slow),
        pytest.param("resetting", "round-robin", marks=pytest.mark.slow),
        ("absent", "round-robin"),
    ],
)
def test_a_host_that_is_no_use(
    run_with_config: RunWithConfig, postgres: Postgres, kind: str, balance: str
) -> None:
    with _host(kind) as port:
        pooler = run_with_config(
            timeouts={"server_connect_timeout": 0.3, "query_wait_timeout": 1},
            databases={
                "*": {
                    "host": [f"127.0.0.1:{port}", f"{postgres.host}:{postgres.port}"],
                    "load_balance_hosts": balance,
                },
                "dead": {"host": "127.0.0.1", "port": port, "dbname": "app"},
            },
        )
        with login(pooler) as client:
            assert client.values("SELECT 1") == [[b"1"]]
        with pytest.raises(ServerError) as refusal:
            login(pooler, "dead")
        assert refusal.value.fields["C"] in ("08001", "08006")
        pooler.wait_for_log(event="server connection failed")


def test_a_postmaster_that_stands_still(
    run_with_config: RunWithConfig, own_postgres: Postgres
) -> None:
    pooler = run_with_config(
        databases=_config(own_postgres), timeouts={"server_connect_timeout": 0.5}
    )
    with login(pooler) as client:
        os.kill(own_postgres.pid, signal.SIGSTOP)
        try:
            with Witness(pooler):  # its one server is there
                client.query("BEGIN")
                with login(pooler) as other:
                    pooler.wait_for_log(event="server connection failed", sqlstate="08001")
                    other.close()
                client.query("COMMIT")
        finally:
            os.kill(own_postgres.pid, signal.SIGCONT)
        client.query("BEGIN")
        with login(pooler) as other:
            assert other.values("SELECT 1") == [[b"1"]]

"""A client dies, in every phase and in every way: nothing of it stays, nobody else notices."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from _pytest.mark import ParameterSet

from tests.adversity.conftest import POOL_SIZE
from tests.adversity.witness import Census, Witness, login, until
from tests.conftest import RunWithConfig
from tests.support import rawclient
from tests.support.faultproxy import reset
from tests.support.pooler import Pooler
from tests.support.postgres import Postgres
from tests.support.rawclient import RawClient

GONE = 30.0  # seconds in which a dead client's locks and transactions have to go, also under load


# Ways to die.


def killed(client: RawClient) -> None:
    """The process that holds the connection gets a SIGKILL."""
    process = subprocess.Popen(["sleep", "60"], pass_fds=[client.socket.fileno()])
    client.close()
    process.kill()
    process.wait()


def reset_away(client: RawClient) -> None:
    """The connection ends with a RST."""
    reset(client.socket)


def closed(client: RawClient) -> None:
    """The connection ends with a FIN, without a Terminate."""
    client.close()


WAYS = [killed, reset_away, closed]


# Phases: each brings a client there; its server is then found by the word "victim".


def mid_query(client: RawClient) -> None:
    client.send(rawclient.query("/* victim */ INSERT INTO t SELECT 1 FROM pg_sleep(60)"))


def in_transaction(client: RawClient) -> None:
    client.query("BEGIN")
    client.query("/* victim */ INSERT INTO t VALUES (1)")
    assert client.status == b"T"


def query_in_transaction(client: RawClient) -> None:
    in_transaction(client)
    mid_query(client)


def failed_transaction(client: RawClient) -> None:
    in_transaction(client)
    client.query("/* victim */ SELECT 1/0")
    assert client.status == b"E"


def copy_in_between(client: RawClient) -> None:
    client.send(rawclient.query("/* victim */ COPY t FROM STDIN"))
    client.read_until(b"G")
    client.send(rawclient.copy_data(b"1\n2\n"))


def copy_in_within(client: RawClient) -> None:
    copy_in_between(client)
    client.send(rawclient.copy_data(b"3\n" * 100)[:-50])


def copy_in_within_by_a_little(client: RawClient) -> None:
    # What ends the session must not be read as the rest of this message.
    copy_in_between(client)
    client.send(rawclient.copy_data(b"3\n")[:-2])


def copy_in_extended(client: RawClient) -> None:
    client.send(
        rawclient.parse("/* victim */ COPY t FROM STDIN"),
        rawclient.bind(),
        rawclient.execute(),
        rawclient.sync(),
    )
    client.read_until(b"G")
    client.send(rawclient.copy_data(b"1\n"))


def copy_out(client: RawClient) -> None:
    client.send(
        rawclient.query(
            "/* victim */ COPY (SELECT repeat('x', 1000) FROM generate_series(1, 10000000))"
            " TO STDOUT"
        )
    )
    client.read_until(b"d")


def rows(client: RawClient) -> None:
    client.send(
        rawclient.query("/* victim */ SELECT repeat('x', 1000) FROM generate_series(1, 10000000)")
    )
    client.read_until(b"D")


def pipeline(client: RawClient) -> None:
    # Done but for the Sync, which alone would commit it.
    client.send(
        rawclient.parse("/* victim */ INSERT INTO t VALUES (1)"),
        rawclient.bind(),
        rawclient.execute(),
        rawclient.flush(),
    )
    client.read_until(b"C")


def failed_pipeline(client: RawClient) -> None:
    pipeline(client)
    client.send(rawclient.parse("/* victim */ nonsense"), rawclient.flush())
    client.read_until(b"E")


def running_pipeline(client: RawClient) -> None:
    insert = (
        rawclient.parse("/* victim */ INSERT INTO t SELECT 1 FROM pg_sleep(0.3)"),
        rawclient.bind(),
        rawclient.execute(),
    )
    client.send(*insert * 100)


def message_in_transaction(client: RawClient) -> None:
    # Its last two bytes are missing: whatever else the server got would complete it.
    in_transaction(client)
    client.send(rawclient.query("DELETE FROM t WHERE n < 10")[:-2])


CLEAN: list[Callable[[RawClient], None]] = [
    mid_query,
    in_transaction,
    query_in_transaction,
    failed_transaction,
    copy_in_between,
    copy_out,
    rows,
    pipeline,
    failed_pipeline,
    running_pipeline,
]
SPENT: list[Callable[[RawClient], None]] = [
    copy_in_extended,  # whether the server has read the Sync cannot be known
    copy_in_within,
    copy_in_within_by_a_little,
    message_in_transaction,
]


def _name(thing: Callable[..., None]) -> str:
    return thing.__name__


def _phases_and_ways() -> Iterator[ParameterSet]:
    """All of them; the normal run takes two ways of each phase."""
    for number, phase in enumerate([*CLEAN, *SPENT]):
        for turn, way in enumerate(WAYS):
            marks = [pytest.mark.slow] if (number + turn) % 3 == 2 else []
            yield pytest.param(phase, way, marks=marks, id=f"{_name(phase)}-{_name(way)}")


@pytest.mark.parametrize(("phase", "way"), list(_phases_and_ways()))
def test_nothing_stays_of_a_dead_client(
    shared: Pooler,
    postgres: Postgres,
    database: str,
    phase: Callable[[RawClient], None],
    way: Callable[[RawClient], None],
) -> None:
    with (
        postgres.connect(dbname=database) as look,
        Witness(shared, database),
        Census(postgres, database, POOL_SIZE + 1),
    ):

        def victims() -> list[tuple[int, str]]:
            return look.execute(
                "SELECT pid, state FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND query LIKE '/* victim */%'"
                " AND state <> 'idle'"
            ).fetchall()

        def locks(pid: int) -> list[tuple[object, ...]]:
            return look.execute(
                "SELECT locktype FROM pg_locks WHERE pid = %s AND locktype = 'relation'"
                " AND relation = 't'::regclass",
                (pid,),
            ).fetchall()

        client = login(shared, database)
        phase(client)
        until(lambda: len(victims()) == 1, what="the victim's query is seen")
        [(pid, _)] = victims()
        way(client)
        until(lambda: not victims(), GONE, f"its server is idle again: {victims()}")
        until(lambda: not locks(pid), GONE, "its locks are gone")
        assert look.execute("SELECT count(*) FROM t").fetchone() == (0,)

        if phase in CLEAN:  # the same server connection serves on
            with ExitStack() as stack:  # as many as there may be: it is not replaced by another
                found: set[int] = set()
                for _ in range(POOL_SIZE):
                    other = stack.enter_context(login(shared, database))
                    other.query("BEGIN")
                    found.add(int(other.values("SELECT pg_backend_pid()")[0][0] or 0))
                assert pid in found
    assert not shared.log_contains(event="bug")


@pytest.mark.parametrize("way", WAYS, ids=_name)
def test_a_client_that_dies_waiting_is_never_served(
    shared: Pooler, postgres: Postgres, database: str, way: Callable[[RawClient], None]
) -> None:
    holders = [login(shared, database) for _ in range(POOL_SIZE)]
    for holder in holders:
        holder.query("BEGIN")
    dead, alive = login(shared, database), login(shared, database)
    dead.send(rawclient.query("INSERT INTO t VALUES (1)"))
    assert dead.is_silent(0.05)
    alive.send(rawclient.query("SELECT 'alive'"))
    way(dead)
    time.sleep(0.1)
    pids = {backend["pid"] for backend in postgres.backends(database)}
    for holder in holders:
        holder.query("COMMIT")
    assert rawclient.rows(alive.read_until()) == [[b"alive"]]
    assert postgres.sql("SELECT count(*) FROM t", db=database) == [(0,)]
    assert {backend["pid"] for backend in postgres.backends(database)} == pids
    for client in (*holders, alive):
        client.close()


@pytest.mark.parametrize("way", WAYS, ids=_name)
@pytest.mark.parametrize("size", [0, 1, 4, 8, 20])
def test_a_client_that_dies_during_its_login(
    shared: Pooler, database: str, size: int, way: Callable[[RawClient], None]
) -> None:
    with Witness(shared, database):
        for _ in range(5):
            client = RawClient(shared.host, shared.port)
            packet = rawclient.startup_packet({"user": "app", "database": database})
            client.send(packet[: size or len(packet)])
            if not size:
                client.read_until(b"R")  # the SASL challenge
            way(client)
    assert not shared.log_contains(event="bug")


def test_a_copy_whose_client_dies_before_it_starts(
    shared: Pooler, postgres: Postgres, database: str
) -> None:
    # The server waits for data from somebody who left before it asked for them: a cancel
    # does not wake it, only a CopyFail does.
    with postgres.connect(dbname=database) as look, Witness(shared, database):
        for _ in range(20):
            client = login(shared, database)
            client.send(rawclient.query("/* victim */ COPY t FROM STDIN"))
            client.close()
        until(
            lambda: (
                not look.execute(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND query LIKE '/* victim */%'"
                    " AND state <> 'idle'"
                ).fetchall()
            ),
            GONE,
            "no COPY waits for a dead client",
        )


@pytest.mark.parametrize("missing", [1, 2, 5, 6])
def test_a_query_without_its_end_is_never_run(
    shared: Pooler, postgres: Postgres, database: str, missing: int
) -> None:
    # Too long to be awaited whole, so that most of it is at the server; two bytes of a Terminate
    # would end its comment and its text.
    sql = f"INSERT INTO t VALUES (1) -- {'x' * 200_000}"
    with Witness(shared, database), login(shared, database) as client:
        client.send(rawclient.query(sql)[:-missing])
        time.sleep(0.1)
        client.close()
        pid = shared.wait_for_log(event="server closed", database=database)["pid"]
        until(lambda: pid not in [backend["pid"] for backend in postgres.backends(database)])
    assert postgres.sql("SELECT count(*) FROM t", db=database) == [(0,)]


def test_a_client_that_dies_while_its_copy_waits_for_a_lock(
    shared: Pooler, postgres: Postgres, database: str
) -> None:
    # Nothing more is read from it by then, for its server is full. A FIN would come behind the
    # bytes that its kernel cannot send, so that only a RST can be noticed.
    with postgres.connect(dbname=database) as blocker, Witness(shared, database):
        blocker.execute("BEGIN; LOCK TABLE t")
        client = login(shared, database)
        client.send(rawclient.query("/* victim */ COPY t FROM STDIN"))
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.send(rawclient.copy_data(b"1\n" * 5000) * 5000)
        reset_away(client)
        until(
            lambda: (
                not postgres.sql(
                    "SELECT 1 FROM pg_stat_activity WHERE query LIKE '/* victim */%%'"
                    " AND state <> 'idle' AND datname = %s",
                    (database,),
                )
            ),
            GONE,
            "its COPY has ended",
        )


def test_half_closed_is_gone(shared: Pooler, postgres: Postgres, database: str) -> None:
    with login(shared, database) as client:
        client.query("BEGIN")
        client.query("INSERT INTO t VALUES (1)")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed(2)
    until(lambda: all(b["state"] == "idle" for b in postgres.backends(database)))


def test_no_limit_is_no_limit_of_zero(
    run_with_config: RunWithConfig, postgres: Postgres, database: str
) -> None:
    pooler = run_with_config(
        timeouts={"server_connect_timeout": 0, "cancel_wait_timeout": 0},
        databases={"*": {"connect_query": "SELECT pg_sleep(0.3)", "pool_size": 1}},
    )
    with login(pooler, database) as client, login(pooler, database) as dead:
        [[pid]] = client.values("SELECT pg_backend_pid()")
        dead.query("BEGIN")
        dead.send(rawclient.query("SET statement_timeout = 0; SELECT pg_sleep(60)"))
        time.sleep(0.1)
        dead.close()
        assert client.values("SELECT pg_backend_pid()") == [[pid]]

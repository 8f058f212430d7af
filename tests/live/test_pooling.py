"""Pools: how many servers there are, who gets one, when one leaves."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest

from tests.conftest import RunWithConfig
from tests.live.conftest import Login, SharedPooler
from tests.live.crowds import crowd
from tests.support import rawclient as raw
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient, ServerError
from tests.support.waiting import wait_until

COUNT = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = %s AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


@contextmanager
def counting(postgres: Postgres, database: str) -> Iterator[Callable[[], int]]:
    """A function that says how many backends a database has, asking over one connection."""
    with postgres.connect() as connection:

        def count() -> int:
            row = connection.execute(COUNT, [database], prepare=True).fetchone()
            assert row is not None
            return int(row[0])

        yield count


def pid_of(client: RawClient) -> int:
    """The server process that answers this client now."""
    ((pid,),) = client.values("SELECT pg_backend_pid()")
    return int(pid or 0)


def begin(client: RawClient) -> int:
    """Start a transaction; the server that holds it."""
    client.query("BEGIN")
    return pid_of(client)


def ask(client: RawClient, sql: str = "SELECT 1") -> None:
    """Send a query without waiting for the answer."""
    client.send(raw.query(sql))


def error_of(messages: list[raw.Message]) -> dict[str, str]:
    """The fields of the one error among the messages."""
    (fields,) = [raw.error_fields(body) for kind, body in messages if kind == b"E"]
    return fields


# Size.


def test_many_clients_share_ten_servers(
    run_with_config: RunWithConfig,
    postgres: Postgres,
    make_database: Callable[[], str],
) -> None:
    """Every answer belongs to its question, and there is never an eleventh connection."""
    database = make_database()
    pooler = run_with_config(
        auth={"type": "trust"},
        databases={"*": {"pool_size": 10, "server_lifetime": 0.5}},
        logging={"log_connections": False, "log_disconnections": False},
    )
    seen: list[int] = []
    with (
        counting(postgres, database) as count,
        crowd(pooler, database, clients=500, seconds=4) as clients,
    ):
        while clients.busy:
            seen.append(count())
        tally = clients.finish()
    assert max(seen) == 10
    assert len(seen) > 50
    assert tally.logins >= 500
    assert tally.answers > 1000
    assert tally.errors_wanted > 0


def test_min_pool_size_is_warm_from_the_start(
    run_with_config: RunWithConfig, postgres: Postgres, make_database: Callable[[], str]
) -> None:
    database = make_database()
    entry = {"host": postgres.host, "port": postgres.port, "user": "app", "min_pool_size": 3}
    run_with_config(databases={database: entry})
    with counting(postgres, database) as count:
        wait_until(lambda: count() == 3)
        for backend in postgres.backends(database)[:2]:
            postgres.sql("SELECT pg_terminate_backend(%s)", [backend["pid"]])
        wait_until(lambda: count() == 3)


def test_reserve_after_its_timeout(
    shared_pooler: SharedPooler, login: Login, postgres: Postgres
) -> None:
    pooler = shared_pooler(
        databases={"*": {"pool_size": 1, "reserve_pool_size": 1, "reserve_pool_timeout": 0.3}}
    )
    first, second, third = (login(at=pooler) for _ in range(3))
    pids = {begin(first)}
    started = time.monotonic()
    pids.add(begin(second))
    assert time.monotonic() - started >= 0.3
    assert len(pids) == 2
    ask(third)
    assert third.is_silent(0.6)
    first.query("COMMIT")
    assert raw.rows(third.read_until()) == [[b"1"]]
    second.query("COMMIT")


def test_first_come_first_served(shared_pooler: SharedPooler, login: Login) -> None:
    pooler = shared_pooler(databases={"*": {"pool_size": 1}})
    holder = login(at=pooler)
    waiting = [login(at=pooler) for _ in range(5)]
    holder.query("CREATE SEQUENCE place")
    holder.query("BEGIN")
    for client in waiting:
        ask(client, "SELECT nextval('place')")
        client.is_silent(0.02)
    holder.query("COMMIT")
    assert [raw.rows(client.read_until()) for client in waiting] == [
        [[b"%d" % place]] for place in range(1, 6)
    ]
    holder.query("DROP SEQUENCE place")


def test_last_in_first_out_and_round_robin(shared_pooler: SharedPooler, login: Login) -> None:
    for round_robin in (False, True):
        pooler = shared_pooler(databases={"*": {"server_round_robin": round_robin}})
        clients = [login(at=pooler) for _ in range(3)]
        pids = {begin(client) for client in clients}
        assert len(pids) == 3
        for client in clients:
            client.query("COMMIT")
        used = {pid_of(clients[0]) for _ in range(6)}
        assert used == pids if round_robin else len(used) == 1


# Limits.


def test_max_client_connections(run_with_config: RunWithConfig, login: Login) -> None:
    pooler = run_with_config(
        limits={"max_client_connections": 4},
        databases={"*": {"max_client_connections": 2}},
        users={"app": {"max_client_connections": 2}},
    )
    kept = [("app", "app"), ("app", "other"), ("alice", "app"), ("alice", "other")]
    first, *clients = [login(*who, at=pooler) for who in kept[:2]]
    with pytest.raises(ServerError, match='of user "app"') as error:
        login("app", "third", at=pooler)
    assert error.value.fields["C"] == "53300"
    clients.append(login(*kept[2], at=pooler))
    with pytest.raises(ServerError, match='of database "app"') as error:
        login("bob", "app", at=pooler)
    assert error.value.fields["C"] == "53300"
    clients.append(login(*kept[3], at=pooler))
    with pytest.raises(ServerError, match=r"\(max_client_connections\)") as error:
        login("bob", "third", at=pooler)
    assert error.value.fields["C"] == "53300"
    first.send(raw.terminate())
    assert first.is_closed()
    login("bob", "app", at=pooler)  # in its place


@pytest.mark.parametrize("kind", ["global", "database", "user"])
def test_max_server_connections_gives_up_idle_ones(
    run_with_config: RunWithConfig,
    login: Login,
    postgres: Postgres,
    make_database: Callable[[], str],
    kind: str,
) -> None:
    """Two pools under one limit of two servers: the idle server of one makes room."""
    one, two = make_database(), make_database()
    overrides: dict[str, dict[str, Any]] = {
        "global": {"limits": {"max_server_connections": 2}},
        "user": {"users": {"app": {"max_server_connections": 2}}},
        "database": {"databases": {"*": {"max_server_connections": 2}}},
    }
    where = [("app", one), ("app", one)]
    where += {"database": [("alice", one)], "user": [("app", two)], "global": [("alice", two)]}[
        kind
    ]
    pooler = run_with_config(**overrides[kind])
    clients = [login(user, database, at=pooler) for user, database in where]
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        f" WHERE datname IN ('{one}', '{two}') AND backend_type = 'client backend'"
    )
    assert begin(clients[0]) != begin(clients[1])
    ask(clients[2])
    assert clients[2].is_silent(0.2)
    clients[0].query("COMMIT")
    assert raw.rows(clients[2].read_until()) == [[b"1"]]
    assert postgres.sql(query) == [(2,)]
    for _ in range(5):  # and back, again and again
        assert clients[0].values("SELECT 1") == [[b"1"]]
        assert clients[2].values("SELECT 1") == [[b"1"]]
        assert postgres.sql(query)[0][0] <= 2
    clients[1].query("COMMIT")
    assert pooler.log_contains(event="server closed", reason="given up for another pool")


# Leaving.


def test_server_idle_timeout(run_with_config: RunWithConfig, login: Login) -> None:
    pooler = run_with_config(databases={"*": {"server_idle_timeout": 0.2}})
    client = login(at=pooler)
    before = pid_of(client)
    pooler.wait_for_log(event="server closed", reason="server_idle_timeout")
    assert pid_of(client) != before


def test_server_lifetime(run_with_config: RunWithConfig, login: Login) -> None:
    pooler = run_with_config(databases={"*": {"server_lifetime": 0.5}})
    client = login(at=pooler)
    before = begin(client)
    time.sleep(0.7)  # its age is no reason to take it from a transaction
    assert pid_of(client) == before
    client.query("COMMIT")
    pooler.wait_for_log(event="server closed", reason="server_lifetime")
    assert pid_of(client) != before


def test_pool_idle_timeout(run_with_config: RunWithConfig, login: Login) -> None:
    pooler = run_with_config(databases={"*": {"pool_idle_timeout": 0.2}})
    client = login(at=pooler)
    before = pid_of(client)
    time.sleep(0.5)  # it has a client
    assert pid_of(client) == before
    client.close()
    pooler.wait_for_log(event="server closed", reason="pool_idle_timeout")


def test_server_that_dies_while_idle_is_not_noticed_by_clients(
    plain_pooler: Pooler, login: Login, postgres: Postgres
) -> None:
    client = login()
    before = pid_of(client)
    postgres.sql("SELECT pg_terminate_backend(%s, 5000)", [before])
    wait_until(lambda: plain_pooler.log_contains(event="server closed", pid=before))
    assert pid_of(client) != before


def test_server_check_delay(run_with_config: RunWithConfig, login: Login) -> None:
    """A check query that fails costs the server, not the client."""
    pooler = run_with_config(
        databases={
            "*": {
                "server_check_delay": 0.2,
                "server_check_query": "SELECT 1/(to_regclass('not_well') IS NULL)::int",
                "pool_size": 1,
                "session_state": {"catalog_interval": 0},  # a use, too
            }
        }
    )
    client = login(at=pooler)
    first = pid_of(client)
    assert pid_of(client) == first
    client.query("CREATE TABLE not_well ()")
    assert pid_of(client) == first  # within the delay: not checked
    time.sleep(0.5)
    assert pid_of(client) != first
    client.query("DROP TABLE not_well")
    assert pooler.log_contains(event="server closed", reason="server check failed")


# Modes.


def test_session_mode(shared_pooler: SharedPooler, login: Login, postgres: Postgres) -> None:
    pooler = shared_pooler(databases={"*": {"pool_mode": "session", "pool_size": 1}})
    first, second = login(at=pooler), login(at=pooler)
    pid = pid_of(first)
    first.query("CREATE TEMP TABLE mine (a int); PREPARE p AS SELECT 1; SET work_mem = '1MB'")
    assert first.values("EXECUTE p") == [[b"1"]]
    ask(second, "SELECT pg_backend_pid(), current_setting('work_mem'), to_regclass('mine')")
    assert second.is_silent(0.2)
    first.send(raw.terminate())
    assert raw.rows(second.read_until()) == [[b"%d" % pid, b"4MB", None]]
    assert error_of(second.query("EXECUTE p"))["C"] == "26000"


def test_statement_mode(shared_pooler: SharedPooler, login: Login) -> None:
    pooler = shared_pooler(users={"alice": {"pool_mode": "statement"}})
    client = login("alice", at=pooler)
    assert client.values("SELECT 1") == [[b"1"]]
    assert client.values("SELECT 1; SELECT 2") == [[b"1"], [b"2"]]
    ask(client, "BEGIN")
    fields = error_of(client.read_until(b"E"))
    assert (fields["C"], fields["V"]) == ("0A000", "FATAL")
    assert fields["M"] == "transaction blocks not allowed in statement pooling mode"
    assert client.is_closed()
    assert begin(login("app", at=pooler))  # the others may
    assert login("alice", at=pooler).values("SELECT 1") == [[b"1"]]


def test_transaction_left_open_is_rolled_back(
    run_with_config: RunWithConfig, login: Login, postgres: Postgres
) -> None:
    pooler = run_with_config(databases={"*": {"pool_size": 1}})
    for leave in ("terminate", "close"):
        client = login(at=pooler)
        before = begin(client)
        client.query("CREATE TABLE left_behind ()")
        if leave == "terminate":
            client.send(raw.terminate())
        else:
            client.close()
        other = login(at=pooler)
        assert pid_of(other) == before
        assert other.values("SELECT to_regclass('left_behind')") == [[None]]


@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
def test_copy_given_up_leaves_no_server_behind(
    run_with_config: RunWithConfig, login: Login, pool_mode: str
) -> None:
    """A server whose replies could not be told apart waited for ever to be tidied.

    libpq sends a Sync behind the Execute of a COPY; whether it was read as a part of the COPY
    cannot be seen from the error that a CopyFail brings.
    """
    pooler = run_with_config(databases={"*": {"pool_size": 1, "pool_mode": pool_mode}})
    for _ in range(3):
        client = login(at=pooler)
        client.query("BEGIN; CREATE TEMP TABLE t (a int) ON COMMIT DROP")
        client.send(raw.parse("COPY t FROM STDIN"), raw.bind(), raw.execute(), raw.sync())
        client.read_until(b"G")
        client.send(raw.copy_data(b"1\n"), raw.copy_fail("enough"), raw.sync())
        assert error_of(client.read_until())["C"] == "57014"
        client.query("ROLLBACK")
        client.send(raw.terminate())
        assert client.is_closed()


# Where servers are.


@pytest.mark.parametrize("balance", ["round-robin", "disable"])
def test_dead_host_is_passed_over(
    shared_pooler: SharedPooler, postgres: Postgres, login: Login, balance: str
) -> None:
    hosts = ["127.0.0.1:1", f"127.0.0.1:{postgres.port}", "no-such-host.invalid"]
    pooler = shared_pooler(databases={"*": {"host": hosts, "load_balance_hosts": balance}})
    clients = [login(at=pooler) for _ in range(5)]
    assert len({begin(client) for client in clients}) == 5
    for client in clients:
        client.query("COMMIT")
    assert pooler.log_contains(event="server connection failed", host="127.0.0.1:1")


def test_unix_socket_to_the_server(
    shared_pooler: SharedPooler, postgres: Postgres, login: Login
) -> None:
    pooler = shared_pooler(databases={"*": {"host": str(postgres.socket_dir)}})
    client = login(at=pooler)
    query = "SELECT client_addr FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    assert client.values(query) == [[None]]


@pytest.mark.parametrize("role", ["alice", "md5user", "plainuser", "trustuser"])
def test_pools_are_keyed_by_user(plain_pooler: Pooler, role: str, login: Login) -> None:
    mine, others = login(role), login("app")
    assert pid_of(mine) != pid_of(others)
    assert mine.values("SELECT current_user::text") == [[role.encode()]]


def test_connect_query_and_settings_of_the_database(
    shared_pooler: SharedPooler, login: Login
) -> None:
    pooler = shared_pooler(
        databases={
            "*": {
                "connect_query": "SET work_mem = '2MB'",
                "settings": {"search_path": "pg_catalog", "application_name": "pooled"},
            }
        }
    )
    client = login(at=pooler)
    for name, value in (("work_mem", b"2MB"), ("search_path", b"pg_catalog")):
        assert client.values(f"SHOW {name}") == [[value]]
    assert client.parameters["application_name"] == "pooled"


def test_database_that_is_down_and_comes_back(
    own_postgres: Postgres, run_with_config: RunWithConfig, login: Login
) -> None:
    pooler = run_with_config(
        databases={"*": {"host": own_postgres.host, "port": own_postgres.port}}
    )
    client = login(at=pooler)
    assert client.values("SELECT 1") == [[b"1"]]
    own_postgres.stop()
    ask(client)
    assert client.is_silent(0.2)
    own_postgres.start()
    assert raw.rows(client.read_until()) == [[b"1"]]
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(pooler.connect("app")).execute("SELECT 1")


def test_new_login_when_nothing_answers(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(
        databases={"*": {"host": "127.0.0.1", "port": 1}}, timeouts={"client_login_timeout": 0.5}
    )
    with pytest.raises(psycopg.OperationalError, match=r"connection to 127\.0\.0\.1:1 failed"):
        pooler.connect("app", password=PASSWORDS["app"])


# Databases.


def test_idle_servers_are_not_in_the_way_of_dropping_a_database(
    shared_pooler: SharedPooler, make_database: Callable[[], str], postgres: Postgres
) -> None:
    pooler, name = shared_pooler(), make_database()
    with pooler.connect(dbname=name) as connection:
        connection.execute("SELECT 1")
        assert len(postgres.backends(name)) == 1
        with pooler.connect() as owner:
            owner.execute(f"DROP DATABASE {name}")
    assert not postgres.sql("SELECT 1 FROM pg_database WHERE datname = %s", [name])

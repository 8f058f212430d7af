"""The migration lane: schema changes with a lock_timeout of the pooler's, told and counted."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.conftest import RunWithConfig
from tests.live.conftest import Login, cancel
from tests.support import rawclient as raw
from tests.support.pooler import Pooler
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until


@pytest.fixture
def table(postgres: Postgres) -> Iterator[str]:
    """A table that clients read and migrations change."""
    postgres.sql("DROP TABLE IF EXISTS lane", db="app")
    postgres.sql("CREATE TABLE lane (id int); ALTER TABLE lane OWNER TO app", db="app")
    yield "lane"
    postgres.sql("DROP TABLE IF EXISTS lane, lane2", db="app")


@contextmanager
def reading(postgres: Postgres, table: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Somebody in a long transaction, in the way of who wants to change the table."""
    with postgres.connect(dbname="app") as connection, connection.transaction():
        connection.execute(f"SELECT FROM {table}")
        yield connection


def run(run_with_config: RunWithConfig, **migrations: Any) -> Pooler:
    """A pooler with these settings."""
    return run_with_config(migrations={"lock_timeout": "200ms", **migrations})


def test_a_change_that_waits_for_a_lock_gives_up(
    run_with_config: RunWithConfig, postgres: Postgres, table: str
) -> None:
    pooler = run(run_with_config)
    notices: list[str] = []
    with pooler.connect() as connection, reading(postgres, table):
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        with pytest.raises(psycopg.errors.LockNotAvailable) as caught:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN a int")
        assert "lock_timeout of 0.2 s" in (caught.value.diag.message_hint or "")
        assert notices == ["lock_timeout was 0.2 s"]
        assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)
    failed = pooler.wait_for_log(event="schema change failed")
    assert failed["sqlstate"] == "55P03"
    assert failed["lock_seconds"] == 0.2
    assert failed["statement"] == f"ALTER TABLE {table} ADD COLUMN a int"


@pytest.mark.parametrize("way", ["simple", "block", "extended", "prepared", "one string"])
def test_it_is_set_however_the_change_comes(
    run_with_config: RunWithConfig, login: Login, postgres: Postgres, table: str, way: str
) -> None:
    """And nothing of it is left, nor any reply more than without."""
    pooler = run(run_with_config)
    sql = f"ALTER TABLE {table} ADD COLUMN a int"
    bound = raw.bind() + raw.execute() + raw.sync()
    with login(at=pooler) as client:
        expected = b"CZ"
        if way in ("block", "extended"):
            assert raw.kinds(client.query("BEGIN")) == b"CZ"
        if way in ("simple", "block"):
            request = raw.query(sql)
        elif way == "extended":
            request, expected = raw.parse(sql) + bound, b"12CZ"
        elif way == "prepared":
            client.send(raw.parse(sql, "change") + raw.sync())
            assert raw.kinds(client.read_until()) == b"1Z"
            request = raw.bind(statement="change") + raw.execute() + raw.sync()
            expected = b"2CZ"
        else:
            request, expected = raw.query(f"BEGIN; {sql}; COMMIT"), b"CCCZ"
        with reading(postgres, table):
            client.send(request)
            replies = client.read_until()
            (error,) = [raw.error_fields(body) for kind, body in replies if kind == b"E"]
            assert error["C"] == "55P03"
        if way == "one string":
            client.query("ROLLBACK")
        if way in ("block", "extended"):
            assert raw.kinds(client.query("ROLLBACK")) == b"CZ"
            assert raw.kinds(client.query("BEGIN")) == b"CZ"
        client.send(request)
        assert raw.kinds(client.read_until()) == expected
        if way in ("block", "extended"):
            assert raw.kinds(client.query("COMMIT")) == b"CZ"
        assert client.values("SHOW lock_timeout") == [[b"0"]]
        left = client.values("SELECT name FROM pg_prepared_statements")
        assert [b"_pooler_spare"] not in left
        told = pooler.wait_for_log(event="schema changed")
        assert told["command"] == "ALTER TABLE"
        assert sql in told["statement"]


@pytest.mark.parametrize("how", ["SET", "SET LOCAL", "startup", "role"])
@pytest.mark.parametrize("value", ["50ms", "0"])
def test_who_has_one_keeps_it(
    run_with_config: RunWithConfig, postgres: Postgres, table: str, how: str, value: str
) -> None:
    if how == "role" and value == "0":
        pytest.skip("that is no limit of its own")
    pooler = run(run_with_config)
    options = {"options": f"-c lock_timeout={value}"} if how == "startup" else {}
    if how == "role":
        postgres.sql(f"ALTER ROLE app SET lock_timeout = '{value}'")
    try:
        with pooler.connect(**options) as connection, connection.transaction():
            if how.startswith("SET"):
                connection.execute(f"{how} lock_timeout = '{value}'")
            connection.execute(f"ALTER TABLE {table} ADD COLUMN a int")
            assert connection.execute("SHOW lock_timeout").fetchone() == (value,)
    finally:
        postgres.sql("ALTER ROLE app RESET lock_timeout")


@pytest.mark.parametrize("settings", [{"enabled": False}, {"lock_timeout": 0}])
def test_it_can_be_turned_off(
    run_with_config: RunWithConfig, table: str, settings: dict[str, Any]
) -> None:
    pooler = run(run_with_config, **settings)
    with pooler.connect() as connection, connection.transaction():
        connection.execute(f"ALTER TABLE {table} ADD COLUMN a int")
        assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)
    assert pooler.log_contains(event="schema changed") == settings.get("enabled", True)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE INDEX CONCURRENTLY lane_index ON lane (id)",
        "VACUUM lane",
        "REINDEX TABLE CONCURRENTLY lane",
        "CREATE DATABASE lane_database",
        "ALTER SYSTEM RESET work_mem",
        "CREATE TEMPORARY TABLE mine (id int)",
        "DROP INDEX CONCURRENTLY lane_id",
    ],
)
def test_what_may_not_be_in_a_transaction_is_left_alone(
    run_with_config: RunWithConfig, postgres: Postgres, table: str, sql: str
) -> None:
    pooler = run(run_with_config, lock_timeout="1ms")
    postgres.sql("CREATE INDEX lane_id ON lane (id)", db="app")
    dsn = pooler.dsn("postgres", "app")
    try:
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
            connection.execute(sql)
            connection.execute("SELECT 1", prepare=True)
    finally:
        postgres.drop_database("lane_database")


@pytest.mark.parametrize(
    ("sql", "way", "state"),
    [
        ("CLUSTER lane USING lane_id", "simple", "clean"),
        ("VACUUM FULL lane", "extended", "clean"),
        ("REINDEX TABLE lane", "prepared", "clean"),
        ("VACUUM FULL lane", "simple", "touched"),
        ("VACUUM FULL lane", "prepared", "pinned"),
        ("VACUUM FULL lane", "extended", "session mode"),
    ],
)
def test_what_may_need_a_transaction_of_its_own_is_limited_by_its_session(
    run_with_config: RunWithConfig,
    login: Login,
    postgres: Postgres,
    table: str,
    sql: str,
    way: str,
    state: str,
) -> None:
    """And neither the session nor anybody else's has that limit afterwards."""
    mode = "session" if state == "session mode" else "transaction"
    pooler = run_with_config(
        migrations={"lock_timeout": "200ms"},
        databases={"*": {"pool_mode": mode, "pool_size": 1}},
    )
    postgres.sql("CREATE INDEX lane_id ON lane (id)", db="app")
    with login(at=pooler) as client:
        request, expected = raw.query(sql), b"CZ"
        if way == "extended":
            request = raw.parse(sql) + raw.bind() + raw.execute() + raw.sync()
            expected = b"12CZ"
        elif way == "prepared":
            client.send(raw.parse(sql, "rewrite") + raw.sync())
            assert raw.kinds(client.read_until()) == b"1Z"
            request = raw.bind(statement="rewrite") + raw.execute() + raw.sync()
            expected = b"2CZ"
        work_mem = client.values("SHOW work_mem")
        if state == "pinned":
            client.query("SELECT pg_advisory_lock(4711)")
        elif state != "clean":
            client.query("SET work_mem = '5MB'")
            work_mem = [[b"5MB"]]
        with postgres.connect(dbname="app") as other, other.transaction():
            other.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE")  # as who writes to it has
            client.send(request)
            replies = client.read_until()
            (error,) = [raw.error_fields(body) for kind, body in replies if kind == b"E"]
            assert error["C"] == "55P03"
            assert "lock_timeout of 0.2 s" in error["H"]
            assert replies[-1] == (b"Z", b"I")
        assert client.values("SHOW lock_timeout") == [[b"0"]]
        assert client.values("SHOW work_mem") == work_mem
        client.send(request)
        assert raw.kinds(client.read_until()) == expected
        assert client.values("SHOW lock_timeout") == [[b"0"]]
        held = [[b"1"]] if state == "pinned" else [[b"0"]]
        assert client.values("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == held
    assert pooler.wait_for_log(event="schema changed")["command"] == sql.split()[0]
    with login(at=pooler) as next_one:
        assert next_one.values("SHOW lock_timeout") == [[b"0"]]


def test_a_rewrite_that_no_transaction_may_hold(
    run_with_config: RunWithConfig, postgres: Postgres, table: str
) -> None:
    """Of a partitioned table: PostgreSQL refuses it within one that has begun."""
    pooler = run(run_with_config)
    with pooler.connect() as connection:
        connection.execute("CREATE TABLE lane2 (id int) PARTITION BY RANGE (id)")
        connection.execute("CREATE TABLE lane2a PARTITION OF lane2 FOR VALUES FROM (1) TO (9)")
        connection.execute("CREATE INDEX lane2_id ON lane2 (id)")
        connection.execute("REINDEX TABLE lane2")
        with connection.transaction():
            connection.execute(f"REINDEX TABLE {table}")
            assert connection.execute("SHOW lock_timeout").fetchone() == ("200ms",)


def test_a_rewrite_leaves_the_clients_own_limit_alone(
    run_with_config: RunWithConfig, login: Login, postgres: Postgres, table: str
) -> None:
    """Also one that it sets behind it, without waiting for its answer."""
    pooler = run(run_with_config)
    with login(at=pooler) as client:
        client.send(raw.query(f"VACUUM FULL {table}") + raw.query("SET lock_timeout = '7s'"))
        assert raw.kinds(client.read_until() + client.read_until()) == b"CZCZ"
        assert client.values("SHOW lock_timeout") == [[b"7s"]]
        client.query(f"VACUUM FULL {table}")
        assert client.values("SHOW lock_timeout") == [[b"7s"]]
        client.query("RESET lock_timeout")
        with reading(postgres, table):
            client.send(raw.query(f"VACUUM FULL {table}"))
            assert client.is_silent(0.5)
        assert raw.kinds(client.read_until()) == b"CZ"


def test_changes_at_once_have_a_cap(
    run_with_config: RunWithConfig, postgres: Postgres, table: str
) -> None:
    pooler = run(run_with_config, max_concurrent=1)
    order: list[str] = []
    with pooler.connect() as first, pooler.connect() as second:

        def change() -> None:
            second.execute("CREATE TABLE lane2 (id int)")
            order.append("second")

        with first.transaction():
            first.execute(f"ALTER TABLE {table} ADD COLUMN a int")
            thread = threading.Thread(target=change)
            thread.start()
            wait_until(
                lambda: bool(
                    postgres.sql(
                        "SELECT 1 FROM pg_stat_activity WHERE datname = 'app' AND usename = 'app'"
                        " AND state = 'idle'"
                    )
                )
            )
            first.execute(f"ALTER TABLE {table} ADD COLUMN b int")
            order.append("first")
        thread.join(10)
    assert order == ["first", "second"]


@pytest.mark.parametrize("way", ["simple", "block", "failed block", "extended", "prepared"])
def test_a_cancel_reaches_who_waits_for_others(
    run_with_config: RunWithConfig, login: Login, table: str, way: str
) -> None:
    """At once, as if the server had been at work; and the lane goes on."""
    pooler = run(run_with_config, max_concurrent=1)
    sql = "CREATE TABLE lane2 (id int)"
    bound = raw.bind() + raw.execute() + raw.sync()
    with pooler.connect() as first, login(at=pooler) as waiting:
        request, status = raw.query(sql), b"I"
        if way == "extended":
            request = raw.parse(sql) + bound
        elif way == "prepared":
            waiting.send(raw.parse(sql, "change") + raw.sync())
            assert raw.kinds(waiting.read_until()) == b"1Z"
            request = raw.bind(statement="change") + raw.execute() + raw.sync()
        if "block" in way:
            waiting.query("BEGIN")
            status = b"E"
        if way == "failed block":
            waiting.query("SELECT 1/0")
        with first.transaction():
            first.execute(f"ALTER TABLE {table} ADD COLUMN a int")
            waiting.send(request)

            def answered() -> bool:
                cancel(pooler, waiting.pid, waiting.key)
                return not waiting.is_silent(0.1)

            wait_until(answered)
            replies = waiting.read_until()
            assert raw.kinds(replies) == b"EZ"
            assert raw.error_fields(replies[0][1])["C"] == "57014"
            assert replies[-1] == (b"Z", status)
            if "block" in way:
                assert raw.kinds(waiting.query("ROLLBACK")) == b"CZ"
            assert waiting.values("SELECT 7") == [[b"7"]]
        waiting.send(request)
        assert b"C" in raw.kinds(waiting.read_until())
        assert waiting.values("SELECT count(*) FROM lane2") == [[b"0"]]


def test_who_waits_for_others_does_not_for_ever(run_with_config: RunWithConfig, table: str) -> None:
    pooler = run_with_config(
        migrations={"max_concurrent": 1},
        timeouts={"query_wait_timeout": "3s"},  # of who waits for a server to be opened, too
    )
    with pooler.connect() as first, pooler.connect() as second, first.transaction():
        first.execute(f"ALTER TABLE {table} ADD COLUMN a int")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            second.execute("CREATE TABLE lane2 (id int)")


def test_what_it_waits_for_is_seen(
    run_with_config: RunWithConfig, postgres: Postgres, table: str
) -> None:
    others = {backend["pid"] for backend in postgres.backends("app")}  # of other poolers
    pooler = run_with_config(
        migrations={"lock_timeout": "20s"}, databases={"*": {"min_pool_size": 2}}
    )

    def own() -> int:
        return sum(backend["pid"] not in others for backend in postgres.backends("app"))

    with pooler.connect() as connection:
        wait_until(lambda: own() == 2)  # one is free to be asked
        with reading(postgres, table) as reader:
            change = threading.Thread(
                target=connection.execute, args=(f"ALTER TABLE {table} ADD COLUMN a int",)
            )
            change.start()
            asked = (
                "SELECT 1 FROM pg_stat_activity"
                " WHERE query LIKE '%unnest(ARRAY%' AND state = 'idle'"
            )
            wait_until(lambda: bool(postgres.sql(asked)))
            assert reader
        change.join(10)
    told = pooler.wait_for_log(event="schema changed")
    assert 0 < told["lock_seconds"] <= told["seconds"] + 0.1


def test_a_change_whose_client_was_cancelled_while_it_began(
    run_with_config: RunWithConfig, postgres: Postgres, table: str
) -> None:
    """A limit of the session's strikes the statement in front of it: the client is told, once."""
    pooler = run(run_with_config)
    with pooler.connect(options="-c statement_timeout=100ms") as connection:
        with reading(postgres, table), pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute(f"ALTER TABLE {table} ADD COLUMN a int")
        assert connection.execute("SELECT 7").fetchone() == (7,)

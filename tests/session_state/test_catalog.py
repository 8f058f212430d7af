"""What functions, triggers and views hide of session state, found in PostgreSQL's catalog."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import RunWithConfig
from tests.live.conftest import base_config
from tests.session_state.test_pins import metric, pinned
from tests.support.pooler import Pooler, merged
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until

MakeDatabase = Callable[[], str]

SCHEMA = """
    CREATE FUNCTION mutex(n bigint) RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_lock(n)';
    CREATE FUNCTION outer_mutex() RETURNS void LANGUAGE plpgsql AS
        'BEGIN PERFORM mutex(1); END';
    CREATE FUNCTION "Of Tenant"(t text) RETURNS text LANGUAGE sql AS
        $$ SELECT set_config('app.tenant', t, false) $$;
    CREATE FUNCTION set_any(name text, v text) RETURNS text LANGUAGE sql AS
        $$ SELECT set_config(name, v, false) $$;
    CREATE FUNCTION atomic(t text) RETURNS text LANGUAGE sql
        BEGIN ATOMIC SELECT set_config('app.tenant', t, false); END;
    CREATE FUNCTION dynamic(t text) RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN EXECUTE format('SET app.tenant = %L', t); END $$;
    CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN SET work_mem = '5MB'; RETURN new; END $$;
    CREATE TABLE stamped (a int);
    CREATE TRIGGER stamp BEFORE INSERT ON stamped FOR EACH ROW EXECUTE FUNCTION stamp();
    CREATE TABLE defaulted (a text DEFAULT "Of Tenant"('d'));
    CREATE VIEW locking AS SELECT mutex(2)::text AS a;
    CREATE VIEW locking_too AS SELECT * FROM locking;
    CREATE VIEW locking_itself AS SELECT pg_advisory_lock(3)::text AS a;
    CREATE FUNCTION harmless() RETURNS int LANGUAGE sql AS
        $$ SELECT set_config('app.tenant', 'x', true); SELECT 1 $$;
"""


@pytest.fixture(scope="module")
def pooler(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pooler]:
    """A pooler with pools of two."""
    config = merged(base_config(postgres), {"databases": {"*": {"pool_size": 2}}})
    pooler = Pooler(config, tmp_path_factory.mktemp("catalog"))
    pooler.start()
    yield pooler
    pooler.close()


@pytest.fixture(scope="module")
def schema(postgres: Postgres) -> Iterator[str]:
    """A database with functions that hide things."""
    name = postgres.create_database()
    with postgres.connect("app", name) as connection:
        connection.execute(SCHEMA)
    yield name
    postgres.drop_database(name)


def scanned(pooler: Pooler, database: str) -> None:
    """Wait until a pool of the database knows its functions."""
    with pooler.connect(dbname=database) as client:
        client.execute("SELECT 1")
        wait_until(lambda: scans(pooler, database))


def scans(pooler: Pooler, database: str, **labels: str) -> float:
    """How often the database's functions were looked at."""
    return metric(pooler, "pooler_catalog_scans_total", database=database, **labels)


def seen_by_others(
    pooler: Pooler, database: str, sql: str, setting: str
) -> tuple[list[Any], list[Any]]:
    """What the client that ran `sql`, and other clients on all servers, see of a setting."""
    ask = f"SELECT coalesce(current_setting('{setting}', true), '')"
    with pooler.connect(dbname=database) as client:
        client.execute(sql)
        with pooler.connect(dbname=database) as one, pooler.connect(dbname=database) as other:
            one.execute("BEGIN")
            others = []
            for stranger in (one, other, one):
                others += stranger.execute(ask).fetchall()
            one.execute("COMMIT")
            others += other.execute(ask).fetchall()
        return client.execute(ask).fetchall(), others


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT outer_mutex()",
        "SELECT mutex(7)",
        "SELECT * FROM locking",
        "SELECT * FROM locking_too",
        "SELECT * FROM locking_itself",
    ],
)
def test_a_hidden_lock_pins(pooler: Pooler, postgres: Postgres, schema: str, sql: str) -> None:
    scanned(pooler, schema)
    with pooler.connect(dbname=schema) as client:
        client.execute(sql)
        wait_until(lambda: pinned(pooler, "locks") == 1)
    wait_until(lambda: pinned(pooler, "locks") == 0)


@pytest.mark.parametrize(
    "sql",
    [
        """SELECT "Of Tenant"('acme')""",
        "SELECT set_any('app.tenant', 'acme')",
        "SELECT atomic('acme')",
        "SELECT dynamic('acme')",
        "INSERT INTO defaulted DEFAULT VALUES; SELECT atomic('acme')",
    ],
)
def test_a_hidden_setting_is_its_clients_alone(
    pooler: Pooler, postgres: Postgres, schema: str, sql: str
) -> None:
    scanned(pooler, schema)
    if "dynamic" in sql:  # the name is in no text that is seen
        with pooler.connect(dbname=schema) as client:
            client.execute("SELECT dynamic('warm'); SET app.tenant = ''")
    own, others = seen_by_others(pooler, schema, sql, "app.tenant")
    assert own == [("acme",)]
    assert set(others) == {("",)}


def test_a_trigger_is_found_by_its_table(pooler: Pooler, postgres: Postgres, schema: str) -> None:
    scanned(pooler, schema)
    own, others = seen_by_others(pooler, schema, "INSERT INTO stamped VALUES (1)", "work_mem")
    assert own == [("5MB",)]
    assert set(others) == {("4MB",)}


def test_what_is_created_counts_at_once(pooler: Pooler, make_database: MakeDatabase) -> None:
    database = make_database()
    with pooler.connect(dbname=database) as client:
        client.execute(
            "CREATE FUNCTION fresh(t text) RETURNS void LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM set_config('app.tenant', t, false); END $$"
        )
        own, others = seen_by_others(pooler, database, "SELECT fresh('acme')", "app.tenant")
    assert own == [("acme",)]
    assert set(others) == {("",)}


def test_what_others_create_counts_soon(
    pooler: Pooler, postgres: Postgres, make_database: MakeDatabase
) -> None:
    database = make_database()
    scanned(pooler, database)
    before = scans(pooler, database, user="app")
    with pooler.connect("postgres", database) as admin:  # another pool of the same database
        admin.execute(
            "CREATE FUNCTION other(t text) RETURNS text LANGUAGE sql AS"
            " $$ SELECT set_config('app.tenant', t, false) $$"
        )
    with pooler.connect(dbname=database) as early:  # what it leaves must not stay
        early.execute("SELECT other('early')")
        wait_until(lambda: scans(pooler, database, user="app") > before, 30)
        own, others = seen_by_others(pooler, database, "SELECT other('acme')", "app.tenant")
    assert own == [("acme",)]
    assert set(others) == {("",)}


def test_ordinary_statements_are_not_asked_about(
    pooler: Pooler, postgres: Postgres, schema: str
) -> None:
    scanned(pooler, schema)
    with pooler.connect(dbname=schema) as client:
        client.execute("SELECT harmless()")
        pid = client.execute("SELECT pg_backend_pid()").fetchone()
        time.sleep(0.5)
        ((query,),) = postgres.sql("SELECT query FROM pg_stat_activity WHERE pid = %s", pid)
        assert query == "SELECT pg_backend_pid()"


def test_a_scan_that_fails_is_told_once(run_with_config: RunWithConfig, postgres: Postgres) -> None:
    database = postgres.create_database()
    try:
        postgres.sql("REVOKE SELECT ON pg_rewrite FROM public", db=database)
        pooler = run_with_config()
        with pooler.connect(dbname=database) as client:
            client.execute("SELECT 1")
            event = pooler.wait_for_log(event="catalog not read")
            assert "permission denied" in event["message"]
            assert client.execute("SELECT 1").fetchone() == (1,)
    finally:
        postgres.drop_database(database)


def test_it_can_be_turned_off(run_with_config: RunWithConfig, postgres: Postgres) -> None:
    database = postgres.create_database()
    try:
        pooler = run_with_config(session_state={"catalog_interval": 0})
        with pooler.connect(dbname=database) as client:
            client.execute("SELECT 1")
            time.sleep(0.5)
            assert not scans(pooler, database)
    finally:
        postgres.drop_database(database)


def test_clients_come_first(run_with_config: RunWithConfig, make_database: MakeDatabase) -> None:
    database = make_database()
    pooler = run_with_config(databases={"*": {"pool_size": 1}})
    with pooler.connect(dbname=database) as first, pooler.connect(dbname=database) as second:
        slowest = 0.0
        for number in range(200):
            client: psycopg.Connection[Any] = (first, second)[number % 2]
            started = time.monotonic()
            client.execute("SELECT 1")
            slowest = max(slowest, time.monotonic() - started)
            time.sleep(0.005)
        assert slowest < 5

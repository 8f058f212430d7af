"""A session's state is its client's alone: startup settings too, and what nothing hinted at."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.live.conftest import base_config
from tests.session_state.test_pins import metric, pinned
from tests.support.pooler import Pooler, merged
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until

HIDDEN = """
    CREATE FUNCTION a(v text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE x text; BEGIN
        EXECUTE 'SELECT se' || 't_config(''work_mem'', $1, false)' INTO x USING v; RETURN x; END $$;
    CREATE FUNCTION b() RETURNS text LANGUAGE plpgsql AS $$ DECLARE x text; BEGIN
        EXECUTE 'SELECT pg_adv' || 'isory_lock(815)' INTO x; RETURN x; END $$;
"""
"""What neither the text nor the catalog shows."""


@pytest.fixture(scope="module")
def pooler(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pooler]:
    """A pooler that asks after hints, after all transactions, or after each second."""
    database = postgres.create_database()
    with postgres.connect("app", database) as connection:
        connection.execute(HIDDEN)
    server = {"host": postgres.host, "port": postgres.port, "dbname": database, "pool_size": 1}
    databases: dict[str, Any] = {
        "hints": server,
        "always": {**server, "session_state": {"check": "always"}},
        "sampled": {**server, "session_state": {"check": "sampled", "check_sample": 1}},
    }
    config = merged(base_config(postgres), {"databases": databases})
    pooler = Pooler(config, tmp_path_factory.mktemp("leaks"))
    pooler.start()
    yield pooler
    pooler.close()
    postgres.drop_database(database)


def leaks(pooler: Pooler, database: str) -> float:
    """How many names leaked."""
    return metric(pooler, "pooler_state_leaks_total", database=database)


def show(client: psycopg.Connection[Any], name: str = "work_mem") -> str:
    """What a client has of a setting."""
    row = client.execute("SELECT coalesce(current_setting(%s, true), '')", [name]).fetchone()
    assert row is not None
    return str(row[0])


def test_custom_settings_of_the_startup_are_nobody_elses(pooler: Pooler) -> None:
    with (
        pooler.connect(dbname="hints", options="-c app.tenant=acme -c work_mem=7MB") as one,
        pooler.connect(dbname="hints") as other,
    ):
        for _ in range(2):
            assert show(one, "app.tenant") == "acme"
            one.execute("SET statement_timeout = '60s'")
            assert show(other, "app.tenant") == ""
            assert show(other) == "4MB"
            assert show(one) == "7MB"
        one.execute("RESET ALL")
        assert show(other, "app.tenant") == ""
        assert show(one, "app.tenant") == "acme"


def test_always_finds_what_nothing_hinted_at(pooler: Pooler) -> None:
    before = leaks(pooler, "always")
    with pooler.connect(dbname="always") as one, pooler.connect(dbname="always") as other:
        one.execute("SELECT a('5MB')")
        assert show(other) == "4MB"
        assert show(one) == "5MB"
        wait_until(lambda: leaks(pooler, "always") == before + 1)
    event = pooler.wait_for_log(event="session state leaked", database="always", names="work_mem")
    assert event["level"] == "warning"
    assert "5MB" not in pooler.log_text


def test_always_finds_hidden_locks(pooler: Pooler) -> None:
    with pooler.connect(dbname="always") as client:
        client.execute("SELECT b()")
        wait_until(lambda: pinned(pooler, "locks") == 1)
        client.execute("SELECT pg_advisory_unlock(815)")
        wait_until(lambda: pinned(pooler, "locks") == 0)
    pooler.wait_for_log(event="session state leaked", database="always", names="locks")


def test_always_has_nothing_to_say_about_what_is_known(pooler: Pooler) -> None:
    before = leaks(pooler, "always")
    options = "-c work_mem=8192kB -c app.tenant=acme -c search_path=public,app -c jit=no"
    with (
        pooler.connect(dbname="always", options=options, application_name="x") as one,
        pooler.connect(dbname="always") as other,
    ):
        for _ in range(3):
            one.execute("SET statement_timeout = '60s'; SET lock_timeout = 0")
            other.execute("SELECT 1")
            one.execute("PREPARE p AS SELECT 1")
            other.execute("SET TIME ZONE 'UTC'")
            one.execute("RESET statement_timeout")
            other.execute("SELECT 2")
            one.execute("DISCARD ALL")
            other.execute("RESET ALL")
    assert leaks(pooler, "always") == before


def test_a_sample_that_finds_a_leak_scrubs_it(pooler: Pooler) -> None:
    before = leaks(pooler, "sampled")
    with pooler.connect(dbname="sampled") as one, pooler.connect(dbname="sampled") as other:
        for sql, name in (("SELECT a('5MB')", "work_mem"), ("SELECT b()", "locks")):
            one.execute(sql)
            before += 1
            assert show(other) == "4MB"
            wait_until(lambda: leaks(pooler, "sampled") == before)  # noqa: B023
            pooler.wait_for_log(event="session state leaked", database="sampled", names=name)
            assert not pinned(pooler, "locks")
            assert show(one) == "4MB"
        other.execute("SET work_mem = '6MB'")
        assert show(one) == "4MB"
        assert show(other) == "6MB"
        assert leaks(pooler, "sampled") == before


def test_hints_alone_do_not_see_it(pooler: Pooler) -> None:
    with pooler.connect(dbname="hints") as one, pooler.connect(dbname="hints") as other:
        one.execute("SELECT a('5MB')")
        assert show(other) in ("5MB", "4MB"), "documented: what hides from hints is not seen"
        other.execute("SET work_mem = DEFAULT")

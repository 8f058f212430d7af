"""Statistics by statement and the slow-query log, against PostgreSQL."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pooler.admin.views import VIEWS, rows
from pooler.service import Service
from tests.admin.test_views import serving
from tests.conftest import RunWithConfig
from tests.live.conftest import Login
from tests.session_state.test_pins import metric
from tests.support import rawclient as raw
from tests.support.pooler import Config, Pooler, merged
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until

NO_CATALOG = {"catalog_interval": 0}  # ours is a client like others otherwise
SECRET = "4711secret"


def figures(service: Service) -> dict[str, dict[str, Any]]:
    """The view's rows by statement."""
    view = VIEWS["statements"]
    return {str(row["statement"]): row for row in view.dicts(rows(service, "statements"))}


def measured(
    config: Config, folder: Path, work: Callable[[str], None], **overrides: Any
) -> dict[str, dict[str, Any]]:
    """What is known of statements after `work`, a function of the connection string."""

    async def run() -> dict[str, dict[str, Any]]:
        queries = {"statistics": "on", **overrides.pop("queries", {})}
        settings = merged(config, {"queries": queries, "session_state": NO_CATALOG, **overrides})
        async with serving(settings, folder) as service:
            port = service.listening[0].rpartition(":")[2]
            dsn = f"host=127.0.0.1 port={port} user=app dbname=app password=app-password"
            await asyncio.to_thread(work, dsn)
            return figures(service)

    return asyncio.run(run())


@pytest.fixture
def config(default_config: Config) -> Config:
    return merged(default_config, {"auth": {"type": "trust"}})


def simple(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for n in range(3):
            connection.execute(f"SELECT generate_series(1, {n + 1}), '{SECRET}'")
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1/0")


def extended(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
        for n in range(3):
            connection.execute("SELECT generate_series(1, %s)", [n + 1])


def prepared(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=0) as connection:
        for n in range(3):
            connection.execute("SELECT generate_series(1, %s)", [n + 1])


def many(dsn: str) -> None:
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE t (a int) ON COMMIT DROP")
        cursor.executemany("INSERT INTO t VALUES (%s)", [[n] for n in range(50)])


@pytest.mark.parametrize("mode", ["transaction", "session", "statement"])
def test_calls_rows_and_errors(config: Config, tmp_path: Path, mode: str) -> None:
    found = measured(config, tmp_path, simple, defaults={"pool_mode": mode})
    row = found["SELECT generate_series(?, ?), ?"]
    assert (row["calls"], row["rows"], row["errors"]) == (3, 1 + 2 + 3, 0)
    assert (row["database"], row["user"]) == ("app", "app")
    assert row["bytes_sent"] > row["bytes_received"] > 100
    assert row["time_max"] >= row["time"] / 3 > 0
    assert 0 < row["time_p50"] <= row["time_p99"]
    failed = found["SELECT ?/?"]
    assert (failed["calls"], failed["errors"], failed["rows"]) == (1, 1, 0)
    assert SECRET not in str(found)


@pytest.mark.parametrize("work", [extended, prepared], ids=["unnamed", "named"])
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_the_extended_protocol(
    config: Config, tmp_path: Path, mode: str, work: Callable[[str], None]
) -> None:
    found = measured(config, tmp_path, work, defaults={"pool_mode": mode})
    row = found["SELECT generate_series(?, $1)"]
    assert (row["calls"], row["rows"], row["errors"]) == (3, 6, 0)
    assert len(found) == 1


def test_a_pipeline_of_one_statement(config: Config, tmp_path: Path) -> None:
    found = measured(config, tmp_path, many)
    row = found["INSERT INTO t VALUES ($1)"]
    assert (row["calls"], row["rows"]) == (50, 50)
    assert found["BEGIN"]["calls"] == found["COMMIT"]["calls"] == 1


def test_names_that_only_the_server_knows(config: Config, tmp_path: Path) -> None:
    found = measured(config, tmp_path, prepared, defaults={"max_prepared_statements": 0})
    assert found["SELECT generate_series(?, $1)"]["calls"] == 3


def test_off_measures_nothing(config: Config, tmp_path: Path) -> None:
    assert measured(config, tmp_path, simple, queries={"statistics": "off"}) == {}


def test_a_sample_is_a_part(config: Config, tmp_path: Path) -> None:
    def work(dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for _ in range(400):
                connection.execute("SELECT 1")

    queries = {"statistics": "sampled", "statistics_sample": 4}
    found = measured(config, tmp_path, work, queries=queries)
    assert 40 < found["SELECT ?"]["calls"] < 200  # 100, give or take seven standard deviations


def test_waiting_is_told_from_executing(config: Config, tmp_path: Path) -> None:
    def work(dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as one, psycopg.connect(dsn) as other:
            other.execute("SELECT 'holds the only server'")
            with ThreadPoolExecutor(1) as thread:
                waiting = thread.submit(one.execute, "SELECT 'waits'")
                time.sleep(0.3)
                other.commit()
                waiting.result(10)
            one.execute("SELECT 'waits', pg_sleep(0.2)")

    found = measured(config, tmp_path, work, databases={"*": {"pool_size": 1}})
    waited, slept = found["SELECT ?"], found["SELECT ?, pg_sleep(?)"]
    assert waited["wait_time"] >= 0.3 > waited["time"]
    assert slept["time"] >= 0.2 > slept["wait_time"]
    assert 0.5 < slept["time_p99"] / slept["time"] < 2  # a bucket is as wide as what it begins with


# Groups of several statements, byte by byte.


@pytest.fixture
def counting(run_with_config: RunWithConfig) -> Pooler:
    """A pooler that reports every query as slow."""
    return run_with_config(
        queries={"statistics": "on", "slow_query_time": "1ms"},
        session_state=NO_CATALOG,
        databases={"*": {"pool_size": 1}},
    )


def slow(pooler: Pooler) -> list[dict[str, Any]]:
    return [event for event in pooler.log if event.get("event") == "slow query"]


def test_a_slow_query_says_why(counting: Pooler, login: Login) -> None:
    client = login(at=counting)
    client.query(f"SELECT pg_advisory_lock(815), '{SECRET}', pg_sleep(0.01)")
    client.query(f"SELECT pg_sleep(0.05), '{SECRET}'")
    client.query(f"SELECT pg_sleep(0.05)/0, '{SECRET}'")
    wait_until(lambda: len(slow(counting)) >= 2)
    first, second = slow(counting)[:2]
    assert first["statement"] == "SELECT pg_advisory_lock(?), ?, pg_sleep(?)"
    assert second["execute_seconds"] >= 0.05 > second["wait_seconds"]
    assert (second["database"], second["user"], second["rows"]) == ("app", "app", 1)
    assert second["client"] == first["client"]
    assert second["pid"] > 0
    assert SECRET not in counting.log_text
    wait_until(lambda: metric(counting, "pooler_pinned_servers", reason="locks") == 1)
    client.query("SELECT pg_sleep(0.01)")
    wait_until(lambda: slow(counting)[-1]["statement"] == "SELECT pg_sleep(?)")
    assert slow(counting)[-1]["pinned"] == "locks"
    assert slow(counting)[-1]["pinned_by"] == first["statement"]


def test_a_group_ends_with_its_sync(counting: Pooler, login: Login, postgres: Postgres) -> None:
    """BEGIN and a query before one Sync, as pgjdbc sends them; then two groups at once."""
    client = login(at=counting)
    statement = "SELECT count(*) FROM pg_sleep(0.01)"
    client.send(
        *(raw.parse("BEGIN"), raw.bind([]), raw.execute()),
        *(raw.parse(statement), raw.bind([]), raw.execute(), raw.sync()),
    )
    client.read_until()
    with postgres.connect(dbname="app") as other:
        other.execute("SELECT pg_advisory_lock(816)")  # so that their replies do not come together
        groups = [
            raw.parse(sql) + raw.bind([]) + raw.execute() + raw.sync()
            for sql in ("SELECT pg_sleep(0.02), 1", "SELECT pg_advisory_xact_lock(816), 'two', 2")
        ]
        client.send(*groups)
        client.read_until()
        time.sleep(0.01)
        other.execute("SELECT pg_advisory_unlock(816)")
        client.read_until()
    client.query("COMMIT")
    wait_until(lambda: len(slow(counting)) >= 3)
    shown = [(event["statement"], event["rows"]) for event in slow(counting)[:3]]
    assert shown == [
        ("SELECT count(*) FROM pg_sleep(?) (the last of 2)", 1),
        ("SELECT pg_sleep(?), ?", 1),
        ("SELECT pg_advisory_xact_lock(?), ?, ?", 1),
    ]
    assert slow(counting)[2]["execute_seconds"] > 0


def test_an_error_skips_the_rest_of_its_group(counting: Pooler, login: Login) -> None:
    client = login(at=counting)
    client.send(
        *(raw.parse("SELECT pg_sleep(0.01)"), raw.bind([]), raw.execute()),
        *(raw.parse("SELECT 1/0"), raw.bind([]), raw.execute()),
        *(raw.parse("SELECT 'never'"), raw.bind([]), raw.execute(), raw.sync()),
    )
    client.read_until()
    wait_until(lambda: bool(slow(counting)))
    assert slow(counting)[0]["statement"] == "SELECT ?/? (the last of 2)"
    assert slow(counting)[0]["sqlstate"] == "22012"


def test_a_client_that_leaves_its_query(counting: Pooler, login: Login) -> None:
    client = login(at=counting)
    client.send(raw.query("SELECT pg_sleep(60)"))
    wait_until(lambda: metric(counting, "pooler_servers", state="active") == 1)
    client.close()
    wait_until(lambda: bool(slow(counting)))
    assert slow(counting)[0]["statement"] == "SELECT pg_sleep(?)"
    assert slow(counting)[0]["sqlstate"] == "08006"

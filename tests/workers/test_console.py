"""The console of several workers: one pooler, whichever of them it is asked at."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.conftest import RunWithConfig
from tests.support.pooler import Pooler
from tests.support.waiting import wait_until
from tests.workers.test_workers import worker_pids

ADMIN = {"users": ["postgres"]}


def console(pooler: Pooler) -> psycopg.Connection[dict[str, Any]]:
    """A session of the console, at any worker."""
    dsn = pooler.dsn("postgres", "pgbouncer")
    return psycopg.connect(dsn, autocommit=True, row_factory=dict_row)


@pytest.fixture
def pooler(run_with_config: RunWithConfig) -> Pooler:
    return run_with_config(workers=2, databases={"*": {"pool_size": 4}}, admin=ADMIN)


@pytest.fixture
def consoles(pooler: Pooler) -> Iterator[list[psycopg.Connection[dict[str, Any]]]]:
    """Some sessions, most likely at both workers."""
    with ExitStack() as stack:
        yield [stack.enter_context(console(pooler)) for _ in range(6)]


def crowd(pooler: Pooler, stack: ExitStack, size: int = 12) -> list[psycopg.Connection[Any]]:
    """Clients, most likely at both workers, that have been served."""
    clients = [stack.enter_context(pooler.connect()) for _ in range(size)]
    for client in clients:
        client.execute("SELECT 1")
    return clients


def test_every_console_shows_the_clients_of_all(
    pooler: Pooler, consoles: list[psycopg.Connection[dict[str, Any]]]
) -> None:
    with ExitStack() as stack:
        crowd(pooler, stack)
        for one in consoles:
            shown = [row for row in one.execute("SHOW CLIENTS") if row["database"] == "app"]
            assert len({row["id"] for row in shown}) == 12
            (pool,) = [row for row in one.execute("SHOW POOLS") if row["database"] == "app"]
            assert pool["cl_active"] + pool.get("cl_idle", 0) + pool["cl_waiting"] <= 12
            (stats,) = [row for row in one.execute("SHOW STATS") if row["database"] == "app"]
            assert 12 <= stats["total_query_count"] <= 14  # with a look at the catalog of each


def test_pause_holds_all_workers_and_resume_ends_it(
    pooler: Pooler, consoles: list[psycopg.Connection[dict[str, Any]]]
) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(12) as threads:
        clients = crowd(pooler, stack)
        consoles[0].execute("PAUSE app")
        waiting = [threads.submit(client.execute, "SELECT 2") for client in clients]

        def held() -> bool:
            rows = consoles[1].execute("SHOW POOLS").fetchall()
            return bool(sum(row["cl_waiting"] for row in rows) == 12)

        wait_until(held)
        assert not any(query.done() for query in waiting)
        consoles[-1].execute("RESUME app")
        for query in waiting:
            assert query.result(30).fetchone() == (2,)
        with pytest.raises(psycopg.Error, match="not paused"):
            consoles[2].execute("RESUME app")


def test_pause_that_is_given_up_is_given_up_everywhere(
    pooler: Pooler, consoles: list[psycopg.Connection[dict[str, Any]]]
) -> None:
    with ExitStack() as stack:
        clients = crowd(pooler, stack)
        busy = stack.enter_context(pooler.connect(autocommit=False))
        busy.execute("SELECT 1")
        begun = threading.Thread(target=_failing, args=(consoles[0], "PAUSE"))
        begun.start()
        wait_until(lambda: _paused(consoles[1]))
        consoles[0].cancel_safe()
        begun.join()
        wait_until(lambda: not _paused(consoles[1]))
        for client in clients:
            assert client.execute("SELECT 3").fetchone() == (3,)


def _failing(connection: psycopg.Connection[Any], command: str) -> None:
    with pytest.raises(psycopg.Error):
        connection.execute(command)


def _paused(connection: psycopg.Connection[dict[str, Any]]) -> bool:
    return any(row["key"] == "paused" and row["value"] == "yes" for row in _state(connection))


def _state(connection: psycopg.Connection[dict[str, Any]]) -> list[dict[str, Any]]:
    return connection.execute("SHOW STATE").fetchall()


def test_set_reaches_all_workers_and_those_that_come(
    pooler: Pooler, consoles: list[psycopg.Connection[dict[str, Any]]]
) -> None:
    consoles[0].execute("SET default_pool_size = 7")
    for one in consoles:
        assert _setting(one, "default_pool_size") == "7"
    victim = worker_pids(pooler)[-1]
    os.kill(victim, signal.SIGKILL)
    pooler.wait_for_log(30, event="worker restarted")
    for _ in range(6):
        with console(pooler) as one:
            assert _setting(one, "default_pool_size") == "7"
    with console(pooler) as one:
        one.execute("RELOAD")
        assert _setting(one, "default_pool_size") != "7"


def _setting(connection: psycopg.Connection[dict[str, Any]], name: str) -> str:
    (row,) = [row for row in connection.execute("SHOW CONFIG") if row["key"] == name]
    return str(row["value"])


def test_pause_holds_a_worker_that_is_restarted(
    pooler: Pooler, consoles: list[psycopg.Connection[dict[str, Any]]]
) -> None:
    consoles[0].execute("PAUSE app")
    os.kill(worker_pids(pooler)[-1], signal.SIGKILL)
    pooler.wait_for_log(30, event="worker restarted")
    with ExitStack() as stack, ThreadPoolExecutor(8) as threads:
        coming = [threads.submit(pooler.connect) for _ in range(8)]
        time.sleep(0.5)
        with console(pooler) as one:
            one.execute("RESUME app")
        for client in coming:
            stack.enter_context(client.result(30)).execute("SELECT 1")


def test_client_is_killed_by_its_number(
    pooler: Pooler, consoles: list[psycopg.Connection[dict[str, Any]]]
) -> None:
    with ExitStack() as stack:
        clients = crowd(pooler, stack)
        shown = [row for row in consoles[0].execute("SHOW CLIENTS") if row["database"] == "app"]
        for turn, row in enumerate(shown):
            consoles[turn % len(consoles)].execute(f"KILL_CLIENT {row['id']}")
        for client in clients:
            with pytest.raises(psycopg.OperationalError):
                client.execute("SELECT 1")
        with pytest.raises(psycopg.Error, match="client not found"):
            consoles[0].execute("KILL_CLIENT 999999")


def test_shutdown_ends_all(pooler: Pooler) -> None:
    with pooler.connect(autocommit=False) as client, console(pooler) as one:
        client.execute("SELECT 1")
        pooler._expects_end = True
        one.execute("SHUTDOWN WAIT_FOR_SERVERS")
        client.execute("SELECT 2")
        client.commit()
        assert pooler.wait() == 0

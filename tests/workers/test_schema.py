"""What is changed in a database by a client of one worker is known to the others."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import RunWithConfig
from tests.session_state.test_catalog import scans
from tests.session_state.test_pins import pinned
from tests.support.pooler import Pooler
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until
from tests.workers.spread import Client, everywhere
from tests.workers.test_console import ADMIN, console


@pytest.fixture
def pooler(run_with_config: RunWithConfig) -> Pooler:
    return run_with_config(
        workers=2, admin=ADMIN, databases={"*": {"pool_size": 4}}, migrations={"max_concurrent": 1}
    )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def all_know(pooler: Pooler) -> None:
    """Wait until what a worker has said of late has come to the other.

    Both answer this, through the supervisor, and what is between two processes stays in order.
    """
    with console(pooler) as session:
        session.execute("SHOW CLIENTS").fetchall()


def test_statements_are_prepared_anew_at_all_workers(
    pooler: Pooler, stack: ExitStack, make_database: Callable[[], str]
) -> None:
    here, there = everywhere(
        pooler, stack, 2, workers=2, dbname=make_database(), prepare_threshold=0
    )
    here.execute("CREATE TABLE things AS SELECT 1 AS a")
    assert there.execute("SELECT * FROM things").fetchone() == (1,)
    here.execute("ALTER TABLE things ADD COLUMN b int DEFAULT 2")
    all_know(pooler)
    with there.transaction():  # where PostgreSQL's error could not be hidden
        there.execute("SELECT 'begun'")
        assert there.execute("SELECT * FROM things").fetchone() == (1, 2)


def test_functions_are_looked_at_anew_at_all_workers(
    pooler: Pooler, stack: ExitStack, make_database: Callable[[], str]
) -> None:
    database = make_database()
    here, there = everywhere(pooler, stack, 2, workers=2, dbname=database)
    here.execute("SELECT 1")
    there.execute("SELECT 1")
    wait_until(lambda: scans(pooler, database, user="app") >= 2)  # one of each: the next is far
    here.execute(
        "CREATE FUNCTION mutex() RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_lock(1)'"
    )

    wait_until(lambda: scans(pooler, database, user="app") >= 4)
    there.execute("SELECT mutex()")
    wait_until(lambda: pinned(pooler, "locks") == 1)


def test_idle_connections_of_all_workers_make_way_for_a_change_of_the_database(
    pooler: Pooler, stack: ExitStack, postgres: Postgres
) -> None:
    """PostgreSQL waits 5 s for the sessions of a database to have left."""
    database = postgres.create_database()
    for client in everywhere(pooler, stack, 2, workers=2, dbname=database):
        client.execute("SELECT 1")
        client.close()
    wait_until(lambda: _idle(pooler, database))  # none has a catalog to look at, for nobody
    assert len(postgres.backends(database)) >= 2
    owner = stack.enter_context(pooler.connect("postgres", "postgres"))
    owner.execute(f"DROP DATABASE {database}")
    assert postgres.backends(database) == []


def _idle(pooler: Pooler, database: str) -> bool:
    with console(pooler) as session:
        shown = session.execute("SHOW SERVERS").fetchall()
    states = [row["state"] for row in shown if row["database"] == database]
    return len(states) >= 2 and set(states) == {"idle"}


def test_changes_at_once_have_one_cap(
    pooler: Pooler, stack: ExitStack, make_database: Callable[[], str]
) -> None:
    here, there = everywhere(pooler, stack, 2, workers=2, dbname=make_database(), autocommit=False)
    for turn, (first, second) in enumerate(((here, there), (there, here), (here, there))):
        first.execute(f"CREATE TABLE first_{turn} (a int)")
        second.execute("SELECT 1")
        second.pgconn.send_query(f"CREATE TABLE second_{turn} (a int)".encode())
        for _ in range(5):
            all_know(pooler)
            assert not _answered(second)
        first.commit()
        wait_until(lambda one=second: _answered(one))  # type: ignore[misc]
        results = iter(second.pgconn.get_result, None)
        assert [result.command_status for result in results] == [b"CREATE TABLE"]
        second.commit()


def _answered(client: Client) -> bool:
    client.pgconn.consume_input()
    return not client.pgconn.is_busy()

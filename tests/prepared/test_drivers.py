"""Drivers that prepare, with their defaults, in transaction mode over two servers."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import psycopg2
import pytest

from tests.live.conftest import SharedPooler
from tests.support.pooler import Pooler


@pytest.fixture
def pooler(shared_pooler: SharedPooler) -> Pooler:
    return shared_pooler(databases={"*": {"pool_size": 2, "max_prepared_statements": 10}})


def test_psycopg_prepares_at_once_and_deallocates(pooler: Pooler) -> None:
    def work(_: int) -> None:
        with psycopg.connect(pooler.dsn()) as connection:
            connection.prepare_threshold = 0
            connection.prepared_max = 3
            for i in range(60):
                query = f"SELECT %s::int + {i % 12}"
                row = connection.execute(query, (i,)).fetchone()
                assert row == (i + i % 12,)
                connection.commit()
            with connection.pipeline():
                for i in range(30):
                    connection.execute(f"SELECT %s::int - {i % 6}", (i,))
            with pytest.raises(psycopg.errors.DivisionByZero):
                connection.execute("SELECT %s::int / 0", (1,))
            connection.rollback()
            assert connection.execute("SELECT %s::int", (7,)).fetchone() == (7,)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))


def test_psycopg2_prepares_in_sql(pooler: Pooler) -> None:
    connection = psycopg2.connect(pooler.dsn())
    with connection, connection.cursor() as cursor:
        cursor.execute("PREPARE plus AS SELECT $1::int + 1")
    for i in range(10):
        with connection, connection.cursor() as cursor:
            cursor.execute("EXECUTE plus (%s)", (i,))
            assert cursor.fetchone() == (i + 1,)
    with connection, connection.cursor() as cursor:
        cursor.execute("DEALLOCATE plus")
    connection.close()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
def test_sqlalchemy(pooler: Pooler, driver: str) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    url = pooler.dsn().replace("postgresql://", f"postgresql+{driver}://")
    if driver == "asyncpg":
        pytest.importorskip("greenlet")
        import asyncio

        from sqlalchemy.ext.asyncio import create_async_engine

        async def main() -> None:
            engine = create_async_engine(url)
            for i in range(20):
                async with engine.begin() as connection:
                    text = sqlalchemy.text("SELECT CAST(:i AS int) + 1")
                    assert await connection.scalar(text, {"i": i}) == i + 1
            await engine.dispose()

        asyncio.run(main())
        return
    engine = sqlalchemy.create_engine(url)
    for i in range(20):
        with engine.begin() as connection:
            assert (
                connection.scalar(sqlalchemy.text("SELECT CAST(:i AS int) + 1"), {"i": i}) == i + 1
            )
    engine.dispose()

"""Drivers that prepare, with their defaults, in transaction mode over two servers."""

import subprocess
import sys
from collections.abc import Callable
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


def test_psycopg_prepares_what_it_runs_often(pooler: Pooler) -> None:
    """With its default threshold, the sixth execution is of a prepared statement."""
    with psycopg.connect(pooler.dsn()) as connection:
        for i in range(20):
            assert connection.execute("SELECT %s::int * 3", (i,)).fetchone() == (i * 3,)
            connection.commit()
        shown = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE %s"
        row = connection.execute(shown, ("%pooler%",), prepare=False).fetchone()
        assert row is not None
        assert row[0] >= 1


_DJANGO = """
import json, sys
from django.conf import settings
from urllib.parse import urlsplit
url = urlsplit(sys.argv[1])
settings.configure(
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "NAME": "app", "USER": url.username,
        "PASSWORD": url.password, "HOST": url.hostname, "PORT": url.port,
        "CONN_MAX_AGE": None, "OPTIONS": json.loads(sys.argv[2]),
    }},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
)
import django
django.setup()
from django.core.management import call_command
from django.contrib.auth.models import Group, Permission
from django.db import connection, transaction
call_command("migrate", verbosity=0)
for i in range(12):
    with transaction.atomic():
        Group.objects.create(name=f"group {i}")
    assert Group.objects.filter(name__startswith="group").count() == i + 1
    assert Group.objects.get(name=f"group {i}").permissions.count() == 0
with transaction.atomic():
    names = [group.name for group in Group.objects.order_by("id").iterator(chunk_size=5)]
assert names == [f"group {i}" for i in range(12)], names
call_command("flush", verbosity=0, interactive=False)
assert not Group.objects.exists()
"""


@pytest.mark.parametrize("options", ["{}", '{"server_side_binding": true}'])
def test_django(
    shared_pooler: SharedPooler, make_database: Callable[[], str], options: str
) -> None:
    """Migrations, the ORM, a server-side cursor within a transaction."""
    pytest.importorskip("django")
    name = make_database()
    pooler = shared_pooler(databases={"*": {"pool_size": 2}})
    script = _DJANGO.replace('"NAME": "app"', f'"NAME": "{name}"')
    done = subprocess.run(
        [sys.executable, "-c", script, pooler.dsn(dbname=name), options],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr

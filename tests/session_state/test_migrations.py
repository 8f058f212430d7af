"""Migrations by two runners at once through the transaction pool: each step is done once.

Alembic and Django under an advisory lock of the session that migrates, and the way of Flyway: one
connection holds the lock, another migrates. Meanwhile an application uses the pool. The lock is
tried for: who waits within pg_advisory_lock has a snapshot, which CREATE INDEX CONCURRENTLY waits
for, with or without a pooler.
"""

import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import RunWithConfig
from tests.session_state.test_pins import metric
from tests.support.pooler import Pooler
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until

MakeDatabase = Callable[[], str]
RUNNER_TIMEOUT = 90  # seconds


def write(folder: Path, files: dict[str, str]) -> None:
    """Write files into a folder, each with the indentation of its first line taken away."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())


@contextmanager
def application(pooler: Pooler, database: str) -> Iterator[None]:
    """An application that uses the pool: every answer is right, and in time."""
    over = threading.Event()
    faults: list[str] = []

    def work() -> None:
        try:
            with pooler.connect(dbname=database) as client:
                client.execute("SET statement_timeout = '30s'")
                while not over.wait(0.01):
                    assert client.execute("SHOW statement_timeout").fetchone() == ("30s",)
        except BaseException as fault:
            faults.append(repr(fault))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not faults


def run_two(folder: Path, *arguments: str) -> list[str]:
    """Run the same program twice at once; what each printed."""
    runners = [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        outputs = [runner.communicate(timeout=RUNNER_TIMEOUT)[0] for runner in runners]
    finally:
        for runner in runners:
            runner.kill()
            runner.wait()
    for runner, output in zip(runners, outputs, strict=True):
        assert runner.returncode == 0, output
    return outputs


@pytest.fixture
def pooler(run_with_config: RunWithConfig) -> Pooler:
    """Few servers: two runners, of which each may take two, and the application."""
    return run_with_config(databases={"*": {"pool_size": 5}})


def nothing_is_left(pooler: Pooler, postgres: Postgres, database: str) -> None:
    """No lock, no pin; a new session has nothing of those that migrated."""
    wait_until(lambda: metric(pooler, "pooler_pinned_servers") == 0)
    held = "SELECT FROM pg_locks WHERE locktype = 'advisory'"
    assert postgres.sql(held, db=database) == []
    with pooler.connect(dbname=database) as client:
        path = client.execute("SELECT current_setting('search_path'), current_user").fetchone()
        assert path == ('"$user", public', "app")


# Alembic

ALEMBIC = {
    "alembic.ini": "[alembic]\nscript_location = migrations\npath_separator = os\n",
    "migrations/script.py.mako": "",
    "migrations/env.py": """
        import os, time
        from alembic import context
        from sqlalchemy import create_engine, text

        engine = create_engine(os.environ["DATABASE"])
        with engine.connect() as connection:
            while not connection.scalar(text("SELECT pg_try_advisory_lock(8472)")):
                connection.rollback()
                time.sleep(0.05)
            connection.commit()
            context.configure(connection=connection, transaction_per_migration=True)
            try:
                with context.begin_transaction():
                    context.run_migrations()
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(8472)"))
                connection.commit()
    """,
    "migrations/versions/a1.py": """
        import sqlalchemy as sa
        from alembic import op

        revision, down_revision = "a1", None

        def upgrade():
            op.create_table(
                "customers",
                sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("name", sa.Text),
            )
            op.bulk_insert(
                sa.table("customers", sa.column("name")), [{"name": f"n{i}"} for i in range(50)]
            )
    """,
    "migrations/versions/a2.py": """
        import sqlalchemy as sa
        from alembic import op

        revision, down_revision = "a2", "a1"

        def upgrade():
            op.execute("SET lock_timeout = '20s'")
            op.execute("CREATE TEMPORARY TABLE renamed AS"
                       " SELECT id, upper(name) AS n FROM customers")
            op.add_column("customers", sa.Column("upper_name", sa.Text))
            op.execute("UPDATE customers SET upper_name = n FROM renamed"
                       " WHERE renamed.id = customers.id")
            op.execute("DROP TABLE renamed")
            with op.get_context().autocommit_block():
                op.create_index(
                    "by_name", "customers", ["upper_name"], postgresql_concurrently=True
                )
            op.execute("CREATE SCHEMA audit")
            op.execute("SET LOCAL search_path = audit, public")
            op.execute("CREATE TABLE entries (id serial PRIMARY KEY)")
    """,
    "migrations/versions/a3.py": """
        from alembic import op

        revision, down_revision = "a3", "a2"

        def upgrade():
            op.execute("CREATE TABLE third (n int)")
            op.execute("INSERT INTO third SELECT count(*) FROM customers WHERE upper_name ~ '^N'")
    """,
}


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_alembic_upgrade(
    pooler: Pooler,
    postgres: Postgres,
    make_database: MakeDatabase,
    tmp_path: Path,
    driver: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = make_database()
    write(tmp_path, ALEMBIC)
    url = pooler.dsn(dbname=database).replace("postgresql:", f"postgresql+{driver}:")
    monkeypatch.setenv("DATABASE", url)
    with application(pooler, database):
        run_two(tmp_path, "-m", "alembic", "upgrade", "head")
    assert postgres.sql("SELECT version_num FROM alembic_version", db=database) == [("a3",)]
    assert postgres.sql("SELECT n FROM third", db=database) == [(50,)]
    assert postgres.sql(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'by_name'::regclass", db=database
    ) == [(True,)]
    assert postgres.sql("SELECT count(*) FROM audit.entries", db=database) == [(0,)]
    nothing_is_left(pooler, postgres, database)


# Django

DJANGO = {
    "settings.py": """
        import os
        from urllib.parse import urlsplit

        url = urlsplit(os.environ["DATABASE"])
        DATABASES = {"default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": url.path[1:], "USER": url.username,
            "PASSWORD": url.password, "HOST": url.hostname, "PORT": url.port,
        }}
        INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "shop"]
        USE_TZ = True
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        SECRET_KEY = "not one"
    """,
    "shop/__init__.py": "",
    "shop/models.py": """
        from django.db import models

        class Item(models.Model):
            name = models.TextField()
            price = models.IntegerField(default=0)
    """,
    "shop/migrations/__init__.py": "",
    "shop/migrations/0001_initial.py": """
        from django.db import migrations, models

        class Migration(migrations.Migration):
            initial = True
            operations = [migrations.CreateModel("Item", [
                ("id", models.BigAutoField(primary_key=True)), ("name", models.TextField()),
            ])]
    """,
    "shop/migrations/0002_fill.py": """
        from django.db import migrations, models

        def fill(apps, schema_editor):
            Item = apps.get_model("shop", "Item")
            Item.objects.bulk_create([Item(name=f"item {n}") for n in range(100)])

        class Migration(migrations.Migration):
            dependencies = [("shop", "0001_initial")]
            operations = [
                migrations.RunPython(fill),
                migrations.AddField("Item", "price", models.IntegerField(default=0)),
            ]
    """,
    "shop/migrations/0003_index.py": """
        from django.contrib.postgres.operations import AddIndexConcurrently
        from django.db import migrations, models

        class Migration(migrations.Migration):
            atomic = False
            dependencies = [("shop", "0002_fill")]
            operations = [AddIndexConcurrently("Item", models.Index(fields=["name"], name="named"))]
    """,
    "migrate.py": """
        import os, time
        import django
        from django.core.management import call_command
        from django.db import connection

        os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
        django.setup()
        with connection.cursor() as cursor:
            locked = False
            while not locked:
                cursor.execute("SELECT pg_try_advisory_lock(42)")
                (locked,) = cursor.fetchone()
                time.sleep(0.05)
            try:
                call_command("migrate")
            finally:
                cursor.execute("SELECT pg_advisory_unlock(42)")
        from shop.models import Item
        assert Item.objects.filter(name__startswith="item", price=0).count() == 100
    """,
}


def test_django_migrate(
    pooler: Pooler,
    postgres: Postgres,
    make_database: MakeDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = make_database()
    write(tmp_path, DJANGO)
    monkeypatch.setenv("DATABASE", pooler.dsn(dbname=database))
    with application(pooler, database):
        outputs = run_two(tmp_path, "migrate.py")
    assert sorted("No migrations to apply" in output for output in outputs) == [False, True]
    done = "SELECT name FROM django_migrations WHERE app = 'shop' ORDER BY name"
    names = [("0001_initial",), ("0002_fill",), ("0003_index",)]
    assert postgres.sql(done, db=database) == names
    nothing_is_left(pooler, postgres, database)


# Flyway

FLYWAY = """
    import os, time
    import psycopg

    STEPS = [
        "CREATE TABLE account (id int PRIMARY KEY, balance int)",
        "INSERT INTO account SELECT n, 0 FROM generate_series(1, 100) AS n",
        "SET search_path = public; ALTER TABLE account ADD COLUMN owner text;"
        " CREATE FUNCTION owner_of(int) RETURNS text LANGUAGE sql"
        " AS 'SELECT owner FROM account WHERE id = $1'",
        "SET lock_timeout = '5s'; UPDATE account SET owner = 'o' || id; RESET lock_timeout",
        "CREATE INDEX CONCURRENTLY owners ON account (owner)",
    ]
    url = os.environ["DATABASE"]
    connect = psycopg.connect
    with connect(url, autocommit=True) as lock, connect(url, autocommit=True) as work:
        while not lock.execute("SELECT pg_try_advisory_lock(77431708279161)").fetchone()[0]:
            time.sleep(0.05)
        lock.execute("CREATE TABLE IF NOT EXISTS history (rank int PRIMARY KEY, pid int, ok bool)")
        for rank, step in enumerate(STEPS):
            if lock.execute("SELECT FROM history WHERE rank = %s AND ok", [rank]).fetchall():
                continue
            if "CONCURRENTLY" in step:
                work.execute(step)
            else:
                with work.transaction():
                    work.execute(step)
            lock.execute("INSERT INTO history VALUES (%s, %s, true)", [rank, os.getpid()])
        assert lock.execute("SELECT pg_advisory_unlock(77431708279161)").fetchone()[0]
"""


def test_one_connection_locks_and_another_migrates(
    pooler: Pooler,
    postgres: Postgres,
    make_database: MakeDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = make_database()
    write(tmp_path, {"flyway.py": FLYWAY})
    monkeypatch.setenv("DATABASE", pooler.dsn(dbname=database))
    with application(pooler, database):
        run_two(tmp_path, "flyway.py")
    ranks = "SELECT array_agg(rank ORDER BY rank), count(DISTINCT pid) FROM history"
    assert postgres.sql(ranks, db=database) == [([0, 1, 2, 3, 4], 1)]
    assert postgres.sql("SELECT owner_of(7)", db=database) == [("o7",)]
    nothing_is_left(pooler, postgres, database)

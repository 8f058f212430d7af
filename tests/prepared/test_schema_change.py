"""Migrations under running clients: prepared statements whose results change their shape."""

import asyncio
import threading
import time

import asyncpg
import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.live.conftest import SharedPooler
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres

MB = 1024 * 1024
GROWTH = 10 * MB  # of resident memory between a third of the time and its end, at most


def direct(postgres: Postgres) -> "psycopg.Connection[tuple[object, ...]]":
    """Return a connection beside the pooler."""
    return psycopg.connect(
        host=postgres.host,
        port=postgres.port,
        user="app",
        password=PASSWORDS["app"],
        dbname="app",
        autocommit=True,
    )


CHANGES = (
    "ALTER TABLE churn ADD COLUMN extra int DEFAULT 7",
    "ALTER TABLE churn ALTER COLUMN extra TYPE text",
    "ALTER TABLE churn DROP COLUMN extra",
    "DROP TABLE IF EXISTS old",
    "ALTER TABLE churn RENAME TO old;"
    " CREATE TABLE churn (id int PRIMARY KEY, n bigint); INSERT INTO churn SELECT id, n FROM old",
)


class Churn:
    """Clients that read and write a table while migrations change it."""

    def __init__(self, pooler: Pooler, postgres: Postgres) -> None:
        self.pooler = pooler
        self.postgres = postgres
        self.over = threading.Event()
        self.done = 0
        self.changes = 0
        self.errors: list[str] = []

    def client(self, number: int) -> None:
        """Run prepared statements outside of any transaction block."""
        try:
            with psycopg.connect(self.pooler.dsn(), autocommit=True) as connection:
                connection.prepare_threshold = 0
                connection.prepared_max = 5
                while not self.over.is_set():
                    row = connection.execute(
                        "SELECT * FROM churn WHERE id = %s", (number,)
                    ).fetchone()
                    assert row is not None
                    assert row[0] == number
                    query = "UPDATE churn SET n = n + 1 WHERE id = %s RETURNING *"
                    assert connection.execute(query, (number,)).fetchone() is not None
                    self.done += 1
                    time.sleep(0.01)
        except (psycopg.Error, AssertionError) as error:
            self.errors.append(repr(error))

    def migrations(self) -> None:
        """Change the table, by turns through the pooler and beside it."""
        try:
            self.migrate()
        except psycopg.Error as error:
            self.errors.append(f"migration: {error!r}")

    def migrate(self) -> None:
        """Do so until it is over; psycopg.Error."""
        beside = direct(self.postgres)
        through = psycopg.connect(self.pooler.dsn(), autocommit=True)
        with beside, through:
            while not self.over.is_set():
                change = CHANGES[self.changes % len(CHANGES)]
                (beside, through)[self.changes % 2].execute(change)
                self.changes += 1
                time.sleep(0.05)

    def run(self, clients: int, seconds: float) -> int:
        """Run; return by how many bytes the pooler's memory grew after the first third."""
        threads = [threading.Thread(target=self.client, args=(i,)) for i in range(clients)]
        threads.append(threading.Thread(target=self.migrations))
        for thread in threads:
            thread.start()
        time.sleep(seconds / 3)
        before = self.pooler.rss
        time.sleep(seconds * 2 / 3)
        growth = self.pooler.rss - before
        self.over.set()
        for thread in threads:
            thread.join(30)
        return growth


@pytest.mark.parametrize(
    ("clients", "seconds"),
    [(20, 10), pytest.param(50, 60, marks=[pytest.mark.slow, pytest.mark.timeout(300)])],
)
def test_migrations_break_no_client(
    shared_pooler: SharedPooler, postgres: Postgres, clients: int, seconds: float
) -> None:
    with direct(postgres) as admin:
        admin.execute("DROP TABLE IF EXISTS churn, old")
        admin.execute("CREATE TABLE churn (id int PRIMARY KEY, n bigint)")
        admin.execute("INSERT INTO churn SELECT i, 0 FROM generate_series(0, 99) i")
        churn = Churn(shared_pooler(databases={"*": {"pool_size": 5}}), postgres)
        growth = churn.run(clients, seconds)
        admin.execute("DROP TABLE IF EXISTS churn, old")
    assert not churn.errors, churn.errors[:3]
    assert churn.changes > seconds * 3
    assert churn.done > clients * 10
    assert growth < GROWTH
    print(f"{churn.done} rounds, {churn.changes} changes, memory {growth / MB:+.1f} MB")


def test_asyncpg_prepares_anew(shared_pooler: SharedPooler, postgres: Postgres) -> None:
    """It relies on the description that it has, and knows what to do with the error."""
    pooler = shared_pooler(databases={"*": {"pool_size": 2}})

    async def main() -> None:
        connection = await asyncpg.connect(pooler.dsn())
        await connection.execute("DROP TABLE IF EXISTS changing")
        await connection.execute("CREATE TABLE changing AS SELECT 1 AS a")
        for i in range(5):
            rows = await connection.fetch("SELECT * FROM changing")
            assert len(rows[0]) == 1 + i
            postgres.sql(f"ALTER TABLE changing ADD COLUMN c{i} text", db="app")
        await connection.execute("DROP TABLE changing")
        await connection.close()

    asyncio.run(main())


def test_within_a_transaction_the_error_comes_once(
    shared_pooler: SharedPooler, postgres: Postgres
) -> None:
    pooler = shared_pooler(databases={"*": {"pool_size": 2}})
    with psycopg.connect(pooler.dsn()) as connection, direct(postgres) as admin:
        connection.prepare_threshold = 0
        connection.execute("DROP TABLE IF EXISTS once")
        connection.execute("CREATE TABLE once AS SELECT 1 AS a")
        connection.commit()
        sql = "SELECT * FROM once WHERE a = %s"
        connection.execute(sql, (1,))
        connection.commit()
        admin.execute("ALTER TABLE once ADD COLUMN b int")
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            connection.execute(sql, (1,))
        connection.rollback()
        assert connection.execute(sql, (1,)).fetchone() == (1, None)
        connection.execute("DROP TABLE once")


def test_parameters_go_again_with_what_is_repeated(
    shared_pooler: SharedPooler, postgres: Postgres
) -> None:
    pooler = shared_pooler(databases={"*": {"pool_size": 2}})
    with psycopg.connect(pooler.dsn(), autocommit=True) as connection, direct(postgres) as admin:
        connection.prepare_threshold = 0
        connection.execute("DROP TABLE IF EXISTS bulky")
        connection.execute("CREATE TABLE bulky (a int, b jsonb)")
        sql = "INSERT INTO bulky (a, b) VALUES (%s, %s) RETURNING *"
        for i in range(5):
            connection.execute(sql, (i, Jsonb({"text": "x" * 1_500 * i})))
            admin.execute(f"ALTER TABLE bulky ADD COLUMN c{i} int")
        row = connection.execute("SELECT count(*), count(DISTINCT a) FROM bulky").fetchone()
        assert row == (5, 5)
        connection.execute("DROP TABLE bulky")


def test_asyncpg_decodes_nothing_by_an_old_description(
    shared_pooler: SharedPooler, postgres: Postgres
) -> None:
    """A server that prepares its statement after the change has no error to tell of it."""
    pooler = shared_pooler(databases={"*": {"pool_size": 2}})

    async def main() -> None:
        first, second = [await asyncpg.connect(pooler.dsn()) for _ in range(2)]
        await first.execute("DROP TABLE IF EXISTS moved")
        await first.execute("CREATE TABLE moved AS SELECT 1::int4 AS a, 2::int4 AS b")
        sql = "SELECT * FROM moved WHERE a = $1"
        assert await first.fetchrow(sql, 1) == (1, 2)
        postgres.sql("ALTER TABLE moved ALTER a TYPE float4, ALTER b TYPE float4", db="app")
        async with second.transaction():  # has the server on which it is prepared
            await second.execute("SELECT 1")
            assert tuple(await first.fetchrow(sql, 1)) == (1.0, 2.0)
            assert tuple(await first.fetchrow(sql, 1.0)) == (1.0, 2.0)
        await first.execute("DROP TABLE moved")
        for connection in (first, second):
            await connection.close()

    asyncio.run(main())


@pytest.mark.parametrize("block", [False, True])
def test_a_change_through_the_pooler_fails_nothing_that_begins_after_it(
    shared_pooler: SharedPooler, block: bool
) -> None:
    """Not even within a transaction block, where nothing can be sent again."""
    pooler = shared_pooler(databases={"*": {"pool_size": 2}})
    with pooler.connect(prepare_threshold=0) as connection, pooler.connect() as other:
        connection.execute("DROP TABLE IF EXISTS widened")
        connection.execute("CREATE TABLE widened AS SELECT 1 AS a")
        for number in range(3):
            with connection.transaction():
                row = connection.execute("SELECT * FROM widened WHERE a = %s", (1,)).fetchone()
                assert row is not None
                assert len(row) == 1 + number
            sql = f"ALTER TABLE widened ADD COLUMN c{number} text"
            if block:
                with other.transaction():
                    other.execute(sql)
            else:
                other.execute(sql)
        connection.execute("DROP TABLE widened")

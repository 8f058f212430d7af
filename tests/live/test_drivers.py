"""Drivers as their users use them: psql, pgbench, psycopg, psycopg2, asyncpg."""

import asyncio
import os
import random
import re
import socket
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import psycopg
import psycopg2.pool
import pytest

from tests.conftest import RunWithConfig
from tests.live.conftest import SharedPooler
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.waiting import wait_until

# psql


def psql(
    postgres: Postgres, url: str, *commands: str, script: str | None = None, status: int = 0
) -> tuple[str, str]:
    """Run psql with `-c` commands or a script as its input; its output and errors."""
    arguments = [argument for command in commands for argument in ("-c", command)]
    done = subprocess.run(
        [postgres.bin_dir / "psql", "-X", "-v", "VERBOSITY=verbose", "-At", *arguments, url],
        input=script,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "LC_ALL": "C.UTF-8", "PGCONNECT_TIMEOUT": "10"},
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


PSQL_SCRIPT = r"""
\set ON_ERROR_STOP off
SELECT 1 AS a, 'zwei' AS b;
SELECT 1/0;
SELECT 1; SELECT 2 \; SELECT 3;
BEGIN;
CREATE TEMP TABLE t (a int, b text) ON COMMIT DROP;
\copy t FROM stdin
1	one
2	two
\.
\copy t FROM PROGRAM 'printf "3\tthree\n"'
\copy (SELECT * FROM t ORDER BY a) TO stdout
COPY t FROM stdin;
oops
\.
ROLLBACK;
SELECT generate_series(1, 3) AS x \gset v_
SELECT 42 AS answer \gset
\echo :answer
SELECT format('SELECT %s', i) FROM generate_series(1, 3) i \gexec
SELECT 'expanded' AS shown \gx
SELECT $$a;b$$ \g
\set FETCH_COUNT 7
SELECT generate_series(1, 20);
DO $$ BEGIN RAISE NOTICE 'noted'; END $$;
\errverbose
\conninfo_is_unknown
SELECT * FROM no_such_table;
\d pg_database
\encoding
"""


def test_psql_script_as_direct(plain_pooler: Pooler, postgres: Postgres) -> None:
    through = psql(postgres, plain_pooler.dsn(), script=PSQL_SCRIPT)
    direct = psql(postgres, postgres.dsn("app", "app"), script=PSQL_SCRIPT)
    assert through == direct
    assert "22012" in through[1]


@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 1/0", "SELEC"])
def test_psql_command_that_fails(plain_pooler: Pooler, postgres: Postgres, sql: str) -> None:
    through = psql(postgres, plain_pooler.dsn(), sql, status=1)
    assert through == psql(postgres, postgres.dsn("app", "app"), sql, status=1)


def test_psql_wrong_password(plain_pooler: Pooler, postgres: Postgres) -> None:
    _, errors = psql(postgres, plain_pooler.dsn(password="wrong"), "SELECT 1", status=2)
    assert 'FATAL:  password authentication failed for user "app"' in errors


def test_psql_over_unix_socket_and_ipv6(
    run_with_config: RunWithConfig, leftovers: Path, postgres: Postgres
) -> None:
    folder = leftovers / "s"
    folder.mkdir()
    listen = {"host": ["127.0.0.1", "::1"], "unix_socket_dir": str(folder)}
    port = free_port()
    pooler = run_with_config(listen={**listen, "port": port})
    for host in (str(folder), "::1", "127.0.0.1"):
        url = f"host={host} port={port} user=app dbname=app password={PASSWORDS['app']}"
        assert psql(postgres, url, "SELECT current_user")[0] == "app\n"
    assert pooler.terminate() == 0
    assert not list(folder.iterdir())
    folder.rmdir()


def free_port() -> int:
    """A port that nobody has, below the ephemeral ones."""
    while True:
        port = random.randrange(12_000, 20_000)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def test_psql_reconnects_and_cancels(plain_pooler: Pooler, postgres: Postgres) -> None:
    script = f"\\c {plain_pooler.dsn(dbname='other')}\nSELECT current_database();\n"
    assert psql(postgres, plain_pooler.dsn(), script=script)[0].splitlines()[-1] == "other"
    with subprocess.Popen(
        [
            postgres.bin_dir / "psql",
            "-X",
            "-c",
            "SELECT pg_sleep(60) /* psql */",
            plain_pooler.dsn(),
        ],
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        wait_until(
            lambda: any("/* psql */" in backend["query"] for backend in postgres.backends("app"))
        )
        running.send_signal(2)
        _, errors = running.communicate(timeout=10)
    assert "canceling statement due to user request" in errors


# pgbench


@pytest.fixture
def bench_database(postgres: Postgres, make_database: Callable[[], str]) -> str:
    """A database with pgbench's tables."""
    name = make_database()
    subprocess.run(
        [postgres.bin_dir / "pgbench", "-i", "-q", "-s", "1", postgres.dsn("app", name)],
        check=True,
        capture_output=True,
    )
    return name


@pytest.mark.parametrize(
    ("mode", "protocol"),
    [
        ("transaction", "simple"),
        ("transaction", "extended"),
        ("transaction", "prepared"),
        ("session", "prepared"),
    ],
)
def test_pgbench(
    shared_pooler: SharedPooler,
    postgres: Postgres,
    bench_database: str,
    mode: str,
    protocol: str,
) -> None:
    pooler = shared_pooler(defaults={"pool_mode": mode})
    # Its thread waits for each PREPARE: with more clients than servers it would lock itself out.
    clients, each = (5 if mode == "session" or protocol == "prepared" else 20), 20
    for extra in ([], ["-C"]) if protocol == "simple" else ([],):
        done = subprocess.run(
            [
                postgres.bin_dir / "pgbench",
                *("-n", "-M", protocol, "-c", str(clients), "-j", "2", "-t", str(each), *extra),
                pooler.dsn(dbname=bench_database),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert f"processed: {clients * each}/{clients * each}" in done.stdout
        assert re.search(r"failed transactions: 0 ", done.stdout)
    sums = "SELECT sum(abalance) FROM pgbench_accounts"
    balances = "SELECT sum(bbalance) FROM pgbench_branches"
    deltas = "SELECT sum(delta) FROM pgbench_history"
    values = {postgres.sql(query, db=bench_database)[0][0] for query in (sums, balances, deltas)}
    assert len(values) == 1


# psycopg 3


def test_psycopg_copy(plain_pooler: Pooler) -> None:
    with plain_pooler.connect(autocommit=False) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE t (a int, b text) ON COMMIT DROP")
        rows = [(i, f"row\t{i}") for i in range(5000)]
        with cursor.copy("COPY t FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        with cursor.copy("COPY t TO STDOUT") as copy:
            copy.set_types(["int4", "text"])
            assert list(copy.rows()) == rows
        with (
            pytest.raises(psycopg.DataError),
            cursor.copy("COPY t FROM STDIN") as copy,
        ):
            copy.write("only one column\n" * 10_000)
        connection.rollback()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_psycopg_server_cursor(plain_pooler: Pooler) -> None:
    with (
        plain_pooler.connect(autocommit=False) as connection,
        connection.cursor("named") as cursor,
    ):
        cursor.itersize = 100
        cursor.execute("SELECT generate_series(1, 1000)")
        assert sum(row[0] for row in cursor) == 500_500


def test_psycopg_pipeline(plain_pooler: Pooler) -> None:
    with plain_pooler.connect() as connection:
        with connection.pipeline() as pipeline:
            cursors = [connection.execute("SELECT %s::int", [i]) for i in range(100)]
            pipeline.sync()
            assert [cursor.fetchone() for cursor in cursors] == [(i,) for i in range(100)]
        # Which of the two errors it is depends on who reads the reply first.
        errors = (psycopg.errors.DivisionByZero, psycopg.errors.PipelineAborted)
        with pytest.raises(errors), connection.pipeline():
            [connection.execute(sql) for sql in ("SELECT 1/0", "SELECT 1")]
        assert connection.execute("SELECT 'again'").fetchone() == ("again",)


def test_psycopg_notices_and_errors(plain_pooler: Pooler) -> None:
    notices: list[str | None] = []
    with plain_pooler.connect() as connection:
        connection.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
        connection.execute("DO $$ BEGIN RAISE NOTICE 'hello'; RAISE WARNING 'you'; END $$")
        with pytest.raises(psycopg.errors.UndefinedTable) as error:
            connection.execute("SELECT * FROM missing")
        assert error.value.diag.statement_position == "15"
        assert connection.execute("SELECT %b::int, %s::text", [1, None]).fetchone() == (1, None)
    assert notices == ["hello", "you"]


def test_psycopg_cancel(plain_pooler: Pooler, postgres: Postgres) -> None:
    for cancel in ("cancel", "cancel_safe"):
        with plain_pooler.connect() as connection:
            timer = threading.Timer(0.1, getattr(connection, cancel))
            timer.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute("SELECT pg_sleep(20)")
            timer.join()
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_psycopg_transactions(plain_pooler: Pooler) -> None:
    with plain_pooler.connect() as connection:
        with connection.transaction():
            connection.execute("CREATE TEMP TABLE t (a int) ON COMMIT DROP")
            with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
                connection.execute("SELECT 1/0")
            connection.execute("INSERT INTO t VALUES (1)")
            assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]
        with connection.transaction(force_rollback=True):
            connection.execute("SELECT 1")


def test_psycopg_async(plain_pooler: Pooler) -> None:
    async def ask(number: int) -> None:
        async with await psycopg.AsyncConnection.connect(
            plain_pooler.dsn(), prepare_threshold=None, autocommit=number % 2 == 0
        ) as connection:
            for i in range(20):
                cursor = await connection.execute("SELECT %s::int * 1000 + %s", [number, i])
                assert await cursor.fetchone() == (number * 1000 + i,)
                await connection.commit()

    async def main() -> None:
        await asyncio.gather(*(ask(number) for number in range(20)))

    asyncio.run(main())


# psycopg2


def test_psycopg2_simple_connection_pool(plain_pooler: Pooler) -> None:
    pool = psycopg2.pool.SimpleConnectionPool(
        minconn=1,
        maxconn=10,
        host=plain_pooler.host,
        port=plain_pooler.port,
        user="app",
        password=PASSWORDS["app"],
        dbname="app",
    )
    connections = [pool.getconn() for _ in range(10)]
    with pytest.raises(psycopg2.pool.PoolError):
        pool.getconn()
    for number, connection in enumerate(connections[:5]):  # as many as there are servers
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT %s", (number,))
            assert cursor.fetchone() == (number,)
    for connection in connections:
        pool.putconn(connection)
    for number in range(30):
        connection = pool.getconn()
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT %s", (number,))
                assert cursor.fetchone() == (number,)
            connection.commit()
        finally:
            pool.putconn(connection)
    pool.closeall()


def test_psycopg2_threaded_connection_pool(plain_pooler: Pooler) -> None:
    pool = psycopg2.pool.ThreadedConnectionPool(1, 10, plain_pooler.dsn())

    def work(number: int) -> None:
        connection = pool.getconn()
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT %s, pg_sleep(0.001)", (number,))
                assert cursor.fetchone() == (number, "")
        finally:
            pool.putconn(connection)

    with ThreadPoolExecutor(10) as threads:
        for future in [threads.submit(work, number) for number in range(200)]:
            future.result()
    pool.closeall()


def test_psycopg2_notices_copy_and_named_cursor(plain_pooler: Pooler, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_text("1\tone\n2\ttwo\n")
    connection = psycopg2.connect(plain_pooler.dsn())
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE t (a int, b text) ON COMMIT DROP")
        with data.open() as file:
            cursor.copy_from(file, "t")
        out = tmp_path / "out"
        with out.open("w") as file:
            cursor.copy_expert("COPY t TO STDOUT (FORMAT csv)", file)
        assert out.read_text() == "1,one\n2,two\n"
        cursor.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
        assert connection.notices == ["NOTICE:  hello\n"]
        with connection.cursor("named") as named:
            named.execute("SELECT * FROM t ORDER BY a")
            assert named.fetchall() == [(1, "one"), (2, "two")]
    connection.close()


# asyncpg


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_asyncpg(shared_pooler: SharedPooler, mode: str) -> None:
    pooler = shared_pooler(defaults={"pool_mode": mode})

    async def main() -> None:
        connection = await asyncpg.connect(pooler.dsn())
        assert await connection.fetchval("SELECT $1::int + $2", 1, 2) == 3
        assert await connection.fetchval("SELECT $1::int + $2", 3, 4) == 7
        row = await connection.fetchrow("SELECT now() - now() AS d, ARRAY[1,2] AS a, 1.5::numeric")
        assert row["a"] == [1, 2]
        with pytest.raises(asyncpg.DivisionByZeroError):
            await connection.fetchval("SELECT 1/0")
        async with connection.transaction():
            await connection.execute("CREATE TEMP TABLE t (a int, b text) ON COMMIT DROP")
            await connection.executemany(
                "INSERT INTO t VALUES ($1, $2)", [(i, str(i)) for i in range(100)]
            )
            await connection.copy_records_to_table("t", records=[(1000, "k")])
            assert await connection.fetchval("SELECT count(*) FROM t") == 101
            seen = [record["a"] async for record in connection.cursor("SELECT a FROM t")]
            assert len(seen) == 101
        with pytest.raises(TimeoutError):
            await connection.fetchval("SELECT pg_sleep(20)", timeout=0.1)
        assert await connection.fetchval("SELECT 'after'") == "after"
        await connection.close()
        async with asyncpg.create_pool(pooler.dsn(), min_size=1, max_size=5) as pool:
            answers = await asyncio.gather(
                *(pool.fetchval("SELECT $1::int", i) for i in range(100))
            )
        assert answers == list(range(100))

    asyncio.run(main())

"""The console as its users meet it: psql, psycopg, asyncpg; simple and extended protocol."""

import asyncio
import subprocess
import time
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import errors

from pooler.admin.views import VIEWS
from tests.admin.conftest import ADMIN, STATS, ask, console
from tests.admin.test_views import PGBOUNCER
from tests.conftest import RunWithConfig
from tests.support import rawclient as raw
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient

INT4, INT8, TEXT, NUMERIC = 23, 20, 25, 1700


def psql(
    pooler: Pooler, *commands: str, user: str = ADMIN, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run psql on the console, without a table's frame."""
    arguments = [part for command in commands for part in ("-c", command)]
    return subprocess.run(
        ["psql", "-X", "-A", "-t", *options, pooler.dsn(user, "pgbouncer"), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


# psql.


def test_psql(operated: Pooler) -> None:
    """A session with answers, tags, notices and errors."""
    done = psql(operated, "SHOW VERSION", "PAUSE app", "RESUME app", "RELOAD", "SHOW STATE;")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("PgBouncer 1.")
    assert done.stdout.splitlines()[1:4] == ["PAUSE", "RESUME", "RELOAD"]
    assert "active|yes" in done.stdout
    assert "nothing has changed" in done.stderr
    failed = psql(operated, "RESUME", options=("-v", "VERBOSITY=verbose"))
    assert "ERROR:  55000: pooler is not paused/suspended" in failed.stderr
    assert "HINT:  Nothing is paused." in failed.stderr


def test_psql_goes_on_after_what_it_asks_of_a_catalog(operated: Pooler) -> None:
    """`\\d` is a query that no console understands; the session lives on."""
    done = subprocess.run(
        ["psql", "-X", "-A", "-t", operated.dsn(ADMIN, "pooler")],
        input="\\d\n\\conninfo\nBEGIN;\nSHOW LISTS;\nCOMMIT;\n;\nSHOW HELP;\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "invalid command" in done.stderr
    assert "SHOW HELP" in done.stderr
    assert "used_servers|" in done.stdout
    assert "PAUSE [database" in done.stdout


# Columns.


@pytest.mark.parametrize("name", sorted(PGBOUNCER))
def test_columns_on_the_wire(name: str, login_console: RawClient) -> None:
    """Names and types by the simple protocol, as PgBouncer's clients get them."""
    messages = login_console.query(f"SHOW {name}")
    kinds = [kind for kind, _ in messages]
    assert kinds[0] == b"T"
    assert kinds[-2:] == [b"C", b"Z"]
    names, types = _described(messages[0][1])
    assert names == PGBOUNCER[name].split()
    assert [_TYPES[kind] for kind in types] == [c.type.value for c in VIEWS[name].columns]


_TYPES = {16: "bool", INT8: "int8", INT4: "int4", TEXT: "text", 701: "float8", NUMERIC: "numeric"}


@pytest.fixture
def login_console(operated: Pooler) -> Any:
    """A raw client on the console."""
    client = RawClient(operated.host, operated.port)
    client.login(ADMIN, "pgbouncer", PASSWORDS[ADMIN])
    yield client
    client.close()


def _described(body: bytes) -> tuple[list[str], list[int]]:
    names, types = [], []
    at = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        end = body.index(b"\0", at)
        names.append(body[at:end].decode())
        types.append(int.from_bytes(body[end + 7 : end + 11], "big"))
        at = end + 19
    return names, types


# psycopg.


@pytest.mark.parametrize("binary", [False, True])
def test_extended_protocol(operated: Pooler, binary: bool) -> None:
    """Parse, Bind, Describe, Execute: rows of the right Python types, in text and in binary."""
    with console(operated) as connection, connection.cursor(binary=binary) as cursor:
        for name in VIEWS:
            if name in PGBOUNCER:
                simple = connection.execute(f"SHOW {name}").description
                # psycopg uses the extended protocol when there is anything to bind or prepare.
                cursor.execute(f"SHOW {name}", prepare=True)
                assert cursor.description is not None
                assert simple is not None
                assert [c.name for c in cursor.description] == [c.name for c in simple]
                cursor.fetchall()
        cursor.execute("SHOW LISTS", prepare=True)
        assert dict(cursor.fetchall())["used_clients"] == 0
        cursor.execute("SHOW TOTALS", prepare=True)
        totals = {row["name"] for row in ask(operated, "SHOW TOTALS")}
        assert dict(cursor.fetchall()).keys() == totals


def test_parameters(operated: Pooler) -> None:
    """Names and numbers can be bound, an int as well as a text."""
    with operated.connect() as client, console(operated) as connection:
        client.execute("SELECT 1")
        connection.execute("PAUSE %s TIMEOUT %s", ["app", "600"])
        assert ask(operated, "SHOW DATABASES")[0]["paused"] == 1
        connection.execute("RESUME %s", ["app"])
        connection.execute("SET default_pool_size = %s", ["7"])
        connection.execute("RELOAD")
        ident = ask(operated, "SHOW CLIENTS")[0]["id"]
        connection.execute("KILL_CLIENT %s", [ident])
        with pytest.raises(errors.AdminShutdown, match="admin forced disconnect"):
            client.execute("SELECT 1")
        with pytest.raises(errors.UndefinedObject, match="client not found"):
            connection.execute("KILL_CLIENT %s", [10**9])


def test_a_failed_message_skips_to_the_sync(operated: Pooler) -> None:
    """In a pipeline as in any other server's."""
    with console(operated) as connection:

        def in_a_pipeline() -> None:
            with connection.pipeline():
                for command in ("SHOW LISTS", "NONSENSE", "PAUSE"):
                    connection.execute(command)

        with pytest.raises(errors.SyntaxError):
            in_a_pipeline()
        assert ask(operated, "SHOW STATE")[0] == {"key": "active", "value": "yes"}
        assert connection.execute("SHOW STATE").fetchall()


def test_transactions_are_harmless(operated: Pooler) -> None:
    """psycopg without autocommit begins one."""
    with console(operated, autocommit=False) as connection:
        connection.execute("SHOW POOLS")
        assert connection.info.transaction_status.name == "INTRANS"
        connection.commit()
        connection.execute("PAUSE app")
        connection.rollback()
        assert connection.info.transaction_status.name == "IDLE"
    assert ask(operated, "SHOW STATE")  # and PAUSE is no part of any transaction
    ask(operated, "RESUME app")


def test_async_psycopg(operated: Pooler) -> None:
    async def look() -> None:
        connection = await psycopg.AsyncConnection.connect(
            operated.dsn(ADMIN, "pooler"), autocommit=True
        )
        async with connection, connection.cursor() as cursor:
            await cursor.execute("SHOW CLIENTS")
            (row,) = await cursor.fetchall()
            assert row[:3] == ("C", ADMIN, "pooler")
            await cursor.execute("SHOW CLIENTS", prepare=True)
            assert len(await cursor.fetchall()) == 1

    asyncio.run(look())


def test_asyncpg(operated: Pooler) -> None:
    """Which wants every value in binary, and resets a session when it gives it back."""

    async def look() -> None:
        async with asyncpg.create_pool(
            operated.dsn(ADMIN, "pgbouncer"), min_size=1, max_size=1
        ) as pool:
            for _ in range(2):
                pools = {row["database"]: row for row in await pool.fetch("SHOW POOLS")}
                assert pools["pgbouncer"]["cl_active"] == 1
                await pool.fetch("SHOW STATS")
                assert await pool.execute("PAUSE app") == "PAUSE"
                assert await pool.execute("RESUME app") == "RESUME"
                totals = dict(map(tuple, await pool.fetch("SHOW TOTALS")))
                (shown,) = [
                    row["value"]
                    for row in ask(operated, "SHOW TOTALS")
                    if row["name"] == "total_query_count"
                ]
                assert totals["total_query_count"] == shown

    asyncio.run(look())


def test_rows_in_portions(login_console: RawClient) -> None:
    """Execute with a number of rows suspends the portal, as pgjdbc's setFetchSize wants."""
    five = raw.execute(max_rows=5)
    login_console.send(raw.parse("SHOW LISTS"), raw.bind(), *[five] * 4, raw.sync())
    kinds = raw.kinds(login_console.read_until(b"Z"))
    assert kinds == b"12" + 2 * (b"DDDDD" + b"s") + b"DDDDC" + b"C" + b"Z"


# Drivers' chatter.


CHATTER = [
    "SHOW client_encoding",
    "SHOW datestyle",
    "SHOW TimeZone",
    "SHOW TIME ZONE",
    "SHOW standard_conforming_strings",
    "SHOW default_transaction_isolation",
    "SHOW TRANSACTION ISOLATION LEVEL",
    "SELECT version()",
    "select pg_catalog.version()",
    "SELECT 1",
    "SELECT lists",
    "SET extra_float_digits = 3",
    "SET client_encoding TO 'UTF8'",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET application_name = 'x y'",
    "BEGIN",
    "COMMIT",
    "START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "ROLLBACK",
    "DISCARD ALL",
    "DEALLOCATE ALL",
    "RESET ALL",
    "",
    ";",
    "SHOW LISTS; SHOW STATE;",
    "-- nothing\n",
]


@pytest.mark.parametrize("query", CHATTER)
def test_chatter(query: str, operated: Pooler) -> None:
    """Also for those who may only look; an answer, or nothing, but no error."""
    with console(operated, STATS) as connection:
        connection.execute(query)
        assert connection.execute("SHOW STATE").fetchall()


def test_commands_of_one_query_are_answered_each(login_console: RawClient) -> None:
    """Up to the first that fails, and ready once."""
    kinds = raw.kinds(login_console.query("SHOW STATE; SHOW LISTS; RESUME; SHOW STATE"))
    assert kinds.replace(b"D", b"") == b"TCTCEZ"


# Who may what.

SHOWS = [f"SHOW {name}" for name in (*PGBOUNCER, "pins", "waiters", "queries", "errors", "help")]
COMMANDS = [
    "PAUSE",
    "PAUSE app",
    "RESUME app",
    "DISABLE app",
    "ENABLE app",
    "RECONNECT",
    "KILL app",
    "WAIT_CLOSE",
    "KILL_CLIENT 1",
    "CANCEL 1",
    "UNPIN 1",
    "RELOAD",
    "CHECK CONFIG",
    "SET default_pool_size = 1",
    "RESET default_pool_size",
    "SHUTDOWN",
    "SHUTDOWN WAIT_FOR_CLIENTS",
    "SUSPEND",
]


def test_who_may_look(operated: Pooler) -> None:
    for user in (ADMIN, STATS):
        with console(operated, user) as connection:
            for command in SHOWS:
                connection.execute(command)
                connection.execute(command, prepare=True)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("prepare", [False, True])
def test_who_may_only_look(operated: Pooler, command: str, prepare: bool) -> None:
    with (
        console(operated, STATS) as connection,
        pytest.raises(errors.InsufficientPrivilege, match="admin access needed"),
    ):
        connection.execute(command, prepare=prepare)
    with operated.connect() as client:
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_who_may_not_even_log_in(operated: Pooler) -> None:
    for database in ("pgbouncer", "pooler"):
        with pytest.raises(psycopg.OperationalError, match="not allowed"):
            console(operated, "app", database)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            console(operated, ADMIN, database, password="wrong")


def test_a_right_that_is_taken_away(run_with_config: RunWithConfig) -> None:
    """Counts at once, also in a session that is open, and for what is prepared."""
    pooler = run_with_config(admin={"users": ADMIN})
    with console(pooler) as connection:
        connection.execute("PAUSE other", prepare=True)
        event = pooler.reload({**pooler.config, "admin": {"socket": "", "stats_users": ADMIN}})
        assert event["event"] == "reloaded"
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("PAUSE other", prepare=True)
        assert connection.execute("SHOW STATE").fetchall()


def test_trust_makes_nobody_an_administrator(run_with_config: RunWithConfig) -> None:
    """The name `pgbouncer` is worth something on a unix socket alone."""
    pooler = run_with_config(auth={"type": "trust"})
    for user in ("pgbouncer", "pooler"):
        with pytest.raises(psycopg.OperationalError, match="not allowed"):
            console(pooler, user, "pgbouncer")


@pytest.mark.parametrize("user", ["pgbouncer", "pooler"])
def test_who_runs_the_pooler_needs_no_password(
    run_with_config: RunWithConfig, tmp_path: Path, user: str
) -> None:
    """By the kernel's word for who is at the other end of a unix socket."""
    run_with_config(listen={"unix_socket_dir": str(tmp_path)})
    port = 5432  # libpq knows no port 0
    (tmp_path / f".s.PGSQL.{port}").symlink_to(".s.PGSQL.0")
    with psycopg.connect(host=str(tmp_path), port=port, user=user, dbname=user) as connection:
        connection.autocommit = True
        connection.execute("PAUSE")
        connection.execute("RESUME")
    with pytest.raises(psycopg.OperationalError, match="password"):  # another one needs his
        psycopg.connect(host=str(tmp_path), port=port, user=ADMIN, dbname="pgbouncer")
    with pytest.raises(psycopg.OperationalError, match="password"):  # and no other database
        psycopg.connect(host=str(tmp_path), port=port, user=user, dbname="app")


# Bounds.


def test_console_is_open_when_all_is_full(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(admin={"users": ADMIN}, limits={"max_client_connections": 2})
    with pooler.connect(), pooler.connect():
        with pytest.raises(psycopg.OperationalError, match="no more connections allowed"):
            pooler.connect()
        with console(pooler) as connection:
            lists = dict(connection.execute("SHOW LISTS").fetchall())
            assert lists["used_clients"] == 2


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("SHOW " + "x" * 9_000, errors.ProgramLimitExceeded),
        ("SHOW STATE;" * 200, errors.ProgramLimitExceeded),
        ("SHOW 'x", errors.SyntaxError),
        ("\x01", errors.SyntaxError),
        ("PAUSE app USER", errors.SyntaxError),
        ("PAUSE app TIMEOUT never", errors.InvalidParameterValue),
        ("KILL_CLIENT x", errors.InvalidParameterValue),
        ("KILL_CLIENT 99999999999999999999999", errors.InvalidParameterValue),
        ("DISABLE", errors.SyntaxError),
        ("PAUSE pgbouncer", errors.ObjectNotInPrerequisiteState),
        ("SHOW fds", errors.FeatureNotSupported),
        ("SUSPEND", errors.FeatureNotSupported),
        ("SHOW pools_by_microseconds", errors.SyntaxError),
    ],
)
def test_bad_input(operated: Pooler, query: str, error: type[Exception]) -> None:
    with console(operated) as connection:
        with pytest.raises(error):
            connection.execute(query)
        assert connection.execute("SHOW STATE").fetchall()


def test_a_message_too_long(login_console: RawClient) -> None:
    login_console.send(b"Q" + (1 << 20).to_bytes(4, "big") + b"x" * 100)
    kind, body = login_console.read_until(b"E")[-1]
    assert kind == b"E"
    assert raw.error_fields(body)["C"] == "08P01"
    assert login_console.is_closed()


def test_many_sessions(operated: Pooler) -> None:
    """So many and no more; when one has gone, there is a place again."""
    sessions = [console(operated) for _ in range(100)]
    with pytest.raises(psycopg.OperationalError, match="no more than 100 console sessions"):
        console(operated)
    sessions.pop().close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            console(operated).close()
            break
        except psycopg.OperationalError:
            time.sleep(0.01)
    else:
        pytest.fail("no place became free")
    for session in sessions:
        session.close()


def test_what_strangers_are_called_is_shown_as_it_is(operated: Pooler, postgres: Postgres) -> None:
    """A name that would be SQL, or a NUL, or no UTF-8, in an answer."""
    name = 'x"; PAUSE; --'
    with operated.connect(application_name=name) as client:
        client.execute("SELECT 1")
        found = [row["application_name"] for row in ask(operated, "SHOW CLIENTS")]
        assert name in found

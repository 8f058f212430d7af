"""Row-level security by a setting or by a role, many tenants on few servers: never another's row.

Each client serves one request after another, of any tenant, as a web application's pool does: it
says whom the request is for, then asks for rows, in transactions of their own. What a client asks
for must be answered with that tenant's rows, or with an error, never with another's.
"""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
import pytest

from tests.conftest import RunWithConfig
from tests.support import rawclient as raw
from tests.support.crowd import Connection, connect
from tests.support.pooler import Pooler
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until

CLIENTS = 50
SERVERS = 5
TENANTS = [f"tenant_{number}" for number in range(8)]
DROPPED = TENANTS[3]

SCHEMA = """
    CREATE TABLE by_setting (tenant text, v int);
    CREATE TABLE by_role (tenant text, v int);
    ALTER TABLE by_setting ENABLE ROW LEVEL SECURITY;
    ALTER TABLE by_role ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON by_setting USING (tenant = current_setting('app.tenant', true));
    CREATE POLICY own ON by_role USING (tenant = current_user);
    GRANT SELECT ON by_setting, by_role TO PUBLIC;
"""


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """A database with rows of every tenant; `app` may become any of them."""
    name = postgres.create_database(owner="postgres")
    with postgres.connect(dbname=name) as connection:
        connection.execute(SCHEMA)
        for tenant in TENANTS:
            connection.execute(f"CREATE ROLE {tenant}; GRANT {tenant} TO app")
            for table in ("by_setting", "by_role"):
                connection.execute(
                    f"INSERT INTO {table} SELECT '{tenant}', n FROM generate_series(1, 3) AS n"
                )
    yield name
    postgres.drop_database(name)
    for tenant in TENANTS:
        postgres.sql(f"DROP ROLE IF EXISTS {tenant}")


@dataclass
class Seen:
    """What the clients were told."""

    right: int = 0
    errors: dict[str, set[str]] = field(default_factory=dict)
    """SQLSTATEs by tenant."""
    faults: list[str] = field(default_factory=list)


class Application:
    """One client, and the tenant that its session is set to."""

    def __init__(self, connection: Connection, dice: random.Random, seen: Seen) -> None:
        self.connection = connection
        self.dice = dice
        self.seen = seen

    async def ask(self, tenant: str, data: bytes) -> list[str] | None:
        """Ask; the first column, None for an error."""
        answer: list[str] | None = []
        for kind, body in await self.connection.ask(data):
            if kind == b"E":
                sqlstate = raw.error_fields(body)["C"]
                self.seen.errors.setdefault(tenant, set()).add(sqlstate)
                answer = None
            elif kind == b"D" and answer is not None:
                answer.append((raw.data_row(body)[0] or b"").decode())
        return answer

    async def request(self) -> None:
        """Say whom it is for, then ask for rows."""
        tenant = self.dice.choice(TENANTS)
        table, say, unsay = self.dice.choice(
            (
                ("by_setting", raw.query(f"SET app.tenant = '{tenant}'"), b""),
                ("by_setting", raw.query(f"SET app.tenant TO {tenant}; SELECT 'x' LIMIT 0"), b""),
                ("by_setting", _bound("app.tenant", tenant), b""),
                ("by_role", raw.query(f"SET ROLE {tenant}"), raw.query("RESET ROLE")),
                ("by_role", raw.query(f'SET ROLE "{tenant}"'), raw.query("SET ROLE NONE")),
                ("by_role", _bound("role", tenant), raw.query("RESET ROLE")),
            )
        )
        if await self.ask(tenant, say) is not None:
            for _ in range(self.dice.randrange(1, 4)):
                await asyncio.sleep(0)
                rows = await self.ask(tenant, self._question(table))
                if rows == [tenant] * 3:
                    self.seen.right += 1
                elif rows is not None and not (rows == [] and tenant == DROPPED):
                    self.seen.faults.append(f"{tenant} in {table} was told {rows}")
        if unsay:
            await self.ask(tenant, unsay)

    def _question(self, table: str) -> bytes:
        sql = f"SELECT tenant FROM {table}"
        if self.dice.random() < 0.5:
            return raw.query(sql)
        return raw.parse(sql) + raw.bind() + raw.execute() + raw.sync()


def _bound(name: str, value: str) -> bytes:
    parse = raw.parse("SELECT set_config($1, $2, false)")
    return parse + raw.bind([name.encode(), value.encode()]) + raw.execute() + raw.sync()


async def serve(pooler: Pooler, database: str, requests: int, gate: asyncio.Event) -> Seen:
    """Have all clients serve so many requests each; the gate opens when half of them are done."""
    seen = Seen()
    done = 0

    async def client(number: int) -> None:
        nonlocal done
        connection = await connect(pooler.host, pooler.port, "app", database)
        application = Application(connection, random.Random(number), seen)
        for _ in range(requests):
            await application.request()
            done += 1
            if done >= CLIENTS * requests // 2:
                gate.set()
        await connection.close()

    async with asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            clients.create_task(client(number))
    return seen


def run(pooler: Pooler, postgres: Postgres, database: str, requests: int, drop: bool) -> Seen:
    """Serve; and have a tenant's role dropped in the middle of it."""

    async def everything() -> Seen:
        gate = asyncio.Event()
        serving = asyncio.create_task(serve(pooler, database, requests, gate))
        await gate.wait()
        if drop:
            sql = f"DROP OWNED BY {DROPPED}; DROP ROLE {DROPPED}"
            await asyncio.to_thread(postgres.sql, sql, db=database)
        return await serving

    return asyncio.run(everything())


@pytest.mark.parametrize("requests", [8, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("drop", [False, True], ids=["all stay", "one is dropped"])
def test_no_row_of_another_tenant(
    run_with_config: RunWithConfig, postgres: Postgres, database: str, requests: int, drop: bool
) -> None:
    pooler = run_with_config(auth={"type": "trust"}, databases={"*": {"pool_size": SERVERS}})
    seen = run(pooler, postgres, database, requests, drop)
    assert not seen.faults
    assert seen.right > CLIENTS * requests // 2
    assert set(seen.errors) <= ({DROPPED} if drop else set())
    connected = [event for event in pooler.log if event["event"] == "server connected"]
    assert len(connected) - pooler.log_text.count('"server closed"') <= SERVERS
    assert len({event["pid"] for event in connected}) < CLIENTS


def test_a_session_whose_role_is_gone_can_have_another(
    run_with_config: RunWithConfig, postgres: Postgres, database: str
) -> None:
    """Nothing runs as anybody else meanwhile; what gives the role up is no less than directly."""
    pooler = run_with_config(databases={"*": {"pool_size": 2}})
    with pooler.connect(dbname=database) as client, pooler.connect(dbname=database) as other:
        for give_up in (
            "RESET ROLE",
            "set session role none;",
            f"SET ROLE {TENANTS[0]}",
            "RESET SESSION AUTHORIZATION",
            "DISCARD ALL",
        ):
            postgres.sql("CREATE ROLE brief; GRANT brief TO app", db=database)
            client.execute("SET ROLE brief")
            other.execute("SELECT 1")
            with other.transaction(), pooler.connect(dbname=database) as third:
                third.execute("SELECT 1")
            postgres.sql("DROP ROLE brief", db=database)
            with pytest.raises(psycopg.Error):
                client.execute("SELECT tenant FROM by_role")
            client.execute(give_up)
            name = TENANTS[0] if TENANTS[0] in give_up else "app"
            assert client.execute("SELECT current_user").fetchone() == (name,)
        wait_until(lambda: other.execute("SELECT current_user").fetchone() == ("app",))

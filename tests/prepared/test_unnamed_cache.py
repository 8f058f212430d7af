"""`statement_cache: unnamed`: unnamed statements that come again are served as named ones."""

import asyncio
import random
import re

import asyncpg
import pytest

from tests.live.conftest import Login, SharedPooler
from tests.prepared.test_same_as_direct import play, script
from tests.support import rawclient as raw
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import Message, RawClient

PLACE = re.compile(rb"F[^\0]*\0L\d+\0R[^\0]*\0")

PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE '%pooler%'"


@pytest.fixture
def pooler(shared_pooler: SharedPooler) -> Pooler:
    return shared_pooler(databases={"*": {"pool_size": 2, "statement_cache": "unnamed"}})


def ask(sql: str, *values: bytes) -> bytes:
    """Return what a driver that prepares nothing sends."""
    return raw.parse(sql) + raw.bind(values) + raw.describe() + raw.execute() + raw.sync()


def alike(reply: Message) -> Message:
    """Return a reply without the place in the server's source that an error names."""
    kind, body = reply
    return kind, PLACE.sub(b"", body) if kind == b"E" else body


def test_what_comes_again_is_prepared(shared_pooler: SharedPooler, login: Login) -> None:
    pooler = shared_pooler(databases={"*": {"pool_size": 1, "statement_cache": "unnamed"}})
    with login(at=pooler) as client, login(at=pooler) as other:
        for one in (client, other):
            for number in range(5):
                one.send(ask("SELECT 40 + $1::int", b"%d" % number))
                replies = one.read_until()
                assert raw.kinds(replies) == b"12TDCZ"
                assert raw.rows(replies) == [[b"%d" % (40 + number)]]
        assert client.values(PREPARED) == [[b"1"]]
        for number in range(5):
            client.send(ask(f"SELECT 50 + {number}"))
            assert raw.rows(client.read_until()) == [[b"%d" % (50 + number)]]
        assert client.values(PREPARED) == [[b"1"]], "what comes once is not"


def test_it_is_off_by_default(shared_pooler: SharedPooler, login: Login) -> None:
    with login(at=shared_pooler()) as client:
        for _ in range(5):
            client.send(ask("SELECT 41"))
            client.read_until()
        assert client.values("SELECT name FROM pg_prepared_statements") == []


def test_a_changed_schema_is_not_seen(pooler: Pooler, postgres: Postgres, login: Login) -> None:
    """Directly, what is parsed each time is never stale."""
    postgres.sql("DROP TABLE IF EXISTS fresh", db="app")
    postgres.sql("CREATE TABLE fresh AS SELECT 1 AS a; GRANT SELECT ON fresh TO app", db="app")
    blind = raw.parse("SELECT * FROM fresh") + raw.bind() + raw.execute() + raw.sync()
    with login(at=pooler) as client:
        for columns in range(1, 5):
            for request, kinds in ((ask("SELECT * FROM fresh"), b"12TDCZ"), (blind, b"12DCZ")):
                client.send(request)
                replies = client.read_until()
                assert raw.kinds(replies) == kinds
                assert len(raw.rows(replies)[0]) == columns
            postgres.sql(f"ALTER TABLE fresh ADD COLUMN c{columns} int", db="app")
    postgres.sql("DROP TABLE fresh", db="app")


def test_settings_that_a_plan_depends_on_are_its_own(pooler: Pooler, login: Login) -> None:
    with login(at=pooler) as client, login(at=pooler) as other:
        other.query("SET plan_cache_mode = force_custom_plan")
        other.query("SET search_path = pg_catalog")
        for one, path in ((client, b'"$user", public'), (other, b"pg_catalog")):
            for _ in range(3):
                one.send(ask("SELECT current_setting('search_path')"))
                assert raw.rows(one.read_until()) == [[path]]


@pytest.mark.parametrize("part", range(3))
def test_replies_are_those_of_postgres(pooler: Pooler, postgres: Postgres, part: int) -> None:
    through = [RawClient(pooler.host, pooler.port) for _ in range(2)]
    for client in through:
        client.login("app", "app", PASSWORDS["app"])
    for seed in range(500 + part * 60, 560 + part * 60):
        dice = random.Random(seed)
        chunks = script(dice)
        for at in range(len(chunks)):
            sql = dice.choice(("SELECT 7", "SELECT $1::int", "SELECT 1/0", "VALUES (1), (2)"))
            values = [b"3"] if "$" in sql else []
            unnamed = raw.parse(sql) + raw.describe("S", "") + raw.sync() * dice.randint(0, 1)
            unnamed += raw.bind(values) + raw.describe() * dice.randint(0, 1) + raw.execute()
            chunks[at] = unnamed + raw.sync() + chunks[at]
        with RawClient(postgres.host, postgres.port) as direct:
            direct.login("app", "app", PASSWORDS["app"])
            expected = play(direct, chunks)
            direct.send(raw.terminate())
        got = play(through[seed % 2], chunks)
        assert [alike(reply) for reply in got] == [alike(reply) for reply in expected], seed
        through[seed % 2].query("DEALLOCATE ALL")
    for client in through:
        client.send(raw.terminate())
        client.close()


def test_asyncpg_without_its_own_cache(pooler: Pooler, postgres: Postgres) -> None:
    """It describes the unnamed statement, and binds it in a later transaction."""

    async def main() -> None:
        connection = await asyncpg.connect(pooler.dsn(), statement_cache_size=0)
        await connection.execute("DROP TABLE IF EXISTS uncached")
        await connection.execute("CREATE TABLE uncached AS SELECT 1::int4 AS a")
        for kind in ("int4", "float4", "int8", "text", "int4"):
            alter = f"ALTER TABLE uncached ALTER a TYPE {kind} USING a::{kind}"
            postgres.sql(alter, db="app")
            for _ in range(3):
                value = await connection.fetchval("SELECT a FROM uncached WHERE a IS NOT NULL")
                assert str(value) in ("1", "1.0")
                assert isinstance(value, {"float4": float, "text": str}.get(kind, int))
        await connection.execute("DROP TABLE uncached")
        await connection.close()

    asyncio.run(main())


def test_a_parse_that_an_error_skips_leaves_nobody_elses(
    shared_pooler: SharedPooler, login: Login
) -> None:
    """Bound in the next group, it is not there: neither its own nor another client's."""
    pooler = shared_pooler(databases={"*": {"pool_size": 1}})
    with login(at=pooler) as one, login(at=pooler) as other:
        other.send(raw.parse("SELECT 'secret'") + raw.sync())
        other.read_until()
        run = raw.bind() + raw.execute() + raw.sync()
        one.send(raw.bind(statement="none") + raw.parse("SELECT 'mine'") + raw.sync() + run)
        codes = []
        for _ in range(2):
            replies = one.read_until()
            assert raw.kinds(replies) == b"EZ"
            codes.append(raw.error_fields(replies[0][1])["C"])
        assert codes == ["26000", "26000"]
        one.send(run)
        assert raw.kinds(one.read_until()) == b"EZ"

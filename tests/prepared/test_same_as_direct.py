"""Random pipelines of prepared statements, direct and through the pooler: the same bytes back.

Two clients through the pooler, in transaction mode, over two servers with room for few statements;
each one's answers are those that it gets alone from PostgreSQL. Masked is only which of its own
names an error has: two of a client that stand for the same text are one statement.
"""

import random
import re
from collections.abc import Callable

import pytest

from tests.live.conftest import SharedPooler
from tests.support import rawclient as raw
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import Message, RawClient

MASKED = re.compile(rb'statement "[abc]"')
NAMES = ("a", "b", "c")
TEXTS = (
    "SELECT 1",
    "SELECT $1::int + 1",
    "SELECT 1/0",
    "SELEC 1",
    "SELECT * FROM no_such_table",
    "",
    "ROLLBACK",
    "SELECT generate_series(1, 3)",
    "VALUES (1, 'a'), (2, 'b')",
)
QUERIES = (
    "SELECT 3",
    "BEGIN",
    "ROLLBACK",
    "SELECT 1/0",
    "DEALLOCATE a",
    "deallocate prepare b;",
    "EXECUTE a",
    "DEALLOCATE ALL",
)


def message(dice: random.Random) -> bytes:
    """Return one message, or a few that belong together."""
    name = dice.choice(NAMES)
    values = [b"1"] if dice.random() < 0.3 else []
    choices: list[Callable[[], bytes]] = [
        *[lambda: raw.parse(dice.choice(TEXTS), name)] * 3,
        *[lambda: raw.bind(values, name) + raw.describe() + raw.execute()] * 3,
        lambda: raw.bind(values, name),
        lambda: raw.bind(values, name) + raw.execute("", dice.randint(0, 2)),
        lambda: raw.describe("S", name),
        lambda: raw.close("S", name),
        raw.execute,
        raw.describe,
        lambda: raw.close("P"),
        raw.flush,
        *[raw.sync] * 3,
        lambda: raw.parse("SELECT 7") + raw.bind() + raw.execute(),
        *[lambda: raw.query(dice.choice(QUERIES))] * 2,
        lambda: raw.parse(f"DEALLOCATE {name}") + raw.bind() + raw.execute(),
    ]
    return dice.choice(choices)()


def script(dice: random.Random) -> list[bytes]:
    """Return chunks; each ends what it began, and the last any transaction."""
    chunks = []
    for _ in range(dice.randint(1, 5)):
        messages = [message(dice) for _ in range(dice.randint(1, 6))]
        chunks.append(b"".join(messages) + raw.sync())
    chunks[-1] += raw.query("ROLLBACK") + raw.query("SELECT 'the end'")
    return chunks


def play(client: RawClient, chunks: list[bytes]) -> list[Message]:
    """Send chunk by chunk; return what came until the end."""
    got: list[Message] = []
    for data in chunks:
        client.send(data)
    while not (got and b"the end" in got[-1][1]):
        got += client.read_until(b"D")
    got += client.read_until(b"Z")
    return [(kind, MASKED.sub(b'statement "?"', body)) for kind, body in got]


def compare(pooler: SharedPooler, postgres: Postgres, seeds: range) -> None:
    """Run so many scripts both ways; the clients through the pooler stay, and take turns."""
    at = pooler(
        databases={"*": {"pool_size": 2, "max_prepared_statements": 3}},
    )
    through = [RawClient(at.host, at.port) for _ in range(2)]
    for client in through:
        client.login("app", "app", PASSWORDS["app"])
    for seed in seeds:
        chunks = script(random.Random(seed))
        with RawClient(postgres.host, postgres.port) as direct:
            direct.login("app", "app", PASSWORDS["app"])
            expected = play(direct, chunks)
            direct.send(raw.terminate())
        client = through[seed % 2]
        if seed % 3 == 0:  # the other server
            other = through[1 - seed % 2]
            other.query("BEGIN")
        assert play(client, chunks) == expected, (seed, chunks)
        client.query("DEALLOCATE ALL")
        if seed % 3 == 0:
            other.query("ROLLBACK")
    for client in through:
        client.send(raw.terminate())
        client.close()


@pytest.mark.parametrize("part", range(4))
def test_replies_are_those_of_postgres(
    shared_pooler: SharedPooler, postgres: Postgres, part: int
) -> None:
    compare(shared_pooler, postgres, range(part * 100, part * 100 + 100))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(8))
def test_replies_are_those_of_postgres_at_length(
    shared_pooler: SharedPooler, postgres: Postgres, part: int
) -> None:
    compare(shared_pooler, postgres, range(10_000 + part * 1000, 11_000 + part * 1000))

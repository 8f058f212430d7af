"""A crowd of clients at work while a test does something else: each checks what it is answered."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support import rawclient as raw
from tests.support.crowd import Connection, Crowd, Tally, at_work, connect, work
from tests.support.crowd import Plan as _Plan
from tests.support.pooler import Pooler


@dataclass
class Plan(_Plan):
    """How many, and for how long."""

    clients: int = 1
    seconds: float = 1.0


@contextmanager
def crowd(
    pooler: Pooler, database: str, *, clients: int, seconds: float, user: str = "app"
) -> Iterator[Crowd]:
    """A crowd at work for so many seconds; the pooler lets it in by trust."""
    plan = Plan(pooler.host, pooler.port, user, database, clients=clients, seconds=seconds)
    with at_work("tests.live.crowds", plan) as started:
        yield started


def _check(messages: list[raw.Message], *wanted: bytes | None) -> str:
    """What is wrong with the answers, in order: a value, or None for a division by zero."""
    found: list[bytes | None] = []
    for kind, body in messages:
        if kind == b"D":
            found += raw.data_row(body)
        elif kind == b"E":
            fields = raw.error_fields(body)
            if fields["C"] != "22012":
                return f"{fields}"
            found.append(None)
    return "" if found == list(wanted) else f"wanted {wanted}, got {found}"


async def _converse(connection: Connection, dice: random.Random, tag: str) -> tuple[str, int]:
    """One exchange of a random sort: what was wrong with it, and how many errors were wanted."""
    word = tag.encode()
    simple = raw.query(f"SELECT '{tag}'")
    extended = raw.parse("SELECT $1::text") + raw.bind([word]) + raw.execute()
    match dice.randrange(6):
        case 0 | 1:
            return _check(await connection.ask(simple), word), 0
        case 2:
            return _check(await connection.ask(extended + raw.sync()), word), 0
        case 3:
            wrong = _check(await connection.ask(raw.query("BEGIN")))
            wrong = wrong or _check(await connection.ask(simple), word)
            wrong = wrong or _check(await connection.ask(extended + raw.sync()), word)
            return wrong or _check(await connection.ask(raw.query("COMMIT"))), 0
        case 4:
            failing = raw.query(f"SELECT '{tag}'; SELECT 1/0")
            return _check(await connection.ask(failing), word, None), 1
        case _:
            return _check(await connection.ask(extended + extended + raw.sync()), word, word), 0


async def _member(plan: Plan, number: int, tally: Tally, end: float) -> None:
    dice = random.Random(plan.seed * 100_000 + number)
    clock = asyncio.get_running_loop().time
    while clock() < end:
        connection = await connect(plan.host, plan.port, plan.user, plan.database)
        tally.logins += 1
        for round_ in range(dice.randrange(20, 200)):
            if clock() >= end:
                break
            wrong, errors = await _converse(connection, dice, f"{number}-{round_}")
            tally.answers += 1
            tally.errors_wanted += errors
            if wrong:
                tally.faults.append(f"client {number}: {wrong}")
                return
        await connection.close()


async def _crowd(plan: Plan) -> Tally:
    tally = Tally()
    end = asyncio.get_running_loop().time() + plan.seconds
    members = (_member(plan, number, tally, end) for number in range(plan.clients))
    for outcome in await asyncio.gather(*members, return_exceptions=True):
        if outcome is not None:
            tally.faults.append(repr(outcome))
    return tally


if __name__ == "__main__":
    work(Plan, _crowd)

"""Many clients in one process: each asks questions that have one answer, and checks it.

`python -m tests.support.crowd` reads a Plan as JSON from its standard input and writes a Tally; the
parent watches the server meanwhile. Written for speed: a raw protocol on uvloop, logins by trust.
"""

import asyncio
import json
import random
import struct
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop

from tests.support import rawclient as raw


@dataclass
class Plan:
    """What the crowd does."""

    host: str
    port: int
    user: str
    database: str
    clients: int
    seconds: float
    seed: int = 0


@dataclass
class Tally:
    """What it saw; `faults` is what must not be."""

    answers: int = 0
    errors_wanted: int = 0
    logins: int = 0
    faults: list[str] = field(default_factory=list)


class Connection:
    """The least of a client: send bytes, read messages up to ReadyForQuery."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, data: bytes) -> list[raw.Message]:
        """Send, and read up to the next ReadyForQuery."""
        self._writer.write(data)
        messages: list[raw.Message] = []
        while not messages or messages[-1][0] != b"Z":
            messages.append(await self.hear())
        return messages

    async def hear(self) -> raw.Message:
        """Read one message."""
        header = await self._reader.readexactly(5)
        size = struct.unpack("!i", header[1:])[0]
        return header[:1], await self._reader.readexactly(size - 4)

    async def close(self) -> None:
        """Say goodbye."""
        self._writer.write(raw.terminate())
        self._writer.close()
        await self._writer.wait_closed()


async def connect(host: str, port: int, user: str, database: str) -> Connection:
    """Log in where that takes no password."""
    reader, writer = await asyncio.open_connection(host, port)
    connection = Connection(reader, writer)
    await connection.ask(raw.startup_packet({"user": user, "database": database}))
    return connection


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


def main() -> None:
    """Do the plan of standard input."""
    plan: dict[str, Any] = json.load(sys.stdin)
    print(json.dumps(asdict(uvloop.run(_crowd(Plan(**plan))))))


if __name__ == "__main__":
    main()

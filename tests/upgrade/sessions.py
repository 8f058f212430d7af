"""Many sessions in one process, each with state of its own that it checks all the time.

`python -m tests.upgrade.sessions` says "ready" when all have begun, and goes on until a line comes.
"""

import asyncio
import contextlib
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import psycopg

from tests.support import crowd
from tests.support import rawclient as raw
from tests.support.crowd import Connection, Tally, connect, work


@dataclass
class Plan(crowd.Plan):
    """How many of each kind."""

    raw: int = 160
    psycopg: int = 20
    asyncpg: int = 20
    listeners: int = 0


class _Wrong(Exception):
    pass


Check = Callable[[], bool]


class _Raw:
    """A connection that sends in pieces, fails at an error, and keeps what it is notified of."""

    def __init__(self, connection: Connection, dice: random.Random) -> None:
        self._connection = connection
        self._dice = dice
        self.notifications: list[bytes] = []
        self.hear = connection.hear
        self.close = connection.close

    async def ask(self, data: bytes, replies: int = 1) -> list[raw.Message]:
        """Send, sometimes in two pieces; read up to so many ReadyForQuerys."""
        if self._dice.random() < 0.2 and len(data) > 2:
            cut = self._dice.randrange(1, len(data))
            self._connection.send(data[:cut])
            await asyncio.sleep(self._dice.random() * 0.02)
            data = data[cut:]
        self._connection.send(data)
        messages: list[raw.Message] = []
        while replies:
            message = await self.hear()
            if message[0] == b"E":
                raise _Wrong(f"error {raw.error_fields(message[1])}")
            if message[0] == b"A":
                self.notifications.append(message[1])
                continue
            messages.append(message)
            replies -= message[0] == b"Z"
        return messages


async def _connect(plan: Plan, dice: random.Random) -> _Raw:
    options = "-c extra_float_digits=2"
    connection = await connect(plan.host, plan.port, plan.user, plan.database, options=options)
    return _Raw(connection, dice)


def _expect(messages: list[raw.Message], *wanted: bytes) -> None:
    found = [value for row in raw.rows(messages) for value in row]
    if found != list(wanted):
        raise _Wrong(f"wanted {wanted[:5]}, got {found[:5]}")


async def _raw_session(
    plan: Plan, number: int, tally: Tally, begun: asyncio.Event, go_on: Check
) -> None:
    dice = random.Random(plan.seed * 10_000 + number)
    client = await _connect(plan, dice)
    me = f"raw{number}"
    await client.ask(raw.query(f"SET application_name = '{me}'"))
    await client.ask(raw.query(f"SET crowd.me = '{me}'"))
    await client.ask(raw.query(f"PREPARE in_sql(int) AS SELECT $1 + {number}"))
    add = number % 7
    text = f"SELECT $1::int + {add}, current_setting('crowd.me')"
    await client.ask(raw.parse(text, "mine") + raw.sync())
    state = "SELECT current_setting('application_name'), current_setting('extra_float_digits')"
    begun.set()
    while go_on():
        await asyncio.sleep(dice.random() * 0.4)
        value = dice.randrange(1000)
        use = raw.bind([str(value).encode()], "mine") + raw.execute()
        answer = str(value + add).encode()
        match dice.randrange(7):
            case 0:
                _expect(await client.ask(raw.query(state)), me.encode(), b"2")
            case 1:
                _expect(await client.ask(use + raw.sync()), answer, me.encode())
            case 2:
                twice = (answer, me.encode()) * 3
                _expect(await client.ask((use + raw.sync()) * 3, 3), *twice)
            case 3:
                await client.ask(raw.query("BEGIN"))
                await asyncio.sleep(dice.random() * 0.05)
                _expect(await client.ask(use + raw.sync()), answer, me.encode())
                await client.ask(raw.query("COMMIT"))
            case 4:
                found = await client.ask(raw.query(f"EXECUTE in_sql({value})"))
                _expect(found, str(value + number).encode())
            case 5:
                sql = "SELECT g || repeat('x', 100) FROM generate_series(1, 500) g"
                rows = raw.rows(await client.ask(raw.query(sql)))
                if len(rows) != 500 or rows[-1] != [b"500" + b"x" * 100]:
                    raise _Wrong(f"{len(rows)} rows")
            case _:
                big = "y" * dice.randrange(100_000)
                found = await client.ask(raw.query(f"SELECT length('{big}')"))
                _expect(found, str(len(big)).encode())
        tally.answers += 1
    await client.close()


async def _psycopg_session(
    plan: Plan, number: int, tally: Tally, begun: asyncio.Event, go_on: Check
) -> None:
    dice = random.Random(plan.seed * 10_000 + number)
    client: psycopg.AsyncConnection[Any] = await psycopg.AsyncConnection.connect(
        host=plan.host, port=plan.port, user=plan.user, dbname=plan.database, autocommit=True
    )
    client.prepare_threshold = 0
    async with client:
        await client.execute(f"SET crowd.me = 'psycopg{number}'")
        begun.set()
        while go_on():
            await asyncio.sleep(dice.random() * 0.4)
            value = dice.randrange(1000)
            sql = f"SELECT %s::int + {number % 5}, current_setting('crowd.me')"
            async with client.transaction():
                row = await (await client.execute(sql, (value,))).fetchone()
            if row != (value + number % 5, f"psycopg{number}"):
                raise _Wrong(f"{row}")
            tally.answers += 1


async def _asyncpg_session(
    plan: Plan, number: int, tally: Tally, begun: asyncio.Event, go_on: Check
) -> None:
    dice = random.Random(plan.seed * 10_000 + number)
    client = await asyncpg.connect(
        host=plan.host, port=plan.port, user=plan.user, database=plan.database
    )
    await client.execute(f"SET crowd.me = 'asyncpg{number}'")
    prepared = await client.prepare("SELECT $1::int * 2, current_setting('crowd.me')")
    begun.set()
    while go_on():
        await asyncio.sleep(dice.random() * 0.4)
        value = dice.randrange(1000)
        row = await prepared.fetchrow(value)
        if row is None or tuple(row) != (value * 2, f"asyncpg{number}"):
            raise _Wrong(f"{row}")
        if await client.fetchval("SELECT $1::text", str(value)) != str(value):
            raise _Wrong("another's answer")
        tally.answers += 1
    await client.close()


async def _newcomers(plan: Plan, tally: Tally, go_on: Check) -> None:
    """Connect all the time: nobody may be refused."""
    dice = random.Random(plan.seed)
    while go_on():
        client = await _connect(plan, dice)
        _expect(await client.ask(raw.query("SELECT 'new'")), b"new")
        await client.close()
        tally.logins += 1
        await asyncio.sleep(0.01)


async def _listener(
    plan: Plan, number: int, tally: Tally, begun: asyncio.Event, go_on: Check
) -> None:
    """Hear every notification once, in order."""
    dice = random.Random(plan.seed * 10_000 + number)
    client = await _connect(plan, dice)
    await client.ask(raw.query("LISTEN news"))
    begun.set()
    last = 0
    while go_on() or (not tally.faults and (not _SENT[1] or last < _SENT[1])):
        if number % 2:  # some ask now and then, some only listen
            _expect(await client.ask(raw.query("SELECT 1")), b"1")
        with contextlib.suppress(TimeoutError):
            kind, body = await asyncio.wait_for(client.hear(), 0.3)
            if kind != b"A":
                raise _Wrong(f"message {kind!r} {body!r}")
            client.notifications.append(body)
        for heard in client.notifications:
            payload = int(heard[4:].split(b"\0")[1])
            if last and payload != last + 1:
                raise _Wrong(f"notification {payload} after {last}")
            last = payload
            tally.told += 1
        client.notifications.clear()
    await client.close()


_SENT = [0, 0]
"""Notifications sent so far, and in the end."""


async def _notifier(plan: Plan, go_on: Check) -> None:
    client = await _connect(plan, random.Random(plan.seed))
    while go_on():
        _SENT[0] += 1
        await client.ask(raw.query(f"NOTIFY news, '{_SENT[0]}'"))
        await asyncio.sleep(0.01)
    _SENT[1] = _SENT[0]
    await client.close()


async def _guarded(
    name: str, tally: Tally, begun: asyncio.Event | None, it: Awaitable[None]
) -> None:
    try:
        await it
    except Exception as error:
        tally.faults.append(f"{name}: {error!r}")
    finally:
        if begun is not None:
            begun.set()


async def _run(plan: Plan) -> Tally:
    tally = Tally()
    loop = asyncio.get_running_loop()
    end = loop.run_in_executor(None, sys.stdin.readline)

    def go_on() -> bool:
        return not end.done() and not tally.faults

    kinds = (
        ("raw", plan.raw, _raw_session),
        ("psycopg", plan.psycopg, _psycopg_session),
        ("asyncpg", plan.asyncpg, _asyncpg_session),
        ("listener", plan.listeners, _listener),
    )
    tasks = []
    events = []
    for kind, count, session in kinds:
        for number in range(count):
            begun = asyncio.Event()
            events.append(begun)
            work = session(plan, number, tally, begun, go_on)
            tasks.append(asyncio.create_task(_guarded(f"{kind} {number}", tally, begun, work)))
    for begun in events:
        await begun.wait()
    work = _newcomers(plan, tally, go_on)
    tasks.append(asyncio.create_task(_guarded("newcomer", tally, None, work)))
    if plan.listeners:
        work = _notifier(plan, go_on)
        tasks.append(asyncio.create_task(_guarded("notifier", tally, None, work)))
    print("ready", flush=True)
    await asyncio.gather(*tasks)
    return tally


if __name__ == "__main__":
    work(Plan, _run)

"""Spoiled conversations against the living pooler: it answers or closes, and all stays clean.

Seeded: a case is its number, and a failed one is run alone by it.
"""

import contextlib
import random
import struct
from collections.abc import Callable

import pytest

from tests.adversity.conftest import POOL_SIZE
from tests.adversity.witness import Census, Witness, login, until
from tests.support import rawclient
from tests.support.faultproxy import reset
from tests.support.pooler import Pooler
from tests.support.postgres import Postgres
from tests.support.rawclient import Closed, RawClient

_EXTENDED = [
    rawclient.parse("SELECT $1::int", "", [23]),
    rawclient.bind([b"1"]),
    rawclient.describe(),
    rawclient.execute(),
    rawclient.sync(),
]
CONVERSATIONS: list[list[bytes]] = [
    [rawclient.query("SELECT 1"), rawclient.query("SELECT 'two'; SELECT 'three'")],
    _EXTENDED,
    [*_EXTENDED[:4], rawclient.flush(), *_EXTENDED],
    [
        rawclient.query("BEGIN"),
        *_EXTENDED,
        rawclient.query("SELECT 1/0"),
        rawclient.query("ROLLBACK"),
    ],
    [
        rawclient.query("COPY t FROM STDIN"),
        rawclient.copy_data(b"1\n"),
        rawclient.copy_data(b"2\n"),
        rawclient.copy_done(),
        rawclient.query("TRUNCATE t"),
    ],
    [
        rawclient.parse("COPY t FROM STDIN"),
        rawclient.bind(),
        rawclient.execute(),
        rawclient.sync(),
        rawclient.copy_data(b"1\n"),
        rawclient.copy_fail("no"),
        rawclient.sync(),
    ],
    [
        rawclient.query("COPY (SELECT generate_series(1, 99)) TO STDOUT"),
        rawclient.query("SELECT 1"),
    ],
    [
        rawclient.parse("SELECT generate_series(1, 9)", "s"),
        rawclient.bind(statement="s", portal="p"),
        rawclient.execute("p", 2),
        rawclient.execute("p", 2),
        rawclient.close("P", "p"),
        rawclient.close("S", "s"),
        rawclient.sync(),
    ],
    [rawclient.message(b"F", struct.pack("!iHHiH", 1397, 0, 1, 2, 0)), rawclient.query("SELECT 1")],
    [rawclient.parse("nonsense"), rawclient.bind(), rawclient.sync(), rawclient.query("SELECT 1")],
    [rawclient.query("SELECT repeat('x', 100000)"), rawclient.query(f"SELECT '{'y' * 100_000}'")],
]


def _flip(rng: random.Random, messages: list[bytes]) -> None:
    at = rng.randrange(len(messages))
    data = bytearray(messages[at])
    for _ in range(rng.choice([1, 1, 2, 8]) if data else 0):
        data[rng.randrange(min(len(data), 64))] ^= 1 << rng.randrange(8)
    messages[at] = bytes(data)


def _length(rng: random.Random, messages: list[bytes]) -> None:
    at = rng.randrange(len(messages))
    size = rng.choice([0, 3, 4, 5, len(messages[at]), len(messages[at]) + 3, 2**31 - 1, 2**32 - 1])
    messages[at] = messages[at][:1] + struct.pack("!I", size) + messages[at][5:]


def _cut(rng: random.Random, messages: list[bytes]) -> None:
    at = rng.randrange(len(messages))
    messages[at] = messages[at][: rng.randrange(len(messages[at]) or 1)]
    del messages[at + 1 :]


def _drop(rng: random.Random, messages: list[bytes]) -> None:
    del messages[rng.randrange(len(messages))]


def _double(rng: random.Random, messages: list[bytes]) -> None:
    at = rng.randrange(len(messages))
    messages.insert(rng.randrange(len(messages)), messages[at])


def _shuffle(rng: random.Random, messages: list[bytes]) -> None:
    rng.shuffle(messages)


def _mix(rng: random.Random, messages: list[bytes]) -> None:
    messages += rng.choice(CONVERSATIONS)
    rng.shuffle(messages)


def _garbage(rng: random.Random, messages: list[bytes]) -> None:
    messages.insert(rng.randrange(len(messages)), rng.randbytes(rng.randrange(1, 40)))


MUTATIONS: list[Callable[[random.Random, list[bytes]], None]] = [
    _flip, _flip, _length, _cut, _drop, _double, _shuffle, _mix, _garbage,
]  # fmt: skip


def _converse(rng: random.Random, pooler: Pooler, dbname: str) -> None:
    """One spoiled conversation, in packets cut anywhere, with or without reading the answers."""
    messages = list(rng.choice(CONVERSATIONS))
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        if messages:
            rng.choice(MUTATIONS)(rng, messages)
    data = b"".join(messages)
    client = login(pooler, dbname)
    with contextlib.suppress(Closed, OSError):
        at = 0
        while at < len(data):
            size = rng.choice([1, 7, 100, 5000, len(data)])
            client.send(data[at : at + size])
            at += size
            if rng.random() < 0.2:
                _read(client, 0.002)
        _read(client, rng.choice([0.0, 0.005, 0.03]))
        if rng.random() < 0.3:
            client.send(rawclient.terminate())
    if rng.random() < 0.3:
        reset(client.socket)
    client.close()


def _read(client: RawClient, seconds: float) -> None:
    """What comes must be whole messages of a server."""
    if not seconds:
        return
    with contextlib.suppress(TimeoutError):
        while True:
            kind, _ = client.read(seconds)
            assert kind in b"123CDEGHIKNRSTVWZAcdnst", kind


@pytest.mark.parametrize(
    ("first", "count"),
    [(0, 150), (150, 150), pytest.param(300, 3000, marks=pytest.mark.slow)],
)
def test_spoiled_conversations(
    shared: Pooler, postgres: Postgres, database: str, first: int, count: int
) -> None:
    with Witness(shared, database), Census(postgres, database, POOL_SIZE):
        for case in range(first, first + count):
            _converse(random.Random(case), shared, database)
            assert not shared.log_contains(event="bug"), f"case {case}"
    until(
        lambda: all(
            backend["state"] == "idle" and backend["xact_start"] is None
            for backend in postgres.backends(database)
        ),
        5,
        f"all backends are idle and out of transactions: {postgres.backends(database)}",
    )
    with login(shared, database) as client:
        client.query("SET lock_timeout = '1s'")
        assert b"E" not in rawclient.kinds(client.query("BEGIN; LOCK TABLE t; COMMIT"))

"""Transactions through the core alone: no sockets, no loop; the same instructions every time.

    python -m tests.bench.transactions simple 20000

What is left is our own code, without the kernel's and the loop's part in it. Run under callgrind
for numbers that a busy machine does not change: see `instructions`.
"""

import random
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pooler.core.client import Client
from pooler.core.edge import Edge
from pooler.core.pool import Pool
from pooler.core.routes import Router
from pooler.core.server import Server
from pooler.core.settings import Host, PoolMode, PoolSettings, Route, SessionSettings, Target
from pooler.wire import build, codes

CLIENTS = 16
SERVERS = 20
HOST = Host("db", 5432)
PARAMETERS = {"server_version": "17.0", "client_encoding": "UTF8", "DateStyle": "ISO, MDY"}

_NAME = "P0_1"
_DONE = build.message(codes.COMMAND_COMPLETE, b"SELECT 1\0") + build.READY
_ROW = build.message(ord("T"), b"\0\1abalance\0" + bytes(18)) + build.message(
    codes.DATA_ROW, b"\0\1\0\0\0\1" + b"0"
)


def _bind(name: str) -> bytes:
    body = b"\0" + name.encode() + b"\0\0\0\0\1\0\0\0\x06" + b"123456" + b"\0\0"
    describe = build.message(codes.DESCRIBE, b"P\0")
    return build.message(codes.BIND, body) + describe + build.message(codes.EXECUTE, bytes(5))


_PARSE = build.message(
    codes.PARSE, b"\0SELECT abalance FROM pgbench_accounts WHERE aid = $1;\0\0\0"
)
_PREPARE = build.message(
    codes.PARSE, _NAME.encode() + b"\0SELECT abalance FROM pgbench_accounts WHERE aid = $1;\0\0\0"
)


def _query(number: int) -> bytes:
    return build.query(f"SELECT abalance FROM pgbench_accounts WHERE aid = {number};")


_REPLIES = {
    b"P": build.message(ord("1"), b""),
    b"B": build.message(ord("2"), b""),
    b"C": build.message(ord("3"), b""),
    b"D": _ROW[: 1 + int.from_bytes(_ROW[1:5])],
    b"E": _ROW[1 + int.from_bytes(_ROW[1:5]) :] + _DONE[: -len(build.READY)],
    b"S": build.READY,
    b"Q": _ROW + _DONE,
}

KINDS: dict[str, tuple[Callable[[int], bytes], bytes]] = {
    "simple": (_query, _ROW + _DONE),
    "extended": (
        lambda _: _PARSE + _bind("") + build.SYNC,
        build.message(ord("1"), b"") + build.message(ord("2"), b"") + _ROW + _DONE,
    ),
    "prepared": (
        lambda _: _bind(_NAME) + build.SYNC,
        build.message(ord("2"), b"") + _ROW + _DONE,
    ),
}
"""What `pgbench -S -M ...` asks, and what PostgreSQL answers."""


class _Transport:
    """Keeps the last write."""

    def __init__(self) -> None:
        self.last: deque[bytes] = deque(maxlen=1)
        self.write = self.last.append

    def write_eof(self) -> None:
        """Nothing waits for it."""

    def close(self) -> None:
        """Nothing waits for it."""

    abort = pause_reading = resume_reading = close

    def is_closing(self) -> bool:
        """It is open."""
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Nothing is known."""
        return default


class World(Edge):
    """A pool with its clients and servers, all logged in."""

    def __init__(self) -> None:
        self.now = time.monotonic  # type: ignore[method-assign]  # as the service does
        self._random = random.Random(0)
        self.router = Router(self, self._random.randbytes)
        self._pools: list[Pool] = []
        self._settings = PoolSettings(pool_size=SERVERS, min_pool_size=SERVERS)
        self.router.configure(self._resolve, 0, 0, None)
        parameters = {"user": "app", "database": "app"}
        self.clients = [self._client(parameters, i) for i in range(CLIENTS)]

    def random(self) -> float:
        """Return a random number."""
        return self._random.random()

    def wake(self, pool: Pool) -> None:
        """Remember who wants servers."""
        self._pools.append(pool)

    def _resolve(self, database: str, user: str) -> Route:
        target = Target(hosts=(HOST,), dbname=database, user=user)
        return Route(database, user, target, self._settings, SessionSettings(PoolMode.TRANSACTION))

    def _client(self, parameters: dict[str, str], number: int) -> Client:
        client = self.router.admit(_Transport(), f"client {number}", "app", "app", parameters, 0)
        client.pool.enter(client)
        self._dial()
        return client

    def _dial(self) -> None:
        while self._pools:
            pool = self._pools.pop()
            while (host := pool.supply.dial()) is not None:
                number = len(pool.staying) + 1
                server = Server(
                    _Transport(), pool, number, host, number, b"key", dict(PARAMETERS), 0,
                    self.now(), 1.0,
                )  # fmt: skip
                pool.supply.connected(server)
                while server.chore is not None:
                    server.data_received(build.READY)


def _answer(client: Client) -> None:
    """Have the client's server answer what it was sent, as often as that leads to more."""
    while (server := client.server) is not None:
        assert isinstance(server.transport, _Transport)
        sent = server.transport.last.pop()
        reply, at = b"", 0
        while at < len(sent):
            reply += _REPLIES.get(sent[at : at + 1], b"")
            at += 1 + int.from_bytes(sent[at + 1 : at + 5])
        server.data_received(reply)


def run(kind: str, count: int) -> float:
    """Run `count` transactions; return the CPU seconds of one."""
    request, reply = KINDS[kind]
    world = World()
    clients = world.clients
    for client in clients:
        client.data_received(_PREPARE + build.SYNC)
        _answer(client)
        client.data_received(request(0))
        _answer(client)
    requests = [request(number % 1000 + 100_000) for number in range(count)]
    before = time.process_time()
    for number, data in enumerate(requests):
        client = clients[number % CLIENTS]
        client.data_received(data)
        server = client.server
        assert server is not None
        server.data_received(reply)
    spent = time.process_time() - before
    assert world.clients[0].pool.counters.transactions >= count
    return spent / max(count, 1)


if __name__ == "__main__":
    print(f"{run(sys.argv[1], int(sys.argv[2])) * 1e6:.2f} us of CPU per transaction")

"""Logins through our own code alone: no sockets, no server; the same instructions every time.

    python -m tests.bench.logins scram-sha-256 2000

From a connection's first byte to its last, with one query between: what `pgbench -C` does. See
`transactions`.
"""

import asyncio
import json
import sys
import tempfile
import time
from typing import Any

from pooler.config import Config, load
from pooler.core.client import Client
from pooler.core.pool import Pool
from pooler.core.server import Server
from pooler.login.greeter import Greeter
from pooler.service import Service
from pooler.wire import build, codes, scram
from tests.bench.transactions import KINDS, PARAMETERS

_QUERY = KINDS["simple"][0](1)
_REPLY = KINDS["simple"][1]
_PASSWORD = "secret"
_SALT = bytes(range(16))
_STARTUP = build.startup(
    [("user", "app"), ("database", "app"), ("application_name", "pgbench")], codes.PROTOCOL_3_0
)


def _config(method: str) -> Config:
    config = {
        "auth": {"type": method},
        "users": {"app": {"password": scram.derive_verifier(_PASSWORD, _SALT).format()}},
        "databases": {"app": {"host": "db", "password": _PASSWORD, "min_pool_size": 1}},
        "logging": {"log_connections": False, "log_disconnections": False},
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(json.dumps(config))
        file.flush()
        return load(file.name, environ={})


def _zeros(count: int) -> bytes:
    return bytes(count)


class _Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.write = self.written.append
        self.protocol: Any = None
        self.closing = False

    def close(self) -> None:
        """Be on the way."""
        self.closing = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        """Return whether it is closed."""
        return self.closing

    def set_protocol(self, protocol: Any) -> None:
        """Have another protocol hear what comes."""
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing waits to be written."""

    def pause_reading(self) -> None:
        """Nothing is read."""

    resume_reading = pause_reading

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return an address."""
        return ("127.0.0.1", 54321) if name == "peername" else default


class World(Service):
    """A pooler with a server, and clients that come and go."""

    def __init__(self, method: str) -> None:
        self._wanting: list[Pool] = []
        config = _config(method)
        super().__init__(lambda _: config, config)
        self.randbytes = _zeros  # what a client answers is the same each time
        self._apply(config)

    def wake(self, pool: Pool) -> None:
        """Remember who wants servers."""
        self._wanting.append(pool)

    def dial(self) -> None:
        """Open the servers that are wanted."""
        while self._wanting:
            pool = self._wanting.pop()
            while (host := pool.supply.dial()) is not None:
                server = Server(
                    _Transport(), pool, self.router.ident(), host, 1, b"key", dict(PARAMETERS), 0,
                    self.now(), 1.0,
                )  # fmt: skip
                pool.supply.connected(server)
                while server.chore is not None:
                    server.data_received(build.READY)

    def visit(self, messages: list[bytes]) -> list[bytes]:
        """Be a client who logs in, asks once, and goes; return what it is told up to its query."""
        transport = _Transport()
        transport.protocol = greeter = Greeter(self)
        greeter.connection_made(transport)  # type: ignore[arg-type]  # a transport by shape
        for message in messages:
            transport.protocol.data_received(message)
        if self._wanting:
            self.dial()
        told = transport.written.copy()
        if isinstance(transport.protocol, Client):
            transport.protocol.data_received(_QUERY)
            server = transport.protocol.server
            assert server is not None
            server.data_received(_REPLY)
            transport.protocol.data_received(build.TERMINATE)
            transport.protocol.connection_lost(None)
        return told


def answers(world: World, method: str) -> list[bytes]:
    """Return what the client says until it is logged in."""
    messages = [_STARTUP]
    if method == "scram-sha-256":
        exchange = scram.ClientExchange(_PASSWORD, bytes(scram.NONCE_SIZE))
        messages.append(build.sasl_initial_response(scram.MECHANISM, exchange.first()))
        challenge = world.visit(messages)[-1]
        messages.append(build.sasl_response(exchange.final(challenge[codes.HEADER + 4 :])))
    return messages


async def run(method: str, count: int) -> float:
    """Run `count` logins; return the CPU seconds of one."""
    world = World(method)
    messages = answers(world, method)
    world.visit(messages)
    (pool,) = world.router.pools.values()
    before = time.process_time()
    for _ in range(count):
        world.visit(messages)
    spent = time.process_time() - before
    assert pool.counters.logins == count + 1
    assert pool.counters.queries == count + 1
    return spent / max(count, 1)


if __name__ == "__main__":
    print(f"{asyncio.run(run(sys.argv[1], int(sys.argv[2]))) * 1e6:.1f} us of CPU per login")

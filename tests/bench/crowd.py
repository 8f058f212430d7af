"""A process with many connections that log in (method password or trust), ask at most once, wait.

`python -m tests.bench.crowd '{"port": 6432, "count": 1000, "query": true, "password": "..."}'` says
"ready" when all are in, and ends when its standard input does.
"""

import asyncio
import json
import resource
import struct
import sys
from typing import cast

import uvloop

AT_ONCE = 50


class _Client(asyncio.Protocol):
    """A connection that answers what a login asks, and knows when it is over."""

    def __init__(self, password: str, ready: "asyncio.Future[None]") -> None:
        self._password = password
        self.ready = ready
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the startup packet."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by type
        body = struct.pack("!i", 196608) + b"user\0app\0database\0bench\0\0"
        self._write(struct.pack("!i", len(body) + 4) + body)

    def _write(self, data: bytes) -> None:
        self.transport.write(data)

    def ask(self, ready: "asyncio.Future[None]") -> None:
        """Ask something short."""
        self.ready = ready
        self._write(b"Q\0\0\0\x0dSELECT 1\0")

    def data_received(self, data: bytes) -> None:
        """Read whole messages."""
        data = self._received + data
        while len(data) >= 5 and len(data) > (size := int.from_bytes(data[1:5])):
            kind, body, data = data[:1], data[5 : size + 1], data[size + 1 :]
            if kind == b"R" and body[3] == 3:
                secret = self._password.encode() + b"\0"
                self._write(b"p" + struct.pack("!i", len(secret) + 4) + secret)
            elif kind == b"Z" and not self.ready.done():
                self.ready.set_result(None)
            elif kind == b"E":
                self._failed(body.decode(errors="replace"))
        self._received = data

    def _failed(self, text: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(RuntimeError(text.replace("\0", " ")))

    def connection_lost(self, error: BaseException | None) -> None:
        """It was not to end."""
        self._failed("the connection has ended")


async def _run(port: int, count: int, query: bool, password: str) -> None:
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(AT_ONCE)

    async def come_in(number: int) -> _Client:
        async with gate:
            client = _Client(password, loop.create_future())
            address = (f"127.0.0.{2 + number // 5_000}", 0)  # ports are few
            await loop.create_connection(lambda: client, "127.0.0.1", port, local_addr=address)
            await client.ready
            if query:
                client.ask(loop.create_future())
                await client.ready
            return client

    clients = await asyncio.gather(*(come_in(number) for number in range(count)))
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    assert len(clients) == count


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(_run(**json.loads(sys.argv[1])))

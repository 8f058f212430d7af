"""Many clients in a process of their own, whose parent watches what happens meanwhile.

The child reads a Plan as JSON from a line of its standard input and writes a Tally in the end; see
`work` and `at_work`. Written for speed: a raw protocol on uvloop, logins by trust.
"""

import asyncio
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import uvloop

from tests.support import rawclient as raw


@dataclass
class Plan:
    """Where clients go; subclasses say what they do."""

    host: str
    port: int
    user: str
    database: str
    seed: int = 0


@dataclass
class Tally:
    """What they saw; `faults` is what must not be."""

    answers: int = 0
    errors_wanted: int = 0
    logins: int = 0
    told: int = 0
    """Notifications."""
    faults: list[str] = field(default_factory=list)


P = TypeVar("P", bound=Plan)


class Connection:
    """The least of a client: send bytes, read messages up to ReadyForQuery."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        """Send."""
        self._writer.write(data)

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


async def connect(host: str, port: int, user: str, database: str, **startup: str) -> Connection:
    """Log in where that takes no password."""
    connection = Connection(*await asyncio.open_connection(host, port))
    packet = raw.startup_packet({"user": user, "database": database, **startup})
    await connection.ask(packet)
    return connection


def work(kind: type[P], act: Callable[[P], Coroutine[Any, Any, Tally]]) -> None:
    """Be the child: do the plan of standard input."""
    plan: dict[str, Any] = json.loads(sys.stdin.readline())
    print(json.dumps(asdict(uvloop.run(act(kind(**plan))))), flush=True)


class Crowd:
    """The child, to its parent."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    @property
    def busy(self) -> bool:
        """Whether it still goes on."""
        return self._process.poll() is None

    def expect(self, word: str) -> None:
        """Wait for a line that it writes."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{word}\n"

    def finish(self) -> Tally:
        """Wait for its end, told to it by a line; AssertionError when it saw what must not be."""
        output, _ = self._process.communicate("end\n", timeout=60)
        assert self._process.returncode == 0
        tally = Tally(**json.loads(output))
        assert tally.faults == []
        return tally


@contextmanager
def at_work(module: str, plan: Plan) -> Iterator[Crowd]:
    """A child that does this plan."""
    with subprocess.Popen(
        [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(asdict(plan)) + "\n")
            process.stdin.flush()
            yield Crowd(process)
        finally:
            process.kill()

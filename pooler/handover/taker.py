"""The new process's part of an upgrade: takes over what the old one gives.

It does as it is told until it serves, then clients come one by one. When the old process has gone,
nothing is left of all this. Who takes what comes, one process or several workers, is the `Heir`.
"""

import asyncio
import contextlib
import logging
import os
import socket
from typing import Any, Final, Protocol

import pooler
from pooler import logs
from pooler.activation import METRICS
from pooler.channel import Channel
from pooler.core import moving
from pooler.core.errors import PoolerError
from pooler.handover import FORMAT, Kind
from pooler.handover.shares import News
from pooler.listener import SYSTEMD
from pooler.notify import notify
from pooler.wire import codes

_REFUSAL: Final = 5.0  # seconds in which the old process hears of it

AFTERMATH: Final = 1.0
"""Seconds that PostgreSQL has to notice that a process which was killed has gone."""

Counts = list[tuple[str, str, int]]
"""Clients by what limits count by: kind ("database", "user"; "" of all), name, number."""


class Replaced(OSError):
    """The old process does not want this one after all."""


class Heir(Protocol):
    """Who takes what the old pooler gives: one process, or several workers.

    A `source` is the number of one of the old pooler's processes.
    """

    @property
    def taken(self) -> int:
        """Clients that have come."""

    def acquaint(self, pools: list[dict[str, Any]]) -> None:
        """Learn what the old pooler has and knows of each of its pools."""

    def elsewhere(self, counts: Counts) -> None:
        """Count clients that the old pooler still has, as so many and no more."""

    def statement(self, source: int, statement: moving.Packed) -> None:
        """Take a prepared statement, which clients that come will name by its number."""

    def client(self, source: int, packed: moving.Packed, files: tuple[int, ...] = ()) -> None:
        """Take a client, and the one file that is its connection."""

    def follow(self, name: list[str], marker: str, number: int, channels: list[str]) -> None:
        """Listen to a round's channels, if that can be, and mark when that is so."""

    def report(self, source: int, news: list[News]) -> None:
        """Hear what the old pooler's pools have and want."""

    def left(self, source: int) -> None:
        """A process of the old pooler has ended."""

    def cancel(self, pid: int, secret: str) -> None:
        """Do what the old pooler was asked for, whose client it is not."""

    def end(self) -> None:
        """Be the only pooler."""


class Taker:
    """One upgrade."""

    def __init__(self, sock: socket.socket) -> None:
        """`sock` is our end of what the old process opened; OSError: it is a stranger's."""
        _check_owner(sock)
        self._heir: Heir
        self.pid = 0
        """The old process."""
        self.welcome: dict[str, Any] = {}
        self._given: dict[Kind, list[socket.socket]] = {}
        self._over = asyncio.Event()
        self._done = False
        loop = asyncio.get_running_loop()
        self._may_prepare: asyncio.Future[None] = loop.create_future()
        self._prepared: asyncio.Future[None] = loop.create_future()
        self._may_serve: asyncio.Future[None] = loop.create_future()
        self._serves: asyncio.Future[None] = loop.create_future()
        self._channel = Channel(
            sock,
            {
                "sockets": self._sockets,
                "prepare": self._prepare,
                "serve": self._serve,
                "main": lambda: notify("READY=1"),
                "statement": lambda *what: self._heir.statement(*what),
                "client": lambda source, packed, files=(): self._heir.client(source, packed, files),
                "follow": lambda *what: self._heir.follow(*what),
                "report": lambda *what: self._heir.report(*what),
                "left": lambda source: self._heir.left(source),
                "clients": lambda counts: self._heir.elsewhere(_counts(counts)),
                "cancel": lambda pid, secret: self._heir.cancel(pid, secret),
                "done": self._old_is_done,
            },
            self._gone,
        )
        self.tell = self._channel.tell
        """Tells the old process."""
        self.tell("hello", FORMAT, pooler.__version__)

    # -- up to where it serves: the heir awaits what the old process says

    def begin(self, heir: Heir) -> None:
        """Be this heir's."""
        self._heir = heir

    async def refuse(self, text: str) -> None:
        """Tell the old process why nobody takes over, and leave."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_REFUSAL):
                await self._may_prepare
                self._fail(text)
                await self._over.wait()
        self._channel.close()

    async def may_prepare(self) -> None:
        """Wait for the listening sockets, and the `welcome`; Replaced: they will not come."""
        await self._may_prepare

    async def may_serve(self) -> None:
        """Tell that all is prepared, and wait for the moment to serve."""
        self._prepared.set_result(None)
        await self._may_serve

    def serves(self) -> None:
        """Tell that clients can come."""
        for sockets in self._given.values():  # what the new configuration does not want
            for sock in sockets:
                if sock.family == socket.AF_UNIX:
                    os.unlink(sock.getsockname())
                sock.close()
        self._given.clear()
        self._serves.set_result(None)

    @property
    def served(self) -> bool:
        """Whether the old process knows that clients can come."""
        return self._serves.done() and self._serves.exception() is None

    @property
    def overlay(self) -> dict[tuple[str, ...], str]:
        """What SET has changed in the old process."""
        return {tuple(path): value for path, value in self.welcome["overlay"]}

    def sockets(self, *kind: str) -> list[socket.socket]:
        """Return what the old process listened on there, nothing where it did not."""
        what, where, port = kind
        return self._given.pop((what, where, port), [])

    def activated(self) -> dict[str, list[socket.socket]]:
        """Return the sockets that systemd had given the old process, by name."""
        clients = sorted(kind for kind in self._given if kind[0] == SYSTEMD)
        found = {"": [sock for kind in clients for sock in self._given.pop(kind)]}
        metrics = self._given.pop((METRICS, SYSTEMD, ""), [])
        return {**found, METRICS: metrics} if metrics else found

    def _sockets(self, kind: list[str], files: tuple[int, ...] = ()) -> None:
        what, where, port = kind
        sockets = [socket.socket(fileno=file) for file in files]
        self._given.setdefault((what, where, port), []).extend(sockets)

    async def _prepare(self, welcome: dict[str, Any]) -> None:
        self.pid = welcome["pid"]
        self.welcome = welcome
        self._may_prepare.set_result(None)
        await self._prepared

    async def _serve(self, estate: dict[str, Any]) -> None:
        self._heir.elsewhere(_counts(estate["clients"]))
        self._heir.acquaint(estate["pools"])  # before anything else is heard of them
        self._may_serve.set_result(None)
        await self._serves

    def _fail(self, text: str) -> None:
        for waited in (self._prepared, self._serves):
            if not waited.done():
                waited.set_exception(PoolerError(codes.CANNOT_CONNECT_NOW, text))
                waited.exception()  # who awaits it is perhaps not there yet

    # -- what people do

    def hold(self, holds: list[list[Any]]) -> None:
        """Have the old pooler pause what we pause, for the clients that it still has."""
        self.tell("hold", holds)

    def cancel(self, pid: int, secret: bytes) -> None:
        """Ask the old pooler whether it holds this client."""
        self.tell("cancel", pid, secret.hex())

    # -- the end

    def _old_is_done(self) -> None:
        self._done = True

    def _gone(self) -> None:
        self._over.set()
        if not self._serves.done():
            gone = Replaced("the old process has gone, or given up on this one")
            for waited in (self._may_prepare, self._may_serve):
                if not waited.done():
                    waited.set_exception(gone)
                    waited.exception()
            return
        if not self._done:
            logs.event(logging.WARNING, "the old process was killed", pid=self.pid)
        wait = 0.0 if self._done else AFTERMATH
        asyncio.get_running_loop().call_later(wait, self._finish)

    def _finish(self) -> None:
        """Be the only one."""
        heir = self._heir
        heir.elsewhere([])
        heir.end()
        logs.event(logging.INFO, "upgraded", pid=os.getpid(), old=self.pid, clients=heir.taken)

    def stop(self) -> None:
        """Have the old process stop, too: the pooler is to end."""
        self.tell("stop")

    def close(self) -> None:
        """Leave: the old process hears of it by the connection's end."""
        self._channel.close()


def _counts(told: list[list[Any]]) -> Counts:
    return [(kind, name, count) for kind, name, count in told]


def _check_owner(sock: socket.socket) -> None:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    owner = int.from_bytes(raw[4:8], "little")
    if sock.family != socket.AF_UNIX or owner != os.getuid():
        raise OSError(f"what is to be taken over belongs to user {owner}")

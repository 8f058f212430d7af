"""A worker: a complete pooler, but for what the supervisor does for all of them.

It gets its listening sockets from the supervisor, takes every server connection and every client
out of a common budget, and reloads, drains and stops when told to. When the supervisor is gone, it
lets its clients finish, as on SIGTERM.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final

from pooler import logs
from pooler.auth import Connection
from pooler.channel import Channel, ChannelLost
from pooler.config import Config, Settings
from pooler.core.client import Client
from pooler.core.errors import ClientFault, CloseReason, PoolerError
from pooler.core.limits import Allotment
from pooler.core.settings import Route
from pooler.greeter import Greeter
from pooler.listener import Address, Listener
from pooler.reload import Load, ReloadRefused
from pooler.service import Prepared, Service
from pooler.shutdown import Stop
from pooler.wire import codes
from pooler.wire.parse import CancelRequest

SOON: Final = 0.002
"""Seconds within which what happens to an allotment is told in one message."""

Key = tuple[str, str, str]

Addresses = list[tuple[list[str], int]]
"""The parts of each address, and how many of the files that come along listen there."""


class Worker(Service):
    """One of several."""

    def __init__(
        self, load: Load, config: Config, number: int, workers: int, sock: socket.socket
    ) -> None:
        super().__init__(load, config)
        self.number = number
        self.workers = workers
        logs.mark(worker=number)
        self.router.number(number, workers)
        self._listener = Listener(lambda: Greeter(self), self.bind, owner=False)
        self._allotments: dict[Key, Allotment] = {}
        self._reporting = False
        self._given: dict[Address, list[socket.socket]] = {}  # and not listened on yet
        self._may_listen = asyncio.Event()
        self._prepared: Prepared | None = None
        self._channel = Channel(
            sock,
            {
                "listen": self._listen,
                "allot": self._allot,
                "prepare": self._prepare,
                "commit": self._commit,
                "discard": self._discard,
                "cancel": self._cancel,
                "doubt": self.throttle.failed,
                "drain": self.stop,
                "stop": lambda: self.stop(Stop.NOW),
            },
            self.stop,
        )

    # -- listening

    def _listen(self, addresses: Addresses, files: Sequence[int] = ()) -> None:
        """Take the sockets to start with."""
        self._take(addresses, files)
        self._may_listen.set()

    def _take(self, addresses: Addresses, files: Sequence[int]) -> None:
        sockets = iter(files)
        for parts, count in addresses:
            self._given[tuple(parts)] = [socket.socket(fileno=next(sockets)) for _ in range(count)]

    def bind(self, config: Settings, address: Address) -> list[socket.socket]:
        """Return what the supervisor gave us for this address."""
        return self._given.pop(address, [])

    async def open(self, config: Config) -> None:
        """Listen on what the supervisor has bound."""
        await self._may_listen.wait()
        await self._listener.commit(config, self._listener.prepare(config))

    async def moved_metrics(self, config: Config) -> None:
        """Serve none: the supervisor does, for all."""

    async def move_console(self, config: Config) -> None:
        """Nothing: the supervisor has it."""

    def duties(self) -> list[Coroutine[Any, Any, None]]:
        """Return nothing: the supervisor says when to reload."""
        return []

    def ready(self) -> None:
        """Tell the supervisor."""
        self._channel.tell("ready", os.getpid())

    # -- the budget

    def allotment(self, pool: Key) -> Allotment:
        """Return what this pool may have; nothing, until the budget says otherwise."""
        if pool not in self._allotments:
            self._allotments[pool] = Allotment(f"allotment of {pool}")
        return self._allotments[pool]

    def short(self, allotment: Allotment) -> None:
        """Tell the budget, in one message with what happens at the same time."""
        if not self._reporting:
            self._reporting = True
            asyncio.get_running_loop().call_later(SOON, self._report)

    def _report(self) -> None:
        self._reporting = False
        news = []
        for key, allotment in list(self._allotments.items()):
            report = allotment.report()
            if report is not None:
                news.append([key, allotment.round, report.count, report.want, report.wait])
            elif allotment.forgotten:
                del self._allotments[key]
        if news:
            self._channel.tell("report", news)

    def _allot(self, key: list[str], limit: int, round_: int) -> None:
        allotment = self._allotments.get((key[0], key[1], key[2]))
        if allotment is not None:
            allotment.allot(limit, round_)
            self.short(allotment)

    def tick(self) -> None:
        """Tell the budget how long clients have waited by now."""
        super().tick()
        self._report()

    # -- clients

    def admission(self, database: str, user: str) -> Awaitable[None]:
        """Have the client counted with those of the others."""
        return self._ask_admission(database, user)

    async def _ask_admission(self, database: str, user: str) -> None:
        try:
            full = await self._channel.call("admit", database, user)
        except (ChannelLost, TimeoutError):
            raise PoolerError(codes.CANNOT_CONNECT_NOW, "the pooler is shutting down") from None
        if full:
            raise ClientFault(codes.TOO_MANY_CONNECTIONS, f"no more connections allowed ({full})")

    def not_admitted(self, database: str, user: str) -> None:
        """Give its place back."""
        self._channel.tell("gone", database, user)

    def client_closed(self, client: Client, reason: CloseReason, text: str) -> None:
        """Give its place back."""
        super().client_closed(client, reason, text)
        if not client.internal:
            self._channel.tell("gone", client.database, client.user)

    def login_failed(self, connection: Connection, database: str, user: str) -> float:
        """Have the others slow down this address, too."""
        self._channel.tell("doubt", connection.address)
        return super().login_failed(connection, database, user)

    def cancel_request(self, request: CancelRequest) -> None:
        """Do it, or ask the others to: the client may be one of theirs."""
        if not self.cancelled(request):
            self._channel.tell("cancel", request.pid, request.secret.hex())

    def _cancel(self, pid: int, secret: str) -> None:
        self.cancelled(CancelRequest(pid, bytes.fromhex(secret)))

    # -- configuration

    def resolve(self, config: Config, database: str, user: str) -> Route | None:
        """Return a route that keeps warm only this worker's part of `min_pool_size`."""
        route = config.resolve(database, user)
        if route is None:
            return None
        least = portion(route.pool.min_pool_size, self.number, self.workers)
        return replace(route, pool=replace(route.pool, min_pool_size=least))

    async def _prepare(self, addresses: Addresses, files: Sequence[int] = ()) -> list[str]:
        """Return why the configuration that is there now cannot be gone by, if so."""
        await self._discard()
        self._take(addresses, files)
        try:
            self._prepared = await self.prepare_reload({})
        except ReloadRefused as refused:
            return refused.problems
        return []

    async def _commit(self) -> None:
        prepared, self._prepared = self._prepared, None
        if prepared is None:
            raise PoolerError(codes.INTERNAL_ERROR, "nothing was prepared")
        await self.commit_reload(prepared)

    async def _discard(self) -> None:
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            await self.discard_reload(prepared)
        for sockets in self._given.values():
            for sock in sockets:
                sock.close()
        self._given.clear()


def portion(whole: int, number: int, workers: int) -> int:
    """Return worker `number`'s part of `whole`: the parts add up, and differ by one at most."""
    return whole * (number + 1) // workers - whole * number // workers

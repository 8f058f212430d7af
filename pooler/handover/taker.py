"""The new process's part of an upgrade: takes over what the old one gives.

It does as it is told until it serves, then clients come one by one. When the old process has gone,
nothing is left of all this.
"""

import asyncio
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING, Any, Final

import pooler
from pooler import logs
from pooler.activation import METRICS
from pooler.channel import Channel
from pooler.core import moving
from pooler.core.budget import NO_LIMITS, Budget, Limits, PoolName, Report
from pooler.core.cancel import SLOTS
from pooler.core.errors import PoolerError
from pooler.core.limits import Allotment
from pooler.core.routes import AUTH
from pooler.handover import FORMAT
from pooler.handover.channels import Followers
from pooler.handover.secrets import unpacked_credential
from pooler.handover.shares import News, Shares, name_of
from pooler.listener import SYSTEMD
from pooler.notify import notify
from pooler.sockets import set_options
from pooler.wire import codes

if TYPE_CHECKING:
    from pooler.service import Service

Kind = tuple[str, str, str]
"""What a listening socket is for ("tcp", "unix", "metrics", "systemd"), host or path, port."""

OWN: Final = 0
OLD: Final = 1
"""The two processes, to the budget."""

_REFUSAL: Final = 5.0  # seconds in which the old process hears of it

AFTERMATH: Final = 1.0
"""Seconds that PostgreSQL has to notice that a process which was killed has gone."""


class Replaced(OSError):
    """The old process does not want this one after all."""


class Taker:
    """One upgrade."""

    def __init__(self, sock: socket.socket) -> None:
        """`sock` is our end of what the old process opened; OSError: it is a stranger's."""
        _check_owner(sock)
        self._service: Service
        self.shares: Shares
        self.pid = 0
        """The old process."""
        self.taken = 0
        self.overlay: dict[tuple[str, ...], str] = {}
        """What SET has changed in the old process."""
        self._budget = Budget(self._limits, self._allot)
        self._statements: dict[int, moving.Packed] = {}
        self._followers = Followers()
        self._given: dict[Kind, list[socket.socket]] = {}
        self._welcome: dict[str, Any] = {}
        self._over = asyncio.Event()
        self._serving = False
        self._done = False
        loop = asyncio.get_running_loop()
        self._may_prepare: asyncio.Future[None] = loop.create_future()
        self._prepared: asyncio.Future[None] = loop.create_future()
        self._may_serve: asyncio.Future[None] = loop.create_future()
        self._serves: asyncio.Future[None] = loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._channel = Channel(
            sock,
            {
                "prepare": self._prepare,
                "serve": self._serve,
                "main": lambda: notify("READY=1"),
                "statement": self._statement,
                "client": self._client,
                "follow": self._follow,
                "report": self._report_old,
                "cancel": lambda pid, secret: self._service.cancel_with(pid, secret),
                "done": self._old_is_done,
            },
            self._gone,
        )
        self._channel.tell("hello", FORMAT, pooler.__version__)

    # -- up to where it serves: the service awaits what the old process says

    def begin(self, service: "Service") -> None:
        """Be this service's."""
        self._service = service
        self.shares = Shares(service.router, self._report_own)

    async def refuse(self, text: str) -> None:
        """Tell the old process why nobody takes over, and leave."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_REFUSAL):
                await self._may_prepare
                self._fail(text)
                await self._over.wait()
        self._channel.close()

    async def may_prepare(self) -> None:
        """Wait for the listening sockets; Replaced: they will not come."""
        await self._may_prepare
        router = self._service.router
        router.number_from(self._welcome["idents"])
        router.holds.take(self._welcome["holds"], self._service.now())
        router.hold()
        router.keys.slot = (self._welcome["slot"] + 1) % SLOTS

    async def may_serve(self) -> None:
        """Tell that all is prepared, and wait for the moment to serve."""
        self._prepared.set_result(None)
        await self._may_serve

    def hold(self) -> None:
        """Have the old process pause what we pause, for the clients that it still has."""
        service = self._service
        self._channel.tell("hold", service.router.holds.packed(service.now()))

    def serves(self) -> None:
        """Tell that clients can come."""
        for sockets in self._given.values():  # what the new configuration does not want
            for sock in sockets:
                if sock.family == socket.AF_UNIX:
                    os.unlink(sock.getsockname())
                sock.close()
        self._given.clear()
        self._serves.set_result(None)

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

    async def _prepare(self, welcome: dict[str, Any], files: tuple[int, ...] = ()) -> None:
        self.pid = welcome["pid"]
        given = iter(files)
        for kind, count in welcome["sockets"]:
            what, where, port = kind
            sockets = [socket.socket(fileno=next(given)) for _ in range(count)]
            self._given[what, where, port] = sockets
        self._welcome = welcome
        self.overlay = {tuple(path): value for path, value in welcome["overlay"]}
        self._may_prepare.set_result(None)
        await self._prepared

    async def _serve(self, pools: list[dict[str, Any]]) -> None:
        for pool in pools:  # before anything else is heard of them
            self._take_pool(pool)
        self._serving = True
        self.shares.report()
        self._may_serve.set_result(None)
        await self._serves

    def _take_pool(self, pool: dict[str, Any]) -> None:
        """Learn of a pool what clients and servers are greeted with, and what the old one has."""
        name = name_of(pool["name"])
        self._budget.report(OLD, name, 0, Report(pool["count"], pool["want"]))
        ours = self._service.router.pool_named(name)
        if ours is not None:
            if ours.learnt is None:
                ours.learn(unpacked_credential(pool["learnt"]))
            if ours.welcome is None and pool["welcome"] is not None:
                ours.welcome = ours.shelf.shared(pool["welcome"])

    def _fail(self, text: str) -> None:
        for waited in (self._prepared, self._serves):
            if not waited.done():
                waited.set_exception(PoolerError(codes.CANNOT_CONNECT_NOW, text))
                waited.exception()  # who awaits it is perhaps not there yet

    # -- clients

    def _statement(self, statement: moving.Packed) -> None:
        self._statements[statement["number"]] = statement

    def _client(self, packed: moving.Packed, files: tuple[int, ...] = ()) -> None:
        (file,) = files
        sock = socket.socket(fileno=file)
        # Before its first byte is read: from here on it is ours, whoever ends.
        self._channel.tell("took", packed["ident"])
        self.taken += 1
        task = asyncio.get_running_loop().create_task(self._arrive(sock, packed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _arrive(self, sock: socket.socket, packed: moving.Packed) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Arrival(self._service, packed, self._statements), sock
            )
        except OSError:  # it has gone on its way
            sock.close()

    def _follow(self, name: list[str], marker: str, number: int, channels: list[str]) -> None:
        pool = self._service.router.pool_named(name_of(name))
        if pool is not None:
            self._followers.follow(pool, marker, number, channels)

    # -- the budget

    def allotment(self, name: PoolName) -> Allotment:
        """Return what a pool may have while there are two processes."""
        return self.shares.allotment(name)

    def tick(self) -> None:
        """Move what is not where clients wait."""
        if self._serving:
            self.shares.report()
            self._budget.rebalance()

    def configure(self) -> None:
        """Go by new limits."""
        self._budget.configure()

    def _report_own(self, news: list[News]) -> None:
        if self._serving:
            self._report(OWN, news)

    def _report_old(self, news: list[News]) -> None:
        self._report(OLD, news)

    def _report(self, process: int, news: list[News]) -> None:
        for name, answers, count, want, wait in news:
            self._budget.report(process, name_of(name), answers, Report(count, want, wait))

    def _allot(self, process: int, name: PoolName, allotment: int, round_: int) -> None:
        if process == OWN:
            self.shares.allot(name, allotment, round_)
        else:
            self._channel.tell("allot", name, allotment, round_)

    def _limits(self, name: PoolName) -> Limits:
        database, user, kind = name
        config = self._service.config
        route = (config.auth_route if kind == AUTH else config.resolve)(database, user)
        if route is None:
            return NO_LIMITS
        pool = route.pool
        groups = (
            ("servers", config.limits.max_server_connections),
            (f"database {route.database}", pool.max_db_server_connections),
            (f"user {route.target.user}", pool.max_user_server_connections),
        )
        return Limits(pool.pool_size, pool.reserve_pool_size, pool.reserve_pool_timeout, groups)

    # -- cancels

    def cancel(self, pid: int, secret: bytes) -> None:
        """Ask the old process whether it holds this client."""
        self._channel.tell("cancel", pid, secret.hex())

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
        self._statements.clear()
        self._followers.end()
        self.shares.release()
        self._service.taken_over()
        logs.event(logging.INFO, "upgraded", pid=os.getpid(), old=self.pid, clients=self.taken)

    def stop(self) -> None:
        """Have the old process stop, too: the pooler is to end."""
        self._channel.tell("stop")

    def close(self) -> None:
        """Leave: the old process hears of it by the connection's end."""
        self._channel.close()


class _Arrival(asyncio.Protocol):
    """The connection of a client that arrives, until it is one."""

    def __init__(
        self, service: "Service", packed: moving.Packed, statements: moving.Statements
    ) -> None:
        self._service = service
        self._packed = packed
        self._statements = statements

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make the client that it was."""
        service = self._service
        connection: Any = transport
        set_options(transport, service.config)
        try:
            client = moving.unpack(service.router, connection, self._packed, self._statements)
        except PoolerError as error:
            connection.write(error.response())
            connection.close()
            return
        except (KeyError, TypeError, ValueError) as error:
            service.bug(f"client {self._packed.get('ident')} that moved", error)
            connection.abort()
            return
        connection.set_protocol(client)
        moving.arrive(client, self._packed)


def _check_owner(sock: socket.socket) -> None:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    owner = int.from_bytes(raw[4:8], "little")
    if sock.family != socket.AF_UNIX or owner != os.getuid():
        raise OSError(f"what is to be taken over belongs to user {owner}")

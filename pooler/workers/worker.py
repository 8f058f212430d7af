"""A worker: a complete pooler, but for what the supervisor does for all of them.

It gets its listening sockets from the supervisor, takes every server connection and every client
out of a common budget, and reloads, drains and stops when told to. When the supervisor is gone, it
lets its clients finish, as on SIGTERM.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import astuple, replace
from functools import partial
from typing import Any, Final

from pooler import logs
from pooler.activation import METRICS
from pooler.admin.commands import (
    EVERYWHERE,
    FOR_CLIENTS,
    Command,
    CommandError,
    Tell,
    pause,
    resume,
)
from pooler.admin.view import Rows
from pooler.admin.views import combined, own_rows
from pooler.channel import CALL_TIMEOUT, FILES_LIMIT, Channel, ChannelLost
from pooler.config import Change, Config, Settings
from pooler.core.broadcast import Broadcast
from pooler.core.budget import Report as Use
from pooler.core.client import Client
from pooler.core.errors import ClientFault, CloseReason, PoolerError
from pooler.core.pool import Pool
from pooler.core.settings import Route
from pooler.health import Report, together
from pooler.http import MetricsServer
from pooler.listener import Address, Listener
from pooler.login.ends import Connection
from pooler.login.greeter import Greeter
from pooler.metrics import Snapshot, merge
from pooler.reload import Load, Overlay, ReloadRefused
from pooler.service import Prepared, Service
from pooler.shutdown import Stop
from pooler.wire import codes
from pooler.wire.parse import CancelRequest
from pooler.workers.upgrades import WorkerUpgrades

SOON: Final = 0.002
"""Seconds within which what happens to an allotment is told in one message."""

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

Key = tuple[str, str, str]

Pairs = list[tuple[list[str], str]]
"""What is SET: paths of settings, and their values."""

Addresses = list[tuple[list[str], int]]
"""The parts of each address, and how many of the files that come along listen there."""


class Worker(Service):
    """One of several."""

    def __init__(
        self, load: Load, config: Config, number: int, workers: int, sock: socket.socket
    ) -> None:
        super().__init__(load, config)
        self.number = number
        self.name = str(number)
        self.workers = workers
        logs.mark(worker=number)
        self.router.number(number, workers)
        self._listener = Listener(lambda: Greeter(self), self.bind, owner=False)
        self.upgrades: WorkerUpgrades = WorkerUpgrades(self)
        self.upgrades.shares.silent = True  # until it may listen
        self._lanes: set[Key] = set()  # of pools: the budget does not know what they have now
        self._asked: dict[Key, int] = {}  # of what pools' ears were last asked to listen to
        self._given: dict[Address, list[socket.socket]] = {}  # and not listened on yet
        self._may_listen = asyncio.Event()
        self._prepared: Prepared | None = None
        self._channel = Channel(
            sock,
            {
                "sockets": self._take_sockets,
                "listen": self._listen,
                "metrics": self._offer_metrics,
                **self.upgrades.handlers(),
                "places": self._allot_places,
                "vacate": lambda databases: self.router.vacate(frozenset(databases)),
                "functions": self.router.functions_changed,
                "schema": self._schema_changed,
                "prepare": self._prepare,
                "commit": self._commit,
                "discard": self._discard,
                "cancel": self._cancel,
                "doubt": self.throttle.failed,
                "rows": partial(own_rows, self),
                "figures": super().figures,
                "readiness": super().readiness,
                "host": self._host,
                "attend": self._attend,
                "attending": self._attending,
                "heard": self._heard,
                "deaf": self._deaf,
                "do": self._do_here,
                "do_for": self._do_for_here,
                "belongings": self._belongings,
                "hold": self._hold,
                "stop": self._stop_here,
            },
            self._orphaned,
        )

    def tell(self, name: str, *arguments: Any, files: Sequence[int] = ()) -> None:
        """Tell the supervisor."""
        self._channel.tell(name, *arguments, files=files)

    async def ask(self, name: str, *arguments: Any) -> Any:
        """Return what the supervisor answers, however long it takes."""
        return await self._channel.call(name, *arguments, within=None)

    def _orphaned(self) -> None:
        """The supervisor has gone: end when clients have, or where that would be too late, now."""
        if self.upgrades.under_way or not self._may_listen.is_set():
            os._exit(1)
        super().stop()

    # -- listening

    def _listen(self, orders: dict[str, Any]) -> None:
        """Begin, with what has been SET, and numbers that no other process gives."""
        self.overlay = _overlay(orders["overlay"])
        self.router.number_from(orders["idents"])
        self.router.keys.slot = orders["slot"]
        if orders["succeeds"]:
            self.upgrades.succeed()
        self.upgrades.shares.silent = False
        self.upgrades.shares.report()
        self._may_listen.set()

    def _take_sockets(self, address: list[str], files: Sequence[int] = ()) -> None:
        """Take sockets that are listened on once that may be."""
        sockets = self._given.setdefault(tuple(address), [])
        sockets += [socket.socket(fileno=file) for file in files]

    def _offer_metrics(self) -> None:
        """Give the supervisor those of Prometheus, for another pooler."""
        for start in range(0, len(self._metrics.sockets), FILES_LIMIT):
            sockets = self._metrics.sockets[start : start + FILES_LIMIT]
            self.tell("metrics", self.metrics_kind, files=[sock.fileno() for sock in sockets])

    def _take(self, addresses: Addresses, files: Sequence[int]) -> None:
        sockets = iter(files)
        for parts, count in addresses:
            self._given[tuple(parts)] = [socket.socket(fileno=next(sockets)) for _ in range(count)]

    def bind(self, config: Settings, address: Address) -> list[socket.socket]:
        """Return what the supervisor gave us for this address."""
        return self._given.pop(address, [])

    def bind_metrics(self, host: str, port: int) -> list[socket.socket]:
        """Return what the pooler before this one had, or else new sockets; OSError."""
        return self._given.pop((METRICS, host, str(port)), []) or super().bind_metrics(host, port)

    async def open(self, config: Config) -> None:
        """Listen on what the supervisor has bound.

        The first worker serves metrics and the console's socket for all.
        """
        self.tell("here")
        await self._may_listen.wait()
        if self.overlay:
            config = self.load(self.overlay)
            self._apply(config)
        await self._listener.commit(config, self._listener.prepare(config))
        if not self.number:
            await self._metrics.open(config)
            await self._admin.open(config.admin.socket)
            self._report_operation()
        self._discard_given()

    async def resume_operation(self) -> None:
        """Serve them again, with the first worker."""
        if not self.number:
            await super().resume_operation()

    async def moved_metrics(self, config: Config) -> MetricsServer | None:
        """Return it for the first worker."""
        return None if self.number else await super().moved_metrics(config)

    async def move_console(self, config: Config) -> None:
        """Move it for the first worker."""
        if not self.number:
            await super().move_console(config)

    def heed_signals(self) -> None:
        """Heed none: whoever signals all processes at once means the supervisor."""
        loop = asyncio.get_running_loop()
        for number in (*_ENDING, signal.SIGHUP, signal.SIGUSR2):
            loop.add_signal_handler(number, lambda: None)

    def duties(self) -> list[Coroutine[Any, Any, None]]:
        """Return nothing: the supervisor says when to reload."""
        return []

    def reloaded(self, found: list[Change]) -> None:
        """Tell nobody: the supervisor does."""

    def ready(self) -> None:
        """Tell the supervisor."""
        self._channel.tell("ready", os.getpid())

    # -- the budget

    def shares_lanes(self) -> bool:
        """Return True: `max_concurrent` is for all workers."""
        return True

    def lane_changed(self, pool: Pool) -> None:
        """Tell the budget, in one message with what happens at the same time."""
        if not self._lanes:
            asyncio.get_running_loop().call_later(SOON, self._report_lanes)
        self._lanes.add(pool.key)

    def _report_lanes(self) -> None:
        lanes, self._lanes = self._lanes, set()
        news = []
        for key in lanes:
            pool = self.router.pools.get(key)
            report = pool.lane.report() if pool is not None else None
            if pool is not None and report is not None:
                news.append([key, pool.lane.round, *astuple(report)])
        if news:
            self._channel.tell("report_lanes", news)

    def _allot_places(self, key: list[str], places: int, round_: int) -> None:
        pool = self.router.pools.get((key[0], key[1], key[2]))
        if pool is not None:
            pool.lane.allot(places, round_)
        else:
            self._channel.tell("report_lanes", [[key, round_, *astuple(Use(0, 0))]])

    # -- what is changed in a database

    def vacate(self, databases: frozenset[str]) -> None:
        """Tell the others."""
        super().vacate(databases)
        self._channel.tell("tell_others", "vacate", sorted(databases))

    def functions_changed(self, database: str) -> None:
        """Tell the others."""
        super().functions_changed(database)
        self._channel.tell("tell_others", "functions", database)

    def schema_changed(self, database: str, words: frozenset[bytes]) -> None:
        """Tell the others."""
        super().schema_changed(database, words)
        told = sorted(word.decode("latin-1") for word in words)
        self._channel.tell("tell_others", "schema", database, told)

    def _schema_changed(self, database: str, words: list[str]) -> None:
        about = frozenset(word.encode("latin-1") for word in words)
        self.router.schema_changed(database, about)

    # -- what people do

    async def do(self, command: Command, *arguments: Any, tell: Tell | None = None) -> None:
        """Have all workers do it, each for its own clients and servers."""
        others = asyncio.create_task(
            self._ask_others("do", command.__name__, *arguments, within=None)
        )
        try:
            await super().do(command, *arguments, tell=tell)
            await others
        except asyncio.CancelledError:
            if command is pause:  # with some it may be done already
                where = arguments[:2]
                self._channel.tell("others", CALL_TIMEOUT, "do", resume.__name__, *where)
                with contextlib.suppress(CommandError):
                    await super().do(resume, *where)
            raise
        finally:
            others.cancel()
            await asyncio.gather(others, return_exceptions=True)

    async def do_for(self, client: int, command: Command) -> Any:
        """Have the worker do it that has the client."""
        worker = (client - 1) % self.workers
        if worker == self.number:
            return await super().do_for(client, command)
        return await self._channel.call("at", worker, "do_for", client, command.__name__)

    async def _do_here(self, command: str, *arguments: Any) -> None:
        await super().do(EVERYWHERE[command], *arguments)

    async def _do_for_here(self, client: int, command: str) -> Any:
        return await super().do_for(client, FOR_CLIENTS[command])

    def stop(self, how: Stop = Stop.SERVERS, timeout: float | None = None) -> None:
        """Have all workers end, and the supervisor."""
        self._channel.tell("stop", how.name, timeout)

    def _stop_here(self, how: str, timeout: float | None) -> None:
        super().stop(Stop[how], timeout)

    def _belongings(self) -> list[Any]:
        """Return the number given last, and what is held back, for other processes."""
        return [self.router.idents, self.router.holds.packed(self.now())]

    def _hold(self, holds: list[list[Any]]) -> None:
        self.router.holds.take(holds, self.now())
        self.router.hold()

    async def reload(self, overlay: Overlay) -> list[Change]:
        """Have all workers go by the configuration that is there now, or none."""
        pairs = [(list(path), value) for path, value in overlay.items()]
        problems, found = await self._channel.call("reload", pairs, within=None)
        if problems:
            raise ReloadRefused(problems)
        return [Change(*change) for change in found]

    # -- what people see

    async def rows(self, view: str) -> Rows:
        """Return the rows of all workers as those of one pooler."""
        parts = [[tuple(row) for row in part] for part in await self._ask_others("rows", view)]
        return combined(view, [own_rows(self, view), *parts])

    async def figures(self) -> Snapshot:
        """Return those of all workers and the supervisor, added up."""
        others = await self._ask_others("figures")
        with contextlib.suppress(ChannelLost, TimeoutError):
            used = await self._channel.call("usage")
            others.append({"values": used, "pools": []})
        return await merge([await super().figures(), *others], self.config.metrics.pool_limit)

    async def readiness(self) -> Report:
        """Return what all workers say."""
        return together([await super().readiness(), *await self._ask_others("readiness")])

    async def _ask_others(
        self, name: str, *arguments: Any, within: float | None = CALL_TIMEOUT
    ) -> list[Any]:
        """Return what each other worker answers; of those that have ended, nothing."""
        try:
            answers: list[Any] = await self._channel.call(
                "others", within, name, *arguments, within=within
            )
        except (ChannelLost, TimeoutError):
            return []
        return answers

    # -- one ear for all

    def ear(self, pool: Pool) -> "FarEar":
        """Return one that asks the supervisor; it may say that we are to have it."""
        return FarEar(self._channel, pool.key)

    def attending(self, pool: Pool, channels: frozenset[str]) -> None:
        """Tell the others."""
        answers = self._asked.get(pool.key)
        if answers is not None:
            self._channel.tell("attending", pool.key, sorted(channels), answers)

    def heard(self, pool: Pool, channel: str, body: bytes) -> None:
        """Tell the others."""
        self._channel.tell("heard", pool.key, channel, body.hex())

    def deaf(self, pool: Pool) -> None:
        """Tell the others."""
        self._asked.pop(pool.key, None)
        self._channel.tell("deaf", pool.key)

    def _broadcast(self, key: list[str]) -> Broadcast | None:
        pool = self.router.pools.get((key[0], key[1], key[2]))
        return pool.broadcast if pool is not None else None

    def _host(self, key: list[str]) -> None:
        broadcast = self._broadcast(key)
        if broadcast is None:
            self._channel.tell("deaf", key)
        else:
            broadcast.host()

    def _attend(self, key: list[str], channels: list[str], round_: int) -> None:
        broadcast = self._broadcast(key)
        if broadcast is not None:
            self._asked[key[0], key[1], key[2]] = round_
            broadcast.listen_for_others(frozenset(channels))

    def _attending(self, key: list[str], channels: list[str]) -> None:
        broadcast = self._broadcast(key)
        if broadcast is not None:
            broadcast.attending(frozenset(channels))

    def _heard(self, key: list[str], body: str) -> None:
        broadcast = self._broadcast(key)
        if broadcast is not None:
            broadcast.heard(bytes.fromhex(body))

    def _deaf(self, key: list[str]) -> None:
        broadcast = self._broadcast(key)
        if broadcast is not None:
            broadcast.lost()

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

    def client_moved(self, database: str, user: str) -> None:
        """Give its place back: another pooler has it."""
        self._channel.tell("gone", database, user)

    def login_failed(self, connection: Connection, database: str, user: str) -> float:
        """Have the others slow down this address, too."""
        self._channel.tell("tell_others", "doubt", connection.address)
        return super().login_failed(connection, database, user)

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

    async def _prepare(
        self, overlay: Pairs, addresses: Addresses, files: Sequence[int] = ()
    ) -> list[str]:
        """Return why the configuration that is there now cannot be gone by, if so."""
        await self._discard()
        self._take(addresses, files)
        try:
            self._prepared = await self.prepare_reload(_overlay(overlay))
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
        self._discard_given()

    def _discard_given(self) -> None:
        for sockets in self._given.values():
            for sock in sockets:
                sock.close()
        self._given.clear()


class FarEar:
    """Has the one worker listen that has the ear; that may come to be this one."""

    def __init__(self, channel: Channel, key: Key) -> None:
        self._channel = channel
        self._key = key
        self._told: frozenset[str] = frozenset()

    @property
    def waiting(self) -> None:
        """Its client is not of this process."""
        return None

    def enter(self, pool: Pool) -> None:
        """Nothing is to be done."""

    def attend(self, channels: frozenset[str]) -> None:
        """Tell the supervisor, if it is news."""
        if channels != self._told:
            self._told = channels
            self._channel.tell("hear", self._key, sorted(channels))

    def leave(self) -> None:
        """As above."""
        self.attend(frozenset())


def _overlay(pairs: Pairs) -> Overlay:
    return {tuple(path): value for path, value in pairs}


def portion(whole: int, number: int, workers: int) -> int:
    """Return worker `number`'s part of `whole`: the parts add up, and differ by one at most."""
    return whole * (number + 1) // workers - whole * number // workers

"""The running pooler: configuration, router, listener, dialer and clock put together.

The only place that knows all the parts. It is the core's `Edge`: what the core asks for is done
here or handed on; what it tells is the observer's. A reload applies whole or not at all.
"""

import asyncio
import logging
import os
import random
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

import pooler
from pooler import logs, openfiles
from pooler.activation import METRICS
from pooler.admin import views
from pooler.admin.commands import Command, Tell
from pooler.admin.console import Console
from pooler.admin.socket import AdminSocket
from pooler.admin.stats import Periods
from pooler.admin.view import Rows
from pooler.authquery import AuthQuery
from pooler.config import Change, Config, ConfigError, Settings, changes
from pooler.core import overdue
from pooler.core.budget import PoolName
from pooler.core.client import Client
from pooler.core.errors import CloseReason, PoolerError, ServerFault
from pooler.core.limits import Allotment
from pooler.core.pool import Pool
from pooler.core.routes import Router
from pooler.core.server import Server
from pooler.core.settings import Route
from pooler.dialer import Dialer
from pooler.handover import Kind
from pooler.handover.giver import left_behind
from pooler.handover.taker import Taker
from pooler.handover.upgrades import Upgrades
from pooler.health import Health, Report
from pooler.http import MetricsServer
from pooler.listener import SYSTEMD, Address, Listener, adapt, bind
from pooler.login.auth import Authenticator
from pooler.login.ends import Connection
from pooler.login.greeter import Greeter
from pooler.login.lobby import Lobby
from pooler.metrics import Snapshot, snapshot
from pooler.notify import notify
from pooler.observer import Observer
from pooler.peers import Peers, sent_on
from pooler.reload import Load, Overlay, Reloader, ReloadRefused, problems_of
from pooler.shutdown import End, Stop
from pooler.sockets import hung_up, tcp_sockets
from pooler.throttle import Throttle
from pooler.watch import watch
from pooler.wire import codes
from pooler.wire.parse import CancelRequest
from pooler.wire.scram import Keyring

TICK: Final = 0.1
"""Seconds between looks at the time limits."""
SECOND: Final = 10  # ticks

ROUTES: Final = 1000
"""Of (database, user), remembered until the next reload: each costs as much as a SCRAM login."""

LAST_WORDS: Final = 2.0
"""Seconds for servers to end their sessions and clients to read why, when all else is done."""


class Prepared(NamedTuple):
    """A configuration that can be gone by: its addresses are bound."""

    config: Config
    overlay: Overlay
    bound: dict[Address, list[socket.socket]]
    metrics: MetricsServer | None
    """Serves the new address, where it is another."""


class Service(Observer):
    """One pooler."""

    def __init__(
        self,
        load: Load,
        config: Config,
        taker: Taker | None = None,
        activated: Mapping[str, list[socket.socket]] = MappingProxyType({}),
    ) -> None:
        """`config` is what `load` has given just now.

        `taker` is there if another process is replaced, `activated` are sockets that came with
        this one, by name.
        """
        super().__init__(config)
        # for ever
        self.name = ""  # among the processes of this pooler, if there are several
        self.load = load
        self.overlay: Overlay = {}
        self.login_key = secrets.token_bytes(32)
        self.randbytes = os.urandom
        self.keyring = Keyring()
        self.router = Router(self, self.randbytes)
        self.lobby = Lobby(self.router.clients)
        self.authquery = AuthQuery(self.router, lambda: self.config)
        self.throttle = Throttle(self.now, lambda: self.config.auth.failure_delay)
        self.authenticator = Authenticator(lambda: self.config, lookup=self.authquery.lookup)
        self._listener = Listener(lambda: Greeter(self), self.bind)
        self._dialer = Dialer(lambda: self.config, self.randbytes, random.random, self.keyring)
        self.health = Health(self)
        self._metrics = MetricsServer(self)
        self.console = Console(self)
        self._admin = AdminSocket(lambda: Greeter(self, console_only=True))
        self.upgrades = Upgrades(self, taker)
        self._kept: list[socket.socket] = []  # of Prometheus, while it is not served
        self.peers = Peers(lambda: self.config, self.now)
        self._reloader = Reloader(
            self._reload, lambda: self.overlay, lambda: self.upgrades.handed_over
        )
        self._end = End()
        if taker is not None:
            self._listener.owner = False  # for now
        self._activate(activated)
        # now
        self.ticked_at = self.now()
        self._ticks = 0
        # counted
        self.last_changes: list[Change] = []
        self.periods = Periods(self.now())

    # -- the core's edge: what it wants done

    def random(self) -> float:
        """Return a random number from 0 up to 1."""
        return random.random()

    def wake(self, pool: Pool) -> None:
        """Have the dialer ask the pool what it wants."""
        self._dialer.wake(pool)
        self.upgrades.waits(pool)

    def cancel(self, server: Server) -> None:
        """Have the dialer deliver a cancel."""
        self._dialer.cancel(server)

    def hung_up(self, client: Client) -> bool:
        """Ask the kernel: without reading, the loop would not notice."""
        return not client.internal and hung_up(client.transport)

    def vacate(self, databases: frozenset[str]) -> None:
        """Have the idle servers of these databases leave."""
        self.router.vacate(databases)

    def functions_changed(self, database: str) -> None:
        """Have the pools of this database look at its functions again."""
        self.router.functions_changed(database)

    def schema_changed(self, database: str, words: frozenset[bytes]) -> None:
        """Have the pools of this database prepare statements anew."""
        self.router.schema_changed(database, words)

    def depart(self, client: Client) -> None:
        """Have it move, once the current callback is over."""
        self.upgrades.depart(client)

    def allotment(self, pool: PoolName) -> Allotment | None:
        """Ask the upgrade under way, if there is one."""
        return self.upgrades.allotment(pool)

    def short(self, allotment: Allotment) -> None:
        """Tell the upgrade under way."""
        self.upgrades.short(allotment)

    # -- the core's edge: what it tells, and the observer notes

    def client_opened(self, client: Client) -> None:
        """Have it move at once, if there is an upgrade."""
        self.upgrades.depart(client)
        self.upgrades.counted(client.database, client.user)
        super().client_opened(client)

    def client_closed(self, client: Client, reason: CloseReason, text: str) -> None:
        """Tell the upgrade under way."""
        self.upgrades.counted(client.database, client.user)
        super().client_closed(client, reason, text)

    def client_moved(self, database: str, user: str) -> None:
        """A client is another process's now."""
        self.upgrades.counted(database, user)

    def connect_failed(self, pool: Pool, host: str, error: ServerFault) -> None:
        """Ask anew for a password that the server refuses: it may have changed."""
        if error.sqlstate == codes.INVALID_PASSWORD:
            self.authquery.doubt(pool.database, pool.user)
        super().connect_failed(pool, host, error)

    # -- for greeters

    def admission(self, database: str, user: str) -> Awaitable[None] | None:
        """Return what has to be awaited before this client may come in; None: nothing."""
        return None

    def not_admitted(self, database: str, user: str) -> None:
        """A client that was awaited has not come in."""

    @property
    def logging_in(self) -> int:
        """Connections in the middle of their login."""
        return len(self.lobby)

    def login_failed(self, connection: Connection, database: str, user: str) -> float:
        """Note that somebody has not proven who he is; return the seconds he has to wait."""
        self.authquery.doubt(database, user)
        return self.throttle.failed(connection.address)

    def cancel_request(
        self, request: CancelRequest, address: str
    ) -> Coroutine[Any, Any, None] | None:
        """Do what a CancelRequest from `address` asks for, if its key is right.

        There is no answer to it; what is returned, if anything, has to be awaited first.
        """
        of_a_peer = sent_on(request)
        asked = of_a_peer or request
        if self.cancelled(asked):
            return None
        self.ask_siblings(asked)
        if of_a_peer is None and self.peers.worth_asking(asked.pid):
            return self.peers.ask(asked, address)
        self.tally.unknown_cancels += 1
        return None

    def ask_siblings(self, request: CancelRequest) -> None:
        """Have the other processes of this pooler look for the client."""
        self.upgrades.cancel(request.pid, request.secret)

    def cancel_with(self, pid: int, secret: str) -> None:
        """Do what another process was asked for, whose client it is not."""
        self.cancelled(CancelRequest(pid, bytes.fromhex(secret)))

    def cancelled(self, request: CancelRequest) -> bool:
        """Do it, and return whether the key is one of ours."""
        holder = self.router.keys.find(request.pid, request.secret)
        if holder is not None:
            holder.cancel()
        return holder is not None

    # -- what people do and see

    def hold(self) -> None:
        """Have every pool do as `router.holds` says, also those of a process that we replace."""
        self.router.hold()
        self.upgrades.hold()

    async def do(self, command: Command, *arguments: Any, tell: Tell | None = None) -> None:
        """Give a command of `admin.commands`, which may `tell` something meanwhile."""
        await command(self, *arguments, **({"tell": tell} if tell is not None else {}))

    async def do_for(self, client: int, command: Command) -> Any:
        """Give a command that is about one client, by its number; return what it returns."""
        return await command(self, client)

    async def rows(self, view: str) -> Rows:
        """Return the rows of a view."""
        return views.rows(self, view)

    async def figures(self) -> Snapshot:
        """Return what /metrics shows."""
        return await snapshot(self, self.config.metrics.pool_limit)

    async def readiness(self) -> Report:
        """Return what /readyz says."""
        return await self.health.ready()

    # -- life

    @property
    def listening(self) -> list[str]:
        """Where clients can connect to."""
        return self._listener.addresses

    @property
    def stopping(self) -> bool:
        """True once the end has begun."""
        return self._end.wanted

    def stop(self, how: Stop = Stop.SERVERS, timeout: float | None = None) -> None:
        """End, `timeout` seconds from now at the latest; with the same wish again: at once.

        Without a `timeout` it is `shutdown_timeout`, or none where clients are waited for.
        """
        self._end.want(how, timeout)

    async def run(self) -> None:
        """Serve until told to stop; OSError when an address cannot be had."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unhandled)
        config = self.config
        logs.set_up(config.logging.format, config.logging.level, config.logging.repeat_limit)
        logs.event(
            logging.INFO,
            "starting",
            version=pooler.__version__,
            build=pooler.build_kind(),
            config=config.source,
        )
        for note in config.notes:
            logs.event(logging.WARNING, "setting not supported", setting=note)
        self._apply(config)
        try:
            await self.open(config)
        except BaseException as error:
            if self.upgrades.taker is not None:
                await self.upgrades.taker.refuse(str(error) or type(error).__name__)
            raise
        self.tally.reloaded_at = _wall_clock()
        self.heed_signals()
        tasks = [loop.create_task(task) for task in (self._tick(), *self.duties())]
        self.ready()
        try:
            await either(self._end.changed, self.upgrades.replaced)
            if not self.stopping:
                self._end.want(Stop.SERVERS, None)
            await self._drain()
        finally:
            for task in tasks[1:]:
                task.cancel()
            await self._close(tasks[0])
            self.upgrades.close()

    # what a worker does otherwise

    def bind(self, config: Settings, address: Address) -> list[socket.socket]:
        """Return what listens on `address`; OSError."""
        given = self.upgrades.given(*address[:3])
        if not given:
            return bind(config, address)
        adapt(config, address, given)
        return given

    def bind_metrics(self, host: str, port: int) -> list[socket.socket]:
        """Return what listens for Prometheus; OSError."""
        given = self.upgrades.given(METRICS, host, str(port))
        return given or tcp_sockets(host, port, reuse_port=False)

    def _activate(self, sockets: Mapping[str, list[socket.socket]]) -> None:
        """Listen on sockets of systemd's; those by another name than `metrics` are for clients."""
        given = dict(sockets)
        self._kept = given.pop(METRICS, [])
        clients = [sock for named in given.values() for sock in named]
        self._listener.activated = {
            (SYSTEMD, str(number), ""): [sock] for number, sock in enumerate(clients)
        }

    async def open(self, config: Config) -> None:
        """Listen, for clients, for Prometheus, and for those who operate the pooler."""
        taker, heir = self.upgrades.taker, self.upgrades.heir
        if taker is not None and heir is not None:
            await taker.may_prepare()
            heir.welcomed()
            self._activate(taker.activated())
            if taker.overlay:
                self.overlay = taker.overlay
                config = self.load(self.overlay)
                self._apply(config)
        bound = self._listener.prepare(config)
        if taker is not None:
            await taker.may_serve()
            self._listener.owner = True
        await self._listener.commit(config, bound)
        await self._metrics.open(config, self._kept)
        self._kept = []
        await self._admin.open(config.admin.socket)
        self._report_addresses()
        if taker is not None:
            taker.serves()

    async def moved_metrics(self, config: Config) -> MetricsServer | None:
        """Return what serves the new address for Prometheus; OSError."""
        server = MetricsServer(self)
        await server.open(config)
        return server

    async def move_console(self, config: Config) -> None:
        """Have the console's socket where it is to be now; OSError."""
        await self._admin.open(config.admin.socket)

    def heed_signals(self) -> None:
        """Stop when told to."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGQUIT, self.stop, Stop.NOW)

    def duties(self) -> list[Coroutine[Any, Any, None]]:
        """Return what is to be done beside serving."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._reloader.ask)
        loop.add_signal_handler(signal.SIGUSR2, self.upgrades.ask)
        files = watch(lambda: self.config.files, lambda: self.config.seen, self._reloader.changed)
        return [self._reloader.serve(), files]

    def reloaded(self, found: list[Change]) -> None:
        """Tell everybody what is different now."""
        logs.event(logging.INFO, "reloaded", changes=[str(change) for change in found])

    def ready(self) -> None:
        """Tell everybody that clients can come."""
        logs.event(logging.INFO, "ready")
        notify("READY=1")

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """An exception out of a callback is a bug: end the one connection it was about."""
        error = context.get("exception")
        protocol = context.get("protocol")
        if not isinstance(error, BaseException):
            error = RuntimeError(str(context.get("message")))
        self.bug(protocol or context.get("message"), error)
        transport = context.get("transport")
        if transport is not None:
            cast(asyncio.Transport, transport).abort()

    def _apply(self, config: Config) -> None:
        """Have the core go by `config`, and warm up the pools whose user is known."""
        self.config = config
        self.lobby.configure(config)
        self.router.keys.peer = config.peers.id
        limits = config.limits
        self.router.configure(
            lru_cache(ROUTES)(partial(self.resolve, config)),
            limits.max_client_connections,
            limits.max_server_connections,
            config.auth_route,
        )
        short = openfiles.shortage(config)
        if short is not None:
            logs.event(
                logging.WARNING,
                "too few open files allowed",
                limit=short.limit,
                needed=short.needed,
                hint="Raise the hard limit (ulimit -Hn, LimitNOFILE=), or lower"
                " limits.max_client_connections: who comes when none are left is not let in.",
            )
        self.authquery.clear()
        self.tracing.configure(config)
        self.upgrades.configured()
        for name, database in config.databases.items():
            if database.user and name != "*":
                route = self.resolve(config, name, database.user)
                if route is not None and route.pool.min_pool_size:
                    self.router.pool(route)

    def resolve(self, config: Config, database: str, user: str) -> Route | None:
        """Return where a client that asks for (database, user) goes; None: no such database."""
        return config.resolve(database, user)

    def _report_addresses(self) -> None:
        for address in self._listener.addresses:
            logs.event(logging.INFO, "listening", address=address)
        self._report_operation()

    def _report_operation(self) -> None:
        for address in self._metrics.addresses:
            logs.event(logging.INFO, "metrics", address=address)
        if self._admin.path:
            logs.event(logging.INFO, "console", address=self._admin.path)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self.tick()

    def tick(self) -> None:
        """Look at the time limits."""
        self._ticks += 1
        self.ticked_at = self.now()
        self.upgrades.tick()
        self.lobby.hurry(self.ticked_at)
        for scope in self.router.holds.over(self.now()):
            self.hold()
            logs.event(logging.INFO, "resumed", scope=str(scope), why="its time is over")
        for pool in list(self.router.pools.values()):
            overdue.enforce(pool)
            if self._ticks % SECOND == 0:
                overdue.enforce_client_idle(pool)
        if self._ticks % SECOND == 0:
            logs.flush()
            self.router.prune()
            period = self.config.admin.stats_period
            self.periods.tick(self.now(), period, self.router.pools.values())

    # -- reload

    async def reload(self, overlay: Overlay) -> list[Change]:
        """Load the configuration anew, with what is SET on top, and go by it.

        Returns what is different now; ReloadRefused: nothing is.
        """
        return await self._reloader.reload(overlay)

    async def _reload(self, overlay: Overlay) -> list[Change]:
        try:
            prepared = await self.prepare_reload(overlay)
        except ReloadRefused as refused:
            self.tally.reload(_wall_clock(), ok=False)
            for problem in refused.problems:
                code = codes.CONFIG_FILE_ERROR
                self.errors.note(self.now(), "reload failed", "", "", code, problem)
            raise
        await self.commit_reload(prepared)
        return self.last_changes

    async def prepare_reload(self, overlay: Overlay) -> Prepared:
        """Load the configuration and bind what it wants; ReloadRefused, and nothing has changed."""
        bound: dict[Address, list[socket.socket]] = {}
        metrics = None
        try:
            config = self.load(overlay)
            bound = self._listener.prepare(config)
            if config.metrics.listen != self.config.metrics.listen:
                metrics = await self.moved_metrics(config)
            await self.move_console(config)
        except (ConfigError, OSError) as error:
            self._listener.discard(bound)
            if metrics is not None:
                await metrics.close()
            raise ReloadRefused(problems_of(error)) from error
        return Prepared(config, overlay, bound, metrics)

    async def discard_reload(self, prepared: Prepared) -> None:
        """Do not go by it after all."""
        self._listener.discard(prepared.bound)
        if prepared.metrics is not None:
            await prepared.metrics.close()

    async def commit_reload(self, prepared: Prepared) -> None:
        """Go by it."""
        config = prepared.config
        found = changes(self.config, config)
        self.overlay = prepared.overlay
        if prepared.metrics is not None:
            await self._metrics.close()
            self._metrics = prepared.metrics
        await self._listener.commit(config, prepared.bound)
        self._apply(config)
        logs.set_up(config.logging.format, config.logging.level, config.logging.repeat_limit)
        self.tally.reload(_wall_clock(), ok=True)
        self.last_changes = found
        self.reloaded(found)
        if prepared.bound or prepared.metrics is not None:
            self._report_addresses()

    # -- an upgrade

    def open_sockets(self) -> list[tuple[Kind, list[int]]]:
        """Return what we listen on: what for, and the descriptors."""
        found: list[tuple[Kind, list[socket.socket]]] = [
            ((address[0], address[1], address[2]), sockets)
            for address, sockets in self._listener.sockets.items()
        ]
        found.append((self.metrics_kind, self._metrics.sockets))
        return [(kind, [sock.fileno() for sock in sockets]) for kind, sockets in found]

    @property
    def metrics_kind(self) -> Kind:
        """What kind of sockets those of Prometheus are."""
        metrics = self.config.metrics.address
        if metrics is None:  # systemd's, if any
            return METRICS, SYSTEMD, ""
        return METRICS, metrics[0], str(metrics[1])

    async def suspend(self) -> None:
        """Accept nobody for a moment, or ever again."""
        self._listener.suspend()
        self._kept = await self._metrics.suspend()
        self._admin.close()

    async def resume(self) -> None:
        """Be what we were before `suspend`."""
        await self._listener.resume(self.config)
        await self.resume_operation()
        self._apply(self.config)

    async def resume_operation(self) -> None:
        """Serve those who operate the pooler again."""
        kept, self._kept = self._kept, []
        before, self._metrics = self._metrics, MetricsServer(self)
        await before.close()
        await self._metrics.open(self.config, kept)
        await self._admin.open(self.config.admin.socket)

    def taken_over(self) -> None:
        """The process before this one has gone."""
        self.upgrades.over()

    # -- the end

    async def _drain(self) -> None:
        """Have clients leave, in the way that is wanted."""
        end = self._end
        clients = self.router.clients.count
        logs.event(logging.INFO, "stopping", clients=clients, how=end.how.value or "NOW")
        self.upgrades.stop()
        if self.upgrades.handed_over:
            self._listener.release()
            for sock in self._kept:
                sock.close()
            error = left_behind()
            for session in list(self.console.sessions):
                session.fail(error)
        else:
            notify("STOPPING=1")
            error = _shutdown()
            if end.how is not Stop.NOW:
                await self._unless_changed(self.config.timeouts.shutdown_delay, lambda: False)
        self._listener.close()
        self.lobby.clear(error, CloseReason.SHUTDOWN)
        self.router.closed = True
        if end.how is Stop.CLIENTS:
            await self._unless_changed(end.timeout, self._empty)
        if end.how is not Stop.NOW:
            self.router.end(error, CloseReason.SHUTDOWN)
            patience = end.patience(self.config.timeouts.shutdown_timeout)
            await self._unless_changed(patience, self._empty)
        left = self.router.clients.count
        if left:
            logs.event(logging.WARNING, "clients cut off", clients=left)

    def _empty(self) -> bool:
        return not self.router.clients.count

    async def _unless_changed(self, seconds: float | None, over: Callable[[], bool]) -> None:
        """Wait so long (None: for ever), or until it is over, or there is more haste."""
        how = self._end.how
        end = float("inf") if seconds is None else self.now() + seconds
        # three conditions, one of them time
        while not over() and self.now() < end and self._end.how is how:  # noqa: ASYNC110
            await asyncio.sleep(TICK / 2)

    async def _close(self, tick: "asyncio.Task[None]") -> None:
        """Close what is left, and wait a moment for the servers to have ended their sessions."""
        error = _shutdown()
        pools = list(self.router.pools.values())
        for pool in pools:
            for client in list(pool.clients):
                client.fail(error, CloseReason.SHUTDOWN)
            for server in list(pool.staying):
                pool.close(server, CloseReason.SHUTDOWN)
        end = self.now() + LAST_WORDS
        while any(pool.leaving for pool in pools) and self.now() < end:
            if self._end.how is Stop.NOW:
                break
            await asyncio.sleep(TICK / 10)
        tick.cancel()
        await self.authquery.close()
        await self._dialer.close()
        await self._metrics.close()
        for session in list(self.console.sessions):
            session.fail(error)
        self._admin.close()
        for pool in pools:
            for server in list(pool.leaving):
                server.transport.abort()
        await asyncio.sleep(0)
        await self.tracing.close()
        logs.flush(ended=True)
        logs.event(logging.INFO, "stopped")


async def either(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _shutdown() -> PoolerError:
    return PoolerError(codes.ADMIN_SHUTDOWN, "terminating connection due to administrator command")


def _wall_clock() -> float:
    """Return the seconds since 1970, for people and Prometheus."""
    return datetime.now(UTC).timestamp()

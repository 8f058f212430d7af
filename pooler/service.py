"""The running pooler: configuration, router, listener, dialer and clock put together.

The only place that knows all the parts. It is the core's `Edge`: what the core asks for is done
here or handed on, what it reports is logged. A reload applies whole or not at all.
"""

import asyncio
import contextlib
import logging
import random
import secrets
import signal
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, cast

import pooler
from pooler import logs
from pooler.admin.console import Console
from pooler.admin.errors import Errors
from pooler.admin.socket import AdminSocket
from pooler.admin.stats import Periods
from pooler.auth import Authenticator, Connection
from pooler.authquery import AuthQuery
from pooler.config import Change, Config, ConfigError, changes
from pooler.core import overdue
from pooler.core.client import Client
from pooler.core.edge import Edge
from pooler.core.errors import CloseReason, PoolerError, ServerFault
from pooler.core.pins import Pin
from pooler.core.pool import Pool
from pooler.core.routes import Router
from pooler.core.server import Server
from pooler.dialer import Dialer
from pooler.greeter import Greeter
from pooler.http import MetricsServer
from pooler.listener import Listener
from pooler.metrics import Tally
from pooler.notify import notify, reloading
from pooler.shutdown import Stop
from pooler.sockets import hung_up
from pooler.throttle import Throttle
from pooler.watch import watch
from pooler.wire import codes
from pooler.wire.parse import CancelRequest
from pooler.wire.scram import Keyring

TICK: Final = 0.1
"""Seconds between looks at the time limits."""
SECOND: Final = 10  # ticks

LOGINS_BEYOND_LIMIT: Final = 100
"""Connections that have not logged in yet, above `max_client_connections`, before new ones are
dropped unread: enough for the cancels and refusals that must get through when all is full."""

ROUTES: Final = 1000
"""Of (database, user), remembered until the next reload: each costs as much as a SCRAM login."""

LAST_WORDS: Final = 2.0
"""Seconds for servers to end their sessions and clients to read why, when all else is done."""

Overlay = Mapping[tuple[str, ...], str]
"""Settings that the console has SET, by their path."""
Load = Callable[[Overlay], Config]


class Service(Edge):
    """One pooler."""

    def __init__(self, load: Load) -> None:
        # for ever
        self.load = load
        self.now = time.monotonic  # type: ignore[method-assign]  # asked several times a transaction
        self.overlay: Overlay = {}
        self.config = load(self.overlay)
        self.login_key = secrets.token_bytes(32)
        self.randbytes = secrets.token_bytes
        self.keyring = Keyring()
        self.router = Router(self, self.randbytes)
        self.authquery = AuthQuery(self.router, lambda: self.config)
        self.throttle = Throttle(self.now, lambda: self.config.auth.failure_delay)
        self.authenticator = Authenticator(lambda: self.config, lookup=self.authquery.lookup)
        self._listener = Listener(lambda: Greeter(self))
        self._dialer = Dialer(lambda: self.config, self.randbytes, random.random, self.keyring)
        self._metrics = MetricsServer(self)
        self.console = Console(self)
        self._admin = AdminSocket(lambda: Greeter(self, console_only=True))
        # now
        self._greeters: set[Greeter] = set()
        self._reload_wanted = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._stop: Stop | None = None
        self._stop_timeout: float | None = None
        self._stop_changed = asyncio.Event()
        # counted
        self.tally = Tally()
        self.last_changes: list[Change] = []
        self.periods = Periods(self.now())
        self.errors = Errors()

    # -- the core's edge

    def now(self) -> float:
        """Return a monotonic time in seconds."""
        return time.monotonic()

    def random(self) -> float:
        """Return a random number from 0 up to 1."""
        return random.random()

    def wake(self, pool: Pool) -> None:
        """Have the dialer ask the pool what it wants."""
        self._dialer.wake(pool)

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

    def client_opened(self, client: Client) -> None:
        """Count and log it."""
        if not client.internal:
            self.tally.open("client", client.transport.get_extra_info("tls"))
        if self.config.logging.log_connections and not client.internal:
            logs.event(logging.INFO, "client connected", **_client(client))

    def client_closed(self, client: Client, reason: CloseReason, text: str) -> None:
        """Log it: an expected end as information, another as a warning."""
        quiet = reason in (CloseReason.TERMINATED, CloseReason.PEER_CLOSED, CloseReason.SHUTDOWN)
        settings = self.config.logging
        if client.internal:
            return
        self.tally.clients_closed[reason.value] += 1
        if not quiet:
            self.errors.note(
                self.now(), "client closed", client.database, client.user, "", text or reason.value
            )
        if settings.log_disconnections if quiet else settings.log_pooler_errors:
            logs.event(
                logging.INFO if quiet else logging.WARNING,
                "client closed",
                **_client(client),
                reason=reason.value,
                message=text,
                seconds=round(self.now() - client.opened_at, 3),
            )

    def server_opened(self, server: Server) -> None:
        """Count and log it."""
        self.tally.open("server", server.transport.get_extra_info("tls"))
        if self.config.logging.log_connections:
            logs.event(logging.INFO, "server connected", **_server(server))

    def server_closed(self, server: Server, reason: CloseReason, text: str) -> None:
        """Count and log it."""
        self.tally.servers_closed[reason.value] += 1
        if self.config.logging.log_disconnections:
            logs.event(
                logging.INFO,
                "server closed",
                **_server(server),
                reason=reason.value,
                message=text,
                seconds=round(self.now() - server.opened_at, 3),
            )

    def connect_failed(self, pool: Pool, host: str, error: ServerFault) -> None:
        """Log it; a password that the server refuses may have changed."""
        if error.sqlstate == codes.INVALID_PASSWORD:
            self.authquery.doubt(pool.database, pool.user)
        self.errors.note(
            self.now(),
            "server connection failed",
            pool.database,
            pool.user,
            error.sqlstate,
            f"{host}: {error}",
        )
        if self.config.logging.log_pooler_errors:
            logs.event(
                logging.WARNING,
                "server connection failed",
                database=pool.database,
                user=pool.user,
                host=host,
                sqlstate=error.sqlstate,
                message=error.text,
                detail=error.detail,
            )

    def client_pinned(self, pin: Pin) -> None:
        """Log it, without what a statement may tell."""
        reasons = ", ".join(pin.reasons)
        logs.event(logging.DEBUG, "client pinned", **_pin(pin), reason=reasons)

    def client_unpinned(self, pin: Pin, seconds: float) -> None:
        """Log it."""
        reasons = ", ".join(pin.reasons)
        fields = {**_pin(pin), "reason": reasons, "seconds": round(seconds, 3)}
        logs.event(logging.DEBUG, "client unpinned", **fields)

    def leaked(self, server: Server, names: tuple[str, ...]) -> None:
        """Log what it was, without values."""
        pool = server.pool
        words = f"session state leaked: {', '.join(names)}"
        self.errors.note(self.now(), "session state leaked", pool.database, pool.user, "", words)
        logs.event(
            logging.WARNING, "session state leaked", **_server(server), names=", ".join(names)
        )

    def catalog_failed(self, pool: Pool, text: str) -> None:
        """Log it."""
        self.errors.note(self.now(), "catalog not read", pool.database, pool.user, "", text)
        logs.event(
            logging.WARNING,
            "catalog not read",
            database=pool.database,
            user=pool.user,
            message=text,
        )

    def bug(self, where: object, error: BaseException) -> None:
        """Log our own mistake, with its traceback."""
        self.errors.note(self.now(), "bug", "", "", "XX000", f"{where!r}: {error!r}")
        logs.LOGGER.error("bug", exc_info=error, extra={"fields": {"where": repr(where)}})

    # -- for greeters

    def greeting(self, greeter: Greeter) -> bool:
        """Count a connection that starts its login; False: there are too many."""
        limit = 0 if greeter.console_only else self.router.clients.limit
        if limit and len(self._greeters) + self.router.clients.count >= limit + LOGINS_BEYOND_LIMIT:
            return False
        self._greeters.add(greeter)
        return True

    @property
    def logging_in(self) -> int:
        """Connections in the middle of their login."""
        return len(self._greeters)

    def greeted(self, greeter: Greeter) -> None:
        """The login is over, one way or the other."""
        self._greeters.discard(greeter)

    def login_failed(self, connection: Connection, database: str, user: str) -> float:
        """Note that somebody has not proven who he is; return the seconds he has to wait."""
        self.authquery.doubt(database, user)
        return self.throttle.failed(connection.address)

    def cancel_request(self, request: CancelRequest) -> None:
        """Do what a CancelRequest asks for, if its key is right; there is no answer to it."""
        holder = self.router.keys.find(request.pid, request.secret)
        if holder is not None:
            holder.cancel()
        else:
            self.tally.unknown_cancels += 1

    def refused(
        self,
        name: str,
        database: str,
        user: str,
        reason: CloseReason,
        text: str,
        cause: str,
        sqlstate: str = "",
    ) -> None:
        """Count and log a connection that did not become a client, and what it was told."""
        self.tally.refuse(reason, sqlstate)
        if reason is not CloseReason.PEER_CLOSED:
            self.errors.note(self.now(), "client refused", database, user, sqlstate, text)
        if self.config.logging.log_pooler_errors:
            logs.event(
                logging.INFO if reason is CloseReason.PEER_CLOSED else logging.WARNING,
                "client refused",
                address=name,
                database=database,
                user=user,
                reason=reason.value,
                message=text,
                cause=cause,
            )

    # -- for the probes

    def not_ready(self) -> list[str]:
        """Return why clients should not be sent here, nothing if they should."""
        if self.stopping:
            return ["the pooler is shutting down"]
        return [
            f"no server of database {pool.database}, user {pool.user}: {pool.supply.last_error}"
            for pool in self.router.pools.values()
            if pool.supply.failing_since and pool.supply.last_error is not None
        ]

    # -- life

    @property
    def listening(self) -> list[str]:
        """Where clients can connect to."""
        return self._listener.addresses

    @property
    def stopping(self) -> bool:
        """True once the end has begun."""
        return self._stop is not None

    def stop(self, how: Stop = Stop.SERVERS, timeout: float | None = None) -> None:
        """End, `timeout` seconds from now at the latest; the same wish again: end at once.

        Without a `timeout` it is `shutdown_timeout`, or none where clients are waited for.
        """
        if self._stop is not None and how.haste <= self._stop.haste:
            how = Stop.NOW
        self._stop, self._stop_timeout = how, timeout
        self._stop_changed.set()

    def _stop_or_hurry(self) -> None:
        """Do as SIGTERM and SIGINT want: the second one means at once."""
        self.stop(Stop.NOW if self._stop is Stop.SERVERS else Stop.SERVERS)

    async def run(self) -> None:
        """Serve until told to stop; OSError when an address cannot be had."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unhandled)
        config = self.config
        logs.set_up(config.logging.format, config.logging.level)
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
        self.tally.reloaded_at = _wall_clock()
        await self._listener.commit(config, self._listener.prepare(config))
        await self._metrics.open(config)
        await self._admin.open(config.admin.socket)
        self._report_addresses()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_or_hurry)
        loop.add_signal_handler(signal.SIGQUIT, self.stop, Stop.NOW)
        loop.add_signal_handler(signal.SIGHUP, self._reload_as_asked)
        tasks = [
            loop.create_task(self._tick()),
            loop.create_task(self._reload_when_asked()),
            loop.create_task(
                watch(lambda: self.config.files, lambda: self.config.seen, self._reload_wanted.set)
            ),
        ]
        logs.event(logging.INFO, "ready")
        notify("READY=1")
        try:
            await self._stop_changed.wait()
            await self._drain()
        finally:
            for task in tasks[1:]:
                task.cancel()
            await self._close(tasks[0])

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
        limits = config.limits
        self.router.configure(
            lru_cache(ROUTES)(config.resolve),
            limits.max_client_connections,
            limits.max_server_connections,
            config.auth_route,
        )
        self.authquery.clear()
        for name, database in config.databases.items():
            if database.user and name != "*":
                route = config.resolve(name, database.user)
                if route is not None and route.pool.min_pool_size:
                    self.router.pool(route)

    def _report_addresses(self) -> None:
        for address in self._listener.addresses:
            logs.event(logging.INFO, "listening", address=address)
        for address in self._metrics.addresses:
            logs.event(logging.INFO, "metrics", address=address)
        if self._admin.path:
            logs.event(logging.INFO, "console", address=self._admin.path)

    async def _tick(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(TICK)
            ticks += 1
            for scope in self.router.holds.over(self.now()):
                self.router.hold()
                logs.event(logging.INFO, "resumed", scope=str(scope), why="its time is over")
            for pool in list(self.router.pools.values()):
                overdue.enforce(pool)
                if ticks % SECOND == 0:
                    overdue.enforce_client_idle(pool)
            if ticks % SECOND == 0:
                self.router.prune()
                period = self.config.admin.stats_period
                self.periods.tick(self.now(), period, self.router.pools.values())

    # -- reload

    def _reload_as_asked(self) -> None:
        """Go by the files alone, as SIGHUP wants."""
        self.overlay = {}
        self._reload_wanted.set()

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            notify(*reloading())
            with contextlib.suppress(ConfigError, OSError):  # which have been logged
                await self.reload(self.overlay)
            notify("READY=1")

    async def reload(self, overlay: Overlay) -> list[Change]:
        """Load the configuration anew, with what is SET on top, and go by it.

        Returns what is different now; ConfigError or OSError: nothing is.
        """
        async with self._reloading:
            try:
                found = await self._reload(overlay)
            except ConfigError as error:
                self._reload_failed([str(problem) for problem in error.problems])
                raise
            except OSError as error:
                self._reload_failed([str(error)])
                raise
        self.tally.reload(_wall_clock(), ok=True)
        self.last_changes = found
        logs.event(logging.INFO, "reloaded", changes=[str(change) for change in found])
        return found

    async def _reload(self, overlay: Overlay) -> list[Change]:
        before = self.config
        config = self.load(overlay)
        bound = self._listener.prepare(config)
        moved = config.metrics.listen != before.metrics.listen
        try:
            await self._admin.open(config.admin.socket)
            if moved:
                await self._move_metrics(config)
        except OSError:
            self._listener.discard(bound)
            raise
        found = changes(before, config)
        await self._listener.commit(config, bound)
        self.overlay = overlay
        self._apply(config)
        logs.set_up(config.logging.format, config.logging.level)
        if bound or moved:
            self._report_addresses()
        return found

    def _reload_failed(self, problems: list[str]) -> None:
        self.tally.reload(_wall_clock(), ok=False)
        for problem in problems:
            self.errors.note(self.now(), "reload failed", "", "", codes.CONFIG_FILE_ERROR, problem)
        logs.event(logging.ERROR, "reload failed", problems=problems)

    async def _move_metrics(self, config: Config) -> None:
        server = MetricsServer(self)
        await server.open(config)
        await self._metrics.close()
        self._metrics = server

    # -- the end

    async def _drain(self) -> None:
        """Have clients leave, in the way that is wanted."""
        logs.event(
            logging.INFO,
            "stopping",
            clients=self.router.clients.count,
            how=self._how.value or "NOW",
        )
        notify("STOPPING=1")
        if self._how is not Stop.NOW:
            await self._unless_changed(self.config.timeouts.shutdown_delay, lambda: False)
        error = PoolerError(
            codes.ADMIN_SHUTDOWN, "terminating connection due to administrator command"
        )
        self._listener.close()
        for greeter in list(self._greeters):
            greeter.turn_away(error, CloseReason.SHUTDOWN)
        self.router.closed = True
        if self._how is Stop.CLIENTS:
            await self._unless_changed(self._stop_timeout, self._empty)
        if self._how is not Stop.NOW:
            self.router.end(error, CloseReason.SHUTDOWN)
            timeout = self._stop_timeout if self._how is Stop.SERVERS else None
            if timeout is None:
                timeout = self.config.timeouts.shutdown_timeout or None
            await self._unless_changed(timeout, self._empty)
        left = self.router.clients.count
        if left:
            logs.event(logging.WARNING, "clients cut off", clients=left)

    @property
    def _how(self) -> Stop:
        return self._stop or Stop.NOW

    def _empty(self) -> bool:
        return not self.router.clients.count

    async def _unless_changed(self, seconds: float | None, over: Callable[[], bool]) -> None:
        """Wait so long (None: for ever), or until it is over, or there is more haste."""
        how = self._stop
        end = float("inf") if seconds is None else self.now() + seconds
        # three conditions, one of them time
        while not over() and self.now() < end and self._stop is how:  # noqa: ASYNC110
            await asyncio.sleep(TICK / 2)

    async def _close(self, tick: "asyncio.Task[None]") -> None:
        """Close what is left, and wait a moment for the servers to have ended their sessions."""
        error = PoolerError(
            codes.ADMIN_SHUTDOWN, "terminating connection due to administrator command"
        )
        pools = list(self.router.pools.values())
        for pool in pools:
            for client in list(pool.clients):
                client.fail(error, CloseReason.SHUTDOWN)
            for server in [*pool.idle, *pool.working]:
                pool.close(server, CloseReason.SHUTDOWN)
        end = self.now() + LAST_WORDS
        while any(pool.leaving for pool in pools) and self.now() < end:
            if self._how is Stop.NOW:
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
        logs.event(logging.INFO, "stopped")


def _wall_clock() -> float:
    """Return the seconds since 1970, for people and Prometheus."""
    return datetime.now(UTC).timestamp()


def _client(client: Client) -> dict[str, object]:
    return {
        "client": client.ident,
        "address": client.name,
        "database": client.database,
        "user": client.user,
    }


def _pin(pin: Pin) -> dict[str, object]:
    return {**_client(pin.client), "server": pin.server.ident, "pid": pin.server.pid}


def _server(server: Server) -> dict[str, object]:
    return {
        "server": server.ident,
        "address": server.name,
        "database": server.pool.database,
        "user": server.pool.user,
        "pid": server.pid,
    }

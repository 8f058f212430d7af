"""Opens server connections for the pools that want them, and delivers cancels."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar

from pooler.config import Config
from pooler.core.cancel import cancel_over
from pooler.core.errors import HandshakeFailed, ServerFault, ServerRefused
from pooler.core.pool import Pool
from pooler.core.server import Server
from pooler.core.settings import Host, SslMode, Target, TargetTls
from pooler.login.servers import Courier, Manner, ServerLogin
from pooler.sockets import set_options
from pooler.wire import codes
from pooler.wire.logins import Asking, Credential, Random, Welcome
from pooler.wire.scram import Keyring

P = TypeVar("P")

_UNENCRYPTED_REFUSALS: Final = (codes.INVALID_AUTHORIZATION, codes.PROTOCOL_VIOLATION)
"""How PostgreSQL (pg_hba.conf) and PgBouncer ("SSL required") refuse a login for want of TLS."""


async def open_connection(host: Host, factory: Callable[[], P]) -> tuple[asyncio.Transport, P]:
    """Connect to `host`, its name resolved anew; OSError. A protocol by shape is enough."""
    loop: Any = asyncio.get_running_loop()
    connecting: Awaitable[tuple[asyncio.Transport, P]]
    if host.is_unix:
        path = os.path.join(host.host, f".s.PGSQL.{host.port}")
        connecting = loop.create_unix_connection(factory, path)
    else:
        connecting = loop.create_connection(factory, host.host, host.port)
    return await connecting


class Dialer:
    """One for all pools."""

    def __init__(
        self,
        settings: Callable[[], Config],
        random: Random,
        jitter: Callable[[], float],
        keyring: Keyring,
    ) -> None:
        self._settings = settings
        self._keyring = keyring
        self._random = random
        self._jitter = jitter
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: set[Pool] = set()
        self._idents = 0

    def wake(self, pool: Pool) -> None:
        """Dial what the pool wants, once the current callback is over."""
        if pool not in self._asked:
            self._asked.add(pool)
            asyncio.get_running_loop().call_soon(self._dial, pool)

    def cancel(self, server: Server) -> None:
        """Deliver a cancel for what the server does."""
        self._start(self._deliver_cancel(server))

    async def close(self) -> None:
        """Give up all that is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _dial(self, pool: Pool) -> None:
        self._asked.discard(pool)
        while (host := pool.supply.dial()) is not None:
            self._start(self._connect(pool, host))

    async def _connect(self, pool: Pool, host: Host) -> None:
        target = pool.target
        generation = pool.generation
        secret = pool.credentials.secret
        transport: asyncio.Transport | None = None
        connected = False
        began = pool.edge.now()
        try:
            limit = pool.settings.server_connect_timeout
            transport, welcome = await self.log_in(host, target, secret, limit)
            if transport.is_closing():
                raise ServerFault(
                    codes.CONNECTION_FAILURE, "server closed the connection right after the login"
                )
            self._idents += 1
            server = Server(
                transport,
                pool,
                self._idents,
                host,
                welcome.pid,
                welcome.secret,
                welcome.parameters,
                generation,
                pool.edge.now(),
                1.0 - 0.1 * self._jitter(),
            )
            transport.set_protocol(server)  # type: ignore[arg-type]  # a protocol by shape
            connected = True
            pool.counters.connected(pool.edge.now() - began)
            pool.supply.connected(server)
        except ServerFault as error:
            pool.supply.failed(host, error, secret)
        except BaseException as error:
            if not connected:
                fault = ServerFault(codes.INTERNAL_ERROR, "connecting was given up")
                pool.supply.failed(host, fault)
            if not isinstance(error, asyncio.CancelledError):
                pool.edge.bug(pool, error)
                return
            raise
        finally:
            if transport is not None and not connected:
                transport.abort()

    async def log_in(
        self, host: Host, target: Target, secret: Credential | None, limit: float
    ) -> tuple[asyncio.Transport, Welcome]:
        """Return a connection that is logged in, within so many seconds; ServerFault."""
        try:
            async with asyncio.timeout(limit or None):
                return await self._log_in(host, target, secret)
        except TimeoutError:
            text = f"connection to {host} timed out (server_connect_timeout)"
        except (OSError, UnicodeError) as error:  # UnicodeError: an impossible host name
            text = f"connection to {host} failed: {_words(error)}"
        raise ServerFault(codes.UNABLE_TO_CONNECT, text)

    async def _log_in(
        self, host: Host, target: Target, secret: Credential | None
    ) -> tuple[asyncio.Transport, Welcome]:
        """Return a connection that is logged in, encrypted as `sslmode` wants or allows it."""
        earlier = ""
        ways = _ways(host, target.tls)
        for asking in ways:
            manner = self._manner(asking, host, target.tls)
            transport, login = await open_connection(
                host, partial(ServerLogin, target, secret, self._random, self._keyring, manner)
            )
            try:
                set_options(transport, self._settings())
                welcome = await login.result
            except BaseException as error:
                transport.abort()
                if isinstance(error, HandshakeFailed | ServerRefused):
                    if asking is not ways[-1] and _worth_another(asking, error, login.encrypted):
                        earlier = error.text
                        continue
                    if earlier:
                        error.detail = f"Before that: {earlier}"
                raise
            return login.transport, welcome
        raise AssertionError("the last way leads somewhere")

    def _manner(self, asking: Asking, host: Host, tls: TargetTls) -> Manner:
        if asking == "not":
            return Manner(asking)
        context = self._settings().certificates.servers.get(tls)
        if context is None:
            raise ServerFault(codes.CONNECTION_FAILURE, "the TLS settings have just changed")
        return Manner(asking, context, host.host)

    async def _deliver_cancel(self, server: Server) -> None:
        """Send a CancelRequest to the address that the server is at, and wait for its end.

        PostgreSQL closes the connection when the signal has been sent, not before.
        """
        delivered = False
        try:
            async with asyncio.timeout(server.pool.settings.cancel_wait_timeout or None):
                host = _same_address(server)
                asking: Asking = "not"
                if server.transport.get_extra_info("tls") is not None:
                    asking = _ways(host, server.pool.target.tls)[-1]
                    asking = "direct" if asking == "direct" else "must"
                manner = self._manner(asking, server.host, server.pool.target.tls)
                transport, courier = await open_connection(host, lambda: Courier(manner, server))
                try:
                    await courier.result
                    delivered = True
                finally:
                    transport.abort()
        except (OSError, TimeoutError, ServerFault) as error:
            fault = ServerFault(codes.UNABLE_TO_CONNECT, f"cancel not delivered: {_words(error)}")
            server.pool.edge.connect_failed(server.pool, str(server.host), fault)
        finally:
            cancel_over(server, delivered=delivered)


def _ways(host: Host, tls: TargetTls) -> tuple[Asking, ...]:
    """Return how to ask for TLS, and how when that has not worked; never on a unix socket."""
    if host.is_unix or tls.sslmode is SslMode.DISABLE:
        return ("not",)
    if tls.sslnegotiation == "direct":
        return ("direct",)
    if tls.sslmode is SslMode.ALLOW:
        return ("not", "must")
    return ("try", "not") if tls.sslmode is SslMode.PREFER else ("must",)


def _worth_another(asking: Asking, error: ServerFault, encrypted: bool) -> bool:
    """Return whether a login that failed could succeed with TLS, or without it.

    libpq tries again after any refusal: here a wrong password is sent but once.
    """
    if asking == "not":
        return error.sqlstate in _UNENCRYPTED_REFUSALS
    return (
        asking == "try"
        and encrypted
        and (isinstance(error, HandshakeFailed) or error.sqlstate == codes.INVALID_AUTHORIZATION)
    )


def _same_address(server: Server) -> Host:
    """Return the very address a server is at: its host name may mean another by now."""
    name = server.transport.get_extra_info("peername")
    if server.host.is_unix or not isinstance(name, tuple):
        return server.host
    return Host(name[0], name[1])


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__

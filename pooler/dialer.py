"""Opens server connections for the pools that want them, and delivers cancels."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import TypeVar

from pooler.config import Settings
from pooler.core.errors import ServerFault, ServerRefused
from pooler.core.pool import Pool
from pooler.core.server import Server
from pooler.core.settings import Host, Target
from pooler.dialogue import DialogueProtocol
from pooler.sockets import set_options
from pooler.wire import build, codes
from pooler.wire.logins import (
    Credential,
    LoginFailed,
    Random,
    Refused,
    Welcome,
    server_login,
)
from pooler.wire.scram import Keyring

P = TypeVar("P", bound=asyncio.Protocol)


class ServerLogin(DialogueProtocol[Welcome]):
    """A server connection during our login; `result` is its outcome."""

    def __init__(
        self, target: Target, secret: Credential | None, random: Random, keyring: Keyring
    ) -> None:
        minor = codes.NEWEST_MINOR if target.max_protocol_version == "3.2" else 0
        parameters = [("database", target.dbname), *target.startup]
        super().__init__(
            server_login(target.user, secret, parameters, random, 3 << 16 | minor, keyring)
        )
        self.result: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
        # who has given up on it needs no word of how it ended
        self.result.add_done_callback(lambda result: result.cancelled() or result.exception())

    def succeeded(self, result: Welcome, rest: bytes) -> None:
        """Hand the server's welcome over."""
        if not self.result.done():
            if rest:
                self.failed(LoginFailed(codes.PROTOCOL_VIOLATION, "data behind ReadyForQuery"))
            else:
                self.result.set_result(result)

    def failed(self, error: LoginFailed | Refused) -> None:
        """Hand the reason over, as an error that clients can be told."""
        if not self.result.done():
            self.result.set_exception(
                ServerRefused(error.fields)
                if isinstance(error, Refused)
                else ServerFault(error.sqlstate, error.text)
            )

    def cut_off(self, error: BaseException | None) -> None:
        """The server hung up."""
        if not self.result.done():
            self.result.set_exception(
                ServerFault(
                    codes.CONNECTION_FAILURE, "server closed the connection during the login"
                )
            )


async def open_connection(host: Host, factory: Callable[[], P]) -> tuple[asyncio.Transport, P]:
    """Connect to `host`, its name resolved anew; OSError."""
    loop = asyncio.get_running_loop()
    if host.is_unix:
        path = os.path.join(host.host, f".s.PGSQL.{host.port}")
        transport, protocol = await loop.create_unix_connection(factory, path)
    else:
        transport, protocol = await loop.create_connection(factory, host.host, host.port)
    return transport, protocol


class Dialer:
    """One for all pools."""

    def __init__(
        self,
        settings: Callable[[], Settings],
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
        secret = pool.secret
        transport: asyncio.Transport | None = None
        connected = False
        try:
            async with asyncio.timeout(pool.settings.server_connect_timeout or None):
                transport, login = await open_connection(
                    host, lambda: ServerLogin(target, secret, self._random, self._keyring)
                )
                set_options(transport, self._settings())
                welcome = await login.result
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
            pool.supply.connected(server)
        except ServerFault as error:
            pool.supply.failed(host, error, secret)
        except TimeoutError:
            text = f"connection to {host} timed out (server_connect_timeout)"
            pool.supply.failed(host, ServerFault(codes.UNABLE_TO_CONNECT, text))
        except (OSError, UnicodeError) as error:  # UnicodeError: an impossible host name
            text = f"connection to {host} failed: {_words(error)}"
            pool.supply.failed(host, ServerFault(codes.UNABLE_TO_CONNECT, text))
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

    async def _deliver_cancel(self, server: Server) -> None:
        """Send a CancelRequest to the address that the server is at, and wait for its end.

        PostgreSQL closes the connection when the signal has been sent, not before.
        """
        delivered = False
        try:
            async with asyncio.timeout(server.pool.settings.cancel_wait_timeout or None):
                host = _same_address(server)
                transport, courier = await open_connection(host, Courier)
                try:
                    if not transport.is_closing():
                        transport.write(build.cancel_request(server.pid, server.secret))
                    delivered = await courier.over
                finally:
                    transport.abort()
        except (OSError, TimeoutError) as error:
            fault = ServerFault(codes.UNABLE_TO_CONNECT, f"cancel not delivered: {_words(error)}")
            server.pool.edge.connect_failed(server.pool, str(server.host), fault)
        finally:
            server.pool.cancel_over(server, delivered=delivered)


class Courier(asyncio.Protocol):
    """The connection that delivers a CancelRequest."""

    def __init__(self) -> None:
        self.over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_lost(self, error: BaseException | None) -> None:
        """The request has been dealt with, unless the connection broke."""
        with contextlib.suppress(asyncio.InvalidStateError):
            self.over.set_result(error is None)


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

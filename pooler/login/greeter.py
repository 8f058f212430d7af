"""Greets a new connection: leads it through its login and into its pool, or turns it away."""

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, cast

from pooler.admin.session import Session
from pooler.config.certificates import ClientSide
from pooler.config.config import CONSOLE
from pooler.core.errors import CloseReason, PoolerError
from pooler.login.dialogue import DialogueProtocol
from pooler.login.ends import UNIX, Connection, connection, peer_name
from pooler.tls import Done, TlsLink, why
from pooler.wire import build, codes
from pooler.wire.logins import (
    NO_ENCRYPTION,
    Account,
    Find,
    Login,
    LoginFailed,
    Refused,
    client_login,
)
from pooler.wire.parse import CancelRequest

if TYPE_CHECKING:
    from pooler.service import Service

FOREVER: Final = float("inf")


class Greeter(DialogueProtocol[Login | CancelRequest]):
    """One connection until it is a client, or gone."""

    def __init__(self, service: "Service", *, console_only: bool = False) -> None:
        super().__init__()
        self._service = service
        self._lobby = service.lobby
        self._console_only = console_only
        self.deadline = FOREVER
        """When it will have taken too long, by the service's clock."""
        self._tls: ClientSide | None = None  # what it was offered
        self._peer: object = None  # its address, as the transport has it
        self._name = ""
        self._user = ""
        self._database = ""
        self._late: tuple[LoginFailed, asyncio.TimerHandle] | None = None  # a delayed refusal

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the login, by the settings in force now, and its time limit."""
        service, lobby = self._service, self._lobby
        self._peer = transport.get_extra_info("peername")
        self._name = peer_name(self._peer)
        if not lobby.enter(self, limited=not self._console_only):
            cast(asyncio.Transport, transport).abort()
            self._over = True
            self.cut_off(None)
            return
        if lobby.timeout:
            self.deadline = service.now() + lobby.timeout
        encryption = NO_ENCRYPTION
        if self._name != UNIX:  # where there is no TLS, as in PostgreSQL
            self._tls = lobby.certificate
            encryption = lobby.encryption
        self.begin(
            transport,
            client_login(service.randbytes, service.login_key, service.keyring, encryption),
        )

    @property
    def _end(self) -> Connection:
        """What is known of the other end."""
        return connection(self.transport, self._peer)

    def link(self, done: Done) -> TlsLink:
        """Encrypt, as the server."""
        assert self._tls is not None
        return TlsLink(self.transport, self, self._tls.context, done, server_side=True)

    def binding(self, link: TlsLink) -> bytes:
        """Return what stands for our certificate."""
        assert self._tls is not None
        return self._tls.binding

    def handshake_failed(self, error: OSError) -> None:
        """Note it; the client has been told by an alert, if it is still there."""
        self._done()
        self._service.refused(
            self._name,
            self._database,
            self._user,
            CloseReason.TLS_FAILED,
            "could not accept SSL connection",
            why(error),
        )

    def find(self, request: Find) -> Account | Awaitable[Account]:
        """Have the user looked up."""
        self._user = request.user
        self._database = request.database
        end = self._end
        if request.database in CONSOLE:
            if self._service.console.is_own(end, request.database, request.user):
                return Account("trust")
        elif self._console_only:
            raise LoginFailed(codes.INVALID_DATABASE, "only the console is on this socket")
        return self._service.authenticator.find(end, request)

    def succeeded(self, result: Login | CancelRequest, rest: bytes) -> None:
        """Make a client of the connection, or do what the cancel request asks for."""
        self._done()
        service = self._service
        if isinstance(result, CancelRequest):
            asking = service.cancel_request(result, self._end.address)
            if asking is None:
                self.transport.close()
            else:
                self._task = asyncio.get_running_loop().create_task(self._hang_up_after(asking))
            return
        if result.database in CONSOLE:
            self._open_console(result, rest)
            return
        admission = service.admission(result.database, result.user)
        if admission is None:
            self._admit(result, rest)
        else:
            self.transport.pause_reading()
            self._task = asyncio.get_running_loop().create_task(
                self._admit_later(admission, result, rest)
            )

    async def _admit_later(self, admission: Awaitable[None], login: Login, rest: bytes) -> None:
        try:
            await admission
        except PoolerError as error:
            response = login.said + error.response()
            self._refuse(response, error.sqlstate, CloseReason.LOGIN_FAILED, error.text)
            return
        if self.transport.is_closing():
            self._service.not_admitted(login.database, login.user)
            self.cut_off(None)
            return
        self.transport.resume_reading()
        self._admit(login, rest)

    def _admit(self, result: Login, rest: bytes) -> None:
        service = self._service
        try:
            client = service.router.admit(
                self.transport,
                self._name,
                result.database,
                result.user,
                result.parameters,
                result.minor,
                result.credential,
            )
        except PoolerError as error:
            service.not_admitted(result.database, result.user)
            response = result.said + error.response()
            self._refuse(response, error.sqlstate, CloseReason.LOGIN_FAILED, error.text)
            return
        self.transport.set_protocol(client)  # type: ignore[arg-type]  # a protocol by shape
        client.pool.enter(client, result.said)
        if rest:
            client.data_received(rest)

    def _open_console(self, login: Login, rest: bytes) -> None:
        console = self._service.console
        own = console.is_own(self._end, login.database, login.user)
        try:
            console.check(login.user, own=own)
        except PoolerError as error:
            response = login.said + error.response("FATAL")
            self._refuse(response, error.sqlstate, CloseReason.LOGIN_FAILED, error.text)
            return
        session = Session(console, self.transport, self._name, login, own=own)
        console.sessions[session] = None
        self.transport.set_protocol(session)
        session.greet(login.said)
        if rest:
            session.data_received(rest)

    async def _hang_up_after(self, asking: Awaitable[None]) -> None:
        try:
            await asking
        finally:
            self.transport.close()

    def failed(self, error: LoginFailed | Refused) -> None:
        """Tell the client why it may not come in; later, where its address has tried too often."""
        assert isinstance(error, LoginFailed)
        delay = 0.0
        if error.sqlstate in (codes.INVALID_PASSWORD, codes.INVALID_AUTHORIZATION):
            end = self._end
            delay = self._service.login_failed(end, self._database, self._user)
        if delay:
            self.deadline = FOREVER
            timer = asyncio.get_running_loop().call_later(delay, self._tell, error)
            self._late = (error, timer)
        else:
            self._tell(error)

    def _tell(self, error: LoginFailed) -> None:
        self._done()
        response = build.error("FATAL", error.sqlstate, error.text)
        self._refuse(response, error.sqlstate, CloseReason.LOGIN_FAILED, error.text, error.cause)

    def connection_lost(self, error: BaseException | None) -> None:
        """A client that does not wait for its refusal has been refused all the same."""
        if self._late is not None:
            self._tell(self._late[0])
        super().connection_lost(error)

    def cut_off(self, error: BaseException | None) -> None:
        """Note a connection that ended before it said who it is: a port scan, a health check."""
        self._done()
        self._service.refused(
            self._name, self._database, self._user, CloseReason.PEER_CLOSED, "", ""
        )

    def turn_away(self, error: PoolerError, reason: CloseReason) -> None:
        """End the login from our side."""
        self.stop()
        self._done()
        self._refuse(error.response(), error.sqlstate, reason, error.text)

    def too_slow(self) -> None:
        """End a login whose deadline is over."""
        error = PoolerError(codes.PROTOCOL_VIOLATION, "client_login_timeout")
        self.turn_away(error, CloseReason.LOGIN_TIMEOUT)

    def _refuse(
        self, response: bytes, sqlstate: str, reason: CloseReason, text: str, cause: str = ""
    ) -> None:
        self.transport.write(response)
        self.transport.close()
        self._service.refused(self._name, self._database, self._user, reason, text, cause, sqlstate)

    def _done(self) -> None:
        self._lobby.leave(self)
        if self._late is not None:
            self._late[1].cancel()
            self._late = None

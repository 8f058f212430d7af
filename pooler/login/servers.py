"""What we say to servers: a login, or a cancel request, until it has an outcome."""

import asyncio
import ssl
from dataclasses import dataclass
from typing import TypeVar

from pooler.core.errors import HandshakeFailed, ServerFault, ServerRefused
from pooler.core.server import Server
from pooler.core.settings import Target
from pooler.login.dialogue import DialogueProtocol
from pooler.tls import Done, TlsLink, end_point, why
from pooler.wire import codes
from pooler.wire.logins import (
    Asking,
    Credential,
    Dialogue,
    LoginFailed,
    Random,
    Refused,
    Welcome,
    cancel,
    server_login,
)
from pooler.wire.scram import Keyring

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Manner:
    """How to speak to a host."""

    asking: Asking
    context: ssl.SSLContext | None = None
    hostname: str = ""
    """The name that its certificate has to bear."""


class ServerDialogue(DialogueProtocol[T]):
    """A connection to a server while we speak; `result` is the outcome."""

    def __init__(self, manner: Manner, dialogue: Dialogue[T]) -> None:
        super().__init__()
        self._dialogue = dialogue
        self._manner = manner
        self.result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # who has given up on it needs no word of how it ended
        self.result.add_done_callback(lambda result: result.cancelled() or result.exception())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.begin(transport, self._dialogue)

    @property
    def encrypted(self) -> bool:
        """True once the connection is encrypted, or on the way."""
        return isinstance(self.transport, TlsLink)

    def link(self, done: Done) -> TlsLink:
        """Encrypt, as a client."""
        manner = self._manner
        assert manner.context is not None
        return TlsLink(
            self.transport,
            self,
            manner.context,
            done,
            server_side=False,
            server_hostname=manner.hostname,
        )

    def binding(self, link: TlsLink) -> bytes:
        """Return what stands for the server's certificate."""
        certificate = link.peer_certificate
        return end_point(certificate) if certificate else b""

    def handshake_failed(self, error: OSError) -> None:
        """Hand the reason over, as an error that clients can be told."""
        if not self.result.done():
            text = f"SSL error: {why(error)}"
            lasting = isinstance(error, ssl.SSLError)  # else the connection was lost
            self.result.set_exception(
                HandshakeFailed(codes.CONNECTION_FAILURE, text, lasting=lasting)
            )


class ServerLogin(ServerDialogue[Welcome]):
    """A server connection during our login."""

    def __init__(
        self,
        target: Target,
        secret: Credential | None,
        random: Random,
        keyring: Keyring,
        manner: Manner,
    ) -> None:
        minor = codes.NEWEST_MINOR if target.max_protocol_version == "3.2" else 0
        super().__init__(
            manner,
            server_login(
                target.user,
                secret,
                [("database", target.dbname), *target.startup],
                random,
                3 << 16 | minor,
                keyring,
                manner.asking,
                target.tls.channel_binding,
            ),
        )

    def succeeded(self, result: Welcome, rest: bytes) -> None:
        """Hand the server's welcome over."""
        if not self.result.done():
            if rest:
                self.failed(LoginFailed(codes.PROTOCOL_VIOLATION, "data behind ReadyForQuery"))
            else:
                self.result.set_result(result)

    def failed(self, error: LoginFailed | Refused) -> None:
        """Hand the reason over, as an error that clients can be told."""
        if self.result.done():
            return
        if isinstance(error, Refused):
            self.result.set_exception(ServerRefused(error.fields))
        else:
            # garbage may have been no server's; for any other reason we will not log in
            garbage = error.sqlstate == codes.PROTOCOL_VIOLATION
            self.result.set_exception(ServerFault(error.sqlstate, error.text, lasting=not garbage))

    def cut_off(self, error: BaseException | None) -> None:
        """The server hung up."""
        if not self.result.done():
            self.result.set_exception(
                ServerFault(
                    codes.CONNECTION_FAILURE, "server closed the connection during the login"
                )
            )


class Courier(ServerDialogue[None]):
    """Delivers a CancelRequest; its result comes when the server has hung up."""

    def __init__(self, manner: Manner, server: Server) -> None:
        super().__init__(manner, cancel(manner.asking, server.pid, server.secret))
        self._sent = False

    def succeeded(self, result: None, rest: bytes) -> None:
        """It is on its way."""
        self._sent = True

    def failed(self, error: LoginFailed | Refused) -> None:
        """Hand the reason over."""
        if not self.result.done():
            self.result.set_exception(ServerFault(codes.CONNECTION_FAILURE, str(error)))

    def cut_off(self, error: BaseException | None) -> None:
        """The server hung up before it could be sent."""
        if not self.result.done():
            self.result.set_exception(error or ConnectionResetError("server hung up"))

    def connection_lost(self, error: BaseException | None) -> None:
        """The request has been dealt with, unless the connection broke."""
        super().connection_lost(error)
        if self._sent and not self.result.done():
            if error is None:
                self.result.set_result(None)
            else:
                self.result.set_exception(error)

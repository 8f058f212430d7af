"""Errors that reach a peer, and the closed set of reasons for closing a connection.

An error knows its SQLSTATE, its severity and whose fault it is. Any other exception than these is
our own bug. The reasons are shared by logs, metrics and console; their texts are stable.
"""

from enum import Enum
from typing import ClassVar, Final, Literal

from pooler.wire import build, codes

Origin = Literal["client", "server", "pooler"]
"""Whose doing an error is: a client's request, a server or the way to it, a rule of ours."""


class PoolerError(Exception):
    """An error that a client is told; FATAL, for its connection ends with it."""

    severity: ClassVar[str] = "FATAL"
    origin: ClassVar[Origin] = "pooler"

    def __init__(self, sqlstate: str, text: str, detail: str = "", hint: str = "") -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
        self.text = text
        self.detail = detail
        self.hint = hint

    def response(self, severity: str = "") -> bytes:
        """Return the ErrorResponse, in the class's severity unless told another."""
        return build.error(
            severity or self.severity, self.sqlstate, self.text, self.detail, self.hint
        )


class ClientFault(PoolerError):
    """The client broke the protocol or asked for what it may not have."""

    origin: ClassVar[Origin] = "client"


class ServerFault(PoolerError):
    """A server connection failed, or could not be had.

    `lasting` says that it stays until somebody changes something: a wrong password, a certificate
    of another.
    """

    origin: ClassVar[Origin] = "server"

    def __init__(
        self, sqlstate: str, text: str, detail: str = "", hint: str = "", *, lasting: bool = False
    ) -> None:
        super().__init__(sqlstate, text, detail, hint)
        self.lasting = lasting


def protocol_violation(text: str) -> ClientFault:
    """Return the error for bytes that are not the protocol."""
    return ClientFault(codes.PROTOCOL_VIOLATION, text)


_PASSING: Final = (codes.CANNOT_CONNECT_NOW, codes.ADMIN_SHUTDOWN, "57P02")
"""What may be otherwise in a moment, as class 53 (insufficient resources) may. Anything else (no
such database, wrong password, ...) stays until somebody changes something."""


class ServerRefused(ServerFault):
    """The server answered our login with an ErrorResponse; its own words and SQLSTATE."""

    def __init__(self, fields: dict[str, str]) -> None:
        code = fields.get("C", "")
        super().__init__(
            # CVE-2026-6666: an ErrorResponse without SQLSTATE
            code if len(code) == 5 else codes.CONNECTION_FAILURE,
            fields.get("M") or "the server refused the connection without a message",
            fields.get("D", ""),
            fields.get("H", ""),
        )
        self.lasting = self.sqlstate not in _PASSING and not self.sqlstate.startswith("53")


class HandshakeFailed(ServerFault):
    """A connection to a server could not be encrypted."""


class CloseReason(Enum):
    """Why a client's or a server's connection was closed."""

    # either side
    PEER_CLOSED = "closed by peer"
    PEER_LOST = "connection lost"
    PROTOCOL_VIOLATION = "protocol violation"
    SHUTDOWN = "pooler shutdown"
    BUG = "internal error"
    # clients
    TERMINATED = "client terminated"
    LOGIN_FAILED = "login failed"
    TLS_FAILED = "TLS handshake failed"
    LOGIN_TIMEOUT = "client_login_timeout"
    TOO_MANY = "too many connections"
    IDLE_TIMEOUT = "client_idle_timeout"
    QUERY_WAIT_TIMEOUT = "query_wait_timeout"
    QUERY_TIMEOUT = "query_timeout"
    TRANSACTION_TIMEOUT = "transaction_timeout"
    IDLE_IN_TRANSACTION = "idle_in_transaction_timeout"
    PIN_TIMEOUT = "pin_timeout"
    SERVER_LOST = "server connection lost"
    SERVER_UNAVAILABLE = "server unavailable"
    SLOW = "notifications not read"
    STATEMENT_MODE = "transaction block in statement mode"
    DATABASE_REMOVED = "database removed"
    KILLED = "killed by an administrator"
    # servers
    SERVER_IDLE_TIMEOUT = "server_idle_timeout"
    SERVER_LIFETIME = "server_lifetime"
    SHRUNK = "pool size reduced"
    VACATED = "given up for a change of the database"
    EVICTED = "given up for another pool"
    RENEWED = "connection settings changed"
    PAUSED = "database paused"
    CONNECT_QUERY = "connect_query failed"
    NOT_TIDY = "could not be tidied"
    CHECK_FAILED = "server check failed"
    CANCEL_UNANSWERED = "cancel_wait_timeout"
    SINGLE_USE = "not reusable"
    POOL_IDLE = "pool_idle_timeout"

"""A logged-in client connection: its bytes, held until it has a server, passed on while it has.

The waiting client itself is the queue entry: when a server becomes free, the pool links it and
`go` writes what was held in the same callback. Knows no timer and no pool policy.
"""

from enum import Enum
from typing import TYPE_CHECKING, Final

from pooler.core import session
from pooler.core.errors import CloseReason, PoolerError, protocol_violation
from pooler.core.limits import Gauge
from pooler.core.peer import HELD_FULL, HOLD_LIMIT, OWN_FULL, PEER_FULL, Peer, Transport
from pooler.core.settings import SessionSettings
from pooler.wire import build, codes
from pooler.wire.cutter import END, MORE, BadMessage, client_cutter, peek

if TYPE_CHECKING:
    from pooler.core.pool import Pool
    from pooler.core.server import Server

_WITHOUT_SERVER: Final = b"dcfH"
"""What an idle session ignores: copy data that comes after its COPY failed, and Flush."""


class ClientState(Enum):
    """Where a logged-in client is in its life."""

    GREETING = "login"  # waits for a server to learn what to greet it with
    IDLE = "idle"
    WAITING = "waiting"  # for a server; also while that server is prepared for it
    ACTIVE = "active"
    CLOSED = "closed"


MOVES: Final[dict[ClientState, tuple[ClientState, ...]]] = {
    ClientState.GREETING: (ClientState.IDLE, ClientState.CLOSED),
    ClientState.IDLE: (ClientState.WAITING, ClientState.CLOSED),
    ClientState.WAITING: (ClientState.ACTIVE, ClientState.IDLE, ClientState.CLOSED),
    ClientState.ACTIVE: (ClientState.IDLE, ClientState.CLOSED),
    ClientState.CLOSED: (),
}


class Client(Peer):
    """One client that has proven who it is."""

    def __init__(
        self,
        transport: Transport,
        name: str,
        pool: "Pool",
        ident: int,
        database: str,
        user: str,
        limits: SessionSettings,
        minor: int,
        wants: session.Settings,
        gauges: tuple[Gauge, ...],
        now: float,
    ) -> None:
        super().__init__(transport, name)
        # for ever
        self.pool = pool
        self.next_pool: Pool | None = None  # to be moved to when its transaction ends
        self.ident = ident
        self.database = database
        self.user = user
        self.minor = minor
        self.gauges = gauges  # that count it
        self.pid, self.secret = pool.keys.issue(self, minor)
        self.opened_at = now
        # the session
        self.limits = limits  # may change by a reload
        self.mode = limits.pool_mode  # of the link it has; a reload's comes with the next
        self.wants = pool.shelf.shared(wants)
        self.told: session.Settings = session.NONE  # the parameters reported to it
        # now
        self.state = ClientState.GREETING
        self.server: Server | None = None
        self.waiting_since = 0.0
        self.notified = False  # that it is waiting
        self.idle_since = now
        self.terminated = False  # it said Terminate
        # the stream
        self._cutter = client_cutter()
        self._held = b""  # received and not passed on
        self._drop = 0  # bytes still to come of a message to be ignored
        self._skipping = False  # to the next Sync, as a server does after an error

    def __repr__(self) -> str:
        """Show id, state and peer."""
        return f"<Client {self.ident} {self.state.value} {self.user}@{self.database} {self.name}>"

    def move(self, state: ClientState) -> None:
        """Change the state; an impossible move is a bug."""
        if state not in MOVES[self.state]:
            raise AssertionError(f"{self!r} cannot become {state.value}")
        self.state = state

    @property
    def within_message(self) -> bool:
        """True while a message of which a part was passed on is incomplete."""
        return self._cutter.left > 0

    # -- to the client

    def send(self, data: bytes) -> None:
        """Write to the client."""
        self.pool.counters.sent += len(data)
        self.transport.write(data)

    def pause_writing(self) -> None:
        """The client reads slower than its server sends."""
        self.full = True
        self.brake(OWN_FULL)  # as a server that cannot write does not read
        if self.server is not None:
            self.server.brake(PEER_FULL)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.full = False
        self.unbrake(OWN_FULL)
        if self.server is not None:
            self.server.unbrake(PEER_FULL)

    def greet(self, parameters: session.Settings) -> None:
        """Complete the login: tell the client its parameters and key, and that it may begin."""
        self.move(ClientState.IDLE)
        self.told = parameters
        key = build.backend_key_data(self.pid, self.secret)
        told = self.pool.told(parameters)
        self.transport.write(b"".join((build.AUTHENTICATION_OK, told, key, build.READY)))
        self.unbrake(HELD_FULL)
        if self._held:
            self._consider()

    def tell(self, parameters: session.Settings) -> None:
        """Report what differs between its new server's parameters and those it was told."""
        told = self.told
        changes = [
            build.parameter_status(name, value)
            for name, value in parameters.items()
            if told.get(name) != value
        ]
        self.told = parameters
        if changes:
            self.send(b"".join(changes))

    # -- from the client

    def data_received(self, data: bytes) -> None:
        """Pass a chunk on to the server, or hold it until there is one."""
        if self.state is ClientState.ACTIVE:
            if self._held:
                data = self._held + data
                self._held = b""
            self._forward(data)
        elif self.state is not ClientState.CLOSED:
            self._held += data
            if self.state is ClientState.IDLE:
                self._consider()
            elif len(self._held) > HOLD_LIMIT:
                self.brake(HELD_FULL)

    def _forward(self, data: bytes) -> None:
        server = self.server
        assert server is not None
        cutter = self._cutter
        self.pool.counters.received += len(data)
        before = cutter.left
        try:
            at = cutter.scan(data, 0)
        except BadMessage as bad:
            cutter.left = before  # nothing of this chunk is passed on
            self.fail(protocol_violation(str(bad)), CloseReason.PROTOCOL_VIOLATION)
            return
        if cutter.stop != END:
            if cutter.stop == MORE:
                self._held = data[at:]
            else:
                self.terminated = True
            data = data[:at]
        if server.ledger.settled:
            server.busy_since = self.pool.edge.now()
            if server.status == codes.IDLE:
                server.transaction_since = server.busy_since
        if data:
            server.send(data, cutter.kinds)
            cutter.kinds.clear()
        if self.terminated:
            self.close(CloseReason.TERMINATED)
        elif server.ledger.settled:
            self.pool.settled(server)

    def _consider(self) -> None:
        """Without a server: answer what needs none, and claim one for the first that does."""
        held = self._held
        at = 0
        if self._drop:
            at = min(self._drop, len(held))
            self._drop -= at
        try:
            while True:
                kind, size = peek(held, at)
                if kind == MORE:
                    break
                if kind == codes.TERMINATE:
                    self.close(CloseReason.TERMINATED)
                    return
                if kind == codes.SYNC:
                    self._skipping = False
                    self.send(build.READY)
                elif not self._skipping and kind not in _WITHOUT_SERVER:
                    break
                at += size
                if at > len(held):
                    self._drop = at - len(held)
                    at = len(held)
        except BadMessage as bad:
            self.fail(protocol_violation(str(bad)), CloseReason.PROTOCOL_VIOLATION)
            return
        self._held = held = held[at:]
        if kind != MORE and (size <= len(held) or len(held) >= HOLD_LIMIT):
            self.move(ClientState.WAITING)
            if len(held) > HOLD_LIMIT:
                self.brake(HELD_FULL)
            self.pool.claim(self)

    def go(self) -> None:
        """Start with the server that the pool has linked: pass on what was held."""
        self.move(ClientState.ACTIVE)
        data, self._held = self._held, b""
        self.unbrake(HELD_FULL)
        self._forward(data)

    def rest(self) -> None:
        """Be idle: the pool has taken the server away."""
        self.move(ClientState.IDLE)
        if self._held:
            self._consider()

    def refuse(self, error: PoolerError) -> None:
        """Answer what this waiting client asked with an error, and go on with what follows it.

        As a server would: a failed Query is over, a failed extended message skips to the Sync.
        """
        self.move(ClientState.IDLE)
        self.unbrake(HELD_FULL)
        kind, size = peek(self._held, 0)
        self.send(error.response("ERROR"))
        if kind == codes.QUERY or kind == codes.FUNCTION_CALL:
            self.send(build.READY)
            self._drop = size
        else:
            self._skipping = True
        self._consider()

    # -- the end

    def fail(self, error: PoolerError, reason: CloseReason) -> None:
        """Tell the client why, and close."""
        if self.state is not ClientState.CLOSED:
            if self.server is None or not self.server.within_message:
                self.transport.write(error.response())
            self.close(reason, error.text)

    def close(self, reason: CloseReason, text: str = "") -> None:
        """Close once everything written is sent; what its server is doing is the pool's affair."""
        if self.state is ClientState.CLOSED:
            return
        self.move(ClientState.CLOSED)
        self._held = b""
        self.transport.close()
        self.pool.client_gone(self, reason, text)

    def connection_made(self, transport: Transport) -> None:
        """Nothing to do: the login has been through this transport already."""

    def eof_received(self) -> bool:
        """A client that only listens is gone: PostgreSQL would not notice before its next read."""
        self.close(CloseReason.PEER_CLOSED)
        return False

    def connection_lost(self, error: BaseException | None) -> None:
        """The connection has ended, by whoever's doing."""
        self.close(CloseReason.PEER_LOST if error else CloseReason.PEER_CLOSED)

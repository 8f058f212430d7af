"""A logged-in client connection: its bytes, held until it has a server, passed on while it has.

The waiting client itself is the queue entry: when a server becomes free, the pool links it and
`go` writes what was held in the same callback. Knows no timer and no pool policy.
"""

from typing import TYPE_CHECKING, Final

from pooler.core import again, session
from pooler.core.cancel import cancel_client
from pooler.core.errors import ClientFault, CloseReason, PoolerError, protocol_violation
from pooler.core.hints import SEQUENCES
from pooler.core.limits import Gauge
from pooler.core.names import TEXT_LIMIT
from pooler.core.notes import Notes
from pooler.core.peer import (
    HELD_FULL,
    HOLD_LIMIT,
    NAMES_FULL,
    OWN_FULL,
    PEER_FULL,
    Peer,
    Transport,
    edited,
)
from pooler.core.requests import Requests
from pooler.core.settings import SessionSettings
from pooler.core.states import ClientState, State
from pooler.wire import build, codes
from pooler.wire.cutter import (
    FROM_CLIENT_CLOSELY,
    MORE,
    BadMessage,
    peek,
)

if TYPE_CHECKING:
    from pooler.core.pool import Pool
    from pooler.core.server import Server

_FLUSH: Final = build.message(codes.FLUSH, b"")
_WITHOUT_SERVER: Final = b"dcfH"
"""What an idle session ignores: copy data that comes after its COPY failed, and Flush."""


EFFECTS_LIMIT: Final = 2_000
"""Messages of a special kind under way above which no more are read: those that the server is not
sent would fill no buffer of it."""


class Client(Peer):
    """One client that has proven who it is."""

    __slots__ = (
        "_cutter",
        "_drop",
        "_held",
        "_repeats",
        "_skipping",
        "again",
        "asked",
        "burst",
        "counters",
        "custom",
        "database",
        "gauges",
        "holds",
        "ident",
        "idle_since",
        "limits",
        "listening",
        "minor",
        "mode",
        "names",
        "next_pool",
        "notes",
        "notified",
        "opened_at",
        "pid",
        "pool",
        "requests",
        "secret",
        "server",
        "startup",
        "state",
        "terminated",
        "told",
        "unlistening",
        "user",
        "waiting_since",
        "wants",
    )

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
        self.counters = pool.counters if ident else pool.own_counters  # those that it adds to
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
        self.startup: session.Settings = pool.shelf.shared(wants)  # what its RESET goes back to
        self.wants = self.startup
        self.told: session.Settings = session.NONE  # the parameters reported to it
        self.custom = session.custom(wants)  # settings it may have set
        self.listening = session.NO_NAMES  # channels that `broadcast` serves it
        self.unlistening = session.NO_NAMES  # in the transaction under way
        self.notes = Notes(self)
        self.asked: Server | None = None  # is being asked what this client left on it
        # now
        self.state = ClientState.GREETING
        self.server: Server | None = None
        self.waiting_since: float = 0.0
        self.notified = False  # that it is waiting
        self.idle_since = now
        self.terminated = False  # it said Terminate
        # the stream
        self.requests = Requests(self)
        self.names = self.requests.names
        self._cutter = self.requests.cutter
        self._held = b""  # received and not passed on
        self._drop = 0  # bytes still to come of a message to be ignored
        self._skipping = False  # to the next Sync, as a server does after an error
        self.again = b""  # to be sent once more when its error's ReadyForQuery has come
        self.holds = False  # what is held waits for the next ReadyForQuery
        self.burst = b""  # what the server works on, if that is all and can perhaps be repeated
        self._repeats = 0

    def __repr__(self) -> str:
        """Show id, state and peer."""
        return f"<Client {self.ident} {self.state.value} {self.user}@{self.database} {self.name}>"

    def move(self, state: State) -> None:
        """Change the state; an impossible move is a bug."""
        if not state.may_follow(self.state):
            raise AssertionError(f"{self!r} cannot become {state.value}")
        self.state = state

    @property
    def closed(self) -> bool:
        """Whether it has gone, or been sent away."""
        return self.state is ClientState.CLOSED

    @property
    def internal(self) -> bool:
        """Whether it is one of our own."""
        return not self.ident or self.pool.internal

    @property
    def held(self) -> tuple[bytes, int, bool]:
        """What was received and not passed on; how much to drop; whether up to the next Sync."""
        return self._held, self._drop, self._skipping

    def put_back(self, held: bytes, drop: int, skipping: bool) -> None:
        """Be where another process was with this client's stream."""
        self._held, self._drop, self._skipping = held, drop, skipping

    def depart(self) -> None:
        """Be another process's from now on; the transport is left as it is."""
        self.move(ClientState.CLOSED)
        self._held = b""

    @property
    def within_message(self) -> bool:
        """True while a message of which a part was passed on is incomplete."""
        return self._cutter.left > 0

    # -- to the client

    def send(self, data: bytes) -> None:
        """Write to the client."""
        self.counters.sent += len(data)
        try:
            self.transport.write(data)
        except RuntimeError:  # uvloop: reset by the client, and `connection_lost` is on its way
            if not self.transport.is_closing():
                raise

    def pause_writing(self) -> None:
        """The client reads slower than its server sends."""
        self.full = True
        self.brake(OWN_FULL)  # as a server that cannot write does not read
        if self.server is not None:
            self.server.brake(PEER_FULL)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.full = False
        self.notes.unread = 0
        self.unbrake(OWN_FULL)
        if self.server is not None:
            self.server.unbrake(PEER_FULL)

    def greet(self, parameters: session.Settings, said: bytes = b"") -> None:
        """Complete the login: tell the client its parameters and key, and that it may begin.

        `said` are the login's last words, if they are still to be sent.
        """
        self.move(ClientState.IDLE)
        self.told = parameters
        key = build.backend_key_data(self.pid, self.secret)
        told = session.startup_notice(self.startup) + self.pool.welcome.told(parameters)
        self.transport.write(b"".join((said, build.AUTHENTICATION_OK, told, key, build.READY)))
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
            server = self.server
            assert server is not None
            # A late cancel would hit what comes next; what is sent again comes first.
            if self.again or self.holds or (server.cancels and server.ledger.settled):
                self._held = data
                if len(data) > HOLD_LIMIT:
                    self.brake(HELD_FULL)
            else:
                self._forward(data)
        elif self.state is not ClientState.CLOSED:
            self._held = self._held + data if self._held else data
            if self.state is ClientState.IDLE:
                self._consider()
            elif len(self._held) > HOLD_LIMIT:
                self.brake(HELD_FULL)

    def _forward(self, data: bytes, now: float = 0.0) -> None:
        """Read a chunk and send it; `now` is 0.0 where it has not been asked for yet."""
        server = self.server
        assert server is not None
        cutter = self._cutter
        self.counters.received += len(data)
        before = cutter.left
        fresh = server.ledger.settled
        if fresh and self.names.recent:
            self.names.recent.clear()
        else:
            cutter.marks = FROM_CLIENT_CLOSELY
        effects = len(server.effects)
        try:
            at = self.requests.read(data, server)
        except (BadMessage, ClientFault) as error:
            cutter.left = before  # nothing of this chunk is passed on
            cutter.kinds.clear()
            self.requests.edits.clear()
            server.take_back(len(server.effects) - effects)
            if isinstance(error, ClientFault):
                self.fail(error, CloseReason.TOO_MANY)
            else:
                self.fail(protocol_violation(str(error)), CloseReason.PROTOCOL_VIOLATION)
            return
        if at < len(data):
            if not self.terminated:
                self._held = data[at:]
            data = data[:at]
        if server.ledger.settled:
            server.busy_since = now or self.pool.now()
            if server.status == codes.IDLE:
                server.transaction_since = server.busy_since
        kinds = cutter.kinds
        whole = not self._held and cutter.left == 0
        repeatable = fresh and self.names.recent and whole and len(data) <= again.BURST_LIMIT
        self.burst = data if repeatable else b""
        self._repeats = 0
        if self.requests.edits:
            data = edited(data, self.requests.edits)
            server.send(data, kinds)
            server.watch(kinds)
        elif data:
            server.send(data, kinds)
        kinds.clear()
        if len(server.effects) > EFFECTS_LIMIT and not cutter.left:
            self.brake(NAMES_FULL)
            server.send(_FLUSH, [])
        if self.terminated:
            self.close(CloseReason.TERMINATED)
        elif server.ledger.settled:
            if not self.holds:
                self.pool.settled(server)
            elif server.run is not None and server.run.limited:
                self.holds = False
                self.pool.lane.limit(server, self)

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
                elif not self._skipping and (kind == codes.QUERY or kind not in _WITHOUT_SERVER):
                    break
                at += size
                if at > len(held):
                    self._drop = at - len(held)
                    at = len(held)
        except BadMessage as bad:
            self.fail(protocol_violation(str(bad)), CloseReason.PROTOCOL_VIOLATION)
            return
        self._held = held = held[at:]
        enough = TEXT_LIMIT if kind == codes.PARSE else HOLD_LIMIT
        if kind != MORE and (size <= len(held) or len(held) >= enough):
            self.move(ClientState.WAITING)
            if kind == codes.QUERY or kind == codes.PARSE:
                hint = self.pool.hints.of(held[codes.HEADER : size])
                if hint.flags & SEQUENCES:
                    self.pool.asks_sequences = True
                if size <= len(held):
                    self.requests.foreseen = hint
            if len(held) > HOLD_LIMIT:
                self.brake(HELD_FULL)
            self.pool.claim(self)
            self.requests.foreseen = None  # when it has to wait, it may mean more by then

    def go(self, now: float) -> None:
        """Start with the server that the pool has linked: pass on what was held."""
        self.move(ClientState.ACTIVE)
        self.names.unnamed_here = False
        self._cutter.marks = FROM_CLIENT_CLOSELY
        data, self._held = self._held, b""
        self.unbrake(HELD_FULL)
        self._forward(data, now)

    def schema_changed(self, owed: bytes) -> bool:
        """Note that a statement's result is not of the shape that it had.

        Returns whether what failed is to be sent again; `owed` are the replies that had not come.
        """
        server = self.server
        burst, self.burst = self.burst, b""
        if not burst or server is None or server.status != codes.IDLE:
            return False
        self._repeats += 1
        if self._repeats <= again.TIMES:
            self.again = again.repeatable(burst, owed)
        if self.again and server.ledger.skipping:  # its reply is taken out, as any before that
            server.send(build.SYNC, [codes.SYNC])
        return bool(self.again)

    def repeat(self) -> None:
        """Send again what failed because of a changed schema."""
        data, self.again = self.again, b""
        held, self._held = self._held, b""
        repeats = self._repeats
        self._forward(data)
        self._repeats = repeats
        if held:
            self.unbrake(HELD_FULL)
            self.data_received(held)

    def resume(self) -> None:
        """Go on with what was held back in the middle of a transaction."""
        self.holds = False
        if self._held:
            data, self._held = self._held, b""
            self.unbrake(HELD_FULL)
            server = self.server
            run = server.run if server is not None else None
            if server is not None and run is not None and run.asked and server.ledger.skipping:
                run.asked = False
                if data[0] == codes.QUERY:
                    self._drop_query(server, data)
                    return
            self._forward(data)

    def _drop_query(self, server: "Server", data: bytes) -> None:
        """Take an error of what was put in front of the Query held for its answer."""
        self._held = data[peek(data, 0)[1] :]
        server.send(build.SYNC, [codes.SYNC])
        self.holds = bool(self._held)

    def rest(self) -> None:
        """Be idle: the pool has taken the server away."""
        self.move(ClientState.IDLE)
        if self._held:
            self._consider()

    def gives_up(self) -> frozenset[str]:
        """Return whom what it asks makes an end of being: see `session.given_up`."""
        kind, size = peek(self._held, 0)
        if kind not in (codes.QUERY, codes.PARSE):
            return frozenset()
        return session.given_up(self._held[codes.HEADER : size])

    def refuse(self, error: PoolerError) -> None:
        """Answer what this waiting client asked with an error, and go on with what follows it.

        As a server would: a failed Query is over, a failed extended message skips to the Sync.
        """
        self.move(ClientState.IDLE)
        self.unbrake(HELD_FULL)
        self.counters.error(error.origin, error.sqlstate)
        kind, size = peek(self._held, 0)
        self.send(error.response("ERROR"))
        if kind == codes.QUERY or kind == codes.FUNCTION_CALL:
            self.send(build.READY)
            self._drop = size
        else:
            self._skipping = True
        self._consider()

    # -- the end

    def cancel(self) -> None:
        """Do what its cancel request asks for."""
        cancel_client(self)

    def fail(self, error: PoolerError, reason: CloseReason) -> None:
        """Tell the client why, and close."""
        if self.state is not ClientState.CLOSED:
            self.counters.error(error.origin, error.sqlstate)
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

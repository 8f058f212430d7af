"""A server connection: what it does now, what it owes, and for whom.

It reads the server's stream just far enough to know when it has settled, and hands every chunk as
it came to the client it is linked to. The pool alone links and unlinks. Knows no timer: the pool
asks what is overdue.
"""

from collections import deque
from typing import TYPE_CHECKING, Final

from pooler.core import ddl, hints, session, truth
from pooler.core.chores import Chore, Unusable
from pooler.core.counters import bucket
from pooler.core.effects import Effect, described, forgot_all, happened, next_effect, skipped, undo
from pooler.core.errors import CloseReason
from pooler.core.failures import failed
from pooler.core.ledger import (
    ADDED,
    ENDS,
    LEFT_OUT_PARSE,
    OUR_CLOSE,
    OUR_DESCRIBE,
    OUR_EXECUTE,
    SEEN_DESCRIBE,
    Ledger,
    count_ends,
    count_special,
)
from pooler.core.peer import PEER_FULL, Edit, Peer, Transport, edited
from pooler.core.settings import Host
from pooler.core.statements import Prepared, Statement
from pooler.core.states import ServerState, State
from pooler.core.upkeep import chore_over
from pooler.wire import build, codes, parse
from pooler.wire.cutter import (
    END,
    FROM_SERVER,
    FROM_SERVER_CLOSELY,
    MORE,
    BadMessage,
    server_cutter,
    whole_reply,
)

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.lane import Run
    from pooler.core.meter import Meter
    from pooler.core.pool import Pool

_FORGETS: Final = (b"DEALLOCATE ALL\0", b"DISCARD ALL\0")
_COMMAND_COMPLETE: Final = [codes.COMMAND_COMPLETE]

CAUSES: Final = 32
"""Statements that may have changed something, remembered until that is known."""

_REPLIES: Final = b"123IsTnW"

LOOK_LIMIT: Final = 65_536
"""Bytes of a message kept back until it is whole so that we can read it; a longer one passes."""
DESCRIPTION_LIMIT: Final = 1_048_576
"""The same of a description: PostgreSQL has at most 1664 columns and 65535 parameters."""
_DESCRIPTIONS: Final = bytes([codes.PARAMETER_DESCRIPTION, codes.ROW_DESCRIPTION])


_NO_COPY: Final = build.copy_fail("client connection lost")


class Server(Peer):
    """One logged-in server connection."""

    __slots__ = (
        "_changed",
        "_cutter",
        "_edits",
        "_ends",
        "_group",
        "_ready",
        "_seen",
        "_synced",
        "_tail",
        "aim",
        "answer",
        "asked",
        "base",
        "busy_since",
        "cancels",
        "causes",
        "channels",
        "chore",
        "client",
        "counters",
        "deadline",
        "effects",
        "excused",
        "failure",
        "farewell",
        "generation",
        "host",
        "ident",
        "idle_since",
        "last_client",
        "leaving_for",
        "ledger",
        "life",
        "meter",
        "notifier",
        "opened_at",
        "owner",
        "parameters",
        "pid",
        "pins",
        "pool",
        "prepared",
        "run",
        "secret",
        "settings",
        "spare_meter",
        "state",
        "status",
        "timed_out",
        "torn",
        "touched",
        "transaction_since",
        "unhinted",
    )

    def __init__(
        self,
        transport: Transport,
        pool: "Pool",
        ident: int,
        host: Host,
        pid: int,
        secret: bytes,
        parameters: dict[str, str],
        generation: int,
        now: float,
        life: float,
    ) -> None:
        super().__init__(transport, str(host))
        # for ever
        self.pool = pool
        self.ident = ident
        self.host = host
        self.pid = pid
        self.secret = secret
        self.generation = generation
        self.opened_at = now
        self.life = life  # share of server_lifetime: not all leave at once
        # what its session is like
        self.parameters = pool.shelf.shared(parameters)  # as reported, by its own spelling
        self.base = session.NONE  # what it has of itself, by lower-case name; see `rebase`
        self.settings = session.NONE  # set on it since it was opened
        self.aim: session.Settings | None = None  # what its chore sets, if anything
        self.touched = 0  # hints: what its client may have changed since that was known
        self.unhinted = 0  # those of them that nothing hinted at: see `leaks`
        self.causes: list[tuple[int, hints.Hint | bytes]] = []  # of these: flags, text or tag
        self.excused = False  # a SET LOCAL is under way, and nothing else
        self._changed: list[frozenset[bytes]] = []  # what is being changed of the schema
        self.run: Run | None = None  # the same, in the lane
        self.last_client = 0  # the number of the client that used it last
        self.channels = session.NO_NAMES  # it listens to, as of the last question
        self.notifier = 0  # the process id told to the client that sent a NOTIFY on it last
        self.pins = 0  # what it holds for its client and no other server can
        self.owner: Client | None = None  # whose state is being asked about
        self.status: int = codes.IDLE
        self.ledger = Ledger()
        self.prepared = Prepared(pool.registry)
        self.effects: deque[Effect] = deque()  # of the special messages in the ledger
        self._seen = 0  # messages of the chunk under way that have been looked at
        self._ends = 0  # those of them that end a group
        self._synced = False  # one of them is a Sync
        self._group = 0  # Syncs sent while there were any; see `Prepared`
        # per link
        self.state = ServerState.PREPARING
        self.client: Client | None = None
        self.counters = pool.counters  # those of its last client
        self.chore: Chore | None = None
        self.failure: dict[str, str] | None = None  # the last error, while a chore runs
        self.meter: Meter | None = None  # what its client asks is measured
        self.spare_meter: Meter | None = None  # the same while nothing is
        self.asked: bytes | Statement = b""  # what its client asked last: a Query, Parse, statement
        self.torn = False  # its client left within a message, which nothing must complete
        self.cancels = 0  # cancels on their way: not to be given to anybody else
        self.timed_out: CloseReason | None = None
        self.leaving_for: CloseReason | None = None
        # stamps, in seconds of the edge's clock; 0.0 for "not now"
        self.idle_since = now
        self.transaction_since = 0.0
        self.busy_since = 0.0
        self.deadline = 0.0  # when patience with a tidying, leaving or cancelled server ends
        # the stream
        self._cutter = server_cutter()
        self._tail = b""  # start of a message kept back until it is whole
        self._edits: list[Edit] = []  # to be made in the chunk under way
        self._ready = False  # something is in it that its client may have waited for
        self.answer: bytearray | None = None  # what came since a chore asked a question
        self.farewell: dict[str, str] | None = None  # the FATAL that the server sent

    def __repr__(self) -> str:
        """Show id, state and peer."""
        return f"<Server {self.ident} {self.state.value} {self.name} pid={self.pid}>"

    def move(self, state: State) -> None:
        """Change the state; an impossible move is a bug."""
        if not state.may_follow(self.state):
            raise AssertionError(f"{self!r} cannot become {state.value}")
        self.state = state

    @property
    def within_message(self) -> bool:
        """True while a message of which a part was passed on is incomplete."""
        return self._cutter.left > 0

    def rebase(self) -> None:
        """Take what the server reports now as what a session has before anybody sets anything."""
        self.base = self.pool.shelf.shared({k.lower(): v for k, v in self.parameters.items()})

    def touch(self, flags: int, cause: hints.Hint | bytes) -> None:
        """Note what its client may have changed, and by which text or command tag."""
        flags &= self.pool.rules.memory
        new = flags & ~(self.touched & ~self.unhinted)
        if new:
            self.touched |= new
            self.unhinted &= ~new
            if len(self.causes) < CAUSES:
                self.causes.append((new, cause))

    def changing(self, words: frozenset[bytes]) -> None:
        """Note what its client is about to change of the schema."""
        if words not in self._changed:
            self._changed.append(words if len(self._changed) < CAUSES else ddl.ANYTHING)

    def take_changed(self) -> frozenset[bytes]:
        """Return what was changed of the schema, and forget it."""
        changed, self._changed = self._changed, []
        return frozenset().union(*changed) if all(changed) else ddl.ANYTHING

    # -- to the server

    def send(self, data: bytes, kinds: list[int]) -> None:
        """Write messages of which those of `kinds` are owed something; may be none."""
        if kinds:
            self._seen = 0
            self.ledger.sent(kinds)
            if self.effects:
                self._group += count_ends(kinds)
        if data:
            self.transport.write(data)

    def watch(self, kinds: list[int]) -> None:
        """Look closely at replies, if any of the messages just sent is of a special kind."""
        special = count_special(kinds)
        if not special:
            return
        self.ledger.special += special
        self._cutter.marks = FROM_SERVER_CLOSELY
        if not self.within_message and not self._tail:
            self._put_in(0)
            client = self.client
            if client is not None and self._edits:
                client.send(b"".join(edit[2] for edit in self._edits))
            self._edits.clear()

    def pause_writing(self) -> None:
        """The server reads slower than its client sends."""
        self.full = True
        if self.client is not None:
            self.client.brake(PEER_FULL)

    def resume_writing(self) -> None:
        """The server has caught up."""
        self.full = False
        if self.client is not None:
            self.client.unbrake(PEER_FULL)

    def stand_in(self) -> None:
        """Send what the server waits for from a client that has left."""
        if self.ledger.copy_in:
            self.send(_NO_COPY, [codes.COPY_FAIL])
        if self.ledger.skipping:
            self.send(build.SYNC, [codes.SYNC])

    def start(self, chore: Chore) -> None:
        """Run a chore; `chore_over` hears of its end."""
        self.chore = chore
        self._resume_chore(first=True)

    def _resume_chore(self, first: bool = False) -> None:
        chore = self.chore
        assert chore is not None
        failure, self.failure = self.failure, None
        try:
            data = next(chore) if first else chore.send(failure)
        except StopIteration as stop:
            self.chore = None
            chore_over(self.pool, self, stop.value)
        except Unusable as unusable:
            self.chore = None
            self.pool.close(self, unusable.reason, unusable.text)
        else:
            if data:
                self.send(data, [data[0]])

    # -- from the server

    def data_received(self, data: bytes) -> None:
        """Account for a chunk, and pass it on to the client."""
        client = self.client
        if self.ledger.awaits and client is not None and self.state is ServerState.ACTIVE:
            answers = whole_reply(data)
            if answers >= 0 and self._is_all(data, answers, client):
                return
        if self.state is ServerState.LEAVING or self.state is ServerState.CLOSED:
            return
        before = self._cutter.left
        if self.meter is not None:
            self.meter.sent += len(data)
        if self._tail:
            data = self._tail + data
            self._tail = b""
        try:
            at = self._walk(data)
        except (BadMessage, parse.Malformed) as bad:
            self._cutter.left = before  # nothing of this chunk is passed on
            self.pool.server_broke(self, str(bad))
            return
        if at < len(data):
            self._tail = data[at:]
            data = data[:at]
        client = self.client
        ready, self._ready = self._ready, False
        if self._edits:
            data = edited(data, self._edits)
        if client is not None and self.state is ServerState.ACTIVE and data:
            client.send(data)
            if self.state is not ServerState.ACTIVE:
                return  # a client of our own has left over what it was told
            client = self.client
        elif self.answer is not None and len(self.answer) <= truth.ANSWER_LIMIT:
            self.answer += data
        if self.state is not ServerState.ACTIVE and self.farewell is not None:
            self.pool.server_broke(self, "")
        elif self.ledger.settled and not self._cutter.left and not self._tail:
            if self.chore is not None:
                self._resume_chore()
            elif client is not None and client.again:
                client.repeat()
            elif client is not None and client.holds:
                client.resume()
            elif client is not None:
                self.pool.settled(self)
        elif client is not None and client.holds and (ready or self.ledger.skipping):
            client.resume()
        elif client is None and (
            self.ledger.unsure
            # the rest of a message that nobody asked for would go to the next client
            or (self.state is ServerState.IDLE and self._cutter.left)
        ):
            self.pool.server_broke(self, "a reply that nobody asked for")

    def _is_all(self, data: bytes, answers: int, client: "Client") -> bool:
        """Pass on a chunk that answers all that is owed; False: it has to be looked at."""
        if (
            self._tail
            or self._cutter.left
            or self.meter is not None
            or self.run is not None
            or client.again
            or client.holds
            or not self.ledger.answered_by(answers)
        ):
            return False
        self.status = data[-1]
        self.excused = False
        self._count_query()
        client.send(data)
        if client.server is self and self.ledger.settled:  # one of our own can have gone on
            self.pool.settled(self)
        return True

    # -- statements: see `statements`

    def group_of(self, kinds: list[int]) -> int:
        """Return the number of the group of messages that comes behind `kinds`, not yet sent."""
        self._look_at(kinds)
        return self._group + self._ends

    def unknown(self, kinds: list[int]) -> bool:
        """Return whether `status` may have changed until what comes behind `kinds` is read."""
        if self.ledger.ends > 0:
            return True
        self._look_at(kinds)
        return self._ends > 0

    def skips(self, kinds: list[int]) -> bool:
        """Return whether what comes behind `kinds` will not be read, for an earlier error."""
        if not self.ledger.skipping:
            return False
        self._look_at(kinds)
        return not self._synced

    def _look_at(self, kinds: list[int]) -> None:
        """Look at each message of the chunk under way once, however many there are."""
        if not 0 < self._seen <= len(kinds):
            self._seen = self._ends = 0
            self._synced = False
        for i in range(self._seen, len(kinds)):
            if kinds[i] in ENDS:
                self._ends += 1
                self._synced |= kinds[i] == codes.SYNC
        self._seen = len(kinds)

    def describes(self, statement: Statement) -> bool:
        """Return whether it is about to tell its client of a statement's shape."""
        return any(effect.describes is statement and effect.name for effect in self.effects)

    def take_back(self, count: int) -> None:
        """Forget the newest effects: their messages are not sent after all."""
        self._seen = 0
        for _ in range(count):
            undo(self, self.effects.pop())

    def forget_statements(self) -> None:
        """Let go of all statements: the session ends, or no more is known of it."""
        while self.effects:
            undo(self, self.effects.popleft())
        self.prepared.clear()

    def _answered(self, reply: int, data: bytes, at: int, size: int) -> None:
        """Note one reply while some are to be taken out or put in."""
        kind = self.ledger.answered(reply)
        if not kind:
            return
        effect = next_effect(self)
        if kind in (OUR_DESCRIBE, SEEN_DESCRIBE):
            described(self, effect, data[at + codes.HEADER : at + size])
            self._ready = True  # perhaps its client waits for that
        else:
            happened(self, effect, kind != OUR_CLOSE)
        if kind in ADDED:
            self._edits.append((at, at + size, b""))
            if kind == OUR_EXECUTE and self.run is not None:
                self.run.asked = False
                self._ready = True

    def _ours(self, kind: int) -> bool:
        """Return whether the next reply is to a message of ours of this special kind."""
        ledger = self.ledger
        return ledger.special > 0 and len(ledger.owed) > 0 and ledger.owed[0] == kind

    def _parameters_described(self, body: bytes, at: int, size: int) -> None:
        """Note the first half of the answer to a Describe of a statement."""
        kind = self.ledger.owed[0] if self.ledger.owed else 0
        if kind in (OUR_DESCRIBE, SEEN_DESCRIBE):
            self.effects[0].parameters = body
        if kind == OUR_DESCRIBE:
            self._edits.append((at, at + size, b""))

    def _put_in(self, at: int) -> None:
        """Put in the replies that are due at `at`; look no closer when there is nothing left."""
        while True:
            kind = self.ledger.left_out()
            if not kind:
                break
            happened(self, next_effect(self), there=False)
            reply = build.PARSE_COMPLETE if kind == LEFT_OUT_PARSE else build.CLOSE_COMPLETE
            self._edits.append((at, at, reply))
        if not self.ledger.special:
            self._cutter.marks = FROM_SERVER

    def _failed(self, body: bytes, fields: dict[str, str], at: int) -> None:
        """Note an error, and have the client told another thing instead if need be."""
        instead = failed(self, body, fields)
        if instead is not None:
            self._edits.append((at, at + codes.HEADER + len(body), instead))
        self._error_over()

    def _error_over(self) -> None:
        """Go on after an error: fewer replies will come, and a client that left says nothing."""
        if not self.ledger.special:
            self._cutter.marks = FROM_SERVER
        if self.client is None:
            self.stand_in()

    def _walk(self, data: bytes) -> int:
        """Note what the messages in `data` mean; return where what must be kept back begins."""
        cutter = self._cutter
        ledger = self.ledger
        kinds = cutter.kinds
        end = len(data)
        at = cutter.scan(data, 0)
        while True:
            if kinds:
                ledger.replied(kinds)
                kinds.clear()
            if ledger.special and not cutter.left:
                self._put_in(at)
            stop = cutter.stop
            if stop in (END, MORE):
                return at
            size = cutter.size
            if at + size > end:
                if size <= (DESCRIPTION_LIMIT if stop in _DESCRIPTIONS else LOOK_LIMIT):
                    return at
                if stop != codes.ERROR_RESPONSE:
                    raise BadMessage(f"a message of type {chr(stop)!r} of {size} bytes")
                skipped(self, ledger.failed())  # too long to be read, not to be passed on
                self._error_over()
            elif stop == codes.COMMAND_COMPLETE and self._ours(OUR_EXECUTE):
                self._answered(stop, data, at, size)
            elif stop == codes.COMMAND_COMPLETE:
                ledger.replied(_COMMAND_COMPLETE)
                if self.meter is not None:
                    self.meter.completed(data[at + codes.HEADER : at + size])
                if data[at + codes.HEADER : at + size] in _FORGETS:
                    forgot_all(self)
                if self.state is ServerState.ACTIVE:
                    flags = hints.of_tag(data[at + codes.HEADER : at + codes.HEADER + 3])
                    if flags and self.excused:
                        self.excused = False
                    elif flags:
                        tag = data[at + codes.HEADER : at + size - 1]
                        if flags & (hints.SCHEMA | hints.REWRITES) and self.run is not None:
                            self.pool.lane.done(self, tag)
                        self.touch(flags | hints.of_definition(tag), tag)
            elif stop == codes.READY_FOR_QUERY:
                if size != codes.HEADER + 1:
                    raise BadMessage("invalid length of ReadyForQuery")
                self.status = data[at + codes.HEADER]
                self.excused = False
                if self.run is not None and self.status == codes.IDLE:
                    self.run.guarded = False
                self._ready = True
                ledger.ready()
                client = self.client
                if client is not None and client.again:
                    self._edits.append((at, at + size, b""))
                elif self.chore is None:
                    self._count_query()
            elif stop == codes.NOTIFICATION_RESPONSE:
                self._notified(data[at : at + size], at)
            elif stop in _REPLIES:
                self._answered(stop, data, at, size)
            elif stop == codes.PARAMETER_DESCRIPTION:
                self._parameters_described(data[at + codes.HEADER : at + size], at, size)
            else:
                self._look(stop, data[at + codes.HEADER : at + size], at)
            if ledger.special and at + size <= end:
                self._put_in(at + size)
            if at + size == end:
                cutter.stop = END
                return end
            at = cutter.pass_over(data, at)

    def _count_query(self) -> None:
        counters = self.counters
        counters.queries += 1
        if self.meter is not None:
            self.meter.ready()
        if self.status == codes.IDLE:
            counters.transactions += 1
        if self.ledger.owed:  # pipelined: the next one has begun
            now = self.pool.edge.now()
            took = now - self.busy_since
            counters.query_time += took
            counters.query_times[bucket(took)] += 1
            self.busy_since = now
            self.cancelled()

    def _notified(self, message: bytes, at: int) -> None:
        """Note a notification for the client: its sender is to be who that says it is."""
        client = self.client or self.owner
        if client is None:
            return
        sent_on = int.from_bytes(message[5:9], "big")
        sender = self.pool.sender(sent_on)
        if self.client is None or self.state is not ServerState.ACTIVE:  # what we asked goes on
            client.send(message[:5] + sender.to_bytes(4, "big") + message[9:])
        elif sender != sent_on:
            start = at + codes.HEADER
            self._edits.append((start, start + 4, sender.to_bytes(4, "big")))
        client.notes.heard_here(message)

    def _look(self, kind: int, body: bytes, at: int) -> None:
        if kind == codes.COPY_IN_RESPONSE:
            self.ledger.copy_started()
            if self.client is None:  # it left before its COPY began: a cancel does not end that
                self.stand_in()
        elif kind == codes.PARAMETER_STATUS:
            self._parameter_changed(*parse.parameter_status(body))
        else:
            fields = parse.report(body)
            if fields.get("V", fields.get("S")) in ("FATAL", "PANIC"):
                self.farewell = fields
            else:
                self.failure = fields
                self._failed(body, fields, at)
            self.counters.errors += 1
            self.counters.error("server", fields.get("C", ""))
            if self.meter is not None:
                self.meter.failed(fields.get("C", ""))

    def _parameter_changed(self, name: str, value: str) -> None:
        shelf = self.pool.shelf
        self.parameters = shelf.shared({**self.parameters, name: value})
        if self.client is not None and self.state is ServerState.ACTIVE:
            self.client.told = self.parameters
            self.touch(hints.SETTINGS, name.encode())  # is_superuser tells of a role
        elif self.state is ServerState.IDLE and session.settable(name):
            # the server's own configuration was reloaded
            self.base = shelf.shared({**self.base, name.lower(): value})

    def connection_made(self, transport: Transport) -> None:
        """Nothing to do: the login has been through this transport already."""

    def eof_received(self) -> bool:
        """Let the transport close: `connection_lost` follows."""
        return False

    def connection_lost(self, error: BaseException | None) -> None:
        """The connection has ended, by whoever's doing."""
        self.pool.server_gone(self)

    def cancelled(self) -> None:
        """Forget a query_timeout when its query is over: the cancel has done its work."""
        if self.timed_out is CloseReason.QUERY_TIMEOUT:
            self.timed_out = None
            self.deadline = 0.0

    # -- leaving

    def leave(self) -> None:
        """Ask the server to end its session; it closes the connection when it has ended it.

        Its place is free only then: `pg_stat_activity` must never show one too many.
        """
        if not self.torn:
            self.transport.write(build.TERMINATE)
        self.transport.write_eof()

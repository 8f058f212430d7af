"""The ledger against scripts of its hard cases, and against a model of PostgreSQL's reading loop.

What the scripts expect was seen on PostgreSQL 15.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pooler.core.ledger import Ledger
from pooler.wire.codes import COPY_IN_RESPONSE, ERROR_RESPONSE, READY_FOR_QUERY


def send(ledger: Ledger, kinds: bytes) -> None:
    """Note what a client sent, as its cutter counts it."""
    counted = [kind for kind in kinds if kind in b"QPBDECSFcf"]
    if counted:
        ledger.sent(counted)


def receive(ledger: Ledger, kinds: bytes) -> None:
    """Note what a server sent, in runs as its cutter counts them."""
    run: list[int] = []
    for kind in kinds:
        if kind in b"123CIsTnW":
            run.append(kind)
            continue
        if kind not in (READY_FOR_QUERY, ERROR_RESPONSE, COPY_IN_RESPONSE):
            continue
        ledger.replied(run)
        run.clear()
        if kind == READY_FOR_QUERY:
            ledger.ready()
        elif kind == ERROR_RESPONSE:
            ledger.failed()
        else:
            ledger.copy_started()
    ledger.replied(run)


def play(script: str) -> Ledger:
    """Play words of message kinds: `>` from the client, `<` from the server.

    `.` asserts that the server has settled after the word, `!` that it has not, `?` unsure.
    """
    ledger = Ledger()
    assert ledger.settled
    for word in script.split():
        kinds = word[1:].rstrip(".!?").encode()
        (send if word[0] == ">" else receive)(ledger, kinds)
        if word.endswith("."):
            assert ledger.settled, (word, ledger)
        elif word.endswith("!"):
            assert not ledger.settled, (word, ledger)
            assert not ledger.unsure, (word, ledger)
        elif word.endswith("?"):
            assert ledger.unsure, (word, ledger)
            assert not ledger.settled, (word, ledger)
    return ledger


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(">Q! <TDDC! <Z.", id="simple query"),
        pytest.param(">QQ! <TDCZ! <IZ.", id="two simple queries"),
        pytest.param(">Q! <TDCE! <Z.", id="error in the second statement"),
        pytest.param(">PBDES! <12TDDC! <Z.", id="extended query"),
        pytest.param(">PD! <1tn! >S! <Z.", id="describe, then Sync"),
        pytest.param(">PBEH! <12s! >E! <C! >S! <Z.", id="flush and row limits"),
        pytest.param(">PBESPBES! <12CZ! <12CZ.", id="two Syncs"),
        pytest.param(">C! <3! >S <Z.", id="close"),
        pytest.param(">F! <VZ.", id="function call"),
        pytest.param(">F! <E! <Z.", id="function call fails"),
        pytest.param(">P! <1! >Q! <TDCZ.", id="a simple query ends what was not synced"),
        pytest.param(">S! <E! <Z.", id="commit fails at Sync"),
        pytest.param(">PBES! <E! <Z.", id="error skips to the Sync sent"),
        pytest.param(">PBESPBES! <E! <Z! <12CZ.", id="error skips to the first Sync"),
        pytest.param(">PBE! <E! >Q! >PBE! >S! <Z.", id="error skips a simple query too"),
        pytest.param(">PBEQ! <E! >S! <Z.", id="error skips what was sent already"),
        pytest.param(">PH! <1! <E! >S! <Z.", id="error between messages"),
        pytest.param(">cf. >cQ! <CZ. >fdc.", id="copy ends outside of COPY"),
        pytest.param(">PcBcES! <12C! <Z.", id="copy ends among messages"),
        pytest.param(">Q! <G! >d! >dc! <C! <Z.", id="copy in"),
        pytest.param(">Q! <G! >df! <E! <Z.", id="copy in fails"),
        pytest.param(">Q! <G! >d! <E! <Z. >dddc.", id="copy in fails while data comes"),
        pytest.param(">QddcQ! <G! <C! <Z! <CZ.", id="copy in, data sent ahead"),
        pytest.param(">Q! <G! >S! >dc! <C! <Z.", id="copy in ignores Sync"),
        pytest.param(">QcS! <G! <C! <Z! <Z.", id="Sync behind the copy end is answered"),
        pytest.param(">PBDES! <12nG! >dd! >cS! <C! <Z.", id="libpq's copy in"),
        pytest.param(">PBES! <12! <G! >dc! <C! >S! <Z.", id="libpq's copy in, Sync late"),
        pytest.param(">PBE! <12G! >S! >dcS! <C! <Z.", id="Sync within copy in"),
        pytest.param(">PBE! <12G! >dfS! <E! <Z.", id="extended copy in fails"),
        pytest.param(">PBE! <12G! <E! >dc! >S! <Z.", id="extended copy in fails early"),
        pytest.param(">PBESdcS! <12! <G! <C! <Z.", id="libpq's copy in, all sent ahead"),
        pytest.param(">PBESdcS! <12E! <Z! <Z.", id="libpq's copy in, refused"),
        pytest.param(">Q! <G! >c! <C! <G! >S! >c! <C! <Z.", id="two copies in one query"),
        pytest.param(">QcSc! <G! <C! <G! <C! <Z.", id="two copies in one query, sent ahead"),
        pytest.param(">QcSc! <G! <C! <TDC! <Z! <Z.", id="one copy, another end sent ahead"),
        pytest.param(">QQ! <G! <E! <Z! <TDCZ.", id="copy to a view, a query behind"),
        pytest.param(">Q! <H! <ddc! <C! <Z.", id="copy out"),
        pytest.param(">PBES! <12H! <ddcC! <Z.", id="extended copy out"),
    ],
)
def test_settles(script: str) -> None:
    assert not play(script).unsure


@pytest.mark.parametrize(
    "script",
    [
        # The Sync behind the Execute is answered, since COPY to a view fails before it reads.
        pytest.param(">PBES! <12G! >cS! <E? <Z? <Z?", id="libpq's copy to a view"),
        pytest.param(">PBES! <12G! >d! <E? >cS? <Z?", id="libpq's copy fails"),
        pytest.param(">Q! <G! >S! <E? <Z?", id="Sync within a copy that fails"),
        pytest.param("<Z?", id="ReadyForQuery unasked"),
        pytest.param(">P! <Z?", id="ReadyForQuery before the Sync"),
        pytest.param("<G?", id="copy in unasked"),
    ],
)
def test_unsure_stays(script: str) -> None:
    ledger = play(script)
    send(ledger, b"QS")
    receive(ledger, b"CZZ")
    assert ledger.unsure
    assert not ledger.settled


def test_repr_is_one_line() -> None:
    assert repr(play(">PBE! <12G!")) == "<Ledger owed=b'E' unsynced copy_in>"


class Backend:
    """PostgreSQL's reading loop: postgres.c's PostgresMain, copyfromparse.c's CopyGetData.

    `outcome`, a number of 0 to 12, decides what a message leads to; 0 is failure, and 7 and up a
    COPY IN, for that is where most can go wrong.
    """

    def __init__(self) -> None:
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.extended = False  # doing_extended_query_message
        self.ignoring = False  # ignore_till_sync
        self.open = False  # a command of the extended protocol was begun and not synced
        self.copying = 0  # kind of the message whose COPY reads
        self.statements = 0  # left of a simple query
        self.failed_copies = 0
        self.dead = False

    @property
    def idle(self) -> bool:
        """Whether nothing is to come that a new message did not ask for."""
        ignored = all(kind in b"dcfH" for kind in self.inbox)
        busy = self.statements or self.copying or self.ignoring or self.open
        return ignored and not busy and not self.outbox

    def step(self, outcome: int) -> None:
        """Read one message, or go on with what the last one began."""
        if self.copying:
            self._copy(outcome)
        elif self.statements:
            self._statement(outcome)
        elif self.inbox:
            self._command(self._read(), outcome)

    def _read(self) -> int:
        kind = self.inbox[0]
        del self.inbox[0]
        return kind

    def _fail(self) -> None:
        self.outbox += b"E"
        self.statements = 0
        self.copying = 0
        if self.extended:
            self.ignoring = True
        else:
            self._ready()

    def _ready(self) -> None:
        self.outbox += b"Z"
        self.open = False

    def _command(self, kind: int, outcome: int) -> None:
        self.extended = kind in b"PBDECH"
        if kind in b"S":
            self.ignoring = False
        if self.ignoring or kind in b"Hdcf":
            return
        self.open = self.open or self.extended
        if kind in b"Q" and outcome:
            self.statements = 1 + outcome % 3
        elif outcome == 0:
            self._fail()
        elif kind in b"S":
            self._ready()
        elif kind in b"F":
            self.outbox += b"V"
            self._ready()
        elif kind in b"E":
            self._execute(kind, outcome)
        else:
            self.outbox += {80: b"1", 66: b"2", 67: b"3", 68: b"tT" if outcome < 5 else b"n"}[kind]

    def _execute(self, kind: int, outcome: int) -> None:
        if outcome >= 7:
            self.outbox += b"G"
            self.copying = kind
        else:
            self.outbox += (b"I", b"DC", b"C", b"HddcC", b"Ds", b"DNSAC")[outcome - 1]

    def _statement(self, outcome: int) -> None:
        if outcome == 0:
            self._fail()
            return
        # A simple query's portal has no row limit, but a description.
        self._execute(ord("Q"), 2 if outcome == 5 else outcome)
        if not self.copying:
            self._statement_done()

    def _statement_done(self) -> None:
        self.statements -= 1
        if not self.statements:
            self._ready()

    def _copy(self, outcome: int) -> None:
        if outcome == 0:  # to a view, a trigger's error, a cancel
            self.failed_copies += 1
            self._fail()
            return
        if not self.inbox:
            return
        kind = self._read()
        if kind in b"c" and outcome > 1:
            self.outbox += b"C"
            if self.copying == ord("Q"):
                self._statement_done()
            self.copying = 0
        elif kind in b"cf" or (kind in b"d" and outcome == 1):
            self.failed_copies += 1
            self._fail()
        elif kind not in b"dHS":
            self.outbox += b"EE"  # the second is FATAL: protocol synchronization was lost
            self.dead = True


PIECES = [
    *(bytes([kind]) for kind in b"QPBDECSFcfdH"),
    b"PBDES",
    b"PBE",
    b"ES",
    b"EScS",
    b"QcSc",
    b"QddcS",
    b"PBDESddcS",
    b"dcS",
    b"cS",
]


class Conversation(RuleBasedStateMachine):
    """A client sends, a server reads and answers, answers arrive: each at a pace of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.backend = Backend()

    def _alive(self) -> bool:
        return not self.backend.dead

    @precondition(_alive)
    @rule(pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=3))
    def client_sends(self, pieces: list[bytes]) -> None:
        kinds = b"".join(pieces)
        send(self.ledger, kinds)
        self.backend.inbox += kinds

    @precondition(_alive)
    @rule(outcomes=st.lists(st.integers(0, 12), min_size=1, max_size=8))
    def server_reads(self, outcomes: list[int]) -> None:
        for outcome in outcomes:
            if not self.backend.dead:
                self.backend.step(outcome)

    @rule(size=st.integers(1, 20))
    def answers_arrive(self, size: int) -> None:
        outbox = self.backend.outbox
        for kind in bytes(outbox[:size]):
            del outbox[0]
            receive(self.ledger, bytes([kind]))
            self.settled_means_idle()

    @rule()
    def answers_arrive_at_once(self) -> None:
        receive(self.ledger, bytes(self.backend.outbox))
        self.backend.outbox.clear()

    @rule()
    def all_goes_well(self) -> None:
        """Let the client finish what it began, and the server with it."""
        for kind in b"\0cScS":
            if kind:
                send(self.ledger, bytes([kind]))
                self.backend.inbox.append(kind)
            for i in range(3 * (len(self.backend.inbox) + 3)):
                if not self.backend.dead:
                    self.backend.step(2 + i % 5)
            self.answers_arrive(len(self.backend.outbox))
        assert self.backend.dead or self.backend.idle

    @invariant()
    def settled_means_idle(self) -> None:
        if not self.backend.dead and not self.ledger.unsure:
            assert self.ledger.settled == self.backend.idle, self.ledger

    @invariant()
    def unsure_has_a_reason(self) -> None:
        assert not self.ledger.unsure or self.backend.failed_copies or self.backend.dead


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)

"""Counts the replies that a server owes: the one place that knows when a server has settled.

The ledger is a model of how PostgreSQL reads a client's messages. `owed` holds, in order, the
kinds of the messages sent that are not yet answered; each kind of reply takes away the message
that it answers. Its hard cases, as `src/backend/tcop/postgres.c` and `commands/copyfrom*.c`
handle them:

- after an error in the extended protocol the server skips everything up to the next Sync, a simple
  Query too; after an error in a simple Query it skips nothing;
- CopyDone and CopyFail outside of COPY IN are ignored;
- during COPY IN a Sync is ignored, so the one that libpq sends right behind its Execute is never
  answered; unless the COPY fails before it reads anything, as one to a view does: then it is;
- a simple Query can hold several COPY, each with a copy end of its own;
- any other message during COPY IN ends the connection.

Messages that `statements` adds, leaves out or renames have kinds of their own, so that a reply is
known to be one of them: `special` counts those.

Where the server's reading cannot be told from its replies, `unsure` is set and stays: such a
server is never settled again, so nobody else gets it.
"""

from collections import deque
from typing import Final

from pooler.wire.codes import (
    BIND,
    CLOSE,
    COMMAND_COMPLETE,
    COPY_DONE,
    COPY_FAIL,
    DESCRIBE,
    EXECUTE,
    FUNCTION_CALL,
    PARSE,
    QUERY,
    SYNC,
)

OUR_PARSE: Final = 1
"""A Parse that the client did not send: its reply is taken out."""
LEFT_OUT_PARSE: Final = 2
"""A Parse that the server is not sent: its reply is put in."""
LEFT_OUT_CLOSE: Final = 3
"""The same of a Close."""
RENAMED_PARSE: Final = 4
"""A Parse of a client's name, under ours."""
OUR_CLOSE: Final = 5
"""A Close that the client did not send: its reply is taken out."""
OUR_DESCRIBE: Final = 6
"""A Describe of a statement that the client did not send: its replies are taken out."""
SEEN_DESCRIBE: Final = 7
"""One of the client's, of which the replies are looked at."""
OUR_BIND: Final = 8
"""A Bind that the client did not send, and an Execute: their replies are taken out."""
OUR_EXECUTE: Final = 9
SPECIAL: Final = 9  # the last of them
ADDED: Final = bytes([OUR_PARSE, OUR_CLOSE, OUR_DESCRIBE, OUR_BIND, OUR_EXECUTE])
"""Those that the client did not send."""
_AS_SENT: Final = bytes.maketrans(
    bytes([LEFT_OUT_PARSE, RENAMED_PARSE, LEFT_OUT_CLOSE, SEEN_DESCRIBE]), b"PPCD"
)


def _answers() -> list[int]:
    """Return, by kind of reply, the kind of message that it answers (0: none)."""
    table = [0] * 256
    for reply, asked in zip(b"123nTCIs", b"PBCDDEEE", strict=True):
        table[reply] = asked
    return table


_ANSWERS = _answers()
_SPECIAL_ANSWERS = (b"", b"1", b"", b"", b"1", b"3", b"nT", b"nT", b"2", b"C")
"""The kinds of reply that each special kind is answered by, if any."""
_EXTENDED = bytes([PARSE, BIND, DESCRIBE, EXECUTE, CLOSE, *range(1, SPECIAL + 1)])
_ENDS_COPY = bytes([COPY_DONE, COPY_FAIL])
ENDS: Final = bytes([SYNC, QUERY, FUNCTION_CALL])
"""What is answered with ReadyForQuery."""


ANY: Final = -1
_ANSWERED_ONCE: Final = bytes(
    kind in (PARSE, BIND, DESCRIBE, EXECUTE, CLOSE) for kind in range(256)
)


def _awaited(kinds: list[int]) -> int:
    """Return the number of replies to what a server at rest is sent, if it is known.

    ReadyForQuery is one of them; ANY to a simple Query; 0 if there is more to it.
    """
    last = len(kinds) - 1
    if kinds[last] != SYNC:
        return ANY if last == 0 and kinds[0] == QUERY else 0
    for i in range(last):
        if not _ANSWERED_ONCE[kinds[i]]:
            return 0
    return last + 1


def _ends_unsynced(kinds: list[int], before: bool) -> bool:
    """Return whether the last of `kinds` that is no copy end is extended; else `before`."""
    for i in range(len(kinds) - 1, -1, -1):
        if kinds[i] not in _ENDS_COPY:
            return kinds[i] in _EXTENDED
    return before


def count_ends(kinds: list[int]) -> int:
    """Return how many of `kinds` are answered with ReadyForQuery."""
    return kinds.count(SYNC) + kinds.count(QUERY) + kinds.count(FUNCTION_CALL)


def count_special(kinds: list[int]) -> int:
    """Return how many of `kinds` are special."""
    special = 0
    for i in range(len(kinds)):
        special += kinds[i] <= SPECIAL
    return special


class Ledger:
    """What one server still owes."""

    __slots__ = (
        "awaits",
        "copy_in",
        "ends",
        "owed",
        "parse_failed",
        "skipping",
        "special",
        "swallowed",
        "unsure",
        "unsynced",
    )

    def __init__(self) -> None:
        self.owed: deque[int] = deque()  # kinds of the messages not yet answered, oldest first
        self.ends = 0  # how many of them are answered with ReadyForQuery
        self.awaits = 0  # replies until all is over, if that is all there is to know, or ANY
        self.special = 0  # how many of them are of a special kind
        self.unsynced = False  # the last message sent was extended: a Sync has to come
        self.skipping = False  # an error made the server skip, and no Sync was sent yet
        self.copy_in = False  # the server reads copy data
        self.swallowed = False  # a Sync was sent that this COPY ignores, unless it fails first
        self.unsure = False
        self.parse_failed = False  # among the messages that the last error concerned was a Parse

    def __repr__(self) -> str:
        """Show what is owed and how."""
        flags = [
            name for name in ("unsynced", "skipping", "copy_in", "unsure") if getattr(self, name)
        ]
        return f"<Ledger owed={bytes(self.owed)!r} {' '.join(flags)}>"

    @property
    def settled(self) -> bool:
        """True when the server has answered everything and waits for a new message."""
        return not (self.owed or self.unsynced or self.skipping or self.unsure)

    def sent(self, kinds: list[int]) -> None:
        """Note messages sent to the server, in order."""
        self.awaits = 0
        if not self.owed and not (self.unsynced or self.skipping or self.copy_in):
            self.awaits = _awaited(kinds)
        if self.awaits:
            self.owed += kinds
            self.ends = 1
        elif self.skipping or self.copy_in:
            for i in range(len(kinds)):
                self._sent_one(kinds[i])
        else:
            self.owed += kinds
            self.ends += count_ends(kinds)
            self.unsynced = _ends_unsynced(kinds, self.unsynced)
            if self.owed[0] == COPY_DONE or self.owed[0] == COPY_FAIL:
                self._drop_ignored()

    def _sent_one(self, kind: int) -> None:
        if self.skipping:
            if kind != SYNC:
                return
            self.skipping = False
        elif self.copy_in and kind == SYNC and len(self.owed) == 1:
            self.swallowed = True
            return
        self.owed.append(kind)
        self.ends += kind in ENDS
        if kind not in _ENDS_COPY:
            self.unsynced = kind in _EXTENDED
        self._drop_ignored()

    def answered_by(self, answers: int) -> bool:
        """Note so many replies and a ReadyForQuery; False: they are to be noted one by one."""
        if self.awaits != ANY and self.awaits != answers + 1:
            return False
        self.awaits = 0
        self.ends = 0
        self.owed.clear()
        return True

    def replied(self, kinds: list[int]) -> None:
        """Note replies of the kinds 1 2 3 n T C I s received, in order."""
        self.awaits = 0
        owed = self.owed
        for i in range(len(kinds)):
            if not owed:
                return
            asked = _ANSWERS[kinds[i]]
            # A simple Query's or a function call's replies, whatever they are, end with
            # ReadyForQuery only.
            if asked and owed[0] == asked:
                owed.popleft()
                if asked == EXECUTE and self.copy_in:
                    self._copy_over()
                self._drop_ignored()
            elif self.copy_in and kinds[i] == COMMAND_COMPLETE:
                # Of a COPY in a simple Query, which may go on with another one.
                self._copy_over()
                if len(owed) > 1 and owed[1] in _ENDS_COPY:
                    del owed[1]

    def answered(self, reply: int) -> int:
        """Note one reply while there is something special; return the special kind it answers."""
        self.awaits = 0
        owed = self.owed
        head = owed[0] if owed else 0
        if not 0 < head <= SPECIAL:
            self.replied([reply])
            return 0
        if reply not in _SPECIAL_ANSWERS[head]:
            return 0
        owed.popleft()
        self.special -= 1
        return head

    def left_out(self) -> int:
        """Return the special kind at the front for which no reply will come, 0 if there is none."""
        owed = self.owed
        if not owed or owed[0] not in (LEFT_OUT_PARSE, LEFT_OUT_CLOSE):
            return 0
        kind = owed.popleft()
        self.special -= 1
        self._drop_ignored()
        return kind

    def sent_by_client(self) -> bytes:
        """Return the kinds of what is owed, as its client sent them."""
        return bytes(self.owed).translate(_AS_SENT, ADDED)

    def copy_started(self) -> None:
        """Note a CopyInResponse: from here the server ignores Sync until the COPY ends."""
        self.awaits = 0
        owed = self.owed
        if not owed or owed[0] not in (QUERY, EXECUTE):
            self.unsure = True  # a COPY that nobody asked for
        self.copy_in = True
        self.swallowed = False
        while len(owed) > 1 and owed[1] == SYNC:
            del owed[1]
            self.ends -= 1
            self.swallowed = True
        self.unsynced = _ends_unsynced(list(owed), False)

    def failed(self) -> int:
        """Note an ErrorResponse that does not end the connection.

        Returns how many of the messages that the server failed at or skips are of a special kind.
        """
        self.awaits = 0
        self.parse_failed = False
        owed = self.owed
        if self.copy_in:
            if self.swallowed:
                self.unsure = True  # whether that Sync will be answered
            self._copy_over()
        if owed and owed[0] not in _EXTENDED:
            return 0
        if not owed and not self.unsynced:
            return 0
        special = 0
        while owed and owed[0] != SYNC:
            kind = owed.popleft()
            special += kind <= SPECIAL
            self.parse_failed |= kind == PARSE
            self.ends -= kind in ENDS
        if not owed:
            self.unsynced = False
            self.skipping = True
        self.special -= special
        return special

    def ready(self) -> None:
        """Note a ReadyForQuery, which ends what the oldest Query, Sync or function call began."""
        self.awaits = 0
        owed = self.owed
        if self.copy_in:
            self._copy_over()
        if not owed or owed[0] not in ENDS:
            self.unsure = True  # a ReadyForQuery that nobody asked for
            return
        owed.popleft()
        self.ends -= 1
        if owed:
            self._drop_ignored()

    def _copy_over(self) -> None:
        self.copy_in = False
        self.swallowed = False

    def _drop_ignored(self) -> None:
        """Drop copy ends that have come to the front: there is no COPY for them to end."""
        owed = self.owed
        while owed and (owed[0] == COPY_DONE or owed[0] == COPY_FAIL):
            owed.popleft()

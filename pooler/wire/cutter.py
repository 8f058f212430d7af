"""Finds message boundaries in a stream: the only place that knows framing.

A cutter walks the headers of one direction of one connection. Each message kind has a mark:

    PASS    nothing to note: walk on
    COUNT   append its kind to `kinds`, for the ledger, and walk on
    STOP    hand it to the caller, who looks at it
    BAD     no such message in this direction

The caller owns the bytes. The cutter keeps two ints between chunks: how much of a message that
was passed on unfinished is still to come (`left`), and where it stopped. It must not copy, slice
or keep a chunk; this loop is what wide results live or die by.
"""

from typing import Final

from pooler.wire.codes import (
    BIND,
    CLOSE,
    COMMAND_COMPLETE,
    DESCRIBE,
    HEADER,
    LARGE_LIMIT,
    PARAMETER_DESCRIPTION,
    READY_FOR_QUERY,
    SMALL_LIMIT,
)

PASS: Final = 0
COUNT: Final = 1
STOP: Final = 2
BAD: Final = 3

MORE: Final = -1  # `stop`: the chunk ends within a header
END: Final = 0  # `stop`: nothing more in this chunk


class BadMessage(Exception):
    """The peer sent what no message can start with; the text says what."""


_GROUPS: Final = {
    "client_replies": b"BDECSF",  # each is owed a reply
    "client_copy_end": b"cf",
    "client_quiet": b"dH",
    "client_look": b"QPX",
    "server_replies": b"123IsTnW",
    "server_look": b"ZCSEGA",
    "server_quiet": b"DdcHNtV",
}


def _marks(**kinds: int) -> bytes:
    marks = bytearray([BAD]) * 256
    for name, mark in kinds.items():
        for kind in _GROUPS[name]:
            marks[kind] = mark
    return bytes(marks)


FROM_CLIENT: Final = _marks(
    client_replies=COUNT, client_copy_end=COUNT, client_quiet=PASS, client_look=STOP
)
"""Marks for what a logged-in client sends; `p` is out of place by then, as in PostgreSQL."""

FROM_SERVER: Final = _marks(server_replies=COUNT, server_look=STOP, server_quiet=PASS)
"""Marks for what a logged-in server sends."""

FROM_CLIENT_CLOSELY: Final = bytes(
    STOP if kind in (BIND, DESCRIBE, CLOSE) else mark for kind, mark in enumerate(FROM_CLIENT)
)
"""The same where the names of prepared statements have to be looked at."""

_SMALL: Final = bytes(1 if kind in b"SHXEDCc" else 0 for kind in range(256))
"""Client messages held to PQ_SMALL_MESSAGE_LIMIT, as PostgreSQL's SocketBackend does."""

FROM_SERVER_CLOSELY: Final = bytes(
    STOP if mark == COUNT or kind == PARAMETER_DESCRIPTION else mark
    for kind, mark in enumerate(FROM_SERVER)
)
"""The same while some replies are to be taken out, or put in."""

NO_LIMITS: Final = bytes(256)

_IN_REPLY: Final = bytes(
    COUNT if kind in b"123nTCIs" else PASS if kind in b"DtN" else BAD for kind in range(256)
)
"""COUNT (1) for an answer, PASS (0) for what comes with one, BAD for what must be looked at."""
_READY_SIZE: Final = HEADER + 1
_READY_LENGTH: Final = bytes([0, 0, 0, HEADER])
_S: Final = ord("S")
_E: Final = ord("E")
_L: Final = ord("L")
_HARMLESS: Final = frozenset(
    (b"SEL", b"INS", b"UPD", b"DEL", b"MER", b"BEG", b"COM", b"ROL", b"FET")
)
"""How command tags begin that say nothing of the session's state."""


class Cutter:
    """One direction of one connection."""

    __slots__ = ("kinds", "left", "marks", "size", "small", "stop")

    def __init__(self, marks: bytes, small: bytes = NO_LIMITS) -> None:
        self.marks = marks
        self.small = small
        # between chunks
        self.left = 0  # bytes still to come of a message already passed on
        self.kinds: list[int] = []  # kinds counted since the caller last cleared it
        # where scan() stopped
        self.stop = END  # END, MORE or the kind of a message to look at
        self.size = 0  # that message's whole length, header included

    def scan(self, data: bytes, at: int) -> int:
        """Walk from `at`; return the offset where it stopped, `stop` saying why.

        END: all of `data` is accounted for (the last message may go on, see `left`). MORE: the
        offset is that of an incomplete header. Else: the offset is that of a message of kind
        `stop` and of `size` bytes, not counted and perhaps not complete; the caller goes on at
        offset + size, or passes it on unseen with `pass_over`.
        """
        end = len(data)
        at += self.left
        if at >= end:
            self.left = at - end
            self.stop = END
            return end
        self.left = 0
        marks = self.marks
        small = self.small
        while at + HEADER <= end:
            kind = data[at]
            size = 1 + (data[at + 1] << 24 | data[at + 2] << 16 | data[at + 3] << 8 | data[at + 4])
            mark = marks[kind]
            if mark == BAD:
                raise BadMessage(f"invalid message type {kind}")
            if size < HEADER or size > (SMALL_LIMIT if small[kind] else LARGE_LIMIT):
                raise BadMessage(f"invalid length {size - 1} of message type {chr(kind)!r}")
            if mark == COUNT:
                self.kinds.append(kind)
            elif mark == STOP:
                self.stop = kind
                self.size = size
                return at
            at += size
            if at >= end:
                self.left = at - end
                self.stop = END
                return end
        self.stop = MORE
        return at

    def pass_over(self, data: bytes, at: int) -> int:
        """Treat the message that `scan` stopped at as PASS, complete or not, and walk on."""
        return self.scan(data, at + self.size)


def string_end(data: bytes, at: int) -> int:
    """Return where the string that begins at `at` ends, which mostly is there; -1: nowhere."""
    return at if at < len(data) and not data[at] else data.find(b"\0", at)


def whole_reply(data: bytes) -> int:
    """Return how many answers a chunk has that is one whole reply to a Query or a Sync, else -1.

    Whole messages that have nothing to be looked at, and ReadyForQuery behind them: what nearly all
    chunks are. Answers are such as the ledger counts.
    """
    end = len(data)
    last = end - _READY_SIZE
    if last < 0 or data[last] != READY_FOR_QUERY:
        return -1
    answers = 0
    at = 0
    while at < last:
        kind = data[at]
        mark = _IN_REPLY[kind]
        if mark == BAD:
            return -1
        if kind == COMMAND_COMPLETE and not _is_harmless(data, at + HEADER):
            return -1
        answers += mark
        size = 1 + (data[at + 1] << 24 | data[at + 2] << 16 | data[at + 3] << 8 | data[at + 4])
        if size < HEADER:
            return -1
        at += size
    return answers if at == last and data[last + 1 : end - 1] == _READY_LENGTH else -1


def _is_harmless(data: bytes, at: int) -> bool:
    """Return whether the command tag at `at` says nothing of the session's state."""
    if at + 2 < len(data) and data[at] == _S and data[at + 1] == _E and data[at + 2] == _L:
        return True  # a SELECT
    return data[at : at + 3] in _HARMLESS


def peek(data: bytes, at: int) -> tuple[int, int]:
    """Return kind and whole size of the client's message at `at`, (MORE, 0) without its header."""
    if at + HEADER > len(data):
        if at < len(data) and FROM_CLIENT[data[at]] == BAD:
            raise BadMessage(f"invalid message type {data[at]}")
        return MORE, 0
    kind = data[at]
    size = 1 + (data[at + 1] << 24 | data[at + 2] << 16 | data[at + 3] << 8 | data[at + 4])
    if FROM_CLIENT[kind] == BAD:
        raise BadMessage(f"invalid message type {kind}")
    if size < HEADER or size > (SMALL_LIMIT if _SMALL[kind] else LARGE_LIMIT):
        raise BadMessage(f"invalid length {size - 1} of message type {chr(kind)!r}")
    return kind, size


def client_cutter() -> Cutter:
    """Return a cutter for what a logged-in client sends."""
    return Cutter(FROM_CLIENT, _SMALL)


def server_cutter() -> Cutter:
    """Return a cutter for what a logged-in server sends."""
    return Cutter(FROM_SERVER)

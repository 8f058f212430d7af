"""What is sent once more, invisibly, when it failed because the schema was changed.

A prepared statement whose result has another shape than when it was prepared fails with "cached
plan must not change result type". Outside of a transaction block nothing is lost but time: the
statement is prepared anew and the burst sent again. Only where its client cannot be misled: it has
the statement or the portal described, as libpq does each time, and asks for all columns in one
format.
"""

from typing import Final

from pooler.wire import codes
from pooler.wire.cutter import MORE, peek

BURST_LIMIT: Final = 65_536
"""Bytes of a burst kept to be sent again."""

TIMES: Final = 2
"""The second time the statement is new for certain; the first, another client may have made it."""

_BEFORE: Final = bytes([codes.PARSE, codes.DESCRIBE, codes.CLOSE, codes.FLUSH])
_FROM_DESCRIBE: Final = (b"D", b"DS", b"DBES", b"DBDES")
_FROM_BIND: Final = b"BDES"
_FLUSH: Final = bytes([codes.FLUSH])
_PARSED: Final = b"BES"
"""Only right behind the Parse: its client has not been told anything of it."""


def repeatable(burst: bytes, owed: bytes) -> bytes:
    """Return the end of a burst that can be sent again: what is `owed` to it, kinds in order.

    That is a Describe of a statement, with or without one Bind and Execute behind it; or a Bind, a
    Describe of its portal, an Execute; and the Sync, without which a Describe can be (asyncpg). b""
    if it is something else, or if something before it may have done something.
    """
    starts: list[int] = []
    kinds = bytearray()
    at = 0
    while at < len(burst):
        kind, size = peek(burst, at)
        if kind == MORE:
            return b""
        starts.append(at)
        kinds.append(kind)
        at += size
    starts.append(at)
    kinds = kinds.rstrip(_FLUSH)
    first = len(kinds) - len(owed)
    if first < 0 or kinds[first:] != owed or kinds[:first].strip(_BEFORE):
        return b""
    if owed == _PARSED:
        told = not first or kinds[first - 1] != codes.PARSE
        formats = _formats(burst[starts[first] : starts[first + 1]])
        return b"" if told or formats > 1 else burst[starts[first] :]
    described = ord("P") if owed == _FROM_BIND else ord("S")
    if owed != _FROM_BIND and owed not in _FROM_DESCRIBE:
        return b""
    describe = first + owed.index(codes.DESCRIBE)
    if burst[starts[describe] + codes.HEADER] != described:
        return b""
    bind = owed.find(codes.BIND)
    if bind >= 0 and _formats(burst[starts[first + bind] : starts[first + bind + 1]]) > 1:
        return b""
    return burst[starts[first] :]


def _formats(bind: bytes) -> int:
    """Return how many formats of columns a Bind asks for."""
    at = bind.find(b"\0", bind.find(b"\0", codes.HEADER) + 1) + 1
    at += 2 + 2 * int.from_bytes(bind[at : at + 2])
    parameters = int.from_bytes(bind[at : at + 2])
    at += 2
    for _ in range(parameters):
        size = int.from_bytes(bind[at : at + 4], signed=True)
        at += 4 + max(size, 0)
    return int.from_bytes(bind[at : at + 2])

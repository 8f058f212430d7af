"""What is sent once more, invisibly, when it failed because the schema was changed.

A prepared statement whose result has another shape than when it was prepared fails with "cached
plan must not change result type". Outside of a transaction block nothing is lost but time: the
statement is prepared anew and the burst sent again. Only where its client cannot be misled: it has
the portal described, as libpq does each time, and asks for all columns in one format.
"""

from typing import Final

from pooler.wire import codes
from pooler.wire.cutter import MORE, peek

BURST_LIMIT: Final = 65_536
"""Bytes of a burst kept to be sent again."""

TIMES: Final = 2
"""The second time the statement is new for certain; the first, another client may have made it."""

OWED: Final = bytes([codes.BIND, codes.DESCRIBE, codes.EXECUTE, codes.SYNC])
"""What is not answered yet when its Bind fails; what came before did nothing."""

_BEFORE: Final = bytes([codes.PARSE, codes.DESCRIBE, codes.CLOSE, codes.FLUSH])


def repeatable(burst: bytes) -> bytes:
    """Return the one Bind, Describe of its portal, Execute and Sync that a burst ends with.

    b"" if it does not, or if something before them may have done something.
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
    if kinds[-len(OWED) :] != OWED or kinds[: -len(OWED)].strip(_BEFORE):
        return b""
    bind, describe = starts[-4], starts[-3]
    of_portal = burst[describe + codes.HEADER] == ord("P")
    return burst[bind:] if of_portal and _formats(burst[bind:describe]) <= 1 else b""


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

"""What clients and servers have in common: a transport, and the brakes on reading from it.

Peers are asyncio protocols by shape (`data_received`, `pause_writing`, ...) without importing
asyncio: unit tests hand them a fake transport.

Back pressure has one place: reading from a peer is paused while any reason bit is set. Nobody
else pauses a transport.
"""

from typing import Any, Final, Protocol

PEER_FULL: Final = 1
"""What was read cannot be written on: the other side's buffer is over its limit."""
HELD_FULL: Final = 2
"""The client has no server yet, and what it sent meanwhile is over `HOLD_LIMIT`."""
OWN_FULL: Final = 4
"""The client does not read its answers, so it is to ask for no more."""
NAMES_FULL: Final = 8
"""Many of its messages that only we have to do with wait for answers to others."""

MOVING: Final = 16
"""The client is on its way to another process, which reads what it sends."""

HOLD_LIMIT: Final = 65_536
"""Bytes of a client kept while it has no server. A message that fits is also awaited whole
before a server is claimed for it, so that a slow sender costs nobody a server."""

WRITE_HIGH: Final = 65_536
"""Bytes waiting to be written to a peer above which reading from its other side is paused."""


Edit = tuple[int, int, bytes]
"""A change of a chunk: what comes instead of the bytes from start to end."""


def edited(data: bytes, edits: list[Edit]) -> bytes:
    """Return a chunk with its changes made, in the order in which they stand; empties the list."""
    if len(edits) == 1:
        start, end, instead = edits.pop()
        return instead + data[end:] if not start else data[:start] + instead + data[end:]
    parts: list[bytes] = []
    done = 0
    for start, end, instead in edits:
        parts.append(data[done:start])
        parts.append(instead)
        done = end
    parts.append(data[done:])
    edits.clear()
    return b"".join(parts)


class Transport(Protocol):
    """The part of `asyncio.Transport` that a peer needs."""

    def write(self, data: bytes) -> None:
        """Send, or keep until it can be sent."""

    def write_eof(self) -> None:
        """Send what was written, then that there is no more."""

    def close(self) -> None:
        """Close once everything written is sent."""

    def abort(self) -> None:
        """Close at once."""

    def pause_reading(self) -> None:
        """Call `data_received` no more."""

    def resume_reading(self) -> None:
        """Call `data_received` again."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the transport knows of itself, such as "peername"."""

    def is_closing(self) -> bool:
        """Return whether it is closed or on the way."""


class Peer:
    """One end of a connection that goes through us."""

    __slots__ = (
        "braked",
        "full",
        "name",
        "transport",
    )

    def __init__(self, transport: Transport, name: str) -> None:
        # for ever
        self.transport = transport
        self.name = name  # the peer's address, for people
        # reading
        self.braked = 0  # reason bits
        # writing
        self.full = False  # the transport asked for a pause

    def brake(self, reason: int) -> None:
        """Stop reading from this peer, for one reason more."""
        if not self.braked:
            self.transport.pause_reading()
        self.braked |= reason

    def unbrake(self, reason: int) -> None:
        """Take a reason away; read again when it was the last."""
        if self.braked & reason:
            self.braked &= ~reason
            if not self.braked and not self.transport.is_closing():
                self.transport.resume_reading()

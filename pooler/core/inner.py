"""A client of our own within this process, and its transport: what it would be told is taken here.

A client of our own goes through its pool as any other does, so that limits, waiting, back-off,
reloads and TLS are the pool's and need no second way.
"""

from typing import TYPE_CHECKING, Any, Final

from pooler.core.client import Client
from pooler.core.errors import CloseReason
from pooler.core.session import NONE
from pooler.core.settings import SessionSettings
from pooler.wire import codes, parse

if TYPE_CHECKING:
    from pooler.core.pool import Pool

MESSAGE_LIMIT: Final = 65_536
"""Bytes of a message that is read whole. What we ask for is small."""


class Inner:
    """Cuts what is written to it into messages; subclasses `take` them, and hear of the end."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._closed = False
        self._client: Client | None = None  # to be forgotten by who hears of its end
        self._error = ""  # the last one

    def join(self, pool: "Pool", name: str, limits: SessionSettings, question: bytes = b"") -> None:
        """Have a client of the pool's, and ask the first question."""
        client = Client(
            self, name, pool, 0, pool.database, pool.user, limits, 0, NONE, (), pool.edge.now()
        )
        self._client = client
        client.data_received(question)
        pool.enter(client)

    def _broken(self, text: str) -> None:
        """Give up on what a server says."""
        self._error = text
        if self._client is not None:
            self._client.close(CloseReason.PROTOCOL_VIOLATION)

    def take(self, kind: int, body: bytes) -> None:
        """Read one message."""
        raise NotImplementedError

    def ended(self) -> None:
        """The client was closed."""
        raise NotImplementedError

    # -- as a transport

    def write(self, data: bytes) -> None:
        """Read what comes, as far as it is whole."""
        received = self._received
        received += data
        while len(received) >= codes.HEADER and not self._closed:
            size = int.from_bytes(received[1:5], "big") + 1
            if size > MESSAGE_LIMIT:
                self._broken("a message is too long")
                return
            if len(received) < size:
                return
            kind, body = received[0], bytes(received[codes.HEADER : size])
            del received[:size]
            try:
                self.take(kind, body)
            except (parse.Malformed, ValueError, IndexError) as bad:  # no answer to what we ask
                self._broken(f"a strange answer: {bad}")

    def close(self) -> None:
        """End, once."""
        if not self._closed:
            self._closed = True
            self.ended()

    def abort(self) -> None:
        """As `close`."""
        self.close()

    def write_eof(self) -> None:
        """Nothing is waiting for it."""

    def pause_reading(self) -> None:
        """There is nothing to pause."""

    def resume_reading(self) -> None:
        """As `pause_reading`."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what was to be returned if nothing is known: nothing is."""
        return default

    def is_closing(self) -> bool:
        """Return whether it has ended."""
        return self._closed

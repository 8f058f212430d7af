"""A dialogue (`logins`) over bytes as they come: cuts them into answers, gathers what is said.

What bytes cannot answer is for the driver. Knows no transport, and writes nothing: `said` is to be
written whenever the conversation pauses, in one piece.
"""

from typing import Any, Final, Generic, TypeVar

from pooler.wire import codes
from pooler.wire.logins import Asked, Dialogue, LoginFailed, Taken

_T = TypeVar("_T")

BUFFER_LIMIT: Final = 131_072
"""Bytes received ahead of the dialogue: more than any one answer, so beyond it nobody is honest."""


class Over(Generic[_T]):
    """The end: the dialogue's result, and the bytes that came behind its last message."""

    def __init__(self, result: _T, rest: bytes) -> None:
        self.result = result
        self.rest = rest


class Conversation(Generic[_T]):
    """One dialogue, from `answer(None)` until `Over` is returned, something raised, or `close`.

    Each step returns what is asked of the driver, None while more bytes have to come; it raises
    what the dialogue does.
    """

    def __init__(self, dialogue: Dialogue[_T]) -> None:
        self._dialogue = dialogue
        self._request: Taken | None = None
        self._received = b""
        self.said = b""
        """To be written, and emptied, by the driver."""

    def answer(self, answer: Any) -> Asked | Over[_T] | None:
        """Answer what was asked."""
        while True:
            try:
                step = self._dialogue.send(answer)
            except StopIteration as end:
                return Over(end.value, self._received)
            if isinstance(step, bytes):
                self.said += step
                answer = None
            elif isinstance(step, Taken):
                taken = step.take(self._received)
                if taken is None:
                    self._request = step
                    return None
                answer, size = taken
                self._received = self._received[size:]
            else:
                return step

    def receive(self, data: bytes) -> Asked | Over[_T] | None:
        """Take bytes; those that nobody has asked for yet are kept."""
        received = self._received = self._received + data if self._received else data
        request = self._request
        if request is not None:
            taken = request.take(received)
            if taken is not None:
                self._request = None
                answer, size = taken
                self._received = received[size:]
                return self.answer(answer)
        if len(received) > BUFFER_LIMIT:
            raise LoginFailed(codes.PROTOCOL_VIOLATION, "too much data before the end of the login")
        return None

    def received(self) -> bytes:
        """Take back what has come and is no answer: it is part of a TLS handshake."""
        received, self._received = self._received, b""
        return received

    def close(self) -> None:
        """End it early."""
        self._request = None
        self._received = b""
        self._dialogue.close()

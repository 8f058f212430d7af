"""Drives login dialogues in memory: against bytes, or one against the other."""

from collections.abc import Callable
from itertools import count
from typing import Any

from pooler.wire.logins import Account, Dialogue, Find, Login, Secured, StartTls, Taken

KEY = b"the key that mock salts hang on"

Who = Callable[[Find], Account]


def counting() -> Callable[[int], bytes]:
    """Return a random source for tests: every call differs, every run is the same."""
    calls = count(1)
    return lambda size: bytes([next(calls) % 256]) * size


class Side:
    """One dialogue with its buffers; `run` goes on as far as the bytes received allow."""

    def __init__(
        self, dialogue: Dialogue[Any], who: Who | None = None, secured: Secured | None = None
    ) -> None:
        self.dialogue = dialogue
        self.who = who
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.asked: list[Find] = []
        self.secured = secured
        self.started: list[StartTls] = []
        self.result: Any = None
        self.error: Exception | None = None
        self.done = False
        self._step(None)

    def _step(self, answer: object) -> None:
        try:
            self.request = self.dialogue.send(answer)
        except StopIteration as end:
            self.result, self.done = end.value, True
            if isinstance(end.value, Login):
                self.outbox += end.value.said
        except Exception as error:
            self.error, self.done = error, True

    def feed(self, data: bytes) -> None:
        """Receive bytes and go on."""
        self.inbox += data
        self.run()

    def run(self) -> None:
        """Go on until the dialogue is over or needs bytes that have not come."""
        while not self.done:
            request = self.request
            if isinstance(request, bytes):
                self.outbox += request
                self._step(None)
            elif isinstance(request, Find):
                self.asked.append(request)
                assert self.who is not None
                self._step(self.who(request))
            elif isinstance(request, StartTls):
                self.started.append(request)
                if request.direct:
                    self.inbox.clear()  # the handshake takes it
                self._step(self.secured)
            else:
                assert isinstance(request, Taken)
                try:
                    taken = request.take(bytes(self.inbox))
                except Exception as error:
                    self.dialogue.close()
                    self.error, self.done = error, True
                    return
                if taken is None:
                    return
                del self.inbox[: taken[1]]
                self._step(taken[0])

    def said(self) -> bytes:
        """Take what was written so far."""
        self.run()
        data = bytes(self.outbox)
        self.outbox.clear()
        return data

    def outcome(self) -> Any:
        """Return the result, or raise the error; the dialogue has to be over."""
        self.run()
        assert self.done, f"still waiting: {self.request!r}"
        if self.error is not None:
            raise self.error
        return self.result


def converse(one: Side, other: Side, size: int = 1 << 20) -> None:
    """Carry bytes between two dialogues, `size` at a time, until nothing moves any more."""
    moved = True
    while moved:
        moved = False
        for source, sink in ((one, other), (other, one)):
            data = source.said()
            moved = moved or bool(data)
            for at in range(0, len(data), size):
                sink.feed(data[at : at + size])

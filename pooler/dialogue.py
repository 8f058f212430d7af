"""Runs a login dialogue (`pooler.wire.logins`) on a connection, as its asyncio protocol.

Cuts what comes into the answers that the dialogue asks for. Subclasses say what becomes of its
end, and answer `Find`.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, Generic, TypeVar, cast

from pooler.tls import Done, TlsLink
from pooler.wire.logins import (
    Account,
    Check,
    Dialogue,
    Find,
    LoginFailed,
    Refused,
    Secured,
    StartTls,
    Taken,
)

T = TypeVar("T")

BUFFER_LIMIT: Final = 131_072
"""Bytes received ahead of the dialogue above which reading is paused."""


class DialogueProtocol(asyncio.Protocol, Generic[T]):
    """A connection during its login."""

    transport: asyncio.Transport

    def __init__(self, dialogue: Dialogue[T]) -> None:
        self._dialogue: Dialogue[T] = dialogue
        self._buffer = bytearray()
        self._request: Taken | None = None
        self._task: asyncio.Task[None] | None = None  # looks for an answer
        self._over = False

    # -- for subclasses

    def find(self, request: Find) -> Account | Awaitable[Account]:
        """Return, perhaps later, who wants to log in, and how they must prove it."""
        raise NotImplementedError

    def succeeded(self, result: T, rest: bytes) -> None:
        """Take the dialogue's result, and the bytes that came behind its last message."""
        raise NotImplementedError

    def failed(self, error: LoginFailed | Refused) -> None:
        """Take why the dialogue failed."""
        raise NotImplementedError

    def link(self, done: Done) -> TlsLink:
        """Return what is to encrypt the connection from here on."""
        raise NotImplementedError

    def binding(self, link: TlsLink) -> bytes:
        """Return what SCRAM is to be bound to."""
        raise NotImplementedError

    def handshake_failed(self, error: OSError) -> None:
        """Take why the connection could not be encrypted; it is being closed."""
        raise NotImplementedError

    def cut_off(self, error: BaseException | None) -> None:
        """The connection ended before the dialogue did."""
        raise NotImplementedError

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by type
        self._step(None)

    def data_received(self, data: bytes) -> None:
        """Answer the dialogue as far as `data` goes."""
        if self._over:
            return
        self._buffer += data
        self._feed()

    def _feed(self) -> None:
        while self._request is not None:
            try:
                taken = self._request.take(self._buffer)
            except LoginFailed as error:
                self.stop()
                self.failed(error)
                return
            if taken is None:
                break
            answer, size = taken
            del self._buffer[:size]
            self._request = None
            self._step(answer)
        if len(self._buffer) > BUFFER_LIMIT:  # more than any one answer: it cannot be honest
            self.stop()
            self.failed(LoginFailed("08P01", "too much data before the end of the login"))

    def connection_lost(self, error: BaseException | None) -> None:
        """Close the dialogue, if it is still open."""
        if not self._over:
            self.stop()
            self.cut_off(error)

    # -- the dialogue

    def stop(self) -> None:
        """End the dialogue; nothing more will be heard of it."""
        self._over = True
        self._request = None
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._dialogue.close()

    def _start_tls(self) -> None:
        received = bytes(self._buffer)
        self._buffer.clear()
        link = self.link(self._handshake_over)
        self.transport = cast(asyncio.Transport, link)  # by shape
        link.start(received)

    def _handshake_over(self, error: OSError | None) -> None:
        if self._over:
            return
        if error is not None:
            self.stop()
            self.handshake_failed(error)
            return
        link = cast(TlsLink, self.transport)
        assert link.info is not None
        self._step(Secured(self.binding(link), link.alpn, link.info.verified))
        self._feed()

    async def _await(self, answer: Awaitable[Any]) -> None:
        """Go on with the dialogue when the answer is there."""
        try:
            result = await answer
        except LoginFailed as error:
            self.stop()
            self.failed(error)
            return
        if not self._over:
            self._step(result)
            self._feed()

    def _step(self, answer: Any) -> None:
        while True:
            try:
                step = self._dialogue.send(answer)
            except StopIteration as done:
                self._over = True
                rest = bytes(self._buffer)
                self._buffer.clear()
                self.succeeded(done.value, rest)
                return
            except (LoginFailed, Refused) as error:
                self._over = True
                self.failed(error)
                return
            if isinstance(step, bytes):
                self.transport.write(step)
                answer = None
            elif isinstance(step, Find):
                try:
                    found = self.find(step)
                except LoginFailed as error:
                    self.stop()
                    self.failed(error)
                    return
                if not isinstance(found, Account):
                    self._task = asyncio.get_running_loop().create_task(self._await(found))
                    return
                answer = found
            elif isinstance(step, Check):
                asking = self._await(step.ask(step.password))
                self._task = asyncio.get_running_loop().create_task(asking)
                return
            elif isinstance(step, StartTls):
                self._start_tls()
                return
            else:
                self._request = step
                return

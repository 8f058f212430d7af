"""Runs a login dialogue (`pooler.wire.logins`) on a connection, as its asyncio protocol by shape.

Subclasses say what dialogue it is and what becomes of its end, and answer `Find`.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, Generic, TypeVar, cast

from pooler.tls import Done, TlsLink
from pooler.wire.conversation import Conversation, Over
from pooler.wire.logins import (
    Account,
    Asked,
    Check,
    Dialogue,
    Find,
    LoginFailed,
    Refused,
    Secured,
)

T = TypeVar("T")


class DialogueProtocol(Generic[T]):
    """A connection during its login; `begin` is for `connection_made`."""

    transport: asyncio.Transport
    _conversation: Conversation[T]

    def __init__(self) -> None:
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

    def begin(self, transport: asyncio.BaseTransport, dialogue: Dialogue[T]) -> None:
        """Begin the dialogue."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by type
        self._conversation = Conversation(dialogue)
        self._answer(None)

    def data_received(self, data: bytes) -> None:
        """Answer the dialogue as far as `data` goes."""
        if not self._over:
            try:
                asked = self._conversation.receive(data)
            except (LoginFailed, Refused) as error:
                self._fail(error)
                return
            self._go_on(asked)

    def connection_lost(self, error: BaseException | None) -> None:
        """Close the dialogue, if it is still open."""
        if not self._over:
            self.stop()
            self.cut_off(error)

    def eof_received(self) -> bool:
        """Who says no more is gone."""
        return False

    def pause_writing(self) -> None:
        """Go on: what is said in a login is little."""

    def resume_writing(self) -> None:
        """Go on."""

    # -- the dialogue

    def stop(self) -> None:
        """End the dialogue; nothing more will be heard of it."""
        self._over = True
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self._conversation.close()

    def _answer(self, answer: Any) -> None:
        """Answer what the dialogue has asked for."""
        try:
            asked = self._conversation.answer(answer)
        except (LoginFailed, Refused) as error:
            self._fail(error)
            return
        self._go_on(asked)

    def _fail(self, error: LoginFailed | Refused) -> None:
        self._say()
        self.stop()
        self.failed(error)

    def _go_on(self, asked: Asked | Over[T] | None) -> None:
        """Do what the dialogue asks for."""
        if not isinstance(asked, Find):
            self._say()
            if isinstance(asked, Over):
                self._over = True
                self.succeeded(asked.result, asked.rest)
            elif isinstance(asked, Check):
                self._later(asked.ask(asked.password))
            elif asked is not None:
                self._start_tls()
            return
        try:
            found = self.find(asked)
        except LoginFailed as error:
            self._fail(error)
            return
        if isinstance(found, Account):
            self._answer(found)
        else:
            self._say()
            self._later(found)

    def _say(self) -> None:
        conversation = self._conversation
        said = conversation.said
        if said:
            conversation.said = b""
            self.transport.write(said)

    def _later(self, answer: Awaitable[Any]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._await(answer))

    async def _await(self, answer: Awaitable[Any]) -> None:
        """Go on with the dialogue when the answer is there."""
        try:
            result = await answer
        except LoginFailed as error:
            self.stop()
            self.failed(error)
            return
        if not self._over:
            self._answer(result)

    def _start_tls(self) -> None:
        received = self._conversation.received()
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
        secured = Secured(self.binding(link), link.alpn, link.info.verified)
        self._answer(secured)

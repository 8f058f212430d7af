"""Messages and open files between two processes of ours, over a unix stream socket.

A message is a JSON array, `[name, argument, ...]`, behind its length and the number of files that
come with it. A call is a message whose answer is awaited; answers may come in any order. The other
process is ours but may be of another version: what it asks for and we do not know is refused, and
nothing it sends is executed or unpickled.
"""

import asyncio
import contextlib
import inspect
import itertools
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from pooler.core.errors import PoolerError
from pooler.wire import codes

MESSAGE_LIMIT: Final = 67_108_864
"""Bytes of one message: a view of 100,000 clients is about 30 MB."""
UNSENT_LIMIT: Final = 2 * MESSAGE_LIMIT
"""Bytes that wait to be sent above which the other process is taken for dead."""
FILES_LIMIT: Final = 64
"""Open files that come with one message."""
CALL_TIMEOUT: Final = 10.0
"""Seconds after which an answer is not waited for any longer."""

_HEAD: Final = struct.Struct("!IB")
_CHUNK: Final = 262_144
_ANSWER: Final = "="
_FAILURE: Final = "!"
_NEVER_MIND: Final = "~"
"""Whoever called does not wait for the answer any longer: what answers it is cancelled."""

Handler = Callable[..., Any]
"""Takes a message's arguments, and `files` if some came with it; what it returns, or what the
awaitable that it returns gives, answers a call."""


class ChannelLost(ConnectionError):
    """The other process has gone, or cannot be understood."""


class Channel:
    """One end."""

    def __init__(
        self, sock: socket.socket, handlers: Mapping[str, Handler], lost: Callable[[], None]
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._handlers = handlers
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._files: deque[int] = deque()
        self._reading_on = False
        self._unsent: deque[tuple[bytes, Sequence[int]]] = deque()
        self._unsent_size = 0
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._tasks: dict[asyncio.Task[None], int] = {}  # with the number of what each answers
        self.closed = False
        self._loop.add_reader(sock, self._read)

    # -- out

    def tell(self, name: str, *arguments: Any, files: Sequence[int] = ()) -> None:
        """Send a message that is not answered; nothing happens if the other end has gone.

        The files are sent before this returns or are duplicated: the caller may close its own.
        """
        self._send([0, name, *arguments], files)

    async def call(
        self,
        name: str,
        *arguments: Any,
        files: Sequence[int] = (),
        within: float | None = CALL_TIMEOUT,
    ) -> Any:
        """Send a message and return its answer, which must come `within` so many seconds.

        PoolerError is what the other process raised; ChannelLost, TimeoutError: there is none.
        """
        if self.closed:
            raise ChannelLost("the other process has gone")
        number = next(self._numbers)
        future = self._calls[number] = self._loop.create_future()
        try:
            self._send([number, name, *arguments], files)
            async with asyncio.timeout(within):
                return await future
        finally:
            if self._calls.pop(number, None) is not None:
                self._send([number, _NEVER_MIND])

    def _send(self, message: list[Any], files: Sequence[int] = ()) -> None:
        if self.closed:
            return
        body = json.dumps(message, separators=(",", ":")).encode()
        if len(body) > MESSAGE_LIMIT or len(files) > FILES_LIMIT:
            raise ValueError("a message beyond its limits")
        data = _HEAD.pack(len(body), len(files)) + body
        idle = not self._unsent
        self._unsent.append((data, [os.dup(file) for file in files] if files else ()))
        self._unsent_size += len(data)
        if self._unsent_size > UNSENT_LIMIT:
            self._fail()
        elif idle:
            self._write()

    def _write(self) -> None:
        while self._unsent:
            data, files = self._unsent.popleft()
            try:
                sent = (
                    socket.send_fds(self._sock, [data], list(files))
                    if files
                    else self._sock.send(data)
                )
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:  # it has gone: what it said last is still to be read, and then its end
                _close(files)
                for _, left in self._unsent:
                    _close(left)
                self._unsent.clear()
                break
            self._unsent_size -= sent
            if sent:
                _close(files)
                files = ()
            if sent < len(data):
                self._unsent.appendleft((data[sent:], files))
                self._loop.add_writer(self._sock, self._write)
                return
        self._loop.remove_writer(self._sock)

    # -- in

    def _read_on(self) -> None:
        """Read until nothing is left, in turns with others.

        When the other end was closed with something unread, libuv stops to look at ours: its end
        comes behind what it said last, and nobody would tell us.
        """
        self._reading_on = False
        if not self.closed:
            self._read()

    def _read(self) -> None:
        try:
            data, files, _, _ = socket.recv_fds(
                self._sock, _CHUNK, FILES_LIMIT, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._fail()
            return
        self._files.extend(files)
        if not data:
            self._fail()
            return
        if not self._reading_on:
            self._reading_on = True
            self._loop.call_soon(self._read_on)
        self._received += data
        at = 0
        received = self._received
        while len(received) - at >= _HEAD.size and not self.closed:
            size, count = _HEAD.unpack_from(received, at)
            end = at + _HEAD.size + size
            if size > MESSAGE_LIMIT or count > FILES_LIMIT:
                self._fail()
                return
            if len(received) < end:
                break
            body = bytes(received[at + _HEAD.size : end])
            at = end
            try:
                if len(self._files) < count:
                    raise ValueError("a file is missing")
                number, name, *arguments = json.loads(body)
                came = [self._files.popleft() for _ in range(count)]
                self._take(number, name, arguments, came)
            except (ValueError, TypeError, KeyError):
                self._fail()
                return
        del received[:at]

    def _take(self, number: int, name: str, arguments: list[Any], files: list[int]) -> None:
        if name in (_ANSWER, _FAILURE):
            future = self._calls.pop(number, None)
            if future is not None and not future.done():
                if name == _ANSWER:
                    future.set_result(arguments[0])
                else:
                    future.set_exception(PoolerError(*arguments))
            return
        if name == _NEVER_MIND:
            for task, answered in self._tasks.items():
                if answered == number:
                    task.cancel()
            return
        handler = self._handlers.get(name)
        try:
            if handler is None:
                _close(files)
                raise PoolerError(
                    codes.FEATURE_NOT_SUPPORTED,
                    f'the other process does not know "{name}"',
                    hint="It may be of another version.",
                )
            result = handler(*arguments, files=files) if files else handler(*arguments)
        except PoolerError as error:
            self._answer_failure(number, error)
            return
        if inspect.isawaitable(result):
            task = self._loop.create_task(self._await(number, result))
            self._tasks[task] = number
            task.add_done_callback(self._tasks.pop)
        elif number:
            self._send([number, _ANSWER, result])

    async def _await(self, number: int, awaitable: Awaitable[Any]) -> None:
        try:
            result = await awaitable
        except PoolerError as error:
            self._answer_failure(number, error)
        except (ChannelLost, TimeoutError) as error:
            self._answer_failure(number, PoolerError(codes.CONNECTION_FAILURE, str(error)))
        else:
            if number:
                self._send([number, _ANSWER, result])

    def _answer_failure(self, number: int, error: PoolerError) -> None:
        if number:
            failure = [error.sqlstate, error.text, error.detail, error.hint]
            self._send([number, _FAILURE, *failure])

    # -- the end

    def close(self) -> None:
        """Close this end; what was not sent is not sent."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for _, files in self._unsent:
            _close(files)
        self._unsent.clear()
        _close(self._files)
        self._files.clear()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(ChannelLost("the other process has gone"))
        for task in self._tasks:
            task.cancel()

    def _fail(self) -> None:
        if not self.closed:
            self.close()
            self._lost()


def _close(files: Sequence[int] | deque[int]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            os.close(file)

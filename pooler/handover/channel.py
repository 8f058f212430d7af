"""What two processes say to each other in an upgrade: messages with file descriptors.

A message is a JSON object; its "is" says what it is. On the wire: the length of the JSON and the
number of descriptors, both 32 bits in network order, then the JSON in ASCII. The descriptors come
with the first of these bytes (SCM_RIGHTS). `FORMAT` is raised when a message changes its meaning.

Whoever is at the other end has our uid, or the channel is not opened. That it is no stranger is no
reason to trust it with our memory: lengths have bounds, and what is no message ends the channel.
"""

import array
import asyncio
import contextlib
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

Message = dict[str, Any]

FORMAT: Final = 1
LIMIT: Final = 1 << 26
"""Bytes of a message: a client's longest prepared statement, with every byte escaped, is a tenth."""
FDS: Final = 64
"""Descriptors with one message: listening sockets. The kernel's own limit is 253."""
UNSENT: Final = 1 << 28
"""Bytes kept for an end that does not read; beyond that, it is not alive."""

_HEADER: Final = struct.Struct("!II")
_CHUNK: Final = 1 << 18
_CREDENTIALS: Final = struct.Struct("3i")


class Broken(Exception):
    """The other end is not what it should be, or gone; the text says how."""


def peer(sock: socket.socket) -> tuple[int, int]:
    """Return the pid and the uid of the process that opened the other end."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


class Channel:
    """One end. `received` hears each message with its descriptors, which are its own to close.

    `lost` hears once why there is no more. What was sent before the other end closed is heard.
    """

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[Message, list[int]], None],
        lost: Callable[[str], None],
    ) -> None:
        _, uid = peer(sock)
        if uid != os.getuid():
            raise Broken(f"the process at the other end belongs to user {uid}")
        sock.setblocking(False)
        self._sock = sock
        self._received = received
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._fds: deque[int] = deque()
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._unsent_size = 0
        self._open = True
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send a message; the descriptors have to stay open until it has been answered."""
        if not self._open:
            return
        body = json.dumps(message, separators=(",", ":")).encode("ascii")
        if len(body) > LIMIT:
            raise ValueError(f"a message of {len(body)} bytes")
        self._unsent.append((_HEADER.pack(len(body), len(fds)) + body, list(fds)))
        self._unsent_size += len(body)
        if len(self._unsent) == 1:
            self._writable()
        if self._unsent_size > UNSENT:
            self._end("it does not read what it is sent")

    def close(self) -> None:
        """Close, unheard."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            for fd in self._fds:
                os.close(fd)
            self._fds.clear()
            self._unsent.clear()

    def _end(self, why: str) -> None:
        if self._open:
            self.close()
            self._loop.call_soon(self._lost, why)

    def _writable(self) -> None:
        while self._unsent:
            data, fds = self._unsent[0]
            try:
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                sent = self._sock.sendmsg([data], ancillary if fds else [])
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._sock.fileno(), self._writable)
                return
            except OSError:
                # What the other end has said before it went is still to be read: `_readable` ends.
                self._unsent.clear()
                break
            if sent == len(data):
                self._unsent.popleft()
                self._unsent_size -= len(data) - _HEADER.size
            else:
                self._unsent_size -= sent
                self._unsent[0] = (data[sent:], [])
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                _CHUNK, socket.CMSG_SPACE(FDS * 4), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(f"connection lost: {error}")
            return
        for level, kind, raw in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
                self._fds.extend(fds)
        if flags & socket.MSG_CTRUNC:
            self._end("a descriptor was lost: too many open files")
            return
        if not data:
            self._end("it has ended")
            return
        self._buffer += data
        try:
            self._cut()
        except Broken as broken:
            self._end(str(broken))

    def _cut(self) -> None:
        buffer = self._buffer
        while self._open and len(buffer) >= _HEADER.size:
            size, count = _HEADER.unpack_from(buffer)
            if size > LIMIT or count > FDS:
                raise Broken("what it says is no message")
            end = _HEADER.size + size
            if len(buffer) < end:
                return
            body = bytes(buffer[_HEADER.size : end])
            del buffer[:end]
            if count > len(self._fds):
                raise Broken("a descriptor is missing")
            fds = [self._fds.popleft() for _ in range(count)]
            try:
                message = json.loads(body)
                if not isinstance(message, dict) or not isinstance(message.get("is"), str):
                    raise ValueError("no object")
            except ValueError:
                close_all(fds)
                raise Broken("what it says is no message") from None
            self._received(message, fds)


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that nobody took."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)

"""How an upgrade is asked for, and its outcome told: a unix socket for the same user only.

One line of JSON each way: `{"do": "upgrade"}`, and `{"ok": ..., "message": ...}` when the new
process serves or has failed. `pooler upgrade` is the other end.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

from pooler.core.errors import PoolerError
from pooler.sockets import unix_socket_at

if TYPE_CHECKING:
    from pooler.service import Service

KIND: Final = "control"
"""The kind of its listening socket, in an upgrade."""

MODE: Final = 0o600
PATIENCE: Final = 5.0
"""Seconds in which whoever connects has to say what he wants."""
LINE: Final = 1_000
"""Bytes of it."""
ROOT: Final = 0
_CREDENTIALS: Final = struct.Struct("3i")


class Control:
    """The end of the running pooler."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._sock: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._path = ""

    @property
    def path(self) -> str:
        """Where it listens, "" where it does not."""
        return self._path

    @property
    def sockets(self) -> list[socket.socket]:
        """What it listens on."""
        return [] if self._sock is None else [self._sock]

    async def open(self, path: str) -> None:
        """Listen there, on what the process before has left us if it has; OSError."""
        if path:
            given = self._service.upgrades.given(KIND, path, "")
            await self._listen(path, given[0] if given else unix_socket_at(path, MODE, ""))

    async def _listen(self, path: str, sock: socket.socket) -> None:
        self._path, self._sock = path, sock
        self._server = await asyncio.start_unix_server(self._answer, sock=sock, limit=LINE)

    def suspend(self) -> None:
        """Accept nobody; `resume` or another process goes on."""
        if self._sock is not None and self._server is not None:
            kept = self._sock.dup()
            self._server.close()
            self._sock, self._server = kept, None

    async def resume(self) -> None:
        """Accept again."""
        if self._sock is not None:
            await self._listen(self._path, self._sock)

    def close(self, *, unlink: bool) -> None:
        """Listen no more."""
        if self._sock is not None:
            if unlink:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)
            if self._server is not None:
                self._server.close()
            self._sock.close()
            self._sock = None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._do(reader, writer.get_extra_info("socket"))
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except OSError:
            pass  # it did not wait for the answer
        finally:
            writer.close()

    async def _do(self, reader: asyncio.StreamReader, sock: Any) -> dict[str, Any]:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(raw)[1] not in (os.getuid(), ROOT):
            return _failed("permission denied: another user's pooler")
        try:
            async with asyncio.timeout(PATIENCE):
                asked = json.loads(await reader.readline())
        except (ValueError, TimeoutError):
            asked = None
        if asked != {"do": "upgrade"}:
            return _failed("not understood")
        try:
            pid = await self._service.upgrades.start()
        except PoolerError as error:
            return _failed(error.text, error.detail)
        return {"ok": True, "message": f"process {pid} serves", "detail": ""}


def _failed(message: str, detail: str = "") -> dict[str, Any]:
    return {"ok": False, "message": message, "detail": detail}


def ask(path: str, timeout: float) -> tuple[bool, str]:
    """Ask the pooler that listens there for an upgrade; return whether it succeeded, and words.

    OSError: there is none, or it does not answer in so many seconds.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(path)
            sock.sendall(b'{"do": "upgrade"}\n')
            with sock.makefile("rb") as file:
                answer = json.loads(file.readline(LINE * 10) or b"null")
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), path) from error
        except ValueError:
            answer = None
    if not isinstance(answer, dict):
        return False, "the pooler has gone before it answered"
    words = str(answer.get("message"))
    if answer.get("detail"):
        words += f". {answer['detail']}"
    return answer.get("ok") is True, words

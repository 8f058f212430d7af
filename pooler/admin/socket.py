"""The unix socket of the console, for those who operate the pooler on its own machine.

It needs no configuration: `pooler ctl` finds it where it is by default, one for each process, in a
folder that only the pooler's user can enter.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from pooler import logs

AUTO: Final = "auto"
ROOT: Final = 0
_SUFFIX: Final = ".sock"
_LIVE_CHECK: Final = 1.0  # seconds to find out whether somebody still serves a socket


def _folders() -> list[Path]:
    """Where sockets of poolers can be by default: below systemd's folder, the user's, or /tmp.

    A pooler takes the first; who looks for one looks in all.
    """
    own = os.getuid()
    service = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    user = os.environ.get("XDG_RUNTIME_DIR")
    folders = [Path(service)] if service else []
    folders += [Path(user, f"pooler-{own}")] if user else []
    return [*folders, Path(tempfile.gettempdir(), f"pooler-{own}")]


def found() -> list[Path]:
    """The sockets of this user's poolers that are served, for root those of every user's.

    Sockets that were left behind are removed.
    """
    folders = [*_folders(), Path("/run/pooler")]
    if os.getuid() == ROOT:
        folders += Path(tempfile.gettempdir()).glob("pooler-*")
        folders += Path("/run/user").glob("*/pooler-*")
    sockets: list[Path] = []
    for folder in dict.fromkeys(folders):
        with contextlib.suppress(OSError):
            sockets += _served_in(_safe(folder))
    return sockets


def _served_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        if _is_served(path):
            yield path
        else:
            with contextlib.suppress(OSError):
                path.unlink()


class AdminSocket:
    """The socket of this process, open or not."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self._factory = factory
        self._wanted = ""
        self._server: asyncio.Server | None = None
        self.path = ""

    async def open(self, wanted: str) -> None:
        """Listen there, and nowhere else; OSError, and then all is as it was.

        Where it is `auto`, that it cannot be had is no reason not to serve.
        """
        if wanted == self._wanted:
            return
        path = ""
        server = None
        if wanted == AUTO:
            try:
                path, server = await self._serve(str(_own_path()))
            except OSError as error:
                logs.event(logging.WARNING, "no socket for the console", message=str(error))
        elif wanted:
            path, server = await self._serve(wanted)
        self.close()
        self._wanted, self.path, self._server = wanted, path, server

    async def _serve(self, path: str) -> tuple[str, asyncio.Server]:
        loop = asyncio.get_running_loop()
        return path, await loop.create_unix_server(self._factory, sock=_bound(path))

    def close(self) -> None:
        """Stop listening."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            with contextlib.suppress(OSError):
                os.unlink(self.path)
                if self._wanted == AUTO:
                    os.rmdir(os.path.dirname(self.path))  # unless there are others
        self._wanted = self.path = ""


def _own_path() -> Path:
    """Return where this process's socket goes; OSError: nowhere."""
    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for folder in _folders():
        try:
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            return _safe(folder) / f"{os.getpid()}{_SUFFIX}"
        except OSError as error:
            failure = error
    raise failure


def _bound(path: str) -> socket.socket:
    """Return a socket that nobody else can connect to; one that is not served is replaced."""
    if os.path.lexists(path):
        if not stat.S_ISSOCK(os.lstat(path).st_mode) or _is_served(Path(path)):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
        os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, error.strerror or str(error), path) from None
    finally:
        os.umask(before)
    sock.setblocking(False)
    return sock


def _safe(folder: Path) -> Path:
    """Return the folder; OSError: it is not there, or others could have put a socket in."""
    status = folder.lstat()
    owners = (os.getuid(), ROOT)
    foreign = status.st_uid not in owners and os.getuid() != ROOT
    if not stat.S_ISDIR(status.st_mode) or foreign or status.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "others can write to this folder", str(folder))
    return folder


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_LIVE_CHECK)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True

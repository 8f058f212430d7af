"""The old process's part of an upgrade: starts its successor, and gives it what it has.

Up to `serve` nothing has changed but that connections wait in the kernel for a moment; from then
on clients move one by one. If the successor goes, at any time, what it has not acknowledged is
taken back, and this process listens and serves again. What is given, and how, the `Estate` knows.
"""

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final, Protocol

import pooler
from pooler import logs
from pooler.channel import FILES_LIMIT, Channel, ChannelLost
from pooler.core.errors import PoolerError
from pooler.handover import FORMAT, VARIABLE, Kind
from pooler.notify import notify
from pooler.wire import codes

START_LIMIT: Final = 60.0
"""Seconds in which a successor has to be ready."""

LAST_WORDS: Final = 10.0
"""Seconds that a successor which does not serve has to end by itself."""

IDENT_GAP: Final = 100_000
"""Numbers left to this process for those who are logging in while it ends."""


class UpgradeFailed(PoolerError):
    """There is no successor; all is as before."""

    def __init__(self, text: str, detail: str = "") -> None:
        super().__init__(codes.OBJECT_NOT_IN_PREREQUISITE_STATE, text, detail)


class Estate(Protocol):
    """What a pooler has to give: one process, or several workers.

    A `source` is the number of one of its processes, which only it understands.
    """

    @property
    def stopping(self) -> bool:
        """Whether the pooler is to end."""

    def begin(self, giver: "Giver") -> None:
        """Be given by this giver."""

    async def offer(self) -> tuple[dict[str, Any], list[tuple[Kind, list[int]]]]:
        """Return what a successor needs to prepare: plain data, and descriptors that listen."""

    async def suspend(self) -> dict[str, Any]:
        """Accept nobody, share all places; return what a successor needs to serve."""

    async def resume(self) -> tuple[int, int]:
        """Be as before; return how many clients are lost, and how many were taken back."""

    async def leave(self) -> bool:
        """Move every client that can be, until there is nothing left to do here.

        False: the successor has gone (`lost`), or this pooler is stopping.
        """

    def lost(self) -> None:
        """The successor has gone."""

    def took(self, source: int, ident: int) -> None:
        """A client is the successor's."""

    def allot(self, source: int, name: list[str], limit: int, round_: int) -> None:
        """Go by what the budget allots."""

    def cancel(self, pid: int, secret: str) -> None:
        """Do what the successor was asked for, whose client it is not."""

    def hold(self, holds: list[list[Any]]) -> None:
        """Pause, or go on, as the successor has been told to."""

    def stop(self) -> None:
        """End, as the successor has been told to."""


class Giver:
    """One upgrade."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        estate.begin(self)
        self.moving = False  # the successor serves
        self.pid = 0
        self._process: subprocess.Popen[bytes]
        self._channel: Channel
        self._here = asyncio.Event()  # the successor has said hello
        self._lost = False
        self.suspended = False  # listens no more, and shares its places

    def tell(self, name: str, *arguments: Any, files: Sequence[int] = ()) -> None:
        """Tell the successor."""
        self._channel.tell(name, *arguments, files=files)

    # -- the successor

    async def start(self) -> int:
        """Start a successor; return its process id once it serves. UpgradeFailed: there is none."""
        self._launch()
        try:
            async with asyncio.timeout(START_LIMIT):
                await self._agree()
        except TimeoutError:
            await self._give_up()
            text = f"the new process was not ready within {START_LIMIT:.0f} s"
            raise UpgradeFailed(text) from None
        except ChannelLost:
            status = await self._give_up()
            text = f"the new process ended before it was ready, with status {status}"
            raise UpgradeFailed(text, "Its last lines in the log say why.") from None
        except PoolerError as error:  # it ends by itself, and says so in the log
            self._channel.close()
            self._lost = True
            await self._give_up()
            text = f"the new process could not take over: {error.text}"
            raise UpgradeFailed(text, error.detail) from error
        except BaseException:
            await self._give_up()
            raise
        self.moving = True
        notify(f"MAINPID={self.pid}")
        self._channel.tell("main")
        return self.pid

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                sys.orig_argv,
                executable=sys.executable,
                env={**os.environ, VARIABLE: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self.pid = self._process.pid
        estate = self.estate
        self._channel = Channel(
            ours,
            {
                "hello": self._hello,
                "took": estate.took,
                "allot": estate.allot,
                "cancel": estate.cancel,
                "hold": estate.hold,
                "stop": estate.stop,
            },
            self._gone,
        )

    def _hello(self, form: int, version: str) -> None:
        if form != FORMAT:
            raise PoolerError(
                codes.FEATURE_NOT_SUPPORTED,
                f"version {version} takes over in another format than version {pooler.__version__}",
                hint="Stop the one and start the other.",
            )
        self._here.set()

    def _gone(self) -> None:
        self._lost = True
        self._here.set()
        self.estate.lost()

    async def _agree(self) -> None:
        """Lead the successor to where it serves."""
        await self._here.wait()
        welcome, sockets = await self.estate.offer()
        for kind, files in sockets:
            for start in range(0, len(files), FILES_LIMIT):
                self._channel.tell("sockets", kind, files=files[start : start + FILES_LIMIT])
        welcome |= {"version": pooler.__version__, "pid": os.getpid()}
        await self._channel.call("prepare", welcome, within=None)
        self.suspended = True
        estate = await self.estate.suspend()
        await self._channel.call("serve", estate, within=None)

    async def _give_up(self) -> int:
        """Be rid of a successor that does not serve, and go on as before; return its status."""
        if not self._lost:
            self._process.kill()
        self._channel.close()
        status = await asyncio.to_thread(self._wait)
        if self.suspended:
            self.suspended = False
            await self.estate.resume()
        return status

    def _wait(self) -> int:
        """Wait for the end of a successor that has nothing left to do."""
        try:
            return self._process.wait(LAST_WORDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def cancel(self, pid: int, secret: bytes) -> None:
        """Ask the successor whether it holds this client."""
        self._channel.tell("cancel", pid, secret.hex())

    # -- the rest of this process's life

    async def leave(self) -> bool:
        """Have clients move, until nothing is left to do here.

        False: the successor has gone, and all is as before; or this process is stopping.
        """
        done = await self.estate.leave()
        if not done and not self.estate.stopping:
            await self._take_back()
        return done

    async def _take_back(self) -> None:
        """The successor has gone, and with it the clients that it had acknowledged."""
        self.moving = self.suspended = False
        self._process.kill()  # there must not be two
        status = await asyncio.to_thread(self._wait)
        lost, taken_back = await self.estate.resume()
        logs.event(
            logging.ERROR,
            "the new process has gone",
            pid=self.pid,
            status=status,
            lost=lost,
            taken_back=taken_back,
        )
        notify(f"MAINPID={os.getpid()}", "READY=1")

    def close(self) -> None:
        """Tell the successor that all places are its own now."""
        self._channel.tell("done")
        self._channel.close()


def left_behind() -> PoolerError:
    """Return what those are told who could not move in time."""
    return PoolerError(
        codes.ADMIN_SHUTDOWN,
        "terminating connection because a new process has replaced this one",
    )

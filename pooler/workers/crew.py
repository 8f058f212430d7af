"""The worker processes: started, told and asked, and started again when one has ended.

What a worker is given to serve with, what it may ask for, and what becomes of what it had is the
supervisor's affair.
"""

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from pooler import logs
from pooler.channel import CALL_TIMEOUT, Channel, ChannelLost, Handler
from pooler.core.errors import PoolerError
from pooler.wire import codes
from pooler.workers.census import Own

START_TIMEOUT: Final = 120.0
"""Seconds that a worker has to become ready."""

RESTARTS: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before a worker is started again that has ended soon, and so for the next times."""
SOON: Final = 30.0
"""Seconds within which a worker has ended soon."""


class StartFailed(Exception):
    """A worker ended before it served, or did not get there in time."""

    def __init__(self, number: int) -> None:
        super().__init__(f"worker {number} ended before it was ready, or was not ready in time")
        self.number = number


class Process:
    """A worker, seen from here."""

    def __init__(
        self, number: int, serial: int, process: asyncio.subprocess.Process, channel: Channel
    ) -> None:
        self.number = number
        self.serial = serial  # that no other process had: what it had is not its successor's
        self.process = process
        self.channel = channel
        self.started_at = time.monotonic()
        self.here = asyncio.Event()  # it waits for its orders
        self.introduced = False  # it knows what is to be known before clients come
        self.ready = asyncio.Event()
        self.clients: Own = Counter()

    def __repr__(self) -> str:
        """Show number and process."""
        return f"<worker {self.number} pid {self.process.pid}>"


class Crew:
    """All workers of a pooler."""

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        handlers: Callable[[int, int], dict[str, Handler]],
        equip: Callable[[Process], Awaitable[None]],
        ended: Callable[[Process, bool], None],
        may_end: Callable[[], bool],
    ) -> None:
        """`command` starts a worker: its arguments are followed by its number and a file.

        `handlers` answer a worker, by number and serial; `equip` gives it what it serves with;
        `ended` hears that it has, and whether in order, as it does when it `may_end`.
        """
        self._command = command
        self.count = count
        self._handlers = handlers
        self._equip = equip
        self._ended = ended
        self._may_end = may_end
        self.workers: dict[int, Process] = {}
        self._serial = 0
        self._keepers: list[asyncio.Task[None]] = []
        self._failures = [0] * count  # ends in a row that came soon
        self._may_restart = asyncio.Event()
        self._may_restart.set()

    # -- life

    async def spawn_all(self) -> list[Process]:
        """Start all workers; StartFailed."""
        return await asyncio.gather(*(self._spawn(number) for number in range(self.count)))

    async def _spawn(self, number: int) -> Process:
        """Start a worker and wait until it knows what it needs to serve; StartFailed."""
        near, far = socket.socketpair()
        with far:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                f"{number}/{self.count}",
                str(far.fileno()),
                pass_fds=[far.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
            )
        self._serial += 1
        handlers: dict[str, Handler] = {
            "here": lambda: self.workers[number].here.set(),
            "ready": lambda pid: self.workers[number].ready.set(),
            **self._handlers(number, self._serial),
        }
        channel = Channel(near, handlers, lambda: None)  # its process has ended, or is about to
        worker = self.workers[number] = Process(number, self._serial, process, channel)
        await self._until(worker, worker.here)
        return worker

    async def set_going(self, worker: Process) -> None:
        """Have a worker serve; StartFailed."""
        await self._equip(worker)
        worker.introduced = True
        await self._until(worker, worker.ready)

    async def _until(self, worker: Process, event: asyncio.Event) -> None:
        """Wait for it; StartFailed: the worker has ended, or took too long."""
        ended = asyncio.create_task(worker.process.wait())
        happened = asyncio.create_task(event.wait())
        await asyncio.wait(
            {ended, happened}, timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED
        )
        happened.cancel()
        if not event.is_set():
            if worker.process.returncode is None:
                worker.process.kill()
            await ended
            self._lost(worker, in_order=False)
            raise StartFailed(worker.number)
        ended.cancel()

    def keep(self) -> None:
        """Start a worker again whenever it has ended, from now on."""
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep(number)) for number in range(self.count)]

    async def _keep(self, number: int) -> None:
        while True:
            worker = self.workers.get(number)
            if worker is not None:
                status = await worker.process.wait()
                self._lost(worker, in_order=not status)
                if self._may_end() and not status:  # it has done what it had to
                    await self._may_restart.wait()
                    continue
                lived = time.monotonic() - worker.started_at
                self._failures[number] = self._failures[number] + 1 if lived < SOON else 0
                logs.event(
                    logging.ERROR,
                    "worker ended",
                    worker=number,
                    pid=worker.process.pid,
                    status=status,
                    seconds=round(lived, 3),
                )
            await self._may_restart.wait()
            await asyncio.sleep(RESTARTS[min(self._failures[number], len(RESTARTS) - 1)])
            try:
                await self.set_going(await self._spawn(number))
            except (StartFailed, OSError) as error:
                self._failures[number] += 1
                logs.event(logging.ERROR, "worker did not start", worker=number, message=str(error))
            else:
                pid = self.workers[number].process.pid
                logs.event(logging.WARNING, "worker restarted", worker=number, pid=pid)

    def _lost(self, worker: Process, *, in_order: bool) -> None:
        self.workers.pop(worker.number, None)
        worker.channel.close()
        self._ended(worker, in_order)

    def no_restarts(self) -> None:
        """Start no worker again for now: what it would serve is being given away.

        PoolerError: one is being started at this moment.
        """
        self._may_restart.clear()
        for number in range(self.count):
            worker = self.workers.get(number)
            if worker is None or not worker.ready.is_set():
                text = f"worker {number} is being started again"
                raise PoolerError(codes.CANNOT_CONNECT_NOW, text)

    def restarts(self) -> None:
        """Start those again that have ended."""
        self._may_restart.set()

    def let_go(self) -> None:
        """Start none again any more."""
        for keeper in self._keepers:
            keeper.cancel()

    async def gone(self) -> None:
        """Wait until all have ended."""
        await asyncio.gather(*(worker.process.wait() for worker in self.workers.values()))

    def kill(self) -> None:
        """End those that are still there."""
        for worker in self.workers.values():
            if worker.process.returncode is None:
                worker.process.kill()

    def close(self) -> None:
        """Hear no worker any more."""
        for worker in self.workers.values():
            worker.channel.close()

    # -- messages

    def tell(self, number: int, name: str, *arguments: Any) -> None:
        """Tell one worker, if it is there."""
        worker = self.workers.get(number)
        if worker is not None:
            worker.channel.tell(name, *arguments)

    def tell_all(self, name: str, *arguments: Any) -> None:
        """Tell every worker."""
        self.tell_others(-1, name, *arguments)

    def tell_others(self, number: int, name: str, *arguments: Any) -> None:
        """Tell every worker but this one."""
        for worker in self.workers.values():
            if worker.number != number:
                worker.channel.tell(name, *arguments)

    async def call(self, number: int, name: str, *arguments: Any) -> Any:
        """Return what one worker answers."""
        worker = self.workers.get(number)
        if worker is None:
            raise PoolerError(codes.CONNECTION_FAILURE, f"worker {number} is being restarted")
        return await worker.channel.call(name, *arguments)

    async def call_all(
        self, name: str, *arguments: Any, but: int = -1, within: float | None = CALL_TIMEOUT
    ) -> list[Any]:
        """Return what the workers answer; of those that have ended, nothing."""
        calls = [
            worker.channel.call(name, *arguments, within=within)
            for worker in self.workers.values()
            if worker.ready.is_set() and worker.number != but
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        lost = (ChannelLost, TimeoutError)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, lost):
                raise answer
        return [answer for answer in answers if not isinstance(answer, lost)]

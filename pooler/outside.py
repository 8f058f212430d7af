"""Asks those who may take their time: LDAP servers, PAM modules, the system's list of users.

Their libraries block, so each question has a thread; a bound on those, and a time limit, keep
logins that hang from being more than that. A thread cannot be ended: one that hangs keeps its
place until it comes back, and does not keep the process from leaving.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

T = TypeVar("T")

PARALLEL: Final = 16
"""Questions at a time; a login beyond waits for its turn."""
TIMEOUT: Final = 10.0
"""Seconds until a login is not let in, its turn included; an LDAP bind takes milliseconds, PAM
modules wait some 2 s when the password is wrong (pam_unix)."""


class Outside:
    """The questions that are under way."""

    def __init__(self, parallel: int = PARALLEL, timeout: float = TIMEOUT) -> None:
        self._free = asyncio.Semaphore(parallel)
        self._timeout = timeout

    async def ask(self, work: Callable[[], T]) -> T:
        """The result of `work`, which is called in a thread; TimeoutError, or what it raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def done(result: T | None, error: Exception | None) -> None:
            self._free.release()
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]  # no error, so it is a T

        def run() -> None:
            result: T | None = None
            error: Exception | None = None
            try:
                result = work()
            except Exception as raised:
                error = raised
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(done, result, error)

        async with asyncio.timeout(self._timeout):
            await self._free.acquire()
            try:
                threading.Thread(target=run, name="pooler-outside", daemon=True).start()
            except BaseException:
                self._free.release()
                raise
            return await answer

"""Reloads of the configuration: what they are made with, who asks for them, why one is refused."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from pooler import logs
from pooler.config import Change, Config, ConfigError
from pooler.notify import notify, reloading

Overlay = Mapping[tuple[str, ...], str]
"""Settings that the console has SET, by their path."""
Load = Callable[[Overlay], Config]
"""Reads the configuration, with what is SET on top; ConfigError."""


class ReloadRefused(Exception):
    """A configuration cannot be gone by, and nothing has changed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def problems_of(error: ConfigError | OSError) -> list[str]:
    """Return why a configuration cannot be gone by, for people."""
    problems = error.problems if isinstance(error, ConfigError) else (error,)
    return [str(problem) for problem in problems]


class Reloader:
    """Reloads, one at a time; by itself when a signal or a changed file asks for it."""

    def __init__(
        self,
        apply: Callable[[Overlay], Awaitable[list[Change]]],
        overlay: Callable[[], Overlay],
        replaced: Callable[[], bool],
    ) -> None:
        """`apply` returns what is different then, or raises ReloadRefused.

        Nobody is heeded any more once another process has `replaced` this one: the file is its.
        """
        self._apply = apply
        self._overlay = overlay
        self._replaced = replaced
        self._wanted = asyncio.Event()
        self._afresh = False  # without what has been SET
        self._lock = asyncio.Lock()

    def ask(self) -> None:
        """Go by the files alone, as SIGHUP wants."""
        self._afresh = True
        self._wanted.set()

    def changed(self) -> None:
        """Go by files that have changed, with what has been SET."""
        self._wanted.set()

    async def serve(self) -> None:
        """Reload whenever asked to."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            overlay = {} if self._afresh else self._overlay()
            self._afresh = False
            if self._replaced():
                continue
            notify(*reloading())
            with contextlib.suppress(ReloadRefused):  # which has been logged
                await self.reload(overlay)
            notify("READY=1")

    async def reload(self, overlay: Overlay) -> list[Change]:
        """Load the configuration anew, with what is SET on top, and go by it.

        Returns what is different now; ReloadRefused: nothing is.
        """
        async with self._lock:
            try:
                return await self._apply(overlay)
            except ReloadRefused as refused:
                logs.event(logging.ERROR, "reload failed", problems=refused.problems)
                raise

"""Server-sent events: one producer for all viewers, which rests while there is none.

Rules: a viewer is never waited for. What it has not read yet is bounded, whoever falls behind is
dropped (and comes back by itself, as browsers do). Making a frame may take one part in twenty of
the CPU at most: where it costs more, frames come less often.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

INTERVAL: Final = 1.0
"""Seconds from frame to frame."""
SHARE: Final = 20
"""Making a frame is followed by so many times the CPU time it took without one, at least."""
BEHIND: Final = 4
"""Frames that a viewer may not have been sent yet."""
HISTORY: Final = 300
"""Samples kept for who comes later: some 10 kB each with a hundred pools."""


class Maker(Protocol):
    """Makes what is shown."""

    async def frame(self) -> tuple[bytes, bytes]:
        """Return what is new as an event's data, and what of it charts are made of."""

    def opening(self) -> bytes:
        """Return what a viewer who comes now has missed, as an event's data."""

    def forget(self) -> None:
        """Nobody watches any more: have the next frame be about everything."""


class Viewer:
    """Somebody who watches."""

    def __init__(self, drop: Callable[[], None]) -> None:
        self.drop = drop
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(BEHIND)

    def put(self, event: bytes) -> bool:
        """Have the event sent; False: too many are waiting for that already."""
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            return False
        return True

    def end(self) -> None:
        """Have `get` return None, now."""
        with suppress(asyncio.QueueEmpty):
            while True:
                self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def get(self) -> bytes | None:
        """Return the next event to send; None: there is none any more."""
        return await self._queue.get()


class Feed:
    """The viewers, and what produces for them."""

    def __init__(self, maker: Maker, failed: Callable[[Exception], None]) -> None:
        self._maker = maker
        self._failed = failed
        self._viewers: set[Viewer] = set()
        self._history: deque[bytes] = deque(maxlen=HISTORY)
        self._producer: asyncio.Task[None] | None = None
        self.frames = 0

    @property
    def viewers(self) -> int:
        """How many watch."""
        return len(self._viewers)

    def join(self, drop: Callable[[], None]) -> Viewer:
        """Let somebody watch, who is dropped by `drop` when he cannot follow."""
        if self._producer is None:
            self._producer = asyncio.get_running_loop().create_task(self._produce())
        viewer = Viewer(drop)
        self._viewers.add(viewer)
        viewer.put(event("history", b"[" + b",".join(self._history) + b"]"))
        viewer.put(event("frame", self._maker.opening()))
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Nobody watches there any more; the last one ends the work."""
        self._viewers.discard(viewer)
        if not self._viewers and self._producer is not None:
            self._producer.cancel()
            self._producer = None
            self._maker.forget()

    def close(self) -> None:
        """Send everybody away."""
        for viewer in list(self._viewers):
            viewer.end()
            self.leave(viewer)

    async def _produce(self) -> None:
        while True:
            began = time.thread_time()
            try:
                data, sample = await self._maker.frame()
            except Exception as error:
                self._failed(error)
                self.close()
                return
            self.frames += 1
            self._history.append(sample)
            self._send(event("frame", data))
            cost = time.thread_time() - began
            await asyncio.sleep(max(INTERVAL - cost, SHARE * cost))

    def _send(self, data: bytes) -> None:
        for viewer in list(self._viewers):
            if not viewer.put(data):
                viewer.drop()
                viewer.end()
                self.leave(viewer)


def event(name: str, data: bytes) -> bytes:
    """Return an event as it is sent; the data is JSON, so it has no line breaks."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)

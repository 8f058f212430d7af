"""The feed: one producer for all, nothing without viewers, nobody waited for."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pooler.dashboard import feed
from pooler.dashboard.feed import BEHIND, Feed, Viewer


class Counting:
    """Makes numbered frames."""

    def __init__(self) -> None:
        self.made = 0
        self.forgot = 0

    async def frame(self) -> tuple[bytes, bytes]:
        """The next number."""
        self.made += 1
        if self.made > 10_000:
            raise RuntimeError("enough")
        return b'{"frame":%d}' % self.made, b"%d" % self.made

    def opening(self) -> bytes:
        """The number reached."""
        return b'{"opening":%d}' % self.made

    def forget(self) -> None:
        """Count it."""
        self.forgot += 1


def decoded(event: bytes | None) -> tuple[str, Any]:
    """An event's name and data."""
    assert event is not None
    name, data, end, rest = event.decode().split("\n")
    assert (end, rest) == ("", "")
    return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a test with frames as fast as they are read."""
    monkeypatch.setattr(feed, "INTERVAL", 0.001)
    monkeypatch.setattr(feed, "SHARE", 0)

    def run(test: Coroutine[Any, Any, None]) -> None:
        asyncio.run(asyncio.wait_for(test, 20))

    return run


def never() -> None:
    """What drops a viewer who keeps up."""
    raise AssertionError("dropped")


def failed(error: Exception) -> None:
    """What hears of a maker that fails."""
    raise error


def test_a_viewer_is_sent_what_was_and_then_what_is(run: Any) -> None:
    async def test() -> None:
        maker = Counting()
        feed = Feed(maker, failed)
        viewer = feed.join(never)
        assert decoded(await viewer.get()) == ("history", [])
        assert decoded(await viewer.get()) == ("frame", {"opening": 0})
        assert decoded(await viewer.get()) == ("frame", {"frame": 1})
        assert decoded(await viewer.get()) == ("frame", {"frame": 2})
        feed.close()

    run(test())


def test_frames_are_made_once_for_all_and_the_history_is_shared(run: Any) -> None:
    async def test() -> None:
        maker = Counting()
        feed = Feed(maker, failed)
        first = feed.join(never)
        for _ in range(4):
            await first.get()
        second = feed.join(never)
        made = maker.made
        assert decoded(await second.get()) == ("history", list(range(1, made + 1)))
        assert decoded(await second.get()) == ("frame", {"opening": made})
        both = [await first.get() for _ in range(2)], [await second.get() for _ in range(2)]
        assert decoded(both[1][0])[1]["frame"] == made + 1
        assert maker.made <= made + 4
        feed.close()

    run(test())


def test_nothing_is_made_without_viewers(run: Any) -> None:
    async def test() -> None:
        maker = Counting()
        tasks = asyncio.all_tasks()
        feed = Feed(maker, failed)
        await asyncio.sleep(0.02)
        assert maker.made == 0
        viewer = feed.join(never)
        for _ in range(3):
            await viewer.get()
        feed.leave(viewer)
        made = maker.made
        await asyncio.sleep(0.02)
        assert (maker.made, maker.forgot, feed.viewers) == (made, 1, 0)
        assert asyncio.all_tasks() == tasks
        again = feed.join(never)  # what was made is still there for charts
        assert decoded(await again.get()) == ("history", list(range(1, made + 1)))
        feed.close()

    run(test())


def test_a_viewer_who_does_not_read_is_dropped_and_the_others_go_on(run: Any) -> None:
    async def test() -> None:
        maker = Counting()
        feed = Feed(maker, failed)
        dropped = asyncio.Event()
        slow = feed.join(dropped.set)
        good = feed.join(never)
        while not dropped.is_set():
            await good.get()
        assert maker.made <= BEHIND + 1
        assert feed.viewers == 1
        assert await slow.get() is None
        reached = maker.made
        while decoded(await good.get())[1].get("frame", 0) <= reached + 2:
            pass
        feed.close()
        while await good.get() is not None:
            pass

    run(test())


def test_a_maker_that_fails_is_reported_and_the_viewers_sent_away(run: Any) -> None:
    class Broken(Counting):
        async def frame(self) -> tuple[bytes, bytes]:
            raise ValueError("no such thing")

    async def test() -> None:
        heard: list[Exception] = []
        feed = Feed(Broken(), heard.append)
        viewer = feed.join(never)
        while await viewer.get() is not None:
            pass
        assert [str(error) for error in heard] == ["no such thing"]
        assert feed.viewers == 0

    run(test())


def test_an_expensive_frame_makes_frames_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "INTERVAL", 0.0)
    naps: list[float] = []
    times = iter(range(0, 100, 3))  # each look at the clock, 3 s more have been used

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        raise asyncio.CancelledError

    async def test() -> None:
        watched = Feed(Counting(), failed)
        monkeypatch.setattr("pooler.dashboard.feed.asyncio.sleep", nap)
        viewer = watched.join(never)
        while not naps:
            await viewer.get()
        watched.close()

    monkeypatch.setattr("pooler.dashboard.feed.time.thread_time", lambda: next(times))
    asyncio.run(asyncio.wait_for(test(), 10))
    assert naps == [60]


def test_what_is_not_read_is_bounded() -> None:
    async def test() -> None:
        viewer = Viewer(never)
        assert [viewer.put(b"x") for _ in range(BEHIND + 2)] == [True] * BEHIND + [False] * 2

    asyncio.run(test())

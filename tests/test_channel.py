"""Messages and open files between two processes: order, size, failures, and who is gone."""

import asyncio
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from pooler.channel import MESSAGE_LIMIT, Channel, ChannelLost, Handler
from pooler.core.errors import PoolerError


class Pair:
    """Two ends in one process."""

    def __init__(self, **handlers: Handler) -> None:
        near, far = socket.socketpair()
        self.near_lost = asyncio.Event()
        self.far_lost = asyncio.Event()
        self.near = Channel(near, {}, self.near_lost.set)
        self.far = Channel(far, handlers, self.far_lost.set)

    def close(self) -> None:
        self.near.close()
        self.far.close()


def run(scene: Callable[..., Coroutine[Any, Any, None]], **handlers: Handler) -> None:
    """Play a scene between two ends, in a loop of its own."""

    async def play() -> None:
        pair = Pair(**handlers)
        try:
            await asyncio.wait_for(scene(pair), 20)
        finally:
            pair.close()

    asyncio.run(play())


def test_the_end_is_seen_of_one_that_left_something_unread() -> None:
    """With libuv, which tells of nothing more after such an end."""

    async def play() -> None:
        ours, theirs = socket.socketpair()
        lost = asyncio.Event()
        heard: list[str] = []
        channel = Channel(ours, {"hello": heard.append}, lost.set)
        channel.tell("unread")
        body = json.dumps([0, "hello", "there"]).encode()
        theirs.sendall(struct.pack("!IB", len(body), 0) + body)
        theirs.close()
        await asyncio.wait_for(lost.wait(), 10)
        assert heard == ["there"]

    uvloop.run(play())


def test_calls_are_answered_in_any_order() -> None:
    gate = asyncio.Event()

    async def slow() -> str:
        await gate.wait()
        return "slow"

    def quick(text: str, number: int) -> list[Any]:
        gate.set()
        return [text, number, None]

    async def scene(pair: Pair) -> None:
        first = asyncio.create_task(pair.near.call("slow"))
        assert await pair.near.call("quick", "é", 2) == ["é", 2, None]
        assert await first == "slow"

    run(scene, slow=slow, quick=quick)


def test_message_larger_than_any_buffer() -> None:
    async def scene(pair: Pair) -> None:
        text = "x" * 5_000_000
        answers = await asyncio.gather(*(pair.near.call("echo", text + str(n)) for n in range(4)))
        assert [answer[-1] for answer in answers] == list("0123")

    run(scene, echo=lambda text: text)


def test_files_come_with_their_message() -> None:
    got: list[tuple[str, bytes]] = []

    def take(name: str, files: list[int]) -> None:
        for file in files:
            got.append((name, os.read(file, 10)))
            os.close(file)

    async def scene(pair: Pair) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(20):
            ends = [os.pipe() for _ in range(number % 3)]
            for _, write in ends:
                os.write(write, str(number).encode())
                os.close(write)
            if ends:
                pair.near.tell("take", f"m{number}", files=[read for read, _ in ends])
            for read, _ in ends:
                os.close(read)
            pair.near.tell("plain", "y" * 100_000)
        await pair.near.call("plain", "")
        assert got == [(f"m{n}", str(n).encode()) for n in range(20) for _ in range(n % 3)]
        assert len(os.listdir("/proc/self/fd")) == before

    run(scene, take=take, plain=lambda text: None)


def failing() -> None:
    raise PoolerError("22023", "no", "because", "try")


async def failing_later() -> None:
    failing()


@pytest.mark.parametrize("handler", [failing, failing_later])
def test_failure_is_raised_at_the_caller(handler: Callable[[], Awaitable[None] | None]) -> None:
    async def scene(pair: Pair) -> None:
        with pytest.raises(PoolerError) as caught:
            await pair.near.call("fail")
        error = caught.value
        told = (error.sqlstate, error.text, error.detail, error.hint)
        assert told == ("22023", "no", "because", "try")

    run(scene, fail=handler)


def test_unknown_call_is_refused() -> None:
    async def scene(pair: Pair) -> None:
        with pytest.raises(PoolerError, match="does not know"):
            await pair.near.call("future")
        read, write = os.pipe()
        pair.near.tell("future", files=[read])  # nothing is left open for it
        os.close(read)
        with pytest.raises(PoolerError):
            await pair.near.call("future")
        with pytest.raises(BrokenPipeError):
            os.write(write, b"x")
        os.close(write)

    run(scene)


def test_the_other_end_has_gone() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async def scene(pair: Pair) -> None:
        call = asyncio.create_task(pair.near.call("never"))
        await asyncio.sleep(0)
        pair.far.close()
        with pytest.raises(ChannelLost):
            await call
        assert pair.near_lost.is_set()
        assert not pair.far_lost.is_set()
        with pytest.raises(ChannelLost):
            await pair.near.call("never")
        pair.near.tell("never")

    run(scene, never=never)


def test_no_answer_in_time() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    async def scene(pair: Pair) -> None:
        with pytest.raises(TimeoutError):
            await pair.near.call("never", within=0.01)

    run(scene, never=never)


def test_call_that_is_cancelled_is_cancelled_there() -> None:
    began = asyncio.Event()
    cancelled = asyncio.Event()

    async def long() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def scene(pair: Pair) -> None:
        call = asyncio.create_task(pair.near.call("long"))
        await began.wait()
        call.cancel()
        await cancelled.wait()

    run(scene, long=long)


@pytest.mark.parametrize(
    "garbage",
    [
        struct.pack("!IB", MESSAGE_LIMIT + 1, 0),
        struct.pack("!IB", 3, 0) + b"{]x",
        struct.pack("!IB", 2, 0) + b"[]",
        struct.pack("!IB", 4, 0) + b"null",
        struct.pack("!IB", 9, 1) + json.dumps([0, "take"]).encode(),
        b"GET / HTTP/1.1\r\n\r\n" * 10,
    ],
)
def test_what_cannot_be_understood_ends_it(garbage: bytes) -> None:
    async def scene(pair: Pair) -> None:
        pair.near._sock.send(garbage)
        await pair.far_lost.wait()

    run(scene, take=lambda files: None)

"""Pipelines of thousands of messages: answered whole, at a cost that grows with their length."""

import time

import pytest

from pooler.core.client import EFFECTS_LIMIT
from tests.core.support import World, messages
from tests.support.rawclient import bind, close, describe, execute, parse, sync

FEW = 200
MANY = 12_000
DEARER = 4
"""A message of many may cost so many times what one of few does; looking back made it 7."""

EACH = describe() + execute()
PIPELINES = {
    "unnamed": (parse("select 1") + bind() + EACH, sync()),
    "in passing": (parse("select 1", "s") + bind(statement="s") + EACH + close("S", "s"), sync()),
    "failing groups": (parse("error") + bind() + EACH + sync(), b""),
}


def cost(name: str, count: int) -> float:
    """Return the CPU seconds that each part of a pipeline takes where it has so many."""
    each, last = PIPELINES[name]
    world = World(pool_size=1)
    (app,) = world.apps(1)
    app.ask("select 1")
    app.raw.clear()
    began = time.thread_time()
    app.send(each * count + last)
    took = time.thread_time() - began
    assert app.raw.endswith(b"Z\0\0\0\5I")
    return took / count


@pytest.mark.parametrize("name", PIPELINES)
def test_its_length_makes_no_message_dearer(name: str) -> None:
    few = min(cost(name, FEW) for _ in range(3))
    assert any(cost(name, MANY) < DEARER * few for _ in range(3))


def test_all_is_answered_however_much_of_it_waits_for_descriptions() -> None:
    """Each Bind asks for the shape, as long as that is not known: more often than the limit."""
    world = World(pool_size=1)
    (app,) = world.apps(1)
    app.send(parse("sleep 1", "z") + sync())
    app.raw.clear()
    app.send(bind(statement="z") + execute() + parse("select 1", "s"))
    count = 2 * EFFECTS_LIMIT
    for _ in range(count):
        app.send(bind(statement="s") + EACH)
    assert app.client.braked
    (session,) = world.sessions
    session.finish()
    world.run()
    app.send(sync())
    assert not app.client.braked
    kinds = bytes(kind for kind, _ in messages(bytearray(app.raw)))
    assert kinds == b"2DC1" + b"2nDC" * count + b"Z"

"""A client's session as plain data, and the client made of it."""

import json
from typing import Any

import pytest

from pooler.core import moving
from pooler.core.client import Client
from pooler.core.hints import SETTINGS
from pooler.core.peer import MOVING
from pooler.core.states import ClientState
from pooler.wire import build, codes
from tests.core.support import App, World, extended, query


def move(app: App) -> Client:
    """Pack a client, and make another of it on the same connection, as another process would."""
    old = app.client
    assert moving.at_rest(old)
    old.brake(MOVING)
    packer = moving.Packer()
    statements = packer.statements(old)
    packed = packer.pack(old, {})
    told = json.loads(json.dumps([statements, packed]))
    old.pool.depart(old)
    assert old.closed
    new = unpack(app.world, app, told[1], {one["number"]: one for one in told[0]})
    app.transport.protocol = new
    new.braked |= MOVING
    moving.arrive(new, told[1])
    new.unbrake(MOVING)
    app.world.run()
    app._client = new
    app.world.check()
    return new


def unpack(world: World, app: App, packed: Any, statements: Any) -> Client:
    return moving.unpack(world.router, app.transport, packed, statements)


def parse(name: str, sql: str) -> bytes:
    body = name.encode() + b"\0" + sql.encode() + b"\0\0\0"
    return build.message(codes.PARSE, body) + build.SYNC


def use(name: str) -> bytes:
    bind = build.message(codes.BIND, b"\0" + name.encode() + b"\0\0\0\0\0\0\0")
    return bind + build.message(codes.EXECUTE, b"\0\0\0\0\0") + build.SYNC


def test_who_it_is() -> None:
    world = World()
    app = world.app()
    old = app.client
    new = move(app)
    for name in ("ident", "pid", "secret", "database", "user", "name", "opened_at", "idle_since"):
        assert getattr(new, name) == getattr(old, name)
    assert world.router.keys.find(new.pid, new.secret) is new
    assert world.router.clients.count == 1
    assert app.ask("SELECT 1") == World().app().ask("SELECT 1")


def test_its_settings() -> None:
    app = World().app()
    app.client.wants = app.client.pool.shelf.shared({"application_name": "me", "my.own": "\udcff"})
    app.client.custom = frozenset(["my.own", "my.other"])
    app.client.notes.warned = ("locks",)
    old = app.client
    new = move(app)
    assert new.wants == old.wants
    assert new.told == old.told
    assert new.custom == old.custom
    assert new.notes.warned == ("locks",)


def test_its_prepared_statements() -> None:
    world = World()
    app, other = world.apps(2)
    for one in (app, other):
        one.send(parse("mine", "SELECT 1"))
    app.send(parse("setter", "SELECT set_config('a.b', $1, false)"))
    body = {name: entry.statement.body for name, entry in app.client.names.items()}
    world.wait(1.0)  # its server is asked what it has left behind
    new = move(app)
    assert {name: entry.statement.body for name, entry in new.names.items()} == body
    (shared,) = [e.statement for n, e in other.client.names.items()]
    assert shared in [e.statement for n, e in new.names.items()]
    assert shared.users >= 2
    assert new.requests._hinted[b"setter"].flags & SETTINGS
    app.said()
    other.said()
    assert app.send(use("mine")).said() == other.send(use("mine")).said()


def test_a_statement_of_many_is_packed_once() -> None:
    world = World()
    apps = world.apps(3)
    packer = moving.Packer()
    for app in apps:
        app.send(parse("mine", "SELECT 1"))
    assert [len(packer.statements(app.client)) for app in apps] == [1, 0, 0]
    numbers = [packer.pack(app.client, {})["statements"][0][1] for app in apps]
    assert numbers == [0, 0, 0]


def test_what_it_has_sent() -> None:
    app = World().app()
    question = query("SELECT 'whole'")
    app.send(question[:7])
    app.said()
    move(app)
    assert app.said() == ""
    assert app.send(question[7:]).said() == World().app().ask("SELECT 'whole'")


def test_one_that_waits_goes_on_waiting() -> None:
    world = World(pool_size=1)
    busy, app = world.apps(2)
    busy.ask("BEGIN")
    app.said()
    app.send(extended("SELECT 1"))
    since = app.client.waiting_since
    world.wait(1.0)
    new = move(app)
    assert new.state is ClientState.WAITING
    assert new.waiting_since == since
    assert app.said() == ""
    busy.ask("COMMIT")
    assert app.said() != ""


def test_who_is_busy_is_not_at_rest() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    app.ask("BEGIN")
    assert not moving.at_rest(app.client)
    app.ask("COMMIT")
    assert moving.at_rest(app.client)
    other.client.full = True
    assert not moving.at_rest(other.client)


def test_a_client_moves_out_when_its_transaction_ends() -> None:
    world = World()
    app = world.app()
    gone: list[Client] = []
    world.depart = gone.append  # type: ignore[method-assign, assignment]
    app.ask("BEGIN")
    app.client.pool.hand_over(app.client, app.client.pool)
    assert gone == []
    app.ask("COMMIT")
    assert gone == [app.client]


@pytest.mark.parametrize("missing", ["pid", "wants", "statements", "held"])
def test_what_is_no_client_is_none(missing: str) -> None:
    world = World()
    app = world.app()
    packed = moving.Packer().pack(app.client, {})
    app.client.pool.depart(app.client)
    del packed[missing]
    with pytest.raises(KeyError):
        unpack(world, app, packed, {})


def test_a_key_is_one_clients() -> None:
    world = World()
    app = world.app()
    packed = moving.Packer().pack(app.client, {})
    with pytest.raises(ValueError, match="another client's"):
        unpack(world, app, packed, {})
    assert world.router.clients.count == 1

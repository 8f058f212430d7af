"""Pins: who keeps a server, why, since when, by which statement; and what ends it."""

from tests.core.support import World


def test_a_pin_is_shown_and_ends_with_its_client() -> None:
    world = World()
    app, other = world.app(), world.app()
    app.ask("select 'x', setseed(0.4711)")
    assert not list(world.pool().pins()), "nobody needs to know yet"
    started = world.clock
    world.wait(0.5)
    (pin,) = world.pool().pins()
    assert pin.client is app.client
    assert pin.server is app.client.server
    assert pin.reasons == ("load",)
    assert pin.statement == "select ?, setseed(?)"
    assert started <= pin.since <= world.clock
    assert str(pin) == "load: select ?, setseed(?)"
    assert world.pool().counters.pins["load"] == 1
    assert other.ask("select 1") == "row 1, ready"
    world.wait(1)
    app.bye()
    assert not list(world.pool().pins())
    assert world.happened("pinned load: select ?, setseed(?)") == 1
    assert sum(event.startswith("unpinned load") for event in world.events) == 1
    assert any("DISCARD ALL" in session.log for session in world.sessions)


def test_pin_timeout_ends_the_client() -> None:
    world = World(pool_size=1)
    world.configure(pin_timeout=2.0)
    app, other = world.app(), world.app()
    app.ask("select setseed(0.5)")
    world.wait(1)
    assert other.ask("select 1") == ""
    world.wait(2)
    assert app.said() == "FATAL 57P05, closed"
    assert other.said() == "row 1, ready"
    assert world.happened("client closed: pin_timeout") == 1
    assert world.pool().counters.timeouts == 1


def test_pin_timeout_is_not_for_transactions_under_way() -> None:
    world = World()
    world.configure(pin_timeout=2.0)
    app = world.app()
    app.ask("select setseed(0.5)")
    world.wait(1)
    app.ask("begin")
    world.wait(3)
    assert app.ask("select 1") == "row 1, ready T"
    assert app.ask("commit") == "ready, FATAL 57P05, closed"


def test_a_pin_ends_with_its_server() -> None:
    world = World()
    app = world.app()
    app.ask("select setseed(0.5)")
    world.wait(0.5)
    app.session.kill()
    world.run()
    assert not list(world.pool().pins())
    assert app.said() == "FATAL 08006, closed"

"""Limits across pools: nobody exceeds them, nobody starves under them."""

import pytest

from pooler.core.budget import Report
from pooler.core.errors import ClientFault
from pooler.core.limits import Allotment
from tests.core.support import World, query


def idle_server(world: World, database: str) -> None:
    world.app(database).ask("select 0")


def test_the_longest_idle_server_of_another_pool_makes_room() -> None:
    world = World(max_servers=2)
    idle_server(world, "one")
    world.wait(1)
    idle_server(world, "two")
    world.wait(1)
    app = world.app("three")
    assert app.ask("select 3") == "row 3, ready"
    assert [session.target.dbname for session in world.sessions] == ["two", "three"]
    assert world.happened("server closed: given up for another pool") == 1


def test_who_waits_longer_in_another_pool_gets_the_place_at_release() -> None:
    world = World(max_servers=1)
    app, same = world.app("one"), world.app("one")
    app.ask("begin")
    other = world.app("two")
    world.wait(1)
    same.send(query("select same"))
    app.ask("commit")
    assert "two" in [session.target.dbname for session in world.opened]
    world.wait(1)
    assert same.said() == "row same, ready"
    other.said()
    assert other.ask("select other") == "row other, ready"


def test_no_server_is_given_up_for_a_pool_whose_client_has_left() -> None:
    world = World(max_servers=1)
    app = world.app("one")
    app.ask("begin")
    other = world.app("two")
    other.vanish()
    assert app.ask("commit") == "ready"
    assert world.happened("server closed: given up for another pool") == 0


def test_no_server_is_given_up_for_a_pool_whose_database_is_down() -> None:
    world = World(max_servers=1, server_login_retry=5.0)
    app = world.app("one")
    down = world.app("two")
    world.wait(1)
    assert down.ask("select 0") == "row 0, ready"
    for session in world.sessions:
        session.kill()
    app.ask("select 1")
    connect = world.connect

    def choosy(pool: object, *rest: object) -> None:
        if pool is world.pool("two"):
            world.refuse("08001", told=False)
        else:
            world.refusals.clear()
        connect(pool, *rest)  # type: ignore[arg-type]

    world.connect = choosy  # type: ignore[method-assign,assignment]
    down.send(query("select 2"))
    for _ in range(300):
        world.wait(0.1)
        app.ask("select 1")
    given_up = world.happened("server closed: given up for another pool")
    failures = world.happened("connect failed: 08001")
    assert failures
    assert given_up <= failures + 1


def test_pools_under_one_limit_all_get_their_turn() -> None:
    world = World(max_servers=2, pool_size=2)
    apps = [world.app(database) for database in ("one", "two", "three", "four")]
    answers = dict.fromkeys(range(4), 0)
    for app in apps:
        app.said()
    for i, app in enumerate(apps):
        app.send(query(f"sleep {i}"))
    for _ in range(400):
        for session in list(world.sessions):
            if session.sleeping is not None:
                session.finish()
        world.wait(0.1)
        for i, app in enumerate(apps):
            if app.said():
                answers[i] += 1
                app.send(query(f"sleep {i}"))
    assert min(answers.values()) > 0.5 * max(answers.values()), answers


def test_limits_of_a_database_and_of_a_user() -> None:
    world = World(pool_size=5, max_db_server_connections=3)
    apps = [world.app("db", user) for user in ("alice", "alice", "bob", "bob")]
    for app in apps:
        app.send(query("sleep 1"))
    assert len(world.sessions) == 3
    world = World(pool_size=5, max_user_server_connections=3)
    apps = [world.app(database, "alice") for database in ("a", "a", "b", "b")]
    for app in apps:
        app.send(query("sleep 1"))
    assert len(world.sessions) == 3


def test_a_lower_limit_is_reached_and_a_higher_one_used() -> None:
    world = World(pool_size=4, max_servers=4)
    apps = world.apps(4)
    for app in apps:
        app.ask("begin")
    world.configure(max_servers=2)
    for app in apps:
        app.ask("commit")
    assert len(world.sessions) == 2
    for app in apps:
        app.send(query("sleep 1"))
    world.configure(max_servers=4)
    assert len(world.sessions) == 4


def test_limits_of_clients() -> None:
    world = World(max_clients=2)
    first = world.app()
    world.app()
    with pytest.raises(ClientFault) as error:
        world.app()
    assert error.value.sqlstate == "53300"
    first.bye()
    world.app()


@pytest.mark.parametrize("setting", ["max_db_client_connections", "max_user_client_connections"])
def test_limits_of_a_database_and_of_a_user_on_clients(setting: str) -> None:
    world = World()
    world.configure(**{setting: 1})
    world.app()
    with pytest.raises(ClientFault, match="no more connections"):
        world.app()
    world.app("other", "bob")


def test_every_allotment_is_answered() -> None:
    """What was taken back counts as the worker's until then, also where nothing changes there."""
    allotment = Allotment("of a pool")
    assert allotment.report() is None
    for round_, limit in ((1, 2), (2, 1), (3, 1)):
        allotment.allot(limit, round_)
        assert allotment.report() == Report(0, 0)
        assert allotment.report() is None

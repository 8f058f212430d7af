"""Reloads and endings: no client is dropped by a reload, each is told when its end has come."""

from dataclasses import replace

import pytest

from pooler.core.errors import ClientFault, CloseReason, PoolerError
from pooler.core.settings import Host
from tests.core.support import SESSION, World, query

BYE = PoolerError("57P01", "terminating connection due to administrator command")


def test_a_new_target_renews_servers_when_they_are_released() -> None:
    world = World(pool_size=2)
    app, other = world.apps(2)
    app.ask("begin")
    other.ask("select 1")
    new = Host("db2", 5432)
    world.configure(target=replace(world.target, hosts=(new,)))
    assert app.ask("commit") == "ready"
    assert not world.sessions
    assert app.ask("select 2") == "row 2, ready"
    assert world.sessions[0].host == new
    assert world.happened("server closed: connection settings changed") == 2


def test_a_dial_under_way_to_the_old_target_is_not_used() -> None:
    world = World(pool_size=1)
    world.hold_dials = True
    app = world.app()
    old = world.dials.popleft()
    world.configure(target=replace(world.target, connect_query="select new"))
    world.hold_dials = False
    world.connect(*old)
    world.run()
    app.said()
    assert app.ask("select 1") == "row 1, ready"
    assert world.sessions[0].log == ["select new", "select 1"]


def test_clients_move_to_the_new_server_user_when_their_transaction_ends() -> None:
    world = World()
    world.configure(per_database={"db": {"user": "old"}})
    idle, active, waiting = world.apps(3)
    world.configure(pool_size=1)
    active.ask("begin")
    waiting.send(query("select 1"))
    world.configure(per_database={"db": {"user": "new"}})
    assert idle.ask("select 2") == "row 2, ready"
    assert waiting.said() == "row 1, ready"
    assert active.ask("select 3") == "row 3, ready T"
    assert active.ask("commit") == "ready"
    assert active.ask("select 4") == "row 4, ready"
    assert {session.target.user for session in world.sessions} == {"new"}


def test_a_client_that_was_to_move_stays_when_the_next_reload_says_so() -> None:
    world = World()
    world.configure(per_database={"db": {"user": "old"}})
    app = world.app()
    app.ask("begin")
    world.configure(per_database={"db": {"user": "new"}})
    world.configure(per_database={"db": {"user": "old"}})
    app.ask("commit")
    assert app.ask("select 1") == "row 1, ready"
    assert app.client.pool is world.pool("db", "old")


def test_the_pool_that_a_client_will_move_to_is_not_forgotten() -> None:
    world = World()
    world.configure(per_database={"db": {"user": "old"}})
    app = world.app()
    app.ask("begin")
    world.configure(per_database={"db": {"user": "new"}})
    world.wait(200)
    assert app.ask("commit") == "ready"
    assert app.client.pool is world.pool("db", "new")


def test_a_client_that_logs_in_during_the_reload_moves_too() -> None:
    world = World(pool_size=1)
    world.hold_dials = True
    world.configure(per_database={"db": {"user": "old"}})
    app = world.app()
    world.configure(per_database={"db": {"user": "new"}})
    while world.dials:
        world.connect(*world.dials.popleft())
        world.run()
    world.hold_dials = False
    world.wait(1)
    assert app.said().endswith("ready")
    assert app.ask("select 1") == "row 1, ready"
    assert app.client.pool is world.pool("db", "new")


def test_a_session_is_not_dropped_by_a_new_server_user() -> None:
    world = World(mode=SESSION)
    world.configure(per_database={"db": {"user": "old"}})
    app = world.app()
    app.ask("select 1")
    world.configure(per_database={"db": {"user": "new"}})
    assert app.ask("select 2") == "row 2, ready"


def test_clients_of_a_database_that_is_removed_are_told() -> None:
    world = World()
    idle, active = world.apps(2)
    active.ask("begin")
    world.configure(removed={"db"})
    assert idle.said() == "FATAL 57P01, closed"
    assert active.ask("select 1") == "row 1, ready T"
    assert active.ask("commit") == "ready, FATAL 57P01, closed"
    assert not world.sessions
    with pytest.raises(ClientFault) as error:
        world.app()
    assert error.value.sqlstate == "3D000"
    world.wait(100)
    assert not world.router.pools
    world.configure(removed=set())
    assert world.app().ask("select 1") == "row 1, ready"


def test_a_waiting_client_of_a_removed_database_gets_its_answer_first() -> None:
    world = World(pool_size=1)
    active, waiting = world.apps(2)
    active.ask("begin")
    waiting.send(query("select 1"))
    world.configure(removed={"db"})
    active.ask("commit")
    assert waiting.said() == "row 1, ready, FATAL 57P01, closed"


def test_the_end_tells_everybody_at_their_time() -> None:
    world = World()
    idle, active = world.apps(2)
    active.ask("begin")
    world.router.end(BYE, CloseReason.SHUTDOWN)
    world.run()
    assert idle.said() == "FATAL 57P01, closed"
    assert active.ask("commit") == "ready, FATAL 57P01, closed"
    with pytest.raises(PoolerError) as error:
        world.app()
    assert error.value.sqlstate == "57P03"
    assert world.router.clients.count == 0


def test_the_end_tells_a_client_that_is_logging_in() -> None:
    world = World()
    world.hold_dials = True
    app = world.app()
    world.router.end(BYE, CloseReason.SHUTDOWN)
    world.run()
    assert app.said() == "FATAL 57P01, closed"
    assert world.router.clients.count == 0


def test_the_end_tells_a_client_that_was_to_move() -> None:
    world = World()
    world.configure(per_database={"db": {"user": "old"}})
    app = world.app()
    app.ask("begin")
    world.configure(per_database={"db": {"user": "new"}})
    world.router.end(BYE, CloseReason.SHUTDOWN)
    assert app.ask("commit") == "ready, FATAL 57P01, closed"


def test_a_reload_does_not_undo_the_end() -> None:
    world = World()
    app = world.app()
    app.ask("begin")
    world.router.end(BYE, CloseReason.SHUTDOWN)
    world.configure(pool_size=5)
    assert app.ask("commit") == "ready, FATAL 57P01, closed"


def test_empty_pools_are_forgotten_with_their_gauges() -> None:
    world = World(server_idle_timeout=5.0)
    for i in range(20):
        world.app(f"db{i}").bye()
    world.wait(30)
    assert len(world.router.pools) == 20
    world.wait(60)
    assert not world.router.pools
    assert not world.router.servers.pools
    assert not world.router._client_gauges
    assert not world.router._server_gauges


def test_a_warm_pool_is_not_forgotten() -> None:
    world = World(min_pool_size=1)
    world.app().bye()
    world.wait(200)
    assert len(world.pool().idle) == 1


# -- replication


def test_replication_has_a_server_of_its_own() -> None:
    world = World(min_pool_size=1)
    app = world.app(replication="database")
    pool = app.client.pool
    assert app.ask("select 1") == "row 1, ready"
    assert app.session.target.startup == (("replication", "database"),)
    assert app.ask("select 2") == "row 2, ready"
    app.vanish()
    world.wait(1)
    assert pool.total == 0


def test_a_replication_pool_keeps_no_servers_warm_after_a_reload() -> None:
    world = World(min_pool_size=1)
    app = world.app(replication="database")
    world.configure(server_lifetime=10.0)
    world.wait(3)
    assert app.client.pool.total == 1
    assert len(world.opened) == 1


def test_replication_clients_share_nothing() -> None:
    world = World(pool_size=2)
    one, two = world.app(replication="true"), world.app(replication="true")
    assert one.ask("select 1") == "row 1, ready"
    assert two.ask("select 2") == "row 2, ready"
    assert one.session is not two.session
    third = world.app(replication="true", quiet=False)
    assert third.said() == ""
    one.bye()
    assert "ready" in third.said()

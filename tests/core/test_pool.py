"""How a pool shares its servers: who gets which, when one is taken back, opened and closed."""

from dataclasses import replace

import pytest

from pooler.wire import build
from tests.core.support import SESSION, STATEMENT, World, extended, query


def test_a_server_is_linked_for_a_query_and_released_after_it() -> None:
    world = World()
    app = world.app()
    app.send(query("sleep 1"))
    assert app.session.log == ["sleep 1"]
    app.session.finish()
    world.run()
    assert app.said() == "row 1, ready"
    assert app.client.server is None
    assert len(world.pool().idle) == 1


def test_a_transaction_holds_its_server() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    assert app.ask("begin") == "ready T"
    assert other.ask("select other") == ""
    assert app.ask("select 1") == "row 1, ready T"
    assert other.said() == ""
    assert app.ask("commit") == "ready"
    assert other.said() == "row other, ready"


def test_a_failed_transaction_holds_its_server_until_the_rollback() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    app.ask("begin")
    assert app.ask("error x") == "ERROR 22012, ready E"
    other.ask("select other")
    assert app.ask("rollback") == "ready"
    assert other.said() == "row other, ready"


@pytest.mark.parametrize("size", [0, 1, 3])
def test_pipelines_come_back_in_order_however_they_are_split(size: int) -> None:
    world = World()
    app = world.app()
    world.chunk = size
    app.send(query("select 1") + extended("select 2") + extended("error 3") + query("select 4"))
    assert app.said() == "row 1, ready, row 2, ready, ERROR 22012, ready, row 4, ready"


def test_an_extended_query_without_sync_holds_its_server() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    app.send(extended("select 1")[:-5])
    other.send(query("select other"))
    assert app.said() == "row 1"
    assert other.said() == ""
    app.send(build.SYNC)
    assert app.said() == "ready"
    assert other.said() == "row other, ready"


def test_who_waits_longest_is_served_first_in_the_same_turn() -> None:
    world = World(pool_size=1)
    apps = world.apps(5)
    apps[0].ask("begin")
    for i, app in enumerate(apps[1:]):
        app.send(query(f"sleep {i}"))
    assert apps[0].ask("commit") == "ready"
    for i, app in enumerate(apps[1:]):
        (session,) = world.sessions
        assert session.sleeping == str(i)
        session.finish()
        world.run()
        assert app.said() == f"row {i}, ready"


def test_a_client_that_left_the_line_is_passed_over() -> None:
    world = World(pool_size=1)
    first, second, third = world.apps(3)
    first.ask("begin")
    second.send(query("select 2"))
    third.send(query("select 3"))
    second.vanish()
    first.ask("commit")
    assert third.said() == "row 3, ready"


def two_idle(world: World) -> tuple[int, int]:
    """Leave two idle servers behind; return their ids, the one used last behind."""
    one, two = world.apps(2)
    one.ask("begin")
    two.ask("begin")
    order = (one.client.server, two.client.server)
    one.ask("commit")
    two.ask("commit")
    assert order[0] is not None
    assert order[1] is not None
    return order[0].ident, order[1].ident


def used_by_next(world: World) -> int:
    app = world.app()
    app.ask("begin")
    assert app.client.server is not None
    return app.client.server.ident


def test_the_server_used_last_is_used_next() -> None:
    world = World()
    order = two_idle(world)
    assert used_by_next(world) == order[1]


def test_server_round_robin_uses_the_one_unused_for_longest() -> None:
    world = World(server_round_robin=True)
    order = two_idle(world)
    assert used_by_next(world) == order[0]


def test_a_server_with_the_clients_settings_is_preferred() -> None:
    world = World()
    plain, named = world.app(), world.app(application_name="named")
    plain.ask("begin")
    named.ask("begin")
    server = named.client.server
    named.ask("commit")
    plain.ask("commit")  # used last
    named.ask("begin")
    assert named.client.server is server


def test_settings_are_applied_before_the_clients_query() -> None:
    world = World(pool_size=1)
    app = world.app(application_name="it's", work_mem="1MB")
    other = world.app()
    assert app.ask("select 1") == "row 1, ready"
    (session,) = world.sessions
    assert session.settings["application_name"] == "it's"
    assert session.settings["work_mem"] == "1MB"
    assert other.ask("select 2") == "row 2, ready"
    assert session.settings["application_name"] == ""
    assert app.ask("select 3") == "row 3, ready"
    assert session.settings["application_name"] == "it's"


def test_a_client_is_greeted_with_its_own_settings() -> None:
    world = World()
    app = world.app(application_name="mine", quiet=False)
    assert "application_name=mine" in app.said()
    assert "application_name=mine" in world.app(application_name="mine", quiet=False).said()
    assert "application_name=," in world.app(quiet=False).said()


def test_impossible_settings_fail_the_login_with_the_servers_error() -> None:
    world = World()
    world.app()
    app = world.app(work_mem="impossible", quiet=False)
    assert app.said() == "FATAL 22023, closed"
    assert world.app().ask("select 1") == "row 1, ready"


def test_settings_that_fail_later_are_the_answer_to_the_query() -> None:
    world = World(pool_size=1)
    app, other = world.app(), world.app()
    app.ask("set application_name=impossible")  # what this server took, the next one refuses
    world.wait(1)
    world.sessions[0].kill()
    world.run()
    app.send(query("select 1") + extended("select 2"))
    assert app.said() == "ERROR 22023, ready, ERROR 22023, ready"
    assert other.ask("select 3") == "row 3, ready"


def test_what_a_client_sets_stays_its_own() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    assert app.ask("set application_name=mine") == "application_name=mine, ready"
    assert other.ask("select 1") == "row 1, ready"
    (session,) = world.sessions
    assert session.settings["application_name"] == ""
    app.ask("select 2")
    assert session.settings["application_name"] == "mine"


def test_what_a_client_set_does_not_outlive_it_on_a_server_that_had_to_be_tidied() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    app.ask("set application_name=mine")
    app.ask("begin")
    app.vanish()
    other.ask("select 1")
    (session,) = world.sessions
    assert "ROLLBACK" in session.log
    assert session.settings["application_name"] == ""


# -- modes


def test_session_mode_keeps_the_server_and_resets_it_in_the_end() -> None:
    world = World(pool_size=1, mode=SESSION)
    app, other = world.apps(2)
    assert app.ask("set application_name=mine") == "application_name=mine, ready"
    other.send(query("select 2"))
    assert app.ask("select 1") == "row 1, ready"
    app.bye()
    (session,) = world.sessions
    assert session.log[-2:] == ["DISCARD ALL", "select 2"]
    assert session.settings["application_name"] == ""
    assert other.said() == "row 2, ready"


def test_session_mode_rolls_back_before_it_resets() -> None:
    world = World(pool_size=1, mode=SESSION)
    app = world.app()
    app.ask("begin")
    app.vanish()
    assert world.sessions[0].log == ["begin", "ROLLBACK", "DISCARD ALL"]
    assert len(world.pool().idle) == 1


def test_a_session_in_use_stays_one_when_a_reload_changes_the_mode() -> None:
    world = World(pool_size=1, mode=SESSION)
    app = world.app()
    app.ask("set search_path=mine")
    world.configure(pool_mode=world.session_settings.pool_mode.TRANSACTION)
    assert app.ask("select 1") == "row 1, ready"
    app.bye()
    assert world.sessions[0].log[-1] == "DISCARD ALL"


def test_statement_mode_refuses_a_transaction_block() -> None:
    world = World(pool_size=1, mode=STATEMENT)
    app, other = world.apps(2)
    assert app.ask("select 1") == "row 1, ready"
    assert app.ask("begin") == "ready T, FATAL 0A000, closed"
    assert other.ask("select 2") == "row 2, ready"
    assert world.sessions[0].log == ["select 1", "begin", "ROLLBACK", "select 2"]


# -- how many


def test_no_more_servers_are_opened_than_clients_wait() -> None:
    world = World(pool_size=10)
    apps = world.apps(3)
    for app in apps:
        app.send(query("sleep 1"))
    assert len(world.opened) == 3


def test_a_slow_connect_query_opens_no_more_servers_than_clients_wait() -> None:
    world = World(pool_size=10)
    world.configure(target=replace(world.target, connect_query="sleep 0"))
    world.app(quiet=False)
    world.wait(1)
    assert len(world.opened) == 1


def test_a_failing_connect_query_closes_the_server() -> None:
    world = World(pool_size=10)
    world.configure(target=replace(world.target, connect_query="error 1"))
    world.app()
    world.wait(1)
    assert world.happened("server closed: connect_query failed") == len(world.opened)
    assert not world.sessions


def test_the_reserve_is_used_after_reserve_pool_timeout() -> None:
    world = World(pool_size=1, reserve_pool_size=1, reserve_pool_timeout=3.0)
    apps = world.apps(3)
    for i, app in enumerate(apps):
        app.send(query(f"sleep {i}"))
    world.wait(2.8)
    assert len(world.sessions) == 1
    world.wait(0.3)
    assert [session.sleeping for session in world.sessions] == ["0", "1"]
    world.wait(10)
    assert len(world.sessions) == 2


def test_min_pool_size_is_kept() -> None:
    world = World(pool_size=5, min_pool_size=3, server_idle_timeout=5.0)
    world.app()
    assert len(world.pool().idle) == 3
    world.wait(20)
    assert len(world.pool().idle) == 3
    assert len(world.opened) == 3
    world.sessions[0].kill()
    world.wait(1)
    assert len(world.pool().idle) == 3


def test_idle_servers_leave_after_server_idle_timeout() -> None:
    world = World(server_idle_timeout=5.0)
    two_idle(world)
    world.wait(4.8)
    assert len(world.sessions) == 2
    world.wait(0.4)
    assert not world.sessions
    assert world.happened("server closed: server_idle_timeout") == 2


def test_an_idle_server_leaves_after_its_lifetime_and_a_busy_one_when_released() -> None:
    world = World(server_lifetime=100.0, server_idle_timeout=0.0)
    app = world.app()
    other = world.app()
    app.ask("begin")
    other.ask("select 1")
    world.wait(101)
    assert len(world.sessions) == 1
    assert app.ask("commit") == "ready"
    assert not world.sessions
    assert world.happened("server closed: server_lifetime") == 2


def test_pool_idle_timeout_closes_the_servers_of_a_pool_without_clients_for_good() -> None:
    world = World(min_pool_size=2, pool_idle_timeout=10.0)
    app = world.app()
    world.wait(30)
    assert len(world.sessions) == 2
    app.bye()
    world.wait(30)
    assert not world.sessions
    assert len(world.opened) == 2
    assert world.app().ask("select 1") == "row 1, ready"


def test_shrinking_closes_idle_servers_at_once_and_busy_ones_when_released() -> None:
    world = World(pool_size=4)
    apps = world.apps(4)
    for app in apps:
        app.ask("begin")
    apps[0].ask("commit")
    world.configure(pool_size=2)
    assert len(world.sessions) == 3
    apps[1].ask("commit")
    assert len(world.sessions) == 2
    apps[2].ask("commit")
    assert len(world.sessions) == 2


def test_growing_serves_those_who_wait() -> None:
    world = World(pool_size=1)
    apps = world.apps(3)
    for app in apps:
        app.send(query("sleep 1"))
    world.configure(pool_size=3)
    assert len(world.sessions) == 3


# -- checks before reuse


def test_a_server_idle_for_long_is_checked_before_it_is_used() -> None:
    world = World(server_check_query=";", server_check_delay=30.0)
    app = world.app()
    app.ask("select 1")
    world.wait(29)
    app.ask("select 2")
    world.wait(31)
    assert app.ask("select 3") == "row 3, ready"
    assert world.sessions[0].log == ["select 1", "select 2", "", "", "select 3"]


def test_a_server_that_fails_its_check_is_replaced_unnoticed() -> None:
    world = World(server_check_query="error x")
    app = world.app()
    world.wait(31)
    world.configure(server_check_delay=30.0)
    app.send(query("select 1"))
    assert world.happened("server closed: server check failed") == 1
    assert app.said() == "row 1, ready"


def test_a_server_that_does_not_answer_its_check_is_given_up() -> None:
    world = World(server_check_query=";", server_connect_timeout=2.0)
    app = world.app()
    world.wait(31)
    world.sessions[0].frozen = True
    app.send(query("select 1"))
    assert app.said() == ""
    world.wait(2.1)
    assert app.said() == "row 1, ready"
    world.wait(6)  # the dead one is cut off
    assert world.pool().total == 1


def test_without_server_connect_timeout_a_check_may_take_its_time() -> None:
    world = World(server_check_query=";", server_connect_timeout=0.0)
    app = world.app()
    world.wait(31)
    world.sessions[0].frozen = True
    app.send(query("select 1"))
    world.wait(1)
    world.sessions[0].thaw()
    world.run()
    assert app.said() == "row 1, ready"
    assert len(world.opened) == 1


def test_a_client_whose_server_dies_in_the_check_takes_an_idle_one() -> None:
    world = World(server_check_query=";")
    two_idle(world)
    world.wait(31)
    world.refuse("57P03")
    app = world.app()
    for session in world.sessions:
        session.frozen = True
    app.send(query("select 1"))
    server = app.client.server
    assert server is not None
    world.session(server).kill()
    world.run()
    (left,) = world.sessions
    left.thaw()
    world.run()
    assert app.said() == "row 1, ready"

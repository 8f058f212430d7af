"""Where servers come from: hosts, rates, refusals."""

from dataclasses import replace

import pytest

from pooler.core.hosts import Hosts
from pooler.core.settings import Host
from pooler.core.supply import DIALS_AT_ONCE, DIALS_PER_SECOND, FAILING_LIMIT
from tests.core.support import HOST, World, query

A, B, C = (Host(name, 5432) for name in "abc")


def picks(hosts: Hosts, count: int, now: float = 0.0) -> list[Host | None]:
    return [hosts.pick(now) for _ in range(count)]


def test_hosts_take_turns() -> None:
    hosts = Hosts((A, B, C), True, lambda: 0.0)
    assert picks(hosts, 4) == [A, B, C, A]


def test_hosts_in_order_the_first_that_lives() -> None:
    hosts = Hosts((A, B, C), False, lambda: 0.0)
    assert picks(hosts, 2) == [A, A]
    hosts.failed(A, 0.0, 10.0)
    assert picks(hosts, 2) == [B, B]
    hosts.succeeded(A)
    assert picks(hosts, 2) == [A, A]


def test_a_host_that_fails_is_left_alone_for_longer_each_time_up_to_a_limit() -> None:
    hosts = Hosts((A,), True, lambda: 1.0)
    pauses = []
    now = 0.0
    for _ in range(8):
        hosts.failed(A, now, 1.0)
        assert hosts.all_failing
        start = now
        while hosts.pick(now) is None:
            now += 0.01
        pauses.append(round(now - start, 2))
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0], abs=0.011)


def test_the_pause_has_jitter() -> None:
    hosts = Hosts((A,), True, lambda: 0.0)
    hosts.failed(A, 0.0, 1.0)
    assert hosts.pick(0.02) is None
    assert hosts.pick(0.025) == A


def test_a_host_that_is_gone_since_a_reload_does_no_harm() -> None:
    hosts = Hosts((A,), True, lambda: 0.0)
    hosts.failed(B, 0.0, 1.0)
    hosts.succeeded(B)
    assert hosts.pick(0.0) == A


def test_the_first_client_of_a_pool_is_served_in_the_same_turn() -> None:
    world = World()
    assert "ready" in world.app(quiet=False).said()


def test_dials_go_round_the_hosts_and_pass_over_a_dead_one() -> None:
    world = World(hosts=(A, B), pool_size=4)
    world.refuse("08001", host=B, told=False)
    apps = world.apps(4)
    for app in apps:
        app.send(query("sleep 1"))
    world.wait(2)
    assert [session.host for session in world.sessions] == [A] * 4
    assert not any(app.said() for app in apps)


def test_dials_in_parallel_are_bounded() -> None:
    world = World(pool_size=50)
    world.hold_dials = True
    for _ in range(50):
        world.app()
    world.wait(5)
    assert len(world.dials) == DIALS_AT_ONCE


def test_the_rate_of_dials_is_bounded_when_servers_die_as_fast_as_they_come() -> None:
    world = World(pool_size=10)
    world.configure(target=replace(world.target, connect_query="error x"))
    world.apps(10)
    world.wait(3)
    assert len(world.opened) <= 3 * DIALS_PER_SECOND + DIALS_AT_ONCE
    assert not world.sessions


def test_a_permanent_refusal_is_told_at_once() -> None:
    world = World()
    world.refuse("3D000")
    assert world.app(quiet=False).said() == "FATAL 3D000, closed"


@pytest.mark.parametrize("sqlstate", ["28P01", "08006"])
def test_a_permanent_refusal_is_told_to_a_greeted_client_as_the_answer(sqlstate: str) -> None:
    """08006: the server's certificate does not verify, say."""
    world = World()
    app = world.app()
    world.sessions[0].kill()
    world.refuse(sqlstate, told=sqlstate == "28P01", lasting=True)
    app.send(query("select 1") + query("select 2"))
    world.wait(2)
    assert app.said() == f"ERROR {sqlstate}, ready, ERROR {sqlstate}, ready"
    world.refusals.clear()
    app.send(query("select 3"))
    world.wait(1)
    assert app.said() == "row 3, ready"


def test_a_refusal_that_may_pass_is_told_after_a_while() -> None:
    world = World()
    app = world.app()
    world.sessions[0].kill()
    world.refuse("57P03")
    app.send(query("select 1"))
    world.wait(FAILING_LIMIT - 0.2)
    assert app.said() == ""
    world.wait(0.5)
    assert app.said() == "ERROR 57P03, ready"
    late = world.app("db", "alice", application_name="x", quiet=False)
    assert late.said() in ("", "FATAL 57P03, closed")
    world.wait(0.2)
    assert late.closed


def test_a_restart_is_not_noticed() -> None:
    world = World()
    app = world.app()
    world.sessions[0].kill()
    world.refuse("57P03")
    app.send(query("select 1"))
    world.wait(FAILING_LIMIT / 2)
    world.refusals.clear()
    world.wait(1)
    assert app.said() == "row 1, ready"


def test_a_database_that_cannot_be_reached_is_waited_for() -> None:
    world = World()
    world.configure(query_wait_timeout=20.0, query_wait_notify=0.0)
    app = world.app()
    world.sessions[0].kill()
    world.refuse("08001", told=False)
    app.send(query("select 1"))
    world.wait(19)
    assert app.said() == ""
    world.wait(1.5)
    assert app.said() == "ERROR 08001, ready"


def test_nobody_is_told_of_a_refusal_while_other_servers_live() -> None:
    world = World()
    holder, app = world.apps(2)
    holder.ask("begin")
    world.refuse("53300")
    app.send(query("select 1"))
    world.wait(2 * FAILING_LIMIT)
    assert app.said() == "NOTICE 00000"
    assert holder.ask("commit") == "ready"
    assert app.said() == "row 1, ready"


def test_recovery_takes_less_than_a_second() -> None:
    world = World()
    app = world.app()
    world.sessions[0].kill()
    world.refuse("08001", host=HOST, told=False)
    app.send(query("select 1"))
    world.wait(60)
    world.refusals.clear()
    world.wait(1)
    assert app.said().endswith("row 1, ready")


def test_failing_dials_slow_down() -> None:
    world = World(server_login_retry=2.0)
    app = world.app()
    world.sessions[0].kill()
    world.refuse("08001", told=False)
    app.send(query("select 1"))
    world.wait(60)
    late = [at for at, _ in world.attempts if at > world.clock - 30]
    assert 10 <= len(late) <= 31


def test_a_connect_query_that_fails_is_tried_again_ever_more_slowly_and_told() -> None:
    world = World()
    world.configure(target=replace(world.target, connect_query="error no such thing"))
    app = world.app()
    world.wait(4)
    assert app.said() == "FATAL 22012, closed"
    world.wait(60)
    app = world.app()
    world.wait(60)
    assert len(world.opened) < 2 * 60 / 0.25

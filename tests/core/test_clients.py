"""What clients do, and how they leave: waiting, cancelling, vanishing, talking garbage."""

from collections.abc import Callable

import pytest

from pooler.core.peer import HOLD_LIMIT
from pooler.wire import build, codes
from tests.core.support import (
    COPY_DONE,
    FLUSH,
    SESSION,
    App,
    World,
    bind_execute,
    copy_data,
    extended,
    query,
)


def busy(world: World, database: str = "db") -> App:
    """Take the pool's only server."""
    app = world.app(database)
    assert app.ask("begin") == "ready T"
    return app


# -- waiting


def test_query_wait_timeout_answers_the_query_and_keeps_the_client() -> None:
    world = World(pool_size=1)
    world.configure(query_wait_timeout=3.0, query_wait_notify=0.0)
    holder, app = busy(world), world.app()
    app.send(query("select 1"))
    world.wait(2.8)
    assert app.said() == ""
    world.wait(0.4)
    assert app.said() == "ERROR 53300, ready"
    holder.ask("commit")
    assert app.ask("select 2") == "row 2, ready"


def test_a_waiting_client_is_told_so_once() -> None:
    world = World(pool_size=1)
    world.configure(query_wait_notify=2.0)
    holder, app = busy(world), world.app()
    app.send(query("select 1"))
    world.wait(1.8)
    assert app.said() == ""
    world.wait(5)
    assert app.said() == "NOTICE 00000"
    holder.ask("commit")
    assert app.said() == "row 1, ready"


def test_client_login_timeout_ends_a_login_that_finds_no_server() -> None:
    world = World()
    world.hold_dials = True
    world.configure(client_login_timeout=3.0)
    app = world.app()
    world.wait(3.2)
    assert app.said() == "FATAL 53300, closed"


def test_client_idle_timeout() -> None:
    world = World()
    world.configure(client_idle_timeout=5.0)
    app = world.app()
    holder = busy(world)
    world.wait(4)
    assert app.ask("select 1") == "row 1, ready"
    world.wait(4)
    assert app.said() == ""
    world.wait(3)
    assert app.said() == "FATAL 57P05, closed"
    assert not holder.closed


# -- time limits of queries and transactions


def test_query_timeout_cancels_and_the_client_goes_on() -> None:
    world = World()
    world.configure(query_timeout=2.0)
    app = world.app()
    app.send(query("sleep 1"))
    world.wait(2.2)
    assert app.said() == "ERROR 57014, ready"
    assert len(world.cancels) == 1
    assert app.ask("select 2") == "row 2, ready"
    assert len(world.opened) == 1


def test_query_timeout_in_a_transaction_leaves_the_rest_of_it_alone() -> None:
    world = World(cancel_wait_timeout=3.0)
    world.configure(query_timeout=2.0)
    app = world.app()
    app.ask("begin")
    app.send(query("sleep 1"))
    world.wait(2.2)
    assert app.said() == "ERROR 57014, ready E"
    world.wait(10)
    assert app.ask("rollback") == "ready"


def test_query_timeout_of_one_query_leaves_the_next_of_the_pipeline_its_own_time() -> None:
    world = World(cancel_wait_timeout=1.0)
    world.configure(query_timeout=2.0)
    app = world.app()
    app.send(query("sleep 1") + query("sleep 2"))
    world.wait(2.2)
    assert app.said() == "ERROR 57014, ready"
    world.wait(1.5)
    assert app.said() == ""
    app.session.finish()
    world.run()
    assert app.said() == "row 2, ready"


def test_a_query_that_no_cancel_ends_is_cut_off() -> None:
    world = World(cancel_wait_timeout=3.0)
    world.configure(query_timeout=2.0)
    app = world.app()
    app.send(query("sleep 1"))
    app.session.frozen = True
    world.wait(4.5)
    assert app.said() == ""
    world.wait(1)
    assert app.said() == "FATAL 57014, closed"
    world.wait(6)
    assert world.pool().total == 0


def test_without_cancel_wait_timeout_a_cancel_is_awaited() -> None:
    world = World(cancel_wait_timeout=0.0)
    world.configure(query_timeout=2.0)
    app = world.app()
    world.hold_cancels = True
    app.send(query("sleep 1"))
    world.wait(3)
    world.deliver_cancel(world.held_cancels.popleft())
    world.run()
    assert app.said() == "ERROR 57014, ready"


def test_transaction_timeout_ends_the_connection() -> None:
    world = World()
    world.configure(transaction_timeout=5.0)
    app = world.app()
    app.ask("begin")
    for _ in range(4):
        world.wait(1)
        assert app.ask("select 1") == "row 1, ready T"
    world.wait(1.2)
    assert app.said() == "FATAL 25P04, closed"
    assert world.sessions[0].log[-1] == "ROLLBACK"


def test_idle_in_transaction_timeout_ends_the_connection() -> None:
    world = World()
    world.configure(idle_in_transaction_timeout=2.0)
    app = world.app()
    app.ask("begin")
    world.wait(1.5)
    app.send(query("sleep 1"))
    world.wait(5)
    app.session.finish()
    world.run()
    assert app.said() == "row 1, ready T"
    world.wait(2.2)
    assert app.said() == "FATAL 25P03, closed"


# -- cancel


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        pytest.param(query("select 1"), "ERROR 57014, ready", id="simple"),
        pytest.param(extended("select 1"), "ERROR 57014, ready", id="extended"),
        pytest.param(
            query("select 1") + query("select 2"),
            "ERROR 57014, ready, row 2, ready",
            id="two simple",
        ),
        pytest.param(
            extended("select 1") + extended("select 2"),
            "ERROR 57014, ready, row 2, ready",
            id="two extended",
        ),
        pytest.param(
            bind_execute("select 1") + FLUSH + bind_execute("select 2") + build.SYNC,
            "ERROR 57014, ready",
            id="two before one Sync",
        ),
        pytest.param(
            bind_execute("select 1") + query("select 2") + build.SYNC + query("select 3"),
            "ERROR 57014, ready, row 3, ready",
            id="a simple query is skipped to the Sync too",
        ),
        pytest.param(
            query("copy in") + copy_data(b"x") + COPY_DONE + query("select 2"),
            "ERROR 57014, ready, row 2, ready",
            id="copy data behind the query is ignored",
        ),
        pytest.param(
            build.message(codes.FUNCTION_CALL, b"x") + query("select 2"),
            "ERROR 57014, ready, row 2, ready",
            id="function call",
        ),
    ],
)
def test_cancel_of_a_waiting_client(asked: bytes, answer: str) -> None:
    world = World(pool_size=1)
    holder, app = busy(world), world.app()
    app.send(asked)
    app.cancel()
    holder.ask("commit")
    assert app.said() == answer
    assert app.ask("select 9") == "row 9, ready"
    assert not world.cancels


def test_cancel_of_a_waiting_client_whose_extended_query_is_not_all_here() -> None:
    world = World(pool_size=1)
    holder, app = busy(world), world.app()
    app.send(bind_execute("select 1"))
    app.cancel()
    assert app.said() == "ERROR 57014"
    app.send(bind_execute("select 2") + build.SYNC)
    assert app.said() == "ready"
    holder.ask("commit")
    assert app.ask("select 3") == "row 3, ready"


def test_cancel_of_a_waiting_client_whose_large_query_is_half_here() -> None:
    world = World(pool_size=1)
    holder, app = busy(world), world.app()
    large = query("select " + "x" * 200_000) + query("select 2")
    app.send(large[:100_000])
    assert not app.transport.reading
    app.cancel()
    assert app.said() == "ERROR 57014, ready"
    app.send(large[100_000:])
    holder.ask("commit")
    assert app.said() == "row 2, ready"


def test_cancel_of_a_client_whose_server_is_being_checked() -> None:
    world = World(pool_size=1, server_check_query=";")
    app = world.app()
    world.wait(31)
    world.sessions[0].frozen = True
    app.send(query("select 1"))
    app.cancel()
    assert app.said() == "ERROR 57014, ready"
    world.sessions[0].thaw()
    world.run()
    assert app.ask("select 2") == "row 2, ready"


def test_a_cancelled_query_holds_its_server_until_the_cancel_is_over() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    world.hold_cancels = True
    app.send(query("sleep 1"))
    app.cancel()
    app.cancel()  # one is enough
    assert len(world.cancels) == 1
    other.send(query("sleep 2"))
    app.session.finish()  # before the cancel comes
    world.run()
    assert app.said() == "row 1, ready"
    assert other.said() == ""
    world.deliver_cancel(world.held_cancels.popleft())
    world.run()
    other.session.finish()
    world.run()
    assert other.said() == "row 2, ready"


def test_a_server_whose_cancel_may_still_come_is_not_used_again() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    world.hold_cancels = True
    app.send(query("sleep 1"))
    app.cancel()
    app.session.finish()
    other.send(query("select 2"))
    world.deliver_cancel(world.held_cancels.popleft(), delivered=False)
    world.run()
    assert other.said() == "row 2, ready"
    assert len(world.opened) == 2


def test_a_cancel_of_an_idle_client_does_nothing() -> None:
    world = World()
    app = world.app()
    app.cancel()
    app.ask("begin")
    app.cancel()
    assert not world.cancels
    assert app.ask("commit") == "ready"


def test_a_cancelled_client_that_vanishes_leaves_its_server_to_the_cancel() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    world.hold_cancels = True
    app.send(query("sleep 1"))
    app.cancel()
    app.session.finish()
    world.run()
    app.vanish()
    other.send(query("select 2"))
    assert other.said() == ""
    world.deliver_cancel(world.held_cancels.popleft())
    world.run()
    assert other.said() == "row 2, ready"
    assert len(world.opened) == 1


# -- gone


def mid_query(app: App) -> None:
    app.send(query("sleep 1"))


def mid_query_in_transaction(app: App) -> None:
    app.ask("begin")
    app.send(query("sleep 1"))


def in_transaction(app: App) -> None:
    app.ask("begin")


def in_failed_transaction(app: App) -> None:
    app.ask("begin")
    app.ask("error 1")


def in_copy_in(app: App) -> None:
    app.send(query("copy in"))
    app.send(copy_data(b"row"))


def in_copy_in_in_transaction(app: App) -> None:
    app.ask("begin")
    in_copy_in(app)


def unsynced(app: App) -> None:
    app.send(bind_execute("select 1"))


def unsynced_after_an_error(app: App) -> None:
    app.send(bind_execute("error 1"))


def unsynced_in_transaction(app: App) -> None:
    app.ask("begin")
    app.send(bind_execute("select 1"))


def pipelined(app: App) -> None:
    app.send(query("sleep 1") + extended("select 2") + query("begin"))


PHASES = [
    mid_query,
    mid_query_in_transaction,
    in_transaction,
    in_failed_transaction,
    in_copy_in,
    in_copy_in_in_transaction,
    unsynced,
    unsynced_after_an_error,
    unsynced_in_transaction,
    pipelined,
]


@pytest.mark.parametrize("phase", PHASES)
def test_a_client_that_vanishes_leaves_a_clean_server(phase: Callable[[App], None]) -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    phase(app)
    (session,) = world.sessions
    other.send(query("select other"))
    app.vanish()
    world.wait(0.2)
    assert other.said() == "row other, ready"
    assert world.sessions == [session]
    assert session.at_rest


@pytest.mark.parametrize("phase", PHASES)
def test_a_client_that_says_goodbye_has_what_it_asked_for_done(
    phase: Callable[[App], None],
) -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    phase(app)
    if not app.session.copying:  # where it would end the backend, as PostgreSQL does
        app.bye()
        assert not world.cancels
        (session,) = world.sessions
        if session.sleeping:
            session.finish()
        world.run()
        assert other.ask("select other") == "row other, ready"
        assert world.sessions == [session]


def test_a_client_that_vanishes_while_it_waits_costs_nobody_anything() -> None:
    world = World(pool_size=1)
    holder, app = busy(world), world.app()
    app.send(query("select 1"))
    app.vanish()
    assert holder.ask("commit") == "ready"
    assert world.sessions[0].log == ["begin", "commit"]


def test_a_client_that_vanishes_while_its_server_is_prepared() -> None:
    world = World(pool_size=1)
    app, other = world.app(application_name="x"), world.app()
    other.ask("select 0")
    world.sessions[0].frozen = True
    app.send(query("select 1"))
    app.vanish()
    other.send(query("select 2"))
    world.sessions[0].thaw()
    world.run()
    assert other.said() == "row 2, ready"
    assert "select 1" not in world.sessions[0].log
    assert world.sessions[0].settings["application_name"] == ""


@pytest.mark.parametrize("missing", range(1, 9))
def test_nothing_completes_the_message_that_a_client_left_unfinished(missing: int) -> None:
    world = World(pool_size=1)
    app = world.app()
    app.ask("begin")
    (session,) = world.sessions
    app.send(query("delete from t where id=10")[:-missing])
    app.vanish()
    assert session.log == ["begin", "ROLLBACK"]


@pytest.mark.parametrize("missing", range(1, 27))
def test_nothing_completes_a_message_when_garbage_follows_it(missing: int) -> None:
    world = World(pool_size=1)
    app = world.app()
    app.ask("begin")
    (session,) = world.sessions
    asked = query("delete from t where id=10")
    app.send(asked[:-missing])
    app.send(asked[-missing:] + b"\xff\xff\xff\xff\xff")
    assert app.said() == "FATAL 08P01, closed"
    assert session.log == ["begin", "ROLLBACK"]


def test_a_client_that_leaves_a_copy_of_which_nobody_knows_the_end_costs_only_that_server() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    app.send(extended("copy in"))
    app.session.frozen = True  # the COPY fails before it reads: its Sync is answered
    app.session.say(build.error("ERROR", "42809", "cannot copy to view"))
    world.run()
    app.bye()
    world.wait(20)
    assert other.ask("select 1") == "row 1, ready"


def test_copy_out_is_passed_on() -> None:
    world = World()
    app = world.app()
    assert app.ask("copy out x") == "copy out, data x, ready"


def test_copy_in_is_passed_on() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    assert app.ask("copy in") == "copy in"
    app.send(copy_data(b"1"))
    other.send(query("select 2"))
    app.send(copy_data(b"2") + COPY_DONE)
    assert app.said() == "ready"
    assert world.sessions[0].copied == [b"1", b"2"]
    assert other.said() == "row 2, ready"


# -- what needs no server


def test_sync_is_answered_at_once_when_idle() -> None:
    world = World()
    app = world.app()
    holder = [busy(world), busy(world)]
    assert app.send(build.SYNC + FLUSH + build.SYNC).said() == "ready, ready"
    assert len(holder) == len(world.opened)


def test_copy_data_of_a_copy_that_failed_is_ignored() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    app.send(query("copy in"))
    app.session._fail("22P02", "bad row")
    app.session.work()
    world.run()
    assert app.said() == "copy in, ERROR 22P02, ready"
    other.ask("begin")
    app.send(copy_data(b"1")).send(copy_data(b"2" * 200_000)).send(COPY_DONE)
    assert app.said() == ""
    assert app.transport.reading
    other.ask("commit")
    assert app.ask("select 1") == "row 1, ready"


def test_messages_behind_terminate_are_ignored() -> None:
    world = World()
    app = world.app()
    app.send(query("select 1") + build.TERMINATE + query("select 2"))
    world.wait(0.2)
    assert "select 2" not in world.opened[0].log
    app = world.app()
    app.send(build.TERMINATE + b"\xff garbage")
    assert world.happened("client closed: client terminated") == 2


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("asked", [query, extended])
def test_a_message_may_be_split_anywhere(size: int, asked: Callable[[str], bytes]) -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    data = asked("select 1") + asked("begin") + asked("select 2") + asked("commit")
    for at in range(0, len(data), size):
        app.send(data[at : at + size])
        if at % 5 == 0:
            other.send(query("select 0"))
    assert app.said() == "row 1, ready, ready T, row 2, ready T, ready"
    assert set(other.said().split(", ")) == {"row 0", "ready"}


# -- garbage


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\xff" * 5, id="no such kind"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", id="HTTP"),
        pytest.param(b"Q\0\0\0\3", id="too short"),
        pytest.param(b"Q\xff\xff\xff\xff", id="too long"),
        pytest.param(b"S\0\0\xff\xff", id="too long for a Sync"),
        pytest.param(b"p\0\0\0\x09abcd\0", id="a password now"),
    ],
)
@pytest.mark.parametrize("phase", ["idle", "waiting", "active"])
def test_garbage_is_a_protocol_violation(garbage: bytes, phase: str) -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    if phase == "active":
        app.ask("begin")
    elif phase == "waiting":
        other.ask("begin")
        app.send(query("select 1"))
    app.send(garbage)
    if phase == "waiting":
        other.ask("commit")
    assert app.said() == "FATAL 08P01, closed"
    world.wait(1)
    assert other.ask("select 2") == "row 2, ready"


# -- back pressure


def test_a_slow_client_stops_its_server_only() -> None:
    world = World()
    slow, other = world.apps(2)
    slow.ask("begin")
    slow.send(query("sleep 1"))
    slow.client.pause_writing()
    slow.session.finish()
    world.run()
    assert slow.said() == ""
    assert other.ask("select 2") == "row 2, ready"
    slow.client.resume_writing()
    world.run()
    assert slow.said() == "row 1, ready T"


def test_a_slow_server_stops_its_client_only() -> None:
    world = World()
    app, other = world.apps(2)
    app.ask("begin")
    server = app.client.server
    assert server is not None
    server.pause_writing()
    app.send(query("select 1"))
    assert app.said() == ""
    assert other.ask("select 2") == "row 2, ready"
    server.resume_writing()
    world.run()
    assert app.said() == "row 1, ready T"


def test_brakes_are_released_when_server_and_client_part() -> None:
    world = World(pool_size=1)
    slow, other = world.apps(2)
    slow.send(query("sleep 1"))
    server = slow.client.server
    assert server is not None
    slow.client.pause_writing()
    slow.vanish()
    world.run()
    assert not server.braked
    assert other.ask("select 2") == "row 2, ready"


def test_a_client_that_is_still_full_brakes_its_next_server() -> None:
    world = World(pool_size=1)
    app = world.app()
    app.client.pause_writing()
    app.send(query("select 1"))
    assert app.said() == ""
    app.client.resume_writing()
    world.run()
    assert app.said() == "row 1, ready"


def test_a_server_that_is_still_full_brakes_its_next_client() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    app.send(query("sleep 1"))
    server = app.client.server
    assert server is not None
    server.pause_writing()
    world.session(server).finish()
    world.run()
    assert app.said() == "row 1, ready"
    assert not app.client.braked
    other.ask("begin")
    assert other.client.braked
    server.resume_writing()
    assert not other.client.braked


def test_no_more_is_held_than_the_limit() -> None:
    world = World(pool_size=1)
    holder, app = busy(world), world.app()
    for i in range(1000):
        app.send(query(f"select {i}" + " " * 1000))
    assert len(app.client._held) < HOLD_LIMIT + 2000
    holder.ask("commit")
    assert app.said().count("ready") == 1000
    assert not app.client._held


def test_a_slow_sender_of_a_small_query_costs_nobody_a_server() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    asked = query("select " + "1" * 1000)
    app.send(asked[:-1])
    assert other.ask("begin") == "ready T"
    app.send(asked[-1:])
    other.ask("commit")
    assert app.said().startswith("row 111")


def test_a_session_client_in_copy_out_may_be_slow() -> None:
    world = World(mode=SESSION)
    app = world.app()
    app.ask("select 0")
    app.client.pause_writing()
    app.send(query("copy out x"))
    assert app.said() == ""
    app.client.resume_writing()
    world.run()
    assert app.said() == "copy out, data x, ready"

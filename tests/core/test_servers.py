"""How servers fail, and what their clients hear of it."""

from collections.abc import Callable

import pytest

from pooler.wire import build, codes
from tests.core.support import SESSION, App, World, bind_execute, copy_data, query
from tests.core.test_clients import PHASES


@pytest.mark.parametrize("phase", PHASES)
def test_a_client_whose_server_dies_gets_one_error(phase: Callable[[App], None]) -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    phase(app)
    app.said()
    app.session.kill()
    world.run()
    assert app.said() == "FATAL 08006, closed"
    assert other.ask("select 1") == "row 1, ready"


@pytest.mark.parametrize("phase", PHASES)
def test_a_client_whose_server_says_why_is_told_once(phase: Callable[[App], None]) -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    phase(app)
    app.said()
    app.session.terminate()
    world.run()
    assert app.said() == "FATAL 57P01, closed"
    assert other.ask("select 1") == "row 1, ready"


def test_an_idle_server_that_dies_is_dropped_unnoticed() -> None:
    world = World(pool_size=1)
    app = world.app()
    world.sessions[0].kill()
    world.run()
    assert app.ask("select 1") == "row 1, ready"


def test_an_idle_server_that_has_said_goodbye_is_given_to_nobody() -> None:
    world = World(pool_size=1)
    app = world.app()
    world.sessions[0].say(build.error("FATAL", "57P01", "shutting down"))  # its EOF is on its way
    world.run()
    app.send(query("select 1"))
    world.sessions[0].end()
    world.run()
    assert app.said() == "row 1, ready"


def test_a_server_that_says_goodbye_behind_its_check_is_given_to_nobody() -> None:
    world = World(pool_size=1, server_check_query=";")
    app = world.app()
    world.wait(31)
    (session,) = world.sessions
    session.frozen = True
    app.send(query("select 1"))
    session.say(
        build.message(codes.EMPTY_QUERY_RESPONSE, b"")
        + build.READY
        + build.error("FATAL", "57P01", "shutting down")
    )
    world.run()
    session.end()
    world.run()
    assert app.said() == "row 1, ready"


def test_an_idle_session_is_told_that_its_server_is_gone() -> None:
    world = World(mode=SESSION)
    app = world.app()
    app.ask("select 1")
    app.session.kill()
    world.run()
    assert app.said() == "FATAL 08006, closed"


def test_a_server_that_dies_while_it_is_prepared_is_replaced_unnoticed() -> None:
    world = World(pool_size=1)
    app = world.app(application_name="x")
    world.app().ask("select 0")
    world.sessions[0].frozen = True
    app.send(query("select 1"))
    world.sessions[0].kill()
    world.run()
    assert app.said() == "row 1, ready"


def test_a_server_that_dies_while_it_is_tidied() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    app.send(query("sleep 1"))
    (session,) = world.sessions
    session.frozen = True
    app.vanish()
    session.kill()
    world.run()
    assert other.ask("select 1") == "row 1, ready"


def test_a_server_that_does_not_get_tidy_is_closed() -> None:
    world = World(pool_size=1, cancel_wait_timeout=3.0)
    app, other = world.apps(2)
    app.send(query("sleep 1"))
    world.sessions[0].frozen = True
    app.vanish()
    other.send(query("select 1"))
    world.wait(2.8)
    assert other.said() == ""
    world.wait(6)
    assert world.happened("server closed: cancel_wait_timeout") == 1
    assert other.said() == "NOTICE 00000, row 1, ready"


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_no_error_is_put_into_a_message_that_a_dead_server_left_unfinished(cut: int) -> None:
    world = World(pool_size=1)
    app = world.app()
    app.send(query("sleep 1"))
    app.session.say(build.message(codes.DATA_ROW, b"x" * 50)[:-cut])
    world.run()
    before = len(app.raw)
    world.sessions[0].kill()
    world.run()
    assert app.closed
    assert len(app.raw) == before


def test_no_error_is_put_into_a_message_that_ends_in_garbage() -> None:
    world = World(pool_size=1)
    app = world.app()
    app.send(query("sleep 1"))
    row = build.message(codes.DATA_ROW, b"x" * 50)
    app.session.say(row[:-10])
    world.run()
    before = len(app.raw)
    world.sessions[0].say(row[-10:] + b"\xff" * 10)
    world.run()
    assert app.closed
    assert len(app.raw) == before


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\xff\xff\xff\xff\xff", id="no such kind"),
        pytest.param(b"D\0\0\0\0", id="too short"),
        pytest.param(b"Z\0\0\0\x06II", id="ReadyForQuery too long"),
        pytest.param(build.message(codes.PARAMETER_STATUS, b"x"), id="malformed status"),
        pytest.param(build.message(codes.ERROR_RESPONSE, b"Sx"), id="malformed error"),
        pytest.param(b"S\x3f\xff\xff\xf0" + b"x" * 100, id="endless status"),
    ],
)
def test_garbage_from_a_server_ends_it(garbage: bytes) -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    app.ask("begin")
    app.session.say(garbage)
    world.run()
    assert app.said() == "FATAL 08006, closed"
    assert world.happened("server closed: protocol violation") == 1
    assert other.ask("select 1") == "row 1, ready"


def test_a_reply_that_nobody_asked_for_ends_an_idle_server() -> None:
    world = World(pool_size=1)
    app = world.app()
    world.sessions[0].say(build.READY)
    world.run()
    assert world.happened("server closed: protocol violation") == 1
    assert app.ask("select 1") == "row 1, ready"


@pytest.mark.parametrize("size", range(1, 15))
def test_half_a_notification_to_an_idle_server_does_not_reach_the_next_client(size: int) -> None:
    world = World(pool_size=1)
    app = world.app()
    (session,) = world.sessions
    notification = build.message(codes.NOTIFICATION_RESPONSE, b"\0\0\0\1channel\0payload\0")
    session.say(notification[:size])
    world.run()
    app.send(query("sleep 1"))
    if session.gone:
        app.session.finish()
    else:
        session.say(notification[size:])
        session.finish()
    world.run()
    assert app.said() in ("row 1, ready", "notification, row 1, ready")


def test_a_leaving_server_may_say_what_it_likes() -> None:
    for last_words in (
        build.error("FATAL", "57P01", "shutting down"),
        b"\xff\xff\xff\xff\xff",
        build.READY,
    ):
        world = World(pool_size=1, server_idle_timeout=5.0)
        world.app()
        (session,) = world.sessions
        session.frozen = True
        world.wait(5.2)
        session.say(last_words)
        world.run()
        session.kill()
        world.run()
        assert world.pool().total == 0
        assert world.app().ask("select 1") == "row 1, ready"


def test_a_leaving_server_that_does_not_go_is_cut_off_and_counts_until_then() -> None:
    world = World(pool_size=1, server_idle_timeout=5.0)
    app = world.app()
    (session,) = world.sessions
    session.frozen = True
    world.wait(5.2)
    app.send(query("select 1"))
    assert len(world.opened) == 1
    world.wait(5)
    assert app.said() == "row 1, ready"


def test_notices_and_changed_parameters_reach_the_client_in_a_transaction() -> None:
    world = World(pool_size=1)
    app = world.app()
    app.ask("begin")
    app.session.say(build.notice("01000", "x") + build.parameter_status("TimeZone", "CET"))
    world.run()
    assert app.said() == "NOTICE 01000, TimeZone=CET"


def test_a_reloaded_server_tells_its_next_client() -> None:
    world = World(pool_size=1)
    app = world.app()
    world.sessions[0].say(build.parameter_status("TimeZone", "CET"))
    world.run()
    assert app.said() == ""
    assert app.ask("select 1") == "TimeZone=CET, row 1, ready"
    assert app.ask("select 2") == "row 2, ready"


def test_replies_may_be_split_anywhere() -> None:
    for size in range(1, 12):
        world = World(pool_size=1)
        world.chunk = size
        app, other = world.apps(2)
        app.send(query("begin"))
        app.send(bind_execute("error 1") + build.SYNC + query("rollback"))
        app.send(query("copy in") + copy_data(b"1") + build.message(codes.COPY_DONE, b""))
        assert app.said() == "ready T, ERROR 22012, ready E, ready, copy in, ready"
        assert other.ask("set TimeZone=CET") == "TimeZone=CET, ready"

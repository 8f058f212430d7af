"""Servers kept, asked and pinned, when something else happens at the same time."""

from collections.abc import Callable

import pytest

from pooler.core import requests
from pooler.wire import build, codes
from tests.core.support import App, Session, World, bind_execute, extended, query

NAME = "application_name"


def world_of_one(**settings: object) -> World:
    """One server, so that whoever is next gets it."""
    return World(**{"pool_size": 1, **settings})  # type: ignore[arg-type]


def kept(world: World) -> tuple[App, Session]:
    """A client that has set something, and its server, which nobody asked yet."""
    app = world.app()
    app.ask(f"set {NAME}=mine")
    return app, app.session


def asked(world: World) -> tuple[App, Session]:
    """The same while the question is on its way, and no answer comes."""
    app, session = kept(world)
    session.frozen = True
    world.wait(0.4)
    assert app.client.asked is not None
    return app, session


def pinned(world: World) -> tuple[App, Session]:
    """A client whose server holds a lock for it."""
    app = world.app()
    app.ask("select pg_advisory_lock")
    session = app.session
    world.wait(0.4)
    assert app.session is session
    return app, session


WAYS = pytest.mark.parametrize("begin", [kept, asked, pinned])
Begin = Callable[[World], tuple[App, Session]]


def is_fresh(world: World) -> None:
    """Whoever comes next has a session as new."""
    app = world.app()
    assert app.ask("select 1") == "row 1, ready"
    session = world.session(world.pool().idle[-1])
    assert session.settings[NAME] == ""
    assert not session.locked


@WAYS
def test_client_gone(begin: Begin) -> None:
    world = world_of_one()
    app, session = begin(world)
    app.vanish()
    session.thaw()
    world.wait(0.1)
    is_fresh(world)


@WAYS
def test_client_says_goodbye(begin: Begin) -> None:
    world = world_of_one()
    app, session = begin(world)
    app.bye()
    session.thaw()
    world.wait(0.1)
    is_fresh(world)


def test_client_gone_while_its_set_is_under_way() -> None:
    """A SET of a client that has left was noticed by nobody: the next client had its value."""
    world = world_of_one()
    app = world.app()
    app.send(query("sleep x;set application_name=left"))
    session = app.session
    app.bye()
    session.finish()
    world.run()
    assert session.log[-1] == "DISCARD ALL"
    is_fresh(world)


@WAYS
def test_server_dies(begin: Begin) -> None:
    world = world_of_one()
    app, session = begin(world)
    session.kill()
    world.run()
    assert app.said() == "FATAL 08006, closed"
    is_fresh(world)


@WAYS
def test_server_is_terminated(begin: Begin) -> None:
    world = world_of_one()
    app, session = begin(world)
    session.frozen = False
    session.terminate()
    world.run()
    assert app.said().endswith("closed")
    is_fresh(world)


def test_cancel_while_asked() -> None:
    world = world_of_one()
    app, session = asked(world)
    app.send(query("select 1"))
    assert app.said() == ""
    app.cancel()
    assert app.said() == "ERROR 57014, ready"
    session.thaw()
    world.run()
    assert app.ask("select 2") == "row 2, ready"
    assert session.settings[NAME] == "mine"
    assert not world.cancels


@WAYS
def test_query_meanwhile_is_answered(begin: Begin) -> None:
    world = world_of_one()
    app, session = begin(world)
    app.send(query("select 1"))
    session.thaw()
    world.run()
    assert app.said() == "row 1, ready"


@pytest.mark.parametrize("begin", [kept, asked])
def test_another_waits(begin: Begin) -> None:
    world = world_of_one()
    app, session = begin(world)
    other = world.app()
    other.send(query("select 1"))
    session.thaw()
    world.run()
    assert other.said().endswith("row 1, ready")
    assert session.settings[NAME] == ""
    assert app.ask("select 2") == "row 2, ready"
    assert session.settings[NAME] == "mine"


@WAYS
def test_reload_moves_the_client(begin: Begin) -> None:
    """To another target: the servers are renewed, the client goes on."""
    world = world_of_one()
    app, session = begin(world)
    world.per_database["db"] = {"user": "other"}
    world.configure()
    session.thaw()
    world.run()
    answer = app.ask("select 1")
    assert answer.endswith(("row 1, ready", "closed"))
    if begin is not pinned:
        assert answer.endswith("row 1, ready")
    world.wait(1)


@WAYS
def test_pool_ends(begin: Begin) -> None:
    world = world_of_one()
    app, session = begin(world)
    world.removed.add("db")
    world.configure()
    session.thaw()
    world.wait(1)
    app.send(query("select 1"))
    assert app.said().endswith("closed")
    world.wait(1)
    assert not world.sessions


def test_pin_ends_with_its_reason() -> None:
    world = world_of_one()
    app, session = pinned(world)
    other = world.app()
    other.send(query("select 1"))
    world.wait(1)
    assert other.said() == ""
    app.ask("select pg_advisory_unlock")
    world.run()
    assert other.said().endswith("row 1, ready")
    assert world.opened == [session]


def test_question_that_fails_is_asked_again() -> None:
    """A client's statement_timeout of a millisecond must not keep its server for ever."""
    world = world_of_one()
    app, session = kept(world)
    session.silent = True
    other = world.app()
    other.send(query("select 1"))
    world.wait(1)
    assert other.said() == ""
    session.silent = False
    world.wait(1)
    assert other.said().endswith("row 1, ready")
    assert session.settings[NAME] == ""
    assert app.ask("select 1") == "row 1, ready"
    assert session.settings[NAME] == "mine"


def test_too_many_names_of_settings_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of_one()
    app = world.app()
    for number in range(requests.CUSTOM_LIMIT // 100 + 1):
        names = [f"set my.n{number}_{i} = 1" for i in range(100)]
        app.ask(";".join(names).replace(" = ", "="))
    world.wait(0.4)
    assert len(app.client.custom) <= requests.CUSTOM_LIMIT
    other = world.app()
    other.send(query("select 1"))
    world.wait(1)
    assert other.said() == ""
    app.bye()
    world.run()
    assert other.said().endswith("row 1, ready")


def test_set_local_costs_no_question() -> None:
    world = world_of_one()
    app = world.app()
    for sql in ("begin", "set local work_mem=1", "commit"):
        app.ask(sql)
    app.send(extended("set local work_mem=1"))
    world.wait(1)
    assert not any(sql.startswith("(SELECT") for sql in world.opened[0].log)


def test_set_behind_set_local_in_a_pipeline_is_noticed() -> None:
    """The tag of a SET LOCAL was excused, and that of the SET behind it with it."""
    world = world_of_one()
    app = world.app()
    app.send(bind_execute("set local work_mem=1") + bind_execute("set my=2") + build.SYNC)
    world.wait(1)
    assert any(sql.startswith("(SELECT") for sql in world.opened[0].log)


def test_named_set_behind_set_local_is_noticed() -> None:
    world = world_of_one(max_prepared_statements=0)
    app = world.app()
    parse = build.message(codes.PARSE, b"s\0set my=2\0\0\0")
    app.send(query("begin") + parse + build.SYNC)
    bind = build.message(codes.BIND, b"\0s\0\0\0\0\0\0\0")
    execute = build.message(codes.EXECUTE, b"\0\0\0\0\0")
    app.send(bind_execute("set local work_mem=1") + bind + execute + build.SYNC)
    app.send(query("commit"))
    world.wait(1)
    assert any(sql.startswith("(SELECT") for sql in world.opened[0].log)

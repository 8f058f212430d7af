"""Scans of the catalog: when they are made, what is learnt of them, and that they are in no way."""

import copy
import re

import pytest

from pooler.core import catalog, hints
from pooler.core.policy import Policies, Rules
from pooler.core.retiring import vacate
from pooler.wire import build, codes
from tests.core.support import SESSION, App, World


def row(kind: str, oid: int, name: str, *settings: str, flags: int = hints.ANYTHING) -> list[bytes]:
    texts = (name, " ".join(settings))
    hexed = [text.encode().hex().encode() for text in texts]
    return [kind.encode(), str(oid).encode(), str(flags).encode(), b"f", *hexed]


def world_with(**more: object) -> tuple[World, App]:
    world = World(session_state=Policies(), **more)  # type: ignore[arg-type]
    return world, world.app()


def asked(world: World) -> int:
    """How often a server was asked what its session holds."""
    return world.pool().counters.questions


def scans(world: World) -> int:
    """Questions of scans."""
    return sum("FROM pg_proc" in sql for session in world.opened for sql in session.log)


def figures(world: World) -> dict[str, object]:
    """What the pool counts of queries, transactions, waits, bytes and errors."""
    counters = world.pool().counters
    found = {name: getattr(counters, name) for name in dir(counters) if not name.startswith("_")}
    return {
        name: copy.deepcopy(value)
        for name, value in found.items()
        if not callable(value) and name not in ("scans", "cancels")
    }


def flags_of(world: World, sql: str) -> int:
    return world.pool().hints.of(build.query(sql)[codes.HEADER :]).flags


def test_a_scan_teaches_names_round_by_round() -> None:
    world, app = world_with()
    world.catalog = [
        [row("f", 1, "mutex", "app.tenant"), row("r", 2, "stamped")],
        [row("f", 3, "Outer Mutex"), row("f", 1, "mutex")],
    ]
    app.ask("select 1")
    world.wait(0.2)
    assert scans(world) == 3, "until a round finds nothing new"
    assert world.pool().counters.scans == 1
    for sql in ("select mutex()", "select * from STAMPED", 'select "Outer Mutex"()'):
        assert flags_of(world, sql) == hints.ANYTHING
    assert flags_of(world, "select mutexes from outers") == 0
    before = asked(world)
    app.ask("select mutex()")
    assert "app.tenant" in app.client.custom
    world.wait(0.4)
    assert asked(world) == before + 1
    assert not [client for client in world.pool().clients if client.internal]


def test_a_scan_is_nothing_that_the_pool_did_for_its_clients() -> None:
    world, app = world_with()
    world.catalog = [[row("f", 1, "mutex")]]
    app.ask("select 1")
    before = figures(world)
    world.wait(0.2)
    assert scans(world) == 2
    assert figures(world) == before
    app.ask("select 1")
    after = figures(world)
    assert (before["queries"], after["queries"]) == (1, 2)
    assert (before["transactions"], after["transactions"]) == (1, 2)
    assert after["received"] == 2 * len(build.query("select 1"))


def test_a_scan_that_fails_is_no_error_of_the_pool() -> None:
    world, app = world_with()
    world.slow_catalog = True
    app.ask("select 1")
    before = figures(world)
    world.wait(0.2)
    for session in world.sessions:
        session.cancel()
    world.run()
    assert "catalog failed: canceling statement due to user request" in world.events
    assert figures(world) == before


def test_a_scan_is_made_again_after_ddl_and_in_time() -> None:
    world, app = world_with()
    app.ask("select 1")
    world.wait(1)
    assert scans(world) == 1
    world.wait(700)
    assert scans(world) == 1, "nothing was done since"
    app.ask("select 1")
    world.wait(1)
    assert scans(world) == 2
    app.ask("select 1")
    world.wait(500)
    assert scans(world) == 2
    app.ask("create function f()")
    world.wait(1)
    assert scans(world) == 2, "the fake's tag is not PostgreSQL's"
    world.router.functions_changed("db")
    world.wait(1)
    assert scans(world) == 3


@pytest.mark.parametrize(
    ("tag", "found"),
    [
        (b"CREATE FUNCTION", True),
        (b"DROP PROCEDURE", True),
        (b"ALTER EXTENSION", True),
        (b"CREATE TRIGGER", True),
        (b"CREATE TABLE", False),
    ],
)
def test_tags_of_definitions(tag: bytes, found: bool) -> None:
    assert bool(hints.of_definition(tag)) is found


def test_a_scan_gives_way() -> None:
    world, app = world_with(pool_size=1)
    world.slow_catalog = True
    app.ask("select 1")
    world.wait(0.2)
    assert scans(world) == 1
    assert app.ask("select 2") == ""
    world.wait(0.2)
    assert app.said() == "row 2, ready"
    assert world.happened("catalog failed: ") == 0
    world.slow_catalog = False
    app.ask("select 1")
    world.wait(catalog.RETRY + 1)
    assert scans(world) == 2
    assert world.pool().counters.scans == 1


def test_a_scan_is_not_in_the_way_of_dropping_the_database() -> None:
    world, app = world_with()
    world.slow_catalog = True
    app.ask("select 1")
    world.wait(0.2)
    assert scans(world) == 1
    vacate(world.pool())
    world.run()
    assert world.sessions == []
    assert world.happened("catalog failed: ") == 0


def test_a_scan_does_not_run_under_a_clients_settings() -> None:
    world, app = world_with(pool_size=1)
    app.ask("set work_mem=5MB")
    world.wait(1)
    (session,) = world.sessions
    place = next(i for i, sql in enumerate(session.log) if "FROM pg_proc" in sql)
    assert 'RESET "work_mem"' in session.log[:place]
    assert app.ask("select 1") == "row 1, ready"
    assert session.settings["work_mem"] == "5MB"


def test_a_scan_that_fails_is_told_once() -> None:
    world, app = world_with()
    world.slow_catalog = True
    for _ in range(3):
        app.ask("select 1")
        world.wait(catalog.RETRY + 1)
        for session in world.sessions:
            session.cancel()
        world.run()
    assert [e for e in world.events if e.startswith("catalog")] == [
        "catalog failed: canceling statement due to user request"
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (row("f", 1, "x" * 70_000), "a message is too long"),
        ([b"f", b"one", b"1", b"f", b"", b""], "a strange answer: invalid literal"),
        ([b"f", b"1", b"1", b"f", b"not hex", b""], "a strange answer: non-hexadecimal"),
    ],
    ids=["too long", "no number", "no hex"],
)
def test_a_server_that_answers_nonsense_is_no_bug(answer: list[bytes], said: str) -> None:
    world, app = world_with()
    world.catalog = [[answer]]
    app.ask("select 1")
    world.wait(0.2)
    (told,) = [event for event in world.events if event.startswith("catalog failed: ")]
    assert told.removeprefix("catalog failed: ").startswith(said)
    assert app.ask("select 2") == "row 2, ready"


def test_what_was_done_before_the_scan_is_looked_at() -> None:
    world, app = world_with()
    app.ask("select mutex()")
    assert asked(world) == 0
    world.catalog = [[row("f", 1, "mutex")]]
    world.wait(0.2)
    assert world.happened("server closed: connection settings changed") == 1


def test_no_scan_for_session_mode_alone() -> None:
    world, app = world_with(mode=SESSION)
    app.ask("select 1")
    world.wait(1)
    assert scans(world) == 0


def test_the_question_hints_at_nothing() -> None:
    patterns = dict(hints.HIDDEN)
    for first in (True, False):
        sql = catalog.question(patterns, [1, 2], first=first)
        seen = hints.Hints(Rules(Policies()), {})
        assert seen.of(build.query(sql)[codes.HEADER :]) is hints.NOTHING


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("BEGIN PERFORM set_config('a', b, false); END", True),
        ("\n  SET work_mem = '1MB'; SELECT 1", True),
        ("BEGIN IF a THEN SET ROLE b; END IF; END", True),
        ("BEGIN EXECUTE 'SET work_mem = 1'; END", True),
        ("CREATE TEMP TABLE t (a int)", True),
        ("BEGIN UPDATE t SET a = 1; RETURN new; END", False),
        ("BEGIN SET LOCAL work_mem = '1MB'; END", False),
        ("SELECT template, role, holder, attempts FROM load", False),
        ("SELECT pg_advisory_xact_lock(1)", False),
    ],
)
def test_bodies(body: str, found: bool) -> None:
    assert bool(re.search(hints.HIDDEN[hints.ANYTHING], body, re.IGNORECASE)) is found


@pytest.mark.parametrize(
    ("definition", "call"),
    [
        ("create or replace function app.f() as 'set_config(x)'", "select app.F(1)"),
        ('create function "Big Name"() as $$ pg_advisory_lock $$', 'select "Big Name"()'),
        ("create view v as select set_config('a.b', c, false)", "select * from v"),
        (
            "create trigger t before insert on s.tab execute function f() -- set_config",
            "update tab",
        ),
        ("create procedure p() as 'begin set work_mem = 1; end'", "call p()"),
    ],
)
def test_definitions_teach_at_once(definition: str, call: str) -> None:
    world = World()
    app = world.app()
    assert flags_of(world, call) == 0
    app.ask(definition.replace("set_config", "SET_CONFIG"))
    assert flags_of(world, call) & hints.ANYTHING


def test_a_function_that_hides_nothing_is_no_hint() -> None:
    world = World()
    world.app().ask("create function f() as 'select 1'")
    assert flags_of(world, "select f()") == 0


def test_a_server_may_go_with_the_answer_to_a_scan() -> None:
    # One chunk: the scan ends at its error and lets go of a server that has said goodbye already.
    world, app = world_with()
    world.slow_catalog = True
    app.ask("select 1")
    world.wait(0.2)
    (session,) = world.sessions
    session.sleeping = None
    session.say(
        build.error("ERROR", codes.QUERY_CANCELED, "canceled")
        + build.READY
        + build.error("FATAL", codes.ADMIN_SHUTDOWN, "terminating connection")
    )
    session.end()
    world.run()
    assert app.ask("select 2") == "row 2, ready"

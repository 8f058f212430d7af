"""Prepared statements in transaction mode: names shared, added, left out, refused, forgotten."""

from collections.abc import Sequence

import pytest

from pooler.core import client as clients
from pooler.core import names
from tests.core.support import App, Session, World, messages, query
from tests.support.rawclient import bind, close, describe, execute, flush, parse, sync

RUN = execute() + sync()


def use(name: str) -> bytes:
    """Return a burst that executes a prepared statement."""
    return bind(statement=name) + RUN


def seen(app: App, data: bytes) -> str:
    """Send; return the kinds of all replies, with the SQLSTATEs of errors."""
    app.raw.clear()
    app.send(data)
    return in_short(bytes(app.raw))


def in_short(data: bytes) -> str:
    """Put replies in short: their kinds; an error's SQLSTATE."""
    said = ""
    for kind, body in messages(bytearray(data)):
        code = body[body.find(b"\0C") + 2 :][:5].decode() if kind == ord("E") else ""
        said += f"{chr(kind)}{code}"
    return said


def busy(app: App, *others: App) -> Sequence[Session]:
    """Have others hold the first servers, in a transaction, so that `app` gets another one."""
    for other in others:
        other.ask("begin")
    return app.world.sessions


def prepared(session: Session) -> set[str]:
    """Return the texts of a backend's named statements."""
    return {sql for name, (sql, _) in session.statements.items() if name}


def nothing_is_left(world: World, *apps: App) -> None:
    """Let clients and servers go: nothing refers to any statement then."""
    pool = world.pool()
    for app in apps:
        app.bye()
    world.run()
    for session in list(world.sessions):
        session.kill()
    world.run()
    assert len(pool.registry) == 0


def test_a_statement_is_prepared_once_for_all_clients_of_a_server() -> None:
    world = World(pool_size=1)
    one, two = world.apps(2)
    assert seen(one, parse("select 1", "s") + sync() + use("s")) == "1Z2DCZ"
    assert seen(two, parse("select 1", "other") + use("other")) == "12DCZ"
    assert seen(one, use("s") + use("s")) == "2DCZ2DCZ"
    assert world.sessions[0].parsed == ["select 1"]
    nothing_is_left(world, one, two)


def test_a_statement_is_prepared_on_the_server_that_needs_it() -> None:
    world = World(pool_size=2)
    one, two = world.apps(2)
    one.send(parse("select 1", "s") + sync())
    first, second = (busy(two, two), busy(one, one))[0], world.sessions
    assert len(second) == 2
    assert seen(one, bind(statement="s") + describe("S", "s") + RUN) == "2tnDCZ"
    assert [session.parsed for session in first] == [["select 1"], ["select 1"]]
    two.ask("rollback")
    one.ask("rollback")
    nothing_is_left(world, one, two)


def test_the_same_text_with_other_settings_is_another_statement() -> None:
    world = World(pool_size=1)
    one, two = world.app(), world.app(search_path="other")
    one.send(parse("select 1", "s") + sync())
    two.send(parse("select 1", "s") + sync())
    assert world.sessions[0].parsed == ["select 1", "select 1"]
    assert len(world.pool().registry) == 2
    nothing_is_left(world, one, two)


def test_settings_that_no_plan_depends_on_share_it() -> None:
    world = World(pool_size=1)
    one, two = world.app(), world.app(application_name="other")
    one.send(parse("select 1", "s") + sync())
    two.send(parse("select 1", "s") + sync())
    assert world.sessions[0].parsed == ["select 1"]


@pytest.mark.parametrize(
    ("data", "replies"),
    [
        (parse("syntax", "s") + use("s"), "E42601Z"),
        (parse("missing", "s") + describe("S", "s") + sync(), "E42P01Z"),
        (execute("no") + parse("select 1", "s") + sync() + use("s"), "E34000ZE26000Z"),
        (parse("select 1", "s") + parse("select 2", "s") + sync(), "1E42P05Z"),
        (parse("select 1", "s") + parse("syntax", "s") + sync(), "1E42601Z"),
        (parse("select 1", "s") + close("S", "s") + parse("select 2", "s") + use("s"), "1312DCZ"),
        (close("S", "no") + sync(), "3Z"),
        (close("S", "_pooler_1") + sync(), "3Z"),
        (describe("S", "no") + sync(), "E26000Z"),
        (describe("P", "no") + sync(), "E34000Z"),
        (parse("select 1", "s") + sync() + describe("S", "s") + sync(), "1ZtnZ"),
        (query("begin") + query("error x") + parse("select 1", "s") + sync(), "CZEC"),
        (parse("error x", "s") + use("s") + use("s"), "12E22012Z2E22012Z"),
        (parse("select 1", "s") + use("s") + query("deallocate s") + use("s"), "12DCZCZE26000Z"),
        (parse("select 1", "s") + query("DEALLOCATE s;") + use("s"), "1CZE26000Z"),
        (parse("select 1", "s") + sync() + query("discard all") + use("s"), "1ZCZE26000Z"),
        (parse("select 1", "s") + sync() + query("execute s") + sync(), "1ZTDCZZ"),
        (
            parse("select 1", "s") + parse("deallocate s") + bind() + RUN + parse("select 2", "s"),
            "112CZ1",
        ),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_replies_are_those_of_a_server(data: bytes, replies: str, again: bool) -> None:
    """And so they are when others have prepared the same texts on the server before."""
    world = World(pool_size=1)
    app, other = world.apps(2)
    if again:
        other.send(parse("select 1", "a") + parse("select 2", "b") + parse("error x", "c") + sync())
    got = seen(app, data)
    if "EC" in replies:
        assert got == "CZE22012ZE25P02Z"
    else:
        assert got == replies
    app.send(sync() + query("rollback"))
    nothing_is_left(world, app, other)


@pytest.mark.parametrize("sql", ["select 2", "error x"])
@pytest.mark.parametrize("size", range(1, 60))
def test_split_anywhere(size: int, sql: str) -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    other.send(parse("select 1", "a") + sync())
    world.chunk = size
    burst = (
        parse("select 1", "s") + use("s") + parse(sql, "t") + use("t") + close("S", "s") + sync()
    )
    tail = "2DCZ" if sql == "select 2" else "2E22012Z"
    assert seen(app, burst) == f"12DCZ1{tail}3Z"


def test_errors_name_the_clients_own_name() -> None:
    world = World(pool_size=1)
    (app,) = world.apps(1)
    app.send(parse("select 1", "mine") + sync())
    app.raw.clear()
    app.send(parse("select 1", "mine") + sync())
    assert b'"mine" already exists' in app.raw
    world.sessions[0].statements.clear()
    app.raw.clear()
    app.send(use("mine"))
    assert b'"mine" does not exist' in app.raw
    assert seen(app, use("mine")) == "2DCZ", "it is prepared again"
    world.sessions[0].statements.clear()
    assert seen(app, described("mine")) == "2nDCZ", "and at once, where that is not to be seen"
    app.raw.clear()
    app.send(use("_pooler_1"))
    assert b'"_pooler_1" does not exist' in app.raw


def test_a_name_of_ours_taken_by_somebody_heals() -> None:
    world = World(pool_size=1)
    (app,) = world.apps(1)
    app.send(query("select 1"))
    world.sessions[0].statements[b"_pooler_1"] = "select 7", 0
    assert seen(app, parse("select 1", "s") + sync()) == "E42P05Z"
    assert seen(app, parse("select 1", "s") + use("s")) == "12DCZ"


def test_an_error_undoes_what_a_later_group_relied_on() -> None:
    """Bind in a second group: its own Parse in the first one was skipped."""
    world = World(pool_size=2)
    one, two = world.apps(2)
    one.send(parse("select 1", "s") + sync())
    busy(one, two)
    burst = execute("no") + bind(statement="s") + sync() + use("s") + use("s")
    assert seen(one, burst) == "E34000Z2DCZ2DCZ"
    assert seen(one, use("s")) == "2DCZ"


def test_an_error_undoes_an_eviction_that_a_later_group_relied_on() -> None:
    world = World(pool_size=1, max_prepared_statements=1)
    (app,) = world.apps(1)
    app.send(parse("select 1", "a") + sync() + parse("select 2", "b") + sync())
    burst = execute("no") + bind(statement="a") + sync() + use("b") + use("a") + use("b")
    assert seen(app, burst) == "E34000Z2DCZ2DCZ2DCZ"
    assert len(world.pool().idle[0].prepared) == 1
    assert len(prepared(world.sessions[0])) == 1


@pytest.mark.parametrize("most", [1, 3])
def test_a_server_keeps_the_most_recently_used(most: int) -> None:
    world = World(pool_size=1, max_prepared_statements=most)
    (app,) = world.apps(1)
    for i in range(10):
        assert seen(app, parse(f"select {i}", f"s{i}") + sync()) == "1Z"
        assert seen(app, use("s0")) == "2DCZ"
        session = world.sessions[0]
        assert len(prepared(session)) == len(world.pool().idle[0].prepared) <= most
    assert "select 0" in prepared(session)


def test_a_server_keeps_so_many_bytes() -> None:
    world = World(pool_size=1, max_prepared_bytes=10_000)
    (app,) = world.apps(1)
    for i in range(30):
        app.send(parse(f"select {i:01000}", f"s{i}") + sync() + close("S", f"s{i}") + sync())
    (server,) = world.pool().idle
    assert server.prepared.bytes <= 10_000
    assert len(prepared(world.sessions[0])) == len(server.prepared) == len(world.pool().registry)
    nothing_is_left(world, app)


def test_a_client_has_so_many_names() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    limit = names.CLIENT_LIMIT
    app.send(b"".join(parse("select 1", f"s{i}") for i in range(limit)) + sync())
    app.said()
    app.send(parse("select 9", "x") + parse("select 5", f"s{limit}") + sync())
    assert app.said() == "FATAL 54000, closed"
    assert seen(other, parse("select 9", "t") + use("t")) == "12DCZ", "nothing of it was sent"
    nothing_is_left(world, other)


def test_garbage_behind_a_parse_takes_it_back() -> None:
    """Of a chunk with an impossible message nothing is sent, and nothing is to be expected."""
    world = World(pool_size=1)
    app, other = world.apps(2)
    app.send(parse("select 1", "s") + b"\xff\xff\xff\xff\xff")
    assert app.said() == "FATAL 08P01, closed"
    assert seen(other, parse("select 1", "t") + use("t")) == "12DCZ"
    nothing_is_left(world, other)


def test_a_text_too_long_to_be_kept() -> None:
    world = World(pool_size=1)
    (app,) = world.apps(1)
    app.send(parse("select " + "x" * names.TEXT_LIMIT, "s") + sync())
    assert app.said() == "FATAL 54000, closed"


def test_a_large_bind_goes_on_as_it_comes() -> None:
    world = World(pool_size=1)
    (app,) = world.apps(1)
    app.send(parse("select 1", "s") + sync())
    burst = bind([b"x" * 200_000], statement="s") + RUN
    app.raw.clear()
    for at in range(0, len(burst), 50_000):
        app.send(burst[at : at + 50_000])
    assert in_short(bytes(app.raw)) == "2DCZ"


def test_flush_without_sync() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    other.send(parse("select 1", "a") + sync())
    assert seen(app, parse("select 1", "s") + flush()) == "1"
    assert seen(app, describe("S", "s") + flush()) == "tn"
    assert seen(app, use("s")) == "2DCZ"


def test_a_client_that_dies_with_effects_under_way() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    app.send(parse("sleep 1", "z") + use("z") + parse("select 1", "s") + use("s"))
    app.vanish()
    assert seen(other, parse("select 1", "t") + use("t")) == "12DCZ"
    assert seen(other, parse("sleep 1", "u") + sync()) == "1Z"
    nothing_is_left(world, other)


def test_a_server_that_dies_with_effects_under_way() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    other.send(parse("select 1", "s") + sync())
    app.send(parse("sleep 1", "z") + use("z") + parse("select 2", "s") + sync())
    world.sessions[0].kill()
    world.run()
    assert app.said().endswith("closed")
    assert len(world.pool().registry) == 1, "that of the other client"
    assert seen(other, use("s")) == "2DCZ"
    nothing_is_left(world, other)


@pytest.mark.parametrize("gentle", [True, False])
def test_servers_that_go_leave_nothing_behind(gentle: bool) -> None:
    world = World(pool_size=1, server_lifetime=10.0)
    (app,) = world.apps(1)
    for i in range(5):
        app.send(parse(f"select {i}", "s") + sync() + close("S", "s") + sync())
        if gentle:
            world.wait(11)
        else:
            world.sessions[0].kill()
            world.run()
        assert len(world.pool().registry) == 0


def test_names_under_way_are_forgotten_when_they_have_come() -> None:
    world = World(pool_size=1)
    (app,) = world.apps(1)
    for i in range(50):
        app.send(parse(f"select {i}", f"s{i}") + use(f"s{i}") + close("S", f"s{i}") + sync())
    assert not app.client.names._planned
    assert not app.client.names.recent or len(app.client.names.recent) == 1


def test_messages_that_the_server_is_not_sent_have_a_bound() -> None:
    world = World(pool_size=1)
    (app,) = world.apps(1)
    app.send(parse("select 1", "s") + sync() + parse("sleep 1", "z") + sync())
    app.raw.clear()
    app.send(use("z"))
    pair = close("S", "s") + parse("select 1", "s") + flush()
    for _ in range(1_000):
        app.send(pair * 10)
    (session,) = world.sessions
    server = app.client.server
    assert server is not None
    assert len(server.effects) <= clients.EFFECTS_LIMIT + 20
    assert app.client.braked
    session.finish()
    world.run()
    app.send(sync())
    assert not app.client.braked
    assert in_short(bytes(app.raw)).count("1") == 10_000


def test_a_client_that_moves_to_another_pool_keeps_its_statements() -> None:
    world = World(pool_size=1)
    app, other = world.apps(2)
    other.send(parse("select 0", "s") + sync())
    app.send(parse("select 1", "s") + sync())
    world.per_database["db"] = {"user": "else"}
    world.configure()
    assert seen(app, use("s")) == "2DCZ"
    assert app.said().endswith("row 1, ready")
    assert seen(other, parse("select 1", "t") + use("t")) == "12DCZ"


def test_a_reload_that_turns_it_off_strands_nobody() -> None:
    world = World(pool_size=1)
    (app,) = world.apps(1)
    app.send(parse("select 1", "s") + sync())
    world.configure(max_prepared_statements=0)
    assert seen(app, use("s")) == "2DCZ"


# -- schema change


def described(name: str) -> bytes:
    """Return what libpq sends to execute a prepared statement."""
    return bind(statement=name) + describe("P") + RUN


def test_a_changed_shape_is_not_seen_outside_of_a_transaction() -> None:
    world = World(pool_size=2)
    one, two = world.apps(2)
    for app in (one, two):
        assert seen(app, parse("shape", "s") + sync() + described("s")) == "1Z2TDCZ"
    for _ in range(3):
        world.shape += 1
        for app in (one, two):
            app.raw.clear()
            app.send(described("s"))
            assert in_short(bytes(app.raw)) == "2TDCZ"
            assert b"%d" % world.shape in app.raw
    assert len(world.pool().registry) <= 2
    nothing_is_left(world, one, two)


@pytest.mark.parametrize("size", range(1, 40))
def test_a_changed_shape_split_anywhere(size: int) -> None:
    world = World(pool_size=1)
    (app,) = world.apps(1)
    app.send(parse("shape", "s") + sync())
    world.shape = 1
    app.raw.clear()
    app.send(described("s"))
    answer = bytes(app.raw)
    world.shape = 2
    world.chunk = size
    assert seen(app, described("s")) in ("2TDCZ", "E0A000Z"), "a burst in pieces is not kept"
    world.chunk = 0
    assert seen(app, described("s")) == in_short(answer)


def test_two_stale_statements_in_a_row() -> None:
    """The first try again finds what another client made, which is stale by now."""
    world = World(pool_size=1)
    one, two = world.apps(2)
    for app in (one, two):
        app.send(parse("shape", "s") + sync())
    world.shape = 1
    assert seen(one, described("s")) == "2TDCZ"
    world.shape = 2
    assert seen(two, described("s")) == "2TDCZ"


def test_a_client_without_descriptions_gets_the_error_it_knows() -> None:
    world = World(pool_size=2)
    one, two = world.apps(2)
    for app in (one, two):
        app.send(parse("shape", "s") + describe("S", "s") + sync())
    world.shape = 1
    assert seen(one, use("s")) == "E0A000Z"
    assert seen(one, use("s")) == "E0A000Z", "as directly, until it prepares anew"
    assert seen(one, close("S", "s") + parse("shape", "s") + use("s")) == "312DCZ"
    busy(two, one)
    assert seen(two, use("s")) == "E0A000Z", "also where it is not prepared"
    assert seen(two, describe("S", "s") + use("s")) == "tT2DCZ", "it asks what it is now"
    nothing_is_left(world, one, two)


def test_a_client_that_was_told_nothing_relies_on_nothing() -> None:
    world = World(pool_size=2)
    one, two = world.apps(2)
    for app in (one, two):
        app.send(parse("shape", "s") + sync())
    world.shape = 1
    assert seen(one, use("s")) == "E0A000Z"
    assert seen(one, use("s")) == "2DCZ"
    busy(two, one)
    assert seen(two, use("s")) == "2DCZ"
    nothing_is_left(world, one, two)


@pytest.mark.parametrize("telling", [describe("S", "s") + sync(), bind(statement="s") + describe()])
@pytest.mark.parametrize("shape", [0, 1])
@pytest.mark.parametrize("there", [False, True])
def test_nobody_is_given_another_shape_than_they_were_told(
    telling: bytes, shape: int, there: bool
) -> None:
    """A server that prepares it after the change has the new shape, and no error to tell of it."""
    world = World(pool_size=2)
    one, two = world.apps(2)
    one.send(parse("shape", "s") + telling + sync())
    world.shape = shape
    if there:  # somebody else has it prepared where it is needed
        one.ask("begin")
        two.send(parse("shape", "t") + describe("S", "t") + sync())
        one.ask("rollback")
    busy(one, two)
    one.ask("begin")
    assert seen(one, use("s")) == ("E0A000Z" if shape else "2DCZ")
    one.ask("rollback")
    if not shape:
        assert seen(one, use("s")) == "2DCZ"
    assert len(world.sessions) == 2
    nothing_is_left(world, one, two)


def test_a_shape_that_comes_back_is_what_was_told() -> None:
    world = World(pool_size=2)
    one, two = world.apps(2)
    one.send(parse("shape", "s") + describe("S", "s") + sync())
    world.shape = 1
    busy(one, two)
    assert seen(one, use("s")) == "E0A000Z"
    world.shape = 0
    for _ in range(3):
        assert seen(one, use("s")) == "2DCZ"
    nothing_is_left(world, one, two)


def test_a_description_in_a_later_piece_is_noted() -> None:
    world = World(pool_size=2)
    one, two = world.apps(2)
    one.send(parse("shape", "s") + sync())
    one.send(bind(statement="s") + flush())
    assert seen(one, describe("P") + RUN) == "TDCZ"
    world.shape = 1
    busy(one, two)
    assert seen(one, use("s")) == "E0A000Z"
    nothing_is_left(world, one, two)


@pytest.mark.parametrize("behind", [b"", bind(statement="t") + execute()])
def test_a_statement_described_anew_is_not_the_old_one(behind: bytes) -> None:
    """Its text was prepared before the change, and a driver that prepares it now knows of none."""
    world = World(pool_size=1)
    one, two = world.apps(2)
    one.send(parse("shape", "s") + describe("S", "s") + sync())
    world.shape = 1
    data = parse("shape", "t") + describe("S", "t") + behind + sync()
    assert seen(two, data) == ("1tT2DCZ" if behind else "1tTZ")
    assert seen(two, use("t")) == "2DCZ"
    assert seen(one, use("s")) == "E0A000Z"
    nothing_is_left(world, one, two)


def test_who_waits_for_a_description_gets_the_error_that_came_instead() -> None:
    world = World(pool_size=2)
    one, two = world.apps(2)
    world.created.add("missing")
    one.send(parse("missing", "s") + describe("S", "s") + sync())
    busy(one, two)
    world.created.clear()
    assert seen(one, use("s") + query("select 1")) == "E42P01ZTDCZ"
    world.created.add("missing")
    assert seen(one, use("s")) == "2CZ"
    nothing_is_left(world, one, two)


def test_a_change_of_the_schema_that_was_seen_fails_nothing() -> None:
    """Not even within a transaction."""
    world = World(pool_size=2)
    one, two = world.apps(2)
    one.send(parse("shape", "s") + sync() + described("s"))
    world.shape = 1
    world.pool().registry.changed(frozenset({b"other"}))
    world.pool().registry.changed(frozenset({b"shape"}))
    one.ask("begin")
    assert seen(one, described("s")) == "2TDCZ"
    one.ask("rollback")
    nothing_is_left(world, one, two)


def test_within_a_transaction_the_error_comes_once() -> None:
    world = World(pool_size=1)
    (app,) = world.apps(1)
    app.send(parse("shape", "s") + sync())
    world.shape = 1
    app.ask("begin")
    assert seen(app, described("s")) == "E0A000Z"
    assert app.ask("rollback").endswith("ready")
    app.ask("begin")
    assert seen(app, described("s")) == "2TDCZ"


@pytest.mark.parametrize(
    "before",
    [
        parse("select 1") + bind() + execute(),
        bind(statement="s") + execute(),
        query("select 1"),
    ],
)
def test_what_did_something_before_is_not_repeated(before: bytes) -> None:
    world = World(pool_size=1)
    (app,) = world.apps(1)
    app.send(parse("select 1", "s") + parse("shape", "t") + sync())
    world.shape = 1
    assert seen(app, before + described("t")).endswith("E0A000Z")
    assert len(world.sessions[0].log) == 1


def test_a_statement_just_prepared_is_repeated_without_its_parse() -> None:
    world = World(pool_size=1)
    one, two = world.apps(2)
    one.send(parse("shape", "s") + sync())
    world.shape = 1
    assert seen(two, parse("shape", "t") + described("t")) == "12TDCZ"


def test_what_comes_while_it_is_repeated_comes_behind_it() -> None:
    world = World(pool_size=1)
    (app,) = world.apps(1)
    app.send(parse("shape", "s") + sync())
    world.shape = 1
    app.raw.clear()
    world.sessions[0].frozen = True
    app.send(described("s"))
    world.sessions[0].thaw()
    app.send(query("select 1"))
    world.run()
    assert in_short(bytes(app.raw)) == "2TDCZTDCZ"


def test_what_is_left_out_is_put_in_before_what_comes_next() -> None:
    """Rows and notices are not looked at: what stands before them must not wait for a reply."""
    world = World(pool_size=1)
    (app,) = world.apps(1)
    data = parse("select 1", "s") + close("S", "no") + close("S", "s") + query("copy out x")
    assert seen(app, data) == "133HdcCZ"


def test_deallocate_all_in_a_pipeline_spares_what_comes_behind_it() -> None:
    world = World(pool_size=1)
    (app,) = world.apps(1)
    data = parse("select 1", "a") + sync() + query("deallocate all") + parse("select 2", "c")
    assert seen(app, data + parse("select 2", "a") + sync()) == "1ZCZ11Z"


def test_a_transaction_that_fails_and_ends_in_a_pipeline() -> None:
    world = World(pool_size=1)
    (app,) = world.apps(1)
    assert seen(app, query("begin") + query("error x")) == "CZE22012Z"
    ends = parse("rollback", "r") + use("r")
    assert seen(app, ends + query("deallocate r")) == "12CZCZ"


def test_a_deallocate_that_fails_in_a_pipeline_forgets_nothing() -> None:
    world = World(pool_size=1)
    (app,) = world.apps(1)
    app.send(parse("select 1", "s") + sync())
    data = query("begin") + query("error x") + query("deallocate s") + query("rollback")
    assert seen(app, data + use("s")) == "CZE22012ZE25P02ZCZ2DCZ"


def test_a_description_that_is_only_flushed_is_repeated() -> None:
    """asyncpg prepares without a Sync."""
    world = World(pool_size=1)
    one, two = world.apps(2)
    one.send(parse("shape", "s") + describe("S", "s") + sync())
    world.shape = 1
    assert seen(two, parse("shape", "t") + describe("S", "t") + flush()) == "1tT"
    assert seen(two, sync() + use("t")) == "Z2DCZ"
    nothing_is_left(world, one, two)


@pytest.mark.parametrize("cached", [False, True])
def test_an_unnamed_statement_skipped_by_an_error(cached: bool) -> None:
    world = World(pool_size=1, cache_unnamed=cached)
    one, two = world.apps(2)
    run = bind() + RUN
    assert seen(two, parse("select 2") + run) == "12DCZ"
    two.send(parse("select 2") + sync())
    assert seen(one, execute("no") + parse("select 1") + sync() + run) == "E34000ZE26000Z"
    assert seen(one, run) == "E26000Z"
    assert seen(one, parse("select 1") + run + run) == "12DCZ2DCZ"
    nothing_is_left(world, one, two)


def test_an_unnamed_statement_that_comes_again() -> None:
    world = World(pool_size=1, cache_unnamed=True)
    one, two = world.apps(2)
    for app in (one, two, one):
        assert seen(app, parse("select 1") + bind() + RUN) == "12DCZ"
    assert world.sessions[0].parsed == ["select 1"] * 2, "as it came, then by name"
    assert seen(one, describe("S") + bind() + RUN) == "tn2DCZ"
    assert seen(one, parse("begin") + bind() + RUN + bind() + RUN) == "12CZ2CZ"
    assert seen(one, query("rollback") + bind() + RUN) == "CZE26000Z"
    nothing_is_left(world, one, two)

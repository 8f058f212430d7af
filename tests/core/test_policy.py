"""Policies: what a text shows, what is sent in place of it, and what the client is told then."""

import pytest

from pooler.core import hints, policy
from pooler.core.policy import FEATURES, Check, Policies, Policy, Rules
from pooler.wire import build, codes, parse
from tests.core.support import World, extended, query

ALL_REFUSED = Policies(**dict.fromkeys((feature.name for feature in FEATURES), Policy.ERROR))  # type: ignore[arg-type]


def refused(sql: str) -> str:
    shown = Rules(ALL_REFUSED).shown_by(build.query(sql)[codes.HEADER :])
    return shown.refused.name if shown is not None and shown.refused is not None else ""


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("SET a = 1", "settings"),
        ("select 1; set session a to 1", "settings"),
        ("reset all", "settings"),
        ("DISCARD ALL", "settings"),
        ("select set_config($1, $2, false)", "settings"),
        ("select set_config($1, $2, $3)", "settings"),
        ("select set_config('a', 'b', true)", ""),
        ("update t set a = 1", ""),
        ("set local a = 1", ""),
        ("set transaction read only", ""),
        ("set constraints all deferred", ""),
        ("prepare transaction 'x'", ""),
        ("PREPARE x AS SELECT 1", "prepared"),
        ("listen x", "listen"),
        ("select listen from t", ""),
        ("select pg_catalog.pg_try_advisory_lock(1)", "locks"),
        ("select pg_advisory_xact_lock(1)", ""),
        ("select 'pg_advisory_lock(1)'", ""),
        ("create local temporary table a (b int)", "temporary"),
        ("create temp table a on commit drop as select 1", ""),
        ("create table pg_temp.a (b int)", "temporary"),
        ("drop table pg_temp.a", ""),
        ("select template from temp", ""),
        ("declare c scroll cursor with hold for select 1", "hold"),
        ("load 'x'", "load"),
        ("select load from t", ""),
        ("select setseed(0.1)", "load"),
        ("select currval('s')", "sequences"),
        ("select nextval('s')", ""),
    ],
)
def test_what_a_text_shows(sql: str, name: str) -> None:
    assert refused(sql) == name


def test_defaults_show_nothing_and_remember_all() -> None:
    rules = Rules(Policies())
    assert rules.shown_by(b"LISTEN x\0") is None
    assert not rules.refuses
    assert rules.memory == hints.MEMORY
    assert rules.endless == hints.ENDLESS
    assert rules.pinning == 0
    for feature in FEATURES:
        assert getattr(Policies(), feature.name) is feature.default
    assert Policies().check is Check.HINTS


def test_what_is_ignored_is_not_heeded() -> None:
    rules = Rules(Policies(locks=Policy.IGNORE, sequences=Policy.IGNORE))
    assert not rules.memory & hints.LOCKS
    assert not rules.asked & hints.LOCKS
    assert rules.asked & hints.TEMPORARY
    seen = hints.Hints(rules, {})
    assert seen.of(b"SELECT pg_advisory_lock(1)\0") is hints.NOTHING
    assert seen.of(b"SELECT currval('s')\0") is hints.NOTHING


def test_nextval_is_a_hint_only_where_sequences_pin() -> None:
    text = b"SELECT nextval('s')\0"
    assert hints.Hints(Rules(Policies()), {}).of(text) is hints.NOTHING
    pinning = Rules(Policies(sequences=Policy.PIN))
    assert hints.Hints(pinning, {}).of(text).flags & pinning.endless


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_a_replacement_is_known_by_its_error(feature: policy.Feature) -> None:
    sent = policy.replacement(codes.PARSE, b"name\0LISTEN x\0\0\0", feature)
    name, sql, rest = sent[codes.HEADER :].split(b"\0", 2)
    assert (name, rest) == (b"name", b"\0\0")
    error = {"C": "0A000", "R": "pg_node_tree_in", "P": str(sql.index(b"'") + 1)}
    told = policy.refusal(error)
    assert told is not None
    fields = parse.report(told[codes.HEADER :])
    assert feature.label in fields["M"]
    assert feature.instead in fields["H"]
    assert policy.refusal({**error, "C": "22P02"}) is None
    assert policy.refusal({**error, "P": "500"}) is None
    assert policy.refusal({**error, "P": "x"}) is None


def test_a_refused_statement_is_not_sent() -> None:
    world = World(session_state=Policies(listen=Policy.ERROR))
    app = world.app()
    assert app.ask("listen x") == "ERROR 0A000, ready"
    assert app.send(extended("listen x")).said() == "ERROR 0A000, ready"
    app.send(query("select a") + query("listen x") + query("select b"))
    assert app.said() == "row a, ready, ERROR 0A000, ready, row b, ready"
    app.ask("begin")
    assert app.ask("listen x") == "ERROR 0A000, ready E"
    assert app.ask("rollback") == "ready"
    assert not any("listen" in sql for session in world.sessions for sql in session.log)
    assert world.pool().counters.refusals == 4


@pytest.mark.parametrize("chunk", [1, 7])
def test_a_refused_statement_in_pieces(chunk: int) -> None:
    world = World(session_state=Policies(listen=Policy.ERROR))
    app = world.app()
    world.chunk = chunk
    app.send(query("select a") + query("listen x") + query("select b"))
    assert app.said() == "row a, ready, ERROR 0A000, ready, row b, ready"


def test_a_warning_comes_once_a_client_and_feature() -> None:
    world = World(session_state=Policies(settings=Policy.WARN))
    app, other = world.app(), world.app()
    assert app.ask("set a=1") == "NOTICE 0A000, ready"
    assert app.ask("set a=2") == "ready"
    assert other.ask("set a=1") == "NOTICE 0A000, ready"


def test_a_reload_changes_policies() -> None:
    world = World()
    app = world.app()
    assert app.ask("listen x") == "ready"
    world.configure(session_state=Policies(listen=Policy.ERROR))
    assert app.ask("listen x") == "ERROR 0A000, ready"
    world.configure(session_state=Policies())
    assert app.ask("listen x") == "ready"

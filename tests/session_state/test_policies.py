"""Policies of session state, on a real PostgreSQL: what is warned of, refused, pinned, ignored."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from pooler.core.policy import FEATURES
from tests.live.conftest import base_config
from tests.session_state.test_pins import pinned
from tests.support import rawclient as raw
from tests.support.pooler import Pooler, merged
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient
from tests.support.waiting import wait_until

NAMES = [feature.name for feature in FEATURES]
CASES = {
    "settings": ["SET work_mem = '5MB'", "SELECT set_config('app.a', 'x', false)", "RESET ALL",
                 "/* hello */ SET ROLE alice", "SELECT 1; set SESSION time zone 'UTC'"],
    "prepared": ["PREPARE p AS SELECT 1"],
    "listen": ["LISTEN somewhere"],
    "locks": ["SELECT pg_advisory_lock(1)", "SELECT pg_try_advisory_lock_shared(1, 2)"],
    "temporary": ["CREATE TEMP TABLE t (a int)", "SELECT 1 AS a INTO TEMPORARY t",
                  "CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1"],
    "hold": ["DECLARE c CURSOR WITH HOLD FOR SELECT 1"],
    "load": ["LOAD 'plpgsql'", "SELECT setseed(0)"],
    "sequences": ["SELECT lastval()", "SELECT currval('s')"],
}  # fmt: skip
ALLOWED = [
    "SET LOCAL work_mem = '5MB'",
    "SELECT set_config('app.a', 'x', true)",
    "BEGIN; SET TRANSACTION READ ONLY; COMMIT",
    "SELECT pg_advisory_xact_lock(1)",
    "CREATE TEMP TABLE t (a int) ON COMMIT DROP",
    "BEGIN; DECLARE c CURSOR FOR SELECT 1; COMMIT",
    "SELECT 'SET work_mem; LISTEN x', 'pg_advisory_lock(1)' -- LOAD it",
    "SELECT 1 AS listen, 2 AS load, 3 AS role",
]


@pytest.fixture(scope="module")
def pooler(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pooler]:
    """A pooler with a database for each policy; each is PostgreSQL's `app`."""
    server = {"host": postgres.host, "port": postgres.port, "dbname": "app", "pool_size": 2}
    pinned = dict.fromkeys(("settings", "prepared", "listen", "sequences"), "pin")
    databases: dict[str, Any] = {
        "strict": {**server, "session_state": dict.fromkeys(NAMES, "error")},
        "warned": {**server, "session_state": dict.fromkeys(NAMES, "warn")},
        "ignored": {**server, "session_state": dict.fromkeys(NAMES, "ignore"), "pool_size": 1},
        "pinned": {**server, "session_state": pinned},
    }
    config = merged(base_config(postgres), {"databases": databases})
    pooler = Pooler(config, tmp_path_factory.mktemp("policies"))
    pooler.start()
    yield pooler
    pooler.close()


@pytest.mark.parametrize(("name", "sql"), [(n, sql) for n in CASES for sql in CASES[n]])
def test_error(pooler: Pooler, name: str, sql: str) -> None:
    with pooler.connect(dbname="strict") as client:
        with pytest.raises(psycopg.errors.FeatureNotSupported) as refused:
            client.execute(sql)
        assert "not allowed in this pool" in str(refused.value)
        assert f"session_state.{name} is" in (refused.value.diag.message_hint or "")
        assert (refused.value.diag.message_hint or "").startswith("Use ")
        assert client.execute("SELECT 1").fetchone() == (1,)
        if ";" not in sql:
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="not allowed"):
                client.execute(sql.encode() + b" -- %s", prepare=True)


@pytest.mark.parametrize("sql", ALLOWED)
def test_error_lets_others_pass(pooler: Pooler, sql: str) -> None:
    with pooler.connect(dbname="strict") as client:
        client.execute(sql)


def test_error_within_a_transaction_fails_it(pooler: Pooler) -> None:
    with pooler.connect(dbname="strict") as client:
        client.execute("BEGIN")
        client.execute("SELECT 1")
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            client.execute("SELECT pg_advisory_lock(%s)", [1])
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            client.execute("SELECT 1")
        client.execute("ROLLBACK")
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_error_in_a_pipeline_comes_in_its_turn(pooler: Pooler) -> None:
    with RawClient(pooler.host, pooler.port) as client:
        client.login("app", "strict", PASSWORDS["app"])
        parts: list[bytes] = []
        for sql in ("SELECT 'before'", "SELECT pg_advisory_lock($1)", "SELECT 'after'"):
            values = [b"1"] if "$1" in sql else []
            parts += [raw.parse(sql), raw.bind(values), raw.execute()]
        client.send(*parts, raw.sync(), raw.query("SELECT 'next'"))
        answer = client.read_until()
        assert raw.kinds(answer) == b"12DC" + b"EZ"
        assert raw.error_fields(answer[4][1])["C"] == "0A000"
        assert raw.rows(client.read_until()) == [[b"next"]]


def test_errors_of_our_own_kind_are_passed_on_as_they_are(pooler: Pooler) -> None:
    with (
        pooler.connect(dbname="strict") as client,
        pytest.raises(psycopg.errors.FeatureNotSupported, match="cannot accept a value"),
    ):
        client.execute("SELECT                                     ''::pg_node_tree")


def listening_to(client: psycopg.Connection[Any]) -> list[tuple[str, ...]]:
    """The notices that a client gets: severity, text, detail and hint."""
    heard: list[tuple[str, ...]] = []

    def hear(d: psycopg.errors.Diagnostic) -> None:
        fields = (d.severity_nonlocalized, d.message_primary, d.message_detail, d.message_hint)
        heard.append(tuple(field or "" for field in fields))

    client.add_notice_handler(hear)
    return heard


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("sequences", "load")])
def test_warn_once(pooler: Pooler, name: str) -> None:
    with pooler.connect(dbname="warned") as client:
        heard = listening_to(client)
        sql = CASES[name][0]
        client.execute(sql)
        client.execute("SELECT 1")
        (notice,) = heard
        assert notice[0] == "NOTICE"
        assert "of limited use" in notice[1]
        assert notice[2]
        assert notice[3].startswith("Use ")
        client.execute("SELECT 2")
        with suppress(psycopg.Error):  # it exists already
            client.execute(sql)
        assert len(heard) == 1


def test_warn_of_what_the_text_hid(
    pooler: Pooler, postgres: Postgres, make_lock: Callable[[], str]
) -> None:
    with pooler.connect(dbname="warned") as client:
        heard = listening_to(client)
        client.execute(f"DO $$ BEGIN PERFORM {make_lock()}(1); END $$")
        wait_until(lambda: pinned(pooler, "locks") == 1)
        client.execute("SELECT 1")
        (notice,) = heard
        assert "advisory locks" in notice[1]


@pytest.fixture
def make_lock(postgres: Postgres) -> Iterator[Callable[[], str]]:
    """Makes a function that hides an advisory lock; it is dropped after the test."""
    body = "SELECT pg_advisory_lock($1)"

    def make() -> str:
        postgres.sql(
            f"CREATE FUNCTION mutex(bigint) RETURNS void LANGUAGE sql AS '{body}'", db="app"
        )
        return "mutex"

    yield make
    postgres.sql("DROP FUNCTION mutex(bigint)", db="app")


def test_ignore(pooler: Pooler, postgres: Postgres) -> None:
    with pooler.connect(dbname="ignored") as one, pooler.connect(dbname="ignored") as other:
        one.execute("SET app.left_behind = 'x'")
        one.execute("SELECT pg_advisory_lock(77)")
        # What nobody looks after is seen by the next, on the one server there is.
        setting = "SELECT current_setting('app.left_behind', true)"
        assert other.execute(setting).fetchone() == ("x",)
        assert other.execute("SELECT pg_advisory_unlock(77)").fetchone() == (True,)
        assert not any(pinned(pooler, name) for name in NAMES)
    with pooler.connect(dbname="ignored") as last:
        last.execute("RESET app.left_behind")


@pytest.mark.parametrize(
    ("name", "do", "undo"),
    [
        ("settings", "SET app.kept = 'x'", "RESET ALL"),
        ("prepared", "PREPARE p AS SELECT 1", "DEALLOCATE p"),
        ("listen", "LISTEN kept", "UNLISTEN kept"),
    ],
)
def test_pin_what_could_be_tracked(pooler: Pooler, name: str, do: str, undo: str) -> None:
    with pooler.connect(dbname="pinned") as client:
        client.execute(do)
        wait_until(lambda: pinned(pooler, name) == 1)
        if name == "settings":  # a custom setting stays, with an empty value
            return
        client.execute(undo)
        wait_until(lambda: pinned(pooler, name) == 0)
    wait_until(lambda: pinned(pooler, name) == 0)


def test_pin_sequences(pooler: Pooler, postgres: Postgres) -> None:
    postgres.sql("CREATE SEQUENCE kept OWNED BY NONE; ALTER SEQUENCE kept OWNER TO app", db="app")
    try:
        with pooler.connect(dbname="pinned") as client, pooler.connect(dbname="pinned") as other:
            (value,) = client.execute("SELECT nextval('kept')").fetchone() or (None,)
            for _ in range(3):
                wait_until(lambda: pinned(pooler, "sequences") == 1)
                other.execute("SELECT 1")
                assert client.execute("SELECT currval('kept')").fetchone() == (value,)
    finally:
        postgres.sql("DROP SEQUENCE kept", db="app")

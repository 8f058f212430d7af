"""The startup packet: protocol versions, requests for encryption, and settings that hold."""

import struct
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import Login, SharedPooler
from tests.support import rawclient as raw
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient, ServerError
from tests.support.waiting import wait_until

CANCEL_KEY_3_2 = 32  # bytes


def refusal(pooler: Pooler, user: str, database: str, **parameters: Any) -> dict[str, str]:
    """The fields of the error that a login ends with."""
    with RawClient(pooler.host, pooler.port) as client:
        with pytest.raises(ServerError) as refused:
            client.login(user, database, PASSWORDS.get(user, "none"), **parameters)
        assert client.is_closed()
    return refused.value.fields


def show(client: RawClient, setting: str) -> str:
    """A setting's value, as the server has it."""
    ((value,),) = client.values(f"SHOW {setting}")
    assert value is not None
    return value.decode()


# Protocol versions.


@pytest.mark.parametrize(("protocol", "key"), [((3, 0), 4), ((3, 2), CANCEL_KEY_3_2)])
def test_versions_we_speak(plain_pooler: Pooler, protocol: tuple[int, int], key: int) -> None:
    with RawClient(plain_pooler.host, plain_pooler.port) as client:
        messages = client.login("app", "app", PASSWORDS["app"], protocol=protocol)
        assert b"v" not in raw.kinds(messages)
        assert len(client.key) == key
        assert client.values("SELECT 1") == [[b"1"]]


@pytest.mark.parametrize("protocol", [(3, 3), (3, 9999)])
def test_newer_versions_and_unknown_options_are_negotiated(
    plain_pooler: Pooler, protocol: tuple[int, int]
) -> None:
    options: dict[str, Any] = {"_pq_.one": "1", "_pq_.two": "2"}
    with RawClient(plain_pooler.host, plain_pooler.port) as client:
        messages = client.login("app", "app", PASSWORDS["app"], protocol=protocol, **options)
        kind, body = messages[0]
        assert kind == b"v"
        newest, count = struct.unpack_from("!ii", body)
        assert newest in (2, 3 << 16 | 2)
        assert count == 2
        assert body[8:].split(b"\0")[:2] == [b"_pq_.one", b"_pq_.two"]
        assert client.values("SELECT 1") == [[b"1"]]


def test_unknown_options_are_negotiated_in_any_version(plain_pooler: Pooler) -> None:
    options: dict[str, Any] = {"_pq_.one": "1"}
    with RawClient(plain_pooler.host, plain_pooler.port) as client:
        messages = client.login("app", "app", PASSWORDS["app"], **options)
        assert messages[0][0] == b"v"
        assert client.values("SELECT 1") == [[b"1"]]


@pytest.mark.parametrize("protocol", [(2, 0), (4, 0), (1, 2)])
def test_other_protocols_are_refused(plain_pooler: Pooler, protocol: tuple[int, int]) -> None:
    with RawClient(plain_pooler.host, plain_pooler.port) as client:
        client.startup(protocol, user="app")
        kind, body = client.read()
        assert kind == b"E"
        fields = raw.error_fields(body)
        assert (fields["S"], fields["V"], fields["C"]) == ("FATAL", "FATAL", "0A000")
        assert "unsupported frontend protocol" in fields["M"]
        assert client.is_closed()


@pytest.mark.parametrize(
    "requests",
    [
        [raw.SSL_REQUEST],
        [raw.GSSENC_REQUEST],
        [raw.SSL_REQUEST, raw.GSSENC_REQUEST],
        [raw.GSSENC_REQUEST, raw.SSL_REQUEST],
    ],
)
def test_no_encryption_yet(plain_pooler: Pooler, requests: list[bytes]) -> None:
    with RawClient(plain_pooler.host, plain_pooler.port) as client:
        for request in requests:
            client.send(request)
            assert client.receive(1) == b"N"
        client.login("app", "app", PASSWORDS["app"])
        assert client.values("SELECT 1") == [[b"1"]]


# Who, and where to.


def test_no_user(plain_pooler: Pooler) -> None:
    with RawClient(plain_pooler.host, plain_pooler.port) as client:
        client.startup(database="app")
        kind, body = client.read()
        assert kind == b"E"
        fields = raw.error_fields(body)
        assert (fields["C"], fields["S"]) == ("28000", "FATAL")
        assert fields["M"] == "no PostgreSQL user name specified in startup packet"


def test_database_defaults_to_the_user(plain_pooler: Pooler) -> None:
    with RawClient(plain_pooler.host, plain_pooler.port) as client:
        client.login("app", "", PASSWORDS["app"])
        assert client.values("SELECT current_database()") == [[b"app"]]


def test_database_the_server_does_not_have(plain_pooler: Pooler, postgres: Postgres) -> None:
    fields = refusal(plain_pooler, "app", "no such database")
    assert (fields["S"], fields["C"]) == ("FATAL", "3D000")
    assert fields["M"] == 'database "no such database" does not exist'


def test_database_that_is_not_configured(shared_pooler: SharedPooler, postgres: Postgres) -> None:
    pooler = shared_pooler(
        databases={"*": None, "app": {"host": postgres.host, "port": postgres.port}}
    )
    fields = refusal(pooler, "app", "other")
    assert (fields["S"], fields["C"]) == ("FATAL", "3D000")
    assert fields["M"] == 'database "other" does not exist'


def test_database_by_another_name(shared_pooler: SharedPooler, postgres: Postgres) -> None:
    entry = {"host": postgres.host, "port": postgres.port, "dbname": "other", "user": "alice"}
    pooler = shared_pooler(databases={"alias": entry})
    with pooler.connect("app", "alias") as connection:
        row = connection.execute("SELECT current_database(), current_user").fetchone()
    assert row == ("other", "alice")


# Settings: in force for the one who asked, not for the next on the same server.


@pytest.fixture
def one_server(shared_pooler: SharedPooler) -> Pooler:
    """A pooler whose clients share one server connection."""
    return shared_pooler(databases={"*": {"pool_size": 1}})


SETTINGS = [
    ({"options": "-c statement_timeout=5s"}, "statement_timeout", "5s"),
    ({"options": "--statement-timeout=7s"}, "statement_timeout", "7s"),
    ({"options": "-cwork_mem=3MB -c geqo=off"}, "work_mem", "3MB"),
    ({"options": r"-c search_path=a,\ b"}, "search_path", "a, b"),
    ({"options": "-c DateStyle=German", "DateStyle": "ISO, DMY"}, "DateStyle", "ISO, DMY"),
    ({"client_encoding": "LATIN1"}, "client_encoding", "LATIN1"),
    ({"DateStyle": "German"}, "DateStyle", "German, DMY"),
    ({"datestyle": "sql, dmy"}, "DateStyle", "SQL, DMY"),
    ({"TimeZone": "Asia/Tokyo"}, "TimeZone", "Asia/Tokyo"),
    ({"IntervalStyle": "iso_8601"}, "IntervalStyle", "iso_8601"),
    ({"application_name": 'it\'s "me" \\o/'}, "application_name", 'it\'s "me" \\o/'),
    ({"search_path": '"a\'; DROP TABLE x; --"'}, "search_path", '"a\'; DROP TABLE x; --"'),
    ({"search_path": '"Quoted, Name", public'}, "search_path", '"Quoted, Name", public'),
    ({"my.own": "ünï $$ ' \\"}, "my.own", "ünï $$ ' \\"),
    ({"extra_float_digits": "0"}, "extra_float_digits", "0"),
]


@pytest.mark.parametrize(("parameters", "name", "value"), SETTINGS)
def test_startup_settings_hold_for_their_client_only(
    one_server: Pooler, login: Login, parameters: dict[str, str], name: str, value: str
) -> None:
    plain = login(at=one_server)
    if name.startswith("my."):
        assert raw.rows(plain.query(f"SELECT current_setting('{name}', true)")) in (
            [[None]],
            [[b""]],
        )
        before = ""
    else:
        before = show(plain, name)
    client = login(at=one_server, **parameters)
    reported = dict(client.parameters)
    assert show(client, name) == value
    if name in plain.parameters:
        assert reported[name] == value
    assert client.values("SELECT pg_backend_pid()") == plain.values("SELECT pg_backend_pid()")
    for _ in range(3):
        if before:
            assert show(plain, name) == before
        assert show(client, name) == value
        if name in plain.parameters:
            assert client.parameters[name] == value
            assert plain.parameters[name] == before


def test_application_name_in_unicode(one_server: Pooler, login: Login) -> None:
    # PostgreSQL itself turns what isn't ASCII into question marks or, since 16, into \xXX.
    client = login(at=one_server, application_name="naïve")
    shown = show(client, "application_name")
    assert shown.startswith("na")
    assert client.parameters["application_name"] == shown


@pytest.mark.parametrize("name", ["x" * 63, "x" * 64, "ä" * 32, "ä" * 31 + "x"])
def test_a_name_that_is_cut_is_told(pooler: Pooler, postgres: Postgres, name: str) -> None:
    said = []
    for at in (postgres, pooler, pooler):  # the second time the pooler knows the answer
        with RawClient(at.host, at.port) as client:
            greeting = client.login("app", "app", PASSWORDS["app"], application_name=name)
            notices = [raw.error_fields(body) for kind, body in greeting if kind == b"N"]
            said.append([[notice[field] for field in "SVCM"] for notice in notices])
    assert said[0] == said[1] == said[2]
    assert bool(said[0]) == (len(name.encode()) > 63)


@pytest.mark.parametrize(
    "parameters",
    [
        {"DateStyle": "nonsense"},
        {"client_encoding": "no such encoding"},
        {"TimeZone": "Nowhere/Land"},
        {"statement_timeout": "soon"},
        {"no_such_setting": "1"},
        {"shared_buffers": "1GB"},
        {"server_version": "99"},
        {"options": "-c no_such_setting=1"},
        {"options": "-c"},
        {"options": "-c geqo"},
        {"search_path": "a,,b"},
        {"search_path": "a'; DROP TABLE x; --"},
        {"log_statement": "all"},
        {"replication": "maybe"},
    ],
    ids=str,
)
def test_wrong_settings_are_refused_as_the_server_does(
    one_server: Pooler, postgres: Postgres, parameters: dict[str, Any]
) -> None:
    with (
        RawClient(postgres.host, postgres.port) as client,
        pytest.raises(ServerError) as direct,
    ):
        client.login("app", "app", PASSWORDS["app"], **parameters)
    theirs = direct.value.fields
    ours = refusal(one_server, "app", "app", **parameters)
    assert (ours["S"], ours["V"], ours["C"]) == ("FATAL", "FATAL", theirs["C"])
    with one_server.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_parameter_status_is_what_the_server_has(plain_pooler: Pooler, postgres: Postgres) -> None:
    told: list[dict[str, str]] = []
    for host, port in (
        (postgres.host, postgres.port),
        (plain_pooler.host, plain_pooler.port),
    ):
        with RawClient(host, port) as client:
            client.login("app", "app", PASSWORDS["app"], application_name="same")
            told.append(client.parameters)
    assert told[1] == told[0]


# Replication.


def test_identify_system(plain_pooler: Pooler, login: Login, postgres: Postgres) -> None:
    client = login("postgres", "app", replication="database")
    ((system, timeline, position, database),) = client.values("IDENTIFY_SYSTEM")
    assert (system or b"").isdigit()
    assert timeline == b"1"
    assert b"/" in (position or b"")
    assert database == b"app"
    ((direct,),) = postgres.sql("SELECT system_identifier::text FROM pg_control_system()")
    assert (system or b"").decode() == direct
    assert client.values("SELECT 1") == [[b"1"]]


def test_replication_has_a_server_of_its_own(
    plain_pooler: Pooler, login: Login, postgres: Postgres
) -> None:
    client = login("postgres", "other", replication="database", application_name="replica")
    client.query("IDENTIFY_SYSTEM")

    def pids() -> list[int]:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'replica'"
        return [pid for (pid,) in postgres.sql(query)]

    ((first,),) = client.values("SELECT pg_backend_pid()")
    assert pids() == [int(first or 0)]
    other = login("postgres", "other")
    for _ in range(3):
        assert other.values("SELECT pg_backend_pid()") != [[first]]
        assert client.values("SELECT pg_backend_pid()") == [[first]]
    client.send(raw.terminate())
    assert client.is_closed()
    wait_until(lambda: not pids())


def test_logical_replication_streams(
    postgres_template: Path, shared_pooler: SharedPooler, login: Login
) -> None:
    with Postgres(template=postgres_template, settings={"wal_level": "logical"}) as publisher:
        publisher.sql("CREATE TABLE t (a int); CREATE PUBLICATION p FOR TABLE t", db="app")
        publisher.sql("SELECT pg_create_logical_replication_slot('s', 'pgoutput')", db="app")
        pooler = shared_pooler(databases={"*": {"host": publisher.host, "port": publisher.port}})
        client = login("postgres", "app", at=pooler, replication="database")
        client.send(
            raw.query(
                "START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')"
            )
        )
        assert client.read_until(b"WE")[-1][0] == b"W"
        with pooler.connect("postgres") as connection:
            connection.execute("INSERT INTO t SELECT generate_series(1, 100)")
        changes: list[bytes] = []
        while b"C" not in changes:
            kind, body = client.read()
            assert kind == b"d"
            if body[:1] == b"w":
                changes.append(body[25:26])
            elif body[17:18] == b"\1":
                position = struct.unpack_from("!q", body, 1)[0]
                client.send(raw.copy_data(struct.pack("!cqqqqb", b"r", position, 0, 0, 0, 0)))
        assert changes == [b"B", b"R", *[b"I"] * 100, b"C"]
        client.send(raw.copy_done())
        assert client.read_until()[-1] == (b"Z", b"I")
        assert client.values("SELECT 1") == [[b"1"]]
        client.close()
        wait_until(lambda: publisher.sql("SELECT active FROM pg_replication_slots") == [(False,)])

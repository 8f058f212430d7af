"""The tests' own tools, tried on PostgreSQL with no pooler in between."""

import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import rawclient as raw
from tests.support.leftovers import nothing_left_over
from tests.support.pooler import Pooler, PoolerError, merged
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import Closed, RawClient, ServerError, kinds, rows


@pytest.fixture
def client(postgres: Postgres) -> Iterator[RawClient]:
    """A raw client, logged in as `app`."""
    with RawClient(postgres.host, postgres.port) as client:
        client.login("app", "app", PASSWORDS["app"])
        yield client


# The server.


def test_each_role_is_let_in_its_way(postgres: Postgres) -> None:
    ways = {"app": 10, "alice": 10, "md5user": 5, "plainuser": 3, "trustuser": 0}
    for host in (postgres.host, str(postgres.socket_dir)):
        for user, way in ways.items():
            with RawClient(host, postgres.port) as client:
                first = client.login(user, "app", PASSWORDS[user])[0]
                assert struct.unpack_from("!i", first[1]) == (way,)
                assert client.values("SELECT current_user") == [[user.encode()]]
    stored = dict(postgres.sql("SELECT rolname, rolpassword FROM pg_authid WHERE rolcanlogin"))
    assert stored["md5user"].startswith("md5")
    assert stored["app"].startswith("SCRAM-SHA-256")


@pytest.mark.parametrize("user", ["app", "md5user", "plainuser"])
def test_a_wrong_password_is_refused(postgres: Postgres, user: str) -> None:
    with RawClient(postgres.host, postgres.port) as client:
        with pytest.raises(ServerError) as error:
            client.login(user, "app", "wrong")
        assert error.value.fields["C"] == "28P01"
        assert client.is_closed()


def test_make_database(make_database: Callable[[], str], postgres: Postgres) -> None:
    name, other = make_database(), make_database()
    assert name != other
    assert postgres.backends(name) == []
    with postgres.connect("app", name, application_name="here") as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS x")
        (backend,) = postgres.backends(name)
        assert (backend["usename"], backend["application_name"]) == ("app", "here")
        assert postgres.sql("SELECT x FROM t WHERE x = %s", [1], db=name) == [(1,)]


# The raw client.


def test_simple_query(client: RawClient) -> None:
    messages = client.query("SELECT 1, NULL, 'x'; SELECT 2")
    assert kinds(messages) == b"TDCTDCZ"
    assert rows(messages) == [[b"1", None, b"x"], [b"2"]]
    assert (client.status, client.parameters["server_encoding"]) == (b"I", "UTF8")
    assert client.is_silent(0.05)


def test_error_and_transaction(client: RawClient) -> None:
    client.query("BEGIN")
    assert client.status == b"T"
    (_, body), _ = client.query("SELECT 1/0")
    assert raw.error_fields(body)["C"] == "22012"
    assert client.status == b"E"


def test_extended_query(client: RawClient) -> None:
    client.send(
        raw.parse("SELECT $1 || '!' FROM generate_series(1, 3)", "s", [25]),
        raw.bind([b"hi"], "s", "p"),
        raw.describe("S", "s"),
        raw.describe("P", "p"),
        raw.execute("p", 2),
        raw.execute("p"),
        raw.close("P", "p"),
        raw.flush(),
    )
    messages = client.read_until(b"3")
    assert kinds(messages) == b"12tTTDDsDC3"
    assert rows(messages) == [[b"hi!"]] * 3
    client.send(raw.bind([None], "s", result_formats=[1]), raw.execute(), raw.sync())
    assert rows(client.read_until()) == [[None]] * 3


def test_copy(client: RawClient) -> None:
    client.query("CREATE TEMP TABLE t (x int)")
    client.send(raw.query("COPY t FROM STDIN"))
    client.read_until(b"G")
    client.send(raw.copy_data(b"1\n2\n"), raw.copy_done())
    assert kinds(client.read_until()) == b"CZ"
    client.send(raw.query("COPY t FROM STDIN"))
    client.read_until(b"G")
    client.send(raw.copy_fail("no more"))
    assert "no more" in raw.error_fields(client.read_until()[0][1])["M"]
    assert kinds(client.query("COPY t TO STDOUT")) == b"HddcCZ"


def test_cancel(client: RawClient, postgres: Postgres) -> None:
    client.send(raw.query("SELECT pg_sleep(30)"))
    # Sooner it would find nothing to cancel.
    while not any(one["pid"] == client.pid and one["query_start"] for one in postgres.backends()):
        pass
    with RawClient(postgres.host, postgres.port) as other:
        other.send(raw.cancel_request(client.pid, client.key))
        assert other.is_closed()
    messages = client.read_until()
    assert raw.error_fields(messages[-2][1])["C"] == "57014"


@pytest.mark.parametrize("request_bytes", [raw.SSL_REQUEST, raw.GSSENC_REQUEST], ids=["ssl", "gss"])
def test_encryption_requests(postgres: Postgres, request_bytes: bytes) -> None:
    # By the unix socket, where no build of PostgreSQL offers encryption.
    with RawClient(str(postgres.socket_dir), postgres.port) as client:
        client.send(request_bytes)
        assert client.receive(1) == b"N"
        client.login("app", "app", PASSWORDS["app"], application_name="raw")
        assert client.parameters["application_name"] == "raw"


def test_reading_goes_on_after_a_timeout(client: RawClient) -> None:
    client.send(raw.query("SELECT pg_sleep(0.2)"))
    with pytest.raises(TimeoutError):
        client.read_until(timeout=0.01)
    assert client.read_until()[-1] == (b"Z", b"I")


def test_the_end(client: RawClient) -> None:
    client.send(raw.terminate())
    with pytest.raises(Closed):
        client.read()


# The pooler as a process, with a stand-in that only logs.

STAND_IN = """
import json, os, signal, sys, time, yaml
path = sys.argv[1]
def log(**fields): print(json.dumps(fields), flush=True)
def reload(*_):
    log(level="info", event="reloaded", size=yaml.safe_load(open(path))["size"])
signal.signal(signal.SIGHUP, reload)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
config = yaml.safe_load(open(path))
log(event="listening", address="[::1]:43211")
log(event="metrics", address="127.0.0.1:43212")
for fields in config.get("logs", []): log(**fields)
if config.get("dies"): sys.exit("out of luck")
log(event="ready")
while True: time.sleep(60)
"""


class StandIn(Pooler):
    command = (sys.executable, "-c", STAND_IN)


def test_life_of_a_pooler(tmp_path: Path) -> None:
    pooler = StandIn({"size": 1}, tmp_path)
    pooler.start()
    assert (pooler.host, pooler.port, pooler.metrics_port) == ("::1", 43211, 43212)
    assert pooler.dsn("bob", "x", sslmode="disable") == (
        f"postgresql://bob:{PASSWORDS['bob']}@[::1]:43211/x?sslmode=disable"
    )
    assert pooler.rss > 1_000_000
    assert pooler.cpu_seconds >= 0
    for size in (2, 3):
        assert pooler.reload({"size": size})["size"] == size
    assert pooler.log_contains(event="reloaded", size=3)
    assert not pooler.log_contains(event="reloaded", size=4)
    with pytest.raises(PoolerError, match="waited"):
        pooler.wait_for_log(0.05, event="never")
    assert pooler.terminate() == 0
    pooler.close()


def test_a_pooler_that_does_not_start(tmp_path: Path) -> None:
    pooler = StandIn({"dies": True}, tmp_path)
    with pytest.raises(PoolerError, match="out of luck"):
        pooler.start()
    with pytest.raises(PoolerError, match="died with status 1"):
        pooler.close()


def test_a_killed_pooler_is_as_wanted(tmp_path: Path) -> None:
    pooler = StandIn({}, tmp_path)
    pooler.start()
    pooler.kill()
    pooler.close()


def test_a_logged_bug_is_a_fault(tmp_path: Path) -> None:
    pooler = StandIn({"logs": [{"level": "error", "event": "bug"}]}, tmp_path)
    pooler.start()
    with pytest.raises(PoolerError, match="logged a bug"):
        pooler.close()


# What is left behind.


def test_leftovers_are_found() -> None:
    leftovers = nothing_left_over(grace=0)
    leftovers.__enter__()
    folder = tempfile.mkdtemp()
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        with pytest.raises(AssertionError) as failure:
            leftovers.__exit__(None, None, None)
        sleeper.kill()
    assert f"process {sleeper.pid} (sleep 60), file {folder}" in str(failure.value)


def test_nothing_is_left_over() -> None:
    with nothing_left_over(grace=0) as folder, tempfile.NamedTemporaryFile() as file:
        assert Path(file.name).parent == folder


# Configurations.


def test_merged() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": 3, "c": 4}
    assert merged(base, {"a": {"y": 5}, "b": None, "d": {}}) == {
        "a": {"x": 1, "y": 5},
        "c": 4,
        "d": {},
    }

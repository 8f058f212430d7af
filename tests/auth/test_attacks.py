"""Attacks that poolers have fallen for, against a running one; each leaves it as it was."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.auth.conftest import Asking
from tests.auth.test_auth_query import log_in, refused
from tests.conftest import RunWithConfig
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import (
    Closed,
    RawClient,
    error_fields,
    message,
    query,
    startup_packet,
)

HELLO = startup_packet({"user": "alice", "database": "app"})


# CVE-2025-12819: auth_query ran in a session whose search_path the client had set before it had
# proven anything, so that functions of the client's choice ran as the user who asks.


@pytest.fixture
def trap(postgres: Postgres) -> Iterator[None]:
    """Functions of the same names in a schema that anybody may use, which note who calls them."""
    postgres.sql(
        """
        CREATE SCHEMA trap;
        GRANT USAGE ON SCHEMA trap TO PUBLIC;
        CREATE TABLE trap.caught (who text);
        GRANT INSERT, SELECT ON trap.caught TO PUBLIC;
        CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO trap.caught VALUES (session_user); RETURN pg_catalog.now(); END $$;
        CREATE FUNCTION trap.secret_of(name) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO trap.caught VALUES (session_user); RETURN 'of-the-attacker'; END $$;
        CREATE FUNCTION public.secret_of(name) RETURNS text LANGUAGE sql AS $$
            SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1 $$""",
        db="app",
    )
    yield
    postgres.sql("DROP SCHEMA trap CASCADE; DROP FUNCTION public.secret_of(name)", db="app")


SETTINGS = [
    {"search_path": "trap, pg_catalog, public"},
    {"options": "-c search_path=trap,pg_catalog,public"},
    {"options": "--search-path=trap,pg_catalog,public"},
    {"search_path": "trap'; INSERT INTO trap.caught VALUES ('injected'); --"},
    {"application_name": "x'; INSERT INTO trap.caught VALUES ('injected'); --"},
    {"role": "alice"},
    {"session_authorization": "alice"},
    {"default_transaction_read_only": "on"},
    {"statement_timeout": "1"},
    {"client_encoding": "SQL_ASCII"},
]


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.usefixtures("trap")
def test_nothing_is_asked_under_settings_of_a_client(
    asking: Asking, postgres: Postgres, settings: dict[str, str], warm: bool
) -> None:
    pooler = asking(
        {
            "dbname": "app",
            "query": "SELECT $1::text, secret_of($1) WHERE now() IS NOT NULL",
            "cache_ttl": 0,
            "negative_cache_ttl": 0,
        }
    )
    if warm:
        log_in(pooler, "alice")
    for password in ("of-the-attacker", "wrong", PASSWORDS["alice"]):
        with RawClient(pooler.host, pooler.port) as client:
            with contextlib.suppress(Exception):
                client.login("alice", "app", password, protocol=(3, 0), **settings)
            assert password == PASSWORDS["alice"] or not client.status
    log_in(pooler, "alice")
    caught = {who for (who,) in postgres.sql("SELECT who FROM trap.caught", db="app")}
    assert caught <= set()


# CVE-2026-107350: a second StartupMessage in the middle of a login was taken for a new beginning.


@pytest.mark.parametrize(
    "steps",
    [
        [HELLO + startup_packet({"user": "postgres", "database": "postgres"})],
        [HELLO, startup_packet({"user": "postgres", "database": "postgres"})],
        [HELLO, HELLO, HELLO],
    ],
    ids=["at once", "later", "thrice"],
)
def test_a_second_startup_message_ends_the_login(
    run_with_config: RunWithConfig, steps: list[bytes]
) -> None:
    pooler = run_with_config()
    with RawClient(pooler.host, pooler.port) as client:
        fields = {}
        with contextlib.suppress(Closed, BrokenPipeError, ConnectionResetError):
            for step in steps:
                client.send(step)
            while True:
                kind, body = client.read()
                assert kind in b"RE"
                if kind == b"E":
                    fields = error_fields(body)
        assert (fields["S"], fields["C"]) == ("FATAL", "08P01")
    log_in(pooler, "alice")


# CVE-2026-107349: `options` with an assignment that has no name was looked at for ever.


@pytest.mark.parametrize(
    "options", ["-c=", "-c =", "-c=x", "--=", "--", "-c", "-", "-\\", "-c" * 4000]
)
def test_options_without_end(run_with_config: RunWithConfig, options: str) -> None:
    pooler = run_with_config()
    fields = refused(pooler, "alice", PASSWORDS["alice"], options=options)
    assert fields["S"] == "FATAL"
    assert fields["C"] in ("42601", "42704", "0A000")
    log_in(pooler, "alice")
    assert pooler.cpu_seconds < 5


# CVE-2026-6664: lengths that overflow an integer.

LENGTHS = [0, 1, 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF, 0x3FFFFFFF]


@pytest.mark.parametrize("length", LENGTHS, ids=hex)
def test_lengths_that_overflow(run_with_config: RunWithConfig, length: int) -> None:
    pooler = run_with_config()
    raw = struct.pack("!I", length)
    before = pooler.rss
    with RawClient(pooler.host, pooler.port) as client:  # the first packet
        client.send(raw + b"\0\3\0\0user\0alice\0\0" * 100)
        assert client.is_closed()
    with RawClient(pooler.host, pooler.port) as client:  # a password
        client.send(HELLO)
        client.read()
        client.send(b"p" + raw + b"SCRAM-SHA-256\0" + raw * 100)
        assert client.is_closed()
    with RawClient(pooler.host, pooler.port) as client:  # a length within a password
        client.send(HELLO)
        client.read()
        client.send(message(b"p", b"SCRAM-SHA-256\0" + raw + b"n,,n=,r=x"))
        kind, body = client.read()
        assert (kind, error_fields(body)["C"]) == (b"E", "08P01")
    if length < 4 or length > 0x3FFFFFFF:
        with RawClient(pooler.host, pooler.port) as client:  # and after the login
            client.login("alice", "app", PASSWORDS["alice"])
            client.send(b"Q" + raw + b"SELECT 1\0")
            assert client.is_closed()
    log_in(pooler, "alice")
    assert pooler.rss - before < 20_000_000


# CVE-2026-6666: an ErrorResponse without SQLSTATE from a server.

Answer = Callable[[bytes], None]


@pytest.fixture
def fake_server() -> Iterator[Callable[[bytes], int]]:
    """Starts servers that answer every StartupMessage with these bytes; the port."""
    with contextlib.ExitStack() as stack:

        def start(answer: bytes) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def serve() -> None:
                while True:
                    try:
                        end, _ = listener.accept()
                    except OSError:
                        return
                    with end, contextlib.suppress(OSError):
                        end.settimeout(5)
                        end.recv(10_000)
                        end.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            port: int = listener.getsockname()[1]
            return port

        yield start


ANSWERS = [
    message(b"E", b"SFATAL\0Mgo away\0\0"),
    message(b"E", b"\0"),
    message(b"E", b"C\0\0"),
    message(b"E", b"Mno end"),
    message(b"E", b""),
    b"E\xff\xff\xff\xff",
    b"E\0\0\0\0",
]


@pytest.mark.parametrize("asks", [False, True], ids=["its own server", "auth_query"])
@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_an_error_without_sqlstate(
    run_with_config: RunWithConfig,
    fake_server: Callable[[bytes], int],
    postgres: Postgres,
    answer: bytes,
    asks: bool,
) -> None:
    there = {"host": "127.0.0.1", "port": fake_server(answer)}
    pooler = run_with_config(
        auth={"user": "bob"},
        users={"md5user": None},
        databases={"bad": there, "*": {"host": postgres.host, "port": postgres.port}},
        timeouts={"server_login_retry": 0.01},
    )
    user = "md5user" if asks else "alice"
    fields = refused(pooler, user, PASSWORDS[user], database="bad")
    assert fields["S"] == "FATAL"
    assert len(fields["C"]) == 5
    assert fields["M"]
    log_in(pooler, "alice")


def test_a_query_before_the_login_is_over(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config()
    assert _answer(pooler, HELLO + query("SELECT 1")) == "08P01"
    log_in(pooler, "alice")


def _answer(pooler: Pooler, data: bytes) -> str:
    with RawClient(pooler.host, pooler.port) as client:
        client.send(data)
        return error_fields(client.read_until(b"E")[-1][1])["C"]

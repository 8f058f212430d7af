"""What comes to our port and is no client: answered or closed, logged, and nobody else notices."""

import contextlib
import random
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.adversity.witness import Witness, goodbye, login, until
from tests.conftest import RunWithConfig
from tests.support import rawclient
from tests.support.faultproxy import reset
from tests.support.pooler import Pooler
from tests.support.rawclient import Closed, RawClient


@pytest.fixture(autouse=True)
def _nobody_else_notices(shared: Pooler) -> Iterator[None]:
    before = len(shared.log)
    with Witness(shared):
        yield
    until(
        lambda: any("closed" in e["event"] or "refused" in e["event"] for e in shared.log[before:]),
        what="a log line about it",
    )
    assert not shared.log_contains(event="bug")


def _startup(code: int, body: bytes = b"") -> bytes:
    return rawclient.message(b"", struct.pack("!i", code) + body)


# Bytes that a connection begins with, and the SQLSTATE that answers them; "" is a silent close.
FIRST = {
    "nothing": (b"", ""),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "08P01"),
    "TLS": (bytes.fromhex("16030100f1010000ed0303") + bytes(200), "08P01"),
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n", "08P01"),
    "length 0": (struct.pack("!i", 0), "08P01"),
    "length 3": (struct.pack("!i", 3), "08P01"),
    "length 4": (struct.pack("!i", 4), "08P01"),
    "length 7": (struct.pack("!i", 7) + b"abc", "08P01"),
    "negative": (struct.pack("!i", -1), "08P01"),
    "2**31 - 1": (struct.pack("!i", 2**31 - 1), "08P01"),
    "10,005": (struct.pack("!i", 10_005) + bytes(10_001), "08P01"),
    "protocol 2": (_startup(2 << 16, bytes(288)), "0A000"),
    "protocol 4": (_startup(4 << 16, b"user\0app\0\0"), "0A000"),
    "no user": (_startup(3 << 16, b"\0"), "28000"),
    "no terminator": (_startup(3 << 16, b"user\0app\0"), "08P01"),
    "data behind": (_startup(3 << 16, b"user\0app\0\0more"), "08P01"),
    "half a pair": (_startup(3 << 16, b"user\0app\0database\0"), "08P01"),
    "two SSLRequests": (rawclient.SSL_REQUEST * 2, "08P01"),
    "a long SSLRequest": (_startup(80877103, b"more"), "08P01"),
    "a short cancel": (_startup(80877102, b"\0"), "08P01"),
    "a wrong cancel": (rawclient.cancel_request(1, b"abcd"), ""),
    "truncated": (rawclient.startup_packet({"user": "app"})[:-3], ""),
    "zeros": (bytes(100), "08P01"),
    "a query": (rawclient.query("SELECT 1"), "08P01"),
}


@pytest.mark.parametrize("case", FIRST)
def test_no_startup_packet(shared: Pooler, case: str) -> None:
    data, sqlstate = FIRST[case]
    with RawClient(shared.host, shared.port) as client:
        client.send(data)
        if not sqlstate:
            client.socket.shutdown(socket.SHUT_WR)
            assert client.is_closed(5)
        else:
            if case.endswith("SSLRequests"):
                assert client.receive(1) == b"N"
            fields = goodbye(client)
            assert fields is not None
            assert (fields["S"], fields["C"]) == ("FATAL", sqlstate)


# What comes instead of the answer to the SASL request.
DURING_LOGIN = {
    # CVE-2026-107350
    "a second startup packet": rawclient.startup_packet({"user": "postgres"}),
    "a query": rawclient.query("SELECT 1"),
    "length 0": b"p\0\0\0\0",
    "negative": b"p\xff\xff\xff\xff",
    "2**31 - 1": b"p\x7f\xff\xff\xff",
    "a password": rawclient.message(b"p", b"app-password\0"),
    "no mechanism": rawclient.message(b"p", b"\0"),
    "another mechanism": rawclient.message(b"p", b"PLAIN\0\0\0\0\1x"),
    "a long response": rawclient.message(b"p", b"SCRAM-SHA-256\0\x7f\xff\xff\xff" + b"n,,n=,r=x"),
    "no SCRAM": rawclient.message(b"p", b"SCRAM-SHA-256\0\0\0\0\4abcd"),
    "an empty nonce": rawclient.message(b"p", b"SCRAM-SHA-256\0\0\0\0\x08n,,n=,r="),
    "no UTF-8": rawclient.message(b"p", b"\xff\xfe\0\0\0\0\0"),
    "60 kB": rawclient.message(
        b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", 60_000) + b"x" * 60_000
    ),
}


@pytest.mark.parametrize("case", DURING_LOGIN)
def test_no_login(shared: Pooler, case: str) -> None:
    with RawClient(shared.host, shared.port) as client:
        client.startup(user="app", database="app")
        client.read_until(b"R")
        client.send(DURING_LOGIN[case])
        fields = goodbye(client)
        assert fields is not None
        assert fields["S"] == "FATAL"
        assert fields["C"] in ("08P01", "28P01")


# What a client sends that has logged in.
AFTER_LOGIN = {
    "a second startup packet": rawclient.startup_packet({"user": "postgres"}),
    "an SSLRequest": rawclient.SSL_REQUEST,
    "a password": rawclient.message(b"p", b"app-password\0"),
    "length 0": b"Q\0\0\0\0",
    "length 3": b"Q\0\0\0\3",
    "negative": b"Q\xff\xff\xff\xff",
    "2**31 - 1": b"Q\x7f\xff\xff\xff",
    "a long Sync": b"S\x0f\xff\xff\xff",
    "a long Terminate": b"X\x0f\xff\xff\xff",
    "no such kind": b"z\0\0\0\4",
    "a server's message": b"Z\0\0\0\5I",
    "text": b"hello\r\n",
    "NULs": bytes(100),
    "ones": b"\xff" * 100,
}


@pytest.mark.parametrize("when", ["idle", "in transaction", "behind a query", "in COPY"])
@pytest.mark.parametrize("case", AFTER_LOGIN)
def test_no_message(shared: Pooler, database: str, case: str, when: str) -> None:
    with login(shared, database) as client:
        if when == "in transaction":
            client.query("BEGIN; INSERT INTO t VALUES (1)")
        elif when == "in COPY":
            client.send(rawclient.query("COPY t FROM STDIN"))
            client.read_until(b"G")
        before = rawclient.query("INSERT INTO t VALUES (1)") if when == "behind a query" else b""
        client.send(before + AFTER_LOGIN[case])
        fields = goodbye(client)
        assert fields is not None
        assert (fields["S"], fields["C"]) == ("FATAL", "08P01")
    with login(shared, database) as client:
        [[count]] = client.values("SELECT count(*) FROM t")
        assert count == b"0" or when == "behind a query"


@pytest.mark.parametrize("size", [10_000, 70_000])
def test_garbage_behind_most_of_a_message(shared: Pooler, database: str, size: int) -> None:
    # The chunk that ends one message and begins none was not passed on: what was, is torn.
    with login(shared, database) as client:
        client.query("BEGIN")
        query = rawclient.query(f"INSERT INTO t VALUES (1) -- {'x' * size}")
        client.send(query[:-10])
        time.sleep(0.05)
        client.send(query[-10:] + b"\xff" * 10)
        assert (goodbye(client) or {})["C"] == "08P01"
    with login(shared, database) as client:
        client.query("SET statement_timeout = '1s'; LOCK TABLE t")
        assert client.values("SELECT count(*) FROM t") == [[b"0"]]


def test_what_an_idle_session_ignores(shared: Pooler) -> None:
    with login(shared) as client:
        client.send(rawclient.copy_data(b"1\n"), rawclient.copy_done(), rawclient.flush())
        assert client.values("SELECT 1") == [[b"1"]]
        client.send(rawclient.sync())
        assert rawclient.kinds(client.read_until()) == b"Z"


def test_random_bytes(shared: Pooler) -> None:
    rng = random.Random(1)
    for number in range(500):
        sock = socket.create_connection((shared.host, shared.port))
        kind = number % 5
        with contextlib.suppress(OSError):
            if kind == 1:
                sock.sendall(rng.randbytes(rng.randrange(1, 200)))
            elif kind == 2:
                sock.sendall(struct.pack("!i", rng.randrange(8, 300)) + rng.randbytes(300))
            elif kind == 3:
                sock.sendall(_startup(3 << 16, rng.randbytes(rng.randrange(100))))
        if kind == 4:
            reset(sock)
        sock.close()


def test_a_startup_packet_full_of_parameters(shared: Pooler) -> None:
    parameters = {f"app.p{number}": "v" * 20 for number in range(320)}
    packet = rawclient.startup_packet({"user": "app", "database": "app", **parameters})
    assert 9_000 < len(packet) <= 10_000
    with RawClient(shared.host, shared.port) as client:
        client.login("app", "app", "app-password", **parameters)  # type: ignore[arg-type]
        assert client.values("SHOW app.p319") == [[b"v" * 20]]


def test_a_message_that_is_only_announced(shared: Pooler) -> None:
    before = shared.rss
    clients = [login(shared) for _ in range(20)]
    for client in clients:
        client.send(b"Q" + struct.pack("!i", 1_000_000_000) + b"SELECT ")
    time.sleep(0.1)
    assert shared.rss - before < 5_000_000
    for client in clients:
        client.close()


@pytest.mark.parametrize(("statistics", "name"), [("off", "p"), ("on", "p"), ("off", "")])
def test_a_long_pipeline_unread(
    run_with_config: RunWithConfig, database: str, statistics: str, name: str
) -> None:
    pooler = run_with_config(queries={"statistics": statistics})
    with login(pooler, database) as client:
        one = rawclient.bind([b"7"]) + rawclient.execute() + rawclient.sync()
        client.send(rawclient.parse("SELECT $1::int", "", [23]) + one)
        client.read_until()
        client.query("BEGIN")
        client.send(rawclient.parse("SELECT $1::int", name, [23]), rawclient.sync())
        client.read_until()
        burst = (rawclient.bind([b"7"], name) + rawclient.execute() + rawclient.sync()) * 1000
        client.socket.settimeout(1)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 33:
                client.socket.sendall(burst)
                sent += 1
        client.socket.settimeout(30)
        if sent == 33:
            for _ in range(33_000):
                assert rawclient.kinds(client.read_until()) == b"2DCZ"


def test_answers_of_our_own_that_nobody_reads(shared: Pooler) -> None:
    # Each of them is given without a server, so that no server's brakes help: we stop reading.
    with login(shared) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.socket.settimeout(1)

        def flood() -> None:
            for _ in range(800):
                client.send(rawclient.sync() * 10_000)

        with pytest.raises(TimeoutError):
            flood()


def test_parse_bombs(shared: Pooler) -> None:
    with login(shared) as client:
        client.send(
            rawclient.message(b"P", b"\0SELECT 1\0\x7f\xff"),  # 32767 types that are not there
            rawclient.sync(),
        )
        assert rawclient.kinds(client.read_until()) == b"EZ"
        client.send(
            rawclient.message(b"B", b"\0\0\x7f\xff"), rawclient.message(b"B"), rawclient.sync()
        )
        assert rawclient.kinds(client.read_until()) == b"EZ"
        client.send(rawclient.message(b"Q", b"no terminator"))
        assert b"E" in rawclient.kinds(client.read_until(b"ZE"))


def test_a_login_that_dribbles(run_with_config: RunWithConfig, shared: Pooler) -> None:
    pooler = run_with_config(timeouts={"client_login_timeout": 3})  # the witness's, too
    packet = rawclient.startup_packet({"user": "app", "database": "app"})
    start = time.monotonic()
    with Witness(pooler), RawClient(pooler.host, pooler.port) as client:
        with contextlib.suppress(OSError, Closed):
            for byte in packet[:-1]:  # in 0.15 s each, which is longer than it has
                client.send(bytes([byte]))
                if not client.is_silent(0.15):
                    break
        with contextlib.suppress(OSError):  # a byte that crosses its last words undoes them
            assert (goodbye(client) or {"C": "08P01"})["C"] == "08P01"
        assert time.monotonic() - start > 2.9
    pooler.wait_for_log(event="client refused", reason="client_login_timeout")
    login(shared).close()


def test_a_client_that_does_not_read_its_goodbye(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(timeouts={"query_timeout": 0.3, "cancel_wait_timeout": 0.3})
    with login(pooler) as client:
        client.send(rawclient.query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
        pooler.wait_for_log(event="client closed", reason="query_timeout")
        # It is cut off: a RST, or the end of what fitted in the buffers.
        time.sleep(5.5)
        with contextlib.suppress(Closed):
            while True:
                client.receive(1)

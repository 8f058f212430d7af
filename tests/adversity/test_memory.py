"""Whoever is slow, on either side, holds bytes in the kernel's buffers and not in ours."""

import contextlib
import socket
import struct
import threading
import time

import pytest

from tests.adversity.witness import Witness, login, until
from tests.support import rawclient
from tests.support.faultproxy import reset
from tests.support.pooler import Pooler
from tests.support.postgres import Postgres
from tests.support.rawclient import RawClient

MB = 1_000_000
GROWTH = 20 * MB  # of the pooler's resident memory, at most


class Peak:
    """The most memory the pooler has while we watch, above what it had before."""

    def __init__(self, pooler: Pooler) -> None:
        self._pooler = pooler
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._before = pooler.rss
        self.growth = 0

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.growth = max(self.growth, self._pooler.rss - self._before)
            time.sleep(0.01)


def _drain_in_bursts(client: RawClient, size: int) -> int:
    """Read everything up to ReadyForQuery, with pauses; how many bytes came."""
    buffer = bytearray(1 << 20)
    total = 0
    tail = b""
    burst = size // 20
    while True:
        count = client.socket.recv_into(buffer)
        assert count, "the connection ended"
        total += count
        tail = (tail + bytes(buffer[max(0, count - 6) : count]))[-6:]
        if tail == b"Z\0\0\0\5I":
            return total
        if total // burst != (total - count) // burst:
            time.sleep(0.02)


@pytest.mark.parametrize("megabytes", [200, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT repeat('x', 10000) FROM generate_series(1, {rows})",
        "COPY (SELECT repeat('x', 10000) FROM generate_series(1, {rows})) TO STDOUT",
        "SELECT repeat('x', 50000000) FROM generate_series(1, {rows} / 5000)",
    ],
    ids=["rows", "copy", "huge rows"],
)
def test_a_large_result(shared: Pooler, query: str, megabytes: int) -> None:
    with login(shared) as client, Peak(shared) as peak, Witness(shared):
        client.send(rawclient.query(query.format(rows=megabytes * 100)))
        assert _drain_in_bursts(client, megabytes * MB) > megabytes * MB
    assert peak.growth < GROWTH


@pytest.mark.parametrize("megabytes", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_a_large_copy_in_while_the_server_waits(
    shared: Pooler, postgres: Postgres, database: str, megabytes: int
) -> None:
    with postgres.connect(dbname=database) as blocker, login(shared, database) as client:
        blocker.execute("BEGIN; LOCK TABLE t")
        client.send(rawclient.query("COPY t FROM STDIN"))
        part = rawclient.copy_data(b"1234567\n" * 8000)
        release = threading.Timer(0.5, blocker.execute, ("COMMIT",))
        release.start()
        with Peak(shared) as peak, Witness(shared):
            for _ in range(megabytes * MB // len(part)):
                client.send(part)
            client.send(rawclient.copy_fail("enough"))
            assert b"E" in rawclient.kinds(client.read_until(timeout=60))
        release.join()
    assert peak.growth < GROWTH


@pytest.mark.parametrize("megabytes", [50, pytest.param(200, marks=pytest.mark.slow)])
def test_a_large_query(shared: Pooler, megabytes: int) -> None:
    with login(shared) as client, Peak(shared) as peak, Witness(shared):
        size = megabytes * MB
        head, tail = b"SELECT length('", b"')\0"
        client.send(b"Q" + struct.pack("!i", 4 + len(head) + size + len(tail)), head)
        for _ in range(size // MB):
            client.send(b"x" * MB)
        client.send(tail)
        assert rawclient.rows(client.read_until(timeout=60)) == [[b"%d" % size]]
    assert peak.growth < GROWTH


def test_a_large_message_of_a_client_that_waits(shared: Pooler, database: str) -> None:
    holders = [login(shared, database) for _ in range(3)]
    for holder in holders:
        holder.query("BEGIN")
    with login(shared, database) as client, Peak(shared) as peak:
        client.socket.settimeout(0.5)
        query = rawclient.query("SELECT '" + "x" * 50 * MB + "'")
        with pytest.raises(TimeoutError):
            client.send(query)
    for holder in holders:
        holder.close()
    assert peak.growth < 2 * MB


def test_many_slow_readers(
    shared: Pooler, postgres: Postgres, request: pytest.FixtureRequest
) -> None:
    # Databases of their own, as each occupies a server.
    make_database = request.getfixturevalue("make_database")
    names = [make_database() for _ in range(6)]
    clients = [login(shared, name) for name in names for _ in range(3)]
    with Peak(shared) as peak, Witness(shared):
        for client in clients:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.send(
                rawclient.query("SELECT repeat('x', 10000) FROM generate_series(1, 100000)")
            )
        time.sleep(1)
        for client in clients[::2]:
            client.close()
        for client in clients[1::2]:
            reset(client.socket)
        for name in names:
            until(
                lambda name=name: all(  # type: ignore[misc]
                    backend["state"] == "idle" for backend in postgres.backends(name)
                ),
                5,
            )
    assert peak.growth / len(clients) < 0.6 * MB


def test_a_reader_that_stops_and_is_killed(shared: Pooler, database: str) -> None:
    with Peak(shared) as peak, Witness(shared, database):
        for _ in range(10):
            client = login(shared, database)
            client.send(
                rawclient.query("SELECT repeat('x', 10000) FROM generate_series(1, 100000)")
            )
            client.read_until(b"D")
            reset(client.socket)
    assert peak.growth < GROWTH


def test_notices_and_rows_both_ways(shared: Pooler, database: str) -> None:
    """A client that writes all before it reads anything, as psycopg2's pipelines do not."""
    with login(shared, database) as client:
        queries = rawclient.query("SELECT repeat('x', 1000)") * 1000
        client.socket.settimeout(2)
        with contextlib.suppress(TimeoutError):
            client.socket.sendall(queries)
        client.socket.settimeout(10)
        for _ in range(1000):
            assert rawclient.kinds(client.read_until()) == b"TDCZ"

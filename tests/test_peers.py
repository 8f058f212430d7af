"""Several poolers behind one address: a cancel request may come to any of them."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pooler.config import Config
from pooler.config.model import Peers as Section
from pooler.core.keys import CancelKeys, peer_of
from pooler.peers import BURST, TRAILER, Peers, sent_on
from pooler.wire.parse import CancelRequest
from tests.adversity.witness import login, until
from tests.conftest import RunWithConfig
from tests.core.support import World
from tests.support import rawclient as raw
from tests.support.pooler import Pooler, merged
from tests.support.rawclient import RawClient


def _introduce(poolers: list[Pooler], **how: Any) -> None:
    """Tell each where the others are."""
    for number, pooler in enumerate(poolers, 1):
        others = {
            other: f"{peer.host}:{peer.port}"
            for other, peer in enumerate(poolers, 1)
            if peer is not pooler
        }
        peers = {
            "members": {"id": number, "members": others},
            "hosts": {"hosts": list(others.values())},
        }[how["by"]]
        event = pooler.reload(merged(pooler.config, {"peers": peers}))
        assert event["event"] == "reloaded"


def _send_cancel(pooler: Pooler, pid: int, key: bytes) -> None:
    with RawClient(pooler.host, pooler.port) as canceller:
        canceller.send(raw.cancel_request(pid, key))
        assert canceller.is_closed()


def _is_cancelled(client: RawClient, by: Pooler) -> None:
    client.send(raw.query("SELECT pg_sleep(60)"))
    assert client.is_silent(0.3)
    _send_cancel(by, client.pid, client.key)
    kinds = [raw.error_fields(body)["C"] for kind, body in client.read_until() if kind == b"E"]
    assert kinds == ["57014"]


@pytest.mark.parametrize("by", ["members", "hosts"])
def test_a_cancel_sent_to_the_wrong_one_of_three(run_with_config: RunWithConfig, by: str) -> None:
    poolers = [run_with_config() for _ in range(3)]
    _introduce(poolers, by=by)
    with login(poolers[0]) as old, RawClient(poolers[0].host, poolers[0].port) as new:
        new.login("app", "app", "app-password", protocol=(3, 2))
        for client in (old, new):
            assert peer_of(client.pid) == (1 if by == "members" else 0)
            for pooler in poolers:
                _is_cancelled(client, by=pooler)
        wrong = bytes(len(old.key))
        old.send(raw.query("SELECT pg_sleep(0.5)"))
        for pooler in poolers:
            _send_cancel(pooler, old.pid, wrong)
        assert [kind for kind, _ in old.read_until() if kind == b"E"] == []


def test_two_that_share_a_port(run_with_config: RunWithConfig, tmp_path: Path) -> None:
    """With SO_REUSEPORT the kernel picks one; each has a unix socket for the other."""
    folders = [tmp_path / "1", tmp_path / "2"]
    for folder in folders:
        folder.mkdir()
    port = 0
    poolers = []
    for mine, other in (folders, reversed(folders)):
        listen = {"port": port, "reuse_port": True, "unix_socket_dir": str(mine)}
        poolers.append(run_with_config(listen=listen, peers={"hosts": [str(other)]}))
        port = poolers[0].port
    for pooler in poolers:  # the first one's port was not known before
        assert pooler.port == port
        pooler.reload(merged(pooler.config, {"listen": {"port": port}, "peers": {"port": port}}))
    clients = [login(poolers[0]) for _ in range(8)]
    try:
        for client in clients:
            _is_cancelled(client, by=poolers[0])
    finally:
        for client in clients:
            client.close()


@contextlib.contextmanager
def _peer() -> Iterator[tuple[int, list[bytes]]]:
    """A peer that only notes what it is asked: its port, and the requests."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = server.accept()
                    with connection:
                        asked.append(connection.recv(1000))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], asked
        finally:
            done.set()
            thread.join()


def test_what_a_peer_has_sent_on_goes_no_further(run_with_config: RunWithConfig) -> None:
    with _peer() as (port, asked):
        pooler = run_with_config(peers={"hosts": [f"127.0.0.1:{port}"]})
        _send_cancel(pooler, 42, b"\1\2\3\4")
        until(lambda: len(asked) == 1)
        assert asked[0].endswith(b"\1\2\3\4" + TRAILER)
        _send_cancel(pooler, 42, b"\1\2\3\4" + TRAILER)
        _send_cancel(pooler, 43, b"\1\2\3\4")  # and so the one before has been dealt with
        until(lambda: len(asked) == 2)
        assert asked[1].startswith(raw.cancel_request(43, bytes(12))[:12])


def test_our_own_keys_are_nobody_elses(run_with_config: RunWithConfig) -> None:
    """Of a client that has gone, say."""
    with _peer() as (port, asked):
        pooler = run_with_config(peers={"id": 7, "hosts": [f"127.0.0.1:{port}"]})
        with login(pooler) as client:
            pid, key = client.pid, client.key
        assert peer_of(pid) == 7
        _send_cancel(pooler, pid, key)
        _send_cancel(pooler, 1, key)
        until(lambda: len(asked) == 1)
        assert asked[0].startswith(raw.cancel_request(1, bytes(len(key) + len(TRAILER)))[:12])


def test_an_address_cannot_have_any_number_sent_on() -> None:
    async def flood() -> tuple[int, int]:
        with _peer() as (port, asked):
            section = Section(hosts=(f"127.0.0.1:{port}",))
            config = Config.model_construct(peers=section)
            peers = Peers(lambda: config, lambda: 1000.0)
            for _ in range(int(BURST) + 50):
                await peers.ask(CancelRequest(1, b"1234"), "192.0.2.1")
            assert peers.dropped == 50
            await peers.ask(CancelRequest(1, b"1234"), "192.0.2.2")
            await asyncio.sleep(0)
            return peers.sent, len(asked)

    sent, asked = asyncio.run(flood())
    assert sent == int(BURST) + 1
    assert asked == sent


def test_a_peer_that_does_not_answer_costs_a_moment(run_with_config: RunWithConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        pooler = run_with_config(peers={"hosts": [f"127.0.0.1:{port}", "nowhere.invalid"]})
        with RawClient(pooler.host, pooler.port) as canceller:
            canceller.send(raw.cancel_request(1, b"1234"))
            with login(pooler) as client:
                assert client.values("SELECT 1") == [[b"1"]]
            assert canceller.is_closed()


def test_the_trailer_is_no_secret_of_ours() -> None:
    assert sent_on(CancelRequest(1, b"1234")) is None
    assert sent_on(CancelRequest(1, TRAILER)) is None
    assert sent_on(CancelRequest(1, b"1234" + TRAILER)) == CancelRequest(1, b"1234")


def test_keys_say_where_they_come_from() -> None:
    keys = CancelKeys(lambda size: b"\xff" * size)
    keys.peer, keys.slot = 255, 63
    pid, secret = keys.issue(World().app().client, 0)
    assert (pid, len(secret)) == (0x7FFF_FFFF, 4)
    assert peer_of(pid) == 255


def test_a_client_is_told_of_no_process_that_there_can_be() -> None:
    """pg_terminate_backend with what BackendKeyData said must not hit anybody."""
    keys = CancelKeys(lambda size: bytes(size - 1) + b"\x01")
    client: Any = object()
    pid, _ = keys.issue(client, 0)
    assert pid >= 4_194_304  # PID_MAX_LIMIT
    assert peer_of(pid) == 0

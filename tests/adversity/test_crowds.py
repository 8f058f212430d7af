"""Many at once, and a pooler that is reloaded, killed and started again in the middle of it."""

import asyncio
import os
import resource
import socket
import struct
import threading
import time
from pathlib import Path

from tests.adversity.conftest import config_for
from tests.adversity.witness import Census, Witness, login, until
from tests.conftest import RunWithConfig
from tests.support import rawclient
from tests.support.pooler import Pooler, merged
from tests.support.postgres import Postgres
from tests.support.rawclient import RawClient

TRUST = {"type": "trust"}


async def _ask(host: str, port: int, dbname: str, number: int, gate: asyncio.Event) -> None:
    """Connect, wait for the others, ask and check, go."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(rawclient.startup_packet({"user": "app", "database": dbname}))
        await reader.readuntil(b"Z\0\0\0\5I")
        await gate.wait()
        for turn in range(3):
            writer.write(rawclient.query(f"SELECT 'n{number} {turn}'"))
            answer = await reader.readuntil(b"Z\0\0\0\5I")
            assert f"n{number} {turn}\0".encode()[:-1] in answer, answer
        writer.write(rawclient.terminate())
        await writer.drain()
    finally:
        writer.close()
        await writer.wait_closed()


def test_a_thousand_at_once(
    run_with_config: RunWithConfig, postgres: Postgres, database: str
) -> None:
    pooler = run_with_config(auth=TRUST, listen={"backlog": 1024})

    async def crowd() -> None:
        gate = asyncio.Event()
        async with asyncio.timeout(60):
            asks = [
                asyncio.create_task(_ask(pooler.host, pooler.port, database, number, gate))
                for number in range(995)
            ]
            await asyncio.sleep(1)
            gate.set()
            await asyncio.gather(*asks)

    with Census(postgres, database, 5):
        asyncio.run(crowd())
    assert not pooler.log_contains(event="client refused")


def _is_served(witness: Witness) -> None:
    seen = witness.answers
    until(lambda: witness.answers > seen, what="the witness is served")


def test_others_are_served_while_keys_are_derived(run_with_config: RunWithConfig) -> None:
    # It takes milliseconds for each new name: nobody else may wait for all of them.
    pooler = run_with_config(listen={"backlog": 1024})
    first = b"n,,n=,r=abcdefghijklmnopqrstuvwx"
    response = b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first
    with Witness(pooler) as witness:
        for group in range(10):
            clients = [RawClient(pooler.host, pooler.port) for _ in range(20)]
            for number, client in enumerate(clients):
                client.startup(user=f"nobody {group} {number}", database="app")
            for client in clients:
                client.read_until(b"R")
            for client in clients:
                client.send(rawclient.message(b"p", response))
            _is_served(witness)
            for client in clients:
                assert client.read_until(b"R")[-1][1].startswith(b"\0\0\0\x0br=")
                client.close()


def test_more_than_are_allowed(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(auth=TRUST, limits={"max_client_connections": 50})
    with Witness(pooler):
        clients = [RawClient(pooler.host, pooler.port) for _ in range(300)]
        refused = 0
        for client in clients:
            client.startup(user="app", database="app")
        for client in clients:
            try:
                kind, body = client.read_until(b"RE")[-1]
            except (rawclient.Closed, OSError):
                refused += 1
                continue
            if kind == b"E":
                assert rawclient.error_fields(body)["C"] == "53300"
                refused += 1
        assert refused == 300 - 49
        for client in clients:
            client.close()


def test_no_descriptors_left(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(auth=TRUST)
    with Witness(pooler):
        used = len(os.listdir(f"/proc/{pooler.pid}/fd"))
        limits = resource.prlimit(pooler.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pooler.pid, resource.RLIMIT_NOFILE, (used + 20, limits[1]))
        clients = [socket.create_connection((pooler.host, pooler.port)) for _ in range(60)]
        time.sleep(0.3)
        for scan in clients:
            scan.close()
        resource.prlimit(pooler.pid, resource.RLIMIT_NOFILE, limits)
    with RawClient(pooler.host, pooler.port) as client:
        client.login("app", "app")
        assert client.values("SELECT 1") == [[b"1"]]


def test_a_reload_under_load(
    run_with_config: RunWithConfig, postgres: Postgres, database: str
) -> None:
    pooler = run_with_config()
    witnesses = [Witness(pooler, database) for _ in range(6)]
    for witness in witnesses:
        witness.__enter__()
    with Census(postgres, database, 8):
        for size in (8, 1, 3, 8, 2):
            config = merged(pooler.config, {"databases": {"*": {"pool_size": size}}})
            assert pooler.reload(config)["event"] == "reloaded"
            time.sleep(0.1)
        bad = merged(pooler.config, {"databases": {"*": {"pool_size": "abc"}}})
        assert pooler.reload(bad)["event"] == "reload failed"
        time.sleep(0.1)
    for witness in witnesses:
        witness.__exit__(None)


def test_the_pooler_is_killed(postgres: Postgres, database: str, tmp_path: Path) -> None:
    folder = tmp_path / "sockets"
    folder.mkdir()
    config = merged(
        config_for(postgres.host, postgres.port), {"listen": {"unix_socket_dir": str(folder)}}
    )
    pooler = Pooler(config, tmp_path)
    try:
        pooler.start()
        with login(pooler, database) as client, login(pooler, database) as busy:
            client.query("BEGIN; INSERT INTO t VALUES (1)")
            busy.send(rawclient.query("SELECT pg_sleep(60)"))
            until(lambda: len(postgres.backends(database)) == 2)
            pooler.kill()
            assert client.is_closed(2)
        # A backend that works does not look at its connection; the others end.
        until(lambda: len(postgres.backends(database)) <= 1)
        postgres.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
            (database,),
        )
        [left] = folder.iterdir()  # the dead one's
        other = tmp_path / "again"
        other.mkdir()
        again = Pooler(merged(config, {"listen": {"port": pooler.port}}), other)
        again.start()
        try:
            with login(again, database) as client:
                assert client.values("SELECT count(*) FROM t") == [[b"0"]]
            with RawClient(str(folder), again.port) as local:
                local.login("app", database, "app-password")
                assert local.values("SELECT 1") == [[b"1"]]
            assert left.exists() or pooler.port != again.port
        finally:
            again.close()
    finally:
        pooler.close()


def test_a_cancel_of_anything(shared: Pooler, database: str) -> None:
    """Cancels in a storm: only the client whose key it is sees 57014, and only in its own query."""
    with Witness(shared, database), login(shared, database) as client:
        stop = threading.Event()

        def storm() -> None:
            while not stop.is_set():
                with socket.create_connection((shared.host, shared.port)) as sock:
                    sock.sendall(rawclient.cancel_request(client.pid, client.key))
                    sock.recv(1)

        thread = threading.Thread(target=storm)
        thread.start()
        canceled = 0
        try:
            for number in range(150):
                messages = client.query(f"SELECT {number}, pg_sleep(0.002)")
                if b"E" in rawclient.kinds(messages):
                    [body] = [body for kind, body in messages if kind == b"E"]
                    assert rawclient.error_fields(body)["C"] == "57014"
                    canceled += 1
                else:
                    assert rawclient.rows(messages)[0][0] == b"%d" % number
        finally:
            stop.set()
            thread.join()
        assert canceled

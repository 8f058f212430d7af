"""Many clients listen on few servers: each hears everything once, in order, from whom sent it."""

import asyncio
import resource
import time

import pytest

from tests.conftest import RunWithConfig
from tests.session_state.test_pins import metric
from tests.support import rawclient as raw
from tests.support.crowd import Connection, connect
from tests.support.pooler import Pooler
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until


@pytest.mark.parametrize("pool_size", [3, 20])
def test_nothing_is_lost_or_heard_twice_while_the_ear_takes_over(
    run_with_config: RunWithConfig, pool_size: int
) -> None:
    pooler = run_with_config(databases={"*": {"pool_size": pool_size}})
    listeners = [pooler.connect() for _ in range(10)]
    sender = pooler.connect()
    try:
        for place, listener in enumerate(listeners):
            listener.execute("LISTEN everybody")
            listener.execute(f"LISTEN only{place}")
        for number in range(12):
            sender.execute(f"NOTIFY everybody, '{number}'")
            for place in range(len(listeners)):
                sender.execute("SELECT pg_notify(%s, %s)", [f"only{place}", str(number)])
            time.sleep(0.05)  # the ear takes over in the middle of it
        for place, listener in enumerate(listeners):
            heard = list(listener.notifies(timeout=30, stop_after=24))
            heard += listener.notifies(timeout=0.05)
            for channel in ("everybody", f"only{place}"):
                numbers = [note.payload for note in heard if note.channel == channel]
                assert numbers == [str(number) for number in range(12)]
            assert {note.pid for note in heard} == {sender.info.backend_pid}
    finally:
        for connection in (*listeners, sender):
            connection.close()


def test_not_within_a_transaction_not_after_unlisten_not_if_rolled_back(
    run_with_config: RunWithConfig,
) -> None:
    pooler = run_with_config(databases={"*": {"pool_size": 3}})
    with pooler.connect() as listener, pooler.connect() as sender:
        with listener.transaction(force_rollback=True):
            listener.execute("LISTEN never")
        listener.execute("LISTEN one")
        listener.execute("LISTEN two")
        time.sleep(0.5)  # the ear has taken over
        with listener.transaction():
            listener.execute("SELECT 1")
            sender.execute("NOTIFY one, 'within'")
            time.sleep(0.2)
            assert list(listener.notifies(timeout=0)) == []
        assert [note.payload for note in listener.notifies(timeout=30, stop_after=1)] == ["within"]
        listener.execute("UNLISTEN one")
        for channel in ("never", "one", "two"):
            sender.execute(f"NOTIFY {channel}, 'after'")
        assert [note.channel for note in listener.notifies(timeout=30, stop_after=1)] == ["two"]
        assert list(listener.notifies(timeout=0.1)) == []


def test_a_lost_ear_is_told_of_and_replaced(
    run_with_config: RunWithConfig, postgres: Postgres
) -> None:
    pooler = run_with_config(databases={"*": {"pool_size": 3}})
    with pooler.connect() as listener, pooler.connect() as sender:
        told: list[str | None] = []
        listener.add_notice_handler(lambda notice: told.append(notice.message_primary))
        listener.execute("LISTEN afterwards")
        wait_until(lambda: metric(pooler, "pooler_pinned_servers") == 0)

        def ears() -> list[int]:
            pids = {line["pid"] for line in pooler.log if line["event"] == "server connected"}
            return [
                row["pid"]
                for row in postgres.backends("app")
                if row["pid"] in pids and row["query"].startswith('LISTEN "')
            ]

        wait_until(lambda: len(ears()) == 1)
        (lost,) = ears()
        postgres.sql("SELECT pg_terminate_backend(%s)", [lost])
        wait_until(lambda: ears() and lost not in ears())
        sender.execute("NOTIFY afterwards, 'heard'")
        heard = listener.notifies(timeout=30, stop_after=1)
        assert [note.payload for note in heard] == ["heard"]
        assert told == ["the connection that listens for notifications was lost"]


def test_listeners_that_hold_every_server_do_not_keep_the_ear_from_one(
    run_with_config: RunWithConfig,
) -> None:
    pooler = run_with_config(databases={"*": {"pool_size": 3, "min_pool_size": 3}})
    listeners = [pooler.connect() for _ in range(3)]
    try:
        for listener in listeners:
            listener.execute("BEGIN")
        for listener in listeners:
            listener.execute("LISTEN all_at_once")
        for listener in listeners:
            listener.execute("COMMIT")
        with pooler.connect() as other:
            assert other.execute("SELECT 1").fetchone() == (1,)
            other.execute("NOTIFY all_at_once, 'heard'")
        for listener in listeners:
            heard = [note.payload for note in listener.notifies(timeout=30, stop_after=1)]
            assert heard == ["heard"]
    finally:
        for listener in listeners:
            listener.close()


SERVERS = 5


@pytest.mark.parametrize("clients", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_thousands_listen_on_one_server(run_with_config: RunWithConfig, clients: int) -> None:
    """Each to a channel of all and to one of a few; while they do, others have the servers."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < clients + 1000:
        pytest.skip(f"SKIPPED: {clients} clients need more open files than {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    pooler = run_with_config(
        auth={"type": "trust"},
        databases={"*": {"pool_size": SERVERS}},
        listen={"backlog": 1024},
        limits={"max_client_connections": clients + 100},
        logging={"log_connections": False, "log_disconnections": False},
    )
    asyncio.run(_thousands(pooler, clients))
    wait_until(lambda: metric(pooler, "pooler_pinned_servers") == 0)


async def _thousands(pooler: Pooler, clients: int) -> None:
    gate = asyncio.Semaphore(100)

    async def listener(number: int) -> Connection:
        async with gate:
            client = await connect(pooler.host, pooler.port, "app", "app")
            listen = f"LISTEN everybody; LISTEN some{number % 20}"
            assert [kind for kind, _ in await client.ask(raw.query(listen))] == [b"C", b"C", b"Z"]
            return client

    listeners = await asyncio.gather(*(listener(number) for number in range(clients)))
    everyone = [await connect(pooler.host, pooler.port, "app", "app") for _ in range(SERVERS - 1)]
    async with asyncio.timeout(60):
        for other in everyone:  # all but one of the servers are free, for all who do not listen
            assert (await other.ask(raw.query("BEGIN")))[-1] == (b"Z", b"T")
        for other in everyone:
            await other.ask(raw.query("COMMIT"))
    for number in range(3):
        await everyone[0].ask(raw.query(f"NOTIFY everybody, '{number}'"))
        await everyone[1].ask(raw.query(f"NOTIFY some{number}, 'some'"))
    async with asyncio.timeout(120):
        for place, client in enumerate(listeners):
            wanted = [f"everybody:{number}" for number in range(3)]
            if place % 20 < 3:
                wanted.append(f"some{place % 20}:some")
            heard = []
            for _ in wanted:
                kind, body = await client.hear()
                assert kind == b"A"
                channel, payload, _ = body[4:].split(b"\0")
                heard.append(f"{channel.decode()}:{payload.decode()}")
            assert sorted(heard) == sorted(wanted)
            assert [note for note in heard if "everybody" in note] == wanted[:3]
        for client in listeners:  # nothing more, and nothing twice
            assert (await client.ask(raw.query("SELECT 1")))[0][0] == b"T"
    for client in (*listeners, *everyone):
        await client.close()

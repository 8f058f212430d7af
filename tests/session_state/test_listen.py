"""Many clients listen on few servers: each hears everything once, in order, from whom sent it."""

import time

import pytest

from tests.conftest import RunWithConfig
from tests.support.postgres import Postgres


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
        time.sleep(0.5)
        for place, listener in enumerate(listeners):
            heard = list(listener.notifies(timeout=0.05))
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
        assert [note.payload for note in listener.notifies(timeout=0.2)] == ["within"]
        listener.execute("UNLISTEN one")
        for channel in ("never", "one", "two"):
            sender.execute(f"NOTIFY {channel}, 'after'")
        assert [note.channel for note in listener.notifies(timeout=0.3)] == ["two"]


def test_a_lost_ear_is_told_of_and_replaced(
    run_with_config: RunWithConfig, postgres: Postgres
) -> None:
    pooler = run_with_config(databases={"*": {"pool_size": 3}})
    with pooler.connect() as listener, pooler.connect() as sender:
        told: list[str | None] = []
        listener.add_notice_handler(lambda notice: told.append(notice.message_primary))
        listener.execute("LISTEN afterwards")
        time.sleep(0.5)
        pids = {line["pid"] for line in pooler.log if line["event"] == "server connected"}
        ears = [
            row["pid"]
            for row in postgres.backends("app")
            if row["pid"] in pids and row["query"].startswith("LISTEN")
        ]
        for pid in ears:
            postgres.sql("SELECT pg_terminate_backend(%s)", [pid])
        time.sleep(1.5)
        sender.execute("NOTIFY afterwards, 'heard'")
        assert [note.payload for note in listener.notifies(timeout=0.5)] == ["heard"]
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
            heard = [note.payload for note in listener.notifies(timeout=1, stop_after=1)]
            assert heard == ["heard"]
    finally:
        for listener in listeners:
            listener.close()

"""LISTEN in several workers: one connection hears for all, and nothing is lost or told twice."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import psycopg

from tests.conftest import RunWithConfig
from tests.support.waiting import wait_until
from tests.workers.spread import everywhere
from tests.workers.test_workers import worker_pids


class Listener:
    """A client that gathers what it hears."""

    def __init__(self, connection: psycopg.Connection[Any], *channels: str) -> None:
        self.connection = connection
        self.heard: list[str] = []
        connection.add_notify_handler(lambda notify: self.heard.append(notify.payload))
        for channel in channels:
            connection.execute(f"LISTEN {channel}")

    def take_in(self) -> list[str]:
        """All that has come by now."""
        self.connection.execute("SELECT 1")
        return self.heard


def test_one_connection_hears_for_all_workers(
    run_with_config: RunWithConfig, make_database: Callable[[], str]
) -> None:
    """With two connections for three workers, one would be missing if each had an ear."""
    database = make_database()
    pooler = run_with_config(workers=3, databases={"*": {"pool_size": 2}})
    with ExitStack() as stack:
        clients = everywhere(pooler, stack, 15, workers=3, dbname=database)
        listeners = [Listener(client, "news", f"own_{n}") for n, client in enumerate(clients)]
        speaker = stack.enter_context(pooler.connect(dbname=database))
        said = []
        for turn in range(30):
            said.append(f"{turn}")
            speaker.execute("SELECT pg_notify('news', %s)", [said[-1]])
        for number in range(15):
            speaker.execute("SELECT pg_notify(%s, 'yours')", [f"own_{number}"])
        for listener in listeners:
            wait_until(lambda one=listener: len(one.take_in()) >= 31)  # type: ignore[misc]
            assert listener.heard == [*said, "yours"]


def test_listening_and_not_listening_loses_nothing(
    run_with_config: RunWithConfig, make_database: Callable[[], str]
) -> None:
    """A late word of the turn before may come, too: it is relayed to whoever listens by then."""
    database = make_database()
    # One connection listens, and each of those who come and go may keep one to itself.
    pooler = run_with_config(workers=2, databases={"*": {"pool_size": 5}})
    over = threading.Event()

    def come_and_go() -> None:
        with pooler.connect(dbname=database) as client:
            while not over.is_set():
                client.execute("LISTEN news")
                client.execute("UNLISTEN news")

    with ExitStack() as stack:
        others = [threading.Thread(target=come_and_go) for _ in range(2)]
        for other in others:
            other.start()
        try:
            speaker = stack.enter_context(pooler.connect(dbname=database))
            for turn in range(15):
                with pooler.connect(dbname=database) as client:
                    listener = Listener(client, "news")
                    for part in range(3):
                        speaker.execute("SELECT pg_notify('news', %s)", [f"{turn}.{part}"])
                    said = [f"{turn}.{part}" for part in range(3)]
                    wait_until(lambda: listener.take_in()[-1:] == said[-1:])  # noqa: B023
                    assert [word for word in listener.heard if word in said] == said
        finally:
            over.set()
            for other in others:
                other.join()


def test_worker_with_the_ear_dies(
    run_with_config: RunWithConfig, make_database: Callable[[], str]
) -> None:
    database = make_database()
    pooler = run_with_config(workers=2, databases={"*": {"pool_size": 3}})
    with ExitStack() as stack:
        clients = everywhere(pooler, stack, 10, workers=2, dbname=database)
        listeners = [Listener(client, "news") for client in clients]
        os.kill(worker_pids(pooler)[0], signal.SIGKILL)
        pooler.wait_for_log(30, event="worker restarted")
        alive = []
        for listener in listeners:
            try:
                listener.take_in()
            except psycopg.OperationalError:
                continue
            alive.append(listener)
        assert 0 < len(alive) < 10
        speaker = stack.enter_context(pooler.connect(dbname=database))
        deadline = time.monotonic() + 20
        while not all("again" in listener.take_in() for listener in alive):
            assert time.monotonic() < deadline
            speaker.execute("NOTIFY news, 'again'")

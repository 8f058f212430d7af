"""Replicas as the chart makes them, on this machine: a share of the connections, and a rollout."""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg

from tests.conftest import RunWithConfig
from tests.support.pooler import Pooler
from tests.support.postgres import Postgres

SHARE = 3
"""Server connections of each: (maxConnections - reserved) / (replicas + surge)."""
REPLICAS = 2
CLIENTS = 12


class Balancer:
    """The Service: gives each new connection to the next of those that are there."""

    def __init__(self, poolers: list[Pooler]) -> None:
        self._poolers = poolers
        self._lock = threading.Lock()
        self._turn = 0

    def replace(self, old: Pooler, new: Pooler) -> None:
        """As the endpoints change when a pod is told to end."""
        with self._lock:
            self._poolers[self._poolers.index(old)] = new

    def connect(self, dbname: str) -> psycopg.Connection[tuple[object, ...]]:
        with self._lock:
            self._turn += 1
            pooler = self._poolers[self._turn % len(self._poolers)]
        return pooler.connect(dbname=dbname)


def test_a_rollout_costs_no_query_and_no_connection_too_many(
    run_with_config: RunWithConfig, postgres: Postgres, make_database: Callable[[], str]
) -> None:
    """Every replica is replaced while clients work: one that is sent away between two transactions
    connects again, no transaction fails, and PostgreSQL never has more than the sum."""
    database = make_database()
    limits = {"max_server_connections": SHARE}

    def replica() -> Pooler:
        return run_with_config(limits=limits, databases={"*": {"pool_size": 10}})

    poolers = [replica() for _ in range(REPLICAS)]
    balancer = Balancer(poolers[:])
    stop = threading.Event()
    most = 0

    def client() -> tuple[int, int]:
        """What it has done, and how often it was sent away."""
        connection = balancer.connect(database)
        done = moved = 0
        while not stop.is_set():
            begun = False
            try:
                with connection.transaction():
                    begun = True
                    connection.execute("SELECT pg_sleep(0.005)")
                    assert connection.execute("SELECT 1").fetchone() == (1,)
                done += 1
            except (
                psycopg.OperationalError
            ):  # 57P01, or the end of the connection before it is read
                assert not begun
                connection.close()
                connection = balancer.connect(database)
                moved += 1
        connection.close()
        return done, moved

    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(client) for _ in range(CLIENTS)]
        try:
            for old in poolers:
                new = replica()
                balancer.replace(old, new)
                old.signal(signal.SIGTERM)
                deadline = time.monotonic() + 60
                while not old.log_contains(event="stopped"):
                    most = max(most, len(postgres.backends(database)))
                    assert time.monotonic() < deadline
                assert old.wait() == 0
        finally:
            stop.set()
        results = [future.result(30) for future in clients]
    assert all(done for done, _ in results)
    assert all(moved >= 1 for _, moved in results)
    assert 0 < most <= (REPLICAS + 1) * SHARE

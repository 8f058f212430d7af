"""Who watches while something is broken: a client that must notice nothing, and PostgreSQL."""

import threading
import time
from collections.abc import Callable
from typing import Self

import psycopg

from tests.support.pooler import Pooler
from tests.support.postgres import Postgres
from tests.support.rawclient import Closed, Message, RawClient, error_fields

STEP = 0.005  # seconds between looks


def until(condition: Callable[[], object], seconds: float = 30.0, what: str = "") -> float:
    """Wait for a condition; how many seconds it took, AssertionError when it doesn't come true."""
    start = time.monotonic()
    while not condition():
        waited = time.monotonic() - start
        assert waited < seconds, f"not within {seconds} s: {what or condition}"
        time.sleep(STEP)
    return time.monotonic() - start


class Witness:
    """A well-behaved client that asks all the time and checks each answer.

    Leaving the `with` judges: no error, no wrong answer, and it was served at all.
    """

    def __init__(self, pooler: Pooler, dbname: str = "app", *, user: str = "app") -> None:
        self._dsn = pooler.dsn(user, dbname)
        self._thread = threading.Thread(target=self._run)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self.answers = 0
        self.longest = 0.0  # seconds that one answer took

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: self.answers or self._error, 10, "the witness's first answer")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            seen = self.answers
            until(lambda: self.answers > seen or self._error, 10, "the witness is served again")
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the witness hangs"
        if self._error is not None and kind is None:
            raise AssertionError(f"the witness saw {self._error!r}") from self._error

    def _run(self) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True, prepare_threshold=None) as connection:
                number = 0
                while not self._stop.is_set():
                    number += 1
                    start = time.monotonic()
                    row = connection.execute(
                        "SELECT %s::int, repeat('w', %s)", (number, number % 50)
                    ).fetchone()
                    self.longest = max(self.longest, time.monotonic() - start)
                    assert row == (number, "w" * (number % 50)), row
                    self.answers = number
                    time.sleep(0.001)
        except BaseException as error:
            self._error = error


class Census:
    """Counts a database's backends as fast as it can: there must never be one too many."""

    def __init__(self, postgres: Postgres, dbname: str, limit: int) -> None:
        self._dsn = postgres.dsn()
        self._dbname = dbname
        self._limit = limit
        self._thread = threading.Thread(target=self._run)
        self._stop = threading.Event()
        self.most = 0
        self.samples = 0

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: self.samples, 10, "the first count")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        if kind is None:
            assert self.most <= self._limit, f"{self.most} backends, {self._limit} allowed"

    def _run(self) -> None:
        query = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = %s AND backend_type = 'client backend'"
        )
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stop.is_set():
                row = connection.execute(query, (self._dbname,)).fetchone()
                assert row is not None
                self.most = max(self.most, row[0])
                self.samples += 1
                time.sleep(0.002)


def login(pooler: Pooler, dbname: str = "app") -> RawClient:
    """A raw client, logged in."""
    client = RawClient(pooler.host, pooler.port)
    try:
        client.login("app", dbname, "app-password")
    except BaseException:
        client.close()
        raise
    return client


def goodbye(client: RawClient, timeout: float = 30.0) -> dict[str, str] | None:
    """Read up to the end of the connection; the last error's fields, None for a silent close.

    TimeoutError when it stays open; AssertionError when it ends within a message.
    """
    last: Message | None = None
    try:
        while True:
            message = client.read(timeout)
            if message[0] == b"E":
                last = message
    except Closed as end:
        rest: bytes = end.args[0]
    assert not rest, f"closed within a message: {rest[:40]!r}"
    return None if last is None else error_fields(last[1])

"""Pins, on a real PostgreSQL: why a client keeps its server, until when, and what ends it."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import RunWithConfig
from tests.live.conftest import base_config
from tests.support import rawclient as raw
from tests.support.pooler import Pooler, merged
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient
from tests.support.waiting import wait_until

PINS = [
    ("locks", "SELECT pg_advisory_lock(4711)", "SELECT pg_advisory_unlock(4711)"),
    ("temporary", "CREATE TEMPORARY TABLE pinned (a int)", "DROP TABLE pinned"),
    ("temporary", "CREATE TEMPORARY SEQUENCE pinned", "DROP SEQUENCE pinned"),
    ("hold", "DECLARE c CURSOR WITH HOLD FOR SELECT 'secret'", "CLOSE c"),
]


@pytest.fixture(scope="module")
def pooler(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pooler]:
    """A pooler with pools of two, which tells of pins."""
    config = merged(
        base_config(postgres),
        {"databases": {"*": {"pool_size": 2}}, "logging": {"level": "debug"}},
    )
    pooler = Pooler(config, tmp_path_factory.mktemp("pins"))
    pooler.start()
    yield pooler
    pooler.close()


def metric(pooler: Pooler, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    url = f"http://127.0.0.1:{pooler.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith(f"{name}{{") and all(f'{k}="{v}"' in line for k, v in labels.items())
    )


def pinned(pooler: Pooler, reason: str) -> float:
    """How many servers are kept for this reason."""
    return metric(pooler, "pooler_pinned_servers", reason=reason)


@pytest.mark.parametrize(("reason", "do", "undo"), PINS)
def test_a_pin_ends_with_its_reason(pooler: Pooler, reason: str, do: str, undo: str) -> None:
    before = metric(pooler, "pooler_pins_total", reason=reason)
    with pooler.connect() as client:
        client.execute(do)
        wait_until(lambda: pinned(pooler, reason) == 1)
        pid = client.info.backend_pid
        server = client.execute("SELECT pg_backend_pid()").fetchone()
        with pooler.connect() as other:
            for _ in range(3):
                assert other.execute("SELECT pg_backend_pid()").fetchone() != server
        assert client.execute("SELECT pg_backend_pid()").fetchone() == server
        assert client.info.backend_pid == pid
        client.execute(undo)
        wait_until(lambda: pinned(pooler, reason) == 0)
    assert metric(pooler, "pooler_pins_total", reason=reason) == before + 1
    assert pooler.log_contains(event="client pinned", reason=reason)
    assert pooler.log_contains(event="client unpinned", reason=reason)
    assert "secret" not in pooler.log_text
    assert "4711" not in pooler.log_text


@pytest.mark.parametrize("first", range(3))
def test_what_is_undone_pins_no_longer(pooler: Pooler, postgres: Postgres, first: int) -> None:
    """A lock, a temporary table and a cursor, undone one after another, each coming first once."""
    kinds = [PINS[0], PINS[1], PINS[3]]
    kinds = kinds[first:] + kinds[:first]

    def reasons() -> list[str]:
        return [reason for reason, _, _ in kinds if pinned(pooler, reason)]

    with pooler.connect() as client, pooler.connect() as other:
        ((server,),) = client.execute("SELECT pg_backend_pid()").fetchall()
        for _, do, _ in kinds:
            client.execute(do)
        wait_until(lambda: len(reasons()) == 3)
        for place, (_, _, undo) in enumerate(kinds):
            client.execute(undo)
            left = [reason for reason, _, _ in kinds[place + 1 :]]
            wait_until(lambda left=left: reasons() == left)  # type: ignore[misc]
        with pooler.connect() as third, other.transaction(), third.transaction():
            pids = {c.execute("SELECT pg_backend_pid()").fetchone() for c in (other, third)}
        assert (server,) in pids  # it is everybody's again


def test_load_and_setseed_pin_to_the_end(pooler: Pooler) -> None:
    with pooler.connect() as client:
        client.execute("SELECT setseed(0.5)")
        wait_until(lambda: pinned(pooler, "load") == 1)
        client.execute("DISCARD ALL")
        assert pinned(pooler, "load") == 1
    wait_until(lambda: pinned(pooler, "load") == 0)


def test_a_killed_client_frees_its_lock(pooler: Pooler, postgres: Postgres) -> None:
    """Within a second, unless the machine is busy otherwise every time."""
    took: list[float] = []
    while not took or (took[-1] >= 1 and len(took) < 5):
        took.append(freed_after(pooler, postgres))
    assert took[-1] < 1


def freed_after(pooler: Pooler, postgres: Postgres) -> float:
    """How many seconds the lock of a client outlives its process."""
    program = (
        "import psycopg, sys, time\n"
        "c = psycopg.connect(sys.argv[1], autocommit=True)\n"
        "c.execute('SELECT pg_advisory_lock(1)')\n"
        "print('locked', flush=True)\n"
        "time.sleep(60)\n"
    )
    with (
        postgres.connect() as look,
        subprocess.Popen(
            [sys.executable, "-c", program, pooler.dsn()], stdout=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        wait_until(lambda: pinned(pooler, "locks") == 1)
        os.kill(process.pid, signal.SIGKILL)
        killed = time.monotonic()
        locks = "SELECT FROM pg_locks WHERE locktype = 'advisory'"
        wait_until(lambda: not look.execute(locks).fetchall())
        took = time.monotonic() - killed
    wait_until(lambda: pinned(pooler, "locks") == 0)
    return took


def test_pin_timeout(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(
        databases={"*": {"pool_size": 1}}, users={"alice": {"pin_timeout": "500ms"}}
    )
    with pooler.connect("alice") as alice, pooler.connect() as patient:
        alice.execute("SELECT pg_advisory_lock(4711)")
        pooler.wait_for_log(event="client closed", reason="pin_timeout")
        with pytest.raises(psycopg.OperationalError) as ended:
            alice.execute("SELECT 1")
        assert "terminating connection due to pin_timeout" in str(ended.value)
        assert "because of locks. Statement: SELECT pg_advisory_lock(?)" in str(ended.value)
        assert "Use pg_advisory_xact_lock" in str(ended.value)
        assert patient.execute("SELECT 1").fetchone() == (1,)
    with pooler.connect("alice") as again:
        assert again.execute("SELECT pg_try_advisory_lock(4711)").fetchone() == (True,)
    closed = pooler.wait_for_log(event="client closed", reason="pin_timeout")
    assert closed["user"] == "alice"


def test_pin_timeout_waits_for_the_transaction(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(timeouts={"pin_timeout": "300ms"})
    with RawClient(pooler.host, pooler.port) as client:
        client.login("app", "app", PASSWORDS["app"])
        client.values("SELECT pg_advisory_lock(1)")
        wait_until(lambda: pinned(pooler, "locks") == 1)
        client.values("BEGIN")
        time.sleep(0.6)
        assert client.values("SELECT 1") == [[b"1"]]
        client.values("COMMIT")
        fields = raw.error_fields(client.read_until(b"E")[-1][1])
        assert (fields["S"], fields["C"]) == ("FATAL", "57P05")
        assert client.is_closed()

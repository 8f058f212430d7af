"""Time limits and cancel requests, on real queries."""

import random
import threading
import time
from collections.abc import Callable

import pytest

from tests.conftest import RunWithConfig
from tests.live.conftest import Login, SharedPooler, cancel
from tests.support import rawclient as raw
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient
from tests.support.waiting import wait_until

SLEEP = "SELECT pg_sleep(30)"


def errors(messages: list[raw.Message]) -> list[dict[str, str]]:
    """The fields of the errors among the messages."""
    return [raw.error_fields(body) for kind, body in messages if kind == b"E"]


# Time limits.


def test_query_timeout(shared_pooler: SharedPooler, login: Login) -> None:
    pooler = shared_pooler(users={"alice": {"query_timeout": 0.6}})
    hasty, patient = login("alice", at=pooler), login("app", at=pooler)
    patient.send(raw.query("SELECT pg_sleep(2), 'slept'"))
    for extended in (False, True):
        started = time.monotonic()
        if extended:
            hasty.send(raw.parse(SLEEP), raw.bind(), raw.execute(), raw.sync())
        else:
            hasty.send(raw.query(SLEEP))
        (fields,) = errors(hasty.read_until())
        assert time.monotonic() - started > 0.5
        assert (fields["C"], fields["S"]) == ("57014", "ERROR")
        assert hasty.values("SELECT 'still here'") == [[b"still here"]]
    assert raw.rows(patient.read_until()) == [[b"", b"slept"]]


def test_query_timeout_within_a_transaction(shared_pooler: SharedPooler, login: Login) -> None:
    pooler = shared_pooler(users={"alice": {"query_timeout": 0.6}})
    client = login("alice", at=pooler)
    client.query("BEGIN")
    (fields,) = errors(client.query(SLEEP))
    assert fields["C"] == "57014"
    assert client.status == b"E"
    client.query("ROLLBACK")
    time.sleep(0.8)
    assert client.values("SELECT 1") == [[b"1"]]


def test_transaction_timeout(shared_pooler: SharedPooler, login: Login) -> None:
    pooler = shared_pooler(users={"alice": {"transaction_timeout": 0.4}})
    running, idle = login("alice", at=pooler), login("alice", at=pooler)
    idle.query("BEGIN")
    running.query("BEGIN")
    running.send(raw.query(SLEEP))
    (fields,) = errors(running.read_until(b"E"))
    assert fields["C"] == "57014"
    (fields,) = errors(idle.read_until(b"E"))
    assert (fields["C"], fields["V"]) == ("25P04", "FATAL")
    assert idle.is_closed()
    assert login("alice", at=pooler).values("SELECT 1") == [[b"1"]]


def test_idle_in_transaction_timeout(
    shared_pooler: SharedPooler, login: Login, postgres: Postgres
) -> None:
    limits = {"idle_in_transaction_timeout": 0.3, "pool_size": 1}
    pooler = shared_pooler(users={"alice": limits})
    client, other = login("alice", at=pooler), login("app", at=pooler)
    other.query("BEGIN")
    ((pid,),) = client.values("BEGIN; SELECT pg_backend_pid()")
    (fields,) = errors(client.read_until(b"E"))
    assert (fields["C"], fields["V"]) == ("25P03", "FATAL")
    assert client.is_closed()
    again = login("alice", at=pooler)
    assert again.values("SELECT pg_backend_pid()") == [[pid]]  # rolled back, and used again
    assert other.query("COMMIT")[0] == (b"C", b"COMMIT\0")


def test_client_idle_timeout_is_its_users_own(shared_pooler: SharedPooler, login: Login) -> None:
    pooler = shared_pooler(users={"alice": {"client_idle_timeout": 0.5}})
    idle, other, busy = (login(user, at=pooler) for user in ("alice", "app", "alice"))
    busy.query("BEGIN")
    idle.query("SELECT 1")
    (fields,) = errors(idle.read_until(b"E"))
    assert (fields["C"], fields["V"]) == ("57P05", "FATAL")
    assert idle.is_closed()
    assert other.values("SELECT 1") == [[b"1"]]
    assert busy.values("SELECT 1") == [[b"1"]]


def test_query_wait_timeout_and_notice(shared_pooler: SharedPooler, login: Login) -> None:
    pooler = shared_pooler(
        databases={"*": {"pool_size": 1, "query_wait_notify": 0.2, "query_wait_timeout": 0.8}}
    )
    holder, simple, extended = (login(at=pooler) for _ in range(3))
    holder.query("BEGIN")
    simple.send(raw.query("SELECT 1"), raw.query("SELECT 2"))
    extended.send(raw.parse("SELECT 1"), raw.bind(), raw.execute(), raw.sync())
    for client in (simple, extended):
        messages = client.read_until()
        assert raw.kinds(messages) == b"NEZ"
        notice = raw.error_fields(messages[0][1])
        assert (notice["S"], notice["C"]) == ("NOTICE", "00000")
        assert "waiting" in notice["M"]
        (fields,) = errors(messages)
        assert (fields["C"], fields["S"]) == ("53300", "ERROR")
        assert "query_wait_timeout" in fields["M"]
    holder.query("COMMIT")
    assert raw.rows(simple.read_until()) == [[b"2"]]
    assert extended.values("SELECT 3") == [[b"3"]]


# Cancel.


def test_cancel_a_running_query(plain_pooler: Pooler, login: Login, postgres: Postgres) -> None:
    client, other = login(), login()
    other.send(raw.query("SELECT pg_sleep(0.5), 'not me'"))
    client.send(raw.query(f"{SLEEP} /* cancel me */"))
    wait_until(
        lambda: any("/* cancel me */" in found["query"] for found in postgres.backends("app"))
    )
    cancel(plain_pooler, client.pid, client.key)
    (fields,) = errors(client.read_until())
    assert fields["C"] == "57014"
    assert fields["M"] == "canceling statement due to user request"
    assert client.values("SELECT 1") == [[b"1"]]
    assert raw.rows(other.read_until()) == [[b"", b"not me"]]


def test_cancel_with_a_long_key(plain_pooler: Pooler, postgres: Postgres) -> None:
    with RawClient(plain_pooler.host, plain_pooler.port) as client:
        client.login("app", "app", PASSWORDS["app"], protocol=(3, 2))
        client.send(raw.query(f"{SLEEP} /* long key */"))
        wait_until(
            lambda: any("/* long key */" in found["query"] for found in postgres.backends("app"))
        )
        cancel(plain_pooler, client.pid, client.key[:4])
        assert client.is_silent(0.1)
        cancel(plain_pooler, client.pid, client.key)
        (fields,) = errors(client.read_until())
        assert fields["C"] == "57014"


@pytest.mark.parametrize("extended", [False, True])
def test_cancel_while_waiting(shared_pooler: SharedPooler, login: Login, extended: bool) -> None:
    pooler = shared_pooler(databases={"*": {"pool_size": 1}})
    holder, waiting, other = (login(at=pooler) for _ in range(3))
    holder.query("BEGIN")
    question = [raw.parse("SELECT 1"), raw.bind(), raw.execute(), raw.sync()]
    waiting.send(*(question if extended else [raw.query("SELECT 1")]))
    assert waiting.is_silent(0.1)
    other.send(raw.query("SELECT 'mine'"))
    cancel(pooler, waiting.pid, waiting.key)
    messages = waiting.read_until()
    assert raw.kinds(messages) == b"EZ"
    assert errors(messages)[0]["C"] == "57014"
    assert holder.values("SELECT 'undisturbed'") == [[b"undisturbed"]]
    holder.query("COMMIT")
    assert raw.rows(other.read_until()) == [[b"mine"]]
    assert waiting.values("SELECT 2") == [[b"2"]]


def test_cancel_that_fits_nobody(plain_pooler: Pooler, login: Login) -> None:
    client, idle = login(), login()
    client.send(raw.query("SELECT pg_sleep(0.5), 'done'"))
    wrong = bytes(byte ^ 1 for byte in client.key)
    for pid, key in (
        (client.pid, wrong),
        (client.pid ^ 1, client.key),
        (client.pid, client.key + b"\0" * 28),
        (0, b"\0" * 4),
        (-1, b"\xff" * 4),
        (idle.pid, idle.key),  # has nothing to be cancelled
    ):
        cancel(plain_pooler, pid, key)
    assert raw.rows(client.read_until()) == [[b"", b"done"]]
    assert idle.values("SELECT 1") == [[b"1"]]


def test_cancels_hit_nobody_else(shared_pooler: SharedPooler) -> None:
    """Twenty clients on five servers; half of them cancel at random, the others never are hit."""
    pooler = shared_pooler(databases={"*": {"pool_size": 5}}, auth={"type": "trust"})
    end = time.monotonic() + 2
    faults: list[str] = []
    cancelled = [0] * 20
    answered = [0] * 20

    def live(number: int) -> None:
        dice = random.Random(number)
        cancels = number % 2 == 0
        with RawClient(pooler.host, pooler.port) as client:
            client.login("app", "app")
            sent = 0  # cancels since the last query that had been answered
            while time.monotonic() < end:
                before = sent
                sent = 0
                client.send(raw.query(f"SELECT pg_sleep({dice.random() * 0.02}), {number}"))
                if cancels and dice.random() < 0.7:
                    time.sleep(dice.random() * 0.02)
                    cancel(pooler, client.pid, client.key)
                    sent = 1
                messages = client.read_until()
                failures = errors(messages)
                if not failures:
                    answered[number] += 1
                    if raw.rows(messages) != [[b"", b"%d" % number]]:
                        faults.append(f"{number}: {messages}")
                elif failures[0]["C"] != "57014" or not (sent or before):
                    faults.append(f"{number}: {failures}")
                else:
                    cancelled[number] += 1

    run_threads(live, 20)
    assert faults == []
    assert all(count > 0 for count in cancelled[::2])
    assert not any(cancelled[1::2])
    assert all(answered)


def run_threads(work: Callable[[int], None], count: int) -> None:
    """Run `work` for each number in a thread of its own; raise what the first that failed did."""
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_cancel_of_a_client_that_has_left(
    run_with_config: RunWithConfig, login: Login, postgres: Postgres
) -> None:
    pooler = run_with_config(databases={"*": {"pool_size": 1}})
    gone = login(at=pooler)
    gone.send(raw.query(f"{SLEEP} /* abandoned */"))

    def runs() -> bool:
        return any(
            found["state"] == "active" and "/* abandoned */" in found["query"]
            for found in postgres.backends("app")
        )

    wait_until(runs)
    gone.close()
    wait_until(lambda: not runs())
    other = login(at=pooler)
    assert other.values("SELECT 1") == [[b"1"]]
    cancel(pooler, gone.pid, gone.key)
    assert other.values("SELECT 2") == [[b"2"]]

"""Failed logins of one address wait longer and longer; nobody else does."""

import time

import pytest

from pooler import throttle
from pooler.throttle import ADDRESSES, FORGIVEN_AFTER, LONGEST, Throttle
from tests.auth.test_auth_query import log_in, refused
from tests.conftest import RunWithConfig
from tests.support.rawclient import RawClient, message
from tests.support.waiting import wait_until


class Clock:
    """Virtual time."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        """Return it."""
        return self.time


@pytest.fixture
def clock() -> Clock:
    """The clock of `slow`."""
    return Clock()


@pytest.fixture
def slow(clock: Clock) -> Throttle:
    """A throttle whose second failure waits a second."""
    return Throttle(clock.now, lambda: 1.0)


def test_delays_double_up_to_a_limit(slow: Throttle) -> None:
    delays = [slow.failed("192.0.2.1") for _ in range(9)]
    assert delays == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_failures_are_forgiven_one_by_one(slow: Throttle, clock: Clock) -> None:
    for _ in range(4):
        slow.failed("192.0.2.1")
    clock.time += FORGIVEN_AFTER
    assert slow.failed("192.0.2.1") == pytest.approx(4.0)  # as the fourth was
    clock.time += 4 * FORGIVEN_AFTER
    assert slow.failed("192.0.2.1") == 0.0
    for _ in range(100):
        slow.failed("192.0.2.1")
    clock.time += 8 * FORGIVEN_AFTER  # however many there were
    assert slow.failed("192.0.2.1") == 0.0


def test_addresses_are_apart(slow: Throttle) -> None:
    for _ in range(5):
        slow.failed("192.0.2.1")
    assert slow.failed("192.0.2.2") == 0.0
    assert slow.failed("2001:db8::1") == 0.0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_what_is_one_address(slow: Throttle, one: str, other: str, same: bool) -> None:
    slow.failed(one)
    assert (slow.failed(other) > 0) is same


def test_unix_sockets_are_exempt_and_it_can_be_turned_off(clock: Clock) -> None:
    assert [Throttle(clock.now, lambda: 1.0).failed("") for _ in range(3)] == [0.0] * 3
    off = Throttle(clock.now, lambda: 0.0)
    assert [off.failed("192.0.2.1") for _ in range(5)] == [0.0] * 5


def test_the_table_is_bounded(slow: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ADDRESSES >= 1000
    assert LONGEST <= 60
    monkeypatch.setattr(throttle, "ADDRESSES", 3)
    for number in (1, 2, 3, 1, 4):  # the second one is forgotten
        slow.failed(f"192.0.2.{number}")
    assert slow.failed("192.0.2.1") > 0
    assert slow.failed("192.0.2.2") == 0.0


# Live.


def test_a_failure_waits_and_a_success_does_not(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(auth={"failure_delay": 0.4})
    refused(pooler, "alice")
    start = time.monotonic()
    refused(pooler, "alice")
    assert time.monotonic() - start >= 0.39
    slow = run_with_config(auth={"failure_delay": 600})  # what waits is never answered here
    refused(slow, "alice")
    log_in(slow, "alice")


def test_who_leaves_while_waiting_is_counted_out(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(auth={"failure_delay": 30, "type": "password"})
    refused(pooler, "alice")
    with RawClient(pooler.host, pooler.port) as client:
        client.startup(user="alice", database="app")
        client.read()
        client.send(message(b"p", b"wrong\0"))
        assert client.is_silent(0.2)
        client.send(b"x" * 100_000)  # is read and thrown away
        assert client.is_silent(0.2)
        assert len(_refusals(pooler.log)) == 1
    wait_until(lambda: len(_refusals(pooler.log)) == 2)
    with RawClient(pooler.host, pooler.port) as client:  # and one who is there at the end is told
        client.startup(user="alice", database="app")
        client.read()
        client.send(message(b"p", b"wrong\0"))
        assert client.is_silent(0.1)
        pooler.terminate()
        assert client.is_closed()


def _refusals(log: list[dict[str, object]]) -> list[dict[str, object]]:
    return [line for line in log if line.get("event") == "client refused"]

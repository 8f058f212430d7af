"""What a server, or the way to it, does wrong: the client is told once, and gets nobody's bytes."""

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adversity.conftest import config_for
from tests.adversity.witness import Witness, goodbye, login, until
from tests.support import rawclient
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.pooler import Pooler, merged
from tests.support.postgres import Postgres
from tests.support.rawclient import Closed, RawClient, ServerError

TIMEOUTS = {
    "server_connect_timeout": 0.3,
    "server_login_retry": 0.01,
    "query_timeout": 0.3,
    "cancel_wait_timeout": 0.2,
    "query_wait_timeout": 2,
}
QUERY = "SELECT 'answer', n FROM generate_series(1, 3) AS n"
ANSWER = [[b"answer", b"1"], [b"answer", b"2"], [b"answer", b"3"]]
ANSWER_SIZE = 140  # bytes; checked below


@pytest.fixture(scope="module")
def proxy(postgres: Postgres) -> Iterator[FaultProxy]:
    with FaultProxy(postgres.host, postgres.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def through(
    postgres: Postgres, proxy: FaultProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pooler]:
    """A pooler with one server per pool behind the proxy; database `other` goes past it."""
    folder: Path = tmp_path_factory.mktemp("through")
    over = {
        "timeouts": TIMEOUTS,
        "databases": {
            "*": {"pool_size": 1, "user": "trustuser", "server_tls": {"sslmode": "disable"}},
            "other": {"host": postgres.host, "port": postgres.port},
        },
    }
    pooler = Pooler(merged(config_for(proxy.host, proxy.port), over), folder)
    try:
        pooler.start()
        yield pooler
    finally:
        pooler.close()


@pytest.fixture(autouse=True)
def _healthy_again(proxy: FaultProxy, through: Pooler) -> Iterator[None]:
    proxy.arm(Fault())
    with Witness(through, "other"):
        yield
    _heal(proxy, through)
    assert not through.log_contains(event="bug")


def _heal(proxy: FaultProxy, pooler: Pooler) -> None:
    """Wait until the pool serves again; at first it may still answer with the last refusal."""
    proxy.arm(Fault())

    def served() -> bool:
        with login(pooler) as client:
            return rawclient.rows(client.query(QUERY)) == ANSWER

    until(served)


def _whole_messages(client: RawClient) -> tuple[list[rawclient.Message], bytes]:
    """All that comes until the connection ends, and the part of a message that is left over."""
    messages = []
    try:
        while True:
            messages.append(client.read(5))
    except Closed as end:
        return messages, end.args[0]


def _answer(client: RawClient) -> bytes:
    """The right answer to QUERY as bytes."""
    return b"".join(rawclient.message(kind, body) for kind, body in client.query(QUERY))


@pytest.mark.parametrize("then", ["close", "reset"])
def test_an_answer_cut_anywhere(proxy: FaultProxy, through: Pooler, then: str) -> None:
    # What the client has of a message must not be completed by our own words.
    with login(through) as client:
        right = _answer(client)
    assert len(right) == ANSWER_SIZE
    for at in range(0, len(right), 1 if then == "close" else 7):
        with login(through) as client:
            client.query("BEGIN")
            proxy.arm(Fault(after=at, then="close" if then == "close" else "reset"))
            client.send(rawclient.query(QUERY))
            messages, rest = _whole_messages(client)
            proxy.arm(Fault())
            got = b"".join(rawclient.message(*message) for message in messages)
            if rest:
                assert right.startswith(got + rest), f"cut at {at}: {got + rest!r}"
            else:
                assert messages[-1][0] == b"E"
                assert rawclient.error_fields(messages[-1][1])["C"] == "08006"
                error = rawclient.message(*messages[-1])
                assert right.startswith(got.removesuffix(error)), f"cut at {at}"


GARBAGE = {
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
    "length 0": b"D\0\0\0\0",
    "length 3": b"D\0\0\0\3",
    "negative length": b"D\xff\xff\xff\xff",
    "huge length": b"D\x7f\xff\xff\xff",
    "huge ReadyForQuery": b"Z\x3f\xff\xff\xff",
    "long ReadyForQuery": b"Z\0\0\0\6II",
    "huge ParameterStatus": b"S\x3f\xff\xff\xff",
    "ParameterStatus without end": b"S\0\0\0\x08abcd",
    "error without end": b"E\0\0\0\x08abcd",
    "text": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "TLS alert": b"\x15\x03\x01\0\x02\x02\x46",
}


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize(
    "after", [0, 87, *(pytest.param(at, marks=pytest.mark.slow) for at in (30, ANSWER_SIZE - 3))]
)
def test_garbage_instead_of_an_answer(
    proxy: FaultProxy, through: Pooler, garbage: str, after: int
) -> None:
    with login(through) as client:
        right = _answer(client)
        client.query("BEGIN")
        proxy.arm(Fault(after=after, insert=GARBAGE[garbage], then="stall"))
        client.send(rawclient.query(QUERY))
        messages, rest = _whole_messages(client)
        proxy.arm(Fault())
    if messages and messages[-1][0] == b"E":
        assert rawclient.error_fields(messages[-1][1]).get("C") in ("08006", "57014", None)
    else:
        # Within a message nothing can be told from its content.
        got = b"".join(rawclient.message(*message) for message in messages) + rest
        assert (right[:after] + GARBAGE[garbage]).startswith(got)


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize(
    "after", [9, *(pytest.param(at, marks=pytest.mark.slow) for at in (0, 200))]
)
def test_garbage_during_the_login_to_a_server(
    proxy: FaultProxy, through: Pooler, garbage: str, after: int
) -> None:
    _lose_servers(proxy, through)
    proxy.arm(Fault(after=after, insert=GARBAGE[garbage], then="stall"))
    with login(through) as client:
        client.send(rawclient.query(QUERY))
        assert client.is_silent(0.1)
        proxy.arm(Fault())
        assert rawclient.rows(client.read_until(timeout=3)) == ANSWER


def _lose_servers(proxy: FaultProxy, pooler: Pooler) -> None:
    """Make the pool open a new server for the next query, and keep it warm for logins."""
    with login(pooler) as client:
        client.query("BEGIN")
        proxy.arm(Fault(then="reset"))
        client.send(rawclient.query(QUERY))
        assert (goodbye(client) or {})["C"] == "08006"
        proxy.arm(Fault())


@pytest.mark.parametrize("then", ["close", "reset", "stall"])
def test_a_login_to_a_server_cut_anywhere(proxy: FaultProxy, through: Pooler, then: str) -> None:
    for at in range(0, 400, 40 if then != "stall" else 133):
        _lose_servers(proxy, through)
        kind = {"close": Fault(at, then="close"), "reset": Fault(at, then="reset")}
        proxy.arm(kind.get(then, Fault(at, then="stall")))
        with login(through) as client:
            client.send(rawclient.query(QUERY))
            client.is_silent(0.03)
            proxy.arm(Fault())
            assert rawclient.rows(client.read_until(timeout=3)) == ANSWER


@pytest.mark.parametrize(
    "fault", [Fault(pieces=1), Fault(pieces=3), Fault(delay=0.02)], ids=["1", "3", "late"]
)
def test_the_packets_do_not_matter(proxy: FaultProxy, through: Pooler, fault: Fault) -> None:
    _lose_servers(proxy, through)
    proxy.arm(fault)
    with login(through) as client:
        for number in range(5):
            assert client.values(QUERY) == ANSWER
            with pytest.raises(ServerError, match="22012"):
                client.values("SELECT 1/0")
            client.send(
                rawclient.parse("SELECT $1::int * 2", types=[23]),
                rawclient.bind([str(number).encode()]),
                rawclient.execute(),
                rawclient.sync(),
                rawclient.query("BEGIN"),
                rawclient.query("COMMIT"),
            )
            assert rawclient.rows(client.read_until()) == [[b"%d" % (number * 2)]]
            client.read_until()
            client.read_until()


def test_a_stalled_answer_ends_with_the_time_limit(proxy: FaultProxy, through: Pooler) -> None:
    with login(through) as client:
        client.query("SELECT 1")
        proxy.arm(Fault(after=40, then="stall"))
        client.send(rawclient.query(QUERY))
        messages, rest = _whole_messages(client)
        assert rest or messages[-1][0] == b"E"


def test_an_error_without_sqlstate(proxy: FaultProxy, through: Pooler) -> None:
    # CVE-2026-6666
    for body in (b"\0", b"SFATAL\0\0", b"SFATAL\0VFATAL\0Mno code\0\0"):
        error = rawclient.message(b"E", body)
        with login(through) as client:
            client.query("BEGIN")
            proxy.arm(Fault(insert=error, then="close"))
            client.send(rawclient.query(QUERY))
            assert goodbye(client) is not None
            proxy.arm(Fault())
        _lose_servers(proxy, through)
        proxy.arm(Fault(insert=error, then="close"))  # now as the answer to our login
        with login(through) as client:
            client.send(rawclient.query(QUERY))
            last = client.read_until()[-2:]
            assert rawclient.error_fields(last[0][1])["C"] == "08006"
        _heal(proxy, through)


def test_part_of_a_message_from_an_idle_server(proxy: FaultProxy, through: Pooler) -> None:
    # Its rest must not go to the next client.
    notification = rawclient.message(b"A", struct.pack("!i", 1) + b"channel\0" + b"p" * 99 + b"\0")
    with login(through) as client:
        assert client.values(QUERY) == ANSWER
        proxy.say(notification[:50])
        time.sleep(0.02)
        proxy.say(notification[50:])
        assert client.values(QUERY) == ANSWER
    with login(through) as client:
        assert client.values(QUERY) == ANSWER
        proxy.say(notification[:50])
        time.sleep(0.05)
        client.send(rawclient.query(QUERY))
        proxy.say(notification[50:])
        # On a loaded machine both parts may come when the server is this client's already.
        assert rawclient.kinds(client.read_until()).removeprefix(b"A") == b"TDDDCZ"


def test_a_server_that_closes_right_behind_its_welcome(proxy: FaultProxy, through: Pooler) -> None:
    for then in ("close", "reset"):
        _lose_servers(proxy, through)
        with RawClient(proxy.host, proxy.port) as direct:
            size = sum(len(body) + 5 for _, body in direct.login("trustuser", "app"))
        proxy.arm(Fault(after=size, insert=b"N", then="close" if then == "close" else "reset"))
        with login(through) as client:
            client.send(rawclient.query(QUERY))
            client.is_silent(0.1)
            proxy.arm(Fault())
            assert set(rawclient.kinds(client.read_until(b"ZE"))) <= set(b"ETDCZ")

"""The login dialogues: against each other, against bytes, and against garbage."""

import hashlib
import struct
from collections.abc import Callable
from functools import cache, partial
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.wire import build, codes, passwords, scram
from pooler.wire.logins import (
    NO_ENCRYPTION,
    SERVER_MESSAGES,
    Account,
    Credential,
    Encryption,
    Find,
    Login,
    LoginFailed,
    Method,
    Refused,
    Welcome,
    client_login,
    server_login,
)
from pooler.wire.parse import CancelRequest
from pooler.wire.passwords import Kind
from tests.wire.driving import KEY, Side, converse, counting

PASSWORD = "sécret"
METHODS: tuple[Method, ...] = ("trust", "password", "md5", "scram-sha-256")
SSL = b"\0\0\0\x08\x04\xd2\x16\x2f"
GSSENC = b"\0\0\0\x08\x04\xd2\x16\x30"
HELLO = build.startup([("user", "bob"), ("database", "shop")])
GREETING = (
    build.AUTHENTICATION_OK
    + build.parameter_status("TimeZone", "UTC")
    + build.backend_key_data(42, b"key!")
    + build.READY
)


@cache
def stored(kind: Kind | None) -> str | None:
    """PASSWORD as kept for bob."""
    if kind is None:
        return None
    return {
        Kind.PLAIN: PASSWORD,
        Kind.MD5: passwords.md5_secret(PASSWORD, "bob"),
        Kind.SCRAM: scram.derive_verifier(PASSWORD, b"salt", 2).format(),
    }[kind]


def as_server(account: Account, key: bytes = KEY, encryption: Encryption = NO_ENCRYPTION) -> Side:
    """Our side of a client's login, which finds that account."""
    return Side(client_login(counting(), key, None, encryption), lambda _: account)


def as_client(secret: Credential | None, version: int = codes.PROTOCOL_3_0) -> Side:
    """Our side of a login as bob to a server."""
    return Side(server_login("bob", secret, [("database", "shop")], counting(), version))


def fails(side: Side) -> LoginFailed:
    """Return how the dialogue failed."""
    with pytest.raises(LoginFailed) as caught:
        side.outcome()
    error = caught.value
    assert PASSWORD not in repr(error) + error.text + error.cause
    return error


# -- against each other


def expected_method(method: Method, kind: Kind | None) -> Method | None:
    """How bob proves himself with the right password; None: he cannot."""
    if method == "trust":
        return "trust"
    if kind is None or (method == "scram-sha-256" and kind is Kind.MD5):
        return None
    return "scram-sha-256" if method == "md5" and kind is Kind.SCRAM else method


@pytest.mark.parametrize("size", [1, 1 << 20], ids=["byte by byte", "whole"])
@pytest.mark.parametrize("typed", [PASSWORD, "wrong"])
@pytest.mark.parametrize(("method", "kind"), list(product(METHODS, [*Kind, None])))
def test_each_other(method: Method, kind: Kind | None, typed: str, size: int) -> None:
    client, server = as_client(typed), as_server(Account(method, stored(kind)))
    converse(client, server, size)
    used = expected_method(method, kind)
    if used is None or (typed != PASSWORD and method != "trust"):
        error = fails(server)
        assert error.sqlstate == codes.INVALID_PASSWORD
        assert error.text == 'password authentication failed for user "bob"'
        assert error.cause
        client.feed(build.error("FATAL", error.sqlstate, error.text))
        with pytest.raises(Refused) as caught:
            client.outcome()
        assert caught.value.fields["C"] == codes.INVALID_PASSWORD
        assert not client.inbox
        return
    asked = {"user": "bob", "database": "shop"}
    assert server.outcome() == Login("bob", "shop", asked, 0, used)
    assert server.asked == [Find("bob", "shop", asked)]
    assert not client.done
    for at in range(0, len(GREETING), size):
        client.feed(GREETING[at : at + size])
    assert client.outcome() == Welcome({"TimeZone": "UTC"}, 42, b"key!", 0)


def test_a_stored_md5_secret_answers_md5() -> None:
    client, server = as_client(stored(Kind.MD5)), as_server(Account("md5", PASSWORD))
    converse(client, server)
    assert server.outcome().method == "md5"


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (None, "password"),
        (None, "md5"),
        (None, "scram-sha-256"),
        (Kind.MD5, "password"),
        (Kind.MD5, "scram-sha-256"),
        (Kind.SCRAM, "password"),
        (Kind.SCRAM, "md5"),
        (Kind.SCRAM, "scram-sha-256"),
    ],
)
def test_a_secret_that_cannot_answer(kind: Kind | None, method: Method) -> None:
    client, server = as_client(stored(kind)), as_server(Account(method, PASSWORD))
    converse(client, server)
    error = fails(client)
    assert error.sqlstate == codes.INVALID_PASSWORD
    assert f"kind: {kind.value if kind else 'none'}" in error.text
    assert 'user "bob"' in error.text


@pytest.mark.parametrize("method", ["password", "md5", "scram-sha-256"])
def test_an_empty_password_lets_nobody_in(method: Method) -> None:
    client, server = as_client("x"), as_server(Account(method, ""))
    converse(client, server)
    assert fails(server).cause == "no such user"


def test_nobody_can_tell_an_unknown_user() -> None:
    """Two connections as a known user with a wrong password look like two as an unknown one."""
    for method in METHODS[1:]:
        seen = []
        for secret in (PASSWORD, None):
            for _ in range(2):
                client, server = as_client("wrong"), as_server(Account(method, secret))
                converse(client, server)
                error = fails(server)
                seen.append((error.sqlstate, error.text, server.asked, bytes(client.inbox)))
        assert seen == [seen[0]] * 4


@pytest.mark.parametrize("typed", [PASSWORD, "wrong"])
def test_an_unknown_user_costs_what_a_known_one_does(typed: str) -> None:
    derived = []
    for secret in (PASSWORD, stored(Kind.MD5), None):
        ring = scram.Keyring()
        for _ in range(3):
            server = Side(
                client_login(counting(), KEY, ring),
                partial(_account, Account("scram-sha-256", secret)),
            )
            converse(as_client(typed), server)
            derived.append(ring.derived)
    assert derived == [1, 1, 1] * 3


def _account(account: Account, _: Find) -> Account:
    return account


def test_a_wrong_password_in_the_clear_costs_the_same_whatever_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    derived = []
    derive = hashlib.pbkdf2_hmac

    def counted(name: str, password: bytes, salt: bytes, iterations: int) -> bytes:
        derived.append(password)
        return derive(name, password, salt, iterations)

    accounts = [Account("password", stored(kind)) for kind in (*Kind, None)]
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counted)
    for account in accounts:
        server = as_server(account)
        converse(as_client("wrong"), server)
        fails(server)
    assert derived == [b"wrong"] * len(accounts)


@pytest.mark.parametrize(
    ("method", "kind", "used"),
    [
        ("trust", None, "none"),
        ("trust", Kind.PLAIN, "plain"),
        ("trust", Kind.MD5, "md5"),
        ("trust", Kind.SCRAM, "none"),
        ("password", Kind.PLAIN, "plain"),
        ("password", Kind.MD5, "plain"),
        ("password", Kind.SCRAM, "plain"),
        ("md5", Kind.PLAIN, "plain"),
        ("md5", Kind.MD5, "md5"),
        ("md5", Kind.SCRAM, "keys"),
        ("scram-sha-256", Kind.PLAIN, "plain"),
        ("scram-sha-256", Kind.SCRAM, "keys"),
    ],
)
def test_a_login_yields_what_logs_in_to_a_server(
    method: Method, kind: Kind | None, used: str
) -> None:
    client, server = as_client(PASSWORD), as_server(Account(method, stored(kind)))
    converse(client, server)
    login = server.outcome()
    expected = {
        "none": None,
        "plain": PASSWORD,
        "md5": stored(Kind.MD5),
        "keys": scram.derive_keys(PASSWORD, b"salt", 2),
    }[used]
    assert login.credential == expected
    assert PASSWORD not in repr(login)
    if isinstance(expected, scram.Keys):
        again = as_server(Account("scram-sha-256", stored(Kind.SCRAM)))
        converse(as_client(expected), again)
        assert again.outcome().credential == expected


@pytest.mark.parametrize("method", ["password", "md5"])
def test_keys_answer_no_other_request(method: Method) -> None:
    client = as_client(scram.derive_keys(PASSWORD, b"salt", 2))
    converse(client, as_server(Account(method, PASSWORD)))
    assert "kind: SCRAM keys" in fails(client).text


def test_keys_of_another_verifier() -> None:
    client = as_client(scram.derive_keys(PASSWORD, b"other", 2))
    converse(client, as_server(Account("scram-sha-256", stored(Kind.SCRAM))))
    error = fails(client)
    assert error.sqlstate == codes.INVALID_PASSWORD
    assert 'the server\'s verifier of user "bob" is not the one' in error.text


def test_salts_depend_on_the_key() -> None:
    challenges = set()
    for key in (b"one", b"other"):
        for user in ("bob", "eve"):
            server = as_server(Account("scram-sha-256", None), key)
            server.feed(build.startup([("user", user)]))
            server.feed(build.sasl_initial_response(scram.MECHANISM, b"n,,n=,r=x"))
            challenges.add(server.said())
    assert len(challenges) == 4


# -- a client logs in


def test_encryption_is_declined_once_each() -> None:
    server = as_server(Account("trust"))
    for request in (SSL, GSSENC):
        server.feed(request)
        assert server.said() == b"N"
    server.feed(HELLO)
    assert server.outcome().user == "bob"


@pytest.mark.parametrize("request_", [SSL, GSSENC])
def test_encryption_asked_for_twice(request_: bytes) -> None:
    server = as_server(Account("trust"))
    server.feed(request_)
    assert server.said() == b"N"
    server.feed(request_)
    error = fails(server)
    assert error.sqlstate == codes.FEATURE_NOT_SUPPORTED
    assert error.text == (
        f"unsupported frontend protocol 1234.{struct.unpack('!HH', request_[4:])[1]}: "
        "server supports 3.0 to 3.2"
    )


@pytest.mark.parametrize("offered", [False, True])
@pytest.mark.parametrize(("request_", "what"), [(SSL, "SSL"), (GSSENC, "GSSAPI encryption")])
def test_said_in_the_clear_behind_a_request(request_: bytes, what: str, offered: bool) -> None:
    """CVE-2021-23214."""
    server = as_server(Account("trust"), encryption=Encryption(offered=offered))
    server.feed(request_ + HELLO)
    assert server.said() == (b"" if offered and what == "SSL" else b"N")
    error = fails(server)
    assert error.sqlstate == codes.PROTOCOL_VIOLATION
    assert error.text == f"received unencrypted data after {what} request"


@pytest.mark.parametrize("before", [(), (SSL,), (GSSENC, SSL)])
@pytest.mark.parametrize("secret", [b"four", b"k" * 32])
def test_cancel_request(before: tuple[bytes, ...], secret: bytes) -> None:
    server = as_server(Account("trust"))
    for request in before:
        server.feed(request)
    server.feed(build.cancel_request(7, secret))
    assert server.outcome() == CancelRequest(7, secret)
    assert server.asked == []


@pytest.mark.parametrize(
    ("version", "options", "minor", "answer"),
    [
        (0, [], 0, b""),
        (1, [], 0, b""),
        (2, [], 2, b""),
        (3, [], 2, build.negotiate_protocol_version(2, [])),
        (9999, ["_pq_.a"], 2, build.negotiate_protocol_version(2, ["_pq_.a"])),
        (0, ["_pq_.a", "_pq_.b"], 0, build.negotiate_protocol_version(0, ["_pq_.a", "_pq_.b"])),
        (1, ["_pq_.a"], 0, build.negotiate_protocol_version(0, ["_pq_.a"])),
    ],
)
def test_versions(version: int, options: list[str], minor: int, answer: bytes) -> None:
    server = as_server(Account("trust"))
    pairs = [("user", "bob"), *((name, "on") for name in options), ("TimeZone", "UTC")]
    server.feed(build.startup(pairs, 3 << 16 | version))
    assert server.said() == answer
    login = server.outcome()
    assert (login.minor, login.database) == (minor, "bob")
    assert login.parameters == {"user": "bob", "TimeZone": "UTC"}


@pytest.mark.parametrize("pairs", [[], [("user", "")], [("database", "shop")]])
def test_no_user(pairs: list[tuple[str, str]]) -> None:
    server = as_server(Account("trust"))
    server.feed(build.startup(pairs))
    error = fails(server)
    assert error.sqlstate == codes.INVALID_AUTHORIZATION
    assert error.text == "no PostgreSQL user name specified in startup packet"


def test_what_find_raises_comes_out() -> None:
    def nobody(_: Find) -> Account:
        raise AssertionError

    dialogue = client_login(counting(), KEY)
    side = Side(dialogue, nobody)
    request = side.request
    while not isinstance(request, Find):
        request = dialogue.send(HELLO[4:])
    with pytest.raises(LookupError, match="no such database"):
        dialogue.throw(LookupError("no such database"))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        pytest.param(HELLO, 0, id="second StartupMessage: CVE-2026-107350"),
        pytest.param(SSL, 0, id="SSLRequest"),
        pytest.param(build.query("SELECT 1"), 81, id="query"),
        pytest.param(b"Q\xff\xff\xff\xff", 81, id="query of absurd length"),
        pytest.param(build.TERMINATE, 88, id="terminate"),
        pytest.param(b"\x16\x03\x01", 22, id="TLS"),
    ],
)
@pytest.mark.parametrize("method", METHODS[1:])
def test_something_else_than_a_password(method: Method, data: bytes, kind: int) -> None:
    awaited = "SASL response" if method == "scram-sha-256" else "password response"
    for size in (1, len(data)):
        server = as_server(Account(method, PASSWORD))
        server.feed(HELLO)
        server.feed(data[:size])
        error = fails(server)
        assert error.sqlstate == codes.PROTOCOL_VIOLATION
        assert error.text == f"expected {awaited}, got message type {kind}"


def test_pipelined_bytes_are_left_to_the_session() -> None:
    server = as_server(Account("trust"))
    server.feed(HELLO + HELLO)
    assert server.outcome().user == "bob"
    assert server.inbox == HELLO


@pytest.mark.parametrize(
    ("method", "message", "sqlstate", "text"),
    [
        ("password", build.password(""), "28P01", "empty password returned by client"),
        ("md5", build.password(""), "28P01", "empty password returned by client"),
        ("password", b"p\0\0\0\x04", "08P01", "a string is not terminated"),
        ("password", b"p\0\0\0\x07a\0b", "08P01", "invalid password packet size"),
        ("md5", b"p\0\0\0\3", "08P01", "invalid length 3 of message type 'p'"),
        ("md5", b"p\0\1\0\4", "08P01", "invalid length 65540 of message type 'p'"),
        ("scram-sha-256", build.password("x"), "08P01", "invalid SASL initial response"),
        (
            "scram-sha-256",
            build.sasl_initial_response("SCRAM-SHA-256-PLUS", b"p=tls-unique,,n=,r=x"),
            "08P01",
            "client selected an invalid SASL authentication mechanism",
        ),
        (
            "scram-sha-256",
            build.sasl_initial_response("SCRAM-SHA-256", b"garbage"),
            "08P01",
            "malformed SCRAM message: no GS2 header",
        ),
    ],
)
def test_bad_answers(method: Method, message: bytes, sqlstate: str, text: str) -> None:
    server = as_server(Account(method, PASSWORD))
    server.feed(HELLO + message)
    error = fails(server)
    assert (error.sqlstate, error.text) == (sqlstate, text)


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0\x01", b"\0\0\0\0", b"\xff\xff\xff\xff"],
)
def test_other_protocols(data: bytes) -> None:
    server = as_server(Account("trust"))
    server.feed(data[:4])
    error = fails(server)
    assert (error.sqlstate, error.text) == ("08P01", "invalid length of startup packet")


# -- we log in


def test_the_startup_message() -> None:
    assert as_client(PASSWORD).said() == HELLO
    assert as_client(PASSWORD, codes.PROTOCOL_3_2).said()[4:8] == b"\0\3\0\2"


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_notices_and_parameters_on_the_way(size: int) -> None:
    notice = build.notice("00000", "hello")
    data = (
        notice
        + build.AUTHENTICATION_OK
        + build.parameter_status("a", "1")
        + notice
        + build.parameter_status("a", "2")
        + build.READY
        + b"next"
    )
    client = as_client(None)
    for at in range(0, len(data), size):
        client.feed(data[at : at + size])
    assert client.outcome() == Welcome({"a": "2"}, 0, b"", 0)
    assert client.inbox == b"next"


@pytest.mark.parametrize(("offered", "minor"), [(0, 0), (1, 0), (2, 2)])
def test_the_server_negotiates(offered: int, minor: int) -> None:
    client = as_client(None, codes.PROTOCOL_3_2)
    client.feed(build.negotiate_protocol_version(offered, []))
    client.feed(build.AUTHENTICATION_OK + build.backend_key_data(1, b"k" * 256) + build.READY)
    assert client.outcome() == Welcome({}, 1, b"k" * 256, minor)


MD5 = build.authentication(codes.AUTH_MD5, b"salt")
SASL = build.sasl_mechanisms([scram.MECHANISM])
FINAL = build.authentication(codes.AUTH_SASL_FINAL, b"v=" + b"A" * 43 + b"=")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"HTTP/1.1 400 Bad Request", "expected authentication request, got message type 72"),
        (b"R\0\0\0\3", "invalid length 3 of message type 'R'"),
        (b"R\x7f\xff\xff\xff", "invalid length 2147483647 of message type 'R'"),
        (b"R\0\0\0\4", "bad answer to our login: invalid authentication request"),
        (build.READY, "expected authentication request, got message type 90"),
        (
            build.authentication(7),
            "the server asks for authentication method 7, which is not supported",
        ),
        (
            build.authentication(codes.AUTH_SASL_FINAL),
            "the server asks for authentication method 12, which is not supported",
        ),
        (build.authentication(codes.AUTH_MD5, b"sal"), "bad answer to our login: invalid md5 salt"),
        (MD5 + MD5, "bad answer to our login: expected authentication request 0, got 5"),
        (
            build.sasl_mechanisms(["OAUTHBEARER", "X"]),
            "none of the server's SASL mechanisms is supported: OAUTHBEARER, X",
        ),
        (
            SASL + build.AUTHENTICATION_OK,
            "bad answer to our login: expected authentication request 11, got 0",
        ),
        (SASL + FINAL, "bad answer to our login: expected authentication request 11, got 12"),
        (
            build.negotiate_protocol_version(2, []),
            "bad answer to our login: the server negotiates a newer protocol than we asked for",
        ),
        (
            build.AUTHENTICATION_OK + build.AUTHENTICATION_OK,
            "expected ReadyForQuery, got message type 82",
        ),
        (
            build.AUTHENTICATION_OK + build.ready_for_query(codes.IN_TRANSACTION),
            "bad answer to our login: the server is not idle after login",
        ),
        (
            build.AUTHENTICATION_OK + build.backend_key_data(1, b"key"),
            "bad answer to our login: invalid backend key data",
        ),
        (
            build.AUTHENTICATION_OK + build.notice("00000", "x") * (SERVER_MESSAGES + 1),
            f"the login is not over after {SERVER_MESSAGES} messages",
        ),
        (
            build.AUTHENTICATION_OK + build.parameter_status("a", "b") * SERVER_MESSAGES,
            f"the login is not over after {SERVER_MESSAGES} messages",
        ),
    ],
)
def test_bad_servers(data: bytes, text: str) -> None:
    client = as_client(PASSWORD)
    client.feed(data)
    assert fails(client).text == text


def challenge(client: Side) -> None:
    """Take the client as far as its SCRAM proof."""
    client.feed(SASL)
    said = client.said().rpartition(b"r=")[2]
    client.feed(build.authentication(codes.AUTH_SASL_CONTINUE, b"r=" + said + b"x,s=c2FsdA==,i=1"))


def test_a_server_that_skips_its_proof() -> None:
    client = as_client(PASSWORD)
    challenge(client)
    client.feed(build.AUTHENTICATION_OK)
    assert fails(client).text.endswith("expected authentication request 12, got 0")


def test_a_server_with_a_false_proof() -> None:
    client = as_client(PASSWORD)
    challenge(client)
    client.feed(FINAL)
    error = fails(client)
    assert error.sqlstate == codes.INVALID_PASSWORD
    assert error.text == "the server could not prove that it knows the password"


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (
            build.error("FATAL", "53300", "sorry, too many clients already"),
            {"S": "FATAL", "V": "FATAL", "C": "53300", "M": "sorry, too many clients already"},
        ),
        (build.message(codes.ERROR_RESPONSE, b"Mno code\0\0"), {"M": "no code"}),
        (build.message(codes.ERROR_RESPONSE, b"\0"), {}),
    ],
    ids=["whole", "no SQLSTATE: CVE-2026-6666", "empty"],
)
@pytest.mark.parametrize("before", [b"", build.AUTHENTICATION_OK, SASL])
def test_the_server_refuses(before: bytes, data: bytes, fields: dict[str, str]) -> None:
    client = as_client(PASSWORD)
    client.feed(before + data)
    with pytest.raises(Refused) as caught:
        client.outcome()
    assert caught.value.fields == fields


# -- garbage


def only_clear_ends(side: Side) -> None:
    """Assert a result, a clear error, or a request for more."""
    if side.error is not None:
        assert isinstance(side.error, LoginFailed | Refused), repr(side.error)
        assert str(side.error)


PIECES = [SSL, GSSENC, HELLO, build.cancel_request(7, b"four"), build.startup([], 3 << 16 | 7)]
ANSWERS = [
    build.password(PASSWORD),
    build.password(b""),
    build.sasl_initial_response(scram.MECHANISM, b"n,,n=,r=x"),
    build.sasl_response(b"c=biws,r=x,p=AAAA"),
    build.TERMINATE,
]
OFFERS = [
    GREETING,
    build.AUTHENTICATION_OK,
    build.READY,
    build.notice("00000", "x"),
    build.error("FATAL", "57P03", "starting up"),
    build.negotiate_protocol_version(0, ["_pq_.x"]),
    build.authentication(codes.AUTH_CLEARTEXT),
    build.authentication(codes.AUTH_SASL_CONTINUE, b"r=x,s=c2FsdA==,i=1"),
    MD5,
    SASL,
    FINAL,
]


def garbled(pieces: list[bytes]) -> st.SearchStrategy[bytes]:
    """Sequences of sensible messages and garbage, with some bytes changed."""
    stream = st.lists(st.sampled_from(pieces) | st.binary(max_size=20), max_size=5).map(b"".join)

    def change(data: bytes, changes: list[tuple[int, int]]) -> bytes:
        changed = bytearray(data)
        for place, value in changes:
            if changed:
                changed[place % len(changed)] = value
        return bytes(changed)

    places = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3)
    return st.builds(change, stream, places)


@given(
    garbled(PIECES + ANSWERS),
    st.sampled_from(METHODS),
    st.sampled_from([*Kind, None]),
    st.booleans(),
    st.integers(1, 40),
)
def test_any_client(
    data: bytes, method: Method, kind: Kind | None, greeted: bool, size: int
) -> None:
    side = as_server(Account(method, stored(kind)))
    if greeted:
        side.feed(HELLO)
    for at in range(0, len(data), size):
        side.feed(data[at : at + size])
    only_clear_ends(side)


@given(garbled(OFFERS), st.sampled_from([*Kind, None]), st.integers(0, 2), st.integers(1, 40))
def test_any_server(data: bytes, kind: Kind | None, minor: int, size: int) -> None:
    side = as_client(stored(kind), 3 << 16 | minor)
    for at in range(0, len(data), size):
        side.feed(data[at : at + size])
    only_clear_ends(side)


@given(st.binary(max_size=200))
def test_any_bytes_at_all(data: bytes) -> None:
    sides: list[Callable[[], Side]] = [
        lambda: as_server(Account("password", PASSWORD)),
        lambda: as_client(PASSWORD),
    ]
    for make in sides:
        side = make()
        side.feed(data)
        only_clear_ends(side)


# -- secrets


def test_no_secret_in_a_repr() -> None:
    for kind in Kind:
        secret = stored(kind)
        assert secret is not None
        assert secret not in repr(Account("md5", secret))
    assert "key!" not in repr(Welcome({}, 1, b"key!", 0))

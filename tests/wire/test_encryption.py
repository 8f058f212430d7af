"""The login dialogues with TLS: what is asked and refused, and what SCRAM is bound to."""

import pytest

from pooler.wire import build, codes, scram
from pooler.wire.logins import (
    Account,
    Asking,
    ChannelBinding,
    Encryption,
    Login,
    LoginFailed,
    Secured,
    StartTls,
    cancel,
    client_login,
    server_login,
)
from pooler.wire.parse import CancelRequest
from tests.wire.driving import KEY, Side, counting

SECURED = Secured(b"hash of the certificate", "postgresql")
HELLO = build.startup([("user", "bob")])
OFFERED = Encryption(offered=True)
REQUIRED = Encryption(offered=True, required=True)
CERTIFICATE = Encryption(offered=True, required=True, certificate=True)


def as_server(
    encryption: Encryption = OFFERED, secured: Secured = SECURED, method: str = "scram-sha-256"
) -> Side:
    account = Account(method, "secret")  # type: ignore[arg-type]
    dialogue = client_login(counting(), KEY, None, encryption)
    return Side(dialogue, lambda _: account, secured)


def as_client(
    asking: Asking, binding: ChannelBinding = "prefer", secured: Secured = SECURED
) -> Side:
    dialogue = server_login(
        "bob", "secret", [], counting(), codes.PROTOCOL_3_0, None, asking, binding
    )
    return Side(dialogue, secured=secured)


def failure(side: Side) -> tuple[str, str]:
    with pytest.raises(LoginFailed) as caught:
        side.outcome()
    return caught.value.sqlstate, caught.value.text


def talk(one: Side, other: Side) -> bytes:
    """Carry bytes to and fro until nothing moves; return all of them."""
    spoken = b""
    while data := (one.said() or b""):
        other.feed(data)
        back = other.said()
        one.feed(back)
        spoken += data + back
        if not back:
            break
    return spoken


# -- we are the server


def test_offered() -> None:
    server = as_server(method="trust")
    server.feed(build.SSL_REQUEST)
    assert server.said() == b"S"
    assert server.started == [StartTls()]
    server.feed(HELLO)
    assert isinstance(server.outcome(), Login)


@pytest.mark.parametrize("size", [1, 1000])
def test_direct(size: int) -> None:
    server = as_server(method="trust")
    server.feed(b"\x16\x03\x01\2\0"[:size])
    assert server.said() == b""
    assert server.started == [StartTls(direct=True)]
    server.feed(HELLO)
    assert isinstance(server.outcome(), Login)


@pytest.mark.parametrize("alpn", [None, "http/1.1"])
def test_direct_for_another_protocol(alpn: str | None) -> None:
    server = as_server(method="trust", secured=Secured(b"x", alpn))
    server.feed(b"\x16\x03\x01")
    sqlstate, text = failure(server)
    assert sqlstate == codes.PROTOCOL_VIOLATION
    assert "without ALPN" in text


def test_no_tls_within_tls() -> None:
    server = as_server(method="trust")
    server.feed(build.SSL_REQUEST)
    assert server.said() == b"S"
    server.feed(b"\x16\x03\x01\0\0")
    assert failure(server) == (codes.PROTOCOL_VIOLATION, "invalid length of startup packet")
    server = as_server(method="trust")
    server.feed(build.SSL_REQUEST)
    assert server.said() == b"S"
    server.feed(build.SSL_REQUEST)
    assert failure(server)[0] == codes.FEATURE_NOT_SUPPORTED


def test_tls_that_is_not_offered() -> None:
    server = as_server(Encryption())
    server.feed(b"\x16\x03\x01\2\0")
    assert failure(server) == (codes.PROTOCOL_VIOLATION, "invalid length of startup packet")


def test_required() -> None:
    server = as_server(REQUIRED)
    server.feed(HELLO)
    assert failure(server) == (codes.INVALID_AUTHORIZATION, "SSL required")
    assert server.asked == []


@pytest.mark.parametrize("verified", [True, False])
def test_certificate_required(verified: bool) -> None:
    server = as_server(CERTIFICATE, Secured(b"x", "postgresql", verified), method="trust")
    server.feed(build.SSL_REQUEST)
    assert server.said() == b"S"
    server.feed(HELLO)
    if verified:
        assert isinstance(server.outcome(), Login)
    else:
        assert failure(server) == (
            codes.INVALID_AUTHORIZATION,
            "connection requires a valid client certificate",
        )


@pytest.mark.parametrize("before", [b"", build.SSL_REQUEST])
def test_a_cancel_request_may_come_as_it_likes(before: bytes) -> None:
    server = as_server(CERTIFICATE)
    server.feed(before)
    assert server.said() == (b"S" if before else b"")
    server.feed(build.cancel_request(7, b"four"))
    assert server.outcome() == CancelRequest(7, b"four")


def challenged(server: Side, encrypted: bool = True) -> bytes:
    """What the server offers once it has been greeted."""
    if encrypted:
        server.feed(build.SSL_REQUEST)
        assert server.said() == b"S"
    server.feed(HELLO)
    return server.said()


def test_what_is_offered() -> None:
    plus = build.sasl_mechanisms([scram.MECHANISM_PLUS, scram.MECHANISM])
    plain = build.sasl_mechanisms([scram.MECHANISM])
    assert challenged(as_server()) == plus
    assert challenged(as_server(), encrypted=False) == plain
    assert challenged(as_server(secured=Secured(b"", "postgresql"))) == plain  # Ed25519


@pytest.mark.parametrize(
    ("mechanism", "response", "sqlstate"),
    [
        ("SCRAM-SHA-256", b"y,,n=,r=x", codes.INVALID_AUTHORIZATION),
        ("SCRAM-SHA-256", b"p=tls-server-end-point,,n=,r=x", codes.PROTOCOL_VIOLATION),
        ("SCRAM-SHA-256-PLUS", b"n,,n=,r=x", codes.PROTOCOL_VIOLATION),
        ("SCRAM-SHA-256-PLUS", b"y,,n=,r=x", codes.PROTOCOL_VIOLATION),
        ("SCRAM-SHA-256-PLUS", b"p=tls-unique,,n=,r=x", codes.PROTOCOL_VIOLATION),
    ],
)
def test_a_downgrade_is_noticed(mechanism: str, response: bytes, sqlstate: str) -> None:
    server = as_server()
    challenged(server)
    server.feed(build.sasl_initial_response(mechanism, response))
    assert failure(server) == (sqlstate, "SCRAM channel binding negotiation error")


# -- against each other


@pytest.mark.parametrize("binding", ["disable", "prefer", "require"])
def test_bound(binding: ChannelBinding) -> None:
    client, server = as_client("must", binding), as_server()
    spoken = talk(client, server)
    assert isinstance(server.outcome(), Login)
    chosen = binding != "disable"
    assert spoken.count(b"SCRAM-SHA-256-PLUS\0") == 1 + chosen
    assert (b"p=tls-server-end-point" in spoken) is chosen
    assert not client.done


@pytest.mark.parametrize("binding", ["prefer", "require"])
def test_a_man_in_the_middle_shows_another_certificate(binding: ChannelBinding) -> None:
    client = as_client("must", binding, Secured(b"hash of another", "postgresql"))
    server = as_server()
    talk(client, server)
    sqlstate, text = failure(server)
    assert sqlstate == codes.PROTOCOL_VIOLATION
    assert "channel-binding" in text


def test_plus_is_hidden_from_a_client_by_a_man_in_the_middle() -> None:
    client, server = as_client("must"), as_server()
    server.feed(client.said())
    client.feed(server.said())
    server.feed(client.said())
    assert scram.MECHANISM_PLUS.encode() in server.said()
    client.feed(build.sasl_mechanisms([scram.MECHANISM]))
    said = client.said()
    assert b"y,," in said
    server.feed(said)
    assert failure(server)[0] == codes.INVALID_AUTHORIZATION


# -- we are the client


@pytest.mark.parametrize(
    ("asking", "answer", "text"),
    [
        ("must", b"N", "server does not support SSL, but SSL was required"),
        ("must", b"E", "server sent an error response during SSL exchange"),
        ("try", b"E", "server sent an error response during SSL exchange"),
        ("try", b"x", "received invalid response to SSL negotiation: b'x'"),
        ("try", b"S\x16", "received unencrypted data after SSL response"),
        ("must", b"SE\0\0\0\x08", "received unencrypted data after SSL response"),
    ],
)
def test_bad_answers(asking: Asking, answer: bytes, text: str) -> None:
    client = as_client(asking)
    assert client.said() == build.SSL_REQUEST
    client.feed(answer)
    assert failure(client)[1] == text
    assert client.started == []


def test_no_for_an_answer() -> None:
    client = as_client("try")
    assert client.said() == build.SSL_REQUEST
    client.feed(b"N")
    assert client.said() == HELLO
    assert client.started == []


def test_direct_to_a_server() -> None:
    client = as_client("direct")
    assert client.said() == HELLO
    assert client.started == [StartTls(direct=True)]
    client = as_client("direct", secured=Secured(b"x", None))
    assert "without ALPN" in failure(client)[1]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            build.AUTHENTICATION_OK,
            "channel binding required, but server authenticated client without channel binding",
        ),
        (
            build.authentication(codes.AUTH_CLEARTEXT),
            "channel binding required but not supported by server's authentication request",
        ),
        (
            build.authentication(codes.AUTH_MD5, b"salt"),
            "channel binding required but not supported by server's authentication request",
        ),
        (
            build.sasl_mechanisms([scram.MECHANISM]),
            "channel binding is required, but server did not offer an authentication method that "
            "supports channel binding",
        ),
    ],
)
def test_binding_required(request_: bytes, text: str) -> None:
    client = as_client("direct", "require")
    assert client.said() == HELLO
    client.feed(request_)
    assert failure(client) == (codes.CONNECTION_FAILURE, text)
    assert client.outbox == b""


@pytest.mark.parametrize("binding", ["disable", "prefer"])
def test_plus_in_the_clear_is_a_lie(binding: ChannelBinding) -> None:
    client = as_client("not", binding)
    assert client.said() == HELLO
    client.feed(build.sasl_mechanisms([scram.MECHANISM_PLUS, scram.MECHANISM]))
    assert failure(client)[0] == codes.PROTOCOL_VIOLATION


def test_cancel() -> None:
    side = Side(cancel("must", 7, b"four"), secured=SECURED)
    assert side.said() == build.SSL_REQUEST
    side.feed(b"S")
    assert side.said() == build.cancel_request(7, b"four")
    assert side.started == [StartTls()]
    assert side.outcome() is None
    side = Side(cancel("not", 7, b"four"))
    assert side.said() == build.cancel_request(7, b"four")

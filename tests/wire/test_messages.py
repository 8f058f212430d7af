"""The golden table: each message that we build or read, and its bytes."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.wire import build, codes, parse
from pooler.wire.logins import LoginFailed, Message, Packet

# name, message as built, its bytes, reader of the body, what the reader returns
Row = tuple[str, bytes, bytes, Callable[[bytes], Any], Any]
FRAMED: list[Row] = [
    (
        "Password",
        build.password("sé"),
        b"p\0\0\0\x08s\xc3\xa9\0",
        parse.password,
        b"s\xc3\xa9",
    ),
    (
        "SASLInitialResponse",
        build.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=x"),
        b"p\0\0\0\x1fSCRAM-SHA-256\0\0\0\0\x09n,,n=,r=x",
        parse.sasl_initial_response,
        ("SCRAM-SHA-256", b"n,,n=,r=x"),
    ),
    ("SASLResponse", build.sasl_response(b"c=biws"), b"p\0\0\0\x0ac=biws", bytes, b"c=biws"),
    (
        "AuthenticationOk",
        build.AUTHENTICATION_OK,
        b"R\0\0\0\x08\0\0\0\0",
        parse.authentication,
        (codes.AUTH_OK, b""),
    ),
    (
        "AuthenticationMD5Password",
        build.authentication(codes.AUTH_MD5, b"salt"),
        b"R\0\0\0\x0c\0\0\0\x05salt",
        parse.authentication,
        (codes.AUTH_MD5, b"salt"),
    ),
    (
        "AuthenticationSASL",
        build.sasl_mechanisms(["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]),
        b"R\0\0\0\x2a\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0",
        lambda body: parse.sasl_mechanisms(parse.authentication(body)[1]),
        ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"),
    ),
    (
        "ParameterStatus",
        build.parameter_status("TimeZone", "UTC"),
        b"S\0\0\0\x11TimeZone\0UTC\0",
        parse.parameter_status,
        ("TimeZone", "UTC"),
    ),
    (
        "BackendKeyData 3.0",
        build.backend_key_data(258, b"abcd"),
        b"K\0\0\0\x0c\0\0\1\2abcd",
        parse.backend_key_data,
        (258, b"abcd"),
    ),
    (
        "BackendKeyData 3.2",
        build.backend_key_data(0xFFFFFFFF, b"k" * 256),
        b"K\0\0\1\x08\xff\xff\xff\xff" + b"k" * 256,
        parse.backend_key_data,
        (0xFFFFFFFF, b"k" * 256),
    ),
    (
        "NegotiateProtocolVersion",
        build.negotiate_protocol_version(2, ["_pq_.x"]),
        b"v\0\0\0\x13\0\3\0\2\0\0\0\1_pq_.x\0",
        parse.negotiate_protocol_version,
        2,
    ),
    (
        "ErrorResponse",
        build.error("FATAL", "53300", "too many", "d", "h"),
        b"E\0\0\0\x2aSFATAL\0VFATAL\0C53300\0Mtoo many\0Dd\0Hh\0\0",
        parse.report,
        {"S": "FATAL", "V": "FATAL", "C": "53300", "M": "too many", "D": "d", "H": "h"},
    ),
    (
        "NoticeResponse",
        build.notice("00000", "wait"),
        b"N\0\0\0\x22SNOTICE\0VNOTICE\0C00000\0Mwait\0\0",
        parse.report,
        {"S": "NOTICE", "V": "NOTICE", "C": "00000", "M": "wait"},
    ),
]

BUILT = [
    ("Query", build.query("SELECT 1"), b"Q\0\0\0\x0dSELECT 1\0"),
    ("Sync", build.SYNC, b"S\0\0\0\x04"),
    ("Terminate", build.TERMINATE, b"X\0\0\0\x04"),
    ("CopyFail", build.copy_fail("no"), b"f\0\0\0\x07no\0"),
    ("ReadyForQuery", build.READY, b"Z\0\0\0\x05I"),
]

FIRST: list[tuple[str, bytes, bytes, Any]] = [
    (
        "StartupMessage 3.0",
        build.startup([("user", "bob"), ("database", "d\xe9")]),
        b"\0\0\0\x1f\0\3\0\0user\0bob\0database\0d\xc3\xa9\0\0",
        parse.Startup(0, {"user": "bob", "database": "d\xe9"}, ()),
    ),
    (
        "StartupMessage 3.2",
        build.startup([("user", "b"), ("_pq_.y", "on"), ("user", "c")], codes.PROTOCOL_3_2),
        b"\0\0\0\x21\0\3\0\2user\0b\0_pq_.y\0on\0user\0c\0\0",
        parse.Startup(2, {"user": "c"}, ("_pq_.y",)),
    ),
    (
        "CancelRequest 3.0",
        build.cancel_request(7, b"abcd"),
        b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\7abcd",
        parse.CancelRequest(7, b"abcd"),
    ),
    (
        "CancelRequest 3.2",
        build.cancel_request(7, b"k" * 256),
        b"\0\0\1\x0c\x04\xd2\x16\x2e\0\0\0\7" + b"k" * 256,
        parse.CancelRequest(7, b"k" * 256),
    ),
    (
        "SSLRequest",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        parse.EncryptionRequest(codes.SSL_REQUEST),
    ),
    (
        "GSSENCRequest",
        b"\0\0\0\x08\x04\xd2\x16\x30",
        b"\0\0\0\x08\x04\xd2\x16\x30",
        parse.EncryptionRequest(codes.GSSENC_REQUEST),
    ),
]

READERS: list[Callable[[bytes], Any]] = [
    parse.first_packet,
    parse.password,
    parse.sasl_initial_response,
    parse.authentication,
    parse.sasl_mechanisms,
    parse.parameter_status,
    parse.backend_key_data,
    parse.negotiate_protocol_version,
    parse.report,
]


@pytest.mark.parametrize(
    ("name", "built", "wire", "read", "value"), FRAMED, ids=[r[0] for r in FRAMED]
)
def test_framed(
    name: str, built: bytes, wire: bytes, read: Callable[[bytes], Any], value: Any
) -> None:
    assert built == wire, name
    request = Message(bytes([wire[0]]), name, codes.AUTH_LIMIT)
    for size in range(len(wire)):
        assert request.take(wire[:size]) is None
    for tail in (b"", b"\0", wire):
        taken = request.take(wire + tail)
        assert taken is not None
        (kind, body), end = taken
        assert (kind, end) == (wire[0], len(wire))
        assert read(body) == value


@pytest.mark.parametrize(("name", "built", "wire"), BUILT, ids=[r[0] for r in BUILT])
def test_built(name: str, built: bytes, wire: bytes) -> None:
    assert built == wire, name


@pytest.mark.parametrize(("name", "built", "wire", "value"), FIRST, ids=[r[0] for r in FIRST])
def test_first_packet(name: str, built: bytes, wire: bytes, value: Any) -> None:
    assert built == wire, name
    for size in range(len(wire)):
        assert Packet().take(wire[:size]) is None
    for tail in (b"", b"\0", wire):
        taken = Packet().take(wire + tail)
        assert taken is not None
        assert taken[1] == len(wire)
        assert parse.first_packet(taken[0]) == value


@pytest.mark.parametrize(
    ("name", "wire", "read"), [pytest.param(r[0], r[2], r[3], id=r[0]) for r in FRAMED]
)
def test_a_shortened_body_is_malformed_or_another(
    name: str, wire: bytes, read: Callable[[bytes], Any]
) -> None:
    for end in range(5, len(wire)):
        try:
            read(wire[5:end])
        except parse.Malformed:
            continue
        assert name in (
            "SASLResponse",
            "AuthenticationMD5Password",
            "BackendKeyData 3.2",
            "NegotiateProtocolVersion",
        )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\3\0",
        b"\0\2\0\0\0",  # protocol 2.0
        b"GET / HTTP/1.1\r\n",
        b"\0\3\0\0",  # no terminator
        b"\0\3\0\0user\0b\0",
        b"\0\3\0\0user\0b",
        b"\0\3\0\0user\0",
        b"\0\3\0\0\0\0",
        b"\x04\xd2\x16\x2f\0",
        b"\x04\xd2\x16\x2e\0\0\0\7",
        b"\x04\xd2\x16\x2e\0\0\0\7abc",
        b"\x04\xd2\x16\x2e\0\0\0\7" + b"k" * 257,
    ],
)
def test_malformed_first_packet(body: bytes) -> None:
    with pytest.raises(parse.Malformed):
        parse.first_packet(body)


@pytest.mark.parametrize("length", [0, 3, 4, 7, 10_005, 0x47455420, 0x7FFFFFFF, 0xFFFFFFFF])
def test_length_of_the_first_packet(length: int) -> None:
    with pytest.raises(LoginFailed, match="invalid length of startup packet"):
        Packet().take(length.to_bytes(4, "big"))


@pytest.mark.parametrize("length", [0, 3, 65_540, 0x80000000, 0xFFFFFFFF])
def test_length_of_a_login_message(length: int) -> None:
    with pytest.raises(LoginFailed, match=f"invalid length {length} of message type 'p'"):
        Message(b"p", "password response", 65_535).take(b"p" + length.to_bytes(4, "big"))


@given(st.sampled_from(READERS), st.binary(max_size=80))
def test_readers_raise_nothing_but_malformed(read: Callable[[bytes], Any], body: bytes) -> None:
    with suppress(parse.Malformed):
        read(body)


@given(st.dictionaries(st.binary(min_size=1), st.binary()), st.sampled_from([0, 2, 9999]))
def test_startup_survives_the_round_trip(raw: dict[bytes, bytes], minor: int) -> None:
    pairs = [
        (parse.text(name.replace(b"\0", b"-")), parse.text(value.replace(b"\0", b"-")))
        for name, value in raw.items()
    ]
    packet = build.startup(pairs, 3 << 16 | minor)
    assert parse.first_packet(packet[4:]) == parse.Startup(
        minor,
        {name: value for name, value in pairs if not name.startswith("_pq_.")},
        tuple(name for name, _ in pairs if name.startswith("_pq_.")),
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda text: build.startup([("user", text)]),
        lambda text: build.query(text),
        lambda text: build.password(text),
        lambda text: build.parameter_status("a", text),
        lambda text: build.error("FATAL", "XX000", text),
        lambda text: build.sasl_mechanisms([text]),
    ],
)
def test_no_nul_within_a_string(make: Callable[[str], bytes]) -> None:
    with pytest.raises(ValueError, match="NUL"):
        make("a\0b")

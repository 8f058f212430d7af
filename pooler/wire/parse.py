"""Reads the few messages that we must understand; bodies come without kind and length.

Every reader raises `Malformed` on anything that does not follow PostgreSQL's "Message Formats",
whatever the bytes: no other exception, no unbounded work, no reading past the end.
"""

import struct
from dataclasses import dataclass
from typing import Final

from pooler.wire import codes


class Malformed(Exception):
    """A message's body does not have the shape that its kind calls for; the text says how."""


class UnsupportedVersion(Malformed):
    """A startup packet of a protocol that we do not speak; the text is PostgreSQL's."""

    def __init__(self, code: int) -> None:
        super().__init__(
            f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: "
            f"server supports 3.0 to 3.{codes.NEWEST_MINOR}"
        )


def text(raw: bytes) -> str:
    """Return wire text as `str`; bytes that are no UTF-8 survive a round trip."""
    return raw.decode("utf-8", "surrogateescape")


def _cstring(body: bytes, at: int) -> tuple[bytes, int]:
    end = body.find(b"\0", at)
    if end < 0:
        raise Malformed("a string is not terminated")
    return body[at:end], end + 1


# -- the first packet of a connection


@dataclass(slots=True, init=False)
class Startup:
    """A StartupMessage: the minor version asked for, and parameters by name (last one wins)."""

    minor: int
    parameters: dict[str, str]
    options: tuple[str, ...]
    """Names of protocol options (`_pq_.`...), none of which we know."""

    def __init__(self, minor: int, parameters: dict[str, str], options: tuple[str, ...]) -> None:
        self.minor = minor
        self.parameters = parameters
        self.options = options


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """A CancelRequest: the process id and secret the client was told."""

    pid: int
    secret: bytes


@dataclass(frozen=True, slots=True)
class EncryptionRequest:
    """An SSLRequest or a GSSENCRequest: `code` says which."""

    code: int


_PROTOCOL_OPTION: Final = "_pq_."


def first_packet(body: bytes) -> Startup | CancelRequest | EncryptionRequest:
    """Read the body (without length) of a packet of the start-up phase."""
    if len(body) < 4:
        raise Malformed("invalid length of startup packet")
    (code,) = struct.unpack_from("!I", body)
    if code in (codes.SSL_REQUEST, codes.GSSENC_REQUEST):
        if len(body) != 4:
            raise Malformed("invalid length of encryption request packet")
        return EncryptionRequest(code)
    if code == codes.CANCEL_REQUEST:
        if not 12 <= len(body) <= 8 + 256:
            raise Malformed("invalid length of cancel request packet")
        return CancelRequest(struct.unpack_from("!I", body, 4)[0], body[8:])
    if code >> 16 != 3:
        raise UnsupportedVersion(code)
    parameters: dict[str, str] = {}
    options: list[str] = []
    strings = text(body[4:]).split("\0")
    last = len(strings) - 1  # not terminated: empty, where the packet is whole
    at = 0
    while at < last and strings[at]:
        if at + 1 == last:
            break
        name = strings[at]
        if name.startswith(_PROTOCOL_OPTION):
            options.append(name)
        else:
            parameters[name] = strings[at + 1]
        at += 2
    if at >= last or strings[at]:
        raise Malformed("a string is not terminated")
    if at + 1 != last or strings[last]:
        raise Malformed("invalid startup packet layout: expected terminator as last byte")
    return Startup(code & 0xFFFF, parameters, tuple(options))


# -- from a client


def password(body: bytes) -> bytes:
    """Read a PasswordMessage."""
    secret, end = _cstring(body, 0)
    if end != len(body):
        raise Malformed("invalid password packet size")
    return secret


def sasl_initial_response(body: bytes) -> tuple[str, bytes]:
    """Read a SASLInitialResponse: mechanism and response (empty where there is none)."""
    mechanism, at = _cstring(body, 0)
    if len(body) < at + 4:
        raise Malformed("invalid SASL initial response")
    (size,) = struct.unpack_from("!i", body, at)
    response = body[at + 4 :]
    if size != (len(response) if response or size >= 0 else -1):
        raise Malformed("invalid length of SASL initial response")
    return text(mechanism), response


def query(body: bytes) -> str:
    """Read a Query."""
    sql, end = _cstring(body, 0)
    if end != len(body):
        raise Malformed("invalid message format")
    return text(sql)


@dataclass(frozen=True, slots=True)
class Parse:
    """A Parse: the statement's name, its text, and OIDs of parameters' types (0: not said)."""

    name: str
    sql: str
    types: tuple[int, ...]


def parse(body: bytes) -> Parse:
    """Read a Parse."""
    name, at = _cstring(body, 0)
    sql, at = _cstring(body, at)
    types, at = _numbers(body, at, "I")
    if at != len(body):
        raise Malformed("invalid message format")
    return Parse(text(name), text(sql), types)


@dataclass(frozen=True, slots=True)
class Bind:
    """A Bind: portal, statement, parameters with their formats, and formats of the result."""

    portal: str
    statement: str
    formats: tuple[int, ...]
    values: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]


def bind(body: bytes) -> Bind:
    """Read a Bind."""
    portal, at = _cstring(body, 0)
    statement, at = _cstring(body, at)
    formats, at = _numbers(body, at, "H")
    count, at = _number(body, at, "H")
    values: list[bytes | None] = []
    for _ in range(count):
        size, at = _number(body, at, "i")
        if size < -1 or len(body) < at + size:
            raise Malformed("insufficient data left in message")
        values.append(None if size < 0 else body[at : at + size])
        at += max(size, 0)
    results, at = _numbers(body, at, "H")
    if at != len(body):
        raise Malformed("invalid message format")
    return Bind(text(portal), text(statement), formats, tuple(values), results)


def named(body: bytes) -> tuple[str, str]:
    """Read a Describe or a Close: "S" for a statement or "P" for a portal, and its name."""
    if body[:1] not in (b"S", b"P"):
        raise Malformed("invalid message subtype")
    name, end = _cstring(body, 1)
    if end != len(body):
        raise Malformed("invalid message format")
    return chr(body[0]), text(name)


def execute(body: bytes) -> tuple[str, int]:
    """Read an Execute: the portal and how many rows at most, 0 for all."""
    portal, at = _cstring(body, 0)
    most, at = _number(body, at, "i")
    if at != len(body):
        raise Malformed("invalid message format")
    return text(portal), max(most, 0)


def _number(body: bytes, at: int, form: str) -> tuple[int, int]:
    size = struct.calcsize(f"!{form}")
    if len(body) < at + size:
        raise Malformed("insufficient data left in message")
    (number,) = struct.unpack_from(f"!{form}", body, at)
    return number, at + size


def _numbers(body: bytes, at: int, form: str) -> tuple[tuple[int, ...], int]:
    count, at = _number(body, at, "H")
    size = count * struct.calcsize(f"!{form}")
    if len(body) < at + size:
        raise Malformed("insufficient data left in message")
    return struct.unpack_from(f"!{count}{form}", body, at), at + size


# -- from a server


def authentication(body: bytes) -> tuple[int, bytes]:
    """Read an Authentication message: the request's number (AUTH_...) and its data."""
    if len(body) < 4:
        raise Malformed("invalid authentication request")
    return struct.unpack_from("!I", body)[0], body[4:]


def sasl_mechanisms(data: bytes) -> tuple[str, ...]:
    """Read the data of an AuthenticationSASL."""
    names: list[str] = []
    at = 0
    while True:
        raw, at = _cstring(data, at)
        if not raw:
            return tuple(names)
        names.append(text(raw))


def parameter_status(body: bytes) -> tuple[str, str]:
    """Read a ParameterStatus: name and value."""
    name, at = _cstring(body, 0)
    value, at = _cstring(body, at)
    if at != len(body):
        raise Malformed("invalid parameter status")
    return text(name), text(value)


def backend_key_data(body: bytes) -> tuple[int, bytes]:
    """Read a BackendKeyData: process id and secret."""
    if not 8 <= len(body) <= 4 + 256:
        raise Malformed("invalid backend key data")
    return struct.unpack_from("!I", body)[0], body[4:]


def negotiate_protocol_version(body: bytes) -> int:
    """Read a NegotiateProtocolVersion: the newest minor version the server speaks."""
    if len(body) < 8:
        raise Malformed("invalid protocol version negotiation")
    # PostgreSQL sends the whole number, and some imitators just the minor part: libpq takes both.
    version: int = struct.unpack_from("!I", body)[0]
    return version & 0xFFFF


def data_row(body: bytes) -> list[bytes | None]:
    """Read a DataRow's values; None is NULL."""
    if len(body) < 2:
        raise Malformed("invalid data row")
    (count,) = struct.unpack_from("!H", body)
    values: list[bytes | None] = []
    at = 2
    for _ in range(count):
        if len(body) < at + 4:
            raise Malformed("invalid data row")
        (size,) = struct.unpack_from("!i", body, at)
        at += 4
        if size < -1 or len(body) < at + size:
            raise Malformed("invalid data row")
        values.append(None if size < 0 else body[at : at + size])
        at += max(size, 0)
    return values


def row_description(body: bytes) -> list[tuple[str, int]]:
    """Read a RowDescription: each column's name, and its type's OID."""
    count, at = _number(body, 0, "H")
    found: list[tuple[str, int]] = []
    for _ in range(count):
        name, at = _cstring(body, at)
        if len(body) < at + 18:
            raise Malformed("invalid row description")
        found.append((text(name), struct.unpack_from("!I", body, at + 6)[0]))
        at += 18
    return found


def rows(messages: bytes) -> list[list[bytes | None]]:
    """Read the DataRows among whole messages."""
    found: list[list[bytes | None]] = []
    at = 0
    while at + codes.HEADER <= len(messages):
        end = at + 1 + int.from_bytes(messages[at + 1 : at + 5], "big")
        if end < at + codes.HEADER or end > len(messages):
            raise Malformed("invalid length of message")
        if messages[at] == codes.DATA_ROW:
            found.append(data_row(messages[at + codes.HEADER : end]))
        at = end
    return found


def report(body: bytes) -> dict[str, str]:
    """Read an ErrorResponse's or NoticeResponse's fields, by their one-letter code."""
    fields: dict[str, str] = {}
    at = 0
    while at < len(body) and body[at]:
        raw, end = _cstring(body, at + 1)
        fields[chr(body[at])] = text(raw)
        at = end
    if at >= len(body):
        raise Malformed("an error or notice is not terminated")
    return fields

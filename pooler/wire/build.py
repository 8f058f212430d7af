"""Builds the few messages that we originate, as complete `bytes`.

Source: PostgreSQL documentation, "Message Formats". A string with a NUL byte would end early on
the wire and let its rest be read as something else, so each builder refuses one (ValueError).
"""

import struct
from collections.abc import Iterable, Mapping, Sequence

from pooler.wire import codes


def message(kind: int, body: bytes) -> bytes:
    """Return one framed message: kind, length (which counts itself), body."""
    return struct.pack("!BI", kind, len(body) + 4) + body


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def cstring(text: str | bytes) -> bytes:
    """Return `text` NUL-terminated (a str as UTF-8); ValueError when it contains a NUL."""
    raw = _raw(text) if isinstance(text, str) else text
    if b"\0" in raw:
        raise ValueError("a string on the wire cannot contain a NUL byte")
    return raw + b"\0"


# -- without a kind: the first packet of a connection


def startup(parameters: Iterable[tuple[str, str]], version: int = codes.PROTOCOL_3_0) -> bytes:
    """Return a StartupMessage; `parameters` are (name, value) pairs in the order to send."""
    body = struct.pack("!I", version)
    for name, value in parameters:
        body += cstring(name) + cstring(value)
    body += b"\0"
    return struct.pack("!I", len(body) + 4) + body


def cancel_request(pid: int, secret: bytes) -> bytes:
    """Return a CancelRequest; the secret is 4 bytes in 3.0 and up to 256 in 3.2."""
    return struct.pack("!III", 12 + len(secret), codes.CANCEL_REQUEST, pid) + secret


SSL_REQUEST = struct.pack("!II", 8, codes.SSL_REQUEST)


# -- as a client


def query(sql: str | bytes) -> bytes:
    """Return a Query."""
    return message(codes.QUERY, cstring(sql))


def query_with(sql: str, values: Sequence[str]) -> bytes:
    """Return an extended query for one row at most: values bound as text, and a Sync."""
    bound = b"".join(struct.pack("!I", len(raw)) + raw for raw in map(_raw, values))
    return (
        message(codes.PARSE, b"\0" + cstring(sql) + b"\0\0")
        + message(codes.BIND, b"\0\0" + struct.pack("!HH", 0, len(values)) + bound + b"\0\0")
        + message(codes.EXECUTE, b"\0" + struct.pack("!I", 1))
        + SYNC
    )


SYNC = message(codes.SYNC, b"")
TERMINATE = message(codes.TERMINATE, b"")


def copy_fail(reason: str) -> bytes:
    """Return a CopyFail, which makes the server fail the COPY in progress."""
    return message(codes.COPY_FAIL, cstring(reason))


def password(secret: str | bytes) -> bytes:
    """Return a PasswordMessage: clear text, or the md5 answer."""
    return message(codes.PASSWORD, cstring(secret))


def sasl_initial_response(mechanism: str, response: bytes) -> bytes:
    """Return a SASLInitialResponse."""
    return message(codes.PASSWORD, cstring(mechanism) + struct.pack("!I", len(response)) + response)


def sasl_response(response: bytes) -> bytes:
    """Return a SASLResponse."""
    return message(codes.PASSWORD, response)


# -- as a server


def authentication(request: int, data: bytes = b"") -> bytes:
    """Return an Authentication message: the request's number (AUTH_...) and its data."""
    return message(codes.AUTHENTICATION, struct.pack("!I", request) + data)


AUTHENTICATION_OK = authentication(codes.AUTH_OK)


def sasl_mechanisms(names: Iterable[str]) -> bytes:
    """Return an AuthenticationSASL that offers the mechanisms in the order of preference."""
    return authentication(codes.AUTH_SASL, b"".join(cstring(name) for name in names) + b"\0")


def parameter_status(name: str, value: str) -> bytes:
    """Return a ParameterStatus."""
    return message(codes.PARAMETER_STATUS, cstring(name) + cstring(value))


def backend_key_data(pid: int, secret: bytes) -> bytes:
    """Return a BackendKeyData; a client of protocol 3.0 needs a secret of 4 bytes."""
    return message(codes.BACKEND_KEY_DATA, struct.pack("!I", pid) + secret)


def negotiate_protocol_version(minor: int, unknown: Iterable[str]) -> bytes:
    """Return a NegotiateProtocolVersion: the newest minor that we speak, options we don't know."""
    names = [cstring(name) for name in unknown]
    return message(
        codes.NEGOTIATE_PROTOCOL_VERSION,
        struct.pack("!II", 3 << 16 | minor, len(names)) + b"".join(names),
    )


def ready_for_query(status: int = codes.IDLE) -> bytes:
    """Return a ReadyForQuery with that transaction status."""
    return message(codes.READY_FOR_QUERY, bytes([status]))


READY = ready_for_query()
PARSE_COMPLETE = message(codes.PARSE_COMPLETE, b"")
CLOSE_COMPLETE = message(codes.CLOSE_COMPLETE, b"")
BIND_COMPLETE = message(codes.BIND_COMPLETE, b"")
NO_DATA = message(codes.NO_DATA, b"")
EMPTY_QUERY = message(codes.EMPTY_QUERY_RESPONSE, b"")
PORTAL_SUSPENDED = message(codes.PORTAL_SUSPENDED, b"")


def command_complete(tag: str) -> bytes:
    """Return a CommandComplete."""
    return message(codes.COMMAND_COMPLETE, cstring(tag))


def parameter_description(types: Sequence[int]) -> bytes:
    """Return a ParameterDescription; the types are OIDs."""
    body = struct.pack(f"!H{len(types)}I", len(types), *types)
    return message(codes.PARAMETER_DESCRIPTION, body)


def row_description(columns: Sequence[tuple[str, int, int, int]]) -> bytes:
    """Return a RowDescription of (name, type's OID, its size or -1, format) for each column."""
    fields = (
        cstring(name) + struct.pack("!IhIhih", 0, 0, oid, size, -1, form)
        for name, oid, size, form in columns
    )
    return message(codes.ROW_DESCRIPTION, struct.pack("!H", len(columns)) + b"".join(fields))


def data_row(values: Sequence[bytes | None]) -> bytes:
    """Return a DataRow; None is NULL."""
    body = b"".join(
        b"\xff\xff\xff\xff" if value is None else struct.pack("!I", len(value)) + value
        for value in values
    )
    return message(codes.DATA_ROW, struct.pack("!H", len(values)) + body)


def _report(kind: int, fields: Mapping[str, str]) -> bytes:
    body = b"".join(name.encode("ascii") + cstring(text) for name, text in fields.items())
    return message(kind, body + b"\0")


def _fields(severity: str, sqlstate: str, text: str, detail: str, hint: str) -> dict[str, str]:
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": text}
    if detail:
        fields["D"] = detail
    if hint:
        fields["H"] = hint
    return fields


def error(
    severity: str,
    sqlstate: str,
    text: str,
    detail: str = "",
    hint: str = "",
    routine: str = "",
) -> bytes:
    """Return an ErrorResponse; severity is ERROR, or FATAL where we close after it."""
    fields = _fields(severity, sqlstate, text, detail, hint)
    if routine:
        fields["R"] = routine
    return _report(codes.ERROR_RESPONSE, fields)


def warning(sqlstate: str, text: str, detail: str = "", hint: str = "") -> bytes:
    """Return a NoticeResponse of severity WARNING."""
    return _report(codes.NOTICE_RESPONSE, _fields("WARNING", sqlstate, text, detail, hint))


def notice(sqlstate: str, text: str, detail: str = "", hint: str = "") -> bytes:
    """Return a NoticeResponse of severity NOTICE."""
    return _report(codes.NOTICE_RESPONSE, _fields("NOTICE", sqlstate, text, detail, hint))

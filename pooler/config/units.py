"""The kinds of value a setting can have, each read from text and checked.

An error of a kind is a predicate ("is not a duration"): whoever reports it puts the value in front,
if the value may be shown. JSON Schemas for editors are given where the text form needs one.
"""

import math
import os
import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

MOST = 2**31 - 1
"""What the system calls and PgBouncer take as a count: a C int."""


def wrong(message: str, hint: str = "") -> PydanticCustomError:
    """The error of a value that is not of its kind; `message` is a predicate."""
    return PydanticCustomError("wrong", "{message}", {"message": message, "hint": hint})


# -- durations

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|min|h|d|)", re.ASCII)


def parse_duration(value: object) -> float:
    """Seconds from a number, or from a number with one of PostgreSQL's units: ms s min h d."""
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match:
        seconds = float(match[1]) * _UNITS[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        seconds = math.nan
    if not 0 <= seconds <= MOST:
        raise wrong("is not a duration", "write seconds, or a unit such as 500ms, 5s, 10min, 1h")
    return seconds


# -- addresses


def split_address(text: str) -> tuple[str, int | None]:
    """`host`, `host:port`, `[v6]:port`, a bare IPv6 address or a socket directory.

    Raises ValueError for anything else. The port is None where there is none.
    """
    if text.startswith("/"):
        return text, None
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and rest[0] != ":"):
            raise ValueError("not an address")
        port = rest[1:] if rest else None
    elif text.count(":") > 1:
        host, port = text, None
    else:
        host, colon, port_text = text.partition(":")
        port = port_text if colon else None
    if re.search(r"[\s/@,\[\]]", host):
        raise ValueError("not an address")
    if port is None:
        return host, None
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("not an address")
    return host, int(port)


def split_list(value: object) -> object:
    """One text with commas, as libpq and PgBouncer take several hosts, or a list."""
    if isinstance(value, str):
        return [part for part in (part.strip() for part in value.split(",")) if part]
    return value


def _server_address(text: str) -> str:
    try:
        host, port = split_address(text)
    except ValueError:
        host, port = "", None
    if not host or port == 0:
        raise wrong(
            "is not the address of a server",
            "write a host name, an IP address, HOST:PORT, [IPV6]:PORT or a socket's directory",
        )
    return text


def _some(hosts: tuple[str, ...]) -> tuple[str, ...]:
    if not hosts:
        raise wrong("is empty", "name at least one host")
    return hosts


def _listen_host(text: str) -> str:
    if not text or re.search(r"[\s/@,\[\]]", text) or text.count(":") == 1:
        raise wrong(
            "is not an address to listen on",
            "write an IP address or a host name; the port goes into listen.port",
        )
    return text


def parse_host_port(text: str) -> tuple[str, int]:
    """HOST:PORT to listen on; an empty host is `*`, every interface. Raises ValueError."""
    host, port = split_address(text)
    if port is None:
        raise ValueError("not an address")
    return host or "*", port


def _host_port(text: str) -> str:
    try:
        if text:
            parse_host_port(text)
    except ValueError:
        raise wrong("is not HOST:PORT", "write an address such as 127.0.0.1:9127") from None
    return text


# -- files

_SOCKET_PATH_MAX = 107
"""Bytes of a unix socket's path on Linux (sun_path less its terminator)."""


def parse_mode(value: object) -> int:
    """A file mode from its octal digits."""
    if isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{1,4}", value):
        return int(value, 8)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o7777:
        return value
    raise wrong("is not a file mode", "write octal digits such as 0777")


def _socket_dir(text: str) -> str:
    if text and not text.startswith("/"):
        raise wrong("is not an absolute path", "write a directory such as /var/run/postgresql")
    if len(os.fsencode(text)) + len("/.s.PGSQL.65535") > _SOCKET_PATH_MAX:
        raise wrong("is too long for a unix socket", "choose a shorter directory")
    return text


# -- secrets

_SCRAM = re.compile(
    r"SCRAM-SHA-256\$[1-9][0-9]{0,9}:[A-Za-z0-9+/]+=*\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}="
)


def is_verifier(secret: str) -> bool:
    """True for what can check a login and not make one: a SCRAM verifier."""
    return secret.startswith("SCRAM-SHA-256$")


def secret_fault(secret: str) -> str:
    """What is wrong with a stored secret, as a predicate; "" where nothing is."""
    if secret.startswith("SCRAM-SHA-256$") and not _SCRAM.fullmatch(secret):
        return "looks like a SCRAM secret but is cut short or damaged"
    return ""


def _secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text:
        raise wrong("is empty", "leave the password out where there is none")
    if fault := secret_fault(text):
        raise wrong(fault, "copy rolpassword from pg_authid whole, or write the password itself")
    return secret


# -- the types

Count = Annotated[int, Field(ge=0, le=MOST)]
Positive = Annotated[int, Field(ge=1, le=MOST)]
Port = Annotated[int, Field(ge=1, le=65535)]
ListenPort = Annotated[int, Field(ge=0, le=65535)]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": r"^\s*(\d+(\.\d*)?|\.\d+)\s*(ms|s|min|h|d)?\s*$"},
            ]
        }
    ),
]
FileMode = Annotated[
    int,
    BeforeValidator(parse_mode),
    PlainSerializer(lambda mode: f"{mode:04o}", return_type=str),
    WithJsonSchema({"type": ["string", "integer"], "pattern": "^(0o)?[0-7]{1,4}$"}),
]
SocketDir = Annotated[str, AfterValidator(_socket_dir)]
HostPort = Annotated[str, AfterValidator(_host_port)]
Secret = Annotated[SecretStr, AfterValidator(_secret), WithJsonSchema({"type": "string"})]

_ONE_OR_MORE: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
}
ListenHosts = Annotated[
    tuple[Annotated[str, AfterValidator(_listen_host)], ...],
    BeforeValidator(split_list),
    WithJsonSchema(_ONE_OR_MORE),
]
Texts = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema(_ONE_OR_MORE),
]
"""One text or a list of texts."""
Names = Annotated[tuple[str, ...], BeforeValidator(split_list), WithJsonSchema(_ONE_OR_MORE)]
"""A list of names, or one text with commas between them."""
PeerAddress = Annotated[str, AfterValidator(_server_address)]
PeerAddresses = Annotated[
    tuple[PeerAddress, ...], BeforeValidator(split_list), WithJsonSchema(_ONE_OR_MORE)
]
ServerHosts = Annotated[
    tuple[Annotated[str, AfterValidator(_server_address)], ...],
    AfterValidator(_some),
    BeforeValidator(split_list),
    WithJsonSchema(_ONE_OR_MORE),
]

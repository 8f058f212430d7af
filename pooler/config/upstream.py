"""A PostgreSQL URL, as libpq takes it, to the database entry it describes.

Rules: nothing of the URL is shown in an error except the names of its options, since a password
with unescaped characters can end up in any part of it. An option that would be ignored is an error.
"""

import os
import re
from urllib.parse import unquote

from pooler.config.certificates import SYSTEM
from pooler.config.tree import Node, Origin, at, mapping, sequence
from pooler.config.units import split_address

_HINT = "write postgresql://user:password@host:5432/dbname, special characters as %XX"

CONNECTION = (
    *("host", "port", "dbname", "user", "password", "password_file", "connect_query"),
    "server_tls",
)
"""Keys that say where a database is and how to log in: a URL replaces them all, so that a password
meant for the server in the file is not sent to the one in the URL."""

# libpq's options that become a key of the database, or one of its `settings`.
_KEYS = {"host", "port", "dbname", "user", "password", "max_protocol_version"}
_RENAMED = {"connect_timeout": "server_connect_timeout"}
_TLS = {
    "sslmode": "sslmode",
    "sslnegotiation": "sslnegotiation",
    "sslrootcert": "ca_file",
    "sslcrl": "crl_file",
    "sslcert": "cert_file",
    "sslkey": "key_file",
    "ssl_min_protocol_version": "min_protocol_version",
    "channel_binding": "channel_binding",
}
_SETTINGS = {"application_name", "options", "client_encoding"}
# Those that have a choice: each value we can do, and what it is here. What asks for no more than
# the plain connection that is made becomes nothing.
_CHOICES = {
    "load_balance_hosts": {"random": "round-robin", "disable": "disable"},
    "gssencmode": {"disable": "", "prefer": ""},
    "target_session_attrs": {"any": ""},
}


class UpstreamError(ValueError):
    """What is wrong with the URL: message and hint, both fit to be shown."""

    def __init__(self, message: str, hint: str = _HINT) -> None:
        self.message, self.hint = message, hint
        super().__init__(message)


def parse_upstream(url: str, source: str) -> Node:
    """A tree with the one database the URL names, or `*` where it names none."""
    match = re.fullmatch(r"postgres(?:ql)?://([^/?#]*)(?:/([^?#]*))?(?:\?([^#]*))?", url)
    if not match or re.search(r"\s", url):
        raise UpstreamError("is not a PostgreSQL URL")
    netloc, path, query = (part or "" for part in match.groups())
    login, _, servers = netloc.rpartition("@")
    if "@" in path + query or "@" in login:
        raise UpstreamError("holds an '@' that does not stand before the host")
    origin = Origin(source)
    user, _, password = (_decode(part) for part in login.partition(":"))
    keys: dict[str, str] = {"user": user, "password": password, "dbname": _decode(path)}
    keys["host"] = ",".join(_host(server) for server in servers.split(",")) if servers else ""
    settings: dict[str, str] = {}
    tls: dict[str, str] = {}
    for option in query.split("&") if query else []:
        name, equals, value = option.partition("=")
        if not equals:
            raise UpstreamError("has an option without a value")
        name, value = _decode(name), _decode(value)
        if name in _TLS:
            tls[_TLS[name]] = _whole_path(name, value)
        else:
            _option(name, value, keys, settings)
    return _tree(keys, settings, tls, origin)


def _whole_path(name: str, value: str) -> str:
    """A file's name in a URL is relative to where we are, and no other file's business."""
    is_file = name in ("sslrootcert", "sslcrl", "sslcert", "sslkey")
    return os.path.abspath(value) if is_file and value not in ("", SYSTEM) else value


def _tree(
    keys: dict[str, str], settings: dict[str, str], tls: dict[str, str], origin: Origin
) -> Node:
    entries = {name: Node(value, origin) for name, value in keys.items() if value}
    if "host" in entries:
        entries["host"] = sequence((Node(host, origin) for host in keys["host"].split(",")), origin)
    if settings:
        entries["settings"] = mapping({k: Node(v, origin) for k, v in settings.items()}, origin)
    if tls:
        entries["server_tls"] = mapping({k: Node(v, origin) for k, v in tls.items()}, origin)
    return at(("databases", keys["dbname"] or "*"), mapping(entries, origin))


def _host(server: str) -> str:
    """One server of the URL, as a database's `host` takes it."""
    try:
        host, port = split_address(server)
    except ValueError:
        raise UpstreamError("has a host or port that can not be read") from None
    host = _decode(host)
    if not host or "," in host:
        raise UpstreamError("has an empty host")
    if host.startswith("/"):
        if port is not None:
            raise UpstreamError("has a socket directory with a port", "use ?host=/dir&port=5433")
        return host
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def _option(name: str, value: str, keys: dict[str, str], settings: dict[str, str]) -> None:
    """Files one libpq option where it belongs."""
    if name in _KEYS:
        keys[name] = value
    elif name in _RENAMED:
        keys[_RENAMED[name]] = value
    elif name in _SETTINGS:
        settings[name] = value
    elif name not in _CHOICES:
        raise UpstreamError(f"has the option {name}, which is not known here", "remove it")
    elif value not in _CHOICES[name]:
        allowed = ", ".join(sorted(_CHOICES[name]))
        raise UpstreamError(f"asks for a {name} that is not supported", f"use one of {allowed}")
    else:
        keys[name] = _CHOICES[name][value]


def _decode(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        decoded = "\0"
    if "\0" in decoded or re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise UpstreamError("has a %XX that is not a character", "write % itself as %25")
    return decoded

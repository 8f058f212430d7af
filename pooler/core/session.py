"""Session settings: what a client wants, what a server has, and how to go from one to the other.

A set of settings is a `Settings`: a dict by lower-case name that is never changed, shared by all
who have the same (`Shelf`), so that "is this server set as this client wants" is one `is`.

The statements that apply a difference are the only SQL made from what a client sent. Names are
quoted as identifiers, and every value that is not plain ASCII without quotes travels in hex:
CVE-2025-12819 was a search_path replayed unquoted, and quoting by doubling is not safe in every
client encoding.
"""

import re
from collections.abc import Mapping
from typing import Final

from pooler.core.errors import ClientFault
from pooler.wire import build, codes

Settings = Mapping[str, str]

NONE: Final[Settings] = {}
NO_NAMES: Final[frozenset[str]] = frozenset()  # `frozenset()` is another one each time

ROLE: Final = "role"
AUTHORIZATION: Final = "session_authorization"
_WHO: Final = (ROLE, AUTHORIZATION)
STATEMENT: Final = "prepare "
"""What the names of prepared statements start with, among settings: they are one more thing that a
session has, and another server can be given."""

_LIMITS: Final = ("statement_timeout", "transaction_timeout")
"""Settings that can end a statement of ours."""
_NO_SETTINGS: Final = frozenset(("user", "database", "options", "replication"))
_PLAIN: Final = re.compile(r"[A-Za-z0-9_ .,:/+\-]*", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*", re.ASCII)
_USUAL: Final = frozenset(
    ("application_name", "client_encoding", "extra_float_digits", "search_path")
)
"""Names that most clients set as they come."""
_READ_ONLY: Final = frozenset(
    (
        "in_hot_standby",
        "integer_datetimes",
        "is_superuser",
        "server_encoding",
        "server_version",
        "session_authorization",
    )
)
"""Reported by the server, but nothing that a session sets."""

NAME_LIMIT: Final = 63
"""Bytes of a name, NAMEDATALEN less its end."""

_SHELF_LIMIT: Final = 10_000


class Shelf:
    """Keeps one copy of each distinct set of settings; forgets all when there are too many."""

    def __init__(self) -> None:
        self._sets: dict[frozenset[tuple[str, str]], Settings] = {}
        self._latest: Settings = NONE

    def shared(self, settings: Settings) -> Settings:
        """Return the one copy that equals `settings`."""
        if not settings:
            return NONE
        if settings == self._latest:
            return self._latest
        key = frozenset(settings.items())
        found = self._sets.get(key)
        if found is None:
            if len(self._sets) >= _SHELF_LIMIT:
                self._sets.clear()
            found = self._sets[key] = settings
        self._latest = found
        return found


def custom(settings: Settings) -> frozenset[str]:
    """Return the names that extensions and applications have made up."""
    names = [name for name in settings if "." in name]
    return frozenset(names) if names else NO_NAMES


def settable(name: str) -> bool:
    """Return whether a reported parameter is one that a session can set."""
    return name.lower() not in _READ_ONLY


def from_startup(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that a startup packet asks for, `options` before the rest.

    ClientFault when they cannot be understood.
    """
    options = parameters.get("options", "")
    settings = from_options(options) if options else {}
    for name, value in parameters.items():
        if name not in _NO_SETTINGS:
            settings[_checked(name)] = value
    return settings


def startup_notice(settings: Settings) -> bytes:
    """Return the NOTICE of a name that PostgreSQL cuts at a session's start, b"" without one."""
    name = settings.get("application_name", "")
    if len(name) <= NAME_LIMIT // 4:  # characters, of up to four bytes
        return b""
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) <= NAME_LIMIT:
        return b""
    cut = raw[:NAME_LIMIT].decode("utf-8", "ignore")
    return build.notice(codes.NAME_TOO_LONG, f'identifier "{name}" will be truncated to "{cut}"')


def from_options(options: str) -> dict[str, str]:
    """Read `options`: `-c name=value`, `-cname=value` and `--name=value`, as PostgreSQL does.

    White space separates and a backslash escapes, as in `pg_split_opts`; a dash in the name of
    the long form stands for an underscore, as in `ParseLongOption`.
    """
    words = [re.sub(r"\\(.)", r"\1", word, flags=re.S) for word in _WORDS.findall(options)]
    settings: dict[str, str] = {}
    i = 0
    while i < len(words):
        word = words[i]
        if word == "-c" and i + 1 < len(words):
            i += 1
            assignment = words[i]
        elif word.startswith(("-c", "--")):
            assignment = word[2:]
        else:
            raise ClientFault(
                codes.FEATURE_NOT_SUPPORTED,
                f'unsupported startup option "{word}"',
                hint="Of the server's command-line options, -c name=value and --name=value work.",
            )
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ClientFault("42601", f"{word} requires a value")
        settings[_checked(name.replace("-", "_"))] = value
        i += 1
    return settings


_WORDS: Final = re.compile(r"(?:\\.|[^\s\\])+", re.S)


def _checked(name: str) -> str:
    if name in _USUAL:
        return name
    if not _NAME.fullmatch(name):
        raise ClientFault("42704", f'unrecognized configuration parameter "{name}"')
    return name.lower()


def changes(has: Settings, wants: Settings, base: Settings) -> list[str]:
    """Return the Queries that turn what a server has into what a client wants, one by one."""
    queries: list[str] = []
    limits = [name for name in _LIMITS if has.get(name)]
    if limits:  # of whoever had the server before: not to be met by what makes it another's
        queries.append(";".join(f"SET {name}=0" for name in limits))
        has = {**has, **dict.fromkeys(limits, "0")}
    queries.append(difference(has, wants, base))
    queries += unprepared(has, wants)
    return [query for query in queries if query]


def difference(has: Settings, wants: Settings, base: Settings) -> str:
    """Return SQL that turns what a server has into what a client wants, "" if nothing does.

    `base` is what the server reported when it was opened: a name that nobody set has that value.
    Run as one simple Query, all of it applies or none. Statements are deallocated, not prepared.
    """
    parts: list[str] = []
    for name, value in has.items():
        if name.startswith(STATEMENT):
            if wants.get(name) != value:
                parts.append(f"DEALLOCATE {identifier(name[len(STATEMENT) :])}")
        elif name not in _WHO and (name not in wants or _is_relative(name, value, wants)):
            parts.append("RESET " + ".".join(identifier(part) for part in name.split(".")))
    for name, value in sorted(wants.items(), key=lambda item: item[0] in _LIMITS):
        if (
            not name.startswith(STATEMENT)
            and name not in _WHO
            and has.get(name, base.get(name)) != value
        ):
            parts.append(_set(name, value))
    # Settings are changed as the user who logged in, as whom they were set perhaps: who one was
    # may do more than who one is.
    if parts or any(has.get(name) != wants.get(name) for name in _WHO):
        if AUTHORIZATION in has:
            parts.insert(0, "RESET SESSION AUTHORIZATION")
        elif ROLE in has:
            parts.insert(0, "RESET ROLE")
        parts += [_set(name, wants[name]) for name in (AUTHORIZATION, ROLE) if name in wants]
    return ";".join(parts)


def unprepared(has: Settings, wants: Settings) -> list[str]:
    """Return the PREPAREs that a server lacks; each to be run by itself.

    For `pg_prepared_statements` shows the whole string that a PREPARE came in, to the client too.
    """
    return [
        text for name, text in wants.items() if name.startswith(STATEMENT) and has.get(name) != text
    ]


def _is_relative(name: str, has: str, wants: Settings) -> bool:
    """Return whether what is wanted would add to what is there: "SQL" leaves the order of dates."""
    return name == "datestyle" and wants[name] != has


def _set(name: str, value: str) -> str:
    return f"SELECT pg_catalog.set_config({literal(name)},{literal(value)},false)"


def given_up(body: bytes) -> frozenset[str]:
    """Return whom a Query or Parse, of this body and no more, makes an end of being, whoever it is.

    One may be a role that has been dropped.
    """
    found = _GIVES_UP.fullmatch(body)
    if found is None:
        return frozenset()
    return frozenset((ROLE,)) if found["role"] else frozenset(_WHO)


_GIVES_UP: Final = re.compile(
    rb"(?is)(?:[^\0]*\0)?\s*(?:"
    rb"(?P<role>reset\s+role|set\s+(?:session\s+)?role\b[^;\0]*)"
    rb"|reset\s+session\s+authorization|set\s+(?:session\s+)?session\s+authorization\b[^;\0]*"
    rb"|discard\s+all)\s*;?\s*\0.*"
)


def identifier(name: str) -> str:
    """Return a name quoted as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Return an SQL expression for any text, safe whatever the session's encoding and settings."""
    if _PLAIN.fullmatch(value):
        return f"'{value}'"
    raw = value.encode("utf-8", "surrogateescape").hex()
    return f"pg_catalog.convert_from(pg_catalog.decode('{raw}','hex'),'UTF8')"

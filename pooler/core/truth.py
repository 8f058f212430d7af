"""What a server's session holds, by asking it: one question, read into a `Truth`.

Believes no parser. Every text in the answer travels in hex, so that no client_encoding, quoting or
newline matters; every name in the question is qualified, so that no search_path does.
"""

from typing import Final

from pooler.core import hints
from pooler.core.session import AUTHORIZATION, ROLE, STATEMENT, Settings, literal
from pooler.wire import parse

ANSWER_LIMIT: Final = 1_048_576
"""Bytes of an answer that are read; a session that holds more is known to hold too much."""


def _hex(expression: str) -> str:
    return f"pg_catalog.encode(pg_catalog.convert_to({expression},'UTF8'),'hex')"


_ROLE: Final = "pg_catalog.current_setting('role')"
_QUESTIONS: Final = (
    (
        hints.SETTINGS,
        f"SELECT 's',{_hex('name')},{_hex('setting')}"
        " FROM pg_catalog.pg_settings WHERE source='session'"
        # A transaction's own; a session can be left with them, to no effect.
        " AND name NOT IN"
        " ('transaction_isolation','transaction_read_only','transaction_deferrable')"
        f" UNION ALL SELECT 'r','',{_hex(_ROLE)}"
        f" UNION ALL SELECT 'u','',{_hex('session_user::pg_catalog.text')}",
    ),
    (
        hints.PREPARED,
        f"SELECT 'p',{_hex('name')},{_hex('statement')}"
        " FROM pg_catalog.pg_prepared_statements WHERE from_sql",
    ),
    (
        hints.CHANNELS,
        f"SELECT 'n',{_hex('channel')},'' FROM pg_catalog.pg_listening_channels() AS channel",
    ),
    (
        hints.LOCKS,
        "SELECT 'l','','' FROM pg_catalog.pg_locks"
        " WHERE locktype='advisory' AND pid=pg_catalog.pg_backend_pid() LIMIT 1",
    ),
    (hints.CURSORS, "SELECT 'h','','' FROM pg_catalog.pg_cursors WHERE is_holdable LIMIT 1"),
    (
        hints.TEMPORARY,
        "SELECT 't','','' WHERE EXISTS (SELECT FROM pg_catalog.pg_class"
        " WHERE relnamespace=pg_catalog.pg_my_temp_schema())"
        " OR EXISTS (SELECT FROM pg_catalog.pg_proc"
        " WHERE pronamespace=pg_catalog.pg_my_temp_schema())"
        " OR EXISTS (SELECT FROM pg_catalog.pg_type"
        " WHERE typnamespace=pg_catalog.pg_my_temp_schema())",
    ),
)
_PINS: Final = {
    "l": hints.LOCKS,
    "h": hints.CURSORS,
    "t": hints.TEMPORARY,
}


class Truth:
    """What a session holds, of what was asked about."""

    def __init__(self, asked: int) -> None:
        self.asked = asked
        self.settings: dict[str, str] = {}  # as in `session`, prepared statements included
        self.channels: set[str] = set()
        self.pins = 0  # what cannot be carried to another server

    def merged(self, before: Settings) -> Settings:
        """Return the settings after this answer: of what was not asked about, as `before`."""
        kept = {
            name: value
            for name, value in before.items()
            if not self.asked & (hints.PREPARED if name.startswith(STATEMENT) else hints.SETTINGS)
        }
        return {**kept, **self.settings}


def question(asked: int, names: frozenset[str]) -> str:
    """Return the question about what the flags `asked` say; `names` are custom settings."""
    parts = [f"({sql})" for flag, sql in _QUESTIONS if asked & flag]
    if asked & hints.SETTINGS:
        for name in sorted(names):
            value = f"pg_catalog.current_setting({literal(name)},true)"
            parts.append(
                f"(SELECT 's',{_hex(literal(name))},{_hex(value)} WHERE {value} IS NOT NULL)"
            )
    return " UNION ALL ".join(parts)


def read(answer: bytes, asked: int, user: str) -> Truth:
    """Read the answer's messages; `user` is whom the server was logged in to as."""
    truth = Truth(asked)
    for row in parse.rows(answer):
        kind, name, value = [parse.text(column or b"") for column in row]
        if kind in _PINS:
            truth.pins |= _PINS[kind]
        elif kind == "n":
            truth.channels.add(_text(name))
            truth.pins |= hints.CHANNELS
        elif kind == "r":
            if _text(value) != "none":
                truth.settings[ROLE] = _text(value)
        elif kind == "u":
            if _text(value) != user:
                truth.settings[AUTHORIZATION] = _text(value)
        elif kind == "p":
            if portable(_text(value)):
                truth.settings[STATEMENT + _text(name)] = _text(value)
            else:
                truth.pins |= hints.PREPARED
        else:
            truth.settings[_text(name).lower()] = _text(value)
    return truth


def portable(statement: str) -> bool:
    """Return whether the text kept for a prepared statement is that PREPARE and nothing else.

    PostgreSQL keeps the whole string that a client sent, which may hold more statements.
    """
    body = statement.strip().rstrip(";")
    return body[:7].lower() == "prepare" and ";" not in body and "--" not in body


def _text(value: str) -> str:
    return bytes.fromhex(value).decode("utf-8", "surrogateescape")

"""What drivers ask of a server unasked: answered so that they can talk to the console.

Nothing of it means anything here.
"""

import re
from typing import Final

from pooler.admin.language import Command, assignment
from pooler.admin.process import COMPATIBLE
from pooler.admin.view import Column, Row, Type, Value

SETTINGS: Final = {
    "client_encoding": "UTF8",
    "default_transaction_isolation": "read committed",
    "transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "transaction_read_only": "off",
    "in_hot_standby": "off",
    "standard_conforming_strings": "on",
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "timezone": "GMT",
    "extra_float_digits": "2",
    "application_name": "",
    "search_path": "",
    "server_version": f"{COMPATIBLE}/bouncer",
    "server_version_num": "90600",
    "server_encoding": "UTF8",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "client_min_messages": "notice",
    "jit": "off",
}
"""Settings of a session: SHOW shows these values, SET is ignored."""

_BEGIN: Final = re.compile(r"begin|start transaction")
_END: Final = re.compile(r"commit|end|rollback|abort")
_IGNORED: Final = re.compile(
    r"discard (all|plans|sequences|temp|temporary)|deallocate .+|reset all|close all|unlisten \*"
    r"|set session characteristics .+|set (session |local )?transaction .+|set names .+"
    r"|savepoint .+|release .+|rollback to .+"
)
_TAGS: Final = {"start": "START TRANSACTION", "abort": "ROLLBACK", "end": "COMMIT"}

_ANSWERS: Final[dict[str, tuple[str, Type, Value]]] = {
    "version ( )": ("version", Type.TEXT, f"PostgreSQL {COMPATIBLE}/bouncer"),
    "1": ("?column?", Type.INT, 1),
    "current_schema ( )": ("current_schema", Type.TEXT, None),
    "current_schema": ("current_schema", Type.TEXT, None),
    "current_database ( )": ("current_database", Type.TEXT, "pgbouncer"),
    "pg_is_in_recovery ( )": ("pg_is_in_recovery", Type.BOOL, False),
    "pg_advisory_unlock_all ( )": ("pg_advisory_unlock_all", Type.TEXT, ""),
}


def transaction(command: Command) -> bool | None:
    """Return whether a transaction would begin (True) or end (False) with it; None: neither."""
    if _BEGIN.match(command.words) and command.verb in ("begin", "start"):
        return True
    if _END.match(command.words) and not command.words.startswith("rollback to"):
        return False
    return None


def ignored(command: Command) -> str | None:
    """Return the tag of what is answered by doing nothing, None for what means something here."""
    if transaction(command) is not None:
        return _TAGS.get(command.verb, command.verb.upper())
    if _IGNORED.fullmatch(command.words):
        return " ".join(word.upper() for word in command.words.split()[:1])
    if command.verb == "set":
        assigned = assignment(command)
        if assigned is not None and _own(assigned[0]) in SETTINGS:
            return "SET"
    return None


def _own(name: str) -> str:
    """Return a setting's name without the words that say for how long it is SET."""
    name = name.lower()
    for word in ("session", "local"):
        if name.removeprefix(word) in SETTINGS:
            return name.removeprefix(word)
    return {"timezone": "timezone"}.get(name, name)


def answer(command: Command) -> tuple[tuple[Column, ...], Row] | None:
    """Return columns and row of a question that any server answers, None for another one."""
    verb, _, rest = command.words.partition(" ")
    rest = rest.removeprefix("pg_catalog.")
    if verb == "select" and rest in _ANSWERS:
        name, kind, value = _ANSWERS[rest]
        return (Column(name, kind),), (value,)
    rest = {"transaction isolation level": "transaction_isolation", "time zone": "timezone"}.get(
        rest, rest
    )
    if verb in ("show", "select") and rest in SETTINGS:
        return (Column(rest),), (SETTINGS[rest],)
    return None

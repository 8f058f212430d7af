"""Schema changes (DDL), as their text shows them.

What a change is about decides which prepared statements it may concern: those whose text has the
name of what is altered, created or dropped; any, where that cannot be said (a type, a schema).
What the text does not show (DDL in functions and DO blocks) is not known here.
"""

import re
from typing import Final

from pooler.core import outline

ANYTHING: Final[frozenset[bytes]] = frozenset()
"""What a change is about that may concern any statement."""
NOTHING: Final = frozenset((b"\0",))
"""What is in no statement."""

_NAME: Final = r'(?:"(?:[^"]|"")+"|[\w$]+)'
_WHOLE: Final = rf"{_NAME}(?: ?\. ?{_NAME})*"
_STATEMENT: Final = re.compile(
    r"(?:^|; ?)(?P<verb>create|alter|drop|truncate|refresh|reindex|cluster"
    r"|vacuum(?= full\b| ?\([^)]*\bfull\b(?! (?:\?|off|false))))\b(?P<rest>[^;]*)",
    re.IGNORECASE,
)
_MAYBE: Final = re.compile(
    rb"(?i)\b(?:create|alter|drop|truncate|refresh|reindex|cluster|vacuum)(?![\w$])"
)
_SINGLE: Final = re.compile(r'(?:[^;"]|"[^"]*")*;? ?')
_TEMPORARY: Final = re.compile(r"(?:(?:local|global) )?temp(?:orary)?\b|.*\bpg_temp\b", re.I)
_KIND: Final = re.compile(
    r"(?:(?:or replace|unique|unlogged|recursive|constraint|foreign|materialized|event|user|text"
    r" search|operator|default|large|access) )*(?P<kind>\w+)",
    re.IGNORECASE,
)
_NAMED: Final = frozenset(
    ("table", "view", "function", "procedure", "routine", "aggregate", "rule")
)
"""Kinds of objects whose changes concern those who name them."""
_APART: Final = frozenset(("index", "sequence", "trigger", "policy"))
"""Kinds of objects whose changes give no result another shape."""
_LOCKING: Final = ("truncate", "refresh")
"""What locks as DDL does, and changes nothing of the schema."""
_SOLITARY: Final = ("reindex", "cluster", "vacuum")
"""The same, where some forms may not be in a transaction that has begun: of a partitioned table, of
all tables, VACUUM at all."""
_ELSEWHERE: Final = frozenset(
    (
        *("database", "tablespace", "role", "user", "group", "system", "server", "mapping"),
        *("publication", "subscription", "privileges", "object", "method", "statistics"),
        *("configuration", "dictionary", "parser", "template", "language"),
    )
)
"""Kinds that no statement's result depends on, or that a transaction may not hold."""
_LISTED: Final = re.compile(
    rf" (?:(?:if (?:not )?exists|concurrently|only) )*({_WHOLE}(?: ?, ?{_WHOLE})*)", re.I
)
_FURTHER: Final = re.compile(rf"\bon (?:only )?({_WHOLE})|\brename to ({_WHOLE})", re.I)
_UNGUARDED: Final = re.compile(r"(?i)\b(?:concurrently|isolation level|deferrable)\b")


class Change:
    """What the text of a Query or Parse changes of the schema."""

    __slots__ = ("guarded", "outline", "solitary", "told", "words")

    def __init__(
        self, words: frozenset[bytes], told: bool, guarded: bool, solitary: bool, shown: str
    ) -> None:
        self.words = words  # names of what it is about, in lower case
        self.told = told  # it is one that people want to hear of: nothing temporary, no role
        self.guarded = guarded  # it may be run with a `lock_timeout`
        self.solitary = solitary  # outside of a transaction block, only with its session's
        self.outline = shown  # for people


def read(body: bytes) -> Change | None:
    """Return what a Query's or Parse's body changes of the schema; None: it is no DDL."""
    if not _MAYBE.search(body):
        return None
    text = outline.of(body)
    words: set[bytes] = set()
    found = told = anything = solitary = False
    for statement in _STATEMENT.finditer(text):
        verb = statement["verb"].lower()
        rest = statement["rest"].lstrip()
        found = True
        if verb in _SOLITARY:
            told = solitary = True
            continue
        if _TEMPORARY.match(rest):
            continue
        match = _KIND.match(rest)
        kind = match["kind"].lower() if match else ""
        if kind in _ELSEWHERE:
            continue
        told = True
        if verb in _LOCKING or kind in _APART:
            continue
        if match is not None and kind in _NAMED:
            words.update(_names(rest[match.end() :]))
        else:
            anything = True
    if not found:
        return None
    about = ANYTHING if anything else frozenset(words) or NOTHING
    guarded = told and not _UNGUARDED.search(text)
    solitary = solitary and guarded and _SINGLE.fullmatch(text) is not None
    return Change(about, told, guarded, solitary, outline.shown(body))


def _names(rest: str) -> set[bytes]:
    """Return the names in what stands behind a kind of object, without their schemas."""
    listed = _LISTED.match(rest)
    found = re.findall(_WHOLE, listed[1]) if listed else []
    found += [on or to for on, to in _FURTHER.findall(rest)]
    return {_last(name) for name in found}


def _last(name: str) -> bytes:
    last = re.findall(_NAME, name)[-1]
    plain = last[1:-1].replace('""', '"') if last.startswith('"') else last
    return str(plain).lower().encode("utf-8", "replace")

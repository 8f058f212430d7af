"""The outline of a statement: its text without comments, and with `?` in place of every value.

What people may be shown of a client's SQL, and what policies are matched against. Where quoting
leaves in doubt what is a value, the rest is left out: an outline never shows one.
"""

import re
from typing import Final

SHOWN: Final = 200
"""Characters of a statement that people are shown."""

STATEMENT: Final = 1_000
"""Characters of the outline by which statements are told apart."""

_SOURCE: Final = 4_000
"""Characters of a text that an outline to be shown is made of."""

_PARTS: Final = re.compile(
    r"""
      (?P<space> (?: \s | --[^\n]* )+ )
    | (?P<comment> /\* )
    | (?P<name> "(?:[^"]|"")*" | (?![uU]&')[^\W\d][\w$]* (?!['\w]) | \$\d+ )
    | (?P<value> [eE]'(?:[^'\\]|''|\\.)*'
               | (?:[uU]&|[bBxXnN])?'(?:[^'\\]|'')*'
               | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$
               | \d[\w.]* | \.\d[\w.]* )
    | (?P<other> [^\w\s'"$] )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT: Final = re.compile(r"/\*|\*/")
_ASSIGNED: Final = re.compile(
    r"(?i)((?:^|; ?)(?:(?:(?:alter|create) [^;]*?(?<![\w$]))?set(?: session| local)?"
    r" (?:\"[^\"]*\"|[\w.$]+)(?: to | ?= ?)"
    r"|set (?:session |local )?(?:time zone|names|schema|role|session authorization) ))[^;]+"
)
"""A value that is a word, given to a setting; an UPDATE's SET is none."""
_IN: Final = re.compile(r"(?i)(?<=\bin)( ?\((?:\?|\$\d+))(?: ?, ?(?:\?|\$\d+))+ ?\)")
_ROWS: Final = re.compile(r"(\([?$\d, ]*\))(?: ?, ?\([?$\d, ]*\))+")


def of(body: bytes) -> str:
    """Return the whole outline of a Query's or Parse's body."""
    return _outline(_sql(body))


def shown(body: bytes) -> str:
    """Return the beginning of the outline, for people."""
    text = _ASSIGNED.sub(r"\1?", _outline(_sql(body)[:_SOURCE]))
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def statement(sql: bytes) -> str:
    """Return the outline that stands for all statements that differ in values only."""
    text = _ASSIGNED.sub(r"\1?", _outline(sql.decode("utf-8", "replace")))
    text = _ROWS.sub(r"\1, ...", _IN.sub(r"\1, ...)", text)) or "(not known)"
    return text if len(text) <= STATEMENT else text[: STATEMENT - 3] + "..."


def _sql(body: bytes) -> str:
    name, _, rest = body.partition(b"\0")
    sql = rest[: rest.find(b"\0")] if b"\0" in rest else name  # a Parse has a name before its text
    return sql.decode("utf-8", "replace")


def _outline(sql: str) -> str:
    parts: list[str] = []
    at = 0
    while at < len(sql):
        found = _PARTS.match(sql, at)
        if found is None:
            parts.append("?")  # not closed, or in doubt: the rest may be a value
            break
        at = found.end()
        kind = found.lastgroup if found.lastgroup != "tag" else "value"
        if kind == "comment":
            at = _comment_end(sql, at)
        if kind in ("space", "comment"):
            if parts and parts[-1] != " ":
                parts.append(" ")
        else:
            parts.append("?" if kind == "value" else found[0])
    return "".join(parts).strip()


def _comment_end(sql: str, at: int) -> int:
    """Return where the comment that began before `at` ends; they nest."""
    depth = 1
    for found in _COMMENT.finditer(sql, at):
        depth += 1 if found[0] == "/*" else -1
        if not depth:
            return found.end()
    return len(sql)

"""User name maps: which name outside may log in as which user, in pg_ident.conf's syntax or YAML.

A line of a map is MAP-NAME SYSTEM-NAME DATABASE-USER, read and matched as PostgreSQL 16 does: a
system name that begins with `/` is a regular expression, whose first captured part stands for `\\1`
in the database user; a database user that is `all` is every one, one that begins with `/` is a
regular expression, and one in quotes just a name. What differs: `+group` is refused, since only a
database can answer it, and so is a `\\1` that nothing is captured for, which PostgreSQL finds out
at a login.

Rules: pure; each mistake has its file and line.

Source: PostgreSQL documentation, "User Name Maps"; `parse_ident_line` and `check_ident_usermap` in
`src/backend/libpq/hba.c`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from pooler.config.authfile import Field, Line, Token
from pooler.config.hba import Name, is_group, name_of
from pooler.config.problem import Problem, Wrong, printable
from pooler.config.regex import BadPattern

_CAPTURED: Final = "\\1"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a map, and where it is written."""

    file: str = field(compare=False)
    line: int = field(compare=False)
    map: str
    system: Name
    user: Name

    def fits(self, system: str, user: str) -> bool | None:
        """Whether `system` may log in as `user`; None: no, and no other line is to be asked."""
        if self.system.pattern is None:
            return self.system.token.text == system and _is_user(self.user, user)
        match = self.system.pattern.search(system)
        if match is None:
            return False
        if self.user.pattern is None and _CAPTURED in self.user.token.text:
            if match[1] is None:
                return None
            return self.user.token.text.replace(_CAPTURED, match[1], 1) == user
        return _is_user(self.user, user)


def _is_user(name: Name, user: str) -> bool:
    return name.is_keyword("all") or name.fits(user)


class Maps:
    """All lines of all maps, in order."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries = tuple(entries)
        self.names = frozenset(entry.map for entry in self._entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Maps) and self._entries == other._entries

    def __hash__(self) -> int:
        return hash(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<{len(self._entries)} lines of {len(self.names)} maps>"

    def lets(self, map_name: str, system: str, user: str) -> bool:
        """Whether who is `system` outside may log in as `user`; no map: the names are the same."""
        if not map_name:
            return system == user
        for entry in self._entries:
            if entry.map == map_name and (found := entry.fits(system, user)) is not False:
                return bool(found)
        return False


def entries_of(lines: Iterable[Line]) -> tuple[list[Entry], list[Problem]]:
    """The entries of a file's lines, and what is wrong with them."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    for line in lines:
        found = entry_of(line.file, line.number, line.fields)
        if isinstance(found, Entry):
            entries.append(found)
        else:
            problems.append(found)
    return entries, problems


def entry_of(file: str, line: int, fields: tuple[Field, ...]) -> Entry | Problem:
    """The entry that the fields of a line make, or what is wrong with it."""
    try:
        if len(fields) != 3 or any(len(tokens) != 1 for tokens in fields):
            raise Wrong(
                "is not a line of map, system name and database user",
                "put a name with commas or blanks in double quotes",
            )
        (name,), (system,), (user,) = fields
        if not name.text:
            raise Wrong("the map has no name")
        return _entry(Entry(file, line, name.text, _name(system), _name(user)))
    except Wrong as wrong:
        return Problem(file, line, "", wrong.message, wrong.hint)


def _entry(entry: Entry) -> Entry:
    if is_group(entry.user.token):
        raise Wrong(
            f"'{printable(entry.user.token.text)}' is not supported: only a database knows who is "
            "in a role",
            "name the users, or give a regular expression as /^name_",
        )
    pattern = entry.system.pattern
    if (
        pattern is not None
        and pattern.groups == 0
        and entry.user.pattern is None
        and _CAPTURED in entry.user.token.text
    ):
        raise Wrong(
            "the database user has \\1, but the system name captures nothing",
            "put the part that is meant in parentheses, as in /^(.*)@example\\.net$",
        )
    return entry


def _name(token: Token) -> Name:
    try:
        return name_of(token)
    except BadPattern as bad:
        raise Wrong(
            f"the regular expression '{printable(token.text[1:61])}' {bad}",
            "docs/authentication.md says what is supported",
        ) from None

"""The form that pg_hba.conf and pg_ident.conf share: lines of fields, fields of tokens, includes.

Read as PostgreSQL 16 reads it, quirks included: commas join tokens to one field, a backslash at the
end of a line goes on with the next, a quote before the first character takes a keyword's meaning
away but that of a leading `/` not, `@name` stands for the tokens of a file. Stricter than there: a
quote that is not closed and text that is not UTF-8 are mistakes.

Rules: pure but for the reader that is passed in; everything read is bounded, whatever includes
what; each mistake has its file and line.

Source: `next_token`, `next_field_expand` and `tokenize_auth_file` in PostgreSQL's `hba.c`.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from pooler.config.problem import Problem

MAX_DEPTH: Final = 10
"""Files that include each other (CONF_FILE_MAX_DEPTH)."""
MAX_FILES: Final = 1000
"""Files read for one of auth.hba_file and auth.ident_file, the same one counted each time."""
MAX_TOKENS: Final = 200_000
"""Tokens in all of them together."""

_BLANK: Final = " \t\r"


class Reader(Protocol):
    """How files are read; whatever is asked for is watched from then on."""

    def text(self, file: str) -> bytes | str:
        """A file's content, or why it can not be read, as a predicate."""

    def exists(self, file: str) -> bool:
        """Whether there is such a file."""

    def folder(self, name: str) -> list[str] | str:
        """The names in a folder, or why they can not be read."""


@dataclass(frozen=True, slots=True)
class Token:
    """A word, and whether a quote stood before its first character."""

    text: str
    quoted: bool = False

    def is_keyword(self, word: str) -> bool:
        """Whether it is that word in its special meaning."""
        return not self.quoted and self.text == word

    def __str__(self) -> str:
        return f'"{self.text}"' if self.quoted else self.text


Field = tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A line that says something, with where it begins."""

    file: str
    number: int
    fields: tuple[Field, ...]


class _Stop(Exception):
    """A limit was reached: nothing more is read."""


class AuthFile:
    """Reads a file and what it includes."""

    def __init__(self, reader: Reader) -> None:
        self.problems: list[Problem] = []
        self._reader = reader
        self._files = 0
        self._tokens = 0
        self._file = ""
        self._number = 0

    def read(self, file: str) -> list[Line]:
        """The lines of `file`, which exists; what is wrong goes to `problems`."""
        lines: list[Line] = []
        with suppress(_Stop):
            self._open(file, lines, 0, file, 0)
        return lines

    def field(self, text: str, file: str, number: int) -> Field:
        """The tokens of a value that is written as a field would be."""
        self._file, self._number = file, number
        try:
            return tuple(token for part in self._fields(file, text, 0) for token in part)
        except _Stop:
            return ()

    def _complain(self, message: str, hint: str = "") -> None:
        self.problems.append(Problem(self._file, self._number, "", message, hint))

    def _open(self, file: str, into: list[Line], depth: int, outer: str, number: int) -> None:
        """Add the lines of a file that `outer` includes in its line `number`."""
        self._file, self._number = outer, number
        if depth > MAX_DEPTH:
            self._complain(f"includes are nested more than {MAX_DEPTH} deep", "does one loop?")
            return
        self._files += 1
        if self._files > MAX_FILES:
            self._complain(f"more than {MAX_FILES} files are included")
            raise _Stop
        data = self._reader.text(file)
        if isinstance(data, str):
            name = "" if depth == 0 else f" {file}"
            self._complain(f"the file{name} {data}")
            return
        for start, text in self._lines(data, file):
            self._file, self._number = file, start
            fields = tuple(self._fields(file, text, depth))
            if fields and not self._included(fields, file, start, into, depth):
                into.append(Line(file, start, fields))

    def _lines(self, data: bytes, file: str) -> Iterator[tuple[int, str]]:
        """Each line with its number; those that a backslash joins are one."""
        joined, start = "", 0
        for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
            self._file, self._number = file, number
            start = start or number
            text = self._decoded(raw)
            if text.endswith("\\"):
                joined += text[:-1]
                continue
            yield start, joined + text
            joined, start = "", 0
        if joined:
            yield start, joined

    def _decoded(self, raw: bytes) -> str:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            self._complain("is not UTF-8 text")
            return ""
        if "\0" in text:
            self._complain("holds a NUL", "is it a text file?")
            return ""
        return text.rstrip("\r")

    def _fields(self, file: str, text: str, depth: int) -> Iterator[Field]:
        at = 0
        while at < len(text):
            tokens: list[Token] = []
            more = True
            while more:
                token, at, more = self._token(text, at)
                if token is None:
                    break
                self._tokens += 1
                if self._tokens > MAX_TOKENS:
                    self._complain(f"there are more than {MAX_TOKENS} words in all")
                    raise _Stop
                if token.text.startswith("@") and len(token.text) > 1 and not token.quoted:
                    tokens += self._expand(token.text[1:], file, depth)
                else:
                    tokens.append(token)
            if tokens:
                yield tuple(tokens)

    def _token(self, text: str, at: int) -> tuple[Token | None, int, bool]:
        """The token from `at` on, where it ends, and whether a comma ends it."""
        size = len(text)
        while at < size and (text[at] in _BLANK or text[at] == ","):
            at += 1
        word: list[str] = []
        inside = was_quote = saw_quote = initial = comma = False
        while at < size and (inside or text[at] not in _BLANK):
            char = text[at]
            if not inside and char == "#":
                at = size
                break
            if not inside and char == ",":
                comma = True
                break
            if char != '"' or was_quote:
                word.append(char)
            was_quote = inside and char == '"' and not was_quote
            if char == '"':
                inside = not inside
                saw_quote = True
                initial = initial or not word
            at += 1
        if inside:
            self._complain("a quote is not closed")
        if not saw_quote and not word:
            return None, at, False
        return Token("".join(word), initial), at, comma

    def _expand(self, name: str, file: str, depth: int) -> list[Token]:
        """The tokens of all lines of the file that `@name` stands for."""
        number = self._number
        lines: list[Line] = []
        self._open(_beside(file, name), lines, depth + 1, file, number)
        self._file, self._number = file, number
        return [token for line in lines for field in line.fields for token in field]

    def _included(
        self, fields: tuple[Field, ...], file: str, number: int, into: list[Line], depth: int
    ) -> bool:
        """Whether the line includes something; its lines are added to `into`."""
        if len(fields) != 2 or len(fields[0]) != 1:
            return False
        what, name = fields[0][0].text, _beside(file, fields[1][0].text)
        if what == "include_dir":
            found = self._reader.folder(name)
            if isinstance(found, str):
                self._complain(f"the folder {name} {found}")
                return True
            for entry in sorted(found, key=os.fsencode):
                if entry.endswith(".conf") and not entry.startswith("."):
                    self._open(os.path.join(name, entry), into, depth + 1, file, number)
        elif what == "include":
            self._open(name, into, depth + 1, file, number)
        elif what == "include_if_exists":
            if self._reader.exists(name):
                self._open(name, into, depth + 1, file, number)
        else:
            return False
        return True


def _beside(file: str, name: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(file), name))

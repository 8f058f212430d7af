"""The syntax of pgbouncer.ini: lines, sections, `%include`, and connection strings.

Read as PgBouncer reads them (`lib/usual/cfparser.c`, `src/loader.c`), with three differences: all
mistakes are found and not just the first, a word in an error is shown only where it can not be part
of a password, and text has to be UTF-8. Rules: pure; files are read by way of the reader passed in.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pooler.config.problem import Problem, did_you_mean
from pooler.config.tree import Origin

Read = Callable[[str], bytes | str]
"""A file's content, or why it can not be read, as a predicate."""

SECTIONS: Final = ("pgbouncer", "databases", "users", "peers")
MAX_INCLUDE: Final = 10
"""Levels of files that include files, as in PgBouncer."""

_INCLUDE = re.compile(r"%include[ \t]+(.*)")
_SECTION = re.compile(r"\[([^\]]*)\](.*)")
_ENTRY = re.compile(
    r"""(?: "(?P<double>(?:[^"]|"")+)" | '(?P<single>[^']+)' | (?P<plain>[A-Za-z0-9_.*-]+) )
        [ \t]* = [ \t]* (?P<value>.*)""",
    re.VERBOSE,
)
_BLANKS = " \t\n\v\f\r"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line `key = value`, and where it is written."""

    section: str
    key: str
    value: str
    origin: Origin


class Ini:
    """A file with all that it includes: its entries in order, and what is wrong with it."""

    def __init__(self, path: str, read: Read) -> None:
        self.entries: list[Entry] = []
        self.problems: list[Problem] = []
        self._read = read
        self._section = ""
        self._file(path, Origin(path), 0)
        if not self.problems and not any(e.section == "pgbouncer" for e in self.entries):
            self._complain(Origin(path), "has no setting in a section [pgbouncer]", "")

    def _complain(self, origin: Origin, message: str, hint: str) -> None:
        self.problems.append(Problem(origin.file, origin.line, "", message, hint))

    def _file(self, path: str, named: Origin, level: int) -> None:
        """The entries of one file; the section goes on from file to file, as in PgBouncer."""
        data = self._read(path)
        if isinstance(data, str):
            if level:
                data = f"the included file {path} {data}"
            self._complain(named, data, "")
            return
        for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
            line = raw.decode(errors="surrogateescape").strip(_BLANKS)
            if line and line[0] not in "#;":
                self._line(line, Origin(path, number), level)

    def _line(self, line: str, origin: Origin, level: int) -> None:
        if "\0" in line or not _is_text(line):
            self._complain(origin, "is not UTF-8 text", "")
        elif include := _INCLUDE.fullmatch(line):
            if level >= MAX_INCLUDE:
                self._complain(origin, "files include each other too deeply", "")
            else:
                self._file(include[1], origin, level + 1)
        elif section := _SECTION.fullmatch(line):
            self._section = section[1]
            if section[1] not in SECTIONS:
                hint = did_you_mean(section[1], SECTIONS)
                self._complain(origin, "is not a section of PgBouncer", hint)
            rest = section[2].lstrip(_BLANKS)
            if rest and rest[0] not in "#;":  # PgBouncer reads on in the same line
                self._line(rest, origin, level)
        elif entry := _ENTRY.fullmatch(line):
            self._entry(entry, origin)
        else:
            self._complain(origin, "is not a line `key = value`, a [section] or a comment", "")

    def _entry(self, entry: "re.Match[str]", origin: Origin) -> None:
        double, single, plain = entry["double"], entry["single"], entry["plain"]
        key = double.replace('""', '"') if double else single or plain
        if self._section in SECTIONS:
            self.entries.append(Entry(self._section, key, entry["value"], origin))
        elif not self._section:
            self._complain(origin, "stands before any [section]", "begin with [pgbouncer]")


def _is_text(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


class BadString(ValueError):
    """What is wrong with a connection string; shows nothing of it but known keys."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = message, hint
        super().__init__(message)


_BLANK_HINT = "put a value with blanks in single quotes, and write a quote within it twice"


def pairs(text: str) -> Iterator[tuple[str, str]]:
    """The `key=value` pairs of a connection string; BadString.

    As in PgBouncer: only the space separates, a quoted value ends at its quote and the character
    behind that one is skipped, a quote within is written twice, and no value is empty.
    """
    at = _skip(text, 0)
    while at < len(text):
        start = at
        while at < len(text) and text[at] not in "= ":
            at += 1
        key = text[start:at]
        at = _skip(text, at)
        if not key or at == len(text) or text[at] != "=":
            raise BadString("a word of the connection string has no '='", _BLANK_HINT)
        at = _skip(text, at + 1)
        if at < len(text) and text[at] == "'":
            value, at = _quoted(text, at + 1)
        else:
            start = at
            while at < len(text) and text[at] != " ":
                at += 1
            value = text[start:at]
        if not value:
            raise BadString("a value of the connection string is empty", "leave its key out")
        yield key, value
        at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] == " ":
        at += 1
    return at


def _quoted(text: str, at: int) -> tuple[str, int]:
    """The value from behind its opening quote, and where its closing one is passed."""
    value = ""
    while True:
        end = text.find("'", at)
        if end < 0:
            raise BadString("a quote of the connection string is not closed", _BLANK_HINT)
        value += text[at:end]
        if text[end + 1 : end + 2] != "'":
            return value, end + 1
        value += "'"
        at = end + 2

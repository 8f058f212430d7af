"""What a pool's statements cost: figures by normalized statement, bounded in number and bytes.

Texts that differ in values, comments and spaces are one statement, shown by its outline: no value
of a client's is ever kept. The statements unused for longest make room for new ones, and their
figures go to one of the rest, so that sums stay true.
"""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from pooler.core import outline
from pooler.core.counters import BOUNDS, buckets

LONGEST: Final = 4_096
"""Bytes of a text that are looked at: statements alike so far are one."""
KNOWN: Final = 5_000
"""Texts whose statement is remembered."""
KNOWN_BYTES: Final = 2_097_152
"""And the bytes of these."""
REST: Final = "(other statements)"
"""What is shown of the figures of statements that have made room."""

# Two texts of which these make the same are one statement. They may err towards more statements,
# never to a value that is shown: that is the outline's business, made of one text with care.
# They begin with a set of characters, for which `re` looks in a quick loop.
_NUMBERS: Final = re.compile(rb"[0-9](?<![\w$\"\-][0-9])[\w.]*")
_VALUES: Final = re.compile(rb"['0-9](?:(?<=')[^']*'|(?<=[0-9])(?<![\w$\"\-][0-9])[\w.]*)")


def alike(text: bytes) -> bytes:
    """Return a text without its last comment and its simple values: the cheap part of the work."""
    if text.endswith(b"*/"):
        text = text[: text.rfind(b"/*")]
    elaborate = b"$" in text or b"\\" in text or b"--" in text or b"/*" in text
    return (_NUMBERS if elaborate else _VALUES).sub(b"0", text)


class Figures:
    """What one statement has cost; times are in seconds."""

    __slots__ = (
        "calls",
        "errors",
        "ident",
        "longest",
        "received",
        "rows",
        "sent",
        "statement",
        "time",
        "times",
        "used_at",
        "wait_time",
        "waits",
    )

    def __init__(self, statement: str) -> None:
        self.statement = statement
        self.ident = hashlib.blake2b(statement.encode(), digest_size=8).hexdigest()
        self.calls = 0
        self.errors = 0
        self.rows = 0
        self.received = 0  # bytes of its messages
        self.sent = 0  # bytes of its replies
        self.wait_time = 0.0
        self.waits = buckets()
        self.time = 0.0  # of the server
        self.times = buckets()
        self.longest = 0.0
        self.used_at = 0.0

    def add(self, wait: float, time: float, failed: bool, now: float) -> None:
        """Count a call."""
        self.calls += 1
        self.errors += failed
        self.wait_time += wait
        self.waits[bisect_left(BOUNDS, wait)] += 1
        self.time += time
        self.times[bisect_left(BOUNDS, time)] += 1
        if time > self.longest:
            self.longest = time
        self.used_at = now

    def take_in(self, other: "Figures") -> None:
        """Add another statement's figures."""
        self.calls += other.calls
        self.errors += other.errors
        self.rows += other.rows
        self.received += other.received
        self.sent += other.sent
        self.wait_time += other.wait_time
        self.time += other.time
        self.longest = max(self.longest, other.longest)
        self.used_at = max(self.used_at, other.used_at)
        for i in range(len(self.times)):
            self.waits[i] += other.waits[i]
            self.times[i] += other.times[i]


class Statistics:
    """The statements of one pool."""

    def __init__(self) -> None:
        self._known: dict[bytes, Figures] = {}
        self._known_bytes = 0
        self._statements: dict[str, Figures] = {}
        self._rest: Figures | None = None

    def __iter__(self) -> Iterator[Figures]:
        """All figures there are."""
        yield from self._statements.values()
        if self._rest is not None:
            yield self._rest

    def __len__(self) -> int:
        return len(self._statements)

    def of(self, text: bytes, most: int) -> Figures:
        """Return the figures of a text's statement, one of so many at most."""
        figures = self._known.get(text)
        if figures is not None:
            return figures
        text = text[:LONGEST]
        key = alike(text)
        figures = self._known.get(key)
        if figures is None:
            figures = self._find(outline.statement(text), most)
            self._remember(key, figures)
        return figures

    def know(self, text: bytes, figures: Figures) -> None:
        """Remember a text that will come again as it is, as those of prepared statements do."""
        if text not in self._known and len(text) <= LONGEST:
            self._remember(text, figures)

    def _remember(self, key: bytes, figures: Figures) -> None:
        if len(self._known) >= KNOWN or self._known_bytes > KNOWN_BYTES:
            self._known.clear()
            self._known_bytes = 0
        self._known[key] = figures
        self._known_bytes += len(key)

    def _find(self, statement: str, most: int) -> Figures:
        figures = self._statements.get(statement)
        if figures is None:
            if len(self._statements) >= most:
                self._make_room(most)
            figures = self._statements[statement] = Figures(statement)
        return figures

    def _make_room(self, most: int) -> None:
        """Put a tenth of the statements to the rest, and those beyond a limit that has shrunk."""
        if self._rest is None:
            self._rest = Figures(REST)
        surplus = len(self._statements) - most + most // 10 + 1
        by_age = sorted(self._statements.values(), key=lambda figures: figures.used_at)
        for figures in by_age[:surplus]:
            self._rest.take_in(figures)
            del self._statements[figures.statement]
        self._known.clear()
        self._known_bytes = 0

    def clear(self) -> None:
        """Start anew."""
        self._known.clear()
        self._known_bytes = 0
        self._statements.clear()
        self._rest = None

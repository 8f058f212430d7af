"""What went wrong lately, the same things counted: SHOW ERRORS.

Bounded: what was not seen again for longest is forgotten first.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pooler.admin.sockets import Clock
from pooler.admin.view import Row, View, bigints, text

if TYPE_CHECKING:
    from pooler.service import Service

KINDS_LIMIT: Final = 200
"""Different errors remembered."""
_TEXT: Final = 500
"""Characters of a text that are kept."""


@dataclass(frozen=True, slots=True)
class Error:
    """What makes two errors the same."""

    kind: str
    """What failed, by the event's name in the log."""
    database: str
    user: str
    sqlstate: str
    text: str


@dataclass(slots=True)
class _Seen:
    count: int
    first: float
    last: float


class Errors:
    """The errors of a service."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Error, _Seen] = OrderedDict()

    def note(
        self, now: float, kind: str, database: str, user: str, sqlstate: str, text: str
    ) -> None:
        """Count an error."""
        error = Error(kind, database[:_TEXT], user[:_TEXT], sqlstate, text[:_TEXT])
        seen = self._seen.get(error)
        if seen is None:
            if len(self._seen) >= KINDS_LIMIT:
                self._seen.popitem(last=False)
            self._seen[error] = _Seen(1, now, now)
        else:
            seen.count += 1
            seen.last = now
            self._seen.move_to_end(error)

    def latest(self) -> Iterator[tuple[Error, _Seen]]:
        """All errors, the latest first."""
        return iter(reversed(list(self._seen.items())))


def _errors(service: "Service") -> Iterator[Row]:
    clock = Clock(service.now())
    for error, seen in service.errors.latest():
        yield (
            clock.when(seen.last),
            clock.when(seen.first),
            seen.count,
            error.kind,
            error.database,
            error.user,
            error.sqlstate,
            error.text,
        )


VIEW: Final = View(
    "errors",
    "what went wrong lately: connections refused, closed or not to be had",
    (
        *text("last", "first"),
        *bigints("count"),
        *text("event", "database", "user", "sqlstate", "message"),
    ),
    _errors,
)

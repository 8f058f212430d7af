"""One event, one line: readable text on a terminal, JSON with stable field names otherwise.

An event has a name (`event`) and fields; never a password, a query or a parameter of one. Warnings
that are alike but for whom they are about are told a few times, then counted. Python's `logging`
carries it all; only the two formatters and the counting are ours.
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal

LOGGER: Final = logging.getLogger("pooler")

_marks: dict[str, Any] = {}

_COLOURS: Final = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "31;1"}

WINDOW: Final = 10.0
"""Seconds in which repeats are counted."""
WINDOWS: Final = 1_000
"""Kinds of lines watched for repeats at a time."""
_FROM_OUTSIDE: Final = frozenset(("client refused",))
"""What anybody can cause at any level: port scans, health checks."""
_WHOSE: Final = frozenset(
    (
        *("client", "server", "pid", "address", "seconds", "wait_seconds", "execute_seconds"),
        *("rows", "bytes"),
    )
)


def event(level: int, name: str, **fields: Any) -> None:
    """Log an event; fields that are None or "" are left out."""
    if LOGGER.isEnabledFor(level):
        kept = {key: value for key, value in fields.items() if value is not None and value != ""}
        LOGGER.log(level, name, extra={"fields": kept})


def set_up(form: Literal["auto", "text", "json"], level: str, repeats: int = 0) -> None:
    """Log to standard error in this form, from this level on; may be called again.

    Of warnings that are alike, so many are told in `WINDOW` seconds; 0 for all.
    """
    flush(ended=True)
    terminal = sys.stderr.isatty()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Text(colour=terminal) if form == "text" or (form == "auto" and terminal) else _Json()
    )
    if repeats:
        handler.addFilter(Repeats(repeats))
    LOGGER.handlers[:] = [handler]
    LOGGER.propagate = False
    LOGGER.setLevel(level.upper())


def flush(*, ended: bool = False) -> None:
    """Tell how many lines were left out in windows that are over, or in all."""
    for handler in LOGGER.handlers:
        for found in handler.filters:
            if isinstance(found, Repeats):
                for record in found.over(ended=ended):
                    handler.emit(record)


class Repeats(logging.Filter):
    """Lets through so many warnings that are alike in a window of time, and counts the others."""

    def __init__(self, limit: int, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._limit = limit
        self._now = now
        self._seen: dict[tuple[object, ...], _Alike] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is to be told."""
        if record.levelno < logging.WARNING and record.getMessage() not in _FROM_OUTSIDE:
            return True
        fields = _fields(record)
        key = (record.getMessage(), *((name, _told(name, fields[name])) for name in fields))
        now = self._now()
        alike = self._seen.get(key)
        if alike is None:
            if len(self._seen) >= WINDOWS:
                return True
            alike = self._seen[key] = _Alike(now, record)
        elif now - alike.since >= WINDOW:
            if alike.left_out:
                record.fields = {**fields, "left_out": alike.left_out}
            alike.since, alike.told, alike.left_out = now, 0, 0
        alike.told += 1
        alike.left_out += alike.told > self._limit
        return alike.told <= self._limit

    def over(self, *, ended: bool) -> list[logging.LogRecord]:
        """Return a line for each window that is over and has left lines out; forget those."""
        now = self._now()
        lines = []
        for key, alike in list(self._seen.items()):
            if ended or now - alike.since >= WINDOW:
                del self._seen[key]
                if alike.left_out:
                    lines.append(_summary(alike))
        return lines


class _Alike:
    def __init__(self, since: float, record: logging.LogRecord) -> None:
        self.since = since
        self.record = record
        self.told = 0
        self.left_out = 0


def _summary(alike: _Alike) -> logging.LogRecord:
    first = alike.record
    kept = {name: value for name, value in _fields(first).items() if name not in _WHOSE}
    made = LOGGER.makeRecord(LOGGER.name, first.levelno, "", 0, first.getMessage(), (), None)
    made.fields = {**kept, "left_out": alike.left_out}
    return made


def _told(name: str, value: object) -> object:
    """Return by what lines are alike: not by whom they are about, nor by how long it took."""
    return None if name in _WHOSE else repr(value)


def mark(**fields: Any) -> None:
    """Have every line of this process carry these fields."""
    _marks.update(fields)


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return {**_marks, **fields}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Text(logging.Formatter):
    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        time = _time(record).astimezone().strftime("%H:%M:%S.%f")[:-3]
        level = f"{record.levelname.lower():<7}"
        if self._colour and record.levelname in _COLOURS:
            level = f"\x1b[{_COLOURS[record.levelname]}m{level}\x1b[0m"
        fields = " ".join(f"{key}={_shown(value)}" for key, value in _fields(record).items())
        line = f"{time} {level} {record.getMessage()}{'  ' if fields else ''}{fields}"
        if record.exc_info:
            line += f" traceback={_shown(self.formatException(record.exc_info))}"
        return line


def _shown(value: Any) -> str:
    """Return a field on one line, quoted where a space or a control character would mislead."""
    text = str(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)

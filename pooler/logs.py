"""One event, one line: readable text on a terminal, JSON with stable field names otherwise.

An event has a name (`event`) and fields; never a password, a query or a parameter of one.
Python's `logging` carries it all; only the two formatters are ours.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal

LOGGER: Final = logging.getLogger("pooler")

_marks: dict[str, Any] = {}

_COLOURS: Final = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "31;1"}


def event(level: int, name: str, **fields: Any) -> None:
    """Log an event; fields that are None or "" are left out."""
    if LOGGER.isEnabledFor(level):
        kept = {key: value for key, value in fields.items() if value is not None and value != ""}
        LOGGER.log(level, name, extra={"fields": kept})


def set_up(form: Literal["auto", "text", "json"], level: str) -> None:
    """Log to standard error in this form, from this level on; may be called again."""
    terminal = sys.stderr.isatty()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Text(colour=terminal) if form == "text" or (form == "auto" and terminal) else _Json()
    )
    LOGGER.handlers[:] = [handler]
    LOGGER.propagate = False
    LOGGER.setLevel(level.upper())


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
            line += "\n" + self.formatException(record.exc_info)
        return line


def _shown(value: Any) -> str:
    """Return a field on one line, quoted where a space or a control character would mislead."""
    text = str(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)

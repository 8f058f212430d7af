"""What `pooler top` can show: sheets of columns, each made of one view of the console.

A column says from which width of the terminal on it is there, so that all fits 80 characters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pooler.top.write import UNKNOWN, number, seconds, spark

Row = Mapping[str, Any]
Show = Callable[[Any], str]

TREND: Final = 8
"""Samples in the small line beside a pool's use."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what of a row it shows, and how."""

    title: str
    name: str
    show: Show = str
    width: int = 6
    right: bool = True
    least: int = 80
    """The narrowest terminal it is shown on."""

    @property
    def room(self) -> int:
        """The characters it needs, with its title and the mark of what is sorted by."""
        return max(self.width, len(self.title) + 1)


@dataclass(frozen=True, slots=True)
class Sheet:
    """One way to look at the pooler."""

    key: str
    title: str
    view: str
    columns: tuple[Column, ...]
    sort: str
    """The column that it is sorted by at first, "" for the view's own order."""
    falling: bool = True


def _words(value: Any) -> str:
    return UNKNOWN if value is None else str(value)


def _clock(value: Any) -> str:
    """Write the time of day, here, of a time of the console."""
    try:
        moment = datetime.strptime(str(value), "%Y-%m-%d %H:%M:%S UTC")
    except ValueError:
        return _words(value)
    return moment.replace(tzinfo=UTC).astimezone().strftime("%H:%M:%S")


def _use(row: Any) -> str:
    size = row["pool_size"]
    use = f"{row['working']}/{size}"
    return f"{use:>5} {spark(row['trend'], size, TREND)}"


def text(title: str, name: str, width: int, least: int = 80) -> Column:
    """Return a column of text."""
    return Column(title, name, _words, width, right=False, least=least)


def count(title: str, name: str, width: int = 5, least: int = 80) -> Column:
    """Return a column of numbers."""
    return Column(title, name, number, width, least=least)


def time(title: str, name: str, width: int = 7, least: int = 80) -> Column:
    """Return a column of seconds."""
    return Column(title, name, seconds, width, least=least)


SHEETS: Final = (
    Sheet(
        "1",
        "Pools",
        "occupancy",
        (
            text("Database", "database", 12),
            text("User", "user", 8),
            Column("Use", "use", _use, 14),
            count("Waits", "waiting"),
            time("Longest", "oldest_wait", least=90),
            time("p50", "wait_p50"),
            time("p95", "wait_p95"),
            time("p99", "wait_p99", least=100),
            time("Query95", "query_p95", least=100),
            count("Tx/s", "transactions"),
            count("Query/s", "queries", 7, least=120),
            count("Err/s", "errors", least=110),
            count("Clients", "clients", 7, least=110),
            count("Pins", "pinned", 4, least=110),
            text("State", "trouble", 30, least=130),
        ),
        "waiting",
    ),
    Sheet(
        "2",
        "Clients",
        "clients",
        (
            Column("Id", "id", number, 5),
            text("Database", "database", 10),
            text("User", "user", 9),
            text("Application", "application_name", 18),
            text("State", "state", 8),
            time("Waits", "waits"),
            Column("Server", "link", _words, 7, right=False, least=90),
            text("Address", "address", 21, least=110),
            Column("Connected", "connect_time", _clock, 9, least=120),
            Column("Request", "request_time", _clock, 8, least=130),
            text("TLS", "tls", 24, least=160),
        ),
        "waits",
    ),
    Sheet(
        "3",
        "Servers",
        "queries",
        (
            Column("Id", "server", number, 4),
            text("Database", "database", 10),
            Column("Pid", "pid", _words, 6, least=90),
            text("Does", "activity", 19),
            time("Query", "query_seconds"),
            time("Trans", "transaction_seconds"),
            time("Idle", "idle_seconds", least=100),
            Column("Client", "client", _words, 6, least=90),
            text("Held by", "held_by", 16),
            text("Address", "address", 21, least=120),
            text("Host", "host", 21, least=150),
        ),
        "transaction_seconds",
    ),
    Sheet(
        "4",
        "Waiting",
        "waiters",
        (
            Column("Place", "place", number, 5),
            text("Database", "database", 12),
            text("User", "user", 10),
            text("Application", "application_name", 12),
            time("For", "seconds"),
            text("Waits for", "waits_for", 16),
        ),
        "seconds",
    ),
    Sheet(
        "5",
        "Pins",
        "pins",
        (
            Column("Client", "client", number, 6),
            text("Database", "database", 10),
            text("Application", "application_name", 12),
            text("Why", "reasons", 10),
            time("For", "seconds"),
            Column("Server", "server", _words, 6, least=100),
            text("Statement", "statement", 17),
        ),
        "seconds",
    ),
    Sheet(
        "6",
        "Statements",
        "statements",
        (
            count("Calls", "calls", 6),
            time("Total", "time"),
            time("p50", "time_p50", least=100),
            time("p95", "time_p95"),
            time("Wait99", "wait_p99", least=90),
            count("Rows", "rows", 6, least=100),
            count("Err", "errors", 4),
            text("Database", "database", 10),
            text("Statement", "statement", 30),
        ),
        "time",
    ),
    Sheet(
        "7",
        "Errors",
        "errors",
        (
            Column("Last", "last", _clock, 8, right=False),
            count("Times", "count"),
            text("Event", "event", 15),
            text("Database", "database", 9),
            text("State", "sqlstate", 5),
            text("Message", "message", 20),
        ),
        "last",
    ),
)

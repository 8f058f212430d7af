"""Totals and averages by database, as PgBouncer's SHOW STATS and its relatives have them.

Times are in microseconds. Averages are over the last one to two periods (`admin.stats_period`), as
PgBouncer's: per second, but for the times of a transaction and of a query, which are per each.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pooler.admin.view import Column, Fold, Merge, Row, Rows, Type, View, keys, merged, micros
from pooler.core.pool import Pool

if TYPE_CHECKING:
    from pooler.service import Service

Totals = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Measure:
    """One thing that is counted, and what it is called where; PgBouncer's names do not agree."""

    total: str
    average: str
    in_totals: str
    in_averages: str
    overall: str
    per: str = ""
    """The average of what it is divided by, where that is not the time."""


def _count(name: str, overall: str = "", averages: str = "") -> _Measure:
    return _Measure(f"total_{name}", f"avg_{name}", name, averages or name, overall or name)


def _time(name: str, per: str) -> _Measure:
    return _Measure(f"total_{name}", f"avg_{name}", name, name, name, per)


MEASURES: Final = (
    _count("server_assignment_count"),
    _count("xact_count"),
    _count("query_count"),
    _Measure("total_received", "avg_recv", "bytes_received", "bytes_received", "client_bytes"),
    _Measure("total_sent", "avg_sent", "bytes_sent", "bytes_sent", "server_bytes"),
    _time("xact_time", "avg_xact_count"),
    _time("query_time", "avg_query_count"),
    _count("wait_time"),
    _count("client_parse_count", "ps_client_parse_count", "avg_client_parse_count"),
    _count("server_parse_count", "ps_server_parse_count", "avg_server_parse_count"),
    _count("bind_count", "ps_bind_count", "avg_bind_count"),
    _count("client_login_count", averages="avg_client_login_count"),
)
_DIVISORS: Final = {5: 1, 6: 2}  # the times of transactions and queries, by their counts


def totals(pool: Pool) -> Totals:
    """Return what a pool has counted, in the order of MEASURES."""
    counters = pool.counters
    return (
        counters.assignments,
        counters.transactions,
        counters.queries,
        counters.received,
        counters.sent,
        micros(counters.transaction_time),
        micros(counters.query_time),
        micros(counters.wait_time),
        counters.client_parses,
        counters.server_parses,
        counters.binds,
        counters.logins,
    )


class Periods:
    """What the pools had counted when the last two periods began."""

    def __init__(self, now: float) -> None:
        self._older: dict[Pool, Totals] = {}
        self._newer: dict[Pool, Totals] = {}
        self._older_at = self._newer_at = now

    def tick(self, now: float, period: float, pools: Iterable[Pool]) -> None:
        """Begin a new period if it is time."""
        if now - self._newer_at >= period:
            self._older, self._older_at = self._newer, self._newer_at
            self._newer = {pool: totals(pool) for pool in pools}
            self._newer_at = now

    def averages(self, pool: Pool, now: float) -> list[float]:
        """Return what a pool has counted since the period before this one began, per second.

        Times of transactions and queries are per each.
        """
        older = self._older.get(pool)
        since = [
            total - before
            for total, before in zip(totals(pool), older or (0,) * len(MEASURES), strict=True)
        ]
        seconds = now - self._older_at
        rates = [count / seconds if seconds > 0 else 0.0 for count in since]
        for place, divisor in _DIVISORS.items():
            rates[place] = since[place] / since[divisor] if since[divisor] else 0.0
        return rates


def _columns(names: Iterable[tuple[str, _Measure]], averages: bool) -> Iterator[Column]:
    for name, measure in names:
        if averages and measure.per:
            yield Column(name, Type.NUMERIC, Fold.MEAN, measure.per)
        else:
            yield Column(name, Type.NUMERIC, Fold.SUM)


def _stats(service: "Service") -> Iterator[Row]:
    """One row for each pool; they are put together by database."""
    now = service.now()
    for pool in list(service.router.pools.values()):
        averages = service.periods.averages(pool, now)
        yield (pool.database, *totals(pool), *(round(value) for value in averages))


def _by_user(service: "Service") -> Iterator[Row]:
    for pool in list(service.router.pools.values()):
        errors = sum(pool.counters.errors_by.values())
        yield (pool.database, pool.user, *totals(pool), errors)


_N: Final = len(MEASURES)


def _totals_of(rows: Rows) -> Iterator[Row]:
    for row in rows:
        yield row[: 1 + _N]


def _averages_of(rows: Rows) -> Iterator[Row]:
    for row in rows:
        yield (row[0], *row[1 + _N :])


def _overall(rows: Rows) -> Iterator[Row]:
    """Sums over all databases; averages of times are weighted, as if it were one database."""
    everything = merge_all(rows)
    for place, measure in enumerate(MEASURES):
        yield (f"total_{measure.overall}", everything[1 + place])
    for place, measure in enumerate(MEASURES):
        yield (f"avg_{measure.overall}", everything[1 + _N + place])


def merge_all(rows: Rows) -> Row:
    """Return rows of STATS as one."""
    zero: Row = ("", *[0] * (2 * _N))
    return merged(STATS, [[("", *row[1:]) for row in rows] or [zero]])[0]


STATS: Final = View(
    "stats",
    "totals and averages of each database; times in microseconds",
    (
        *keys("database"),
        *_columns(((m.total, m) for m in MEASURES), averages=False),
        *_columns(((m.average, m) for m in MEASURES), averages=True),
    ),
    _stats,
    Merge.GROUP,
)

VIEWS: Final = (
    STATS,
    View(
        "stats_totals",
        "totals of each database since the start",
        (*keys("database"), *_columns(((m.in_totals, m) for m in MEASURES), averages=False)),
        source="stats",
        derive=_totals_of,
    ),
    View(
        "stats_averages",
        "averages of each database over the last period",
        (*keys("database"), *_columns(((m.in_averages, m) for m in MEASURES), averages=False)),
        source="stats",
        derive=_averages_of,
    ),
    View(
        "stats_pools",
        "totals of each database and server user since the start",
        (
            *keys("database", "user"),
            *_columns(((m.in_totals, m) for m in MEASURES), averages=False),
            Column("error_count", Type.NUMERIC, Fold.SUM),
        ),
        _by_user,
        Merge.GROUP,
    ),
    View(
        "totals",
        "totals and averages over all databases",
        (Column("name"), Column("value", Type.NUMERIC)),
        source="stats",
        derive=_overall,
    ),
)

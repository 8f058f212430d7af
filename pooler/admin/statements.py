"""The view of statistics by statement, whichever pool's clients have sent it.

Times are in seconds; those of waiting are of a client for a server, the others of the server. Where
`queries.statistics` is sampled, the figures are those of the sample.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pooler.admin.view import Column, Fold, Merge, Row, Type, View, keys, text
from pooler.core.counters import quantile

if TYPE_CHECKING:
    from pooler.service import Service


def _rows(service: "Service") -> Iterator[Row]:
    for pool in list(service.router.pools.values()):
        for figures in pool.statistics:
            yield (
                pool.database,
                pool.user,
                figures.ident,
                figures.calls,
                figures.errors,
                figures.rows,
                figures.received,
                figures.sent,
                figures.wait_time,
                quantile(figures.waits, 0.5),
                quantile(figures.waits, 0.99),
                figures.time,
                quantile(figures.times, 0.5),
                quantile(figures.times, 0.95),
                quantile(figures.times, 0.99),
                figures.longest,
                figures.statement,
            )


def _sums(*names: str, of: Type = Type.BIGINT) -> tuple[Column, ...]:
    return tuple(Column(name, of, Fold.SUM) for name in names)


def _quantiles(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, Type.FLOAT, Fold.MEAN, "calls") for name in names)


VIEW = View(
    "statements",
    "what statements cost, by their outline: see queries.statistics",
    (
        *keys("database", "user", "id"),
        *_sums("calls", "errors", "rows", "bytes_received", "bytes_sent"),
        *_sums("wait_time", of=Type.FLOAT),
        *_quantiles("wait_p50", "wait_p99"),
        *_sums("time", of=Type.FLOAT),
        *_quantiles("time_p50", "time_p95", "time_p99"),
        Column("time_max", Type.FLOAT, Fold.MAX),
        *text("statement"),
    ),
    _rows,
    Merge.GROUP,
)

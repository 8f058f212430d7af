"""How long clients waited, queries and transactions took: SHOW HISTOGRAMS.

Counted since the start, as in Prometheus: each `le_` column has how many took so many seconds at
most. The difference of two looks tells what happened between them (`pooler.rates`).
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from pooler.admin.view import Column, Fold, Merge, Row, Type, View, keys
from pooler.core.counters import BOUNDS

if TYPE_CHECKING:
    from pooler.service import Service


def _histograms(service: "Service") -> Iterator[Row]:
    for pool in list(service.router.pools.values()):
        if pool.internal:
            continue
        counters = pool.counters
        for kind, buckets, seconds in (
            ("wait", counters.waits, counters.wait_time),
            ("query", counters.query_times, counters.query_time),
            ("transaction", counters.transaction_times, counters.transaction_time),
            ("connect", counters.connect_times, counters.connect_time),
        ):
            upto = list(accumulate(buckets))
            yield pool.database, pool.user, kind, upto[-1], round(seconds, 6), *upto[:-1]


VIEW: Final = View(
    "histograms",
    "how long waits, queries, transactions and connects took, of each pool, in seconds",
    (
        *keys("database", "user", "kind"),
        Column("count", Type.BIGINT, Fold.SUM),
        Column("seconds", Type.FLOAT, Fold.SUM),
        *(Column(f"le_{bound:g}", Type.BIGINT, Fold.SUM) for bound in BOUNDS),
    ),
    _histograms,
    Merge.GROUP,
)

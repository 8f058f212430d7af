"""From looks at what pools have counted to what they do: rates, and percentiles of times.

Shared by the dashboard and `pooler top`, so that both show the same. Rows of the views `occupancy`,
`stats_pools` and `histograms` go in, points come out; no clock, no loop, nothing of the router.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

WINDOW: Final = 10.0
"""Seconds that percentiles are of: long enough for some to be there, short enough to be now."""
STALE: Final = 30.0
"""Seconds after which a look is too old to compare with: who watches again begins again."""

SOURCES: Final = ("occupancy", "stats_pools", "histograms")
"""The views that a look is made of."""
GAUGES: Final = (
    *("pool_size", "working", "idle", "leaving", "opening", "pinned"),
    *("clients", "waiting", "oldest_wait"),
)
"""Columns of `occupancy`: counts but for `oldest_wait`, which is in seconds."""
RATES: Final = {
    "queries": "query_count",
    "transactions": "xact_count",
    "errors": "error_count",
    "received": "bytes_received",
    "sent": "bytes_sent",
}
"""What is shown per second, and the column of `stats_pools` that counts it."""
KINDS: Final = ("wait", "query", "transaction")
"""Times of which the view `histograms` has one row for each pool."""
QUANTILES: Final = ((50, 0.5), (95, 0.95), (99, 0.99))
POINT: Final = (
    "database",
    "user",
    *GAUGES,
    *RATES,
    *(f"{kind}_p{percent}" for kind in KINDS for percent, _ in QUANTILES),
)
"""What a point has, in this order; rates and percentiles are None where nothing is known."""

Key = tuple[str, str]
Row = Mapping[str, Any]
Point = list[Any]
"""Values as named by `POINT`."""
Counts = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Look:
    """What had been counted at a time."""

    at: float
    totals: dict[Key, Counts]  # in the order of RATES
    buckets: dict[Key, dict[str, Counts]]  # by kind, each bucket by itself


class Rates:
    """The looks of the last seconds."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque()

    def look(
        self,
        now: float,
        occupancy: Sequence[Row],
        totals: Iterable[Row],
        histograms: Iterable[Row],
    ) -> list[Point]:
        """Take a look in; return a point for all pools together and one for each pool."""
        looks = self._looks
        if looks and not 0.0 < now - looks[-1].at < STALE:
            looks.clear()
        while len(looks) > 1 and now - looks[1].at >= WINDOW:
            looks.popleft()
        bounds, buckets = _buckets(histograms)
        counted = {_key(row): tuple(row[name] for name in RATES.values()) for row in totals}
        look = _Look(now, counted, buckets)
        before, oldest = (looks[-1], looks[0]) if looks else (None, None)
        looks.append(look)
        points: list[Point] = []
        all_rates: list[Counts] = []
        all_buckets: dict[str, list[Counts]] = {kind: [] for kind in KINDS}
        for row in occupancy:
            key = _key(row)
            rates = _rates(before, look, key)
            times = _new(oldest, look, key)
            if rates is not None:
                all_rates.append(rates)
            for kind in times:
                all_buckets[kind].append(times[kind])
            gauges = (row[name] for name in GAUGES)
            points.append([*key, *gauges, *_shown(rates), *_percentiles(times, bounds)])
        summed = {kind: _sum(found) for kind, found in all_buckets.items() if found}
        total: Point = [
            *("", ""),
            *_totals(occupancy),
            *_shown(_sum(all_rates) if all_rates else None),
            *_percentiles(summed, bounds),
        ]
        return [total, *points]


def quantile(share: float, bounds: Sequence[float], counts: Counts) -> float | None:
    """Return what `share` of the counted lie below, as Prometheus' histogram_quantile does.

    `counts` has a number for each of the upper bounds, and one for what is above the last.
    """
    rank = share * sum(counts)
    if not rank:
        return None
    low = seen = 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if seen + count >= rank:
            return low + (bound - low) * (rank - seen) / count
        seen += count
        low = bound
    return low


def _key(row: Row) -> Key:
    return row["database"], row["user"]


def _buckets(histograms: Iterable[Row]) -> tuple[list[float], dict[Key, dict[str, Counts]]]:
    """Return the upper bounds of buckets and what is in each."""
    bounds: list[float] = []
    found: dict[Key, dict[str, Counts]] = {}
    names: list[str] = []
    for row in histograms:
        if not names:
            names = [name for name in row if name.startswith("le_")]
            bounds = [float(name.removeprefix("le_")) for name in names]
        upto = [float(row[name]) for name in names] + [float(row["count"])]
        each = tuple(b - a for a, b in zip([0.0, *upto], upto, strict=False))
        found.setdefault(_key(row), {})[row["kind"]] = each
    return bounds, found


def _rates(before: _Look | None, look: _Look, key: Key) -> Counts | None:
    """Return what was counted per second; None: unknown, or the pool was made anew meanwhile."""
    old = before.totals.get(key) if before is not None else None
    new = look.totals.get(key)
    if before is None or old is None or new is None:
        return None
    seconds = look.at - before.at
    rates = tuple((b - a) / seconds for a, b in zip(old, new, strict=True))
    return rates if min(rates) >= 0 else None


def _new(oldest: _Look | None, look: _Look, key: Key) -> dict[str, Counts]:
    """Return what came into the buckets within the window."""
    found: dict[str, Counts] = {}
    if oldest is not None:
        old = oldest.buckets.get(key, {})
        for kind, counts in look.buckets.get(key, {}).items():
            if kind in KINDS and kind in old:
                new = tuple(b - a for a, b in zip(old[kind], counts, strict=True))
                if min(new) >= 0:
                    found[kind] = new
    return found


def _percentiles(times: Mapping[str, Counts], bounds: Sequence[float]) -> list[float | None]:
    found = []
    for kind in KINDS:
        for _, share in QUANTILES:
            value = quantile(share, bounds, times[kind]) if kind in times else None
            found.append(None if value is None else float(f"{value:.3g}"))
    return found


def _shown(rates: Counts | None) -> list[float | None]:
    return [None] * len(RATES) if rates is None else [round(rate, 2) for rate in rates]


def _sum(many: Sequence[Counts]) -> Counts:
    return tuple(map(sum, zip(*many, strict=True)))


def _totals(rows: Sequence[Row]) -> list[float]:
    return [
        (max if name == "oldest_wait" else sum)([0, *(row[name] for row in rows)])
        for name in GAUGES
    ]

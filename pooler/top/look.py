"""What `pooler top` knows of the pooler: asked of its console, one look after the other."""

import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from pooler.ctl import Answer
from pooler.rates import GAUGES, POINT, SOURCES, Rates

Row: TypeAlias = dict[str, Any]
Ask: TypeAlias = Callable[[str], Awaitable[Answer]]

HISTORY: Final = 120
"""Samples that are kept of all pools together, and of each."""


@dataclass(slots=True)
class Look:
    """What was seen at a time."""

    total: Row
    rows: list[Row]
    """Those of the sheet, with what is worked out added."""
    cost: float
    """Seconds until the answers were there."""
    histories: dict[str, deque[float | None]] = field(default_factory=dict)
    """The last values of some figures of all pools together."""


SHOWN: Final = ("working", "waiting", "transactions", "wait_p95")
"""Figures of all pools together that lines are drawn of."""


class Looker:
    """Asks, and keeps what has to be compared."""

    def __init__(self) -> None:
        self._rates = Rates()
        self._totals: dict[str, deque[float | None]] = {
            name: deque(maxlen=HISTORY) for name in SHOWN
        }
        self._trends: dict[tuple[str, str], deque[float | None]] = {}

    async def look(self, ask: Ask, view: str) -> Look:
        """Look at the pools, and at the sheet's view."""
        began = time.monotonic()
        found = {name: _rows(await ask(f"SHOW {name.upper()}")) for name in SOURCES}
        rows = found.get(view)
        if rows is None:
            rows = _rows(await ask(f"SHOW {view.upper()}"))
        now = time.monotonic()
        points = [
            dict(zip(POINT, point, strict=True))
            for point in self._rates.look(now, *(found[name] for name in SOURCES))
        ]
        total, pools = points[0], points[1:]
        for name, values in self._totals.items():
            values.append(total[name])
        trends = {_key(pool): self._trends.get(_key(pool)) for pool in pools}
        self._trends = {key: deque(maxlen=HISTORY) if t is None else t for key, t in trends.items()}
        for pool in pools:
            self._trends[_key(pool)].append(pool["working"])
        if view == "occupancy":
            rows = [self._pool(row, pool) for row, pool in zip(rows, pools, strict=True)]
        return Look(total, [_more(row) for row in rows], now - began, self._totals)

    def _pool(self, row: Row, point: Row) -> Row:
        made = {**point, **row, "trend": list(self._trends[_key(point)])}
        trouble = [name for name in ("paused", "disabled") if row[name]]
        if row["failing_seconds"] is not None:
            trouble.append(str(row["last_error"]))
        return {**made, "trouble": ", ".join(trouble), "use": _share(row)}


def _rows(answer: Answer) -> list[Row]:
    names = answer.names or []
    return [dict(zip(names, row, strict=True)) for row in answer.rows]


def _key(row: Row) -> tuple[str, str]:
    return row["database"], row["user"]


def _share(row: Row) -> float:
    return float(row["working"] / (row["pool_size"] or 1))


def _more(row: Row) -> Row:
    """Add what a sheet shows in one column and the console in two."""
    if "addr" in row:
        waits = row["wait"] + row["wait_us"] / 1e6 if row["state"] == "waiting" else None
        address = row["addr"] if row["addr"] == "unix" else f"{row['addr']}:{row['port']}"
        return {**row, "waits": waits, "address": address}
    if "activity" in row:
        return {**row, "held_by": row["application_name"] or row["client_user"]}
    return row


NOTHING: Final = Look(dict.fromkeys((*POINT, *GAUGES)), [], 0.0)

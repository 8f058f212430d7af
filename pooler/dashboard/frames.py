"""What a viewer of the dashboard is shown each second: points for the charts, and tables.

A table goes out when it differs from the one before, and is cut to what a page can show; all of
it is in the API.
"""

import json
import time
from collections.abc import Callable
from heapq import nlargest
from typing import Any, Final

from pooler import rates
from pooler.admin import views
from pooler.admin.view import Row, Rows, View
from pooler.dashboard.looks import Looks, shown

POOLS: Final = 100
"""Pools with points of their own: those where most waits or works; the others are in the total."""
ROWS: Final = 100
"""Rows of a table."""

TABLES: Final = ("pools", "occupancy", "queries", "pins", "waiters", "errors", "reload", "state")
"""Views that are looked at for each frame: as long as there are servers, not clients."""
SLOW_TABLES: Final = ("statements",)
"""Views that may be long, looked at for one frame of `SLOW`."""
SLOW: Final = 5
NOTABLE: Final = {"statements": ("time", "time_p95", "calls", "wait_time")}
"""Views that are cut to the rows where one of these columns is highest."""


class Frames:
    """Makes frames of the views of one pooler."""

    def __init__(self, looks: Looks, now: Callable[[], float]) -> None:
        self._now = now
        self._looks = looks
        self._rates = rates.Rates()
        self._tables: dict[str, bytes] = {}
        self._frames = 0

    async def frame(self) -> tuple[bytes, bytes]:
        """Return a frame's data, and its sample for charts."""
        sample = await self._sample()
        changed = await self._changed()
        self._frames += 1
        return b'{"sample":%s,"tables":%s}' % (sample, _object(changed)), sample

    def opening(self) -> bytes:
        """Return all tables as they were last."""
        return b'{"tables":%s}' % _object(self._tables)

    def forget(self) -> None:
        """Let go of what the last viewers saw."""
        self._tables.clear()
        self._looks.forget()
        self._frames = 0

    async def _sample(self) -> bytes:
        looks = self._looks
        found = [await looks.dicts(views.VIEWS[name]) for name in rates.SOURCES]
        points = self._rates.look(self._now(), *found)
        total, pools = points[0], points[1:]
        if len(pools) > POOLS:
            pools = sorted(pools, key=_busy, reverse=True)[:POOLS]
        wall = round(time.time(), 3)  # noqa: TID251 - shown to people, compared with nothing
        return _json({"time": wall, "pools": len(points) - 1, "points": [total, *pools]})

    async def _changed(self) -> dict[str, bytes]:
        """Return the tables that are not as they were."""
        changed: dict[str, bytes] = {}
        names = TABLES if self._frames % SLOW else (*TABLES, *SLOW_TABLES)
        for name in names:
            view = views.VIEWS.get(name)
            if view is None:
                continue
            rows = await self._looks.rows(view)
            data = _json(shown(view, _cut(view, rows), len(rows)))
            if self._tables.get(name) != data:
                changed[name] = self._tables[name] = data
        return changed


def _cut(view: View, rows: Rows) -> Rows:
    """Return the rows that a page has room for."""
    columns = NOTABLE.get(view.name)
    if columns is None or len(rows) <= ROWS:
        return rows[:ROWS]
    found: dict[int, Row] = {}
    for name in columns:
        place = view.place(name)
        first = nlargest(ROWS // len(columns), rows, key=lambda row: row[place] or 0)
        found |= {id(row): row for row in first}
    return list(found.values())


def _busy(point: rates.Point) -> tuple[float, ...]:
    values = dict(zip(rates.POINT, point, strict=True))
    return values["waiting"], values["working"], values["transactions"] or 0.0, values["clients"]


def _object(tables: dict[str, bytes]) -> bytes:
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), tables[name]) for name in tables) + b"}"


def _json(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()

"""Views as JSON has them, each made at most once a second however many ask for it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

from pooler.admin.view import Row, Rows, View

Source: TypeAlias = Callable[[str], Awaitable[Rows]]
"""Gives the rows of a view by name, of one process or of several."""

FRESH: Final = 0.9
"""Seconds that a look is good for: frames come once a second, and are of then."""


class WrongQuery(Exception):
    """What was asked for cannot be: there is no such column, or no such number."""


class Looks:
    """What has been looked at lately."""

    def __init__(self, source: Source, now: Callable[[], float]) -> None:
        self._source = source
        self._now = now
        self._rows: dict[str, tuple[float, Rows]] = {}
        self._looking = asyncio.Lock()

    async def rows(self, view: View) -> Rows:
        """Return all rows of a view."""
        async with self._looking:
            at, rows = self._rows.get(view.name, (float("-inf"), []))
            if self._now() - at >= FRESH:
                rows = await self._source(view.name)
                self._rows[view.name] = self._now(), rows
        return rows

    async def dicts(self, view: View) -> list[dict[str, Any]]:
        """Return all rows of a view, as mappings."""
        return view.dicts(await self.rows(view))

    def forget(self) -> None:
        """Let go of what is old by now."""
        self._rows.clear()


def shown(view: View, rows: Iterable[Row], total: int) -> dict[str, Any]:
    """Return a view as it is shown: `total` says how many rows there are in all."""
    return {
        "name": view.name,
        "columns": [{"name": column.name, "type": column.type.value} for column in view.columns],
        "rows": list(rows),
        "total": total,
    }


def selected(view: View, rows: list[Row], query: Mapping[str, str], limit: int) -> dict[str, Any]:
    """Return what a query asks for of a view; WrongQuery.

    `limit` and `offset` count rows, `sort` names a column (`-` before it for falling), `search` is
    a part of any text in a row, every other name is a column that has to have that value.
    """
    names = [column.name for column in view.columns]
    places = {name: place for place, name in enumerate(names)}
    sort, count, offset = "", limit, 0
    for name, value in query.items():
        if name == "limit":
            count = min(_number(name, value), limit)
        elif name == "offset":
            offset = _number(name, value)
        elif name == "sort":
            sort = value
        elif name == "search":
            part = value.lower()
            rows = [row for row in rows if any(part in _text(cell).lower() for cell in row)]
        else:
            place = _place(view, places, name)
            rows = [row for row in rows if _text(row[place]) == value]
    if sort:
        place = _place(view, places, sort.removeprefix("-"))
        rows = sorted(rows, key=lambda row: _order(row[place]), reverse=sort.startswith("-"))
    return shown(view, rows[offset : offset + count], len(rows))


def _place(view: View, places: Mapping[str, int], name: str) -> int:
    if name not in places:
        raise WrongQuery(
            f"The view {view.name} has no column of that name; it has {', '.join(places)}."
        )
    return places[name]


def _number(name: str, value: str) -> int:
    if not value.isdecimal() or len(value) > 9:
        raise WrongQuery(f"{name} is not a number of rows.")
    return int(value)


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _order(value: object) -> tuple[int, Any]:
    """What sorts values of any kind: nothing, numbers, texts."""
    if value is None:
        return 0, 0
    return (1, value) if isinstance(value, int | float) else (2, str(value))

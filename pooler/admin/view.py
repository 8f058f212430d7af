"""What a view is: a name, columns, and a function of the service that gives rows of plain values.

Everything people see of the pooler is such rows, which go over a wire or into JSON as they are:
the console, `pooler ctl`, the dashboard and `pooler top` show them. Where several processes are
one pooler, each gives its rows, and the columns say how the rows become those of one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pooler.service import Service

Value = str | int | float | bool | None
Row = tuple[Value, ...]
Rows = list[Row]


class Type(Enum):
    """The type of a column, by PostgreSQL's name."""

    TEXT = "text"
    INT = "int4"
    BIGINT = "int8"
    NUMERIC = "numeric"
    FLOAT = "float8"
    BOOL = "bool"


class Fold(Enum):
    """How the values of a column become one, where rows of the same key are put together."""

    KEY = "key"
    FIRST = "first"
    SUM = "sum"
    MAX = "max"
    MEAN = "mean"


class Merge(Enum):
    """How the rows of several pools or processes become those of one view."""

    CONCAT = "concat"
    GROUP = "group"
    """Rows of the same key become one."""
    FIRST = "first"
    """All processes have the same rows."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a view."""

    name: str
    type: Type = Type.TEXT
    fold: Fold = Fold.FIRST
    weight: str = ""
    """The column that a mean is weighted by."""


@dataclass(frozen=True, slots=True)
class View:
    """What SHOW name shows."""

    name: str
    help: str
    columns: tuple[Column, ...]
    rows: "Callable[[Service], Iterable[Row]] | None" = field(default=None, repr=False)
    merge: Merge = Merge.CONCAT
    source: str = ""
    """The view that this one is made from, if it has no rows of its own."""
    derive: Callable[[Rows], Iterable[Row]] | None = field(default=None, repr=False)
    """Makes its rows from the source's, once those are merged."""

    def place(self, name: str) -> int:
        """Return which column has this name."""
        return next(i for i, column in enumerate(self.columns) if column.name == name)

    def dicts(self, rows: Iterable[Row]) -> list[dict[str, Value]]:
        """Return rows as mappings from name to value, for JSON."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in rows]


def merged(view: View, parts: Iterable[Iterable[Row]]) -> Rows:
    """Return the rows of several processes as those of one."""
    if view.merge is Merge.FIRST:
        return list(next(iter(parts), ()))
    rows = [row for part in parts for row in part]
    return _grouped(view, rows) if view.merge is Merge.GROUP else rows


def _grouped(view: View, rows: Rows) -> Rows:
    keys = [i for i, column in enumerate(view.columns) if column.fold is Fold.KEY]
    groups: dict[Row, Rows] = {}
    for row in rows:
        groups.setdefault(tuple(row[i] for i in keys), []).append(row)
    return [group[0] if len(group) == 1 else _one(view, group) for group in groups.values()]


def _one(view: View, group: Rows) -> Row:
    return tuple(_fold(view, place, group) for place in range(len(view.columns)))


def _fold(view: View, place: int, group: Rows) -> Value:
    column = view.columns[place]
    values = [row[place] for row in group]
    if column.fold in (Fold.KEY, Fold.FIRST):
        return next((value for value in values if value is not None), None)
    numbers = [_number(value) for value in values]
    if column.fold is Fold.SUM:
        return sum(numbers)
    if column.fold is Fold.MAX:
        return max(numbers)
    weight = view.place(column.weight)
    weights = [_number(row[weight]) for row in group]
    total = sum(weights)
    mean = sum(n * w for n, w in zip(numbers, weights, strict=True)) / total if total else 0
    return mean if column.type is Type.FLOAT else round(mean)


def _number(value: Value) -> float | int:
    return value if isinstance(value, int | float) else 0


# -- shorthands for tables of columns


def text(*names: str) -> tuple[Column, ...]:
    """Return columns of text."""
    return tuple(Column(name) for name in names)


def keys(*names: str) -> tuple[Column, ...]:
    """Return columns of text that rows are put together by."""
    return tuple(Column(name, Type.TEXT, Fold.KEY) for name in names)


def sums(*names: str) -> tuple[Column, ...]:
    """Return columns of small integers that add up."""
    return tuple(Column(name, Type.INT, Fold.SUM) for name in names)


def ints(*names: str) -> tuple[Column, ...]:
    """Return columns of small integers."""
    return tuple(Column(name, Type.INT) for name in names)


def bigints(*names: str) -> tuple[Column, ...]:
    """Return columns of integers."""
    return tuple(Column(name, Type.BIGINT) for name in names)


def floats(*names: str) -> tuple[Column, ...]:
    """Return columns of seconds and the like."""
    return tuple(Column(name, Type.FLOAT) for name in names)


MICROSECONDS: Final = 1_000_000


def micros(seconds: float) -> int:
    """Return seconds in microseconds, as PgBouncer counts times."""
    return round(seconds * MICROSECONDS)

"""The table of all views, and the way to their rows.

One process: `rows(service, "pools")`. Several: each gives `own_rows(service, name)`, which are
plain values, and `combined(name, [rows of one, rows of another, ...])` is the view of all.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pooler.admin import (
    errors,
    histograms,
    peers,
    pools,
    process,
    settings,
    sockets,
    statements,
    stats,
)
from pooler.admin.view import Row, Rows, View, merged

if TYPE_CHECKING:
    from pooler.service import Service

VIEWS: Final[dict[str, View]] = {
    view.name: view
    for view in (
        *pools.VIEWS,
        *sockets.VIEWS,
        *stats.VIEWS,
        histograms.VIEW,
        settings.CONFIG,
        settings.RELOAD,
        errors.VIEW,
        statements.VIEW,
        *process.VIEWS,
        peers.VIEW,
    )
}


def own_rows(service: "Service", name: str) -> Rows:
    """Return what one process adds to a view: rows of its source, not yet those that are shown."""
    view = _source(name)
    assert view.rows is not None
    return list(view.rows(service))


def combined(name: str, parts: Iterable[Iterable[Row]]) -> Rows:
    """Return the rows that are shown, made of what each process adds."""
    view = VIEWS[name]
    rows = merged(_source(name), parts)
    return rows if view.derive is None else list(view.derive(rows))


def rows(service: "Service", name: str) -> Rows:
    """Return the rows of a view, where there is one process."""
    return combined(name, [own_rows(service, name)])


def _source(name: str) -> View:
    view = VIEWS[name]
    return VIEWS[view.source] if view.source else view

"""The names of prometheus-community's pgbouncer_exporter, so that its dashboards live on.

With `metrics.pgbouncer_names`. As the exporter does, it reads the console's views; a client's
`application_name`, which has no bound, is left empty, and so many rows of a view are shown as pools
have metrics of their own.
"""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Final

from pooler.admin.view import Value
from pooler.admin.views import VIEWS
from pooler.metrics.families import Family
from pooler.metrics.snapshot import Snapshot
from pooler.metrics.text import escaped, head

if TYPE_CHECKING:
    from pooler.service import Service

_SECONDS: Final = 1e-6
"""Views have microseconds."""


def _family(view: str, column: str, name: str, text: str) -> Family:
    counter = name.endswith("_total")
    return Family(f"pgbouncer_{name}", "counter" if counter else "gauge", text, f"{view}.{column}")


_POOL_COLUMNS: Final = {
    "cl_active": ("client_active", "Clients linked to a server, or idle"),
    "cl_active_cancel_req": ("client_active_cancel", "Cancel requests on their way to a server"),
    "cl_waiting": ("client_waiting", "Clients waiting for a server"),
    "cl_waiting_cancel_req": ("client_waiting_cancel", "Cancel requests that wait"),
    "sv_active": ("server_active", "Servers linked to a client"),
    "sv_active_cancel": ("server_active_cancel", "Servers forwarding a cancel request"),
    "sv_being_canceled": ("server_being_canceled", "Servers with a cancel under way"),
    "sv_idle": ("server_idle", "Servers ready for a client"),
    "sv_used": ("server_used", "Servers idle for long"),
    "sv_tested": ("server_testing", "Servers being checked or reset"),
    "sv_login": ("server_login", "Servers logging in"),
}
_TOTALS: Final = {
    "query_count": ("queries_pooled", "Queries pooled"),
    "query_time": ("queries_duration_seconds", "Time spent by servers on queries"),
    "bytes_received": ("received_bytes", "Bytes received from clients"),
    "bytes_sent": ("sent_bytes", "Bytes sent to clients"),
    "wait_time": ("client_wait_seconds", "Time spent by clients waiting for a server"),
    "xact_count": ("sql_transactions_pooled", "Transactions pooled"),
    "xact_time": ("server_in_transaction_seconds", "Time spent by servers in transactions"),
    "client_parse_count": ("client_parses", "Prepared statements created by clients"),
    "server_parse_count": ("server_parses", "Prepared statements created on servers"),
    "bind_count": ("binds", "Prepared statements readied for execution"),
    "server_assignment_count": ("server_assignments", "Times a client was given a server"),
}
_DATABASES: Final = {
    "pool_size": ("pool_size", "Server connections allowed"),
    "reserve_pool_size": ("reserve_pool", "Further server connections allowed"),
    "max_connections": ("max_connections", "Server connections allowed for the database"),
    "current_connections": ("current_connections", "Server connections of the database"),
    "paused": ("paused", "1 while the database is paused"),
    "disabled": ("disabled", "1 while the database is disabled"),
}
_LISTS: Final = {
    "databases": "databases",
    "users": "users",
    "pools": "pools",
    "free_clients": "free_clients",
    "used_clients": "used_clients",
    "login_clients": "login_clients",
    "free_servers": "free_servers",
    "used_servers": "used_servers",
    "dns_names": "cached_dns_names",
    "dns_zones": "cached_dns_zones",
    "dns_queries": "in_flight_dns_queries",
}
_LABELS: Final = {
    "pools": {"database": "database", "user": "user"},
    "stats_totals": {"database": "database"},
    "databases": {
        **{"name": "name", "host": "host", "port": "port", "database": "database"},
        **{"force_user": "force_user", "pool_mode": "pool_mode"},
    },
}
"""Of a view, labels and the columns they are from."""

UP: Final = _family("", "", "up", "1: the pooler answers")
VERSION: Final = _family("", "", "version_info", "The PgBouncer whose console ours is like")
CLIENTS: Final = _family("", "", "client_connections", "Clients by database, user and state")
LIMIT: Final = _family(
    "", "", "config_max_client_connections", "Clients allowed (max_client_connections)"
)
USER_LIMIT: Final = _family(
    *("", "", "config_max_user_connections"),
    "Server connections of each user allowed (max_user_server_connections)",
)
BY_ROW: Final = (
    *(
        _family("pools", column, f"pools_{name}_connections", text)
        for column, (name, text) in _POOL_COLUMNS.items()
    ),
    _family("pools", "maxwait", "pools_client_maxwait_seconds", "Age of the oldest waiting client"),
    *(
        _family("stats_totals", column, f"stats_totals_{name}_total", text)
        for column, (name, text) in _TOTALS.items()
    ),
    *(
        _family("databases", column, f"databases_{name}", text)
        for column, (name, text) in _DATABASES.items()
    ),
)
OF_LISTS: Final = tuple(
    _family("lists", item, name, f"Count of {item} in SHOW LISTS") for item, name in _LISTS.items()
)
ALL: Final = (UP, VERSION, CLIENTS, LIMIT, USER_LIMIT, *BY_ROW, *OF_LISTS)


async def pieces(service: "Service", found: Snapshot) -> AsyncIterator[str]:
    """Yield the text of all of them."""
    limits = service.config.limits
    yield head(UP) + f"{UP.name} 1\n"
    for row in await _rows(service, "version"):
        yield head(VERSION) + f'{VERSION.name}{{version="{escaped(str(row["version"]))}"}} 1\n'
    yield head(CLIENTS) + "".join(_clients(found))
    yield head(LIMIT) + f"{LIMIT.name} {limits.max_client_connections}\n"
    yield head(USER_LIMIT) + f"{USER_LIMIT.name} {limits.max_user_server_connections}\n"
    items = {row["list"]: row["items"] for row in await _rows(service, "lists")}
    for family in OF_LISTS:
        yield head(family) + f"{family.name} {items.get(family.key.partition('.')[2], 0)}\n"
    most = service.config.metrics.pool_limit
    rows = {view: (await _rows(service, view))[:most] for view in _LABELS}
    for family in BY_ROW:
        view, _, column = family.key.partition(".")
        scale = _SECONDS if "_seconds_total" in family.name else 1
        yield head(family) + "".join(
            f"{family.name}{{{_labels(view, row)}}} {_number(row[column], scale)}\n"
            for row in rows[view]
        )


async def _rows(service: "Service", view: str) -> list[dict[str, Value]]:
    return VIEWS[view].dicts(await service.rows(view))


def _clients(found: Snapshot) -> Iterator[str]:
    for row in found["pools"]:
        labels = f'database="{escaped(row["database"])}",user="{escaped(row["user"])}"'
        for state, count in row["clients"].items():
            yield f'{CLIENTS.name}{{{labels},application_name="",state="{state}"}} {count}\n'


def _labels(view: str, row: dict[str, Value]) -> str:
    return ",".join(
        f'{label}="{escaped("" if row[column] is None else str(row[column]))}"'
        for label, column in _LABELS[view].items()
    )


def _number(value: Value, scale: float) -> float | int:
    if not isinstance(value, int | float):
        return 0
    return value if scale == 1 else value * scale

"""A pooler's figures as plain data, which JSON can carry from one process to another.

    {"version": ..., "build": ..., "values": {name: value},
     "pools": [{"database": ..., "user": ..., name: value}]}

A value is a number, {label: number} (labels of several parts have a slash between them) or the
list of a histogram's buckets. A row is of a (database, user), so replication connections count
with the others; pools of the pooler's own are left out. Clients choose names: so many rows, then
one of the rest.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import pooler
from pooler.core.pool import Pool
from pooler.core.states import CLIENT_STATES, SERVER_STATES, ClientState, ServerState
from pooler.metrics.families import POOLS
from pooler.metrics.process import usage

if TYPE_CHECKING:
    from pooler.service import Service

Values = dict[str, Any]
Snapshot = dict[str, Any]

OTHER: Final = "other"
"""Database and user of the row of the rest."""
_REST: Final = (OTHER, OTHER)

TURN: Final = 0.002
"""Seconds of work on a scrape between two looks at what clients and servers have sent."""

_HIGHEST: Final = frozenset(
    (
        *("oldest_wait", "oldest_pin", "pool_size", "client_limit", "server_limit"),
        *("reload_failed", "draining", "reloaded_at", "certificate_expiry"),
    )
)
"""What several processes have in common, or each for itself: the highest counts. The rest is
added up."""
_LOWEST: Final = frozenset(("up", "process_start_time_seconds", "process_max_fds"))

_HISTOGRAMS: Final = tuple(family.key for family in POOLS if family.kind == "histogram")
_COUNTED: Final = tuple(
    family.sum or family.key
    for family in POOLS
    if family.kind == "histogram" or (family.kind == "counter" and not family.labels)
)


class Turns:
    """Work in turns: others have theirs whenever one has lasted long enough."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def over(self) -> None:
        """Let others work, if it is time."""
        if time.perf_counter() - self._began >= TURN:
            await asyncio.sleep(0)
            self._began = time.perf_counter()


async def snapshot(service: "Service", limit: int) -> Snapshot:
    """Return the figures of this process, with rows of at most so many (database, user)."""
    turns = Turns()
    rows: dict[tuple[str, str], Values] = {}
    for pool in list(service.router.pools.values()):
        if not pool.internal:
            _put(rows, _row(pool), limit)
            await turns.over()
    return {
        "version": pooler.__version__,
        "build": pooler.build_kind(),
        "values": _values(service),
        "pools": list(rows.values()),
    }


async def merge(snapshots: Iterable[Snapshot], limit: int) -> Snapshot:
    """Return what several processes are together."""
    turns = Turns()
    first, *others = snapshots
    values = dict(first["values"])
    rows: dict[tuple[str, str], Values] = {}
    for row in first["pools"]:
        _put(rows, row, limit)
    for other in others:
        _add(values, other["values"], together=True)
        for row in other["pools"]:
            _put(rows, row, limit, together=True)
            await turns.over()
    return {**first, "values": values, "pools": list(rows.values())}


def _put(
    rows: dict[tuple[str, str], Values], row: Values, limit: int, *, together: bool = False
) -> None:
    """Put a row where it belongs."""
    key = (row["database"], row["user"])
    if key == _REST or (key not in rows and len(rows) - (_REST in rows) >= limit):
        key = _REST
        row = {**row, "database": OTHER, "user": OTHER}
        together = False
    if key in rows:
        _add(rows[key], row, together=together)
    else:
        rows[key] = row


def _add(total: Values, more: Values, *, together: bool) -> None:
    """Add values in place; `together`: of one and the same thing in another process."""
    for name, value in more.items():
        before = total.get(name)
        if before is None:
            total[name] = value
        elif isinstance(value, str):
            continue
        elif isinstance(value, dict):
            total[name] = before | {key: before.get(key, 0) + value[key] for key in value}
        elif isinstance(value, list):
            total[name] = [one + other for one, other in zip(before, value, strict=True)]
        elif name in _LOWEST:
            total[name] = min(before, value)
        elif name in _HIGHEST and (together or name.startswith("oldest")):
            total[name] = max(before, value)
        else:
            total[name] = before + value


def _values(service: "Service") -> Values:
    """Return what belongs to no pool."""
    router, tally = service.router, service.tally
    clients = service.config.certificates.clients
    return {
        "clients": router.clients.count,
        "client_limit": router.clients.limit,
        "logging_in": service.logging_in,
        "servers": router.servers.count,
        "server_limit": router.servers.limit,
        "draining": int(router.ending is not None),
        "refused": dict(tally.refused),
        "opened": dict(tally.opened),
        "clients_closed": dict(tally.clients_closed),
        "servers_closed": dict(tally.servers_closed),
        "unknown_cancels": tally.unknown_cancels,
        "reloads": dict(tally.reloads),
        "reload_failed": int(tally.reload_failed),
        "reloaded_at": tally.reloaded_at,
        "certificate_expiry": clients.expires if clients is not None else 0.0,
        **usage(service.name),
    }


_CLIENTS: Final = tuple(state for state in CLIENT_STATES if state is not ClientState.CLOSED)
_SERVERS: Final = tuple(state for state in SERVER_STATES if state is not ServerState.CLOSED)


def _row(pool: Pool) -> Values:
    """Return the figures of one pool."""
    counters = pool.counters
    clients = dict.fromkeys(_CLIENTS, 0)
    for client in pool.clients:
        clients[client.state] += 1
    servers = dict.fromkeys(_SERVERS, 0)
    prepared = 0
    for server in pool.servers():
        servers[server.state] += 1
        prepared += len(server.prepared)
    row: Values = {
        "database": pool.database,
        "user": pool.user,
        "clients": {state.value: count for state, count in clients.items()},
        "servers": {state.value: count for state, count in servers.items()},
        "pool_size": pool.settings.pool_size,
        "in_use": pool.in_use + pool.supply.dialing,
        "up": int(not pool.supply.failing_since),
        "oldest_wait": pool.oldest_wait(),
        "oldest_pin": 0.0,
        "prepared": prepared,
        "pinned": {},
        "pins": counters.pins.copy(),
        "errors": {f"{origin}/{name}": n for (origin, name), n in counters.errors_by.items()},
    }
    pinned = dict.fromkeys(counters.pins, 0)
    for pin in pool.pins():
        for reason in pin.reasons:
            pinned[reason] += 1
        row["oldest_pin"] = max(row["oldest_pin"], pool.edge.now() - pin.since)
    row["pinned"] = pinned
    row["servers"]["login"] = pool.supply.dialing
    for name in _COUNTED:
        row[name] = getattr(counters, name)
    for name in _HISTOGRAMS:
        row[name] = getattr(counters, name).copy()
    return row

"""What is exported to Prometheus, collected from the router's plain counters at scrape time."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import pooler
from pooler.core.client import ClientState
from pooler.core.pool import Pool
from pooler.core.server import ServerState

if TYPE_CHECKING:
    from pooler.service import Service

_COUNTERS: Final = (
    ("assignments", "assignments", "Times a client was given a server connection"),
    ("queries", "queries", "Queries answered (simple queries, Syncs and function calls)"),
    ("transactions", "transactions", "Transactions ended"),
    ("received", "received_bytes", "Bytes received from clients"),
    ("sent", "sent_bytes", "Bytes sent to clients"),
    ("errors", "server_errors", "ErrorResponses of servers"),
    ("wait_time", "wait_seconds", "Time that clients waited for a server connection"),
    ("query_time", "query_seconds", "Time that servers worked on queries"),
    ("transaction_time", "transaction_seconds", "Time that server connections were in use"),
    ("connects", "connects", "Server connections opened"),
    ("connect_failures", "connect_failures", "Attempts to open a server connection that failed"),
    ("cancels", "cancels", "Cancel requests sent to servers"),
    ("timeouts", "timeouts", "Time limits exceeded: waiting, query, transaction, pin"),
    ("questions", "state_questions", "Questions to servers about what their session holds"),
    ("changes", "state_changes", "Server connections set as their next client wants"),
    ("scans", "catalog_scans", "Looks for functions that hide session state"),
    ("leaks", "state_leaks", "Session state found that nothing had hinted at"),
    ("refusals", "refused_statements", "Statements refused by a policy of session_state"),
)

POOL_LIMIT: Final = 1000
"""Pools shown by name; what the others count goes under `other`, since clients choose names."""

_OTHER: Final = ("other", "other")


class PoolCollector(Collector):
    """The pools, the service and the build."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        """Yield every metric family."""
        yield from self._build()
        pools = list(self._service.router.pools.values())
        yield from _counters(pools)
        yield from _gauges(pools)
        yield from _pins(pools)

    def _build(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "pooler_build_info", "Version and kind of build", labels=["version", "build"]
        )
        build.add_metric([pooler.__version__, pooler.build_kind()], 1)
        yield build
        router = self._service.router
        yield GaugeMetricFamily(
            "pooler_client_connections", "Clients logged in", value=router.clients.count
        )
        yield GaugeMetricFamily(
            "pooler_client_connections_limit",
            "Clients allowed, 0 for no limit",
            value=router.clients.limit,
        )
        yield GaugeMetricFamily(
            "pooler_server_connections", "Server connections", value=router.servers.count
        )
        yield CounterMetricFamily(
            "pooler_refused_clients",
            "Connections that did not become clients",
            value=self._service.refusals,
        )
        reloads = CounterMetricFamily(
            "pooler_reloads", "Reloads of the configuration", labels=["result"]
        )
        reloads.add_metric(["ok"], self._service.reloads)
        reloads.add_metric(["failed"], self._service.failed_reloads)
        yield reloads


def registry(service: "Service") -> CollectorRegistry:
    """Return a registry of its own, so that several services can live in one process."""
    result = CollectorRegistry()
    result.register(PoolCollector(service))
    ProcessCollector(registry=result)
    PlatformCollector(registry=result)
    GCCollector(registry=result)
    return result


def _labels(place: int, pool: Pool) -> tuple[str, str]:
    return (pool.database, pool.user) if place < POOL_LIMIT else _OTHER


def _counters(pools: list[Pool]) -> Iterator[Metric]:
    for attribute, name, text in _COUNTERS:
        family = CounterMetricFamily(f"pooler_{name}", text, labels=["database", "user"])
        sums: dict[tuple[str, str], float] = {}
        for place, pool in enumerate(pools):
            labels = _labels(place, pool)
            sums[labels] = sums.get(labels, 0) + getattr(pool.counters, attribute)
        for labels, value in sums.items():
            family.add_metric(labels, value)
        yield family


def _pins(pools: list[Pool]) -> Iterator[Metric]:
    names = ["database", "user", "reason"]
    now = GaugeMetricFamily(
        "pooler_pinned_servers", "Server connections kept by their client", labels=names
    )
    total = CounterMetricFamily(
        "pooler_pins", "Times a client came to keep its server connection", labels=names
    )
    now_sums: dict[tuple[str, ...], int] = {}
    total_sums: dict[tuple[str, ...], int] = {}
    for place, pool in enumerate(pools):
        labels = _labels(place, pool)
        for reason, count in pool.counters.pins.items():
            now_sums.setdefault((*labels, reason), 0)
            total_sums[*labels, reason] = total_sums.get((*labels, reason), 0) + count
        for pin in pool.pins():
            for reason in pin.reasons:
                now_sums[*labels, reason] += 1
    for key, count in now_sums.items():
        now.add_metric(key, count)
    for key, count in total_sums.items():
        total.add_metric(key, count)
    yield from (now, total)


def _gauges(pools: list[Pool]) -> Iterator[Metric]:
    names = ["database", "user"]
    clients = GaugeMetricFamily("pooler_clients", "Clients by state", labels=[*names, "state"])
    servers = GaugeMetricFamily("pooler_servers", "Servers by state", labels=[*names, "state"])
    size = GaugeMetricFamily("pooler_pool_size", "Server connections allowed", labels=names)
    oldest = GaugeMetricFamily(
        "pooler_oldest_wait_seconds", "Time the longest waiting client has waited", labels=names
    )
    client_sums: dict[tuple[str, ...], int] = {}
    server_sums: dict[tuple[str, ...], int] = {}
    size_sums: dict[tuple[str, str], int] = {}
    longest: dict[tuple[str, str], float] = {}
    for place, pool in enumerate(pools):
        labels = _labels(place, pool)
        for client_state in (ClientState.IDLE, ClientState.WAITING, ClientState.ACTIVE):
            client_sums.setdefault((*labels, client_state.value), 0)
        for client in pool.clients:
            where = (*labels, client.state.value)
            client_sums[where] = client_sums.get(where, 0) + 1
        for server_state in (ServerState.IDLE, ServerState.ACTIVE):
            server_sums.setdefault((*labels, server_state.value), 0)
        for server in pool.servers():
            state = (*labels, server.state.value)
            server_sums[state] = server_sums.get(state, 0) + 1
        connecting = (*labels, "login")
        server_sums[connecting] = server_sums.get(connecting, 0) + pool.supply.dialing
        size_sums[labels] = size_sums.get(labels, 0) + pool.settings.pool_size
        longest[labels] = max(longest.get(labels, 0.0), pool.oldest_wait())
    for key, count in client_sums.items():
        clients.add_metric(key, count)
    for key, count in server_sums.items():
        servers.add_metric(key, count)
    for labels, count in size_sums.items():
        size.add_metric(labels, count)
    for labels, seconds in longest.items():
        oldest.add_metric(labels, seconds)
    yield from (clients, servers, size, oldest)

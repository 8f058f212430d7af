"""Views: their columns and PgBouncer's, rows of plain values, and the rows of several processes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
import yaml

from pooler.admin import view as v
from pooler.admin.stats import MEASURES, Periods
from pooler.admin.view import Column, Fold, Merge, Type, View, merged
from pooler.admin.views import VIEWS, combined, own_rows, rows
from pooler.config import load
from pooler.service import Service
from tests.support.pooler import Config
from tests.support.postgres import PASSWORDS, Postgres

_STATS = (
    "server_assignment_count xact_count query_count {received} {sent} xact_time query_time"
    " wait_time {p}client_parse_count {p}server_parse_count {p}bind_count {p}client_login_count"
)


def _stats(template: str, prefix: str, received: str, sent: str) -> list[str]:
    names = template.format(received=received, sent=sent, p="").split()
    return [prefix + name for name in names]


_SOCKETS = (
    "type user database replication state addr port local_addr local_port connect_time"
    " request_time wait wait_us close_needed ptr link remote_pid tls application_name"
    " prepared_statements id"
)
_BUFFERS = " recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail"
_BYTES = ("bytes_received", "bytes_sent")

PGBOUNCER = {
    "pools": (
        "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active"
        " sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us"
        " pool_mode load_balance_hosts"
    ),
    "stats": " ".join(
        [
            "database",
            *_stats(_STATS, "total_", "received", "sent"),
            *_stats(_STATS, "avg_", "recv", "sent"),
        ]
    ),
    "stats_totals": " ".join(["database", *_stats(_STATS, "", *_BYTES)]),
    "stats_averages": "database " + _STATS.format(received=_BYTES[0], sent=_BYTES[1], p="avg_"),
    "totals": "name value",
    "clients": _SOCKETS,
    "servers": _SOCKETS,
    "sockets": _SOCKETS + _BUFFERS,
    "active_sockets": _SOCKETS + _BUFFERS,
    "databases": (
        "name host port database force_user pool_size min_pool_size reserve_pool_size"
        " server_lifetime pool_mode load_balance_hosts max_connections current_connections"
        " max_client_connections current_client_connections paused disabled"
    ),
    "lists": "list items",
    "config": "key value default changeable",
    "users": (
        "name pool_size reserve_pool_size pool_mode max_user_connections current_connections"
        " max_user_client_connections current_client_connections"
    ),
    "mem": "name size used free memtotal",
    "state": "key value",
    "dns_hosts": "hostname ttl addrs",
    "dns_zones": "zonename serial count",
    "version": "version",
    "peers": "peer_id host port pool_size",
    "peer_pools": ("peer_id cl_active_cancel_req cl_waiting_cancel_req sv_active_cancel sv_login"),
}
"""Columns of PgBouncer 1.25, from its source."""


@pytest.mark.parametrize("name", PGBOUNCER)
def test_columns_are_pgbouncers(name: str) -> None:
    assert [column.name for column in VIEWS[name].columns] == PGBOUNCER[name].split()


# Rows of a service that runs.


@asynccontextmanager
async def serving(config: Config, folder: Path) -> AsyncIterator[Service]:
    """A service on this loop, until the block is left."""
    path = folder / "pooler.yaml"
    path.write_text(yaml.safe_dump(config))
    loaded = load(str(path), environ={})
    service = Service(lambda overlay: loaded, loaded)
    task = asyncio.create_task(service.run())
    async with asyncio.timeout(15):
        while not service.listening:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    try:
        yield service
    finally:
        service.stop()
        await asyncio.wait_for(task, 15)


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_rows_of_a_service(default_config: Config, tmp_path: Path, postgres: Postgres) -> None:
    """A client in a transaction, one pinned, one that waits for the second server."""

    async def connect(service: Service, name: str) -> psycopg.AsyncConnection[tuple[object, ...]]:
        port = service.listening[0].rpartition(":")[2]
        return await psycopg.AsyncConnection.connect(
            f"postgresql://app:{PASSWORDS['app']}@127.0.0.1:{port}/app",
            autocommit=True,
            application_name=name,
        )

    async def look() -> None:
        default_config["databases"]["*"]["pool_size"] = 2
        async with serving(default_config, tmp_path) as service:
            busy, pinned, waiting = [
                await connect(service, name) for name in ("busy", "pinned", "waiting")
            ]
            await pinned.execute("SELECT pg_advisory_lock(4711)")
            await busy.execute("BEGIN")
            pool = next(iter(service.router.pools.values()))
            await eventually(lambda: bool(list(pool.pins())))
            task = asyncio.create_task(waiting.execute("SELECT 1"))
            await eventually(pool.someone_waits)
            found = {name: VIEWS[name].dicts(rows(service, name)) for name in VIEWS}
            for name, view in VIEWS.items():
                shown = rows(service, name)
                assert json.loads(json.dumps(shown)) == [list(row) for row in shown], name
                assert all(len(row) == len(view.columns) for row in shown), name
            await busy.execute("ROLLBACK")
            await task
            for client in (busy, pinned, waiting):
                await client.close()
        (pools,) = found["pools"]
        assert (pools["database"], pools["user"]) == ("app", "app")
        assert (pools["cl_active"], pools["cl_waiting"], pools["sv_active"]) == (2, 1, 2)
        assert pools["pool_mode"] == "transaction"
        states = {c["application_name"]: c["state"] for c in found["clients"]}
        assert states == {"busy": "active", "pinned": "active", "waiting": "waiting"}
        links = {c["link"] for c in found["clients"] if c["link"]}
        assert links == {s["ptr"] for s in found["servers"]}
        pids = {row[0] for row in postgres.sql("SELECT pid FROM pg_stat_activity")}
        assert {s["remote_pid"] for s in found["servers"]}.isdisjoint(pids)  # the service is gone
        (waiter,) = found["waiters"]
        assert waiter["application_name"] == "waiting"
        assert "pool_size" in str(waiter["waits_for"])
        (pin,) = found["pins"]
        assert (pin["reasons"], pin["statement"]) == ("locks", "SELECT pg_advisory_lock(?)")
        assert {q["activity"]: q["query"] for q in found["queries"]} == {
            "idle in transaction": "BEGIN",
            "pinned": None,
        }
        (database,) = found["databases"]
        assert (database["name"], database["pool_size"]) == ("app", 2)
        assert database["current_connections"] == 2
        assert database["current_client_connections"] == 3
        config = {row["key"]: row["value"] for row in found["config"]}
        assert config["max_client_conn"] == config["limits.max_client_connections"] == "1000"
        lists = {row["list"]: row["items"] for row in found["lists"]}
        assert (lists["pools"], lists["used_clients"], lists["used_servers"]) == (1, 3, 2)
        (stats,) = found["stats"]
        assert stats["total_client_login_count"] == 3
        totals = {row["name"]: row["value"] for row in found["totals"]}
        assert totals["total_query_count"] == stats["total_query_count"]

    asyncio.run(look())


# Several processes.


def test_rows_of_several_processes() -> None:
    """Keys are found, sums add up, means are weighted, the largest is the largest."""
    view = View(
        "x",
        "",
        (
            *v.keys("k"),
            *v.text("where"),
            *v.sums("n"),
            Column("longest", Type.INT, Fold.MAX),
            Column("mean", Type.NUMERIC, Fold.MEAN, "n"),
        ),
        merge=Merge.GROUP,
    )
    one: v.Rows = [("a", None, 1, 5, 10), ("b", "here", 2, 1, 7)]
    two: v.Rows = [("a", "there", 3, 2, 30)]
    assert merged(view, [one, two]) == [("a", "there", 4, 5, 25), ("b", "here", 2, 1, 7)]


def test_totals_of_several_processes() -> None:
    """Average times are per transaction, whichever process ran it."""
    width = len(MEASURES)

    def stats(queries: int, per_second: int, microseconds: int) -> v.Row:
        totals, averages = [0] * width, [0] * width
        totals[2], averages[2], averages[6] = queries, per_second, microseconds
        return ("app", *totals, *averages)

    parts = [[stats(100, 10, 1000)], [stats(300, 30, 2000)]]
    found = {row[0]: row[1] for row in combined("totals", parts)}
    assert found["total_query_count"] == 400
    assert found["avg_query_count"] == 40
    assert found["avg_query_time"] == 1750


def test_a_view_of_several_processes_is_made_of_plain_rows(
    default_config: Config, tmp_path: Path
) -> None:
    """What a process sends is JSON, and becomes the view somewhere else."""

    async def look() -> None:
        async with serving(default_config, tmp_path) as service:
            for name in VIEWS:
                part = json.loads(json.dumps(own_rows(service, name)))
                both = combined(name, [map(tuple, part), map(tuple, part)])
                assert len(both) >= len(rows(service, name))

    asyncio.run(look())


# Averages.


class _Counters:
    def __init__(self) -> None:
        self.assignments = self.transactions = self.queries = self.received = self.sent = 0
        self.transaction_time = self.query_time = self.wait_time = 0.0
        self.client_parses = self.server_parses = self.binds = self.logins = 0


class _Pool:
    def __init__(self) -> None:
        self.counters = _Counters()


def test_averages_are_of_the_last_one_to_two_periods() -> None:
    pool = _Pool()
    periods = Periods(0.0)
    counters = pool.counters

    def tick(now: float) -> None:
        periods.tick(now, 60.0, [pool])  # type: ignore[list-item]

    def averages(now: float) -> dict[str, float]:
        found = periods.averages(pool, now)  # type: ignore[arg-type]
        return {measure.average: value for measure, value in zip(MEASURES, found, strict=True)}

    counters.queries, counters.query_time = 600, 6.0
    tick(59.0)
    assert averages(60.0)["avg_query_count"] == 10
    assert averages(60.0)["avg_query_time"] == 10_000
    tick(60.0)
    tick(120.0)
    assert averages(180.0)["avg_query_count"] == 0  # nothing since the period before began
    counters.queries += 120
    assert averages(180.0)["avg_query_count"] == 1
    assert averages(180.0)["avg_query_time"] == 0

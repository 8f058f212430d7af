"""Views of pools, databases, users and how many there are of everything.

A pool is a (database, server user). Pools of the same name for different purposes (replication,
auth_query) are shown as one.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pooler.admin.view import (
    MICROSECONDS,
    Column,
    Fold,
    Merge,
    Row,
    Rows,
    Type,
    View,
    ints,
    keys,
    micros,
    sums,
    text,
)
from pooler.config.config import FALLBACK
from pooler.config.model import Database, User
from pooler.config.units import split_address
from pooler.core.pool import Pool, is_waiting
from pooler.core.states import SERVER_STATES, ClientState, ServerState

if TYPE_CHECKING:
    from pooler.service import Service

NAME: Final = "pgbouncer"
"""What the console is called as a database and as a user."""
LONGEST: Final = Column("longest", Type.BIGINT, Fold.MAX)
"""The longest wait in microseconds, which PgBouncer has in two columns."""


def _pools(service: "Service") -> Iterator[Row]:
    for pool in list(service.router.pools.values()):
        states = dict.fromkeys(SERVER_STATES, 0)
        cancels = canceled = 0
        for server in pool.servers():
            cancels += server.cancels
            if server.cancels and server.client is None:
                canceled += 1
            else:
                states[server.state] += 1
        waiting = idle = 0
        for client in pool.clients:
            if not client.internal:
                waits = client.state in (ClientState.WAITING, ClientState.GREETING)
                waiting += waits
                idle += not waits
        longest = micros(pool.oldest_wait())
        unready = (ServerState.PREPARING, ServerState.ASKING, ServerState.TIDYING)
        yield (
            pool.database,
            pool.user,
            idle,
            waiting,
            cancels,
            0,
            states[ServerState.ACTIVE],
            cancels,
            canceled,
            states[ServerState.IDLE],
            0,
            sum(states[state] for state in unready),
            pool.supply.dialing,
            longest,
            _mode(service, pool),
            _balance(pool),
        )
    if service.console.sessions:
        yield _console_pool(service)


def _console_pool(service: "Service") -> Row:
    """The console's sessions, as PgBouncer shows its own."""
    return (NAME, NAME, len(service.console.sessions), *[0] * 11, "statement", None)


def _mode(service: "Service", pool: Pool) -> str:
    route = service.config.resolve(pool.database, pool.user)
    return (route.session.pool_mode if route else service.config.defaults.pool_mode).value


def _balance(pool: Pool) -> str | None:
    target = pool.target
    if len(target.hosts) < 2:
        return None
    return "round-robin" if target.load_balance_hosts else "disable"


def _in_two_columns(rows: Rows) -> Iterator[Row]:
    for row in rows:
        longest = row[13]
        assert isinstance(longest, int)
        yield (*row[:13], *divmod(longest, MICROSECONDS), *row[14:])


_POOL: Final = (
    *keys("database", "user"),
    *sums("cl_active", "cl_waiting", "cl_active_cancel_req", "cl_waiting_cancel_req"),
    *sums("sv_active", "sv_active_cancel", "sv_being_canceled", "sv_idle", "sv_used"),
    *sums("sv_tested", "sv_login"),
)


def _occupancy(service: "Service") -> Iterator[Row]:
    holds = service.router.holds
    now = service.now()
    for pool in list(service.router.pools.values()):
        supply = pool.supply
        settings = pool.settings
        internal = pool.internal
        yield (
            pool.database,
            pool.user,
            0 if internal else settings.pool_size,
            0 if internal else settings.min_pool_size,
            0 if internal else settings.reserve_pool_size,
            pool.total,
            len(pool.idle),
            pool.in_use,
            len(pool.leaving),
            supply.dialing,
            sum(1 for _ in pool.pins()),
            sum(not client.internal for client in pool.clients),
            sum(client.state is ClientState.ACTIVE for client in pool.clients),
            sum(is_waiting(client) and not client.internal for client in pool.waiting),
            round(pool.oldest_wait(), 3),
            holds.pauses(pool.database, pool.user),
            holds.disables(pool.database),
            round(now - supply.failing_since, 3) if supply.failing_since else None,
            str(supply.last_error) if supply.last_error is not None else None,
        )


# -- databases and users


def _databases(service: "Service") -> Iterator[Row]:
    config = service.config
    found: dict[str, list[Pool]] = {name: [] for name in config.databases if name != FALLBACK}
    for pool in list(service.router.pools.values()):
        found.setdefault(pool.database, []).append(pool)
    for name, pools in found.items():
        entry = config.databases.get(name) or config.databases.get(FALLBACK)
        if entry is not None:
            yield _database(service, name, entry, pools)


def _database(service: "Service", name: str, entry: Database, pools: list[Pool]) -> Row:
    config, holds = service.config, service.router.holds
    limits = config.limits
    hosts = entry.hosts
    balance = entry.load_balance_hosts or config.defaults.load_balance_hosts
    return (
        name,
        ",".join(host.host for host in hosts),
        hosts[0].port,
        entry.dbname or name,
        entry.user or None,
        _first(entry.pool_size, config.defaults.pool_size),
        _first(entry.min_pool_size, config.defaults.min_pool_size),
        _first(entry.reserve_pool_size, config.defaults.reserve_pool_size),
        round(_first(entry.server_lifetime, config.timeouts.server_lifetime)),
        entry.pool_mode.value if entry.pool_mode is not None else None,
        balance if len(hosts) > 1 else None,
        _first(entry.max_server_connections, limits.max_db_server_connections),
        sum(pool.total for pool in pools),
        _first(entry.max_client_connections, limits.max_db_client_connections),
        sum(not client.internal for pool in pools for client in pool.clients),
        int(holds.pauses(name)),
        int(holds.disables(name)),
    )


def _users(service: "Service") -> Iterator[Row]:
    config = service.config
    names = dict.fromkeys([*config.users, *config.stored])
    clients: dict[str, int] = {}
    servers: dict[str, int] = {}
    for pool in list(service.router.pools.values()):
        servers[pool.user] = servers.get(pool.user, 0) + pool.total
        for client in pool.clients:
            if not client.internal:
                clients[client.user] = clients.get(client.user, 0) + 1
    limits = config.limits
    for name in dict.fromkeys([*names, *clients, *servers]):
        entry = config.users.get(name, _NOBODY)
        yield (
            name,
            str(entry.pool_size) if entry.pool_size is not None else "",
            str(entry.reserve_pool_size) if entry.reserve_pool_size is not None else "",
            entry.pool_mode.value if entry.pool_mode is not None else None,
            _first(entry.max_server_connections, limits.max_user_server_connections),
            servers.get(name, 0),
            _first(entry.max_client_connections, limits.max_user_client_connections),
            clients.get(name, 0),
        )


_NOBODY: Final = User()


def _first(value: "int | float | None", otherwise: float) -> int:
    return int(otherwise if value is None else value)


def _lists(service: "Service") -> Iterator[Row]:
    router, config = service.router, service.config
    pools = list(router.pools.values())
    databases = {*config.databases, *(pool.database for pool in pools)} - {FALLBACK}
    users = {*config.users, *config.stored, *(pool.user for pool in pools)}
    servers = sum(pool.total for pool in pools)
    yield from (
        ("databases", len(databases)),
        ("users", len(users)),
        ("peers", len(config.peers.members) + len(config.peers.hosts)),
        ("pools", len({(pool.database, pool.user) for pool in pools})),
        ("peer_pools", 0),
        ("free_clients", 0),
        ("used_clients", router.clients.count),
        ("login_clients", service.logging_in),
        ("free_servers", 0),
        ("used_servers", servers),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    )


def _peers(service: "Service") -> Iterator[Row]:
    """Other poolers behind the same address; those without a number are shown with 0."""
    peers = service.config.peers
    numbered = [*peers.members.items(), *((0, address) for address in peers.hosts)]
    for number, address in numbered:
        host, port = split_address(address)
        yield number, host, port or peers.port, 0


def _nothing(service: "Service") -> Iterator[Row]:
    yield from ()


VIEWS: Final = (
    View(
        "pools_by_microseconds",
        "what SHOW POOLS is made from",
        (*_POOL, LONGEST, *text("pool_mode", "load_balance_hosts")),
        _pools,
        Merge.GROUP,
    ),
    View(
        "pools",
        "each pool: its clients and servers by state, and the longest wait",
        (*_POOL, *ints("maxwait", "maxwait_us"), *text("pool_mode", "load_balance_hosts")),
        source="pools_by_microseconds",
        derive=_in_two_columns,
    ),
    View(
        "occupancy",
        "each pool: what it may have, what it has, and what keeps it from more",
        (
            *keys("database", "user"),
            *(Column(name, Type.INT, Fold.MAX) for name in ("pool_size", "min_pool_size")),
            Column("reserve_pool_size", Type.INT, Fold.MAX),
            *sums("servers", "idle", "working", "leaving", "opening", "pinned"),
            *sums("clients", "active", "waiting"),
            Column("oldest_wait", Type.FLOAT, Fold.MAX),
            Column("paused", Type.BOOL),
            Column("disabled", Type.BOOL),
            Column("failing_seconds", Type.FLOAT, Fold.MAX),
            *text("last_error"),
        ),
        _occupancy,
        Merge.GROUP,
    ),
    View(
        "databases",
        "each database: where it is, its sizes and limits, paused, disabled",
        (
            *keys("name"),
            *text("host"),
            *ints("port"),
            *text("database", "force_user"),
            *ints("pool_size", "min_pool_size", "reserve_pool_size", "server_lifetime"),
            *text("pool_mode", "load_balance_hosts"),
            *ints("max_connections"),
            *sums("current_connections"),
            *ints("max_client_connections"),
            *sums("current_client_connections"),
            *ints("paused", "disabled"),
        ),
        _databases,
        Merge.GROUP,
    ),
    View(
        "users",
        "each user: sizes and limits of its own, connections",
        (
            *keys("name"),
            *text("pool_size", "reserve_pool_size", "pool_mode"),
            *ints("max_user_connections"),
            *sums("current_connections"),
            *ints("max_user_client_connections"),
            *sums("current_client_connections"),
        ),
        _users,
        Merge.GROUP,
    ),
    View(
        "lists",
        "how many there are of everything",
        (*keys("list"), *sums("items")),
        _lists,
        Merge.GROUP,
    ),
    View(
        "peers",
        "the poolers that cancel requests are sent on to",
        (*ints("peer_id"), *text("host"), *ints("port", "pool_size")),
        _peers,
        Merge.FIRST,
    ),
    View(
        "peer_pools",
        "nothing: each request that is sent on has a connection of its own",
        ints(
            *("peer_id", "cl_active_cancel_req", "cl_waiting_cancel_req"),
            *("sv_active_cancel", "sv_login"),
        ),
        _nothing,
    ),
)

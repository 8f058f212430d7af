"""From (database, user) to a pool: makes pools, counts clients, lives through reloads.

Pools are keyed by the database's name and the server's user; replication connections have pools
of their own, whose servers are used once. A reload never drops a client: pools that go on get
their new settings, clients whose database now has another server user move there when their
transaction ends, and those of a database that is gone are told so.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pooler.core import control, session
from pooler.core.client import Client
from pooler.core.errors import ClientFault, CloseReason, PoolerError
from pooler.core.holds import Holds, Scope
from pooler.core.keys import CancelKeys
from pooler.core.limits import Elsewhere, Gauge, ServerGauge
from pooler.core.peer import Transport
from pooler.core.pool import Pool
from pooler.core.retiring import vacate
from pooler.core.settings import PoolSettings, Route, Target
from pooler.wire import codes
from pooler.wire.logins import Credential

if TYPE_CHECKING:
    from pooler.core.edge import Edge

Resolve = Callable[[str, str], Route | None]
Key = tuple[str, str, str]

AUTH: Final = "auth"
"""The purpose of a pool that asks for the secrets of users, and serves no client."""

FORGET_AFTER: Final = 60.0
"""Seconds that an empty pool is remembered: its counters, and what to greet clients with."""


class Router:
    """All pools, and the limits across them."""

    def __init__(self, edge: "Edge", randbytes: Callable[[int], bytes]) -> None:
        self.edge = edge
        self.keys = CancelKeys(randbytes)
        self.shelf = session.Shelf()
        self.pools: dict[Key, Pool] = {}
        self.clients = Gauge("max_client_connections")
        self.servers = ServerGauge("servers")
        self.holds = Holds()
        self._resolve: Resolve = _nowhere
        self._resolve_auth: Resolve = _nowhere
        self._client_gauges: dict[tuple[str, str], Gauge] = {}
        self._server_gauges: dict[tuple[str, str], ServerGauge] = {}
        self._idents = 0
        self._stride = 1
        self.elsewhere = Elsewhere()
        self.closed = False  # nobody is admitted any more
        self.ending: tuple[PoolerError, CloseReason] | None = None

    @property
    def idents(self) -> int:
        """The number given last."""
        return self._idents

    def number_from(self, ident: int) -> None:
        """Give only numbers above this one."""
        steps = (ident - self._idents) // self._stride
        self._idents += max(0, steps) * self._stride

    def ident(self) -> int:
        """Return the next number for a client or server."""
        self._idents += self._stride
        return self._idents

    def number(self, worker: int, workers: int) -> None:
        """Give numbers that no other of so many workers gives; 0 is the first worker."""
        self._idents = worker + 1 - workers
        self._stride = workers

    # -- configuration

    def configure(
        self,
        resolve: Resolve,
        max_clients: int,
        max_servers: int,
        resolve_auth: Resolve | None = None,
    ) -> None:
        """Go by another configuration from now on; `resolve_auth` is for `AUTH` pools.

        Nothing changes any more once the end has begun.
        """
        if self.ending is not None:
            return
        self._resolve = resolve
        self._resolve_auth = resolve_auth or _nowhere
        self.clients.limit = max_clients
        self.servers.limit = max_servers
        for key, pool in list(self.pools.items()):
            route = self._route_of(key)
            if route is not None and route.target.user == pool.user:
                self._limit(route)
                control.configure(pool, _target(route, key[2]), _settings(route, key[2]))
        for key, pool in list(self.pools.items()):
            for client in list(pool.clients):
                self._reroute(client, pool, key[2])
            route = self._route_of(key)
            if route is None or route.target.user != pool.user:
                control.end(pool, _removed(), CloseReason.DATABASE_REMOVED)

    def _route_of(self, key: Key) -> Route | None:
        return (self._resolve_auth if key[2] == AUTH else self._resolve)(key[0], key[1])

    def _reroute(self, client: Client, pool: Pool, replication: str) -> None:
        route = self._resolve(client.database, client.user)
        if route is None or replication == AUTH:
            return
        self._limit(route)
        client.limits = route.session
        client.next_pool = None
        if route.target.user != pool.user:
            pool.hand_over(client, self.pool(route, replication))

    def _limit(self, route: Route) -> None:
        """Bring the limits of a route's database and users up to date."""
        self._client_gauge("database", route.database, route.session.max_db_client_connections)
        self._client_gauge("user", route.user, route.session.max_user_client_connections)
        self._server_gauge("database", route.database, route.pool.max_db_server_connections)
        self._server_gauge("user", route.target.user, route.pool.max_user_server_connections)

    def _client_gauge(self, kind: str, name: str, limit: int) -> Gauge:
        gauge = self._client_gauges.get((kind, name))
        if gauge is None:
            gauge = self._client_gauges[kind, name] = Gauge(
                f'max_client_connections of {kind} "{name}"'
            )
        gauge.limit = limit
        return gauge

    def _server_gauge(self, kind: str, name: str, limit: int) -> ServerGauge:
        gauge = self._server_gauges.get((kind, name))
        if gauge is None:
            gauge = self._server_gauges[kind, name] = ServerGauge(f"servers of {kind} {name}")
        gauge.limit = limit
        return gauge

    # -- pools

    def pool(self, route: Route, replication: str = "") -> Pool:
        """Return the route's pool, made now if it is the first to ask.

        Pools for replication connections, and for lookups (`AUTH`), are apart from the others.
        """
        key = (route.database, route.target.user, replication)
        pool = self.pools.get(key)
        if pool is None:
            allotment = self.edge.allotment(key)
            pool = self.pools[key] = Pool(
                key,
                _target(route, replication),
                _settings(route, replication),
                self.edge,
                self.keys,
                self.shelf,
                (
                    self.servers,
                    self._server_gauge(
                        "database", route.database, route.pool.max_db_server_connections
                    ),
                    self._server_gauge(
                        "user", route.target.user, route.pool.max_user_server_connections
                    ),
                    *(() if allotment is None else (allotment,)),
                ),
                single_use=replication not in ("", AUTH),
                internal=replication == AUTH,
            )
            pool.paused = self.holds.pauses(pool.database, pool.user)
            pool.wake()
        return pool

    def covered(self, scope: Scope) -> list[Pool]:
        """Return the pools that a command is about."""
        pools = self.pools.values()
        return [pool for pool in pools if scope.covers(pool.database, pool.user)]

    def hold(self) -> None:
        """Have every pool do as `holds` says."""
        for pool in list(self.pools.values()):
            control.pause(pool, self.holds.pauses(pool.database, pool.user))

    def pool_named(self, key: Key) -> Pool | None:
        """Return the pool of this name, made now if there is none; None: it has no route."""
        pool = self.pools.get(key)
        if pool is None:
            route = self._route_of(key)
            if route is not None and route.target.user == key[1]:
                pool = self.pool(route, key[2])
        return pool

    def vacate(self, databases: frozenset[str]) -> None:
        """Have the idle servers of these databases, by the server's names, leave."""
        for pool in self.pools.values():
            if pool.target.dbname in databases:
                vacate(pool)

    def functions_changed(self, database: str) -> None:
        """Have the pools of this database, by the server's name, look at its functions again."""
        for pool in self.pools.values():
            if pool.target.dbname == database:
                pool.catalog.changed()

    def schema_changed(self, database: str, words: frozenset[bytes]) -> None:
        """Have the pools of this database, by the server's name, prepare statements anew."""
        for pool in self.pools.values():
            if pool.target.dbname == database:
                pool.registry.changed(words)

    def prune(self) -> None:
        """Forget pools that have been empty for a while: clients choose the names behind `*`."""
        now = self.edge.now()
        for key, pool in list(self.pools.items()):
            warm = pool.settings.min_pool_size and pool.ending is None
            old = pool.empty and not warm and now - pool.used_at >= FORGET_AFTER
            if old and not self._awaited(pool):
                del self.pools[key]
                for gauge in pool.gauges:
                    gauge.pools.remove(pool)
        for name, clients in list(self._client_gauges.items()):
            if not clients.count:
                del self._client_gauges[name]
        for name, servers in list(self._server_gauges.items()):
            if not servers.pools:
                del self._server_gauges[name]

    def _awaited(self, pool: Pool) -> bool:
        """Return whether a client moves there when its transaction ends."""
        others = self.pools.values()
        return any(client.next_pool is pool for other in others for client in other.clients)

    # -- clients

    def admit(
        self,
        transport: Transport,
        name: str,
        database: str,
        user: str,
        parameters: Mapping[str, str],
        minor: int,
        credential: Credential | None = None,
    ) -> Client:
        """Return the client that has logged in, counted and on its way into its pool.

        `credential` is what it proved: with it the pool logs in to servers as the same user.

        The caller makes it the transport's protocol, and then calls `pool.enter`. PoolerError
        says why not: no such database, too many clients, startup parameters beyond reason.
        """
        if self.closed:
            raise PoolerError(codes.CANNOT_CONNECT_NOW, "the pooler is shutting down")
        route = self._resolve(database, user)
        if route is None:
            raise ClientFault(codes.INVALID_DATABASE, f'database "{database}" does not exist')
        if self.holds.disables(database):
            raise PoolerError(codes.CANNOT_CONNECT_NOW, f'database "{database}" is disabled')
        replication = _replication(parameters.get("replication", ""))
        wants = session.from_startup(parameters)
        gauges = self._client_gauges_of(route)
        self._check_room(gauges[0], "", "")
        self._check_room(gauges[1], "database", database)
        self._check_room(gauges[2], "user", user)
        if self.keys.full:
            raise ClientFault(codes.TOO_MANY_CONNECTIONS, "no more connections allowed")
        pool = self.pool(route, replication)
        if route.target.user == user:
            pool.credentials.learn(credential)
        return self._admitted(transport, name, pool, self.ident(), route, minor, wants, gauges)

    def _check_room(self, gauge: Gauge, kind: str, name: str) -> None:
        """ClientFault: there are as many clients as may be, those of other processes counted."""
        if gauge.limit and gauge.count + self.elsewhere.count(kind, name) >= gauge.limit:
            raise ClientFault(
                codes.TOO_MANY_CONNECTIONS, f"no more connections allowed ({gauge.name})"
            )

    def client_counts(self, *names: str) -> list[tuple[str, str, int]]:
        """Return how many clients there are in all ("", ""), of databases, of users.

        With a database and a user, only of these.
        """
        gauges = self._client_gauges
        keys = zip(("database", "user"), names, strict=True) if names else gauges
        counts = [(*key, gauges[key].count if key in gauges else 0) for key in keys]
        return [("", "", self.clients.count), *counts]

    def readmit(
        self,
        transport: Transport,
        name: str,
        database: str,
        user: str,
        wants: session.Settings,
        minor: int,
        ident: int,
        key: tuple[int, bytes],
        opened_at: float,
    ) -> Client:
        """Return a client that another process admitted, under its number and with its key.

        No limit keeps it out, as in a reload. PoolerError: it has no database any more.
        """
        if self.ending is not None:
            raise PoolerError(codes.ADMIN_SHUTDOWN, "the pooler is shutting down")
        route = self._resolve(database, user)
        if route is None:
            raise _removed()
        gauges = self._client_gauges_of(route)
        pool = self.pool(route)
        client = self._admitted(transport, name, pool, ident, route, minor, wants, gauges)
        client.opened_at = opened_at
        try:
            self.keys.adopt(client, *key)
        except ValueError:
            client.depart()
            pool.forget(client)
            raise
        return client

    def _client_gauges_of(self, route: Route) -> tuple[Gauge, Gauge, Gauge]:
        limits = route.session
        return (
            self.clients,
            self._client_gauge("database", route.database, limits.max_db_client_connections),
            self._client_gauge("user", route.user, limits.max_user_client_connections),
        )

    def _admitted(
        self,
        transport: Transport,
        name: str,
        pool: Pool,
        ident: int,
        route: Route,
        minor: int,
        wants: session.Settings,
        gauges: tuple[Gauge, ...],
    ) -> Client:
        client = Client(
            transport,
            name,
            pool,
            ident,
            route.database,
            route.user,
            route.session,
            minor,
            wants,
            gauges,
            self.edge.now(),
        )
        for gauge in gauges:
            gauge.count += 1
        pool.counters.logins += 1
        return client

    # -- the end

    def end(self, error: PoolerError, reason: CloseReason) -> None:
        """Let every client finish its transaction, then tell it `error`; admit nobody."""
        self.closed = True
        self.ending = (error, reason)
        pools = list(self.pools.values())
        for client in [client for pool in pools for client in pool.clients]:
            client.next_pool = None  # nobody moves any more
        for pool in pools:
            control.end(pool, error, reason)


def _nowhere(database: str, user: str) -> Route | None:
    return None


def _target(route: Route, replication: str) -> Target:
    if replication in ("", AUTH):
        return route.target
    startup = (*route.target.startup, ("replication", replication))
    return replace(route.target, startup=startup)


def _settings(route: Route, replication: str) -> PoolSettings:
    return replace(route.pool, min_pool_size=0) if replication else route.pool


def _removed() -> PoolerError:
    return PoolerError(
        codes.ADMIN_SHUTDOWN,
        "terminating connection because its database is no longer configured in the pooler",
    )


def _replication(value: str) -> str:
    """Return "true" or "database" for a replication connection, "" for another."""
    word = value.lower()
    if word == "database":
        return word
    if word in ("true", "on", "yes", "1"):
        return "true"
    if word in ("", "false", "off", "no", "0"):
        return ""
    raise ClientFault("22023", f'invalid value for parameter "replication": "{value}"')

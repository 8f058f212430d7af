"""Views of single connections: clients and servers, who waits, who is pinned, who does what.

Columns, types and states of `clients`, `servers` and `sockets` are PgBouncer's. Clients of our own
(LISTEN, auth_query, looks at the catalog) are no concern of those who operate and are left out.
"""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, cast

from pooler.admin.view import (
    MICROSECONDS,
    Column,
    Row,
    Type,
    Value,
    View,
    bigints,
    floats,
    ints,
    micros,
    text,
)
from pooler.core import outline, policy
from pooler.core.client import Client
from pooler.core.peer import Peer, Transport
from pooler.core.pool import Pool, is_waiting
from pooler.core.server import Server
from pooler.core.statements import Statement
from pooler.core.states import ClientState, ServerState
from pooler.wire import codes

if TYPE_CHECKING:
    from pooler.admin.session import Session
    from pooler.service import Service

_CLIENT_STATES: Final = {ClientState.GREETING: "waiting"}
_SERVER_STATES: Final = {
    ServerState.PREPARING: "tested",
    ServerState.ASKING: "tested",
    ServerState.TIDYING: "tested",
}

_SOCKET: Final = (
    *text("type", "user", "database", "replication", "state", "addr"),
    *ints("port"),
    *text("local_addr"),
    *ints("local_port"),
    *text("connect_time", "request_time"),
    *ints("wait", "wait_us", "close_needed"),
    *text("ptr", "link"),
    *ints("remote_pid"),
    *text("tls", "application_name"),
    *ints("prepared_statements"),
    *bigints("id"),
)
_BUFFERS: Final = ints(
    "recv_pos", "pkt_pos", "pkt_remain", "send_pos", "send_remain", "pkt_avail", "send_avail"
)


class Clock:
    """Tells the time of day of what was stamped with the service's clock."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._today = datetime.now(UTC)

    def when(self, stamp: float) -> str:
        """Return the time of a stamp, to the second, as PgBouncer writes it."""
        moment = self._today - timedelta(seconds=self.now - stamp)
        return moment.strftime("%Y-%m-%d %H:%M:%S UTC")

    def age(self, stamp: float) -> float:
        """Return how many seconds ago it was, to the millisecond."""
        return round(self.now - stamp, 3)


def all_clients(service: "Service") -> Iterator[Client]:
    """All clients that are logged in, or wait for a first server to be greeted with."""
    for pool in list(service.router.pools.values()):
        if not pool.internal:
            for client in list(pool.clients):
                if not client.internal:
                    yield client


def all_servers(service: "Service") -> Iterator[Server]:
    """All server connections, those of our own purposes included."""
    for pool in list(service.router.pools.values()):
        yield from list(pool.servers())


def application_name(client: Client) -> str:
    """Return what a client calls itself."""
    return client.wants.get("application_name", "")


def _client_state(client: Client) -> str:
    if client.server is not None and client.state is ClientState.IDLE:
        return "active"  # as PgBouncer calls all that have a server
    return _CLIENT_STATES.get(client.state, str(client.state.value))


def _server_state(server: Server) -> str:
    if server.cancels and server.client is None:
        return "being_canceled"
    return _SERVER_STATES.get(server.state, str(server.state.value))


def _address(name: object) -> tuple[str, int]:
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else ("unix", 0)


def _tls(transport: Transport) -> str:
    tls = transport.get_extra_info("tls")
    return f"{tls.version}/{tls.cipher}" if tls is not None else ""


def _replication(pool: Pool) -> str:
    value = dict(pool.target.startup).get("replication") if pool.single_use else None
    return {None: "none", "database": "logical"}.get(value, "physical")


def _requested_at(client: Client) -> float:
    if client.state in (ClientState.WAITING, ClientState.GREETING):
        return client.waiting_since
    server = client.server
    return (server.busy_since if server is not None else 0.0) or client.idle_since


def _client_row(client: Client, clock: Clock) -> Row:
    waits = client.state in (ClientState.WAITING, ClientState.GREETING)
    waited = micros(clock.now - client.waiting_since) if waits else 0
    return (
        "C",
        client.user,
        client.database,
        _replication(client.pool),
        _client_state(client),
        *_address(client.transport.get_extra_info("peername")),
        *_address(client.transport.get_extra_info("sockname")),
        clock.when(client.opened_at),
        clock.when(_requested_at(client)),
        *divmod(waited, MICROSECONDS),
        0,
        f"c{client.ident}",
        f"s{client.server.ident}" if client.server is not None else "",
        0,
        _tls(client.transport),
        application_name(client),
        len(client.names),
        client.ident,
    )


def _server_row(server: Server, clock: Clock) -> Row:
    pool = server.pool
    client = server.client
    leaves = server.generation != pool.generation or server.state is ServerState.LEAVING
    own = server.settings.get("application_name") or server.base.get("application_name", "")
    return (
        "S",
        pool.user,
        pool.database,
        _replication(pool),
        _server_state(server),
        *_address(server.transport.get_extra_info("peername")),
        *_address(server.transport.get_extra_info("sockname")),
        clock.when(server.opened_at),
        clock.when(server.busy_since or server.idle_since),
        0,
        0,
        int(leaves),
        f"s{server.ident}",
        f"c{client.ident}" if client is not None and client.ident else "",
        server.pid,
        _tls(server.transport),
        own,
        len(server.prepared),
        server.ident,
    )


def _clients(service: "Service") -> Iterator[Row]:
    clock = Clock(service.now())
    for client in all_clients(service):
        yield _client_row(client, clock)
    for session in service.console.sessions:
        yield _session_row(session, clock)


def _session_row(session: "Session", clock: Clock) -> Row:
    """A session of the console, which has no server."""
    when = clock.when(session.opened_at)
    transport = session.transport
    return (
        *("C", session.user, session.database, "none", "active"),
        *_address(transport.get_extra_info("peername")),
        *_address(transport.get_extra_info("sockname")),
        *(when, when, 0, 0, 0, f"c{session.ident}", "", 0, _tls(transport)),
        *(session.application_name, 0, session.ident),
    )


def _servers(service: "Service") -> Iterator[Row]:
    clock = Clock(service.now())
    for server in all_servers(service):
        yield _server_row(server, clock)


def _unsent(peer: Peer) -> int:
    return cast(asyncio.WriteTransport, peer.transport).get_write_buffer_size()


def _sockets(service: "Service") -> Iterator[Row]:
    """With PgBouncer's buffer columns, of which we have what is unsent."""
    clock = Clock(service.now())
    for client in all_clients(service):
        row = _client_row(client, clock)
        active = "waiting" if client.state is not ClientState.ACTIVE and row[11] else "active"
        unsent = _unsent(client)
        yield (*row[:4], f"cl_{active}", *row[5:], 0, 0, 0, 0, unsent, 0, unsent)
    for server in all_servers(service):
        row = _server_row(server, clock)
        unsent = _unsent(server)
        yield (*row[:4], f"sv_{row[4]}", *row[5:], 0, 0, 0, 0, unsent, 0, unsent)


def _active_sockets(service: "Service") -> Iterator[Row]:
    for row in _sockets(service):
        if any(row[len(_SOCKET) :]):
            yield row


# -- more than PgBouncer


def _who(client: Client) -> tuple[Value, ...]:
    """Return the columns that say which client it is."""
    return client.ident, client.database, client.user, client.name, application_name(client)


def _waiters(service: "Service") -> Iterator[Row]:
    clock = Clock(service.now())
    for pool in list(service.router.pools.values()):
        line = [c for c in pool.waiting if is_waiting(c) and not c.internal]
        why = waits_for(pool) if line else ""
        for place, client in enumerate(line, 1):
            yield (
                *_who(client),
                place,
                clock.age(client.waiting_since),
                client.notified,
                why,
            )


def waits_for(pool: Pool) -> str:
    """Return, in words, what the clients in a pool's line wait for."""
    if pool.paused:
        return "RESUME: it is paused"
    error = pool.supply.last_error
    if pool.supply.failing_since and error is not None:
        return f"the server to answer: {error}"
    for gauge in pool.gauges:
        if gauge.full and pool.total < pool.settings.pool_size:
            return f"the limit on {gauge.name}: {gauge.count} of {gauge.limit}"
    if pool.total >= pool.settings.pool_size:
        return f"one of {pool.settings.pool_size} server connections (pool_size)"
    return "a server connection to be opened"


def _pins(service: "Service") -> Iterator[Row]:
    now = service.now()
    for pool in list(service.router.pools.values()):
        for pin in pool.pins():
            client = pin.client
            instead = [
                policy.BY_NAME[name].instead for name in pin.reasons if name in policy.BY_NAME
            ]
            yield (
                *_who(client),
                pin.server.ident,
                pin.server.pid,
                ", ".join(pin.reasons),
                pin.statement,
                round(now - pin.since, 3),
                round(client.limits.pin_timeout, 3),
                "; ".join(instead),
            )


def activity(server: Server) -> str:
    """Return what a server does, in PostgreSQL's words where it has any."""
    if server.state is ServerState.PREPARING:
        return "being prepared" if server.client is not None else "being opened"
    if server.state is ServerState.ASKING:
        return "asked about its session"
    if server.state is ServerState.TIDYING:
        return "being tidied"
    if server.state is not ServerState.ACTIVE:
        return str(server.state.value)
    if not server.ledger.settled:
        return "active"
    if server.status == codes.IN_TRANSACTION:
        return "idle in transaction"
    if server.status == codes.FAILED_TRANSACTION:
        return "idle in transaction (aborted)"
    return "pinned" if server.pins else "kept"


def _queries(service: "Service") -> Iterator[Row]:
    """What each server does now, for whom and since when."""
    now = service.now()

    def age(stamp: float) -> float | None:
        return round(now - stamp, 3) if stamp else None

    for server in all_servers(service):
        client = server.client or server.owner
        who: tuple[Value, ...] = (None, None, None, None)
        if client is not None and client.ident:
            who = (client.ident, client.user, client.name, application_name(client))
        elif client is not None:
            who = (None, None, f"pooler: {client.name}", None)
        yield (
            server.ident,
            server.pool.database,
            server.pool.user,
            server.pid,
            server.name,
            activity(server),
            age(server.busy_since),
            age(server.transaction_since),
            age(server.idle_since) if not server.busy_since else None,
            *who,
            query(server),
        )


def query(server: Server) -> str | None:
    """Return the outline of what a server's client has asked last, which shows no value."""
    asked = server.asked
    if isinstance(asked, Statement):
        return outline.shown(b"\0" + asked.body)
    return outline.shown(asked) if asked else None


VIEWS: Final = (
    View("clients", "every client: its state, since when, its server", _SOCKET, _clients),
    View(
        "servers", "every server connection: its state, since when, its client", _SOCKET, _servers
    ),
    View("sockets", "clients and servers, with their buffers", (*_SOCKET, *_BUFFERS), _sockets),
    View(
        "active_sockets",
        "those that have something unsent",
        (*_SOCKET, *_BUFFERS),
        _active_sockets,
    ),
    View(
        "waiters",
        "clients that wait for a server connection, in order, and what for",
        (
            *bigints("client"),
            *text("database", "user", "address", "application_name"),
            *ints("place"),
            *floats("seconds"),
            Column("notified", Type.BOOL),
            *text("waits_for"),
        ),
        _waiters,
    ),
    View(
        "pins",
        "server connections kept by their client: why, since when, by which statement",
        (
            *bigints("client"),
            *text("database", "user", "address", "application_name"),
            *bigints("server"),
            *ints("pid"),
            *text("reasons", "statement"),
            *floats("seconds", "pin_timeout"),
            *text("instead"),
        ),
        _pins,
    ),
    View(
        "queries",
        "what each server connection does now, for whom and since when",
        (
            *bigints("server"),
            *text("database", "server_user"),
            *ints("pid"),
            *text("host", "activity"),
            *floats("query_seconds", "transaction_seconds", "idle_seconds"),
            *bigints("client"),
            *text("client_user", "address", "application_name", "query"),
        ),
        _queries,
    ),
)

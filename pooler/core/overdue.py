"""Every time limit of a pool, asked for by the edge's one clock several times a second.

No timer per client or query: deadlines are floats stamped on the way, looked at here.
"""

from typing import Final

from pooler.core.cancel import cancel_server
from pooler.core.client import Client
from pooler.core.errors import CloseReason, PoolerError, ServerFault
from pooler.core.pool import Pool, is_idle, is_waiting
from pooler.core.retiring import retire_idle
from pooler.core.server import Server
from pooler.core.states import ClientState, ServerState
from pooler.wire import build, codes

_SQLSTATES: Final = {
    CloseReason.QUERY_TIMEOUT: codes.QUERY_CANCELED,
    CloseReason.TRANSACTION_TIMEOUT: codes.TRANSACTION_TIMEOUT,
    CloseReason.IDLE_IN_TRANSACTION: codes.IDLE_IN_TRANSACTION_TIMEOUT,
}


def enforce(pool: Pool) -> None:
    """Do what is due: for those who wait, for servers at work, leaving or idle."""
    now = pool.edge.now()
    if pool.waiting:
        for client in list(pool.waiting):
            if is_waiting(client):
                _waiting(pool, client, now)
    for server in pool.working:
        _working(pool, server, now)
    for server in list(pool.leaving):
        if now >= server.deadline:
            server.transport.abort()
    while pool.lingering and pool.lingering[0][0] <= now:
        pool.lingering.popleft()[1].abort()
    pool.keeper.tick(now)
    pool.broadcast.tick(now)
    pool.catalog.tick(now)
    pool.lane.tick(now)
    retire_idle(pool)
    pool.supply.refuse_waiters()
    if pool.supply.wanted() > 0:
        pool.wake()


def enforce_client_idle(pool: Pool) -> None:
    """Close clients that have been idle too long; there may be many: called once a second."""
    now = pool.edge.now()
    for client in list(pool.clients):
        limit = client.limits.client_idle_timeout
        if limit and now - client.idle_since >= limit and is_idle(client):
            _fail(client, CloseReason.IDLE_TIMEOUT, codes.IDLE_SESSION_TIMEOUT)


def _waiting(pool: Pool, client: Client, now: float) -> None:
    if client.braked and pool.edge.hung_up(client):
        client.close(CloseReason.PEER_CLOSED)
        return
    limits = client.limits
    waited = now - client.waiting_since
    if client.state is ClientState.GREETING:
        if limits.client_login_timeout and waited >= limits.client_login_timeout:
            pool.counters.timeouts += 1
            client.fail(
                _wait_error(pool, "client_login_timeout", waited), CloseReason.LOGIN_TIMEOUT
            )
    elif limits.query_wait_timeout and waited >= limits.query_wait_timeout:
        pool.counters.timeouts += 1
        pool.waiting.remove(client)
        client.refuse(_wait_error(pool, "query_wait_timeout", waited))
    elif limits.query_wait_notify and not client.notified and waited >= limits.query_wait_notify:
        client.notified = True
        detail = str(pool.supply.last_error or "")
        text = "no server connection available, query is waiting for one"
        if pool.paused:
            text, detail = "the database is paused, query is waiting for it to be resumed", ""
        client.send(build.notice(codes.SUCCESSFUL_COMPLETION, text, detail))


def _wait_error(pool: Pool, what: str, waited: float) -> PoolerError:
    error = pool.supply.last_error
    if pool.paused:
        return PoolerError(
            codes.CANNOT_CONNECT_NOW, f"{what}: the database was paused for {waited:.0f} s"
        )
    if error is None:
        return PoolerError(
            codes.TOO_MANY_CONNECTIONS,
            f"{what}: no server connection became free in {waited:.0f} s",
            hint=f"All {pool.settings.pool_size} connections of the pool are in use.",
        )
    text = f"{what}: no server connection could be opened in {waited:.0f} s: {error}"
    return ServerFault(error.sqlstate, text, error.detail, error.hint)


def _working(pool: Pool, server: Server, now: float) -> None:
    client = server.client
    if client is not None and client.braked and pool.edge.hung_up(client):
        client.close(CloseReason.PEER_CLOSED)
        return
    if server.deadline and now >= server.deadline:
        if client is not None and server.timed_out is not None:
            _fail(client, server.timed_out, _SQLSTATES[server.timed_out])
        if server in pool.staying:
            pool.close(server, CloseReason.CANCEL_UNANSWERED)
        return
    if client is None or server.state is not ServerState.ACTIVE or pool.single_use:
        return
    if server.timed_out is not None:  # a cancel has been sent: `deadline` is next
        return
    reason = _time_limit(server, client, now)
    if reason is None:
        return
    if server.ledger.settled:
        pool.counters.timeouts += 1
        _fail(client, reason, _SQLSTATES[reason])
    else:
        pool.counters.timeouts += 1
        server.timed_out = reason
        server.deadline = pool.deadline(pool.settings.cancel_wait_timeout)
        cancel_server(server)


def _time_limit(server: Server, client: Client, now: float) -> CloseReason | None:
    """Return the time limit that a client and its server have exceeded, if any."""
    limits = client.limits
    settled = server.ledger.settled
    if settled and server.status == codes.IDLE:
        return None  # a session-mode client at rest
    since, limit, reason = (
        (server.idle_since, limits.idle_in_transaction_timeout, CloseReason.IDLE_IN_TRANSACTION)
        if settled
        else (server.busy_since, limits.query_timeout, CloseReason.QUERY_TIMEOUT)
    )
    if limit and now - since >= limit:
        return reason
    limit = limits.transaction_timeout
    if limit and now - server.transaction_since >= limit:
        return CloseReason.TRANSACTION_TIMEOUT
    return None


def _fail(client: Client, reason: CloseReason, sqlstate: str) -> None:
    error = PoolerError(sqlstate, f"terminating connection due to {reason.value}")
    client.fail(error, reason)

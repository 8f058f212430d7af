"""What a cancel does: a client's own request, and ours to PostgreSQL.

A server with a cancel on its way is given to nobody: it would hit what comes next.
"""

from typing import TYPE_CHECKING, Final

from pooler.core.errors import PoolerError
from pooler.core.states import ClientState, ServerState
from pooler.wire import codes

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.server import Server

CANCELED: Final = PoolerError(codes.QUERY_CANCELED, "canceling statement due to user request")
"""What a client is told whose wait was cancelled, for a server or for others in the lane."""


def cancel_server(server: "Server") -> None:
    """Have the edge send a cancel for what a server does, unless one is on its way."""
    if server.cancels == 0:
        server.cancels += 1
        server.pool.counters.cancels += 1
        server.pool.edge.cancel(server)


def cancel_over(server: "Server", *, delivered: bool) -> None:
    """A cancel was delivered; or it may still be under way, and nobody else gets the server."""
    pool = server.pool
    server.cancels -= 1
    if not delivered:
        server.generation = -1
    if server.chore is not None or not server.ledger.settled:
        return
    if server.client is not None and server.state is ServerState.ACTIVE:
        client = server.client
        pool.settled(server)
        if client.server is server and server.cancels == 0:
            client.resume()
    elif server.state is ServerState.TIDYING:
        pool.offer(server)


def cancel_client(client: "Client") -> None:
    """Do what a client's own cancel request asks for."""
    client.counters.cancel_requests += 1
    pool, server = client.pool, client.server
    if client.state is ClientState.WAITING:
        if server is not None:  # being prepared: it goes on, for whoever is next
            if server.pins or server.touched:
                return
            pool.unlink(server, client)
        elif client.asked is None:
            pool.waiting.remove(client)
        client.refuse(CANCELED)
    elif client.state is ClientState.ACTIVE and server is not None:
        if server.ledger.owed:
            cancel_server(server)
        pool.lane.cancel(client)

"""Which servers a pool keeps no longer, and why: the counterpart of `supply`.

A server is looked at whenever it is free, and while it is idle.
"""

from typing import TYPE_CHECKING

from pooler.core.errors import CloseReason
from pooler.core.states import ServerState

if TYPE_CHECKING:
    from pooler.core.pool import Pool
    from pooler.core.server import Server


def unwanted(pool: "Pool", server: "Server", now: float) -> CloseReason | None:
    """Return why a server should rather leave than be used next, None if it should not.

    With `single_use` it is a new one: the used ones are closed when their client goes. Those
    who wait are served also while the pool is ending.
    """
    settings = pool.settings
    if pool.paused:
        return CloseReason.PAUSED
    if pool.single_use and not pool.someone_waits():
        return CloseReason.SINGLE_USE
    if pool.ending is not None and not pool.someone_waits():
        return pool.ending[1]
    if server.generation != pool.generation:
        return CloseReason.RENEWED
    if settings.server_lifetime and now >= server.opened_at + (
        settings.server_lifetime * server.life
    ):
        return CloseReason.SERVER_LIFETIME
    if pool.total - len(pool.leaving) > settings.pool_size + settings.reserve_pool_size:
        return CloseReason.SHRUNK
    oldest = now
    if pool.waiting and pool.someone_waits():
        oldest = pool.waiting[0].waiting_since
    for gauge in pool.gauges:
        if gauge.limit and gauge.count - gauge.leaving > gauge.limit:
            return CloseReason.SHRUNK
        if gauge.owes_older(pool, oldest):
            return CloseReason.EVICTED
    return None


def retire_idle(pool: "Pool") -> None:
    """Close idle servers that are not wanted, the least used first."""
    now = pool.edge.now()
    settings = pool.settings
    unused = pool.unused
    for server in list(pool.idle):
        reason = unwanted(pool, server, now)
        if reason is None and unused:
            reason = CloseReason.POOL_IDLE
        if (
            reason is None
            and settings.server_idle_timeout
            and now - server.idle_since >= settings.server_idle_timeout
            and pool.total - len(pool.leaving) > settings.min_pool_size
        ):
            reason = CloseReason.SERVER_IDLE_TIMEOUT
        if reason is not None and server.state is ServerState.IDLE:
            pool.close(server, reason)


def give_up_oldest(pool: "Pool") -> None:
    """Close the server that is idle for longest: another pool needs its place."""
    pool.close(pool.idle[0], CloseReason.EVICTED)


def vacate(pool: "Pool") -> None:
    """Give up servers that no client has: PostgreSQL waits some seconds for them to leave."""
    for server in list(pool.idle):
        pool.close(server, CloseReason.VACATED)
    for server in pool.working:  # with nobody, or with one of our own: when that is over
        if server.client is None or server.client.internal:
            server.generation = -1
    pool.catalog.give_way()

"""What a reload, an operator, or the end of all has a pool do."""

from typing import TYPE_CHECKING

from pooler.core import upkeep
from pooler.core.errors import CloseReason, PoolerError
from pooler.core.hints import Hints
from pooler.core.keeper import at_rest
from pooler.core.policy import Rules
from pooler.core.pool import Pool, is_idle
from pooler.core.retiring import retire_idle
from pooler.core.settings import PoolMode, PoolSettings, Target
from pooler.core.states import ClientState, ServerState

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.pins import Pin


def configure(pool: Pool, target: Target, settings: PoolSettings) -> None:
    """Go on with other settings: sizes apply at once, servers of another target are renewed."""
    pool.ending = None
    if target != pool.target:
        before, pool.target = pool.target, target
        pool.generation += 1
        pool.broadcast.renew()
        pool.supply.retarget(before)
    if settings.session_state != pool.rules.policies:
        pool.rules = Rules(settings.session_state)
        pool.hints = Hints(pool.rules, pool.hints.words)
    pool.settings = settings
    if settings.measures is None:
        pool.statistics.clear()
    retire_idle(pool)
    if pool.supply.failing_since:  # perhaps not for the same reason
        pool.supply.forgive()
    pool.wake()


def renew(pool: Pool) -> None:
    """Use no server again that is open now: each leaves when it is free."""
    pool.generation += 1
    pool.broadcast.renew()
    pool.supply.forgive()
    retire_idle(pool)


def renewing(pool: Pool) -> bool:
    """Return whether there are servers that will not be used again."""
    return any(server.generation != pool.generation for server in pool.servers())


def pause(pool: Pool, paused: bool) -> None:
    """Give servers to nobody, and have them leave when they are free; or go on."""
    if paused == pool.paused:
        return
    pool.paused = paused
    pool.supply.forgive()
    pool.broadcast.pause(paused)
    if paused:
        for gauge in pool.gauges:
            gauge.withdraw(pool)
        retire_idle(pool)
        pool.keeper.give_way(everything=True)
        for server in pool.working:
            if server.client is not None:
                pool.keeper.recheck(server.client)


def kill(pool: Pool, error: PoolerError) -> None:
    """Cut off all clients and servers."""
    for client in list(pool.clients):
        client.fail(error, CloseReason.KILLED)
    for server in list(pool.staying):
        if server.state is not ServerState.LEAVING:
            pool.close(server, CloseReason.KILLED)


def unpin(client: "Client") -> "Pin | None":
    """Take back a server that its client keeps but does not use, and drop what it holds.

    Returns the pin that was; None: there is none, or the client is in a transaction.
    """
    pool, server = client.pool, client.server
    pin = None if server is None else pool.keeper.pins.get(server)
    if server is None or pin is None or not at_rest(server):
        return None
    pool.unlink(server, client)
    client.notes.end_overlap()
    upkeep.tidy(pool, server, PoolMode.TRANSACTION, CloseReason.TERMINATED)
    if client.state is ClientState.ACTIVE:
        client.rest()
    return pin


def end(pool: Pool, error: PoolerError, reason: CloseReason) -> None:
    """Let each client finish its transaction, then tell it `error`; keep no idle server.

    A client that is to move to another pool does so instead.
    """
    pool.ending = (error, reason)
    for client in list(pool.clients):
        logging_in = client.state is ClientState.GREETING
        if client.next_pool is None and (logging_in or is_idle(client)):
            client.fail(error, reason)
    retire_idle(pool)

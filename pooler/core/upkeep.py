"""What is done to servers between their clients' bytes: checked, set as a client wants, set back,
made clean.

Here is which of the dialogues in `chores` a server needs, and what follows when one is over.
"""

from typing import TYPE_CHECKING

from pooler.core import chores, hints, session
from pooler.core.cancel import cancel_server
from pooler.core.errors import CloseReason, ServerRefused
from pooler.core.settings import PoolMode
from pooler.core.states import ClientState, ServerState
from pooler.wire import codes

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.pool import Pool
    from pooler.core.server import Server


def prepare(pool: "Pool", server: "Server", client: "Client", now: float) -> None:
    """Have a linked server checked, and set as its client wants, if need be; then start."""
    settings = pool.settings
    check = ""
    if settings.server_check_query and now - server.idle_since >= settings.server_check_delay:
        check = settings.server_check_query
    if not check and server.settings is client.wants and not pool.asks_sequences:
        pool.start(server, client, now)
        return
    changes: list[str] = []
    if server.settings is not client.wants:
        changes = session.changes(server.settings, client.wants, server.base)
    if pool.asks_sequences and client.ident and server.last_client != client.ident:
        changes.append("DISCARD SEQUENCES")  # an error is better than another session's value
    if check or changes:
        server.move(ServerState.PREPARING)
        pool.counters.changes += bool(changes)
        server.deadline = pool.deadline(settings.server_connect_timeout)
        server.aim = client.wants
        server.start(chores.prepare(check, changes))
    else:
        server.settings = client.wants
        pool.start(server, client, now)


def change(
    pool: "Pool", server: "Server", client: "Client", aim: session.Settings, sql: str
) -> None:
    """Change a setting on the server that a client has, which waits meanwhile."""
    server.move(ServerState.PREPARING)
    server.deadline = pool.deadline(pool.settings.server_connect_timeout)
    server.aim = aim
    server.start(chores.prepare("", [sql]))
    client.rest()


def tidy(pool: "Pool", server: "Server", mode: PoolMode, reason: CloseReason) -> None:
    """Make an abandoned server clean; cancel what it does unless its client said goodbye."""
    reset = pool.settings.server_reset_query if mode is PoolMode.SESSION else ""
    forgets = reset.upper().startswith(("DISCARD ALL", "RESET ALL"))
    # What is still under way may touch it, too, and nobody would notice.
    unheard = not server.ledger.settled and pool.rules.memory != 0
    if server.touched or server.pins or unheard:
        reset = "DISCARD ALL"
        forgets = True
        server.touched = server.pins = server.unhinted = 0
        server.causes.clear()
        pool.keeper.pins.end(server)
    server.aim = session.NONE if forgets else None
    if not reset and server.ledger.settled and server.status == codes.IDLE:
        pool.offer(server)
        return
    server.move(ServerState.TIDYING)
    if reason is not CloseReason.TERMINATED or pool.single_use:
        server.deadline = pool.deadline(pool.settings.cancel_wait_timeout)
        if server.ledger.owed and not server.ledger.copy_in:
            cancel_server(server)
    server.start(chores.tidy(server, reset))


def chore_over(pool: "Pool", server: "Server", failure: chores.Failure) -> None:
    """Go on after a chore: with the client it was for, or the tidied server."""
    client = server.client
    if failure is None and server.aim is not None:
        server.settings = server.aim
    if pool.welcome.parameters is None and not server.settings:
        pool.welcome.parameters = server.parameters
    if server.state is ServerState.ASKING:
        pool.keeper.answered(server)
    elif server.state is ServerState.TIDYING:
        pool.offer(server)
    elif failure is not None:
        _not_set(pool, server, client, ServerRefused(failure))
    elif client is not None:
        pool.start(server, client, pool.now())
        resting = client.server is server and client.state is ClientState.IDLE
        if resting and client.mode is not PoolMode.SESSION:  # it has been set back
            pool.keeper.keep(server)
    else:
        tidy(pool, server, PoolMode.TRANSACTION, CloseReason.TERMINATED)


def _not_set(pool: "Pool", server: "Server", client: "Client | None", error: ServerRefused) -> None:
    """Go on when a server could not be set as its client wants.

    Settings were rolled back, but PREPARE and DEALLOCATE stay done: nobody knows it now.
    """
    held = server.pins | server.touched
    server.touched |= hints.ANYTHING
    asks_again = False
    if client is not None:
        pool.unlink(server, client)
        if held:  # what the server holds for it is of no use without its settings
            client.fail(error, CloseReason.SERVER_LOST)
        elif client.state is ClientState.GREETING:
            client.fail(error, CloseReason.LOGIN_FAILED)
        else:
            asks_again = _wants_less(pool, client)
    tidy(pool, server, PoolMode.TRANSACTION, CloseReason.TERMINATED)
    if client is not None and client.state is ClientState.WAITING and not asks_again:
        client.refuse(error)


def _wants_less(pool: "Pool", client: "Client") -> bool:
    """Have a client wait again, without what it could not be given and can do without."""
    lost = client.wants.keys() & client.gives_up()  # a role that is gone
    if not lost:  # or a statement cannot be prepared again: its table is gone, say
        lost = {name for name in client.wants if name.startswith(session.STATEMENT)}
    if lost:
        kept = {name: value for name, value in client.wants.items() if name not in lost}
        client.wants = pool.shelf.shared(kept)
        pool.waiting.appendleft(client)
    return bool(lost)

"""Keeps a server with its client for as long as the client may have left something on it.

A server whose client has finished a transaction that may have touched session state stays linked,
as in session mode. Only when somebody else needs a server, or after a moment, is it asked what its
session holds (see `truth`). What another server can be given too (settings, role, prepared
statements) becomes what the client wants, and the server is free. What it cannot (advisory locks,
temporary objects, ...) pins the server: it goes back to its client, and is asked again when there
is a hint that the reason is gone.
"""

from typing import TYPE_CHECKING, Final, NamedTuple

from pooler.core import chores, hints, leaks
from pooler.core.errors import CloseReason
from pooler.core.pins import Pins
from pooler.core.server import Server
from pooler.core.session import NONE, STATEMENT
from pooler.core.settings import PoolMode
from pooler.core.states import ClientState, ServerState
from pooler.core.upkeep import tidy
from pooler.wire import codes

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.pool import Pool

PATIENCE: Final = 0.2
"""Seconds after which a server is asked although nobody waits for it: so that the pool's idle
servers are idle, and pins are known, without a question per transaction of a busy client."""


class _Asked(NamedTuple):
    """What was known of a server when it was asked."""

    pins: int
    unhinted: int
    """What was asked about without a hint."""
    sampled: bool
    """Nothing but that: what is found may be anybody's."""
    reset: bool
    """Settings may have gone back to what a session of the server's has at its start."""


class Keeper:
    """The kept servers of one pool."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self.pins = Pins(pool)
        self._asked: dict[Server, _Asked] = {}
        self._kept: dict[Server, None] = {}  # touched, oldest first; some have gone on meanwhile

    def keep(self, server: Server) -> None:
        """Leave a settled server with its client, unless somebody waits for it."""
        self._kept.pop(server, None)
        if server.pins and self.pins.enforce(server):
            return
        if not server.touched:  # pinned, and nothing hints that it need not be
            return
        client = server.client
        due = client is not None and client.startup and server.touched & hints.RESET
        leaves = client is not None and client.next_pool is not None
        if due or leaves or self._pool.paused or self._pool.someone_waits():
            self._ask(server)
        else:
            self._kept[server] = None

    def give_way(self, *, everything: bool = False) -> None:
        """Have the server kept for longest asked: somebody needs one; or all of them."""
        while self._kept:
            server = next(iter(self._kept))
            del self._kept[server]
            if server.touched and at_rest(server):
                self._ask(server)
                if not everything:
                    return

    def tick(self, now: float) -> None:
        """Have servers asked that have been kept for a while."""
        for server in list(self._kept):
            if not (server.touched and at_rest(server)):
                del self._kept[server]
            elif now - server.idle_since >= PATIENCE:
                del self._kept[server]
                self._ask(server)
        for pin in self.pins:
            if at_rest(pin.server):
                self.pins.enforce(pin.server)

    def _ask(self, server: Server) -> None:
        pool = self._pool
        client = server.client
        assert client is not None
        pool.unlink(server, client)
        server.move(ServerState.ASKING)
        server.owner = client
        client.asked = server
        server.deadline = pool.edge.now() + pool.settings.cancel_wait_timeout
        asked = server.touched & pool.rules.asked
        server.pins |= server.touched & pool.rules.endless
        reset = server.touched & hints.RESET != 0
        server.touched = asked
        self._asked[server] = _Asked(
            server.pins,
            server.unhinted,
            pool.rules.sampled and not (server.pins or asked & ~server.unhinted),
            reset,
        )
        server.unhinted = 0
        pool.counters.questions += 1
        if client.state is ClientState.ACTIVE:  # a pinned one may be idle already
            client.rest()
        names = client.custom.union(name for name in client.wants if "." in name)
        server.start(chores.ask(server, asked, names, client.wants))

    def recheck(self, client: "Client") -> None:
        """Ask the client's server again: the broadcast now hears what that listens to."""
        server = client.server
        if server is not None and server.pins & hints.CHANNELS:
            server.touched |= hints.CHANNELS
            if server.touched and at_rest(server):
                self.keep(server)

    def answered(self, server: Server) -> None:
        """Go on with a server that has said what it holds."""
        pool = self._pool
        client, server.owner = server.owner, None
        server.settings = pool.shelf.shared(server.aim or NONE)
        asked = self._asked.pop(server)
        if client is None:
            tidy(pool, server, PoolMode.TRANSACTION, CloseReason.TERMINATED)
            return
        client.asked = None
        if asked.unhinted and self._leaked(server, client, asked):
            server.touched |= hints.ANYTHING
            tidy(pool, server, PoolMode.TRANSACTION, CloseReason.TERMINATED)
            self._go_on(client)
            return
        # What the client gave at its start is always set on a session of ours. Where it is not, it
        # was RESET, and that goes back to what the client gave.
        settings = server.settings
        if asked.reset:  # a custom setting that was RESET is not gone, but empty
            settings = {
                name: value
                for name, value in settings.items()
                if value or "." not in name or name not in client.startup
            }
        client.wants = pool.shelf.shared({**client.startup, **settings})
        server.pins |= _pinned_by_policy(server, client) & pool.rules.pinning
        shared = pool.broadcast.possible and not pool.rules.pinning & hints.CHANNELS
        moving = server.pins & hints.CHANNELS if shared else 0
        if pool.paused and moving and moving == server.pins:
            pool.broadcast.await_ear(client, server.channels)
            server.pins = moving = 0
        if server.pins & ~moving:
            self.pins.begin(server, client, server.pins & ~moving)
        else:
            self.pins.end(server)
        if moving and not server.pins & ~moving and pool.broadcast.adopt(client, server):
            client.notes.end_overlap()
            if client.state is ClientState.WAITING:
                pool.waiting.append(client)
                self.give_way()
                pool.wake()
            return
        if moving:
            client.notes.overlap = server.channels
        else:
            client.notes.end_overlap()
        if server.pins:
            pool.relink(server, client)
            if server.pins & hints.UNKNOWN:
                self._kept[server] = None
            if moving and client.server is server:
                pool.broadcast.listen(client, server.channels)
            return
        server.causes.clear()
        if client.state is ClientState.WAITING:
            pool.waiting.append(client)
        pool.offer(server)
        if client.next_pool is not None and client.server is None:
            pool.hand_over(client, client.next_pool)

    def _leaked(self, server: Server, client: "Client", asked: "_Asked") -> bool:
        """Report what nothing had hinted at; return whether the server has to be scrubbed."""
        pool = self._pool
        names = leaks.found(server, client, asked.unhinted, asked.pins)
        if not names or server.pins & hints.UNKNOWN:
            return False
        pool.counters.leaks += len(names)
        pool.edge.leaked(server, names)
        return asked.sampled

    def _go_on(self, client: "Client") -> None:
        """Let a client go on without the server that it had."""
        if client.state is ClientState.WAITING:
            self._pool.claim(client)
        if client.next_pool is not None and client.server is None:
            self._pool.hand_over(client, client.next_pool)

    def lost(self, server: Server) -> None:
        """Forget a server that is gone."""
        self.pins.end(server)
        self._asked.pop(server, None)

    def forget(self, client: "Client") -> None:
        """The client has gone: the server being asked about it is nobody's."""
        if client.asked is not None:
            client.asked.owner = None
            client.asked = None


def _pinned_by_policy(server: Server, client: "Client") -> int:
    """Return which state the server has that another could be given: see `Rules.pinning`."""
    flags = 0
    for name in server.settings:
        if name.startswith(STATEMENT):
            flags |= hints.PREPARED
        elif name not in client.startup:
            flags |= hints.SETTINGS
    return flags


def at_rest(server: Server) -> bool:
    """Return whether a linked server waits for its client, outside of any transaction."""
    return (
        server.state is ServerState.ACTIVE
        and server.client is not None
        and server.ledger.settled
        and server.status == codes.IDLE
        and not server.client.within_message
        and not server.cancels
    )

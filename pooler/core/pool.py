"""One pool: the servers of a (database, server user), and the clients that share them.

The only place that links a client to a server and takes them apart. Its rules, which a state
machine in the tests holds it to:

- every server is in exactly one of `idle`, `working`, `leaving`; links are mutual;
- nobody waits while a server idles; waiters are served first come, first served;
- servers of every kind, dials under way included, never exceed what size and gauges allow;
- a server is idle only when settled, out of any transaction, and with no cancel on its way.

What else concerns a pool has files of its own: where servers come from (`supply`), why they leave
(`retiring`), how they are made what the next client wants (`upkeep`), time limits (`overdue`), and
what operators and reloads do to all of it (`control`).
"""

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pooler.core import hints, leaks, session
from pooler.core.broadcast import Broadcast
from pooler.core.cancel import cancel_server
from pooler.core.catalog import Catalog
from pooler.core.client import Client
from pooler.core.counters import Counters, bucket
from pooler.core.credentials import Credentials
from pooler.core.errors import (
    ClientFault,
    CloseReason,
    PoolerError,
    ServerFault,
)
from pooler.core.hints import Hints
from pooler.core.keeper import Keeper
from pooler.core.keys import CancelKeys
from pooler.core.lane import Lane
from pooler.core.meter import measure
from pooler.core.peer import NAMES_FULL, PEER_FULL, Transport
from pooler.core.pins import Pin
from pooler.core.policy import Rules
from pooler.core.retiring import unwanted
from pooler.core.server import Server
from pooler.core.settings import PoolMode, PoolSettings, Target
from pooler.core.statements import Registry
from pooler.core.states import ClientState, ServerState
from pooler.core.statistics import Statistics
from pooler.core.supply import Supply
from pooler.core.upkeep import prepare, tidy
from pooler.core.welcome import Welcome
from pooler.wire import codes

if TYPE_CHECKING:
    from pooler.core.edge import Edge
    from pooler.core.limits import ServerGauge

LEAVE_LIMIT: Final = 5.0
"""Seconds a server has to end its session before we cut the connection."""

MATCH_LIMIT: Final = 8
"""Idle servers looked at for one already set as the client wants."""


class Pool:
    """The servers and clients of one (database, server user)."""

    __slots__ = (
        "_serving",
        "asks_sequences",
        "broadcast",
        "catalog",
        "clients",
        "counters",
        "credentials",
        "database",
        "edge",
        "ending",
        "gauges",
        "generation",
        "hints",
        "idle",
        "internal",
        "keeper",
        "key",
        "keys",
        "lane",
        "leaving",
        "lingering",
        "now",
        "own_counters",
        "paused",
        "registry",
        "rules",
        "settings",
        "shelf",
        "single_use",
        "statistics",
        "staying",
        "supply",
        "target",
        "unmeasured",
        "used_at",
        "user",
        "waiting",
        "welcome",
    )

    def __init__(
        self,
        key: tuple[str, str, str],
        target: Target,
        settings: PoolSettings,
        edge: "Edge",
        keys: CancelKeys,
        shelf: session.Shelf,
        gauges: "tuple[ServerGauge, ...]",
        *,
        single_use: bool = False,
        internal: bool = False,
    ) -> None:
        # for ever
        self.key = key
        self.database, self.user = key[:2]
        self.edge = edge
        self.now = edge.now  # asked in each transaction
        self.keys = keys
        self.shelf = shelf
        self.gauges = gauges
        self.single_use = single_use  # replication: a server serves one client and leaves
        self.internal = internal  # serves the pooler itself
        self.counters = Counters()
        self.own_counters = Counters()  # what clients of our own do: nobody is told
        for gauge in gauges:
            gauge.pools.append(self)
        # by configuration
        self.target = target
        self.settings = settings
        self.generation = 0  # servers of an older one are not used again
        self.ending: tuple[PoolerError, CloseReason] | None = None  # what clients are told
        self.paused = False  # servers are given to nobody, and leave when they are free
        # servers
        self.staying: dict[Server, None] = {}  # all but those that leave
        self.idle: list[Server] = []  # of these; last in, first out: the first is the least used
        self.leaving: dict[Server, None] = {}
        self.supply = Supply(self)
        self.credentials = Credentials(self)
        self.keeper = Keeper(self)
        self.broadcast = Broadcast(self)
        self.catalog = Catalog(self)
        self.lane = Lane(self)
        self.rules = Rules(settings.session_state)
        self.hints = Hints(self.rules, {})
        self.registry = Registry(shelf)
        self.statistics = Statistics()
        self.asks_sequences = False  # somebody uses currval or lastval: any transaction may
        self.unmeasured = 0  # transactions until the next one of the sample
        # clients
        self.clients: dict[Client, None] = {}
        self.waiting: deque[Client] = deque()  # oldest first; some may have left meanwhile
        self._serving = False  # idle servers are being given away
        self.lingering: deque[tuple[float, Transport]] = (
            deque()
        )  # closed, what they were told unsent
        self.welcome = Welcome()
        self.used_at = edge.now()

    def __repr__(self) -> str:
        """Show name and occupation."""
        return (
            f"<Pool {self.user}@{self.database} idle={len(self.idle)} working={self.in_use}"
            f" leaving={len(self.leaving)} dialing={self.supply.dialing}"
            f" waiting={len(self.waiting)}>"
        )

    @property
    def total(self) -> int:
        """Server connections that PostgreSQL may be counting."""
        return len(self.staying) + len(self.leaving) + self.supply.dialing

    @property
    def in_use(self) -> int:
        """Servers that are there and not idle."""
        return len(self.staying) - len(self.idle)

    @property
    def working(self) -> list[Server]:
        """Those servers: preparing, active, asking, tidying."""
        return [server for server in self.staying if server.state is not ServerState.IDLE]

    @property
    def opening(self) -> int:
        """Servers being prepared for whoever is next."""
        return sum(
            server.client is None and server.state is ServerState.PREPARING
            for server in self.working
        )

    @property
    def unused(self) -> bool:
        """True when it has been without clients for `pool_idle_timeout`."""
        limit = self.settings.pool_idle_timeout
        return bool(limit) and not self.clients and self.edge.now() - self.used_at >= limit

    @property
    def empty(self) -> bool:
        """True when nothing is left of it but its counters."""
        return not (self.total or self.clients)

    def deadline(self, limit: float) -> float:
        """Return the time at which a limit of so many seconds ends; 0.0: there is none."""
        return self.edge.now() + limit if limit else 0.0

    def servers(self) -> Iterator[Server]:
        """All servers, in no particular order."""
        yield from self.staying
        yield from self.leaving

    def oldest_wait(self) -> float:
        """Return how many seconds the first in line has waited, 0.0 if nobody waits."""
        return self.edge.now() - self.waiting[0].waiting_since if self.someone_waits() else 0.0

    def someone_waits(self) -> bool:
        """Return whether a client waits; those that have left the line are skipped."""
        waiting = self.waiting
        while waiting and not is_waiting(waiting[0]):
            waiting.popleft()
        return bool(waiting)

    def count_waiting(self, most: int) -> int:
        """Return how many clients wait, counting no further than `most`."""
        count = 0
        for client in self.waiting:
            if count >= most:
                break
            count += is_waiting(client)
        return count

    def use(self) -> tuple[int, int, float]:
        """Return how many servers it has use for, how many of them are in use until their client
        lets them go, and how long the first in line has waited."""
        settings = self.settings
        most = settings.pool_size + settings.reserve_pool_size
        need = self.in_use - self.opening
        least = settings.min_pool_size
        if self.paused or self.ending is not None or self.unused:
            least = 0
        if not self.paused:
            need += self.count_waiting(most)
        fixed = 0
        for server in self.working:
            client = server.client
            fixed += server.pins != 0 or (client is not None and client.internal)
        return min(max(need, least), most), fixed, self.oldest_wait()

    def pins(self) -> Iterator[Pin]:
        """All servers that are kept by their clients, and why."""
        return iter(self.keeper.pins)

    def sender(self, pid: int) -> int:
        """Return the process id that the client who notified from the server `pid` was told."""
        for server in self.servers():
            if server.pid == pid:
                return server.notifier or pid
        return pid

    def wake(self) -> None:
        """Have the edge ask the supply what to dial, soon."""
        self.edge.wake(self)

    # -- clients come

    def enter(self, client: Client, said: bytes = b"") -> None:
        """Greet a client that has logged in, at once if we know with what.

        `said` are the login's last words, which are still to be sent.
        """
        self.clients[client] = None
        self.used_at = self.edge.now()
        welcome = self.welcome.of(client.wants)
        if welcome is not None and not self.single_use:
            client.greet(welcome, said)
            self.edge.client_opened(client)
        else:
            if said:
                client.transport.write(said)
            self.claim(client)

    def claim(self, client: Client) -> None:
        """Give the client a server, now or when its turn comes."""
        if client.server is not None:  # pinned, or replication: it has one of its own
            if client.server.state is ServerState.ACTIVE:  # else it is about to be
                client.go(self.now())
            return
        now = self.now()
        client.waiting_since = now
        client.notified = False
        if client.asked is not None:  # its own server is about to come back, or be free
            return
        if self.idle and not (self.waiting and self.someone_waits()):
            self.link(self._pick(client), client, now)
        else:
            self.waiting.append(client)
            self.keeper.give_way()
            if self.total < self.settings.pool_size + self.settings.reserve_pool_size:
                self.wake()

    def _pick(self, client: Client) -> Server:
        idle = self.idle
        if self.settings.server_round_robin or not client.ident:  # ours is in nobody's way
            return idle.pop(0)
        if idle[-1].settings is client.wants and not self.asks_sequences:
            return idle.pop()
        for back in range(1, min(len(idle), MATCH_LIMIT) + 1):
            server = idle[-back]
            if (
                server.last_client == client.ident
                if self.asks_sequences
                else server.settings is client.wants
            ):
                del idle[-back]
                return server
        return idle.pop()

    # -- link

    def link(self, server: Server, client: Client, now: float) -> None:
        """Give a server to a client, once it is set as that wants."""
        counters = server.counters = client.counters
        counters.assignments += 1
        waited = now - client.waiting_since
        counters.wait_time += waited
        waits = counters.waits
        place = bucket(waited)
        waits[place] = waits[place] + 1  # mypyc makes no integers of those of `+=` on an element
        client.server = server
        server.client = client
        client.mode = client.limits.pool_mode
        if client.full:
            server.brake(PEER_FULL)
        if server.full:
            client.brake(PEER_FULL)
        server.timed_out = None
        prepare(self, server, client, now)

    def relink(self, server: Server, client: Client) -> None:
        """Give a pinned server back to its client."""
        client.server = server
        server.client = client
        prepare(self, server, client, self.now())

    def start(self, server: Server, client: Client, now: float) -> None:
        """Let a linked server and its client begin: all is as it should be."""
        server.move(ServerState.ACTIVE)
        server.deadline = 0.0
        if client.state is ClientState.GREETING:
            self._greet(server, client)
        else:
            if client.told is not server.parameters:
                client.tell(server.parameters)
            server.last_client = client.ident
            if self.settings.measures is not None and client.ident:
                measure(self, server, client, self.settings.measures)
            if client.state is ClientState.WAITING:  # a pinned one may have nothing to ask
                client.go(now)

    def _greet(self, server: Server, client: Client) -> None:
        self.welcome.learn(client.wants, server.parameters)
        if self.single_use:  # it stays with its server, as a session does
            client.greet(server.parameters)
            self.edge.client_opened(client)
            return
        self.unlink(server, client)
        client.greet(server.parameters)
        self.edge.client_opened(client)
        if client.next_pool is not None:
            self.hand_over(client, client.next_pool)
        self.offer(server)

    def unlink(self, server: Server, client: Client) -> None:
        """Take a server and its client apart; what becomes of either is the caller's affair."""
        self._part(server, client, self.now())

    def _part(self, server: Server, client: Client, now: float) -> None:
        if server.meter is not None:
            server.meter.cut_off()
            server.meter = None
        server.client = None
        client.server = None
        server.torn = client.within_message
        if server.run is not None:
            self.lane.over(server)
        if client.braked:
            client.unbrake(PEER_FULL | NAMES_FULL)
        client.again = b""
        client.holds = False
        if server.braked:
            server.unbrake(PEER_FULL)
        client.idle_since = server.idle_since = self.used_at = now
        server.busy_since = server.transaction_since = 0.0
        server.asked = b""

    # -- release

    def settled(self, server: Server) -> None:
        """Take the server back if nothing speaks against it; called when it owes nothing."""
        client = server.client
        assert client is not None
        now = self.now()
        counters = server.counters
        began = server.busy_since
        place = 0
        if began:
            took = now - began
            place = bucket(took)
            counters.query_time += took
            times = counters.query_times
            times[place] = times[place] + 1
            server.busy_since = 0.0
        server.idle_since = now
        if server.timed_out is not None:
            server.cancelled()
        mode = client.mode
        if server.status != codes.IDLE:
            if mode is PoolMode.STATEMENT:
                client.fail(
                    ClientFault(
                        codes.FEATURE_NOT_SUPPORTED,
                        "transaction blocks not allowed in statement pooling mode",
                    ),
                    CloseReason.STATEMENT_MODE,
                )
            return
        if server.transaction_since:
            took = now - server.transaction_since
            counters.transaction_time += took
            if server.transaction_since != began:
                place = bucket(took)
            times = counters.transaction_times
            times[place] = times[place] + 1
            server.transaction_since = 0.0
        if server.cancels or client.within_message or server.farewell:
            return
        server.timed_out = None
        server.deadline = 0.0
        if client.unlistening:
            everything = "*" in client.unlistening
            self.broadcast.unlisten(client, None if everything else client.unlistening)
            client.unlistening = session.NO_NAMES
        client.notes.flush()
        if server.touched & hints.AT_END:
            self._defined(server)
        if server.run is not None:
            self.lane.over(server)
        shared = mode is not PoolMode.SESSION and not self.single_use
        if shared and self.rules.sample:
            leaks.suspect(server, client)
        if self.ending is not None and client.next_pool is None:
            client.fail(*self.ending)
        elif not shared:
            client.idle_since = now
            if server.settings is not client.wants:
                self.lane.set_back(server, client)
        elif server.touched or server.pins:
            client.idle_since = now
            if server.settings is client.wants or not self.lane.set_back(server, client):
                self.keeper.keep(server)
        else:
            self._part(server, client, now)
            self._offer(server, now)
            if client.next_pool is not None:
                self.hand_over(client, client.next_pool)
            client.rest()

    def _defined(self, server: Server) -> None:
        """Tell all who have to know what a transaction has changed of the schema."""
        touched = server.touched
        server.touched &= ~hints.AT_END
        if touched & hints.FUNCTIONS:
            self.edge.functions_changed(self.target.dbname)
        if touched & hints.SCHEMA:
            self.counters.schema_changes += 1
            self.edge.schema_changed(self.target.dbname, server.take_changed())

    def offer(self, server: Server) -> None:
        """Give a clean server to whoever is next, or keep it idle."""
        self._offer(server, self.now())

    def _offer(self, server: Server, now: float) -> None:
        if server.cancels:
            if server.state is not ServerState.TIDYING:
                server.move(ServerState.TIDYING)
            return
        reason = unwanted(self, server, now)
        if reason is not None:
            self.close(server, reason)
            return
        server.move(ServerState.IDLE)
        server.deadline = 0.0
        self.idle.append(server)
        self._serve()

    def _serve(self) -> None:
        """Give idle servers to those who wait.

        A client can be done with a server at once: it is only greeted, or sent away for what it
        sent. Its server is offered again meanwhile, and taken up here, not by a deeper call: the
        first server of a pool may greet a thousand.
        """
        if self._serving:
            return
        if self.waiting:
            self._serving = True
            try:
                while self.idle and self.someone_waits():
                    client = self.waiting.popleft()
                    self.link(self._pick(client), client, self.now())
            finally:
                self._serving = False
        if self.idle:
            for gauge in self.gauges:
                gauge.share()

    def add(self, server: Server) -> None:
        """Take in a new server, which is about to run its opening chore."""
        if not self.staying:  # perhaps another PostgreSQL than before
            self.welcome.forget()
        self.staying[server] = None
        server.deadline = self.deadline(self.settings.server_connect_timeout)

    # -- clients and servers go

    def client_gone(self, client: Client, reason: CloseReason, text: str) -> None:
        """A client has closed: what its server does is not wanted any more."""
        self.lingering.append((self.edge.now() + LEAVE_LIMIT, client.transport))
        self.edge.client_closed(client, reason, text)
        self.keeper.forget(client)
        self.forget(client)
        server = client.server
        if server is None:
            return
        within = client.within_message
        self.unlink(server, client)
        if server.state is not ServerState.ACTIVE:
            return  # being prepared: it goes on, for whoever is next
        if within or server.farewell or server.ledger.unsure or self.single_use:
            wanted = reason is CloseReason.TERMINATED and not self.single_use
            if server.ledger.owed and not (server.farewell or wanted):
                cancel_server(server)
            self.close(server, CloseReason.SINGLE_USE if self.single_use else CloseReason.NOT_TIDY)
        else:
            tidy(self, server, client.mode, reason)

    def forget(self, client: Client) -> None:
        """Have nothing more to do with a client: it has gone, or is another process's."""
        self.clients.pop(client, None)
        client.next_pool = None
        self.keys.forget(client.pid)
        for gauge in client.gauges:
            gauge.count -= 1
        self.used_at = self.edge.now()
        self.broadcast.unlisten(client)
        client.names.clear()

    def hand_over(self, client: Client, other: "Pool") -> None:
        """Have another pool serve this client, from its next transaction on.

        With the pool that it has, another process is to serve it.
        """
        if client.server is not None or client.asked is not None:
            client.next_pool = other
            return
        client.next_pool = None
        if other is self:
            self.edge.depart(client)
            return
        del self.clients[client]
        other.clients[client] = None
        client.pool = other
        client.counters = other.counters if client.ident else other.own_counters
        client.names.move(other.registry)
        if is_waiting(client):
            self.waiting.remove(client)
            other.claim(client)

    def depart(self, client: Client) -> None:
        """Let go of a client at rest, which another process will serve."""
        if is_waiting(client):
            self.waiting.remove(client)
        client.depart()
        self.forget(client)

    def resume(self, client: Client) -> None:
        """Serve a client that another process has greeted."""
        self.clients[client] = None
        self.used_at = self.edge.now()
        client.rest()

    def close(self, server: Server, reason: CloseReason, text: str = "") -> None:
        """Have a server leave; its place is free when its connection has ended."""
        self._take_out(server)
        server.move(ServerState.LEAVING)
        self.leaving[server] = None
        for gauge in self.gauges:
            gauge.leaving += 1
        server.deadline = self.edge.now() + LEAVE_LIMIT
        server.leaving_for = reason
        if server.chore is not None:
            server.chore.close()
            server.chore = None
        client = server.client
        if client is not None:
            self.unlink(server, client)
        server.leave()
        self.edge.server_closed(server, reason, text)
        self._bereave(client or server.owner, server)

    def _take_out(self, server: Server) -> None:
        server.forget_statements()
        self.keeper.lost(server)
        if server.state is ServerState.LEAVING:
            del self.leaving[server]
            for gauge in self.gauges:
                gauge.leaving -= 1
            return
        del self.staying[server]
        if server.state is ServerState.IDLE:
            self.idle.remove(server)

    def _bereave(self, client: Client | None, server: Server) -> None:
        """Tell a client that its server is lost, unless nothing was lost with it."""
        if client is None:
            return
        left_state = server.owner is client or server.pins != 0
        self.keeper.forget(client)
        if not left_state and client.state in (ClientState.WAITING, ClientState.GREETING):
            self.waiting.appendleft(client)
            self._serve()
            self.wake()
        elif server.farewell is not None:  # the server's own words have been passed on
            client.close(CloseReason.SERVER_LOST, server.farewell.get("M", ""))
        else:
            error = ServerFault(
                codes.CONNECTION_FAILURE,
                "server closed the connection unexpectedly",
                hint="The server process died or was cut off while it worked for you.",
            )
            if server.within_message:  # the client would take our words for the message's rest
                client.close(CloseReason.SERVER_LOST, error.text)
            else:
                client.fail(error, CloseReason.SERVER_LOST)

    def server_gone(self, server: Server) -> None:
        """A server's connection has ended, expected or not: its place is free."""
        if server.state is ServerState.CLOSED:
            return
        expected = server.state is ServerState.LEAVING
        self._take_out(server)
        server.move(ServerState.CLOSED)
        if server.chore is not None:
            server.chore.close()
            server.chore = None
        if not expected:
            words = server.farewell.get("M", "") if server.farewell else ""
            self.edge.server_closed(server, CloseReason.PEER_CLOSED, words)
        self.free_place()
        client = server.client
        if client is not None:
            self.unlink(server, client)
        self._bereave(client or server.owner, server)

    def server_broke(self, server: Server, text: str) -> None:
        """A server sent what makes no sense, or its last words while nobody used it."""
        reason = CloseReason.PEER_CLOSED if server.farewell else CloseReason.PROTOCOL_VIOLATION
        self.close(server, reason, server.farewell.get("M", "") if server.farewell else text)

    def free_place(self) -> None:
        """Give back the place of a connection that has ended, or never came to be."""
        for gauge in self.gauges:
            gauge.freed()
        self.wake()


def is_waiting(client: Client) -> bool:
    """Return whether the client waits in line: no server is prepared for it, none is asked."""
    waits = client.state in (ClientState.WAITING, ClientState.GREETING)
    return waits and client.server is None and client.asked is None


def is_idle(client: Client) -> bool:
    """Return whether nothing is going on: no transaction, nothing asked."""
    server = client.server
    if server is None:
        return client.state is ClientState.IDLE
    return server.ledger.settled and server.status == codes.IDLE

"""Where a pool's servers come from: how many to open, where, how fast, and what if it fails.

The edge dials: it calls `dial` until that returns None, and answers each host it was given with
`connected` or `failed`. A place is taken under every limit before the dial starts and given back
when the connection has ended, so no limit is exceeded even for a moment.
"""

from typing import TYPE_CHECKING, Final

from pooler.core import chores
from pooler.core.errors import CloseReason, ServerFault, ServerRefused
from pooler.core.hosts import Hosts
from pooler.core.server import Server
from pooler.core.settings import Host, Target
from pooler.core.states import ClientState
from pooler.wire import codes
from pooler.wire.logins import Credential

if TYPE_CHECKING:
    from pooler.core.pool import Pool

DIALS_AT_ONCE: Final = 8
"""Server connections opened in parallel: each costs PostgreSQL a fork and some milliseconds."""

DIALS_PER_SECOND: Final = 100.0
"""Bound of one pool's rate of new connections, should servers die as fast as they come."""

FAILING_LIMIT: Final = 3.0
"""Seconds of nothing but failed attempts, without any server left, after which those who wait are
told of a refusal that might have passed (57P03 in a restart, 53300), and logins of anything."""


class Supply:
    """Opens one pool's servers."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self.hosts = _hosts(pool)
        self.dialing = 0
        self.failing_since = 0.0  # 0.0: the last attempt did not fail
        self.last_error: ServerFault | None = None
        self._failed_at = 0.0
        self._allowance = float(DIALS_AT_ONCE)  # dials that the rate allows now
        self._allowance_at = pool.edge.now()

    def retarget(self, before: Target) -> None:
        """Go on with the pool's new target."""
        target = self._pool.target
        if (target.hosts, target.load_balance_hosts) != (before.hosts, before.load_balance_hosts):
            self.hosts = _hosts(self._pool)
        self.failing_since = 0.0

    def forgive(self) -> None:
        """Try again at once: what failed may go well now."""
        self.hosts = _hosts(self._pool)
        self.failing_since = 0.0
        self.last_error = None
        self._pool.wake()

    @property
    def _lacks_secret(self) -> bool:
        """True until a client's login brings what the servers ask for."""
        return (
            self.last_error is not None
            and self.last_error.sqlstate == codes.INVALID_PASSWORD
            and self._pool.credentials.secret is None
        )

    def wanted(self) -> int:
        """Return how many connections should be opened now, as far as this pool is concerned."""
        pool = self._pool
        if pool.paused:
            return 0
        settings = pool.settings
        oldest = pool.oldest_wait()
        waits = pool.someone_waits()
        size = settings.pool_size
        if waits and oldest >= settings.reserve_pool_timeout:
            size += settings.reserve_pool_size
        room = min(size - pool.total, DIALS_AT_ONCE - self.dialing)
        if room <= 0:
            return 0
        want = 0
        if pool.ending is None and not pool.unused and not self._lacks_secret:
            want = min(settings.min_pool_size, size) - (pool.total - len(pool.leaving))
        if waits:
            coming = self.dialing + pool.opening
            want = max(want, pool.count_waiting(room + coming) - coming)
        return max(0, min(want, room))

    def dial(self) -> Host | None:
        """Take a place for a new connection and return where to; None: nothing to do now."""
        pool = self._pool
        if self.wanted() <= 0:
            return None
        now = pool.edge.now()
        self._allowance += (now - self._allowance_at) * DIALS_PER_SECOND
        self._allowance = min(self._allowance, float(DIALS_AT_ONCE))
        self._allowance_at = now
        if self._allowance < 1.0:
            return None
        for gauge in pool.gauges:
            if gauge.full:
                if pool.someone_waits() and self.hosts.ready(now):
                    gauge.make_room(pool)
                return None
        host = self.hosts.pick(now)
        if host is not None:
            self._allowance -= 1.0
            self.dialing += 1
            for gauge in pool.gauges:
                gauge.count += 1
        return host

    def connected(self, server: Server) -> None:
        """Bring a new server into its pool."""
        pool = self._pool
        self.dialing -= 1
        pool.counters.connects += 1
        pool.edge.server_opened(server)
        pool.add(server)
        server.start(chores.opening(server, pool.target.connect_query))
        pool.wake()

    def opened(self, server: Server) -> None:
        """Note that a new server can be used: whatever failed before is forgiven."""
        self.hosts.succeeded(server.host)
        self.failing_since = 0.0
        self.last_error = None

    def not_opened(self, server: Server, failure: dict[str, str]) -> None:
        """Note that a new server cannot be used: its `connect_query` failed."""
        pool = self._pool
        fields = {**failure, "M": f"connect_query failed: {failure.get('M', '')}"}
        self.last_error = ServerRefused(fields)
        now = pool.edge.now()
        self.hosts.failed(server.host, now, pool.settings.server_login_retry)
        if self.hosts.all_failing:
            self.failing_since = self.failing_since or now
        pool.edge.connect_failed(pool, str(server.host), self.last_error)

    def failed(self, host: Host, error: ServerFault, secret: Credential | None = None) -> None:
        """Note that a dial, to be logged in with `secret`, has ended without a server."""
        pool = self._pool
        now = pool.edge.now()
        self.dialing -= 1
        pool.counters.connect_failures += 1
        if error.sqlstate == codes.INVALID_PASSWORD and not pool.credentials.disprove(secret):
            pool.free_place()
            return
        self.hosts.failed(host, now, pool.settings.server_login_retry)
        self.last_error = error
        self._failed_at = now
        pool.edge.connect_failed(pool, str(host), error)
        pool.free_place()
        if self.hosts.all_failing:
            self.failing_since = self.failing_since or now
            self.refuse_waiters()
        pool.wake()

    def refuse_waiters(self) -> None:
        """Tell those who wait what the server said, where waiting longer would not help."""
        pool = self._pool
        error = self.last_error
        if error is None or not self.failing_since or pool.staying or pool.paused:
            return
        refused = error.lasting or isinstance(error, ServerRefused)
        if not error.lasting and pool.edge.now() - self.failing_since < FAILING_LIMIT:
            return
        for client in list(pool.waiting):
            if not error.lasting and client.waiting_since > self._failed_at:
                continue  # it may have passed: not without another attempt
            if client.state is ClientState.GREETING:
                client.fail(error, CloseReason.SERVER_UNAVAILABLE)
            elif client.state is ClientState.WAITING and (refused or pool.internal):
                pool.waiting.remove(client)
                client.refuse(error)


def _hosts(pool: "Pool") -> Hosts:
    target = pool.target
    return Hosts(target.hosts, target.load_balance_hosts, pool.edge.random)

"""What the core asks of the world outside, and tells it.

One object, handed to whoever needs it. The service subclasses it with sockets and a log; tests
with a script. Everything here is rare: nothing on the byte path calls it.
"""

from typing import TYPE_CHECKING

from pooler.core.errors import CloseReason, ServerFault

if TYPE_CHECKING:
    from pooler.core.broadcast import Ear
    from pooler.core.client import Client
    from pooler.core.limits import Allotment
    from pooler.core.meter import Query, Transaction
    from pooler.core.pins import Pin
    from pooler.core.pool import Pool
    from pooler.core.server import Server


class Edge:
    """Acts and observations; each one does nothing unless overridden."""

    # -- acts

    def now(self) -> float:
        """Return a monotonic time in seconds."""
        raise NotImplementedError

    def random(self) -> float:
        """Return a random number from 0 up to 1."""
        raise NotImplementedError

    def wake(self, pool: "Pool") -> None:
        """Call `pool.supply.dial` soon, until it returns None, and dial what it says."""

    def cancel(self, server: "Server") -> None:
        """Send a cancel for what `server` does; answer with `cancel_over`."""

    def hung_up(self, client: "Client") -> bool:
        """Return whether a client from which nothing is read now has gone."""
        return False

    def allotment(self, pool: tuple[str, str, str]) -> "Allotment | None":
        """Return what limits this pool's servers beside its own settings, None if nothing does."""
        return None

    def short(self, allotment: "Allotment") -> None:
        """Tell the budget soon what has become of an allotment: it is too small, or has a place."""

    def shares_lanes(self) -> bool:
        """Return whether changes of the schema are counted with those of other processes."""
        return False

    def lane_changed(self, pool: "Pool") -> None:
        """Tell the budget soon what `Lane.report` gives."""

    def ear(self, pool: "Pool") -> "Ear | None":
        """Return who listens for this pool's clients, None if it is to have its own ear."""
        return None

    def attending(self, pool: "Pool", channels: frozenset[str]) -> None:
        """Tell those who share this pool's ear what it listens to now."""

    def heard(self, pool: "Pool", channel: str, body: bytes) -> None:
        """Tell them what it has heard."""

    def deaf(self, pool: "Pool") -> None:
        """Tell them that its connection is lost, or given up."""

    def vacate(self, databases: frozenset[str]) -> None:
        """Have the idle servers of these databases leave: somebody is about to change them."""

    def functions_changed(self, database: str) -> None:
        """Have the pools of this database, by the server's name, look at its functions again."""

    def schema_changed(self, database: str, words: frozenset[bytes]) -> None:
        """Have the pools of this database, by the server's name, prepare statements anew.

        Those with one of these names, or all if there is none; see `Registry.changed`.
        """

    def depart(self, client: "Client") -> None:
        """Have a client, which is between two transactions, go on in another process."""

    # -- observations

    def client_opened(self, client: "Client") -> None:
        """A client has been told that it is logged in."""

    def client_closed(self, client: "Client", reason: CloseReason, text: str) -> None:
        """A client has gone or been sent away; `text` is what it was told, if anything."""

    def server_opened(self, server: "Server") -> None:
        """A server connection has joined its pool."""

    def server_closed(self, server: "Server", reason: CloseReason, text: str) -> None:
        """A server connection is closed; `text` is what the server said, if anything."""

    def connect_failed(self, pool: "Pool", host: str, error: ServerFault) -> None:
        """An attempt to open a server connection failed."""

    def client_pinned(self, pin: "Pin") -> None:
        """A client keeps its server, or does so for one reason more."""

    def client_unpinned(self, pin: "Pin", seconds: float) -> None:
        """It does so no longer."""

    def migrated(
        self, server: "Server", command: str, outline: str, seconds: float, waited: float
    ) -> None:
        """A client has changed the schema; of these seconds it waited for locks, -1.0: unknown."""

    def migration_failed(
        self, server: "Server", sqlstate: str, outline: str, seconds: float, waited: float
    ) -> None:
        """A client has failed to."""

    def leaked(self, server: "Server", names: tuple[str, ...]) -> None:
        """A session held what nothing hinted at: names of settings, of reasons to pin."""

    def catalog_failed(self, pool: "Pool", text: str) -> None:
        """A pool could not find out which functions hide session state."""

    def slow_query(self, client: "Client", server: "Server", query: "Query") -> None:
        """A query has taken longer than `Measures.slow_query`."""

    def transaction_traced(self, transaction: "Transaction") -> None:
        """A transaction that is to be traced is over."""

    def bug(self, where: object, error: BaseException) -> None:
        """An exception that nobody's bytes can excuse: ours."""

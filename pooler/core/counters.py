"""What a pool counts: plain integers, sums of seconds and histograms, only ever added to."""

from typing import Final

from pooler.core.errors import Origin
from pooler.core.pins import REASONS

BOUNDS: Final[tuple[float, ...]] = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Upper bounds of a histogram's buckets but the last, in seconds; each includes its own value.

A value is counted by `buckets[bucket(value)] += 1`, in place: it is on the byte path.
"""
_COUNT: Final = len(BOUNDS)

_CLASSES: Final = """
    00 01 02 03 08 09 0A 0B 0F 0L 0P 0Z 20 21 22 23 24 25 26 27 28 2B 2D 2F 34 38 39 3B 3D 3F 40 42
    44 53 54 55 57 58 72 F0 HV P0 XX
"""
CLASSES: Final = frozenset(_CLASSES.split())
"""The classes of SQLSTATEs that PostgreSQL has; functions can raise any other: `other`."""


def buckets() -> list[int]:
    """Return an empty histogram."""
    return [0] * (len(BOUNDS) + 1)


def bucket(seconds: float) -> int:
    """Return the index of a value's bucket; most are short, and cost few steps."""
    index = 0
    while index < _COUNT and seconds > BOUNDS[index]:
        index += 1
    return index


def quantile(counts: list[int], share: float) -> float:
    """Return the value below which this share of a histogram lies, as if each bucket were even.

    Nothing is known above the last bound but that; 0.0 where nothing was counted.
    """
    wanted = share * sum(counts)
    below = 0.0
    for bound, count in zip(BOUNDS, counts, strict=False):
        if count and count >= wanted:
            return below + (bound - below) * wanted / count
        wanted -= count
        below = bound
    return below if wanted > 0 else 0.0


def class_of(sqlstate: str) -> str:
    """Return the class of a SQLSTATE, one of a closed set."""
    return sqlstate[:2] if sqlstate[:2] in CLASSES else "other"


class Counters:
    """Totals of one pool since it was made; times are in seconds."""

    def __init__(self) -> None:
        self.logins = 0  # clients let in
        self.assignments = 0  # times a client was given a server
        self.queries = 0  # ReadyForQuery passed on: simple queries, Syncs, function calls
        self.transactions = 0  # of these, those that ended outside a transaction block
        self.received = 0  # bytes from clients
        self.sent = 0  # bytes to clients
        self.errors = 0  # ErrorResponses of servers passed on
        self.errors_by: dict[tuple[Origin, str], int] = {}  # and ours, by origin and class
        # times and their histograms
        self.wait_time = 0.0  # clients waiting for a server
        self.waits = buckets()
        self.query_time = 0.0  # servers at work on a query
        self.query_times = buckets()
        self.transaction_time = 0.0  # servers linked to a client
        self.transaction_times = buckets()
        self.connect_time = 0.0  # until a server connection was logged in
        self.connect_times = buckets()
        self.connects = 0  # servers logged in to
        self.connect_failures = 0
        self.cancels = 0  # cancels sent to servers
        self.cancel_requests = 0  # of clients
        self.timeouts = 0  # query, transaction and waiting times exceeded
        # prepared statements
        self.client_parses = 0  # Parse messages of clients, of named statements
        self.server_parses = 0  # those sent to servers: the statement was not there
        self.binds = 0  # of named statements
        self.prepared_hits = 0  # times that a statement was there
        self.schema_changes = 0  # seen by their command, or by a statement's result
        # changes of the schema: see `lane`
        self.migrations = 0  # statements
        self.migration_time = 0.0  # they took
        self.lock_time = 0.0  # of it waiting for locks, as far as was seen
        self.lock_timeouts = 0  # statements ended by our `lock_timeout`
        # session state
        self.pins = dict.fromkeys(REASONS, 0)  # servers that came to be kept, by reason
        self.questions = 0  # about what a session holds
        self.scans = 0  # of the catalog, for functions that hide session state
        self.changes = 0  # servers set as their next client wants
        self.refusals = 0  # statements refused by policy
        self.leaks = 0  # names of what a session held and should not have

    def error(self, origin: Origin, sqlstate: str) -> None:
        """Count an error that a client is told."""
        key = (origin, class_of(sqlstate))
        self.errors_by[key] = self.errors_by.get(key, 0) + 1

    def connected(self, seconds: float) -> None:
        """Note how long it took to open a server connection and log in."""
        self.connect_time += seconds
        self.connect_times[bucket(seconds)] += 1

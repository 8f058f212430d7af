"""What a client is told besides its replies: notifications, and notices of ours.

Like PostgreSQL's, they come while no transaction is under way. A client that has just begun to
listen hears the same from its own server and from the pool's ear (see `broadcast`) for a moment:
it is told once.
"""

from collections import deque
from typing import TYPE_CHECKING, Final

from pooler.core import policy, session
from pooler.core.errors import CloseReason, PoolerError
from pooler.wire import codes

if TYPE_CHECKING:
    from pooler.core.client import Client

ALREADY_LIMIT: Final = 1_000
"""Notifications remembered while a client hears them from two servers."""
ALREADY_FOR: Final = 2.0
"""Seconds for which they are: how much later than its own server the ear may hear them."""
_SENDER_END: Final = 9

NOTES_LIMIT: Final = 4_194_304
"""Bytes of notifications kept for a client that does not read, or stays in its transaction."""


class Notes:
    """Those of one client."""

    __slots__ = ("_already", "_client", "_due", "_later", "_size", "_warned", "overlap", "unread")

    def __init__(self, client: "Client") -> None:
        self._client = client
        self.overlap = session.NO_NAMES  # channels that its own server listens to, too
        self.unread = 0  # bytes of notifications since it stopped reading
        self._later: list[bytes] = []  # what the ear heard of these channels
        self._already: deque[tuple[float, bytes]] | None = None  # what its own server gave it
        self._due: list[bytes] = []  # what waits for its transaction's end
        self._size = 0
        self._warned = 0  # of which features, by their hints

    @property
    def nothing_due(self) -> bool:
        """Whether nothing waits to be told, or could be told twice."""
        since = self._client.pool.edge.now() - ALREADY_FOR
        twice = self._already and self._already[-1][0] >= since
        return not (self._due or self._later or self.overlap or twice)

    @property
    def warned(self) -> tuple[str, ...]:
        """Of which features the client has been warned, by their names."""
        return tuple(f.name for f in policy.FEATURES if f.flags & self._warned)

    @warned.setter
    def warned(self, names: tuple[str, ...]) -> None:
        for feature in policy.FEATURES:
            if feature.name in names:
                self._warned |= feature.flags

    def notify(self, message: bytes, channel: str = "") -> None:
        """Pass on what the ear has heard, now or when the transaction has ended."""
        if self._client.closed:
            return
        if channel in self.overlap:  # its own server brings it, and perhaps has brought it
            if len(self._later) < ALREADY_LIMIT:
                self._later.append(message)
            return
        if self._already and self._heard_already(self._already, message[_SENDER_END:]):
            return
        server = self._client.server
        if server is None or (server.ledger.settled and server.status == codes.IDLE):
            self._client.send(message)
        else:
            self._due.append(message)
            self._size += len(message)
        if self._client.full or self._size > NOTES_LIMIT:
            self.unread += len(message)
            if self.unread > NOTES_LIMIT:
                self._client.fail(
                    PoolerError(codes.PROGRAM_LIMIT_EXCEEDED, "too many notifications not read"),
                    CloseReason.SLOW,
                )

    def end_overlap(self) -> None:
        """Its own server listens no more: the rest of what the ear heard meanwhile is due."""
        if self.overlap:
            self.overlap = session.NO_NAMES
            if self._already:
                now = self._client.pool.edge.now()
                self._already = deque((now, what) for _, what in self._already)
            later, self._later = self._later, []
            for message in later:
                self.notify(message)

    def heard_here(self, message: bytes) -> None:
        """Remember a notification that its own server gave it: the ear may bring it again."""
        if self._already is None:
            self._already = deque()
        if len(self._already) < ALREADY_LIMIT:
            self._already.append((self._client.pool.edge.now(), message[_SENDER_END:]))

    def _heard_already(self, already: deque[tuple[float, bytes]], what: bytes) -> bool:
        since = self._client.pool.edge.now() - ALREADY_FOR
        while already and already[0][0] < since:
            already.popleft()
        for place in range(len(already)):
            if already[place][1] == what:
                for _ in range(place + 1):  # what came before it is older than the ear
                    already.popleft()
                return True
        return False

    def flush(self) -> None:
        """Pass on the notifications that waited for the end of the transaction."""
        if self._due:
            notes, self._due, self._size = self._due, [], 0
            self._client.send(b"".join(notes))

    def warn(self, feature: "policy.Feature") -> None:
        """Tell the client once what a feature costs it, now or when its transaction has ended."""
        if self._warned & feature.flags or self._client.closed:
            return
        self._warned |= feature.flags
        message = policy.notice(feature)
        if self._client.server is None or self._client.server.ledger.settled:
            self._client.send(message)
        else:
            self._due.append(message)

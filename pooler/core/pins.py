"""Which servers are kept by their client, since when, for which reasons and by which statement.

A pin begins when the truth shows what no other server can be given, and ends when it shows that
it is gone, or with its client or server. Reasons are a closed set: labels of metrics.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pooler.core import hints, outline, policy
from pooler.core.errors import CloseReason, PoolerError
from pooler.wire import codes

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.pool import Pool
    from pooler.core.server import Server

_SEQUENCES: Final = hints.SEQUENCES | hints.ADVANCES
_REASONS: Final = (
    (hints.SETTINGS, "settings"),
    (hints.PREPARED, "prepared"),
    (hints.CHANNELS, "listen"),
    (hints.LOCKS, "locks"),
    (hints.TEMPORARY, "temporary"),
    (hints.CURSORS, "hold"),
    (hints.ENDLESS, "load"),
    (_SEQUENCES, "sequences"),
    (hints.UNKNOWN, "unknown"),
)
REASONS: Final = tuple(name for _, name in _REASONS)
"""Why a server can be pinned, by the names of features; `unknown`: the question failed."""


def reasons_of(flags: int) -> tuple[str, ...]:
    """Return the names of these reasons."""
    return tuple(name for flag, name in _REASONS if flags & flag)


class Pin:
    """A server that only its client can use."""

    __slots__ = ("client", "flags", "server", "since", "statement")

    def __init__(
        self, client: "Client", server: "Server", flags: int, statement: str, since: float
    ) -> None:
        self.client = client
        self.server = server
        self.flags = flags
        self.statement = statement  # outline of what caused it, or its command tag; no values
        self.since = since  # in seconds of the edge's clock

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why, by the names of features."""
        return reasons_of(self.flags)

    def __str__(self) -> str:
        """As `locks, temporary: SELECT pg_advisory_lock(?)`."""
        return f"{', '.join(self.reasons)}: {self.statement}"


class Pins:
    """The pins of one pool."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._pins: dict[Server, Pin] = {}

    def __iter__(self) -> Iterator[Pin]:
        """All pins, oldest first."""
        return iter(list(self._pins.values()))

    def get(self, server: "Server") -> Pin | None:
        """Return why a server stays with its client, None if nothing keeps it there."""
        return self._pins.get(server)

    def begin(self, server: "Server", client: "Client", flags: int) -> None:
        """Note why a server stays with its client: a new pin, or other reasons for one."""
        pin = self._pins.get(server)
        if pin is not None and pin.flags == flags:
            return
        new = flags & ~(pin.flags if pin is not None else 0)
        for name in reasons_of(new):
            self._pool.counters.pins[name] += 1
        if pin is None:
            statement = _cause(server, flags)
            pin = Pin(client, server, flags, statement, self._pool.edge.now())
            self._pins[server] = pin
        elif new:
            pin.flags, pin.statement = flags, _cause(server, new)
        else:
            pin.flags = flags
            return
        self._pool.edge.client_pinned(pin)
        for feature in policy.FEATURES:
            if feature.flags & new and self._pool.rules.warns(feature):
                client.notes.warn(feature)

    def end(self, server: "Server") -> None:
        """Note that a server is not, or no longer, its client's."""
        pin = self._pins.pop(server, None)
        if pin is not None:
            self._pool.edge.client_unpinned(pin, self._pool.edge.now() - pin.since)

    def enforce(self, server: "Server") -> bool:
        """End a client that is in no transaction if its pin has lasted too long."""
        pin = self._pins.get(server)
        now = self._pool.edge.now()
        limit = pin.client.limits.pin_timeout if pin is not None else 0.0
        if pin is None or not limit or now - pin.since < limit:
            return False
        self._pool.counters.timeouts += 1
        error = PoolerError(
            codes.IDLE_SESSION_TIMEOUT,
            f"terminating connection due to {CloseReason.PIN_TIMEOUT.value}",
            f"It has kept a server connection for {now - pin.since:.0f} s "
            f"because of {', '.join(pin.reasons)}. Statement: {pin.statement}",
            _hint(pin),
        )
        pin.client.fail(error, CloseReason.PIN_TIMEOUT)
        return True


def _hint(pin: Pin) -> str:
    found = [policy.BY_NAME[name].instead for name in pin.reasons if name in policy.BY_NAME]
    return f"Use {found[0]}." if found else ""


def _cause(server: "Server", flags: int) -> str:
    """Return the outline of the first statement that hinted at one of these."""
    for hinted, cause in server.causes:
        if hinted & flags:
            if isinstance(cause, bytes):
                return cause.decode("ascii", "replace")
            return outline.shown(cause.text)
    return ""

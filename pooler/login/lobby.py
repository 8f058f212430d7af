"""Who has connected and not logged in yet, and how those who connect now are received."""

from typing import TYPE_CHECKING, Final

from pooler.config import Config
from pooler.config.certificates import ClientSide
from pooler.core.errors import CloseReason, PoolerError
from pooler.core.limits import Gauge
from pooler.wire.logins import NO_ENCRYPTION, Encryption

if TYPE_CHECKING:
    from pooler.login.greeter import Greeter

BEYOND_LIMIT: Final = 100
"""Connections that have not logged in yet, above `max_client_connections`, before new ones are
dropped unread: enough for the cancels and refusals that must get through when all is full."""


class Lobby:
    """The greeters of one pooler."""

    def __init__(self, clients: Gauge) -> None:
        """`clients` counts those who have logged in."""
        self._clients = clients
        self._greeters: dict[Greeter, None] = {}
        # what the configuration in force says
        self.timeout = 0.0  # seconds that a login may take, 0.0: any
        self.encryption: Encryption = NO_ENCRYPTION
        self.certificate: ClientSide | None = None

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._greeters)

    def configure(self, config: Config) -> None:
        """Receive those who come from now on as `config` says."""
        self.timeout = config.timeouts.client_login_timeout
        self.encryption = config.encryption
        self.certificate = config.certificates.clients

    def enter(self, greeter: "Greeter", limited: bool) -> bool:
        """Take in a connection that starts its login; False: there are too many."""
        limit = self._clients.limit
        if limited and limit and len(self._greeters) + self._clients.count >= limit + BEYOND_LIMIT:
            return False
        self._greeters[greeter] = None
        return True

    def leave(self, greeter: "Greeter") -> None:
        """Let go of one whose login is over, one way or the other."""
        self._greeters.pop(greeter, None)

    def hurry(self, now: float) -> None:
        """Send those away whose time is over."""
        for greeter in [each for each in self._greeters if each.deadline <= now]:
            greeter.too_slow()

    def clear(self, error: PoolerError, reason: CloseReason) -> None:
        """Send everybody away."""
        for greeter in list(self._greeters):
            greeter.turn_away(error, reason)

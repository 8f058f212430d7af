"""Who may log in, and how they must prove who they are: answers a login dialogue's `Find`.

Decides by the configuration alone; the proof itself is the dialogue's business.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pooler.config import Config
from pooler.wire.logins import Account, Find


@dataclass(frozen=True, slots=True)
class Connection:
    """What is known of a connection before anybody has said a word on it."""

    address: str
    """The other end's IP address, "" on a unix socket."""
    uid: int | None = None
    """The other end's user id on a unix socket, as the kernel vouches for it."""


class Authenticator:
    """Looks accounts up in the configuration that is in force."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config

    def find(self, connection: Connection, request: Find) -> Account | Awaitable[Account]:
        """Return the account, at once where nobody has to be asked; LoginFailed: not from there."""
        config = self._config()
        return Account(config.auth.type.value, config.secret(request.user))

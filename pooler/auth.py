"""Who may log in, and how they must prove who they are: answers a login dialogue's `Find`.

Decides by the configuration alone; the proof itself is the dialogue's business.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pooler.config import Config
from pooler.wire.logins import Account, Find, Method

LookUp = Callable[[str, str], Awaitable[str | None]]
"""Asks for what is stored of (database, user)."""


@dataclass(frozen=True, slots=True)
class Connection:
    """What is known of a connection before anybody has said a word on it."""

    address: str
    """The other end's IP address, "" on a unix socket."""
    uid: int | None = None
    """The other end's user id on a unix socket, as the kernel vouches for it."""


class Authenticator:
    """Looks accounts up in the configuration that is in force."""

    def __init__(self, config: Callable[[], Config], lookup: LookUp | None = None) -> None:
        self._config = config
        self._lookup = lookup

    def find(self, connection: Connection, request: Find) -> Account | Awaitable[Account]:
        """Return the account, at once where nobody has to be asked; LoginFailed: not from there."""
        config = self._config()
        secret = config.secret(request.user)
        method = config.auth.type.value
        lookup = self._lookup
        if secret is None and method != "trust" and lookup and config.lookup(request.database):
            return self._looked_up(lookup, method, request)
        return Account(method, secret)

    async def _looked_up(self, lookup: LookUp, method: Method, request: Find) -> Account:
        """Return the account of a user who is not in the configuration."""
        return Account(method, await lookup(request.database, request.user))

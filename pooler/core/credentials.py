"""What a pool's servers are logged in to with.

That is the password that is configured for their user; without one, what that user proved to us
when it logged in itself, until a server refuses it.
"""

from typing import TYPE_CHECKING

from pooler.wire.logins import Credential
from pooler.wire.passwords import Kind, kind_of

if TYPE_CHECKING:
    from pooler.core.pool import Pool


class Credentials:
    """Those of one pool."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self.learnt: Credential | None = None  # of the newest login of the servers' own user

    @property
    def secret(self) -> Credential | None:
        """What to log in with now; None: nothing is known yet."""
        own = self._pool.target.password
        if own is not None and (self.learnt is None or kind_of(own) is not Kind.MD5):
            return own
        return self.learnt

    def learn(self, credential: Credential | None) -> None:
        """Log in with what the servers' user logged in to us with, from now on."""
        if credential is not None and credential != self.learnt:
            self.learnt = credential
            self._pool.supply.forgive()

    def disprove(self, secret: Credential | None) -> bool:
        """A server refused this secret: learn another; False: we have another already."""
        if secret is not self.secret:
            return False
        self.learnt = None
        return True

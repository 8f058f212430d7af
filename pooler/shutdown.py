"""How the pooler ends: which connections are waited for.

In order of haste; a second wish may only be for more of it.
"""

import asyncio
from enum import Enum


class Stop(Enum):
    """What is waited for."""

    CLIENTS = "WAIT_FOR_CLIENTS"
    """Until every client has left."""
    SERVERS = "WAIT_FOR_SERVERS"
    """Until every transaction has ended."""
    NOW = ""
    """Nothing."""

    @property
    def haste(self) -> int:
        """Return a number that is higher the less is waited for."""
        return list(Stop).index(self)


class End:
    """The end of a process, once it is wanted."""

    def __init__(self) -> None:
        self.wanted = False
        self.how = Stop.NOW
        self.timeout: float | None = None
        self.changed = asyncio.Event()
        """Set with each wish."""

    def want(self, how: Stop, timeout: float | None) -> None:
        """Take a wish, which the same one again makes one for no waiting at all."""
        if self.wanted and how.haste <= self.how.haste:
            how = Stop.NOW
        self.wanted, self.how, self.timeout = True, how, timeout
        self.changed.set()

    def patience(self, shutdown_timeout: float) -> float | None:
        """Return the seconds that transactions have to end, None if there is no limit.

        Where nothing else is wished it is `shutdown_timeout`, whose 0 is none.
        """
        if self.how is Stop.NOW:
            return 0.0
        if self.how is Stop.SERVERS and self.timeout is not None:
            return self.timeout
        return shutdown_timeout or None

"""How the pooler ends: which connections are waited for.

In order of haste; a second wish may only be for more of it.
"""

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

"""Cancel keys: what a client is told in BackendKeyData, and who it is when it comes back.

The process id is ours, not a server's: the client's server changes with each transaction. A
secret is compared in constant time.
"""

from collections.abc import Callable
from hmac import compare_digest
from typing import Final, Protocol

_PIDS: Final = 0x7FFF_FFFF  # positive as int4, as drivers of languages without unsigned ints expect
_SECRET_3_0: Final = 4
_SECRET_3_2: Final = 32  # PostgreSQL 18's MAX_CANCEL_KEY_LENGTH


class Holder(Protocol):
    """Who has a key: a client, or a session of the console."""

    secret: bytes

    def cancel(self) -> None:
        """Do what its cancel request asks for."""


class CancelKeys:
    """The keys of all logged-in clients."""

    def __init__(self, randbytes: Callable[[int], bytes]) -> None:
        self._randbytes = randbytes
        self._clients: dict[int, Holder] = {}

    def issue(self, client: Holder, minor: int) -> tuple[int, bytes]:
        """Return a new (process id, secret) for a client of protocol 3.`minor`."""
        pid = 0
        while pid == 0 or pid in self._clients:
            pid = int.from_bytes(self._randbytes(4), "big") & _PIDS
        self._clients[pid] = client
        return pid, self._randbytes(_SECRET_3_2 if minor >= 2 else _SECRET_3_0)

    def find(self, pid: int, secret: bytes) -> Holder | None:
        """Return the client that holds this key, None if nobody does."""
        client = self._clients.get(pid)
        if client is None or not compare_digest(client.secret, secret):
            return None
        return client

    def forget(self, pid: int) -> None:
        """Drop the key of a client that has gone."""
        self._clients.pop(pid, None)

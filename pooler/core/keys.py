"""Cancel keys: what a client is told in BackendKeyData, and who it is when it comes back.

The process id is ours, not a server's: the client's server changes with each transaction. It says
where the client is, should the cancel request reach another process: which of several poolers
(`peer`), and which process there (`slot`). It is above all process ids that Linux gives, so that
`pg_terminate_backend` with it finds nobody, and never a server that somebody else has just now. A
secret is compared in constant time.
"""

from collections.abc import Callable
from hmac import compare_digest
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from pooler.core.client import Client

# 31 bits: positive as int4, as drivers of languages without unsigned ints expect.
PEER_BITS: Final = 8
SLOT_BITS: Final = 6
_NUMBER_BITS: Final = 31 - PEER_BITS - 1 - SLOT_BITS
_NO_PROCESS: Final = 1 << SLOT_BITS + _NUMBER_BITS  # 2^22, PID_MAX_LIMIT
SLOTS: Final = 1 << SLOT_BITS
_NUMBERS: Final = 1 << _NUMBER_BITS
MOST: Final = _NUMBERS * 7 // 8
"""Clients with a key in one process, at most: above that, free numbers would be hard to find."""
_SECRET_3_0: Final = 4
_SECRET_3_2: Final = 32  # PostgreSQL 18's MAX_CANCEL_KEY_LENGTH


class Holder(Protocol):
    """Who has a key: a client, or a session of the console."""

    secret: bytes

    def cancel(self) -> None:
        """Do what its cancel request asks for."""


def peer_of(pid: int) -> int:
    """Return the number of the pooler that issued a process id."""
    return pid >> (1 + SLOT_BITS + _NUMBER_BITS)


class CancelKeys:
    """The keys of all logged-in clients."""

    def __init__(self, randbytes: Callable[[int], bytes]) -> None:
        self._randbytes = randbytes
        self._clients: dict[int, Holder] = {}
        self.peer = 0  # the number of this pooler among its peers; 0: they have none
        self.slot = 0  # that of this process among those of the pooler

    @property
    def full(self) -> bool:
        """Return whether no more keys can be issued."""
        return len(self._clients) >= MOST

    def issue(self, client: Holder, minor: int) -> tuple[int, bytes]:
        """Return a new (process id, secret) for a client of protocol 3.`minor`."""
        here = (self.peer << 1 + SLOT_BITS | self.slot) << _NUMBER_BITS | _NO_PROCESS
        size = _SECRET_3_2 if minor >= 2 else _SECRET_3_0
        while True:
            drawn = self._randbytes(4 + size)
            pid = here | int.from_bytes(drawn[:4], "big") % _NUMBERS
            if pid not in self._clients:  # and never 0, for it is no process's
                self._clients[pid] = client
                return pid, drawn[4:]

    def adopt(self, client: "Client", pid: int, secret: bytes) -> None:
        """Let a client have the key that another process has issued to it."""
        self.forget(client.pid)
        if pid in self._clients:
            raise ValueError(f"the process id {pid} is another client's")
        client.pid, client.secret = pid, secret
        self._clients[pid] = client

    def find(self, pid: int, secret: bytes) -> Holder | None:
        """Return the client that holds this key, None if nobody does."""
        client = self._clients.get(pid)
        if client is None or not compare_digest(client.secret, secret):
            return None
        return client

    def forget(self, pid: int) -> None:
        """Drop the key of a client that has gone."""
        self._clients.pop(pid, None)

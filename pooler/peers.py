"""Other poolers behind the same address: cancel requests are sent on to the one with the client.

A cancel request comes on a connection of its own, so that a load balancer, SO_REUSEPORT or a
headless service may bring it to any of several poolers. Its process id says who issued it (see
`core.keys`): with numbers configured that one is asked, else all are. Whoever is asked asks
nobody but the processes of its own pooler. What is sent on is marked by a trailer of the secret,
and bound: so many of an address in a second, so many at once.

A stranger learns nothing: there is no answer but the end of the connection, which comes when those
asked have hung up, whether the key was anybody's or not.
"""

import asyncio
import contextlib
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from pooler.config import Config
from pooler.config.units import split_address
from pooler.core.keys import peer_of
from pooler.core.settings import Host
from pooler.sockets import open_streams
from pooler.wire import build
from pooler.wire.parse import CancelRequest

TRAILER: Final = b"\0pooler\1"
"""Behind the secret of a request that a peer has sent on; no secret of ours is so long."""

RATE: Final = 50.0
"""Requests of an address sent on in a second, in the long run; a whole farm may be behind one."""
BURST: Final = 200.0
"""How many at a time."""
ADDRESSES: Final = 1_000
"""Of which this is remembered."""
AT_ONCE: Final = 64
"""Requests that are being sent on."""
PATIENCE: Final = 5.0
"""Seconds for a peer to take a request and hang up."""
RESOLVED_FOR: Final = 15.0
"""Seconds for which the addresses of a name are believed: as PgBouncer's dns_max_ttl."""
MEMBERS: Final = 64
"""Addresses asked, at most: a name may have any number."""


class Peers:
    """The other poolers."""

    def __init__(self, config: Callable[[], Config], now: Callable[[], float]) -> None:
        self._config = config
        self._now = now
        self._allowance: OrderedDict[str, tuple[float, float]] = OrderedDict()  # and as of when
        self._resolved: dict[Host, tuple[float, list[Host]]] = {}
        self.under_way = 0
        """Requests that are being sent on."""
        # counted
        self.sent = 0
        self.dropped = 0

    def worth_asking(self, pid: int) -> bool:
        """Return whether a key that is not ours may be a peer's."""
        peers = self._config().peers
        return bool(peers.members or peers.hosts) and not (peers.id and peer_of(pid) == peers.id)

    async def ask(self, request: CancelRequest, address: str) -> None:
        """Send a request on that came from `address`; wait until it has been dealt with."""
        if self.under_way >= AT_ONCE or not self._allowed(address):
            self.dropped += 1
            return
        self.under_way += 1
        self.sent += 1
        try:
            data = build.cancel_request(request.pid, request.secret + TRAILER)
            hosts = await self._asked(peer_of(request.pid))
            await asyncio.gather(*(_deliver(host, data) for host in hosts))
        finally:
            self.under_way -= 1

    def _allowed(self, address: str) -> bool:
        """Count a request; return whether this address has not made too many."""
        now = self._now()
        allowance, since = self._allowance.pop(address, (BURST, now))
        allowance = min(BURST, allowance + (now - since) * RATE)
        allowed = allowance >= 1.0
        self._allowance[address] = (allowance - 1.0 if allowed else allowance, now)
        if len(self._allowance) > ADDRESSES:
            self._allowance.popitem(last=False)
        return allowed

    async def _asked(self, number: int) -> list[Host]:
        """Return the addresses of the peer with this number; of all, if it is not known."""
        peers = self._config().peers
        known = peers.members.get(number)
        members = peers.members.values() if known is None else (known,)
        texts = (*members, *(peers.hosts if known is None else ()))
        wanted = [Host(*_address(text, peers.port)) for text in texts]
        found: dict[Host, None] = {}
        for host in wanted:
            found.update(dict.fromkeys(await self._addresses(host)))
        return list(found)[:MEMBERS]

    async def _addresses(self, host: Host) -> Iterable[Host]:
        """Return every address of a name; what it last had, if it cannot be resolved now."""
        if host.is_unix:
            return (host,)
        since, known = self._resolved.get(host, (0.0, []))
        now = self._now()
        if known and now - since < RESOLVED_FOR:
            return known
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError, UnicodeError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                found = await loop.getaddrinfo(host.host, host.port, type=socket.SOCK_STREAM)
            known = [Host(str(name[0]), int(name[1])) for *_, name in found]
            if len(self._resolved) >= MEMBERS:
                self._resolved.clear()
            self._resolved[host] = (now, known)
        return known


def sent_on(request: CancelRequest) -> CancelRequest | None:
    """Return what a peer was asked, if it was a peer that sent this on."""
    secret = request.secret
    if not secret.endswith(TRAILER) or len(secret) == len(TRAILER):
        return None
    return CancelRequest(request.pid, secret[: -len(TRAILER)])


async def _deliver(host: Host, data: bytes) -> None:
    """Give a peer a request, and wait until it hangs up; it is no matter if that fails."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            reader, writer = await open_streams(host)
            try:
                writer.write(data)
                await reader.read(1)
            finally:
                writer.close()


def _address(text: str, port: int) -> tuple[str, int]:
    host, own = split_address(text)
    return host, own or port

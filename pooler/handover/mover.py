"""The clients of one process on their way to another, each as soon as it is at rest.

Who is told of them (`tell`) is the new process, or somebody between. What it has not acknowledged
(`took`) when it goes is taken back.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from pooler.core import moving
from pooler.core.budget import PoolName
from pooler.core.errors import PoolerError
from pooler.core.peer import MOVING
from pooler.core.settings import PoolMode
from pooler.handover.channels import Channels

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.pool import Pool
    from pooler.service import Service

WINDOW: Final = 256
"""Clients on their way at once, not acknowledged yet."""

_LOOK: Final = 0.05  # seconds

Tell = Callable[..., None]
"""Sends a message, its arguments and `files`."""


class Mover:
    """Those of one process, in one upgrade."""

    def __init__(
        self,
        service: "Service",
        tell: Tell,
        lack: Callable[[PoolName, list[str]], None],
        hears: Callable[[int], None],
    ) -> None:
        """`lack` and `hears` are for the `Channels` that clients listen to."""
        self._service = service
        self._tell = tell
        self.moved = 0
        self._moving = False
        self._lost = asyncio.Event()
        self._packer = moving.Packer()
        self._statements: dict[int, moving.Packed] = {}
        self._due: dict[Client, None] = {}  # perhaps at rest, in this order
        self.channels = Channels(service.router, lack, hears, self._listeners_soon)
        self._later: set[Client] = set()  # not at rest, for a reason whose end nobody reports
        self._transit: dict[int, tuple[asyncio.Transport, moving.Packed]] = {}
        self._scheduled = False

    def lost(self) -> None:
        """Hear that the other process has gone."""
        self._lost.set()

    async def run(self) -> bool:
        """Move every client that can be, until none is left or the time is over.

        False: the other process has gone, or this one is stopping.
        """
        service = self._service
        self._moving = True
        for pool in list(service.router.pools.values()):
            for client in list(pool.clients):
                if can_move(client):
                    pool.hand_over(client, pool)
        timeout = service.config.upgrade.timeout
        end = service.now() + timeout if timeout else float("inf")
        while not (self._lost.is_set() or service.stopping):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), _LOOK)
                break
            left = service.router.clients.count + len(self._transit) + service.logging_in
            if not left or service.now() >= end:
                return True
            later, self._later = self._later, set()
            for client in later:
                self.soon(client)
        self._moving = False
        return False

    def waits(self, clients: "Iterable[Client]") -> None:
        """Hear that somebody may be waiting in a pool."""
        if self._moving:
            for client in clients:
                self.soon(client)

    def soon(self, client: "Client") -> None:
        """Move a client when what is going on is over, if it is at rest then."""
        if self._moving and can_move(client):
            self._due[client] = None
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and self._due and len(self._transit) < WINDOW:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._move_due)

    def _move_due(self) -> None:
        self._scheduled = False
        while self._due and len(self._transit) < WINDOW and not self._lost.is_set():
            client = next(iter(self._due))
            del self._due[client]
            if not client.closed:
                self._try(client)

    def _try(self, client: "Client") -> None:
        transport: Any = client.transport
        if client.server is not None or client.asked is not None:
            client.next_pool = client.pool  # when its transaction is over
        elif (
            moving.at_rest(client)
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        ):
            self._move(client, transport)
        else:
            self._later.add(client)

    def _listeners_soon(self, pool: "Pool") -> None:
        for client in list(pool.clients):
            if client.listening:
                self.soon(client)

    def _move(self, client: "Client", transport: Any) -> None:
        heard = self.channels.position(client)
        if heard is None:  # the successor does not hear its channels yet
            return
        client.brake(MOVING)  # what it sends from here on, the other process reads
        for statement in self._packer.statements(client):
            self._statements[statement["number"]] = statement
            self._tell("statement", statement)
        packed = self._packer.pack(client, heard)
        file = transport.get_extra_info("socket").fileno()
        try:
            self._tell("client", packed, files=[file])
        except OSError:  # too many open files, which will be fewer
            client.unbrake(MOVING)
            self._later.add(client)
            return
        client.pool.depart(client)
        transport.set_protocol(_Departed())
        self._transit[client.ident] = transport, packed

    def took(self, ident: int) -> None:
        """The client is another's: let go of our descriptor, which ends no connection."""
        transport, packed = self._transit.pop(ident)
        transport.close()
        self.moved += 1
        self._service.client_moved(packed["database"], packed["user"])
        self._schedule()

    def take_back(self) -> int:
        """Serve whom nobody has acknowledged; return how many there are."""
        router = self._service.router
        self.channels.end()
        for pool in router.pools.values():
            for client in pool.clients:
                if client.next_pool is pool:
                    client.next_pool = None
        transit, self._transit = self._transit, {}
        for transport, packed in transit.values():
            try:
                client = moving.unpack(router, transport, packed, self._statements)
            except PoolerError as error:
                transport.write(error.response())
                transport.close()
                self._service.not_admitted(packed["database"], packed["user"])
                continue
            transport.set_protocol(client)  # type: ignore[arg-type]  # a protocol by shape
            client.braked |= MOVING
            moving.arrive(client, packed)
            client.unbrake(MOVING)
        return len(transit)


class _Departed(asyncio.Protocol):
    """What is left of a client on its way: nothing is read, and its end is the other's."""


def can_move(client: "Client") -> bool:
    """Return whether a client can ever move, if its connection lives so long."""
    return (
        not client.internal
        and not client.pool.single_use
        and client.transport.get_extra_info("tls") is None
        and not (client.server is not None and client.mode is PoolMode.SESSION)
    )

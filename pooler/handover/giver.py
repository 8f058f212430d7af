"""The old process's part of an upgrade: starts its successor, and gives it what it has.

Up to `serving` nothing has changed but that connections wait in the kernel for a moment; from then
on clients move one by one. If the successor goes, at any time, what it has not acknowledged is
taken back, and this process listens and serves again.
"""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import pooler
from pooler import logs
from pooler.core import moving
from pooler.core.errors import CloseReason, PoolerError
from pooler.core.peer import MOVING
from pooler.core.settings import PoolMode
from pooler.handover.channel import FORMAT, Broken, Channel, Message, close_all
from pooler.handover.places import Places
from pooler.handover.secrets import packed_credential
from pooler.notify import notify
from pooler.wire import codes

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.pool import Pool
    from pooler.service import Service

VARIABLE: Final = "POOLER_SUCCEEDS"
"""In the environment of a successor: the descriptor of its end of the channel."""

START_LIMIT: Final = 60.0
"""Seconds in which a successor has to be ready."""

WINDOW: Final = 256
"""Clients on their way at once, not acknowledged yet."""

IDENT_GAP: Final = 100_000
"""Numbers left to this process for those who are logging in while it ends."""

_LOOK: Final = 0.05  # seconds


class UpgradeFailed(PoolerError):
    """The successor is not there; the text says why."""

    def __init__(self, text: str) -> None:
        super().__init__(codes.OBJECT_NOT_IN_PREREQUISITE_STATE, text)


class Giver:
    """One upgrade."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self.moving = False
        """The successor serves; clients are on their way."""
        self.pid = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        self._suspended = False
        self._lost = asyncio.Event()
        self._packer = moving.Packer()
        self._statements: dict[int, moving.Packed] = {}
        self._due: deque[Client] = deque()  # to be looked at: perhaps at rest
        self._later: set[Client] = set()  # not at rest for a reason that nobody reports
        self._transit: dict[int, tuple[asyncio.Transport, moving.Packed]] = {}
        self._scheduled = False
        self.moved = 0
        self.places = Places(service.router, self._send, self._needed, keeps=False)

    # -- the successor

    async def start(self) -> int:
        """Start a successor; return its pid once it serves. UpgradeFailed: all is as before."""
        try:
            self._launch()
            try:
                async with asyncio.timeout(START_LIMIT):
                    await self._agree()
            except TimeoutError:
                raise UpgradeFailed(
                    f"the new process was not ready within {START_LIMIT:.0f} s"
                ) from None
        except BaseException as error:
            await self._give_up()
            if isinstance(error, Broken | OSError):
                raise UpgradeFailed(str(error)) from error
            raise
        self.moving = True
        notify(f"MAINPID={self.pid}")
        self._send({"is": "main"})
        return self.pid

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            environment = {**os.environ, VARIABLE: str(theirs.fileno())}
            self._process = subprocess.Popen(
                sys.orig_argv,
                executable=sys.executable,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
            self.pid = self._process.pid
            self._channel = Channel(ours, self._received, self._ended)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    async def _agree(self) -> None:
        """Lead the successor to where it serves."""
        service = self._service
        hello = await self._hear("hello")
        if hello.get("format") != FORMAT:
            raise Broken(
                f"the new process speaks format {hello.get('format')}, this one {FORMAT}: "
                "stop this one and start the other"
            )
        sockets, fds = service.open_sockets()
        self._send(
            {
                "is": "welcome",
                "version": pooler.__version__,
                "idents": service.router.idents + IDENT_GAP,
                "slot": service.router.keys.slot,
                "sockets": sockets,
            },
            fds,
        )
        await self._hear("prepared")
        self._suspended = True
        await service.suspend()
        self.places.start()
        self._send({"is": "pools", "pools": self._pools()})
        await self._hear("serving")

    def _pools(self) -> list[Message]:
        return [
            {
                "pool": key,
                "places": pool.total,
                "learnt": packed_credential(pool.learnt),
                "welcome": None if pool.welcome is None else dict(pool.welcome),
            }
            for key, pool in self._service.router.pools.items()
        ]

    async def _hear(self, what: str) -> Message:
        said = await self._said.get()
        if said["is"] == "failed":
            raise Broken(str(said.get("why")))
        if said["is"] != what:
            raise Broken(f"the new process said {said['is']!r} in place of {what!r}")
        return said

    async def _give_up(self) -> None:
        """Be rid of a successor that does not serve, and go on as before."""
        process = self._process
        if self._channel is not None:
            self._channel.close()
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.to_thread(process.wait)
        await self._resume()

    async def _resume(self) -> None:
        """Listen again, with all places."""
        if self._suspended:
            self._suspended = False
            self.places.end()
            await self._service.resume()

    def _send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        if self._channel is not None:
            self._channel.send(message, fds)

    def _received(self, message: Message, fds: list[int]) -> None:
        close_all(fds)  # a successor sends none
        match message["is"]:
            case "took":
                self._took(message["ident"])
            case "want":
                self.places.wanted(message)
            case "give":
                self.places.given(message)
            case "cancel":
                self._service.cancel_here(message["pid"], bytes.fromhex(message["secret"]))
            case _:
                self._said.put_nowait(message)

    def _ended(self, why: str) -> None:
        status = self._process.poll() if self._process is not None else None
        said = f"the new process has gone: {why}"
        if status:
            said = f"the new process has ended with status {status}; its log says why"
        self._said.put_nowait({"is": "failed", "why": said})
        self._lost.set()

    def cancel(self, pid: int, secret: bytes) -> None:
        """Ask the successor whether it holds this client."""
        self._send({"is": "cancel", "pid": pid, "secret": secret.hex()})

    # -- clients

    async def move_all(self) -> bool:
        """Move every client that can be; True when none is left, False when the successor went."""
        service = self._service
        for pool in list(service.router.pools.values()):
            for client in list(pool.clients):
                if can_move(client):
                    pool.hand_over(client, pool)
        for pool in list(service.router.pools.values()):
            self.places.wake(pool)
        timeout = service.config.upgrade.timeout
        end = service.now() + timeout if timeout else float("inf")
        while not self._lost.is_set():
            if not (service.router.clients.count or self._transit or service.logging_in):
                return True
            if service.now() >= end:
                return True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), _LOOK)
            later, self._later = self._later, set()
            for client in later:
                self.soon(client)
        await self._take_back()
        return False

    def _needed(self, pool: "Pool") -> bool:
        """Return whether a pool has a client that stays: the others take no new server."""
        return any(not client.internal and not can_move(client) for client in pool.clients)

    def wake(self, pool: "Pool") -> None:
        """Hear that somebody waits in a pool, or that a place of it has become free."""
        self.places.wake(pool)
        if self.moving:
            for client in pool.waiting:
                self.soon(client)

    def soon(self, client: "Client") -> None:
        """Move a client when what is going on is over, if it is at rest then."""
        if self.moving and can_move(client):
            self._due.append(client)
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and self._due and len(self._transit) < WINDOW:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._move_due)

    def _move_due(self) -> None:
        self._scheduled = False
        while self._due and len(self._transit) < WINDOW and not self._lost.is_set():
            client = self._due.popleft()
            if not client.closed:
                self._try(client)

    def _try(self, client: "Client") -> None:
        transport = client.transport
        if client.server is not None or client.asked is not None:
            client.next_pool = client.pool  # when its transaction is over
        elif moving.at_rest(client) and not transport.is_closing() and not unsent(transport):
            self._move(client)
        else:
            self._later.add(client)

    def _move(self, client: "Client") -> None:
        transport: Any = client.transport
        client.brake(MOVING)  # what it sends from here on, the successor reads
        for statement in self._packer.statements(client):
            self._statements[statement["number"]] = statement
            self._send({"is": "statement", **statement})
        packed = self._packer.pack(client)
        client.pool.depart(client)
        transport.set_protocol(_Departed())
        self._transit[client.ident] = transport, packed
        fd = transport.get_extra_info("socket").fileno()
        self._send({"is": "client", **packed}, (fd,))

    def _took(self, ident: int) -> None:
        """The client is the successor's: let go of our descriptor, which ends no connection."""
        transport, _ = self._transit.pop(ident)
        transport.close()
        self.moved += 1
        self._schedule()

    async def _take_back(self) -> None:
        """The successor has gone, and with it the clients that it had acknowledged."""
        service = self._service
        self.moving = False
        logs.event(logging.ERROR, "the new process has gone", pid=self.pid, clients=self.moved)
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
        await self._resume()
        notify(f"MAINPID={os.getpid()}")
        for pool in service.router.pools.values():
            for client in pool.clients:
                if client.next_pool is pool:
                    client.next_pool = None
        transit, self._transit = self._transit, {}
        for transport, packed in transit.values():
            try:
                client = moving.unpack(service.router, transport, packed, self._statements)
            except PoolerError as error:
                transport.write(error.response())
                transport.close()
                continue
            transport.set_protocol(client)  # type: ignore[arg-type]  # a protocol by shape
            client.braked |= MOVING
            moving.arrive(client, packed)
            client.unbrake(MOVING)

    def close(self) -> None:
        """Nothing is left to be given."""
        if self._channel is not None:
            self._send({"is": "done"})
            self._channel.close()


class _Departed(asyncio.Protocol):
    """What is left of a client on its way: nothing is read, and its end is the successor's."""


def can_move(client: "Client") -> bool:
    """Return whether a client can ever move, if its connection lives so long."""
    return (
        not client.internal
        and not client.pool.single_use
        and client.transport.get_extra_info("tls") is None
        and not (client.server is not None and client.mode is PoolMode.SESSION)
    )


def unsent(transport: Any) -> int:
    """Return how many bytes are still to be written to a client."""
    size: int = transport.get_write_buffer_size()
    return size


def left_behind() -> PoolerError:
    """Return what those are told who could not move in time."""
    return PoolerError(
        codes.ADMIN_SHUTDOWN,
        "terminating connection because the pooler is being replaced by a new process",
    )


REASON: Final = CloseReason.SHUTDOWN

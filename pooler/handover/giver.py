"""The old process's part of an upgrade: starts its successor, and gives it what it has.

Up to `serve` nothing has changed but that connections wait in the kernel for a moment; from then
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
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import pooler
from pooler import logs
from pooler.channel import Channel, ChannelLost
from pooler.core import moving
from pooler.core.errors import PoolerError
from pooler.core.peer import MOVING
from pooler.core.settings import PoolMode
from pooler.handover import FORMAT, VARIABLE
from pooler.handover.channels import Channels
from pooler.handover.secrets import packed_credential
from pooler.handover.shares import Shares, name_of
from pooler.notify import notify
from pooler.wire import codes

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.pool import Pool
    from pooler.service import Service

START_LIMIT: Final = 60.0
"""Seconds in which a successor has to be ready."""

LAST_WORDS: Final = 10.0
"""Seconds that a successor which does not serve has to end by itself."""

WINDOW: Final = 256
"""Clients on their way at once, not acknowledged yet."""

IDENT_GAP: Final = 100_000
"""Numbers left to this process for those who are logging in while it ends."""

_LOOK: Final = 0.05  # seconds


class UpgradeFailed(PoolerError):
    """There is no successor; all is as before."""

    def __init__(self, text: str, detail: str = "") -> None:
        super().__init__(codes.OBJECT_NOT_IN_PREREQUISITE_STATE, text, detail)


class Giver:
    """One upgrade."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self.shares = Shares(service.router, lambda news: self._channel.tell("report", news))
        self.moving = False  # the successor serves
        self.moved = 0
        self.pid = 0
        self._process: subprocess.Popen[bytes]
        self._channel: Channel
        self._here = asyncio.Event()  # the successor has said hello
        self._lost = asyncio.Event()
        self.suspended = False  # listens no more, and shares its places
        self._packer = moving.Packer()
        self._statements: dict[int, moving.Packed] = {}
        self._due: dict[Client, None] = {}  # perhaps at rest, in this order
        self._channels = Channels(
            lambda *what: self._channel.tell("follow", *what), self._listeners_soon
        )
        self._later: set[Client] = set()  # not at rest, for a reason whose end nobody reports
        self._transit: dict[int, tuple[asyncio.Transport, moving.Packed]] = {}
        self._scheduled = False

    # -- the successor

    async def start(self) -> int:
        """Start a successor; return its process id once it serves. UpgradeFailed: there is none."""
        self._launch()
        try:
            async with asyncio.timeout(START_LIMIT):
                await self._agree()
        except TimeoutError:
            await self._give_up()
            text = f"the new process was not ready within {START_LIMIT:.0f} s"
            raise UpgradeFailed(text) from None
        except ChannelLost:
            status = await self._give_up()
            text = f"the new process ended before it was ready, with status {status}"
            raise UpgradeFailed(text, "Its last lines in the log say why.") from None
        except PoolerError as error:  # it ends by itself, and says so in the log
            self._channel.close()
            self._lost.set()
            await self._give_up()
            text = f"the new process could not take over: {error.text}"
            raise UpgradeFailed(text, error.detail) from error
        except BaseException:
            await self._give_up()
            raise
        self.moving = True
        notify(f"MAINPID={self.pid}")
        self._channel.tell("main")
        return self.pid

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                sys.orig_argv,
                executable=sys.executable,
                env={**os.environ, VARIABLE: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self.pid = self._process.pid
        self._channel = Channel(
            ours,
            {
                "hello": self._hello,
                "took": self._took,
                "allot": lambda name, limit, round_: self.shares.allot(
                    name_of(name), limit, round_
                ),
                "cancel": self._service.cancel_with,
                "hold": self._hold,
                "stop": self._service.stop,
            },
            self._gone,
        )

    def _hello(self, form: int, version: str) -> None:
        if form != FORMAT:
            raise PoolerError(
                codes.FEATURE_NOT_SUPPORTED,
                f"version {version} takes over in another format than version {pooler.__version__}",
                hint="Stop the one and start the other.",
            )
        self._here.set()

    def _hold(self, holds: list[list[Any]]) -> None:
        """Pause, or go on, as the successor has been told to."""
        self._service.router.holds.take(holds, self._service.now())
        self._service.router.hold()

    def _gone(self) -> None:
        self._lost.set()
        self._here.set()

    async def _agree(self) -> None:
        """Lead the successor to where it serves."""
        service = self._service
        await self._here.wait()
        sockets, files = service.open_sockets()
        welcome = {
            "version": pooler.__version__,
            "pid": os.getpid(),
            "idents": service.router.idents + IDENT_GAP,
            "slot": service.router.keys.slot,
            "sockets": sockets,
            "holds": service.router.holds.packed(service.now()),
            "overlay": [[list(path), value] for path, value in service.overlay.items()],
        }
        await self._channel.call("prepare", welcome, files=files, within=None)
        self.suspended = True
        await service.suspend()
        self.shares.adopt()
        await self._channel.call("serve", self._pools(), within=None)

    def _pools(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "count": pool.total,
                "want": pool.use()[0],
                "learnt": packed_credential(pool.learnt),
                "welcome": None if pool.welcome is None else dict(pool.welcome),
            }
            for name, pool in self._service.router.pools.items()
        ]

    async def _give_up(self) -> int:
        """Be rid of a successor that does not serve, and go on as before; return its status."""
        if not self._lost.is_set():
            self._process.kill()
        self._channel.close()
        status = await asyncio.to_thread(self._wait)
        await self._resume()
        return status

    def _wait(self) -> int:
        """Wait for the end of a successor that has nothing left to do."""
        try:
            return self._process.wait(LAST_WORDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    async def _resume(self) -> None:
        """Listen again, with all places."""
        if self.suspended:
            self.suspended = False
            self.shares.release()
            await self._service.resume()

    def cancel(self, pid: int, secret: bytes) -> None:
        """Ask the successor whether it holds this client."""
        self._channel.tell("cancel", pid, secret.hex())

    # -- clients

    async def move_all(self) -> bool:
        """Move every client that can be, until none is left or the time is over.

        False: the successor has gone, and all is as before; or this process is stopping.
        """
        service = self._service
        for pool in list(service.router.pools.values()):
            for client in list(pool.clients):
                if can_move(client):
                    pool.hand_over(client, pool)
        timeout = service.config.upgrade.timeout
        end = service.now() + timeout if timeout else float("inf")
        while not (self._lost.is_set() or service.stopping):
            left = service.router.clients.count + len(self._transit) + service.logging_in
            if not left or service.now() >= end:
                return True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), _LOOK)
            later, self._later = self._later, set()
            for client in later:
                self.soon(client)
        if not service.stopping:
            await self._take_back()
        return False

    def waits(self, clients: "Iterable[Client]") -> None:
        """Hear that somebody may be waiting in a pool."""
        if self.moving:
            for client in clients:
                self.soon(client)

    def soon(self, client: "Client") -> None:
        """Move a client when what is going on is over, if it is at rest then."""
        if self.moving and can_move(client):
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
        heard = self._channels.position(client)
        if heard is None:  # the successor does not hear its channels yet
            return
        client.brake(MOVING)  # what it sends from here on, the successor reads
        for statement in self._packer.statements(client):
            self._statements[statement["number"]] = statement
            self._channel.tell("statement", statement)
        packed = self._packer.pack(client, heard)
        file = transport.get_extra_info("socket").fileno()
        try:
            self._channel.tell("client", packed, files=[file])
        except OSError:  # too many open files, which will be fewer
            client.unbrake(MOVING)
            self._later.add(client)
            return
        client.pool.depart(client)
        transport.set_protocol(_Departed())
        self._transit[client.ident] = transport, packed

    def _took(self, ident: int) -> None:
        """The client is the successor's: let go of our descriptor, which ends no connection."""
        transport, _ = self._transit.pop(ident)
        transport.close()
        self.moved += 1
        self._schedule()

    async def _take_back(self) -> None:
        """The successor has gone, and with it the clients that it had acknowledged."""
        router = self._service.router
        self.moving = False
        self._process.kill()  # there must not be two
        status = await asyncio.to_thread(self._wait)
        logs.event(
            logging.ERROR,
            "the new process has gone",
            pid=self.pid,
            status=status,
            lost=self.moved,
            taken_back=len(self._transit),
        )
        await self._resume()
        self._channels.end()
        notify(f"MAINPID={os.getpid()}", "READY=1")
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
                continue
            transport.set_protocol(client)  # type: ignore[arg-type]  # a protocol by shape
            client.braked |= MOVING
            moving.arrive(client, packed)
            client.unbrake(MOVING)

    def close(self) -> None:
        """Tell the successor that all places are its own now."""
        self._channel.tell("done")
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


def left_behind() -> PoolerError:
    """Return what those are told who could not move in time."""
    return PoolerError(
        codes.ADMIN_SHUTDOWN,
        "terminating connection because a new process has replaced this one",
    )

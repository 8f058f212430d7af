"""The clients that come to one process from another."""

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pooler.core import moving
from pooler.core.errors import PoolerError
from pooler.handover.secrets import unpacked_credential
from pooler.handover.shares import name_of
from pooler.sockets import set_options

if TYPE_CHECKING:
    from pooler.service import Service

Acknowledge = Callable[[int, int], None]
"""Tells where a client came from (a number) that it, by its own number, is ours."""


class Arrivals:
    """Those of one process, in one upgrade. Where they come from may be several processes."""

    def __init__(self, service: "Service", acknowledge: Acknowledge) -> None:
        self._service = service
        self._acknowledge = acknowledge
        self.taken = 0
        self._statements: dict[int, dict[int, moving.Packed]] = {}  # of each source, by number
        self._tasks: set[asyncio.Task[None]] = set()

    def acquaint(self, pool: dict[str, Any]) -> None:
        """Learn of a pool what clients and servers are greeted with."""
        ours = self._service.router.pool_named(name_of(pool["name"]))
        if ours is not None:
            if ours.credentials.learnt is None:
                ours.credentials.learn(unpacked_credential(pool["learnt"]))
            if ours.welcome.parameters is None and pool["welcome"] is not None:
                ours.welcome.parameters = ours.shelf.shared(pool["welcome"])

    def statement(self, source: int, statement: moving.Packed) -> None:
        """Take a prepared statement, which clients that come will name by its number."""
        self._statements.setdefault(source, {})[statement["number"]] = statement

    def client(self, source: int, packed: moving.Packed, files: tuple[int, ...] = ()) -> None:
        """Take a client, and the one file that is its connection."""
        (file,) = files
        sock = socket.socket(fileno=file)
        # Before its first byte is read: from here on it is ours, whoever ends.
        self._acknowledge(source, packed["ident"])
        self.taken += 1
        task = asyncio.get_running_loop().create_task(self._arrive(source, sock, packed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _arrive(self, source: int, sock: socket.socket, packed: moving.Packed) -> None:
        statements = self._statements.get(source, {})
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Arrival(self._service, packed, statements), sock
            )
        except OSError:  # it has gone on its way
            sock.close()
            self._service.not_admitted(packed["database"], packed["user"])

    def end(self) -> None:
        """Nobody comes any more."""
        self._statements.clear()


class _Arrival(asyncio.Protocol):
    """The connection of a client that arrives, until it is one."""

    def __init__(
        self, service: "Service", packed: moving.Packed, statements: moving.Statements
    ) -> None:
        self._service = service
        self._packed = packed
        self._statements = statements

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make the client that it was."""
        service, packed = self._service, self._packed
        connection: Any = transport
        set_options(transport, service.config)
        try:
            client = moving.unpack(service.router, connection, packed, self._statements)
        except PoolerError as error:
            connection.write(error.response())
            connection.close()
            service.not_admitted(packed["database"], packed["user"])
            return
        except (KeyError, TypeError, ValueError) as error:
            service.bug(f"client {packed.get('ident')} that moved", error)
            connection.abort()
            service.not_admitted(packed["database"], packed["user"])
            return
        connection.set_protocol(client)
        moving.arrive(client, packed)

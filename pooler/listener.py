"""Listens on the configured addresses; a reload opens the new ones and closes those not wanted.

Open before close: a reload whose addresses cannot be bound changes nothing.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from pooler.config import Settings
from pooler.sockets import (
    check_tcp_options,
    set_access,
    set_listening_options,
    socket_address,
    tcp_sockets,
    unix_socket,
)

Address = tuple[str, ...]
"""What identifies a listening socket: with another value it is another one."""

SYSTEMD: Final = "systemd"
"""What the address of a socket begins with that systemd has given us."""

Bind = Callable[[Settings, Address], list[socket.socket]]
"""Returns the sockets of an address; OSError."""


class Listener:
    """The listening sockets of the pooler."""

    def __init__(self, factory: Callable[[], Any], bind: Bind, *, owner: bool = True) -> None:
        self._factory = factory
        self._bind = bind
        self.owner = owner  # of the unix sockets' paths: others may serve them, too
        self._open: dict[Address, list[socket.socket]] = {}
        self.activated: dict[Address, list[socket.socket]] = {}  # systemd's, in place of ours
        self._suspended: dict[Address, list[socket.socket]] = {}
        self._servers: dict[Address, asyncio.Server] = {}

    @property
    def addresses(self) -> list[str]:
        """Where we listen."""
        return [socket_address(sock) for sockets in self._open.values() for sock in sockets]

    @property
    def sockets(self) -> dict[Address, list[socket.socket]]:
        """What we listen on."""
        return self._open

    def prepare(self, settings: Settings) -> dict[Address, list[socket.socket]]:
        """Bind what `settings` want and is not open yet; OSError, and then nothing is."""
        check_tcp_options(settings.tcp)
        bound: dict[Address, list[socket.socket]] = {}
        try:
            for address in self._wanted(settings):
                if address not in self._open:
                    given = self.activated.get(address)
                    bound[address] = given or self._bind(settings, address)
        except BaseException:
            self.discard(bound)
            raise
        return bound

    def discard(self, bound: dict[Address, list[socket.socket]]) -> None:
        """Close what `prepare` bound."""
        for address, sockets in bound.items():
            for sock in sockets:
                if self._owns(address):
                    unlink(sock)
                sock.close()

    async def commit(self, settings: Settings, bound: dict[Address, list[socket.socket]]) -> None:
        """Listen on what `prepare` bound, and stop listening on what is not wanted any more."""
        loop = asyncio.get_running_loop()
        for address, sockets in bound.items():
            for sock in sockets:
                server = (
                    await loop.create_server(
                        self._factory, sock=sock, backlog=settings.listen.backlog
                    )
                    if sock.family != socket.AF_UNIX
                    else await loop.create_unix_server(
                        self._factory, sock=sock, backlog=settings.listen.backlog
                    )
                )
                self._servers[(*address, str(sock.fileno()))] = server
            self._open[address] = sockets
        for sockets in self._open.values():
            for sock in sockets:
                set_listening_options(sock, settings.tcp)
        for address in set(self._open) - set(self._wanted(settings)):
            self._stop(address)

    def _wanted(self, settings: Settings) -> list[Address]:
        return list(self.activated) or wanted(settings)

    def _owns(self, address: Address) -> bool:
        return self.owner and address[0] != SYSTEMD

    def suspend(self) -> None:
        """Accept nobody: who connects waits in the kernel, until `resume` or another process."""
        for address, sockets in list(self._open.items()):
            self._suspended[address] = [sock.dup() for sock in sockets]
            for sock in sockets:
                self._servers.pop((*address, str(sock.fileno()))).close()
        self._open.clear()

    async def resume(self, settings: Settings) -> None:
        """Accept again."""
        suspended, self._suspended = self._suspended, {}
        await self.commit(settings, suspended)

    def release(self) -> None:
        """Leave what was suspended to the other process."""
        self.owner = False
        self.discard(self._suspended)
        self._suspended = {}

    def close(self) -> None:
        """Stop listening."""
        for address in list(self._open):
            self._stop(address)

    def _stop(self, address: Address) -> None:
        for sock in self._open.pop(address):
            server = self._servers.pop((*address, str(sock.fileno())))
            if self._owns(address):
                unlink(sock)
            server.close()


def unlink(sock: socket.socket) -> None:
    """Remove the path of a unix socket."""
    if sock.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            os.unlink(sock.getsockname())


def bind(settings: Settings, address: Address) -> list[socket.socket]:
    """Return new sockets for an address; OSError."""
    listen = settings.listen
    if address[0] != "unix":
        return tcp_sockets(address[1], listen.port, reuse_port=listen.reuse_port)
    directory, mode, group = address[1], listen.unix_socket_mode, listen.unix_socket_group
    return [unix_socket(directory, listen.port, mode, group)]


def adapt(settings: Settings, address: Address, sockets: list[socket.socket]) -> None:
    """Have sockets that another process has bound be as these settings say; OSError."""
    listen = settings.listen
    for sock in sockets:
        if address[0] == "unix":
            set_access(sock.getsockname(), listen.unix_socket_mode, listen.unix_socket_group)
        elif listen.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def wanted(settings: Settings) -> list[Address]:
    """Return where clients can connect to."""
    listen = settings.listen
    found: list[Address] = [
        ("tcp", host, str(listen.port), str(listen.reuse_port)) for host in listen.host
    ]
    if listen.unix_socket_dir:
        found.append(
            (
                "unix",
                listen.unix_socket_dir,
                str(listen.port),
                oct(listen.unix_socket_mode),
                listen.unix_socket_group,
            )
        )
    return found

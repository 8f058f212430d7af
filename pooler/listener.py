"""Listens on the configured addresses; a reload opens the new ones and closes those not wanted.

Open before close: a reload whose addresses cannot be bound changes nothing.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

from pooler.config import Settings
from pooler.sockets import socket_address, tcp_sockets, unix_socket

Address = tuple[str, ...]


class Listener:
    """The listening sockets of the pooler."""

    def __init__(self, factory: Callable[[], asyncio.Protocol]) -> None:
        self._factory = factory
        self._open: dict[Address, list[socket.socket]] = {}
        self._servers: dict[Address, asyncio.Server] = {}

    @property
    def addresses(self) -> list[str]:
        """Where we listen."""
        return [socket_address(sock) for sockets in self._open.values() for sock in sockets]

    def prepare(self, settings: Settings) -> dict[Address, list[socket.socket]]:
        """Bind what `settings` want and is not open yet; OSError, and then nothing is."""
        listen = settings.listen
        bound: dict[Address, list[socket.socket]] = {}
        try:
            for address in _wanted(settings):
                if address in self._open:
                    continue
                if address[0] == "unix":
                    bound[address] = [
                        unix_socket(
                            listen.unix_socket_dir,
                            listen.port,
                            listen.unix_socket_mode,
                            listen.unix_socket_group,
                        )
                    ]
                else:
                    bound[address] = tcp_sockets(
                        address[1], listen.port, reuse_port=listen.reuse_port
                    )
        except BaseException:
            self.discard(bound)
            raise
        return bound

    def discard(self, bound: dict[Address, list[socket.socket]]) -> None:
        """Close what `prepare` bound."""
        for sockets in bound.values():
            for sock in sockets:
                _close(sock)

    async def commit(self, settings: Settings, bound: dict[Address, list[socket.socket]]) -> None:
        """Listen on what `prepare` bound, and stop listening on what is not wanted any more."""
        loop = asyncio.get_running_loop()
        for address, sockets in bound.items():
            for sock in sockets:
                server = (
                    await loop.create_server(
                        self._factory, sock=sock, backlog=settings.listen.backlog
                    )
                    if address[0] != "unix"
                    else await loop.create_unix_server(
                        self._factory, sock=sock, backlog=settings.listen.backlog
                    )
                )
                self._servers[(*address, str(sock.fileno()))] = server
            self._open[address] = sockets
        for address in set(self._open) - set(_wanted(settings)):
            self._stop(address)

    def close(self) -> None:
        """Stop listening."""
        for address in list(self._open):
            self._stop(address)

    def _stop(self, address: Address) -> None:
        for sock in self._open.pop(address):
            path = sock.getsockname() if sock.family == socket.AF_UNIX else None
            server = self._servers.pop((*address, str(sock.fileno())))
            server.close()
            if path:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)


def _close(sock: socket.socket) -> None:
    if sock.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            os.unlink(sock.getsockname())
    sock.close()


def _wanted(settings: Settings) -> list[Address]:
    """Return what identifies each listening socket: with another value it is another socket."""
    listen = settings.listen
    wanted: list[Address] = [
        ("tcp", host, str(listen.port), str(listen.reuse_port)) for host in listen.host
    ]
    if listen.unix_socket_dir:
        wanted.append(
            (
                "unix",
                listen.unix_socket_dir,
                str(listen.port),
                oct(listen.unix_socket_mode),
                listen.unix_socket_group,
            )
        )
    return wanted

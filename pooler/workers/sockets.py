"""The listening sockets of all workers: on each address one for each (SO_REUSEPORT), or several.

The supervisor keeps them, so that connections wait while a worker is restarted. A unix socket is
shared.
"""

import socket
from collections.abc import Callable

from pooler.config import Config
from pooler.handover import Kind
from pooler.listener import Address, adapt, bind, unlink, wanted
from pooler.sockets import socket_address, spread, tcp_sockets

Groups = dict[Address, list[list[socket.socket]]]
"""Of each address, the sockets of each worker."""

Given = Callable[..., list[socket.socket]]
"""Returns what another pooler has given for a kind of socket."""


def no_sockets(*kind: str) -> list[socket.socket]:
    """Return what there is where no other pooler was: nothing."""
    return []


class Sockets:
    """Those of one supervisor."""

    def __init__(self, count: int) -> None:
        """`count` is that of the workers."""
        self._count = count
        self._open: Groups = {}

    @property
    def addresses(self) -> list[str]:
        """Where clients can connect to."""
        return [socket_address(sock) for groups in self._open.values() for sock in groups[0]]

    def of(self, number: int) -> dict[Address, list[socket.socket]]:
        """Return the sockets of one worker."""
        return {address: groups[number] for address, groups in self._open.items()}

    def offered(self) -> list[tuple[Kind, list[int]]]:
        """Return the descriptors of all, for another pooler."""
        found: list[tuple[Kind, list[int]]] = []
        for address, groups in self._open.items():
            files = {sock.fileno(): None for group in groups for sock in group}
            found.append(((address[0], address[1], address[2]), list(files)))
        return found

    def bind(self, config: Config, given: Given = no_sockets) -> Groups:
        """Bind the addresses that are not open yet, or take what is `given`; OSError."""
        bound: Groups = {}
        taken: Groups = {}
        try:
            for address in wanted(config):
                if address not in self._open:
                    sockets = given(*address[:3])
                    if sockets:
                        taken[address] = self._taken(config, address, sockets)
                    else:
                        bound[address] = self._bound(config, address)
        except BaseException:
            close(bound)
            close(taken, unlinked=False)
            raise
        return bound | taken

    def _taken(
        self, config: Config, address: Address, taken: list[socket.socket]
    ) -> list[list[socket.socket]]:
        adapt(config, address, taken)
        if address[0] == "unix":
            return [taken] * self._count
        return spread(taken, self._count)

    def _bound(self, config: Config, address: Address) -> list[list[socket.socket]]:
        if address[0] == "unix":
            return [bind(config, address)] * self._count
        groups: list[list[socket.socket]] = []
        port = config.listen.port
        for _ in range(self._count):
            groups.append(tcp_sockets(address[1], port, reuse_port=True))
            port = groups[0][0].getsockname()[1]
        return groups

    def commit(self, config: Config, bound: Groups) -> None:
        """Keep what `bind` returned, and close what is not wanted any more."""
        self._open.update(bound)
        for address in set(self._open) - set(wanted(config)):
            close({address: self._open.pop(address)})

    def close(self, *, unlinked: bool) -> None:
        """Close all; the paths of unix sockets are another pooler's unless they are `unlinked`."""
        close(self._open, unlinked=unlinked)


def close(groups: Groups, *, unlinked: bool = True) -> None:
    """Close sockets."""
    for address, each in groups.items():
        for sock in (sock for sockets in each for sock in sockets):
            if sock.fileno() >= 0:
                if unlinked and address[0] == "unix":
                    unlink(sock)
                sock.close()

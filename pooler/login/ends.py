"""The other end of a connection: its address, its name for people, what is known of it."""

import asyncio
import socket
import struct
from typing import Final, Protocol


class Encryption(Protocol):
    """What an encrypted connection says of the client at its other end."""

    @property
    def verified(self) -> bool:
        """It has shown a certificate that leads to a CA of ours."""

    @property
    def cn(self) -> str:
        """The certificate's common name, "" for none."""

    @property
    def dn(self) -> str:
        """Its subject as in RFC 2253, "" for none."""


class Connection:
    """What is known of a connection before anybody has said a word on it."""

    __slots__ = ("address", "tls", "uid")

    def __init__(self, address: str, uid: int | None = None, tls: Encryption | None = None) -> None:
        self.address = address
        """The other end's IP address, "" on a unix socket."""
        self.uid = uid
        """The other end's user id on a unix socket, as the kernel vouches for it."""
        self.tls = tls
        """None in the clear."""


UNIX: Final = "unix"
"""The name of who comes by a unix socket, where nobody has an address."""


def peer_name(address: object) -> str:
    """Return the name of an address of the other end, as a transport has it ("peername")."""
    if not isinstance(address, tuple):
        return UNIX
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connection(transport: asyncio.BaseTransport, address: object) -> Connection:
    """Return what is known of the other end at this address."""
    if isinstance(address, tuple):
        return Connection(address[0], tls=transport.get_extra_info("tls"))
    sock = transport.get_extra_info("socket")
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return Connection("", struct.unpack("3i", credentials)[1])

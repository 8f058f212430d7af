"""Sockets: options of connections, listening addresses, names for people."""

import asyncio
import contextlib
import errno
import grp
import os
import select
import socket
import stat
import struct
from collections.abc import Iterator
from typing import Final, cast

from pooler.auth import Connection
from pooler.config import Settings
from pooler.core.peer import WRITE_HIGH, Transport

_LIVE_CHECK: Final = 1.0  # seconds to find out whether somebody still serves a unix socket


def peer_name(transport: asyncio.BaseTransport) -> str:
    """Return the other end's address; "unix" for a unix socket, which has none."""
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return "unix"
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connection(transport: asyncio.BaseTransport) -> Connection:
    """Return what the system knows of the other end."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        return Connection(name[0], tls=transport.get_extra_info("tls"))
    sock = transport.get_extra_info("socket")
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return Connection("", struct.unpack("3i", credentials)[1])


def hung_up(transport: Transport) -> bool:
    """Return whether the peer has closed its side, read or not what came before."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket"), select.POLLRDHUP)
    return bool(poll.poll(0))


def socket_address(sock: socket.socket) -> str:
    """Return the address a socket listens on."""
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return os.fsdecode(name)
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def set_options(transport: asyncio.BaseTransport, settings: Settings) -> None:
    """Set a connection's buffer limit, and what the `tcp` section says, unless it has ended."""
    if transport.is_closing():
        return
    cast(asyncio.WriteTransport, transport).set_write_buffer_limits(high=WRITE_HIGH)
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    tcp = settings.tcp
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(tcp.keepalive))
    for option, value in (
        (socket.TCP_KEEPIDLE, tcp.keepidle),
        (socket.TCP_KEEPINTVL, tcp.keepintvl),
        (socket.TCP_KEEPCNT, tcp.keepcnt),
        (socket.TCP_USER_TIMEOUT, tcp.user_timeout * 1000),
    ):
        if value:
            sock.setsockopt(socket.IPPROTO_TCP, option, max(1, round(value)))


@contextlib.contextmanager
def _naming(address: str) -> Iterator[None]:
    """Have an OSError say which address it is about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, address) from error


def tcp_sockets(host: str, port: int, *, reuse_port: bool) -> list[socket.socket]:
    """Return bound sockets for every address of `host` ("*": every interface); OSError."""
    with _naming(f"{host}:{port}"):
        found = socket.getaddrinfo(
            None if host == "*" else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            if sockets and port == 0:  # the same port that the system picked for the first
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT and len(found) > 1:
                    continue  # the name has an IPv6 address, the kernel has no IPv6
                raise
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            with _naming(f"{host}:{port}"):
                sock.bind(address)
            sock.setblocking(False)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def spread(sockets: list[socket.socket], count: int) -> list[list[socket.socket]]:
    """Return sockets that listen for each of `count` processes on each of their addresses; OSError.

    Where there are too few on an address, others are bound; where there are more, a process gets
    several: closing one would refuse those who wait on it.
    """
    groups: list[list[socket.socket]] = [[] for _ in range(count)]
    alike: dict[object, list[socket.socket]] = {}
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        alike.setdefault(sock.getsockname(), []).append(sock)
    for same in alike.values():
        while len(same) < count:
            same.append(_another(same[0]))
        for number, sock in enumerate(same):
            groups[number % count].append(sock)
    return groups


def _another(sock: socket.socket) -> socket.socket:
    """Return another socket of the same address."""
    address = sock.getsockname()
    other = socket.socket(sock.family, socket.SOCK_STREAM)
    try:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with _naming(f"{address[0]}:{address[1]}"):
            other.bind(address)
        other.setblocking(False)
    except BaseException:
        other.close()
        raise
    return other


def set_access(path: str, mode: int, group: str) -> None:
    """Set who may connect to a unix socket; OSError."""
    if group:
        try:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        except KeyError:
            raise OSError(errno.EINVAL, f"no such group: {group}", path) from None
    os.chmod(path, mode)


def unix_socket(directory: str, port: int, mode: int, group: str) -> socket.socket:
    """Return a bound unix socket at PostgreSQL's name in `directory`; OSError.

    A socket that a dead process left behind is replaced; one that is served is not.
    """
    path = os.path.join(directory, f".s.PGSQL.{port}")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "not a socket, and in the way", path)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_LIVE_CHECK)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            else:
                raise OSError(errno.EADDRINUSE, "another process serves this socket", path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        before = os.umask(0o777)  # nobody connects before its mode is set
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        set_access(path, mode, group)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock

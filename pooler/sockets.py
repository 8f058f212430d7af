"""Sockets: options of connections, listening addresses, names for people."""

import asyncio
import contextlib
import errno
import grp
import os
import select
import socket
import stat
from collections.abc import Iterator
from typing import Final, cast

from pooler.config import Settings
from pooler.config.model import Tcp
from pooler.core.peer import WRITE_HIGH, Transport
from pooler.core.settings import Host

_TCP_OPTIONS: Final = {
    "keepidle": socket.TCP_KEEPIDLE,
    "keepintvl": socket.TCP_KEEPINTVL,
    "keepcnt": socket.TCP_KEEPCNT,
    "user_timeout": socket.TCP_USER_TIMEOUT,
}
_LIVE_CHECK: Final = 1.0  # seconds to find out whether somebody still serves a unix socket


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


async def open_streams(host: Host) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a server, as its files or its name say; OSError, UnicodeError."""
    if host.is_unix:
        return await asyncio.open_unix_connection(os.path.join(host.host, f".s.PGSQL.{host.port}"))
    return await asyncio.open_connection(host.host, host.port)


def set_options(transport: asyncio.BaseTransport, settings: Settings) -> None:
    """Set a connection's buffer limit, and what the `tcp` section says, unless it has ended."""
    if transport.is_closing():
        return
    cast(asyncio.WriteTransport, transport).set_write_buffer_limits(high=WRITE_HIGH)
    sock = transport.get_extra_info("socket")
    if sock is not None:
        set_tcp_options(sock, settings.tcp)


@contextlib.contextmanager
def _naming(address: str) -> Iterator[None]:
    """Have an OSError say which address it is about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, address) from error


def set_tcp_options(sock: socket.socket, tcp: Tcp) -> None:
    """Do what the `tcp` section says; OSError: the kernel takes no such value."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(tcp.keepalive))
    for name, option in _TCP_OPTIONS.items():
        value = getattr(tcp, name)
        if value:
            unit = 1000 if option == socket.TCP_USER_TIMEOUT else 1
            with _naming(f"tcp.{name}: {value:g}"):
                sock.setsockopt(socket.IPPROTO_TCP, option, max(1, round(value * unit)))


def set_listening_options(sock: socket.socket, tcp: Tcp) -> None:
    """Have what is accepted from now on be as the `tcp` section says: Linux hands options on."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        with socket.socket(sock.family) as fresh:
            for option in _TCP_OPTIONS.values():
                usual = fresh.getsockopt(socket.IPPROTO_TCP, option)
                sock.setsockopt(socket.IPPROTO_TCP, option, usual)
        set_tcp_options(sock, tcp)


def check_tcp_options(tcp: Tcp) -> None:
    """OSError, where a connection could not be as the `tcp` section says."""
    with socket.socket() as fresh:
        set_tcp_options(fresh, tcp)


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

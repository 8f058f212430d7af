"""The addresses of this machine's network interfaces, each with its network, from Linux's netlink.

For `samehost` and `samenet` in rules. Source: rtnetlink(7), netlink(7).
"""

import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Final

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_RTM_GETADDR: Final = 22
_RTM_NEWADDR: Final = 20
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2  # of a point-to-point interface, whose IFA_ADDRESS is the other end's
_HEADER: Final = struct.Struct("=IHHII")
_BUFFER: Final = 1 << 16  # bytes; the kernel's messages are smaller
_PATIENCE: Final = 1.0  # seconds; the kernel answers at once


def interfaces() -> list[Interface]:
    """Every address, loopback included; none where the kernel does not say. Some 0.2 ms."""
    try:
        return _asked()
    except OSError:  # a sandbox without netlink
        return []


def _asked() -> list[Interface]:
    found: list[Interface] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        link.settimeout(_PATIENCE)
        link.send(_HEADER.pack(_HEADER.size + 8, _RTM_GETADDR, _DUMP, 1, 0) + bytes(8))
        while True:
            for kind, body in _messages(link.recv(_BUFFER)):
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR:
                    raise OSError(-int.from_bytes(body[:4], "little", signed=True), "netlink")
                if kind == _RTM_NEWADDR:
                    found += _address(body)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, *_ = _HEADER.unpack_from(data, at)
        if size < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + size]
        at += size + 3 & ~3


def _address(body: bytes) -> list[Interface]:
    """The address in an RTM_NEWADDR, if it is of IP."""
    family, bits = body[0], body[1]
    if family not in (socket.AF_INET, socket.AF_INET6):
        return []
    values: dict[int, bytes] = {}
    at = 8
    while at + 4 <= len(body):
        size, kind = struct.unpack_from("=HH", body, at)
        if size < 4:
            break
        values[kind] = body[at + 4 : at + size]
        at += size + 3 & ~3
    raw = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
    if raw is None:
        return []
    address = ipaddress.ip_address(raw)
    return [ipaddress.ip_interface(f"{address}/{bits}")]

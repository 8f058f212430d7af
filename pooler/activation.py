"""Systemd's socket activation: listening sockets that come with the process (`sd_listen_fds`).

With any, these are where clients connect, in place of `listen.host`, `listen.port` and
`listen.unix_socket_dir`; one by the name `metrics` (FileDescriptorName=) is for Prometheus. Their
paths are never removed: they are systemd's, and outlive us.
"""

import os
import socket
from collections.abc import MutableMapping
from typing import Final

FIRST: Final = 3
"""SD_LISTEN_FDS_START."""
METRICS: Final = "metrics"

NO_ACTIVATION: Final = "several workers listen on sockets of their own: not on those of systemd"

Given = dict[str, list[socket.socket]]
"""Sockets by the name that they have been given, `METRICS` or any other."""


def sockets(environ: MutableMapping[str, str]) -> Given:
    """Return what systemd has given us, and take it out of the environment; OSError: no sockets."""
    process = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if process != str(os.getpid()) or not count.isdigit():
        return {}
    given: Given = {}
    for number in range(int(count)):
        file = FIRST + number
        os.set_inheritable(file, False)
        sock = socket.socket(fileno=file)
        if sock.type != socket.SOCK_STREAM or not _listens(sock):
            raise OSError(f"socket {number + 1} of systemd's is not one to accept connections on")
        sock.setblocking(False)
        name = names[number] if number < len(names) else ""
        given.setdefault(name, []).append(sock)
    return given


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))

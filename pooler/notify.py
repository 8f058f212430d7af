"""Tells systemd how the service is (`sd_notify`); does nothing where there is no systemd."""

import contextlib
import os
import socket
import time


def notify(*states: str) -> None:
    """Send states such as READY=1, STOPPING=1, "STATUS=..." to $NOTIFY_SOCKET."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.sendall("\n".join(states).encode())


def reloading() -> tuple[str, str]:
    """Return the states that announce a reload; READY=1 ends it."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"

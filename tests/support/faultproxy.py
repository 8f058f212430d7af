"""A TCP proxy that spoils what a server answers, at the byte it is told.

It stands between the pooler and PostgreSQL. What goes to the server passes untouched; what comes
back passes until `Fault.after` bytes have, counted on each connection from the moment the fault
was armed, and then the fault happens. It knows nothing of the protocol.
"""

import contextlib
import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Literal, Self

HOST = "127.0.0.1"
_CHUNK = 65536
_LINGER_NONE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Fault:
    """What happens to a server's answers."""

    after: int = 0
    """Bytes that pass before it happens."""
    insert: bytes = b""
    """Bytes that are sent then."""
    then: Literal["pass", "stall", "close", "reset"] = "pass"
    """What becomes of the rest: passed on, swallowed for ever, or the connection ends."""
    pieces: int = 0
    """Send in pieces of so many bytes, each in a packet of its own; 0: as it came."""
    delay: float = 0.0
    """Seconds before anything is passed on; what comes meanwhile goes with it."""


def reset(connection: socket.socket) -> None:
    """Close with a RST, as a crashed machine's kernel answers."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    connection.close()


class FaultProxy:
    """One listening port; `with FaultProxy(host, port) as proxy: proxy.arm(Fault(...))`."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._listener = socket.create_server((HOST, 0))
        self.host = HOST
        self.port: int = self._listener.getsockname()[1]
        self._fault = Fault()
        self._armed = 0  # how often
        self._stopping = False
        self._threads = [threading.Thread(target=self._accept)]
        self._links: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def arm(self, fault: Fault) -> None:
        """Do this to every connection, from its next byte on."""
        self._fault = fault
        self._armed += 1

    def say(self, data: bytes) -> None:
        """Send this on every connection, as if the server had."""
        for link in list(self._links):
            with contextlib.suppress(OSError):
                link.sendall(data)

    def _accept(self) -> None:
        while not self._stopping:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(near,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._upstream)
        except OSError:
            reset(near)
            return
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.add(near)
        with contextlib.suppress(OSError):
            self._pass_on(near, far)
        self._links.discard(near)
        near.close()
        far.close()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        armed = passed = 0
        with selectors.DefaultSelector() as selector:
            for end in (near, far):
                selector.register(end, selectors.EVENT_READ)
            while not self._stopping:
                for key, _ in selector.select(0.05):
                    fault = self._fault
                    if key.fileobj is far and fault.delay:
                        time.sleep(fault.delay)
                    data = (near if key.fileobj is near else far).recv(_CHUNK)
                    if not data:
                        return
                    if key.fileobj is near:
                        far.sendall(data)
                        continue
                    if armed != self._armed:
                        armed, passed = self._armed, 0
                    if not self._answer(near, fault, data, passed):
                        return
                    passed += len(data)

    def _answer(self, near: socket.socket, fault: Fault, data: bytes, passed: int) -> bool:
        """Send what the fault leaves of the answer; False when the connection has to end."""
        happened = passed > fault.after
        happens = not happened and passed + len(data) > fault.after
        plain = not (fault.insert or fault.then != "pass")
        if plain or not (happened or happens):
            self._send(near, data, fault.pieces)
            return True
        if happens:
            at = fault.after - passed
            self._send(near, data[:at] + fault.insert, fault.pieces)
            data = data[at:]
        if fault.then == "pass":
            self._send(near, data, fault.pieces)
        elif fault.then == "reset":
            reset(near)
        return fault.then in ("pass", "stall")

    def _send(self, near: socket.socket, data: bytes, pieces: int) -> None:
        for at in range(0, len(data), pieces or len(data) or 1):
            near.sendall(data[at : at + (pieces or len(data))])

"""A raw-socket PostgreSQL client for protocol tests.

It is written from the protocol's documentation alone and shares no code with the pooler, so that
the two check each other. It sends what it is told, right or wrong, and hides nothing it receives.
"""

import base64
import hashlib
import hmac
import secrets
import socket
import struct
from collections.abc import Sequence
from typing import Self

Message = tuple[bytes, bytes]
"""A message's kind (one byte) and its body without the length."""

TIMEOUT = 30.0  # seconds, on a loaded machine

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
GSSENC_REQUEST = struct.pack("!ii", 8, 80877104)


class Closed(Exception):
    """The peer closed the connection; with the bytes of a message cut off, if any."""


class ServerError(Exception):
    """An ErrorResponse where none was wanted; `fields` as `error_fields` gives them."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__(f"{fields.get('C')}: {fields.get('M')}")
        self.fields = fields


# Builders: one per message, in the order of their fields.


def message(kind: bytes, body: bytes = b"") -> bytes:
    """A message with its length; `kind` is empty for a startup packet."""
    return kind + struct.pack("!i", len(body) + 4) + body


def startup_packet(parameters: dict[str, str], protocol: tuple[int, int] = (3, 0)) -> bytes:
    """A StartupMessage."""
    pairs = b"".join(_text(name) + _text(value) for name, value in parameters.items())
    return message(b"", struct.pack("!hh", *protocol) + pairs + b"\0")


def cancel_request(pid: int, key: bytes) -> bytes:
    """A CancelRequest, with a key of any length."""
    return message(b"", struct.pack("!ii", 80877102, pid) + key)


def query(sql: str) -> bytes:
    """A simple Query."""
    return message(b"Q", _text(sql))


def parse(sql: str, name: str = "", types: Sequence[int] = ()) -> bytes:
    """A Parse; `types` are OIDs."""
    oids = b"".join(struct.pack("!I", oid) for oid in types)
    return message(b"P", _text(name) + _text(sql) + struct.pack("!h", len(types)) + oids)


def bind(
    values: Sequence[bytes | None] = (),
    statement: str = "",
    portal: str = "",
    formats: Sequence[int] = (),
    result_formats: Sequence[int] = (),
) -> bytes:
    """A Bind; None is NULL, formats are 0 for text and 1 for binary."""
    encoded = b"".join(
        struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
        for value in values
    )
    count = struct.pack("!h", len(values))
    body = _text(portal) + _text(statement) + _shorts(formats) + count + encoded
    return message(b"B", body + _shorts(result_formats))


def describe(kind: str = "P", name: str = "") -> bytes:
    """A Describe of a portal "P" or a statement "S"."""
    return message(b"D", kind.encode() + _text(name))


def execute(portal: str = "", max_rows: int = 0) -> bytes:
    """An Execute; 0 rows means all."""
    return message(b"E", _text(portal) + struct.pack("!i", max_rows))


def close(kind: str = "S", name: str = "") -> bytes:
    """A Close of a portal "P" or a statement "S"."""
    return message(b"C", kind.encode() + _text(name))


def sync() -> bytes:
    """A Sync."""
    return message(b"S")


def flush() -> bytes:
    """A Flush."""
    return message(b"H")


def copy_data(data: bytes) -> bytes:
    """A CopyData."""
    return message(b"d", data)


def copy_done() -> bytes:
    """A CopyDone."""
    return message(b"c")


def copy_fail(reason: str = "") -> bytes:
    """A CopyFail."""
    return message(b"f", _text(reason))


def terminate() -> bytes:
    """A Terminate."""
    return message(b"X")


# Readers.


def error_fields(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse by their letter: S, V, C, M, H, ..."""
    return {part[:1].decode(): part[1:].decode() for part in body.split(b"\0") if part}


def data_row(body: bytes) -> list[bytes | None]:
    """The values of a DataRow."""
    (columns,) = struct.unpack_from("!h", body)
    values: list[bytes | None] = []
    at = 2
    for _ in range(columns):
        (size,) = struct.unpack_from("!i", body, at)
        at += 4
        values.append(None if size < 0 else body[at : at + size])
        at += max(size, 0)
    return values


def rows(messages: Sequence[Message]) -> list[list[bytes | None]]:
    """The values of all DataRows among the messages."""
    return [data_row(body) for kind, body in messages if kind == b"D"]


def kinds(messages: Sequence[Message]) -> bytes:
    """The messages' kinds as one string, such as b"TDCZ"."""
    return b"".join(kind for kind, _ in messages)


class RawClient:
    """One connection; `with RawClient(host, port) as client: client.login("app", "app", "pw")`.

    `host` that begins with a slash is the folder of a unix socket.
    """

    def __init__(self, host: str, port: int, *, timeout: float = TIMEOUT) -> None:
        if host.startswith("/"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(f"{host}/.s.PGSQL.{port}")
        else:
            self.socket = socket.create_connection((host, port), timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = bytearray()
        # Known after the login.
        self.parameters: dict[str, str] = {}
        self.pid = 0
        self.key = b""
        self.status = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket, without a Terminate."""
        self.socket.close()

    # Bytes and messages.

    def send(self, *data: bytes) -> None:
        """Send bytes as they are, in one go."""
        self.socket.sendall(b"".join(data))

    def receive(self, size: int) -> bytes:
        """Exactly so many bytes; Closed when the peer ends before, TimeoutError when it stalls."""
        self._fill(size)
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data

    def read(self, timeout: float | None = None) -> Message:
        """The next message, whatever it is; `timeout` in seconds for this one.

        After a TimeoutError it can be called again: nothing is lost.
        """
        before = self.socket.gettimeout()
        self.socket.settimeout(before if timeout is None else timeout)
        try:
            self._fill(5)
            (length,) = struct.unpack_from("!i", self._unread, 1)
            data = self.receive(1 + length)
            return data[:1], data[5:]
        finally:
            self.socket.settimeout(before)

    def read_until(self, kind: bytes = b"Z", timeout: float | None = None) -> list[Message]:
        """The messages up to and with the next of one of these kinds (one letter each)."""
        messages = [self.read(timeout)]
        while messages[-1][0] not in kind:
            messages.append(self.read(timeout))
        for which, body in messages:
            self._note(which, body)
        return messages

    def is_silent(self, seconds: float = 0.2) -> bool:
        """True when nothing arrives for so long, not even the end."""
        before = self.socket.gettimeout()
        self.socket.settimeout(seconds)
        try:
            self._fill(1)
        except TimeoutError:
            return True
        except Closed:
            return False
        finally:
            self.socket.settimeout(before)
        return False

    def is_closed(self, timeout: float = TIMEOUT) -> bool:
        """True when the peer closes, whatever it sends before; False when it doesn't in time."""
        self.socket.settimeout(timeout)
        try:
            while True:
                self.receive(1)
        except Closed:
            return True
        except TimeoutError:
            return False

    # Conversations.

    def startup(self, protocol: tuple[int, int] = (3, 0), **parameters: str) -> None:
        """Send a startup packet."""
        self.send(startup_packet(parameters, protocol))

    def login(
        self,
        user: str,
        database: str,
        password: str = "",
        *,
        protocol: tuple[int, int] = (3, 0),
        **parameters: str,
    ) -> list[Message]:
        """Log in by whatever way is asked for; all messages from the startup packet on.

        Raises ServerError when it is refused.
        """
        self.startup(protocol, user=user, database=database, **parameters)
        messages: list[Message] = []
        while True:
            messages += self.read_until(b"REZ")
            kind, body = messages[-1]
            if kind == b"E":
                raise ServerError(error_fields(body))
            if kind == b"Z":
                return messages
            messages += self._authenticate(user, password, body)

    def query(self, sql: str) -> list[Message]:
        """A simple query: the messages up to ReadyForQuery."""
        self.send(query(sql))
        return self.read_until()

    def values(self, sql: str) -> list[list[bytes | None]]:
        """A simple query: its rows; ServerError when it fails."""
        messages = self.query(sql)
        for kind, body in messages:
            if kind == b"E":
                raise ServerError(error_fields(body))
        return rows(messages)

    # Within.

    def _fill(self, size: int) -> None:
        """Receive until so many bytes are unread."""
        while len(self._unread) < size:
            try:
                chunk = self.socket.recv(65536)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                raise Closed(bytes(self._unread))
            self._unread += chunk

    def _note(self, kind: bytes, body: bytes) -> None:
        if kind == b"S":
            name, value, _ = body.split(b"\0")
            self.parameters[name.decode()] = value.decode()
        elif kind == b"K":
            self.pid, self.key = struct.unpack("!i", body[:4])[0], body[4:]
        elif kind == b"Z":
            self.status = body

    def _authenticate(self, user: str, password: str, request: bytes) -> list[Message]:
        """Answer an Authentication request; the messages that a longer exchange brings."""
        (code,) = struct.unpack_from("!i", request)
        if code == 0:
            return []
        if code == 3:
            self.send(message(b"p", _text(password)))
            return []
        if code == 5:
            inner = hashlib.md5((password + user).encode()).hexdigest()
            outer = hashlib.md5(inner.encode() + request[4:8]).hexdigest()
            self.send(message(b"p", _text("md5" + outer)))
            return []
        if code == 10:
            return self._scram(password, request[4:].split(b"\0"))
        raise NotImplementedError(f"authentication request {code}")

    def _scram(self, password: str, mechanisms: Sequence[bytes]) -> list[Message]:
        """SCRAM-SHA-256 without channel binding (RFC 5802, RFC 7677)."""
        assert b"SCRAM-SHA-256" in mechanisms, mechanisms
        nonce = base64.b64encode(secrets.token_bytes(18))
        first_bare = b"n=,r=" + nonce
        first = b"n,," + first_bare
        self.send(message(b"p", _text("SCRAM-SHA-256") + struct.pack("!i", len(first)) + first))
        challenge = self._sasl(11)
        server_first = challenge[1][4:]
        fields = dict(part.split(b"=", 1) for part in server_first.split(b","))
        assert fields[b"r"].startswith(nonce), "the server's nonce must go on from ours"

        salt, iterations = base64.b64decode(fields[b"s"]), int(fields[b"i"])
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
        client_key = _hmac(salted, b"Client Key")
        without_proof = b"c=biws,r=" + fields[b"r"]
        signed = b",".join((first_bare, server_first, without_proof))
        signature = _hmac(hashlib.sha256(client_key).digest(), signed)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self.send(message(b"p", without_proof + b",p=" + base64.b64encode(proof)))

        final = self._sasl(12)
        expected = _hmac(_hmac(salted, b"Server Key"), signed)
        assert final[1][4:] == b"v=" + base64.b64encode(expected), "the server's signature is wrong"
        return [challenge, final]

    def _sasl(self, code: int) -> Message:
        kind, body = self.read_until(b"RE")[-1]
        if kind == b"E":
            raise ServerError(error_fields(body))
        assert struct.unpack_from("!i", body) == (code,), body
        return kind, body


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _shorts(values: Sequence[int]) -> bytes:
    return struct.pack(f"!h{len(values)}h", len(values), *values)

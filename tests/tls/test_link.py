"""The link by itself, over a transport in memory, against OpenSSL by way of `ssl`."""

import asyncio
import contextlib
import ssl
from pathlib import Path
from typing import Any

import pytest

from pooler.tls import TlsLink, why
from tests.tls.certificates import Authority


class Lower:
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.protocol: Any = None
        self.paused = self.closed = self.aborted = self.eof = False

    def write(self, data: bytes) -> None:
        assert not self.eof
        self.sent += data

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closed

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1)}.get(name, default)


class Upper(asyncio.Protocol):
    """A protocol that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.ended = 0
        self.lost: list[BaseException | None] = []

    def data_received(self, data: bytes) -> None:
        self.heard.append(data)

    def eof_received(self) -> bool:
        self.ended += 1
        return False

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost.append(error)


class Pair:
    """A link as the server, and a client of the standard library."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        self.lower, self.upper = Lower(), Upper()
        self.over: list[OSError | None] = []
        self.link = TlsLink(
            self.lower,  # type: ignore[arg-type]  # a transport by shape
            self.upper,
            server,
            self.over.append,
            server_side=True,
        )
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.peer = client.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def carry(self, size: int = 1 << 20) -> None:
        """Bring what the peer has said to the link and what the link has said to the peer."""
        data = self.outgoing.read()
        for at in range(0, len(data), size):
            self.lower.protocol.data_received(data[at : at + size])
        self.incoming.write(bytes(self.lower.sent))
        self.lower.sent.clear()

    def shake(self, size: int = 1 << 20, direct: bool = False) -> None:
        """Shake hands, the peer's bytes `size` at a time."""
        with pytest.raises(ssl.SSLWantReadError):
            self.peer.do_handshake()
        self.link.start(self.outgoing.read() if direct else b"")
        while not self.over:
            self.carry(size)
            with contextlib.suppress(ssl.SSLWantReadError):
                self.peer.do_handshake()
        self.carry()

    def read(self) -> bytes:
        """Read all that the peer has received."""
        data = b""
        while True:
            try:
                data += self.peer.read(1 << 20)
            except ssl.SSLWantReadError:
                return data


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    folder: Path = tmp_path_factory.mktemp("link")
    authority = Authority(folder)
    pair = authority.issue("localhost", ["localhost"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pair.cert, pair.key)
    server.set_alpn_protocols(["postgresql"])
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(authority.file)
    client.set_alpn_protocols(["postgresql"])
    return server, client


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def pair(contexts: tuple[ssl.SSLContext, ssl.SSLContext], request: pytest.FixtureRequest) -> Pair:
    server, client = contexts
    client.maximum_version = request.param
    return Pair(server, client)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_handshake_and_both_ways(pair: Pair, size: int, direct: bool) -> None:
    pair.shake(size, direct)
    assert pair.over == [None]
    assert pair.link.alpn == "postgresql"
    info, cipher = pair.link.info, pair.peer.cipher()
    assert info is not None
    assert cipher is not None
    assert pair.link.get_extra_info("tls") is info
    assert (info.version, info.cipher) == (pair.peer.version(), cipher[0])
    assert pair.link.get_extra_info("peername") == ("127.0.0.1", 1)
    pair.peer.write(b"question")
    pair.carry(size)
    assert b"".join(pair.upper.heard) == b"question"
    pair.link.write(b"answer")
    pair.link.write(b"")
    pair.carry()
    assert pair.read() == b"answer"


def test_what_came_with_the_end_of_the_handshake(pair: Pair) -> None:
    with pytest.raises(ssl.SSLWantReadError):
        pair.peer.do_handshake()
    pair.link.start()
    written = 0
    while not pair.over or not written:
        pair.carry()
        with contextlib.suppress(ssl.SSLWantReadError):
            pair.peer.do_handshake()
            written = written or pair.peer.write(b"at once")
    pair.carry()
    assert b"".join(pair.upper.heard) == b"at once"


@pytest.mark.parametrize("size", [100, 5000, 1 << 20])
def test_large(pair: Pair, size: int) -> None:
    pair.shake()
    data = bytes(range(256)) * 2000
    pair.peer.write(data)
    pair.carry(size)
    assert b"".join(pair.upper.heard) == data
    if size == 1 << 20:
        assert len(pair.upper.heard) < 12  # records are joined
    pair.link.write(data)
    pair.carry()
    assert pair.read() == data


async def _paused(pair: Pair) -> None:
    pair.shake()
    pair.link.pause_reading()
    assert pair.lower.paused
    pair.peer.write(b"1" * 40_000)
    pair.carry()
    assert not pair.upper.heard
    pair.link.resume_reading()
    assert pair.lower.paused  # what is here already comes first
    pair.link.pause_reading()
    await asyncio.sleep(0)
    assert not pair.upper.heard
    assert pair.lower.paused
    pair.link.resume_reading()
    await asyncio.sleep(0)
    assert b"".join(pair.upper.heard) == b"1" * 40_000
    assert not pair.lower.paused


def test_pause(pair: Pair) -> None:
    asyncio.run(_paused(pair))


def test_close_notify(pair: Pair) -> None:
    pair.shake()
    pair.peer.write(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        pair.peer.unwrap()
    pair.carry()
    assert pair.upper.heard == [b"last words"]
    assert pair.upper.ended == 1
    assert pair.lower.closed


def test_an_end_without_close_notify(pair: Pair) -> None:
    pair.shake()
    assert pair.link.eof_received() is False
    assert pair.upper.ended == 1
    pair.link.connection_lost(None)
    pair.link.connection_lost(None)
    assert pair.upper.lost == [None]


def test_half_close(pair: Pair) -> None:
    pair.shake()
    pair.link.write_eof()
    assert pair.lower.eof
    pair.link.write(b"dropped")
    pair.peer.write(b"heard")
    pair.carry()
    if pair.peer.version() == "TLSv1.3":  # TLS 1.2 has no half-closed state
        assert pair.upper.heard == [b"heard"]
    assert not pair.lower.aborted


def test_closed(pair: Pair) -> None:
    pair.shake()
    pair.link.close()
    pair.link.close()
    pair.link.write(b"dropped")
    assert pair.lower.closed
    pair.carry()
    assert pair.peer.read(1) == b""  # close_notify


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(50), b"\x16\x03\x01\0\5hello"]
)
def test_garbage_in_place_of_a_handshake(pair: Pair, garbage: bytes) -> None:
    pair.link.start(garbage)
    (error,) = pair.over
    assert isinstance(error, ssl.SSLError)
    assert why(error)
    assert pair.lower.closed
    assert bytes(pair.lower.sent[:1]) in (b"\x15", b"")  # an alert
    pair.link.write(b"dropped")
    pair.link.data_received(garbage)
    pair.link.connection_lost(None)
    assert pair.over == [error]
    assert not pair.upper.heard


def test_garbage_after_the_handshake(pair: Pair) -> None:
    pair.shake()
    pair.link.data_received(b"\x17\x03\x03\0\x20" + bytes(32))
    assert pair.lower.aborted
    assert len(pair.upper.lost) == 1
    assert isinstance(pair.upper.lost[0], ssl.SSLError)
    pair.link.connection_lost(None)
    assert len(pair.upper.lost) == 1


def test_lost_during_the_handshake(pair: Pair) -> None:
    pair.link.start()
    pair.link.write(b"dropped")
    pair.link.connection_lost(None)
    assert isinstance(pair.over[0], ConnectionResetError)
    assert not pair.lower.sent


def test_no_renegotiation_is_needed_for_a_new_protocol(pair: Pair) -> None:
    pair.shake()
    other = Upper()
    pair.link.set_protocol(other)
    assert pair.link.get_protocol() is other
    pair.peer.write(b"to the new one")
    pair.carry()
    assert other.heard == [b"to the new one"]
    assert not pair.upper.heard

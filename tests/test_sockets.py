"""Options of sockets: those that accepted connections inherit."""

import socket
from collections.abc import Iterator

import pytest

from pooler.config.model import Tcp
from pooler.sockets import check_tcp_options, set_listening_options, tcp_sockets

OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    (sock,) = tcp_sockets("127.0.0.1", 0, reuse_port=False)
    sock.listen()
    sock.setblocking(True)
    with sock:
        yield sock


def options(sock: socket.socket) -> list[int]:
    return [sock.getsockopt(level, option) for level, option in OPTIONS]


def accepted(listening: socket.socket) -> list[int]:
    """What a connection has that comes now."""
    with socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            return options(connection)


def test_what_is_accepted_is_as_the_section_says(listening: socket.socket) -> None:
    with socket.socket() as fresh:
        usual = options(fresh)
    set_listening_options(
        listening, Tcp(keepidle=61.0, keepintvl=7.2, keepcnt=3, user_timeout=12.5)
    )
    assert accepted(listening) == [1, 61, 7, 3, 12_500]
    set_listening_options(listening, Tcp())
    assert accepted(listening) == [1, *usual[1:]]
    set_listening_options(listening, Tcp(keepalive=False, keepcnt=4))
    assert accepted(listening) == [0, *usual[1:3], 4, usual[4]]


def test_what_the_kernel_does_not_take(listening: socket.socket) -> None:
    check_tcp_options(Tcp(keepidle=32_767.0))
    with pytest.raises(OSError, match=r"tcp\.keepidle: 32768") as caught:
        check_tcp_options(Tcp(keepidle=32_768.0))
    assert caught.value.strerror == "Invalid argument"

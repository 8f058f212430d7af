"""The cutter against a naive parser: same kinds, same boundaries, however the bytes are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.wire.build import message
from pooler.wire.codes import LARGE_LIMIT, SMALL_LIMIT
from pooler.wire.cutter import (
    BAD,
    COUNT,
    END,
    FROM_CLIENT,
    FROM_SERVER,
    MORE,
    STOP,
    BadMessage,
    Cutter,
    client_cutter,
    server_cutter,
)

CLIENT = [kind for kind in range(256) if FROM_CLIENT[kind] != BAD]
SERVER = [kind for kind in range(256) if FROM_SERVER[kind] != BAD]


def walk(cutter: Cutter, chunks: list[bytes]) -> tuple[bytes, list[tuple[int, int]]]:
    """Feed chunks as a link does, holding back incomplete headers.

    Return the kinds counted and, for messages stopped at, kind and offset in the stream.
    """
    counted = bytearray()
    stops: list[tuple[int, int]] = []
    held = b""
    start = 0  # of `data` in the stream
    for chunk in chunks:
        data = held + chunk
        held = b""
        at = cutter.scan(data, 0)
        while cutter.stop > END:
            stops.append((cutter.stop, start + at))
            at = cutter.pass_over(data, at)
        if cutter.stop == MORE:
            assert len(data) - at < 5
            held = data[at:]
        else:
            assert at == len(data)
        start += len(data) - len(held)
        counted += bytes(cutter.kinds)
        cutter.kinds.clear()
    return bytes(counted), stops


def naive(stream: bytes, marks: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    """What `walk` has to return, from the whole stream, in the plainest way."""
    counted = b""
    stops = []
    at = 0
    while at + 5 <= len(stream):
        kind = stream[at]
        if marks[kind] == COUNT:
            counted += stream[at : at + 1]
        elif marks[kind] == STOP:
            stops.append((kind, at))
        at += 1 + int.from_bytes(stream[at + 1 : at + 5], "big")
    return counted, stops


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut at the given places (modulo the length)."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


def streams(kinds: list[int]) -> st.SearchStrategy[bytes]:
    """Sequences of messages as one stream."""
    one = st.builds(message, st.sampled_from(kinds), st.binary(max_size=12))
    return st.lists(one, max_size=12).map(b"".join)


CUTS = st.lists(st.integers(0, 500), max_size=12)


@given(streams(CLIENT), CUTS)
def test_client_stream(stream: bytes, cuts: list[int]) -> None:
    assert walk(client_cutter(), cut(stream, cuts)) == naive(stream, FROM_CLIENT)


@given(streams(SERVER), CUTS)
def test_server_stream(stream: bytes, cuts: list[int]) -> None:
    assert walk(server_cutter(), cut(stream, cuts)) == naive(stream, FROM_SERVER)


@given(streams(SERVER), CUTS, st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255))))
def test_mutated_stream(stream: bytes, cuts: list[int], changes: list[tuple[int, int]]) -> None:
    data = bytearray(stream)
    for place, value in changes:
        if data:
            data[place % len(data)] = value
    try:
        found = walk(server_cutter(), cut(bytes(data), cuts))
    except BadMessage:
        return
    assert found == naive(bytes(data), FROM_SERVER)


@given(st.binary(max_size=60), CUTS)
def test_any_bytes(data: bytes, cuts: list[int]) -> None:
    try:
        found = walk(client_cutter(), cut(data, cuts))
    except BadMessage:
        return
    assert found == naive(data, FROM_CLIENT)


@pytest.mark.parametrize("size", range(1, 40))
def test_split_anywhere(size: int) -> None:
    stream = message(0x44, b"row") + message(0x43, b"SELECT 1\0") + message(0x5A, b"I")
    chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert walk(server_cutter(), chunks) == (b"", [(0x43, 8), (0x5A, 22)])


def test_marks() -> None:
    assert [kind for kind in CLIENT if FROM_CLIENT[kind] == COUNT] == sorted(b"BDECSFcf")
    assert [kind for kind in CLIENT if FROM_CLIENT[kind] == STOP] == sorted(b"QPX")
    assert [kind for kind in SERVER if FROM_SERVER[kind] == COUNT] == sorted(b"123IsTnW")
    assert [kind for kind in SERVER if FROM_SERVER[kind] == STOP] == sorted(b"ZCSEGA")


@pytest.mark.parametrize("kind", [kind for kind in range(256) if kind not in CLIENT])
def test_no_such_kind(kind: int) -> None:
    with pytest.raises(BadMessage, match=f"invalid message type {kind}$"):
        client_cutter().scan(message(kind, b""), 0)


@pytest.mark.parametrize("length", [0, 1, 3, LARGE_LIMIT, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_invalid_length(length: int) -> None:
    with pytest.raises(BadMessage, match=f"invalid length {length} of message type 'Q'"):
        client_cutter().scan(b"Q" + length.to_bytes(4, "big"), 0)


def test_a_large_message_passes_and_a_large_sync_does_not() -> None:
    cutter = client_cutter()
    header = (LARGE_LIMIT - 1).to_bytes(4, "big")
    assert cutter.scan(b"B" + header + b"SELECT", 0) == 11
    assert (cutter.stop, cutter.left) == (END, LARGE_LIMIT - 11)
    with pytest.raises(BadMessage, match="message type 'S'"):
        client_cutter().scan(b"S" + SMALL_LIMIT.to_bytes(4, "big"), 0)


def test_a_stop_tells_the_size_of_an_incomplete_message() -> None:
    cutter = server_cutter()
    data = message(0x32, b"") + message(0x45, b"x" * 100)[:20]
    at = cutter.scan(data, 0)
    assert (at, cutter.stop, cutter.size, bytes(cutter.kinds)) == (5, 0x45, 105, b"2")
    assert cutter.pass_over(data, at) == len(data)
    assert (cutter.stop, cutter.left) == (END, 85)
    assert cutter.scan(b"x" * 85 + b"Z", 0) == 85
    assert cutter.stop == MORE

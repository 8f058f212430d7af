"""A chunk that is one whole reply is known by its headers; anything else has to be looked at."""

import pytest

from pooler.wire import build, codes
from pooler.wire.cutter import whole_reply

ROW = build.message(codes.DATA_ROW, b"\0\1\0\0\0\1x")
DONE = build.message(codes.COMMAND_COMPLETE, b"SELECT 1\0")
PARSED, BOUND = build.message(ord("1"), b""), build.message(ord("2"), b"")


@pytest.mark.parametrize(
    ("reply", "answers"),
    [
        (build.READY, 0),
        (ROW + DONE + build.READY, 1),
        (PARSED + BOUND + build.message(ord("T"), bytes(2)) + DONE + build.READY, 4),
        (build.message(codes.COMMAND_COMPLETE, b"BEGIN\0") + build.message(ord("Z"), b"T"), 1),
    ],
)
def test_whole(reply: bytes, answers: int) -> None:
    assert whole_reply(reply) == answers
    for size in range(len(reply)):
        assert whole_reply(reply[:size]) == -1


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        ROW,
        build.message(codes.DATA_ROW, build.READY) + DONE,
        ROW + build.READY[:-1],
        build.message(codes.DATA_ROW, b"x" + build.READY),  # a value that looks like its end
        build.READY + build.READY,
        build.error("ERROR", "42601", "no") + build.READY,
        build.message(codes.COMMAND_COMPLETE, b"SET\0") + build.READY,
        build.message(codes.COMMAND_COMPLETE, b"LISTEN\0") + build.READY,
        build.parameter_status("role", "x") + build.READY,
        b"D\0\0\0\3" + build.READY,
        b"D\xff\xff\xff\xff" + build.READY,
        DONE + b"Z\0\0\0\6I" + b"I",
    ],
)
def test_to_be_looked_at(reply: bytes) -> None:
    assert whole_reply(reply) == -1

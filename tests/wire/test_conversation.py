"""A dialogue over bytes as they come."""

import pytest

from pooler.wire import build, codes
from pooler.wire.conversation import BUFFER_LIMIT, Conversation, Over
from pooler.wire.logins import (
    Account,
    Check,
    Dialogue,
    Encryption,
    Find,
    LoginFailed,
    Message,
    Silence,
    StartTls,
    client_login,
)
from tests.wire.driving import KEY, counting

HELLO = build.startup([("user", "bob")])
NEXT = Message(b"p", "answer", 10)
ONE, OTHER = build.message(ord("p"), b"one"), build.message(ord("p"), b"other")


def dialogue() -> Dialogue[list[bytes]]:
    """Two questions, and what was answered."""
    heard: list[bytes] = []
    for question in (b"one?", b"other?"):
        yield question
        yield b" "
        answer: tuple[int, bytes] = yield NEXT
        heard.append(answer[1])
    yield b"thanks"
    return heard


@pytest.mark.parametrize("size", [1, 4, 9, 1000])
def test_bytes_are_cut_into_answers(size: int) -> None:
    conversation = Conversation(dialogue())
    assert conversation.answer(None) is None
    assert conversation.said == b"one? "
    data = ONE + OTHER
    for at in range(0, len(data) - 1, size):
        end: object = conversation.receive(data[at : min(at + size, len(data) - 1)])
        assert end is None
    assert conversation.said == b"one? other? "
    end = conversation.receive(data[-1:] + b"rest")
    assert isinstance(end, Over)
    assert (end.result, end.rest) == ([b"one", b"other"], b"rest")
    assert conversation.said == b"one? other? thanks"


def test_what_bytes_cannot_answer_is_asked() -> None:
    conversation = Conversation(client_login(counting(), KEY))
    assert conversation.answer(None) is None
    assert isinstance(conversation.receive(HELLO + b"Q"), Find)
    assert conversation.receive(b"\0\0") is None  # of what follows, nobody has asked for it yet
    end = conversation.answer(Account("trust"))
    assert isinstance(end, Over)
    assert end.rest == b"Q\0\0"


def test_a_question_about_a_password() -> None:
    async def ask(password: str) -> str:
        return ""

    conversation = Conversation(client_login(counting(), KEY))
    conversation.answer(None)
    conversation.receive(HELLO)
    assert conversation.answer(Account("pam", None, ask)) is None
    asked = conversation.receive(build.password("secret"))
    assert isinstance(asked, Check)
    assert asked.password == "secret"
    assert isinstance(conversation.answer(""), Over)


def test_what_came_before_tls_is_the_handshakes() -> None:
    conversation = Conversation(client_login(counting(), KEY, None, Encryption(offered=True)))
    conversation.answer(None)
    assert conversation.receive(b"\x16\3\1") == StartTls(direct=True)
    assert conversation.received() == b"\x16\3\1"
    assert conversation.received() == b""


def test_a_broken_rule_is_raised_and_what_was_said_stays() -> None:
    conversation = Conversation(dialogue())
    conversation.answer(None)
    with pytest.raises(LoginFailed, match="expected answer"):
        conversation.receive(b"X")
    assert conversation.said == b"one? "
    conversation.close()


def test_silence() -> None:
    def quiet() -> Dialogue[str]:
        yield Silence("too early")
        return "quiet"

    end = Conversation(quiet()).answer(None)
    assert isinstance(end, Over)
    early = Conversation(client_login(counting(), KEY))
    early.answer(None)
    with pytest.raises(LoginFailed, match="received unencrypted data after SSL request"):
        early.receive(build.SSL_REQUEST + HELLO)


def test_what_is_kept_has_a_bound() -> None:
    conversation = Conversation(client_login(counting(), KEY))
    conversation.answer(None)
    assert isinstance(conversation.receive(HELLO), Find)
    assert conversation.receive(bytes(BUFFER_LIMIT)) is None
    with pytest.raises(LoginFailed, match="too much data") as caught:
        conversation.receive(b"\0")
    assert caught.value.sqlstate == codes.PROTOCOL_VIOLATION

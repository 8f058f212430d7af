"""Two processes hear the same notifications, and a client goes over between any two of them."""

import pytest

from pooler.core.client import Client
from pooler.core.following import Following
from pooler.wire import build, codes
from tests.core.support import App, World


class Ear:
    """Stands for what a process hears of a pool."""

    def __init__(self) -> None:
        self.ready: list[int] = []
        self.marks = 0
        self.following = Following(
            World().app().client.pool.broadcast,
            "marker",
            lambda number, channels: self.ready.append(number),
            self._marked,
        )

    def _marked(self) -> None:
        self.marks += 1

    def hear(self, client: Client | None, *payloads: str, channel: str = "news") -> None:
        """Hear notifications; the client, if it is here, is told as the broadcast does."""
        for payload in payloads:
            self.following.heard(channel, _message(payload), payload.encode())
            if client is not None and not self.following.was_told(client, channel):
                client.notes.notify(_message(payload), channel)


def _message(payload: str) -> bytes:
    body = b"\0\0\0\1news\0" + payload.encode() + b"\0"
    return build.message(codes.NOTIFICATION_RESPONSE, body)


def _told(app: App) -> list[str]:
    """The payloads of what a client was told, since it logged in."""
    app.world.run()
    _, *found = bytes(app.raw).split(b"news\0")
    return [payload.split(b"\0")[0].decode() for payload in found]


NEWS = frozenset(("news",))


def marked() -> tuple[Ear, Ear]:
    """Two that have begun to count."""
    old, new = Ear(), Ear()
    for ear in (old, new):
        ear.following.follow(1, NEWS)
        ear.following.attending(frozenset(("news", "marker")))
        assert ear.ready == [1]
        ear.following.heard("marker", b"", b"1")
        assert ear.marks == 1
    return old, new


@pytest.mark.parametrize("told", range(5))
@pytest.mark.parametrize("heard", range(5))
def test_each_is_told_once_whoever_is_ahead(told: int, heard: int) -> None:
    old, new = marked()
    app = World().app()
    client = app.client
    words = ["a", "b", "a", "c"]
    old.hear(client, *words[:told])
    new.hear(None, *words[:heard])
    position = old.following.position(NEWS)
    assert position == {"news": told}
    new.following.resume(client, position)
    new.hear(client, *words[heard:])
    assert _told(app) == words


def test_before_the_mark_nothing_counts() -> None:
    ear = Ear()
    ear.following.follow(1, NEWS)
    ear.following.attending(NEWS)
    assert ear.ready == []
    ear.hear(None, "early")
    assert ear.following.position(NEWS) is None
    ear.following.attending(frozenset(("news", "marker")))
    ear.hear(None, "early, too")
    ear.following.heard("marker", b"", b"nonsense")
    ear.following.heard("marker", b"", b"7")
    assert ear.following.position(NEWS) is None
    ear.following.heard("marker", b"", b"1")
    assert ear.following.position(NEWS) == {"news": 0}


def test_a_later_round_leaves_the_first_alone() -> None:
    old, _ = marked()
    old.hear(None, "a")
    more = frozenset(("news", "more"))
    assert old.following.lacks(more) == {"more"}
    old.following.follow(2, frozenset(("more",)))
    assert old.following.channels == {"news", "more", "marker"}
    old.following.attending(more | {"marker"})
    assert old.ready == [1, 2]
    old.following.heard("marker", b"", b"2")
    assert old.following.position(more) == {"news": 1, "more": 0}


def test_a_lost_ear_counts_anew() -> None:
    old, _ = marked()
    old.hear(None, "a")
    old.following.lost()
    assert old.following.position(NEWS) is None
    old.following.attending(frozenset(("news", "marker")))
    assert old.ready == [1, 1]
    old.following.heard("marker", b"", b"1")
    assert old.following.position(NEWS) == {"news": 0}


def test_what_is_kept_has_a_bound() -> None:
    _, new = marked()
    new.hear(None, *(str(number) + "x" * 1_500_000 for number in range(4)))
    app = World().app()
    new.following.resume(app.client, {"news": 0})
    assert [payload[0] for payload in _told(app)] == ["2", "3"]

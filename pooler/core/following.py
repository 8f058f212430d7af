"""Two processes hear the same channels, and a client goes from one to the other: it misses nothing.

PostgreSQL gives all who listen the same notifications in the same order. One of our own, on a
channel of its own (`marker`), marks the moment from which both processes count what they hear of a
set of channels (a round). The count of what a client was told goes with it, and where it arrives it
is told what is above that. A process whose ear was lost counts anew: the round is marked again.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pooler.core.broadcast import Broadcast
    from pooler.core.client import Client

KEPT: Final = 4_194_304
"""Bytes of notifications kept for clients that are still to come."""


class Following:
    """What one process has heard of the channels of one pool while another hears them, too."""

    def __init__(
        self,
        broadcast: "Broadcast",
        marker: str,
        ready: Callable[[int, frozenset[str]], None],
        marked: Callable[[], None],
    ) -> None:
        """`ready` hears that the ear listens to a round's channels; `marked`, of its mark."""
        self._broadcast = broadcast
        self.marker = marker
        self._ready = ready
        self._marked = marked
        self._rounds: dict[int, frozenset[str]] = {}
        self._told: set[int] = set()  # rounds that `ready` has heard of
        self._counts: dict[str, int] = {}  # of each channel, since it was marked
        self._log: deque[tuple[str, int, bytes]] = deque()
        self._size = 0
        self._ahead: dict[Client, dict[str, int]] = {}  # told more, where they were, than we heard
        self._attending: frozenset[str] = frozenset()

    @property
    def channels(self) -> frozenset[str]:
        """What the ear has to listen to for this."""
        return frozenset((self.marker,)).union(*self._rounds.values())

    def follow(self, number: int, channels: frozenset[str]) -> None:
        """Add a round, or have it marked again."""
        self._rounds[number] = channels
        self._told.discard(number)
        self._broadcast.attend()
        self.attending(self._attending)

    def lacks(self, channels: frozenset[str]) -> frozenset[str]:
        """Return which of these are in no round."""
        return channels.difference(*self._rounds.values())

    def position(self, channels: frozenset[str]) -> dict[str, int] | None:
        """Return what was heard of each of these; None: they are not marked yet."""
        if not channels <= self._counts.keys():
            return None
        return {channel: self._counts[channel] for channel in channels}

    def resume(self, client: "Client", position: Mapping[str, int]) -> None:
        """Tell a client that arrives what it has not been told, and nothing that it has."""
        for channel, number, message in list(self._log):
            if number > position.get(channel, number):
                client.notes.notify(message, channel)
        ahead = {
            channel: number
            for channel, number in position.items()
            if number > self._counts.get(channel, 0)
        }
        if ahead:
            self._ahead[client] = ahead

    def was_told(self, client: "Client", channel: str) -> bool:
        """Return whether a client was told, where it was, what has just been heard."""
        ahead = self._ahead.get(client)
        return ahead is not None and self._counts.get(channel, 0) <= ahead.get(channel, 0)

    # -- for the broadcast

    def attending(self, channels: frozenset[str]) -> None:
        """The ear listens to these."""
        self._attending = channels
        for number, wanted in self._rounds.items():
            if number not in self._told and wanted <= channels and self.marker in channels:
                self._told.add(number)
                self._ready(number, wanted)

    def heard(self, channel: str, message: bytes, payload: bytes) -> None:
        """Count a notification, or begin to."""
        if channel == self.marker:
            if payload.isdigit():
                self._counts.update(dict.fromkeys(self._rounds.get(int(payload), ()), 0))
                self._marked()
        elif channel in self._counts:
            self._counts[channel] += 1
            self._log.append((channel, self._counts[channel], message))
            self._size += len(message)
            while self._size > KEPT:
                self._size -= len(self._log.popleft()[2])

    def lost(self) -> None:
        """The ear has missed something, perhaps."""
        self._attending = frozenset()
        self._told.clear()
        self._counts.clear()
        self._log.clear()
        self._size = 0
        self._ahead.clear()

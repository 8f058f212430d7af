"""A view of the cancel requests that other poolers are asked about."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pooler.admin.view import Row, View, bigints

if TYPE_CHECKING:
    from pooler.service import Service


def _asked(service: "Service") -> Iterator[Row]:
    peers = service.peers
    yield peers.under_way, peers.sent, peers.dropped


VIEW: Final = View(
    "peer_cancels",
    "cancel requests sent on to peers: under way, in all, and those above the bounds",
    bigints("under_way", "sent", "dropped"),
    _asked,
)

"""Views of the other poolers to which cancel requests are sent on."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pooler.admin.view import Merge, Row, View, bigints, ints, text
from pooler.config.units import split_address

if TYPE_CHECKING:
    from pooler.service import Service


def _peers(service: "Service") -> Iterator[Row]:
    peers = service.config.peers
    addresses = [*peers.members.items(), *((0, host) for host in peers.hosts)]
    for number, address in addresses:
        host, port = split_address(address)
        yield number, host, port or peers.port, 0


def _asked(service: "Service") -> Iterator[Row]:
    peers = service.peers
    yield peers.under_way, peers.sent, peers.dropped


VIEWS: Final = (
    View(
        "peers",
        "other poolers, to which cancel requests are sent on; 0: without a number",
        (*ints("peer_id"), *text("host"), *ints("port", "pool_size")),
        _peers,
        Merge.FIRST,
    ),
    View(
        "peer_cancels",
        "cancel requests sent on to peers: under way, in all, and those above the bounds",
        bigints("under_way", "sent", "dropped"),
        _asked,
    ),
)

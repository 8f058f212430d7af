"""Views of the process: version, state, memory; and those of PgBouncer that are empty here."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import pooler
from pooler.admin.view import Column, Fold, Merge, Row, Type, View, bigints, ints, keys, text

if TYPE_CHECKING:
    from pooler.service import Service

COMPATIBLE: Final = "1.25.0"
"""The PgBouncer whose console ours is like: monitoring looks for its version."""

VERSION: Final = f"PgBouncer {COMPATIBLE} (pooler {pooler.__version__})"

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def _version(service: "Service") -> Iterator[Row]:
    yield (VERSION,)


def _state(service: "Service") -> Iterator[Row]:
    paused = service.router.holds.pauses_all
    stopping = service.router.ending is not None
    for name, value in (
        ("active", not paused),
        ("paused", paused),
        ("suspended", False),
        ("shutting_down", stopping),
    ):
        yield name, "yes" if value else "no"


def _mem(service: "Service") -> Iterator[Row]:
    """The process's memory in pages, and the connections that it is mostly used for."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            virtual, resident = (int(word) for word in file.read().split()[:2])
    except OSError:
        return
    yield "virtual", _PAGE, virtual, 0, virtual * _PAGE
    yield "resident", _PAGE, resident, 0, resident * _PAGE


def _nothing(service: "Service") -> Iterator[Row]:
    yield from ()


VIEWS: Final = (
    View(
        "version",
        "the version, and that of the PgBouncer it is like",
        text("version"),
        _version,
        Merge.FIRST,
    ),
    View("state", "whether all is paused", text("key", "value"), _state, Merge.FIRST),
    View(
        "mem",
        "memory of the process, in bytes",
        (
            *keys("name"),
            *bigints("size"),
            *(Column(name, Type.BIGINT, Fold.SUM) for name in ("used", "free", "memtotal")),
        ),
        _mem,
        Merge.GROUP,
    ),
    View(
        "dns_hosts",
        "nothing: names are looked up each time a server connection is opened",
        (*text("hostname"), *bigints("ttl"), *text("addrs")),
        _nothing,
    ),
    View("dns_zones", "nothing", (*text("zonename"), *bigints("serial"), *ints("count")), _nothing),
)

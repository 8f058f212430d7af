"""Notices that a configuration file has changed, by looking once a second.

Looking at the name's final target also sees the symlink swap by which Kubernetes updates a
ConfigMap, which inotify on the file would miss.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import Final

INTERVAL: Final = 1.0  # seconds

Signature = tuple[object, ...]


def look(name: str) -> object:
    """Return what differs when the file was written, replaced or re-linked."""
    try:
        found = os.stat(name)
    except (OSError, ValueError) as error:
        return name, getattr(error, "errno", 0)
    return os.path.realpath(name), found.st_ino, found.st_size, found.st_mtime_ns


def signature(files: Iterable[str]) -> Signature:
    """Return how all the files look."""
    return tuple(look(name) for name in files)


async def watch(
    files: Callable[[], Iterable[str]],
    loaded: Callable[[], Signature],
    changed: Callable[[], None],
) -> None:
    """Call `changed` once after each change, when the files have been still for an interval.

    `loaded` is how they looked when they were read, so that nothing gets lost between a reload and
    the next look.
    """
    reported = known = last = loaded()
    while True:
        await asyncio.sleep(INTERVAL)
        now = signature(files())
        if loaded() != known:  # a reload has read them, and maybe others
            reported = known = loaded()
        if now == last and now != reported:
            reported = now
            changed()
        last = now

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


def signature(files: Iterable[str]) -> Signature:
    """Return what differs when any of the files was written, replaced or re-linked."""
    seen: list[object] = []
    for name in files:
        try:
            found = os.stat(name)
            seen.append((os.path.realpath(name), found.st_ino, found.st_size, found.st_mtime_ns))
        except OSError as error:
            seen.append((name, error.errno))
    return tuple(seen)


async def watch(files: Callable[[], Iterable[str]], changed: Callable[[], None]) -> None:
    """Call `changed` once after each change, when the files have been still for an interval."""
    reported = last = signature(files())
    names = tuple(files())
    while True:
        await asyncio.sleep(INTERVAL)
        now = signature(files())
        if tuple(files()) != names:  # a reload reads other files: what they are now is known
            names = tuple(files())
            reported = last = now
        elif now == last and now != reported:
            reported = now
            changed()
        last = now

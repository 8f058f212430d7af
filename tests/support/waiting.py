"""Waiting for what has to come, instead of sleeping and hoping."""

import time
from collections.abc import Callable

POLL = 0.01  # seconds


def wait_until(holds: Callable[[], object], timeout: float = 30.0) -> None:
    """Ask again and again until `holds` says yes; AssertionError when it doesn't in time."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"waited {timeout} s in vain"
        time.sleep(POLL)

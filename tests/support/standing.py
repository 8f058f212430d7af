"""A load that stands still, so that what is shown of it can be compared; and patience."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Thread
from typing import Any

from tests.support.pooler import Pooler

PATIENCE = 30.0  # seconds, on a loaded machine


def until(what: Callable[[], Any], wanted: Any) -> None:
    """Wait for it to be so."""
    end = time.monotonic() + PATIENCE
    while (found := what()) != wanted:
        assert time.monotonic() < end, f"{found!r} is not {wanted!r}"
        time.sleep(0.05)


@contextmanager
def load(pooler: Pooler) -> Iterator[Callable[[], None]]:
    """A load that stands still: a pin, a transaction, two clients that wait and two that do not.

    Gives what makes one more client wait.
    """
    with ExitStack() as stack:
        names = ("pinned", "busy", "idle", *(f"waiter{i}" for i in range(3)))
        # All log in while there is a server to be greeted by.
        pinned, busy, _, *others = (
            stack.enter_context(pooler.connect(application_name=name)) for name in names
        )
        pinned.execute("SELECT pg_advisory_lock(4711)")
        busy.execute("BEGIN")
        threads: list[Thread] = []

        def wait() -> None:
            client = others[len(threads)]
            threads.append(Thread(target=client.execute, args=("SELECT 1",)))
            threads[-1].start()

        wait()
        wait()
        try:
            yield wait
        finally:
            busy.execute("COMMIT")
            for thread in threads:
                thread.join()

"""Counts what belongs to no pool: connections refused and closed, encryption, reloads."""

from collections import Counter

from pooler.core.counters import class_of
from pooler.core.errors import CloseReason
from pooler.tls import Tls

NO_ERROR = "none"
"""The class where nobody was told anything."""


class Tally:
    """Totals of one process; keys of several parts have a slash between them."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        self.opened: Counter[str] = Counter()
        self.clients_closed: Counter[str] = Counter()
        self.servers_closed: Counter[str] = Counter()
        self.unknown_cancels = 0
        self.reloads: Counter[str] = Counter(ok=0, failed=0)
        self.reload_failed = False
        self.reloaded_at = 0.0
        """In seconds since 1970."""

    def refuse(self, reason: CloseReason, sqlstate: str) -> None:
        """Count a connection that did not become a client."""
        self.refused[f"{reason.value}/{class_of(sqlstate) if sqlstate else NO_ERROR}"] += 1

    def open(self, side: str, tls: Tls | None) -> None:
        """Count a connection that is logged in, `client` or `server`."""
        self.opened[f"{side}/{tls.version if tls else 'none'}"] += 1

    def reload(self, at: float, *, ok: bool) -> None:
        """Count a reload."""
        self.reloads["ok" if ok else "failed"] += 1
        self.reload_failed = not ok
        if ok:
            self.reloaded_at = at

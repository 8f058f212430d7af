"""How many clients all workers have, by what limits count by: in all, of a database, of a user.

Clients choose names: what nobody has any more is forgotten.
"""

from collections import Counter
from typing import Final

from pooler.core.limits import Elsewhere
from pooler.core.settings import Route

Own = Counter[tuple[str, str]]
"""The clients of one worker, by database and user."""

ALL: Final = ""


class Census:
    """That of one supervisor."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()  # by kind and name
        self.elsewhere = Elsewhere()

    @property
    def total(self) -> int:
        """How many clients there are."""
        return self._counts[ALL, ""]

    def counts(self, *names: str) -> list[tuple[str, str, int]]:
        """Return the numbers of all kinds and names; or in all, of this database and this user."""
        keys = self._keys(*names) if names else {(ALL, ""): 0, **self._counts}
        return [(kind, name, self._counts[kind, name]) for kind, name in keys]

    def full(self, database: str, user: str, route: Route, most: int) -> str:
        """Return the name of the limit that forbids a client more, "" if none does."""
        session = route.session
        limits = (most, session.max_db_client_connections, session.max_user_client_connections)
        keys = self._keys(database, user)
        for (kind, name), limit in zip(keys, limits, strict=True):
            count = self._counts[kind, name] + self.elsewhere.count(kind, name)
            if limit and count >= limit:
                of = f' of {kind} "{name}"' if kind else ""
                return f"max_client_connections{of}"
        return ""

    def come(self, own: Own, database: str, user: str) -> None:
        """Count a client of a worker."""
        self._add(own, database, user, +1)

    def gone(self, own: Own, database: str, user: str) -> None:
        """Count it no more."""
        self._add(own, database, user, -1)

    def ended(self, own: Own) -> None:
        """Count none of a worker's."""
        for (database, user), count in list(own.items()):
            self._add(own, database, user, -count)

    def _add(self, own: Own, database: str, user: str, change: int) -> None:
        places = [(own, (database, user))]
        places += ((self._counts, key) for key in self._keys(database, user))
        for counter, key in places:
            counter[key] += change
            if not counter[key]:
                del counter[key]

    @staticmethod
    def _keys(database: str, user: str) -> tuple[tuple[str, str], ...]:
        return (ALL, ""), ("database", database), ("user", user)

"""What is paused and what is disabled, by whose name it is called, whether there is a pool or not.

Pools come and go; a pause stays until it is resumed, or its time is over.
"""

from typing import Any, Final, NamedTuple

FOREVER: Final = float("inf")


class Scope(NamedTuple):
    """What a command is about: everything, a database, or one server user's pool of one."""

    database: str = ""
    user: str = ""

    def covers(self, database: str, user: str = "") -> bool:
        """Return whether it is also about this database's pool of this user."""
        return (not self.database or self.database == database) and (
            not self.user or self.user == user
        )

    def __str__(self) -> str:
        """As people would say it."""
        if not self.database:
            return "all databases"
        return f"database {self.database}" + (f", user {self.user}" if self.user else "")


EVERYTHING: Final = Scope()


class Holds:
    """What is held back."""

    def __init__(self) -> None:
        self.paused: dict[Scope, float] = {}
        """Until when, in seconds of the edge's clock."""
        self.disabled: set[str] = set()

    @property
    def pauses_all(self) -> bool:
        """True while everything is paused, not some databases one by one."""
        return EVERYTHING in self.paused

    def pauses(self, database: str, user: str = "") -> bool:
        """Return whether the pool's servers are given to nobody."""
        return any(scope.covers(database, user) for scope in self.paused)

    def disables(self, database: str) -> bool:
        """Return whether new clients are turned away."""
        return database in self.disabled

    def packed(self, now: float) -> list[list[Any]]:
        """Return what another process needs to hold the same, as plain values."""
        paused = [
            [*scope, None if until == FOREVER else until - now]
            for scope, until in self.paused.items()
        ]
        return [paused, sorted(self.disabled)]

    def take(self, packed: list[list[Any]], now: float) -> None:
        """Hold what another process has packed, and nothing else."""
        paused, disabled = packed
        self.paused = {
            Scope(database, user): FOREVER if left is None else now + left
            for database, user, left in paused
        }
        self.disabled = set(disabled)

    def over(self, now: float) -> list[Scope]:
        """Take away the pauses whose time is over, and return what they were about."""
        done = [scope for scope, until in self.paused.items() if until <= now]
        for scope in done:
            del self.paused[scope]
        return done

"""What the clients of a pool are greeted with: the parameters of a server as they would find it.

The first server says what a session is like from its start, and each set of startup settings is
learnt when a server has been set so. Until then a client waits for one to be greeted.
"""

from typing import Final

from pooler.core.session import NONE, Settings
from pooler.wire import build

SETS_LIMIT: Final = 1000
"""Sets of startup settings remembered; with more, they are learnt anew."""

_NOBODY: Final[tuple[Settings, Settings]] = (NONE, NONE)


class Welcome:
    """That of one pool."""

    def __init__(self) -> None:
        self.parameters: Settings | None = None  # of a session that nothing was set on
        self._by_settings: dict[frozenset[tuple[str, str]], Settings] = {}
        self._latest: tuple[Settings, Settings] = _NOBODY  # settings (the shared copy), parameters
        self._told: tuple[Settings, bytes] = (NONE, b"")

    def of(self, wants: Settings) -> Settings | None:
        """Return the parameters of a session with these startup settings, None if not known."""
        if self.parameters is None or not wants:
            return self.parameters
        if wants is self._latest[0]:
            return self._latest[1]
        known = self._by_settings.get(frozenset(wants.items()))
        if known is not None:
            self._latest = (wants, known)
        return known

    def learn(self, wants: Settings, parameters: Settings) -> None:
        """Note what a server reports that has been set as a client wants."""
        if len(self._by_settings) >= SETS_LIMIT:
            self._by_settings.clear()
        self._by_settings[frozenset(wants.items())] = parameters
        self._latest = _NOBODY

    def forget(self) -> None:
        """Learn all of it anew: the next server may be another PostgreSQL's."""
        self.parameters = None
        self._by_settings.clear()
        self._latest = _NOBODY

    def told(self, parameters: Settings) -> bytes:
        """Return the ParameterStatus messages of a greeting, mostly those of the last one."""
        if self._told[0] is not parameters:
            told = [build.parameter_status(name, value) for name, value in parameters.items()]
            self._told = (parameters, b"".join(told))
        return self._told[1]

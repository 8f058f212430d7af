"""What a reload of the configuration is made with, and why it is refused."""

from collections.abc import Callable, Mapping

from pooler.config import Config, ConfigError

Overlay = Mapping[tuple[str, ...], str]
"""Settings that the console has SET, by their path."""
Load = Callable[[Overlay], Config]
"""Reads the configuration, with what is SET on top; ConfigError."""


class ReloadRefused(Exception):
    """A configuration cannot be gone by, and nothing has changed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def problems_of(error: ConfigError | OSError) -> list[str]:
    """Return why a configuration cannot be gone by, for people."""
    problems = error.problems if isinstance(error, ConfigError) else (error,)
    return [str(problem) for problem in problems]

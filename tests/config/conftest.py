"""Loading a configuration from text, as the tests of this package do."""

from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from pooler.config import Config, ConfigError, Overrides, load
from pooler.core.settings import Route

Load = Callable[..., Config]
Mistakes = Callable[..., list[str]]

LOGIN = "users: {u: {password: p}}\n"
"""What a configuration needs besides databases to be complete."""


@pytest.fixture
def load_text(tmp_path: Path) -> Load:
    """Loads `text` as pooler.yaml, in a folder of the test's own."""

    def loaded(
        text: str | bytes = "",
        environ: Mapping[str, str] | None = None,
        overrides: Overrides | None = None,
    ) -> Config:
        file = tmp_path / "pooler.yaml"
        file.write_bytes(text if isinstance(text, bytes) else dedent(text).encode())
        return load(str(file), environ=environ or {}, overrides=overrides)

    return loaded


@pytest.fixture
def mistakes(load_text: Load, tmp_path: Path) -> Mistakes:
    """The problems of a configuration that must not load, as text, without the folder."""

    def found(
        text: str | bytes = "",
        environ: Mapping[str, str] | None = None,
        overrides: Overrides | None = None,
    ) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load_text(text, environ, overrides)
        return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]

    return found


def resolved(config: Config, database: str, user: str) -> Route:
    """The route of a login that has one."""
    route = config.resolve(database, user)
    assert route is not None
    return route

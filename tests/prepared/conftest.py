"""The fixtures of the live tests serve here too; the long forms run with `-m slow`."""

import pytest

from tests.live.conftest import login, plain_pooler, shared_pooler, shared_poolers

__all__ = ["login", "plain_pooler", "shared_pooler", "shared_poolers"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the long forms unless they are asked for."""
    if "slow" not in config.option.markexpr:
        for item in items:
            if "prepared" in item.path.parts and item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="the long form: -m slow"))

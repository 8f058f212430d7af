"""Poolers that are replaced by their successors."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.pooler import Config, merged
from tests.upgrade.line import Line, adopt_orphans

StartLine = Callable[..., Line]


@pytest.fixture
def start_line(
    default_config: Config, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[StartLine]:
    """Starts poolers to be upgraded: `start_line(databases={"*": {"pool_size": 1}})`."""
    adopt_orphans()
    lines: list[Line] = []

    def start(*, options: tuple[str, ...] = (), **overrides: Any) -> Line:
        folder = tmp_path / f"line{len(lines)}"
        folder.mkdir()
        line = Line(merged(default_config, overrides), folder, options=options)
        lines.append(line)
        line.start()
        return line

    yield start
    failed = request.node.stash.get(_FAILED, False)
    for line in lines:
        if failed:
            print(line.log_text)
        line.close()


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """Note a failure, for the log to be shown."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report

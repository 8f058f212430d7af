"""Poolers that are replaced by their successors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.crowd import Tally, at_work
from tests.support.pooler import Config, merged
from tests.upgrade.line import Line, adopt_orphans
from tests.upgrade.sessions import Plan

StartLine = Callable[..., Line]


@pytest.fixture
def database(make_database: Callable[[], str]) -> str:
    """The database that all clients of a line come to, by whatever name: nobody else does."""
    return make_database()


@pytest.fixture
def start_line(
    default_config: Config, database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[StartLine]:
    """Starts poolers to be upgraded: `start_line(databases={"*": {"pool_size": 1}})`."""
    adopt_orphans(True)
    default_config = merged(default_config, {"databases": {"*": {"dbname": database}}})
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
    adopt_orphans(False)


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """Note a failure, for the log to be shown."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@contextmanager
def sessions(line: Line, **plan: Any) -> Iterator[Callable[[], Tally]]:
    """Many sessions at work; calling what it gives ends them, and judges what they saw."""
    where = {"host": line.host, "port": line.port, "user": "app", "database": "app"}
    with at_work("tests.upgrade.sessions", Plan(**{**where, **plan})) as started:
        started.expect("ready")
        yield started.finish

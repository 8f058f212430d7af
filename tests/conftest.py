"""The fixtures of all tests: a PostgreSQL per session, poolers, and what a failed test shows."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import settings

from tests.support.leftovers import nothing_left_over
from tests.support.pooler import Config, Pooler, merged
from tests.support.postgres import PASSWORDS, Postgres

settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("search", print_blob=True)
settings.load_profile("same")  # --hypothesis-profile=search looks for new examples

_SERVERS = pytest.StashKey[dict[Postgres, int]]()  # with the length of its log before the test
_POOLERS = pytest.StashKey[list[Pooler]]()


@pytest.fixture(scope="session", autouse=True)
def leftovers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The session's temporary folder; what is left in it or still runs at the end is an error."""
    tmp_path_factory.getbasetemp()  # pytest's own folder is made before ours becomes the default
    with nothing_left_over() as folder:
        yield folder


@pytest.fixture(scope="session")
def postgres_template(leftovers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the result of initdb is kept for the session's further clusters."""
    return tmp_path_factory.mktemp("template") / "data"


@pytest.fixture(scope="session")
def postgres(postgres_template: Path, request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """The session's PostgreSQL; a test that stops it or fills it takes `own_postgres`."""
    with _watched_postgres(postgres_template, request.config) as server:
        yield server


@pytest.fixture
def own_postgres(postgres_template: Path, request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A PostgreSQL for this test alone, to be stopped, killed and restarted."""
    with _watched_postgres(postgres_template, request.config) as server:
        yield server


@contextmanager
def _watched_postgres(template: Path, config: pytest.Config) -> Iterator[Postgres]:
    """A running server whose log is shown with a failed test."""
    servers = config.stash.setdefault(_SERVERS, {})
    with Postgres(template=template) as server:
        servers[server] = 0
        try:
            yield server
        finally:
            del servers[server]


@pytest.fixture
def make_database(postgres: Postgres) -> Iterator[Callable[[], str]]:
    """Gives fresh databases owned by `app`; they are dropped after the test."""
    made: list[str] = []

    def make() -> str:
        made.append(postgres.create_database())
        return made[-1]

    yield make
    for name in made:
        postgres.drop_database(name)


class RunWithConfig(Protocol):
    """The type of the fixture `run_with_config`."""

    def __call__(
        self,
        *,
        options: tuple[str, ...] = ...,
        environment: Mapping[str, str] | None = ...,
        **overrides: Any,
    ) -> Pooler:
        """Start a pooler whose configuration is `default_config` with these laid on it."""


@pytest.fixture
def default_config(postgres: Postgres) -> Config:
    """All databases of `postgres`, all its roles, SCRAM, five servers per pool."""
    return {
        "listen": {"host": "127.0.0.1", "port": 0},
        "auth": {"type": "scram-sha-256", "failure_delay": 0},
        "users": {name: {"password": password} for name, password in PASSWORDS.items()},
        "databases": {"*": {"host": postgres.host, "port": postgres.port, "pool_size": 5}},
        "metrics": {"listen": "127.0.0.1:0"},
        "admin": {"socket": ""},
        "logging": {"format": "json"},
    }


@pytest.fixture
def run_with_config(
    default_config: Config, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[RunWithConfig]:
    """Starts poolers: `run_with_config(databases={"*": {"pool_size": 1}}, metrics=None)`.

    Overrides are merged mapping by mapping, None takes a setting away. Each pooler is ended and
    judged after the test (see `Pooler.close`).
    """
    poolers = request.node.stash.setdefault(_POOLERS, [])
    with ExitStack() as stack:

        def run(
            *,
            options: tuple[str, ...] = (),
            environment: Mapping[str, str] | None = None,
            **overrides: Any,
        ) -> Pooler:
            folder = tmp_path / f"pooler{len(poolers)}"
            folder.mkdir()
            config = merged(default_config, overrides)
            pooler = Pooler(config, folder, options=options, environment=environment)
            poolers.append(pooler)
            stack.callback(pooler.close)
            pooler.start()
            return pooler

        yield run


@pytest.fixture
def pooler(run_with_config: RunWithConfig) -> Pooler:
    """A pooler with the default configuration."""
    return run_with_config()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the long forms unless `-m` says something about them."""
    if "slow" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="the long form: -m slow"))


# What a failed test shows.


def pytest_runtest_setup(item: pytest.Item) -> None:
    servers = item.config.stash.get(_SERVERS, {})
    for server in servers:
        servers[server] = len(server.log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for pooler in item.stash.get(_POOLERS, []):
            report.sections.append((f"Log of {pooler!r}", pooler.log_text))
        for server, start in item.config.stash.get(_SERVERS, {}).items():
            report.sections.append((f"Log of {server!r} during this test", server.log[start:]))
    return report

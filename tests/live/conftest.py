"""Fixtures of the live tests: poolers that several tests share, since each costs a start."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.conftest import _POOLERS
from tests.support import rawclient as raw
from tests.support.pooler import Config, Pooler, merged
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient


class SharedPooler(Protocol):
    """The type of the fixture `shared_pooler`."""

    def __call__(self, **overrides: Any) -> Pooler:
        """The pooler of this session with these settings, started if it is the first to ask."""


class Login(Protocol):
    """The type of the fixture `login`."""

    def __call__(
        self, user: str = ..., database: str = ..., *, at: Pooler | None = ..., **parameters: Any
    ) -> RawClient:
        """A raw client, logged in."""


def cancel(pooler: Pooler, pid: int, key: bytes) -> None:
    """Send a cancel request, and wait until it has been read."""
    with RawClient(pooler.host, pooler.port) as courier:
        courier.send(raw.cancel_request(pid, key))
        assert courier.is_closed()


def base_config(postgres: Postgres) -> Config:
    """As the fixture `default_config`, for those that live longer than one test."""
    return {
        "listen": {"host": "127.0.0.1", "port": 0},
        "auth": {"failure_delay": 0},
        "users": {name: {"password": password} for name, password in PASSWORDS.items()},
        "databases": {"*": {"host": postgres.host, "port": postgres.port, "pool_size": 5}},
        "metrics": {"listen": "127.0.0.1:0"},
        "admin": {"socket": ""},
        "logging": {"format": "json"},
    }


@pytest.fixture(scope="session")
def shared_poolers(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Config, dict[str, Pooler]]]:
    """What `shared_pooler` needs; the poolers are judged here, as `Pooler.close` does."""
    poolers: dict[str, Pooler] = {}
    yield tmp_path_factory.mktemp("shared"), base_config(postgres), poolers
    with ThreadPoolExecutor() as threads:
        list(threads.map(Pooler.close, poolers.values()))


@pytest.fixture
def shared_pooler(
    shared_poolers: tuple[Path, Config, dict[str, Pooler]], request: pytest.FixtureRequest
) -> Iterator[SharedPooler]:
    """Poolers that tests share: for those that leave nothing behind but idle servers."""
    folder, config, poolers = shared_poolers
    used = request.node.stash.setdefault(_POOLERS, [])

    def shared(**overrides: Any) -> Pooler:
        key = json.dumps(overrides, sort_keys=True)
        if key not in poolers:
            home = folder / f"pooler{len(list(folder.iterdir()))}"
            home.mkdir()
            pooler = Pooler(merged(config, overrides), home)
            pooler.start()
            poolers[key] = pooler
        used.append(poolers[key])
        return poolers[key]

    yield shared
    for pooler in used:
        assert not pooler.log_contains(event="bug"), "the pooler logged a bug"


@pytest.fixture
def plain_pooler(shared_pooler: SharedPooler) -> Pooler:
    """A shared pooler with nothing but the defaults."""
    return shared_pooler()


@pytest.fixture
def login(request: pytest.FixtureRequest) -> Iterator[Login]:
    """Raw clients, logged in, at the pooler `at`, by default the shared one; closed at the end."""
    clients: list[RawClient] = []

    def log_in(
        user: str = "app", database: str = "app", *, at: Pooler | None = None, **parameters: Any
    ) -> RawClient:
        pooler = at or request.getfixturevalue("plain_pooler")
        client = RawClient(pooler.host, pooler.port)
        clients.append(client)
        client.login(user, database, PASSWORDS[user], **parameters)
        return client

    yield log_in
    for client in clients:
        client.close()

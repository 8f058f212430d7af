"""Poolers and databases that many tests share: one pool for each database."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.pooler import Config, Pooler
from tests.support.postgres import PASSWORDS, Postgres

POOL_SIZE = 3


def config_for(host: str, port: int) -> Config:
    """All databases at this address, by pools of POOL_SIZE."""
    return {
        "listen": {"host": "127.0.0.1", "port": 0},
        "users": {name: {"password": password} for name, password in PASSWORDS.items()},
        "databases": {"*": {"host": host, "port": port, "pool_size": POOL_SIZE}},
        "logging": {"format": "json"},
    }


@pytest.fixture(scope="module")
def shared(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pooler]:
    """A pooler for all tests of a module: a database of one's own is a pool of one's own."""
    folder: Path = tmp_path_factory.mktemp("shared")
    pooler = Pooler(config_for(postgres.host, postgres.port), folder)
    try:
        pooler.start()
        yield pooler
    finally:
        pooler.close()


@pytest.fixture
def database(make_database: Callable[[], str], postgres: Postgres) -> str:
    """A database with an empty table `t (n int)` of `app`."""
    name = make_database()
    postgres.sql("CREATE TABLE t (n int); ALTER TABLE t OWNER TO app", db=name)
    return name

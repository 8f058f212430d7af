"""Fixtures of the tests of session state: databases and poolers for random scripts."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from pooler.embedded import SUPERUSER
from tests.live.conftest import base_config
from tests.session_state.scripts import SCHEMA, Place
from tests.session_state.test_pins import metric
from tests.support.pooler import Pooler, merged
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.waiting import wait_until


def scans(pooler: Pooler, database: str) -> float:
    """How often a database's functions have been looked at."""
    return metric(pooler, "pooler_catalog_scans_total", database=database)


@dataclass
class Stage:
    """Where scripts are played: directly, and through pools of several sizes."""

    direct: Place
    pooled: dict[int, Place]
    """By the number of servers."""
    pooler: Pooler


@pytest.fixture(scope="module")
def stage(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Databases of one schema, one of them direct; sessions are the superuser's."""
    sizes = {size: f"pooled_{size}" for size in (1, 2, 4, 5)}
    names = ["direct", *sizes.values()]
    for name in names:
        postgres.sql(f"CREATE DATABASE {name}")
        postgres.sql(SCHEMA, db=name)
    server = {"host": postgres.host, "port": postgres.port}
    config = merged(
        base_config(postgres),
        {
            "auth": {"type": "trust"},
            "databases": {name: {**server, "pool_size": size} for size, name in sizes.items()},
        },
    )
    folder: Path = tmp_path_factory.mktemp("stage")
    pooler = Pooler(config, folder)
    pooler.start()
    password = PASSWORDS[SUPERUSER]
    places = {
        size: Place(pooler.host, pooler.port, SUPERUSER, name, password)
        for size, name in sizes.items()
    }
    for place in places.values():  # until then, a function can hide what it does
        with place.login() as client:
            client.values("SELECT 1")
            wait_until(partial(scans, pooler, place.database))
    yield Stage(Place(postgres.host, postgres.port, SUPERUSER, "direct", password), places, pooler)
    pooler.close()
    for name in names:
        postgres.drop_database(name)

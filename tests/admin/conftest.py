"""What the console's tests have in common: poolers with users of the console."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import _POOLERS
from tests.live.conftest import base_config
from tests.support.pooler import Pooler, merged
from tests.support.postgres import Postgres

ADMIN = "alice"
STATS = "bob"


@pytest.fixture(scope="module")
def shared_operated(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pooler]:
    """A pooler for the tests of a module, judged when they are done."""
    folder = tmp_path_factory.mktemp("operated")
    admin = {"socket": str(folder / "ctl.sock"), "users": ADMIN, "stats_users": [STATS]}
    pooler = Pooler(merged(base_config(postgres), {"admin": admin}), folder)
    pooler.start()
    yield pooler
    pooler.close()


@pytest.fixture
def operated(shared_operated: Pooler, request: pytest.FixtureRequest) -> Pooler:
    """A pooler that alice may operate and bob may look at; it is left as it was found."""
    request.node.stash.setdefault(_POOLERS, []).append(shared_operated)
    return shared_operated


def console(
    pooler: Pooler, user: str = ADMIN, dbname: str = "pgbouncer", **options: Any
) -> psycopg.Connection[tuple[Any, ...]]:
    """A session of the console, in autocommit."""
    return pooler.connect(user, dbname, **options)


def ask(pooler: Pooler, command: str) -> list[dict[str, Any]]:
    """The rows that a command of the console answers."""
    with console(pooler) as connection:
        cursor = connection.execute(command)
        if cursor.description is None:
            return []
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

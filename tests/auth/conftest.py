"""Fixtures of the tests of logins: roles to be changed and dropped, and poolers without secrets."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg.sql import SQL, Composable, Identifier, Literal

from tests.conftest import RunWithConfig
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres

MakeRole = Callable[..., str]
Asking = Callable[..., Pooler]


def alter(postgres: Postgres, statement: str, *parts: Composable) -> None:
    """Run a statement as the superuser, with names and texts as they have to be quoted."""
    with postgres.connect() as connection:
        connection.execute(SQL(statement).format(*parts))


def set_password(postgres: Postgres, role: str, password: str) -> None:
    """Give a role another password."""
    alter(postgres, "ALTER ROLE {} PASSWORD {}", Identifier(role), Literal(password))


def stored(postgres: Postgres, role: str) -> str:
    """What PostgreSQL stores of a role's password."""
    ((secret,),) = postgres.sql("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [role])
    return str(secret)


@pytest.fixture
def make_role(postgres: Postgres) -> Iterator[MakeRole]:
    """Makes roles that may log in; dropped after the test."""
    made: list[str] = []

    def make(password: str | None = None, options: str = "") -> str:
        name = f"role_{len(made)}"
        made.append(name)
        secret = "secret-of-" + name if password is None else password
        alter(
            postgres,
            f"CREATE ROLE {{}} LOGIN PASSWORD {{}} {options}",
            Identifier(name),
            Literal(secret),
        )
        PASSWORDS[name] = secret
        return name

    yield make
    for name in made:
        del PASSWORDS[name]
        alter(
            postgres,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {}",
            Literal(name),
        )
        alter(postgres, "DROP ROLE IF EXISTS {}", Identifier(name))


@pytest.fixture
def asking(run_with_config: RunWithConfig) -> Callable[..., Pooler]:
    """Starts poolers that know one user, the superuser, and ask as it for all the others."""

    def run(auth: dict[str, Any] | None = None, **overrides: Any) -> Pooler:
        users = {
            **dict.fromkeys(PASSWORDS),
            "postgres": {"password": PASSWORDS["postgres"]},
            **overrides.pop("users", {}),
        }
        return run_with_config(
            auth={"user": "postgres", "dbname": "postgres", **(auth or {})},
            users=users,
            **overrides,
        )

    return run

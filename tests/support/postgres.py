"""The PostgreSQL of the tests: its roles, its ways to log in, and a look into it."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composable, Identifier, Literal

from pooler.embedded import SUPERUSER, EmbeddedPostgres

PASSWORDS = {
    SUPERUSER: "postgres-password",
    "app": "app-password",
    "alice": "alice-password",
    "bob": "bob-password",
    "md5user": "md5user-password",
    "plainuser": "plainuser-password",
    "trustuser": "trustuser-password",
}
"""Every role with its password; the name of a role says how the server lets it in."""

DATABASES = ("app", "other")
"""Databases that are always there, owned by `app`; for writing, make one of your own."""

_METHODS = {"trustuser": "trust", "md5user": "md5", "plainuser": "password", "all": "scram-sha-256"}
_HBA = [
    f"{line} {method}"
    for role, method in _METHODS.items()
    for line in (f"local all {role}", f"host all {role} all", f"host replication {role} all")
]


class Postgres(EmbeddedPostgres):
    """An embedded server with the roles of PASSWORDS and the DATABASES."""

    def __init__(
        self,
        *,
        template: Path | None = None,
        bin_dir: Path | None = None,
        settings: dict[str, str | int] | None = None,
    ) -> None:
        super().__init__(
            bin_dir=bin_dir,
            password=PASSWORDS[SUPERUSER],
            hba=_HBA,
            settings={"max_connections": 200, **(settings or {})},
            template=template,
        )
        self._names = (f"db_{number}" for number in count(1))

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._make_roles()
        except BaseException:
            self.close()
            raise
        return self

    def dsn(self, user: str = SUPERUSER, dbname: str = "postgres") -> str:
        """A URL past the pooler, with the role's password."""
        return self.url(dbname, user, PASSWORDS[user])

    def connect(
        self, user: str = SUPERUSER, dbname: str = "postgres", **options: Any
    ) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection past the pooler, in autocommit; close it, or use it in a `with`."""
        return psycopg.connect(self.dsn(user, dbname), autocommit=True, **options)

    def sql(
        self, query: str, parameters: Sequence[object] | None = None, *, db: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run a query as the superuser; its rows, none where it gives none."""
        with self.connect(dbname=db) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def backends(self, db: str | None = None) -> list[dict[str, Any]]:
        """The client backends of pg_stat_activity but the one asking, oldest first."""
        query = """
            SELECT pid, datname, usename, application_name, client_port, backend_start,
                   xact_start, query_start, wait_event, state, query
              FROM pg_stat_activity
             WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
               AND (%(db)s::text IS NULL OR datname = %(db)s)
             ORDER BY backend_start, pid"""
        with self.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, {"db": db}).fetchall()

    def create_database(self, owner: str = "app") -> str:
        """A fresh database with a name of its own."""
        name = next(self._names)
        self._run(SQL("CREATE DATABASE {} OWNER {}"), name, owner)
        return name

    def drop_database(self, name: str) -> None:
        """Drop it, whoever is connected."""
        self._run(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)"), name)

    def _make_roles(self) -> None:
        for role, password in PASSWORDS.items():
            if role == SUPERUSER:
                continue
            method = "md5" if role == "md5user" else "scram-sha-256"
            self._run(
                SQL("SET password_encryption = {}; CREATE ROLE {} LOGIN PASSWORD {}"),
                Literal(method),
                role,
                Literal(password),
            )
        for name in DATABASES:
            self._run(SQL("CREATE DATABASE {} OWNER app"), name)

    def _run(self, statement: SQL, *parts: str | Composable) -> None:
        quoted = [Identifier(part) if isinstance(part, str) else part for part in parts]
        with self.connect() as connection:
            connection.execute(statement.format(*quoted))

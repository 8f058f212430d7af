"""Every setting, its type, its default and its description: the one place that knows them.

Errors, the JSON Schema, the environment variables and docs/settings.md all come out of these types.
Rules: names are PgBouncer's where the meaning is the same; durations are seconds and 0 turns a
limit off; a setting of a database or a user that is None is taken from its section. Checks that
need more than one setting are in `checks`, what a client's login resolves to is in `config`.
"""

import os
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from pooler.config.model.auth import Auth, AuthType, HbaRule, IdentLine
from pooler.config.model.base import Section
from pooler.config.model.connections import Listen, ServerTls, Tcp, Tls
from pooler.config.model.databases import (
    Database,
    DatabaseMigrations,
    DatabaseState,
    DatabaseTls,
    Shared,
    User,
)
from pooler.config.model.operation import (
    Admin,
    Dashboard,
    Logging,
    Metrics,
    Peers,
    Queries,
    Traces,
    Upgrade,
)
from pooler.config.model.pools import Defaults, Limits, Migrations, SessionState, Timeouts

__all__ = [
    "Admin",
    "Auth",
    "AuthType",
    "Dashboard",
    "Database",
    "DatabaseMigrations",
    "DatabaseState",
    "DatabaseTls",
    "Defaults",
    "HbaRule",
    "IdentLine",
    "Limits",
    "Listen",
    "Logging",
    "Metrics",
    "Migrations",
    "Peers",
    "Queries",
    "Section",
    "ServerTls",
    "SessionState",
    "Settings",
    "Shared",
    "Tcp",
    "Timeouts",
    "Tls",
    "Traces",
    "Upgrade",
    "User",
]


def _workers(value: object) -> object:
    return (len(os.sched_getaffinity(0)) or 1) if value == "auto" else value


Workers = Annotated[
    int,
    BeforeValidator(_workers),
    Field(ge=1, le=64),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 64}, {"const": "auto"}]}
    ),
]


class Settings(Section):
    """Configuration of pooler, a PostgreSQL connection pooler."""

    workers: Workers = 1
    """Processes that serve clients, seen as one pooler; auto is one for each CPU."""
    listen: Listen = Listen()
    tcp: Tcp = Tcp()
    tls: Tls = Tls()
    server_tls: ServerTls = ServerTls()
    auth: Auth = Auth()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    defaults: Defaults = Defaults()
    session_state: SessionState = SessionState()
    migrations: Migrations = Migrations()
    databases: dict[str, Database] = Field(default={})
    """Databases by the name clients use; `*` is for every other name."""
    users: dict[str, User] = Field(default={})
    """Users by name."""
    metrics: Metrics = Metrics()
    dashboard: Dashboard = Dashboard()
    admin: Admin = Admin()
    upgrade: Upgrade = Upgrade()
    peers: Peers = Peers()
    queries: Queries = Queries()
    traces: Traces = Traces()
    logging: Logging = Logging()

"""What a login resolves to: user over database over defaults."""

from dataclasses import replace
from typing import Any

import pytest

from pooler.config.model import User
from pooler.core.settings import PoolMode, PoolSettings, SessionSettings
from tests.config.conftest import LOGIN, Load, resolved


def test_defaults_are_those_of_the_core(load_text: Load) -> None:
    route = resolved(load_text(LOGIN + "databases: {app: {}}"), "app", "u")
    assert replace(route.pool, measures=None) == PoolSettings()
    assert route.session == SessionSettings()


def test_no_such_database(load_text: Load) -> None:
    assert load_text(LOGIN + "databases: {app: {}}").resolve("other", "u") is None


POOL = {
    "pool_size": "defaults", "min_pool_size": "defaults", "reserve_pool_size": "defaults",
    "server_round_robin": "defaults", "server_check_query": "defaults",
    "server_reset_query": "defaults", "max_prepared_statements": "defaults",
    "max_prepared_bytes": "defaults", "reserve_pool_timeout": "timeouts",
    "server_idle_timeout": "timeouts", "server_lifetime": "timeouts",
    "server_connect_timeout": "timeouts", "server_login_retry": "timeouts",
    "server_check_delay": "timeouts", "pool_idle_timeout": "timeouts",
    "cancel_wait_timeout": "timeouts",
}  # fmt: skip
SESSION = {
    "pool_mode": "defaults", "client_login_timeout": "timeouts",
    "client_idle_timeout": "timeouts",
    "query_wait_timeout": "timeouts", "query_wait_notify": "timeouts", "query_timeout": "timeouts",
    "transaction_timeout": "timeouts", "idle_in_transaction_timeout": "timeouts",
    "pin_timeout": "timeouts",
}  # fmt: skip
LIMITS = {
    "max_db_client_connections": ("databases", "max_client_connections"),
    "max_db_server_connections": ("databases", "max_server_connections"),
    "max_user_client_connections": ("users", "max_client_connections"),
    "max_user_server_connections": ("users", "max_server_connections"),
}

ELSEWHERE = {"session_state", "migrations", "cache_unnamed", "measures"}
"""Those that are no setting by that name; see test_values."""


def test_the_tables_below_are_complete() -> None:
    fields = {*PoolSettings.__dataclass_fields__, *SessionSettings.__dataclass_fields__}
    assert fields == {*POOL, *SESSION, *LIMITS, *ELSEWHERE}


def values(name: str) -> list[Any]:
    """Three values for a setting, none of them its default."""
    if name == "pool_mode":
        return [PoolMode.STATEMENT, PoolMode.SESSION, PoolMode.STATEMENT]
    if name == "server_round_robin":
        return [True, False, True]
    return ["x", "y", "z"] if name.endswith("_query") else [11, 12, 13]


def written(value: Any) -> str:
    return value.value if isinstance(value, PoolMode) else str(value)


@pytest.mark.parametrize(("name", "section"), [*POOL.items(), *SESSION.items()])
def test_user_over_database_over_defaults(load_text: Load, name: str, section: str) -> None:
    default, of_database, of_user = values(name)
    in_user = name in User.model_fields
    base = f"{section}: {{{name}: {written(default)}}}"
    base = base.replace("min_pool_size:", "pool_size: 20, min_pool_size:")
    users = f"{{{name}: {written(of_user)}}}" if in_user else "{}"
    config = load_text(f"""
        {base}
        databases: {{own: {{{name}: {written(of_database)}}}, plain: {{}}}}
        users: {{plain: {{password: p}}, own: {users}}}
    """)

    def seen(database: str, user: str) -> object:
        route = resolved(config, database, user)
        return getattr(route.pool if name in POOL else route.session, name)

    assert seen("plain", "plain") == default
    assert seen("own", "plain") == of_database
    assert seen("plain", "own") == (of_user if in_user else default)
    assert seen("own", "own") == (of_user if in_user else of_database)


@pytest.mark.parametrize("name", LIMITS)
def test_limits_of_databases_and_users(load_text: Load, name: str) -> None:
    section, key = LIMITS[name]
    text = LOGIN + f"limits: {{{name}: 5}}\ndatabases: {{app: {{}}, own: {{}}}}\n"
    text = text.replace("{u: ", "{own: {}, u: ")
    config = load_text(text, {f"POOLER_{section.upper()}": f"own: {{{key}: 0}}"})

    def seen(database: str, user: str) -> object:
        route = resolved(config, database, user)
        return getattr(route.pool if "server" in name else route.session, name)

    assert seen("app", "u") == 5
    assert seen("own", "own") == 0, "0 of its own is no limit, not a limit that is inherited"


def test_session_is_the_clients_users_pool_is_the_servers_users(load_text: Load) -> None:
    config = load_text("""
        databases: {app: {user: owner}}
        users:
          alice: {password: a, pool_size: 1, query_timeout: 1, pool_mode: session,
                  max_client_connections: 3, max_server_connections: 4}
          owner: {password: secret, pool_size: 2, query_timeout: 2,
                  max_client_connections: 5, max_server_connections: 6}
    """)
    route = resolved(config, "app", "alice")
    assert (route.user, route.target.user, route.target.password) == ("alice", "owner", "secret")
    assert (route.pool.pool_size, route.pool.max_user_server_connections) == (2, 6)
    assert (route.session.query_timeout, route.session.max_user_client_connections) == (1, 3)
    assert route.session.pool_mode is PoolMode.SESSION


def test_minimum_never_exceeds_the_size_of_a_users_pool(load_text: Load) -> None:
    config = load_text("""
        databases: {app: {pool_size: 9, min_pool_size: 9}}
        users: {small: {password: p, pool_size: 2}}
    """)
    assert resolved(config, "app", "small").pool.min_pool_size == 2
    assert resolved(config, "app", "other").pool.min_pool_size == 9

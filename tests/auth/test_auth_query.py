"""auth_query: users who are not in the configuration, asked for in the database."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.sql import Identifier, Literal

from tests.auth.conftest import Asking, MakeRole, alter, set_password
from tests.conftest import RunWithConfig
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient, ServerError
from tests.support.waiting import wait_until

WRONG = 'password authentication failed for user "{}"'


def log_in(pooler: Pooler, user: str, password: str | None = None, database: str = "app") -> None:
    """Log in and ask something; ServerError."""
    with RawClient(pooler.host, pooler.port) as client:
        client.login(user, database, PASSWORDS[user] if password is None else password)
        assert client.values("SELECT current_user") == [[user.encode()]]


def refused(
    pooler: Pooler, user: str, password: str = "wrong", database: str = "app", **parameters: str
) -> dict[str, str]:
    """The error's fields of a login that must fail."""
    with RawClient(pooler.host, pooler.port) as client, pytest.raises(ServerError) as caught:
        client.login(user, database, password, protocol=(3, 0), **parameters)
    return caught.value.fields


def assert_wrong_password(fields: dict[str, str], user: str) -> None:
    """As PostgreSQL says it, whatever the matter is."""
    assert (fields["S"], fields["C"], fields["M"]) == ("FATAL", "28P01", WRONG.format(user))


def questions(postgres: Postgres) -> int:
    """How often the function of `counting_function` was called."""
    ((count,),) = postgres.sql("SELECT last_value - 1 FROM asked", db="app")
    return int(count)


@pytest.fixture
def counting_function(postgres: Postgres) -> Any:
    """A SECURITY DEFINER function as the documentation has it, that counts; to be asked by bob."""
    postgres.sql(
        """
        CREATE SEQUENCE asked;
        SELECT setval('asked', 1);
        CREATE FUNCTION user_secret(name, OUT "user" name, OUT secret text)
            LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
        BEGIN
            PERFORM nextval('public.asked');
            SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END
              INTO "user", secret FROM pg_authid
             WHERE rolname = $1 AND rolcanlogin AND NOT rolsuper;
        END $$;
        REVOKE ALL ON FUNCTION user_secret(name) FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION user_secret(name) TO bob""",
        db="app",
    )
    yield {
        "user": "bob",
        "dbname": "app",
        "query": 'SELECT "user", secret FROM public.user_secret($1)',
    }
    postgres.sql("DROP FUNCTION user_secret(name); DROP SEQUENCE asked", db="app")


@pytest.mark.parametrize("method", ["scram-sha-256", "md5", "password"])
def test_the_default_query_finds_every_role(asking: Asking, method: str) -> None:
    pooler = asking({"type": method})
    for user in ("alice", "app"):
        log_in(pooler, user)
        with pooler.connect(user) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (user,)
        assert_wrong_password(refused(pooler, user), user)
    assert_wrong_password(refused(pooler, "nobody"), "nobody")


@pytest.mark.parametrize("method", ["md5", "password"])
def test_an_md5_secret(asking: Asking, method: str) -> None:
    pooler = asking({"type": method})
    log_in(pooler, "md5user")
    assert_wrong_password(refused(pooler, "md5user"), "md5user")


def test_a_function_serves_a_role_without_rights(
    run_with_config: RunWithConfig, counting_function: dict[str, str], postgres: Postgres
) -> None:
    pooler = run_with_config(auth=counting_function, users={"alice": None, "postgres": None})
    log_in(pooler, "alice")
    assert questions(postgres) == 1
    log_in(pooler, "bob")  # is in the configuration, and never asked for
    assert questions(postgres) == 1
    assert_wrong_password(refused(pooler, "postgres", PASSWORDS["postgres"]), "postgres")


def test_many_logins_are_few_questions(
    run_with_config: RunWithConfig, counting_function: dict[str, str], postgres: Postgres
) -> None:
    auth = {**counting_function, "cache_ttl": 3600}
    pooler = run_with_config(auth=auth, users={"alice": None})
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda _: log_in(pooler, "alice"), range(100)))
    assert questions(postgres) == 1
    assert len(connected(pooler, "bob")) == 1


def connected(pooler: Pooler, user: str) -> list[int]:
    """The process ids of all server connections that a user ever had."""
    events = [event for event in pooler.log if event["event"] == "server connected"]
    return [event["pid"] for event in events if event["user"] == user]


def test_at_most_so_many_connections_ask(
    run_with_config: RunWithConfig, counting_function: dict[str, str], postgres: Postgres
) -> None:
    query = "SELECT 'x', 'y' FROM pg_advisory_xact_lock_shared(1) WHERE $1 <> ''"
    pooler = run_with_config(auth={**counting_function, "query": query, "query_pool_size": 2})
    with ThreadPoolExecutor(20) as threads, postgres.connect(dbname="app") as blocker:
        blocker.execute("SELECT pg_advisory_lock(1)")
        logins = [threads.submit(refused, pooler, f"user {number}") for number in range(20)]
        wait_until(lambda: len(connected(pooler, "bob")) == 2)
    assert {login.result()["C"] for login in logins} == {"28P01"}
    assert len(connected(pooler, "bob")) == 2
    assert not pooler.log_contains(event="server closed", user="bob")


@pytest.mark.parametrize("how", ["VALID UNTIL '2020-01-01'", "NOLOGIN", "PASSWORD NULL"])
def test_who_may_not_log_in(asking: Asking, make_role: MakeRole, how: str) -> None:
    role = make_role(options=how if "UNTIL" in how else "")
    pooler = asking()
    if "UNTIL" not in how:
        log_in(pooler, role)
        pooler.reload(pooler.config)  # forgets all answers
        with psycopg.connect(pooler.dsn("postgres", "postgres")) as connection:
            connection.execute(f"ALTER ROLE {role} {how}")
    assert_wrong_password(refused(pooler, role, PASSWORDS[role]), role)


def test_valid_until_in_the_future(asking: Asking, make_role: MakeRole) -> None:
    log_in(asking(), make_role(options="VALID UNTIL '2100-01-01'"))


def test_a_changed_password_is_known_at_the_next_try(
    asking: Asking, make_role: MakeRole, postgres: Postgres
) -> None:
    role = make_role()
    pooler = asking({"cache_ttl": 3600, "negative_cache_ttl": 0})
    log_in(pooler, role)
    set_password(postgres, role, "another")
    log_in(pooler, role)  # is still believed, and has a server
    assert_wrong_password(refused(pooler, role, "another"), role)
    log_in(pooler, role, "another")
    assert_wrong_password(refused(pooler, role), role)


def test_a_dropped_role_is_forgotten_in_time(
    asking: Asking, make_role: MakeRole, postgres: Postgres
) -> None:
    role = make_role()
    pooler = asking({"cache_ttl": 0.2})
    log_in(pooler, role)
    alter(postgres, "ALTER ROLE {} RENAME TO former", Identifier(role))
    try:
        time.sleep(0.3)
        assert_wrong_password(refused(pooler, role, PASSWORDS[role]), role)
    finally:
        alter(postgres, "ALTER ROLE former RENAME TO {}", Identifier(role))


def test_a_new_role_is_found_in_time(asking: Asking, make_role: MakeRole) -> None:
    pooler = asking({"negative_cache_ttl": 0.2})
    assert_wrong_password(refused(pooler, "role_0"), "role_0")
    role = make_role()
    time.sleep(0.3)
    log_in(pooler, role)


def test_failures_ask_no_more_often_than_unknown_users(
    run_with_config: RunWithConfig, counting_function: dict[str, str], postgres: Postgres
) -> None:
    auth = {**counting_function, "cache_ttl": 3600, "negative_cache_ttl": 3600}
    pooler = run_with_config(auth=auth, users={"alice": None})
    for _ in range(5):
        assert_wrong_password(refused(pooler, "alice"), "alice")
        assert_wrong_password(refused(pooler, "nobody"), "nobody")
    assert questions(postgres) == 2


@pytest.mark.parametrize("name", ["it's", 'q"uote', "$1", "ünï", "a\\'b", "x" * 63, "%s"])
def test_names_are_bound_as_they_are(asking: Asking, postgres: Postgres, name: str) -> None:
    alter(postgres, "CREATE ROLE {} LOGIN PASSWORD {}", Identifier(name), Literal("pw"))
    try:
        pooler = asking()
        log_in(pooler, name, "pw")
        assert_wrong_password(refused(pooler, name), name)
    finally:
        alter(
            postgres,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {}",
            Literal(name),
        )
        alter(postgres, "DROP ROLE {}", Identifier(name))


def test_databases_ask_their_own_way(
    asking: Asking, postgres: Postgres, counting_function: dict[str, str]
) -> None:
    there = {"host": postgres.host, "port": postgres.port}
    pooler = asking(
        databases={
            "own": {
                **there,
                "dbname": "app",
                "auth_user": "bob",
                "auth_dbname": "app",
                "auth_query": counting_function["query"],
            },
            "none": {**there, "dbname": "app", "auth_user": ""},
        },
        users={"bob": {"password": PASSWORDS["bob"]}},
    )
    log_in(pooler, "alice")
    assert questions(postgres) == 0
    log_in(pooler, "alice", database="own")
    assert questions(postgres) == 1
    fields = refused(pooler, "alice", PASSWORDS["alice"], database="none")
    assert_wrong_password(fields, "alice")
    log_in(pooler, "bob", database="none")


# What can go wrong.


FAILURES = [
    ({"query": "SELECT nonsense FROM nowhere WHERE x = $1"}, "42P01", "nowhere"),
    ({"query": "SELECT $1::text"}, "42804", "two columns"),
    ({"user": "alice"}, "42501", "pg_authid"),
    ({"user": "missing"}, "08006", "auth_query as missing"),
    ({"dbname": "missing"}, "3D000", "missing"),
    ({"dbname": ""}, "3D000", ""),
]


@pytest.mark.parametrize(("auth", "sqlstate", "cause"), FAILURES, ids=str)
def test_a_question_that_fails(
    asking: Asking, postgres: Postgres, auth: dict[str, str], sqlstate: str, cause: str
) -> None:
    pooler = asking(auth, users={"alice": {"password": PASSWORDS["alice"]}})
    fields = refused(pooler, "md5user", database="unknown")
    assert (fields["S"], fields["C"]) == ("FATAL", sqlstate)
    if auth != {"dbname": ""}:
        assert fields["M"] == "the user could not be looked up (auth_query)"
        assert cause in pooler.wait_for_log(event="client refused")["cause"]
    else:
        assert fields["M"] == 'database "unknown" does not exist'
    log_in(pooler, "alice")  # those in the configuration are not affected


def test_no_database_to_ask(asking: Asking, own_postgres: Postgres) -> None:
    pooler = asking(
        databases={"*": {"host": own_postgres.host, "port": own_postgres.port}},
        timeouts={"server_login_retry": 0.05},
    )
    log_in(pooler, "alice")
    own_postgres.stop()
    with RawClient(pooler.host, pooler.port) as client:
        client.login("alice", "app", PASSWORDS["alice"])  # is believed
    fields = refused(pooler, "bob")
    assert fields["C"] in ("08001", "57P03", "08006", "57P01")
    own_postgres.start()
    wait_until(lambda: _can_log_in(pooler, "bob"))


def _can_log_in(pooler: Pooler, user: str) -> bool:
    try:
        log_in(pooler, user)
    except ServerError:
        return False
    return True


def test_a_reload_asks_another_way(
    asking: Asking, postgres: Postgres, counting_function: dict[str, str]
) -> None:
    pooler = asking(users={"bob": {"password": PASSWORDS["bob"]}})
    log_in(pooler, "alice")
    assert questions(postgres) == 0
    config = {**pooler.config, "auth": {**pooler.config["auth"], **counting_function}}
    assert pooler.reload(config)["event"] == "reloaded"
    log_in(pooler, "alice")
    assert questions(postgres) == 1


def test_the_recipe_of_the_documentation(
    run_with_config: RunWithConfig, postgres: Postgres
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "users.md").read_text()
    (recipe,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    (settings,) = re.findall(r"```yaml\n(auth:\n  user: pooler.*?)```", text, re.DOTALL)
    postgres.sql(recipe)
    try:
        pooler = run_with_config(
            auth=yaml.safe_load(settings)["auth"],
            users={**dict.fromkeys(PASSWORDS), "pooler": {"password": "change-me"}},
        )
        log_in(pooler, "alice")
        for user in ("nobody", "postgres"):
            fields = refused(pooler, user, PASSWORDS.get(user, "x"))
            assert_wrong_password(fields, user)
    finally:
        pids = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pooler'"
        postgres.sql(pids)
        postgres.sql("DROP SCHEMA pooler CASCADE; DROP ROLE pooler")

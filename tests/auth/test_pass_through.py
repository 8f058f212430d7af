"""Pass-through: the pooler has verifiers only, and logs in to servers with what clients prove."""

import re
from pathlib import Path

import pytest

from tests.auth.conftest import Asking, MakeRole, alter, set_password, stored
from tests.auth.test_auth_query import assert_wrong_password, log_in, refused
from tests.conftest import RunWithConfig
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient, ServerError
from tests.support.waiting import wait_until


@pytest.fixture
def with_verifiers(run_with_config: RunWithConfig, postgres: Postgres, tmp_path: Path) -> Pooler:
    """A pooler that has what PostgreSQL has of alice and bob, and nothing else."""
    userlist = tmp_path / "userlist.txt"
    userlist.write_text("".join(f'"{u}" "{stored(postgres, u)}"\n' for u in ("alice", "bob")))
    return run_with_config(auth={"file": str(userlist)}, users=dict.fromkeys(PASSWORDS))


def test_a_verifier_is_enough(with_verifiers: Pooler) -> None:
    for user in ("alice", "bob"):
        log_in(with_verifiers, user)
        with with_verifiers.connect(user) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (user,)
    assert_wrong_password(refused(with_verifiers, "alice"), "alice")
    assert_wrong_password(refused(with_verifiers, "app", PASSWORDS["app"]), "app")


def test_a_password_in_the_clear_passes_through(
    run_with_config: RunWithConfig, postgres: Postgres
) -> None:
    users = {**dict.fromkeys(PASSWORDS), "alice": {"password": stored(postgres, "alice")}}
    pooler = run_with_config(auth={"type": "password"}, users=users)
    log_in(pooler, "alice")


def test_a_stored_md5_secret_serves_both_sides(
    run_with_config: RunWithConfig, postgres: Postgres
) -> None:
    users = {**dict.fromkeys(PASSWORDS), "md5user": {"password": stored(postgres, "md5user")}}
    log_in(run_with_config(auth={"type": "md5"}, users=users), "md5user")


def test_another_verifier_is_said_so(with_verifiers: Pooler, postgres: Postgres) -> None:
    """The same password, but another salt: nobody can log in with what its client proves."""
    before = stored(postgres, "bob")
    set_password(postgres, "bob", PASSWORDS["bob"])
    try:
        fields = refused(with_verifiers, "bob", PASSWORDS["bob"])
    finally:
        alter(postgres, f"ALTER ROLE bob PASSWORD '{before}'")
    assert fields["C"] == "28P01"
    assert 'the server\'s verifier of user "bob" is not the one' in fields["M"]
    log_in(with_verifiers, "bob")  # at once: other keys are not punished for these


def test_a_warm_pool_waits_for_its_user(run_with_config: RunWithConfig, postgres: Postgres) -> None:
    pooler = run_with_config(
        users={**dict.fromkeys(PASSWORDS), "bob": {"password": stored(postgres, "bob")}},
        databases={
            "app": {
                "host": postgres.host,
                "port": postgres.port,
                "user": "bob",
                "min_pool_size": 3,
            }
        },
    )
    event = pooler.wait_for_log(event="server connection failed")
    assert "(kind: none) cannot answer" in event["message"]
    log_in(pooler, "bob")

    def opened() -> set[int]:
        return {line["pid"] for line in pooler.log if line["event"] == "server connected"}

    wait_until(lambda: len(opened()) == 3)
    assert opened() <= {row["pid"] for row in postgres.backends("app")}  # others may use it, too
    failures = [line for line in pooler.log if line["event"] == "server connection failed"]
    assert len(failures) <= 3  # as many as were dialled at once


def test_a_changed_password_on_the_server(
    asking: Asking, make_role: MakeRole, postgres: Postgres
) -> None:
    role = make_role()
    pooler = asking({"cache_ttl": 3600, "negative_cache_ttl": 0}, databases={"*": {"pool_size": 1}})
    log_in(pooler, role)
    with RawClient(pooler.host, pooler.port) as client:
        client.login(role, "app", PASSWORDS[role])
        set_password(postgres, role, "another")
        postgres.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [role]
        )
        pooler.wait_for_log(event="server closed", reason="closed by peer")
        with pytest.raises(ServerError) as caught:  # the old keys are worth nothing now
            client.values("SELECT 1")
        assert caught.value.fields["C"] == "28P01"
        log_in(pooler, role, "another")
        assert client.values("SELECT current_user") == [[role.encode()]]


def test_keys_of_the_old_password_are_believed_no_longer_than_servers_take_them(
    asking: Asking, make_role: MakeRole, postgres: Postgres
) -> None:
    role = make_role()
    pooler = asking({"cache_ttl": 3600, "negative_cache_ttl": 0}, databases={"*": {"pool_size": 1}})
    log_in(pooler, role)
    set_password(postgres, role, "another")
    postgres.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [role]
    )
    pooler.wait_for_log(event="server closed", reason="closed by peer")
    with RawClient(pooler.host, pooler.port) as client:
        client.login(role, "app", PASSWORDS[role])  # as far as the pooler knows
        with pytest.raises(ServerError) as caught:
            client.values("SELECT 1")
        assert caught.value.fields["C"] == "28P01"
    assert_wrong_password(refused(pooler, role, PASSWORDS[role]), role)  # the server told us
    log_in(pooler, role, "another")


def test_a_forced_user_needs_a_password_of_its_own(
    with_verifiers: Pooler, postgres: Postgres
) -> None:
    there = {"host": postgres.host, "port": postgres.port, "dbname": "app", "user": "bob"}
    config = with_verifiers.config
    with_verifiers.reload({**config, "databases": {"app": there}})
    fields = refused(with_verifiers, "alice", PASSWORDS["alice"])
    assert fields["C"] == "28P01"
    assert "(kind: none) cannot answer" in fields["M"]
    there["password"] = PASSWORDS["bob"]
    with_verifiers.reload({**config, "databases": {"app": there}})
    with RawClient(with_verifiers.host, with_verifiers.port) as client:
        client.login("alice", "app", PASSWORDS["alice"])
        assert client.values("SELECT current_user") == [[b"bob"]]


def test_a_password_file_that_changes_is_read_and_its_servers_are_renewed(
    run_with_config: RunWithConfig, make_role: MakeRole, postgres: Postgres, tmp_path: Path
) -> None:
    role = make_role()
    file = tmp_path / "password"
    file.write_text(PASSWORDS[role])
    there = {"host": postgres.host, "port": postgres.port, "dbname": "app"}
    pooler = run_with_config(
        databases={"forced": {**there, "user": role, "password_file": str(file)}}
    )
    with RawClient(pooler.host, pooler.port) as client:
        client.login("alice", "forced", PASSWORDS["alice"])
        first = client.values("SELECT pg_backend_pid()")
        set_password(postgres, role, "another")
        assert client.values("SELECT pg_backend_pid()") == first
        file.write_text("another")
        pooler.wait_for_log(event="reloaded")
        second = client.values("SELECT pg_backend_pid()")
        assert second != first
    text = pooler.log_text
    assert re.search(r"databases\.forced\.password: \(changed\)", text)
    assert "another" not in text

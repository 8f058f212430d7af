"""Logins: how clients prove who they are, what we have stored of them, and how servers ask us."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunWithConfig
from tests.live.conftest import SharedPooler
from tests.support import rawclient as raw
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient, ServerError

METHODS = ("trust", "password", "md5", "scram-sha-256")
SERVER_ROLES = {
    "trust": "trustuser",
    "password": "plainuser",
    "md5": "md5user",
    "scram-sha-256": "alice",
}
SECRET = "s3cret ünï"
STORED = ("plain", "md5", "scram")
ASKED = {"trust": 0, "password": 3, "md5": 5, "scram-sha-256": 10}  # codes of the protocol
IMPOSSIBLE = {("scram-sha-256", "md5")}
"""Client's method and stored secret that cannot go together: nobody can log in so."""


@pytest.fixture(scope="session")
def stored_users(postgres: Postgres) -> dict[str, Any]:
    """A user for each form of a stored secret, all with the same password."""
    with postgres.connect() as connection:
        connection.execute("BEGIN")
        connection.execute(f"CREATE ROLE scram PASSWORD '{SECRET}'")
        found = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'scram'")
        ((verifier,),) = found.fetchall()
        connection.execute("ROLLBACK")
    digest = hashlib.md5((SECRET + "md5").encode()).hexdigest()
    return {
        "plain": {"password": SECRET},
        "md5": {"password": f"md5{digest}"},
        "scram": {"password": verifier},
        "alice": None,
    }


@pytest.fixture
def matrix(
    shared_pooler: SharedPooler, postgres: Postgres, stored_users: dict[str, Any], method: str
) -> Pooler:
    """A pooler whose clients log in by `method`, with a database for each server's method."""
    server = {"host": postgres.host, "port": postgres.port, "dbname": "app"}
    databases = {
        f"via {way}": {**server, "user": role, "password": PASSWORDS[role]}
        for way, role in SERVER_ROLES.items()
    }
    return shared_pooler(auth={"type": method}, users=stored_users, databases=databases)


@pytest.mark.parametrize("server", METHODS)
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("method", METHODS)
def test_matrix(matrix: Pooler, method: str, stored: str, server: str) -> None:
    with RawClient(matrix.host, matrix.port) as client:
        if (method, stored) in IMPOSSIBLE:
            with pytest.raises(ServerError) as refused:
                client.login(stored, f"via {server}", SECRET)
            assert refused.value.fields["C"] == "28P01"
            return
        messages = client.login(stored, f"via {server}", SECRET)
        asked = int.from_bytes(messages[0][1][:4], "big")
        scram_for_md5 = (method, stored) == ("md5", "scram")  # as PostgreSQL does
        assert asked == (10 if scram_for_md5 else ASKED[method])
        assert client.values("SELECT current_user::text") == [[SERVER_ROLES[server].encode()]]


@pytest.mark.parametrize("user", [*STORED, "nobody", "Plain", "plain "])
@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("password", ["wrong", "", SECRET + " ", SECRET[:-1]])
def test_wrong_password(matrix: Pooler, user: str, method: str, password: str) -> None:
    """Whoever it is, the answer is the same: nobody learns which users there are."""
    with RawClient(matrix.host, matrix.port) as client:
        with pytest.raises(ServerError) as refused:
            client.login(user, "via trust", password)
        fields = refused.value.fields
        assert (fields["S"], fields["V"], fields["C"]) == ("FATAL", "FATAL", "28P01")
        empty = (method, password) == ("password", "")  # PostgreSQL's own words for it
        assert fields["M"] == (
            "empty password returned by client"
            if empty
            else f'password authentication failed for user "{user}"'
        )
        assert client.is_closed()


@pytest.mark.parametrize("method", METHODS[1:])
def test_the_right_password_of_a_user_we_do_not_know(matrix: Pooler, method: str) -> None:
    with (
        RawClient(matrix.host, matrix.port) as client,
        pytest.raises(ServerError, match='28P01: password authentication failed for user "alice"'),
    ):
        client.login("alice", "via trust", PASSWORDS["alice"])


def test_server_that_refuses_our_password(shared_pooler: SharedPooler, postgres: Postgres) -> None:
    entry = {"host": postgres.host, "port": postgres.port, "dbname": "app"}
    pooler = shared_pooler(databases={"app": {**entry, "user": "alice", "password": "wrong"}})
    with (
        RawClient(pooler.host, pooler.port) as client,
        pytest.raises(ServerError) as refused,
    ):
        client.login("app", "app", PASSWORDS["app"])
    assert refused.value.fields["C"] == "28P01"
    assert "alice" in refused.value.fields["M"]


def test_users_file(run_with_config: RunWithConfig, tmp_path: Path, postgres: Postgres) -> None:
    odd = 'quote " and \\ and ünï'
    file = tmp_path / "userlist.txt"
    digest = hashlib.md5(b"hashed-passwordhashed").hexdigest()
    lines = [
        "; a comment",
        f'"app" "{PASSWORDS["app"]}"',
        f'"odd ""user""" "{odd.replace(chr(34), chr(34) * 2)}"',
        f'"hashed" "md5{digest}" trailing words',
    ]
    file.write_text("\n".join(lines) + "\n")
    forced = {"host": postgres.host, "port": postgres.port, "dbname": "app", "user": "trustuser"}
    pooler = run_with_config(
        auth={"type": "md5", "file": str(file)}, users=None, databases={"forced": forced}
    )
    accounts = {"app": PASSWORDS["app"], 'odd "user"': odd, "hashed": "hashed-password"}
    for user, password in accounts.items():
        with RawClient(pooler.host, pooler.port) as client:
            client.login(user, "forced", password)
            assert client.values("SELECT current_user::text") == [[b"trustuser"]]
    with pooler.connect("app") as connection:  # its password serves for the server, too
        assert connection.execute("SELECT current_user").fetchone() == ("app",)
    file.write_text(f'"new" "word"\n"app" "{PASSWORDS["app"]}"\n')
    event = pooler.reload(pooler.config)
    assert event["event"] == "reloaded"
    with RawClient(pooler.host, pooler.port) as client:
        client.login("new", "forced", "word")
    with RawClient(pooler.host, pooler.port) as client, pytest.raises(ServerError):
        client.login("hashed", "forced", "hashed-password")


def test_login_that_takes_too_long(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(timeouts={"client_login_timeout": 0.2})
    with RawClient(pooler.host, pooler.port) as silent, RawClient(pooler.host, pooler.port) as slow:
        slow.startup(user="app")
        _, body = slow.read_until(b"E")[-1]
        assert raw.error_fields(body)["M"] == "client_login_timeout"
        assert silent.is_closed()
        assert slow.is_closed()
    assert pooler.wait_for_log(event="client refused", reason="client_login_timeout")

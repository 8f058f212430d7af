"""No secret is in any log, error, metric or repr, whatever happens."""

import contextlib
import hashlib
import re
import urllib.request
from base64 import b64decode
from pathlib import Path

import psycopg
import pytest

from pooler.config import load
from pooler.core.settings import Target
from pooler.wire import passwords, scram
from pooler.wire.logins import Account, Login
from tests.auth.conftest import MakeRole, set_password, stored
from tests.auth.test_auth_query import log_in, refused
from tests.conftest import RunWithConfig
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import Closed, RawClient, ServerError

WRONG = "a-wrong-password-that-was-typed"


def forms(secret: str, user: str) -> set[str]:
    """A secret, and all that can be made of it, in the ways that it could be written."""
    found = {secret, secret.encode().hex(), passwords.md5_secret(secret, user)[3:]}
    verifier = scram.parse_verifier(secret)
    if verifier is not None:
        found |= set(re.split("[$:]", secret)[3:])
        raws = [verifier.stored_key, verifier.server_key]
        with contextlib.suppress(KeyError):
            keys = scram.derive_keys(PASSWORDS[user], verifier.salt, verifier.iterations)
            raws.append(keys.client_key)
        for raw in raws:
            found |= {raw.hex(), repr(raw)[2:-1], repr(raw)}
    return found


@pytest.mark.parametrize("method", ["scram-sha-256", "md5", "password"])
def test_a_whole_run_tells_no_secret(
    run_with_config: RunWithConfig,
    make_role: MakeRole,
    postgres: Postgres,
    tmp_path: Path,
    method: str,
) -> None:
    asked = make_role()
    secrets: set[str] = forms(WRONG, "alice")
    for user, password in PASSWORDS.items():
        if user not in ("trustuser", "postgres"):
            secrets |= forms(password, user) | forms(stored(postgres, user), user)
    secrets |= forms(PASSWORDS["postgres"], "postgres")
    userlist = tmp_path / "userlist.txt"
    userlist.write_text(
        f'"alice" "{stored(postgres, "alice")}"\n"md5user" "{stored(postgres, "md5user")}"\n'
    )
    pooler = run_with_config(
        auth={"type": method, "file": str(userlist), "user": "postgres", "dbname": "postgres"},
        users={**dict.fromkeys((*PASSWORDS,)), **{
            name: {"password": PASSWORDS[name]} for name in ("app", "bob", "postgres")
        }},
        databases={
            "down": {"host": "127.0.0.1", "port": 1, "user": "bob", "password": PASSWORDS["bob"]},
            "wrong": {"host": postgres.host, "port": postgres.port, "user": "app",
                      "password": WRONG, "dbname": "app"},
        },
        logging={"level": "debug"},
        timeouts={"client_login_timeout": 5},
        limits={"max_client_connections": 20},
    )  # fmt: skip
    told: list[str] = []

    def attempt(user: str, password: str, database: str = "app") -> None:
        with RawClient(pooler.host, pooler.port) as client:
            try:
                client.login(user, database, password)
                told.append(repr(client.query("SELECT nonsense")))
            except ServerError as error:
                told.append(repr(error.fields))
            except Closed:  # its server was terminated in that moment
                pass

    for _ in range(2):
        for user in ("alice", "md5user", "app", "bob", asked, "nobody"):
            attempt(user, PASSWORDS.get(user, WRONG))
            attempt(user, WRONG)
        attempt("bob", PASSWORDS["bob"], "wrong")
        attempt("bob", PASSWORDS["bob"], "nowhere")
        set_password(postgres, asked, "changed-" + method)
        postgres.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [asked]
        )
        attempt(asked, PASSWORDS[asked])
        attempt(asked, "changed-" + method)
        secrets |= forms("changed-" + method, asked) | forms(stored(postgres, asked), asked)
        set_password(postgres, asked, PASSWORDS[asked])
        users = {**pooler.config["users"], "bob": {"password": WRONG}}
        pooler.reload({**pooler.config, "users": users})
        pooler.reload({**pooler.config, "users": {**users, "bob": {"password": "\0" + WRONG}}})
        users["bob"] = {"password": PASSWORDS["bob"]}
        pooler.reload({**pooler.config, "users": users})
    attempt("bob", PASSWORDS["bob"], "down")
    with urllib.request.urlopen(f"http://127.0.0.1:{pooler.metrics_port}/metrics") as answer:
        told.append(answer.read().decode())
    pooler.terminate()
    told.append(pooler.log_text)
    for secret in secrets:
        assert not any(secret in text for text in told), f"a secret of {len(secret)} characters"


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    verifier = scram.derive_verifier("hunter2", b"salt", 2)
    keys = scram.derive_keys("hunter2", b"salt", 2)
    ring = scram.Keyring()
    ring.keys("hunter2", b"salt", 2)
    file = tmp_path / "pooler.yaml"
    file.write_text(
        "databases: {app: {user: bob, password: hunter2}}\n"
        f"users: {{bob: {{password: hunter2}}, eve: {{password: '{verifier.format()}'}}}}"
    )
    config = load(str(file), environ={})
    route = config.resolve("app", "bob")
    assert route is not None
    assert route.target.password == "hunter2"
    things = [
        verifier,
        keys,
        ring,
        config,
        config.users,
        route,
        Target((), "app", "bob", "hunter2"),
        Account("md5", "hunter2"),
        Login("bob", "app", {}, 0, "md5", "hunter2"),
        Login("bob", "app", {}, 0, "scram-sha-256", keys),
        scram.ServerExchange(verifier, b"nonce"),
        scram.ClientExchange("hunter2", b"nonce"),
        scram.ClientExchange(keys, b"nonce"),
    ]
    for thing in things:
        for secret in forms("hunter2", "bob") | forms(verifier.format(), "bob"):
            assert secret not in repr(thing) + str(thing)


def test_the_secrets_of_this_test_would_be_found() -> None:
    text = scram.derive_verifier(PASSWORDS["alice"], b"salt", 2).format()
    found = forms(text, "alice")
    salt_and_keys = re.split("[$:]", text)
    assert set(salt_and_keys[3:]) <= found
    assert b64decode(salt_and_keys[3]).hex() in found
    inner = hashlib.md5(b"alice-passwordalice").hexdigest()
    assert inner in forms("alice-password", "alice")


def test_a_driver_is_told_no_more(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config()
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(pooler.dsn("alice", password=WRONG))
    assert WRONG not in str(caught.value)
    log_in(pooler, "alice")
    assert WRONG not in str(refused(pooler, "alice", WRONG))

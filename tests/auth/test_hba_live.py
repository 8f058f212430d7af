"""Rules at work: clients through a pooler, over TCP and the unix socket; rules that change."""

import os
import pwd
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.x509.oid import NameOID

from tests.conftest import RunWithConfig
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient, ServerError
from tests.tls.certificates import Authority, name

ME = pwd.getpwuid(os.getuid()).pw_name
NOBODY = 'no pg_hba.conf entry for host "{}", user "{}", database "{}", no encryption'
REJECTED = 'pg_hba.conf rejects connection for host "{}", user "{}", database "{}", no encryption'

Ruled = Callable[..., Pooler]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a name short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="s") as name:
        yield Path(name)


@pytest.fixture
def ruled(run_with_config: RunWithConfig, folder: Path) -> Ruled:
    """Starts a pooler with these rules in a file, and a unix socket in `folder`."""

    def run(rules: str, tls: dict[str, str] | None = None, **auth: Any) -> Pooler:
        (folder / "hba").write_text(rules)
        auth = {"type": "hba", "hba_file": str(folder / "hba"), "failure_delay": 0, **auth}
        listen = {"host": ["127.0.0.1", "::1"], "unix_socket_dir": str(folder)}
        return run_with_config(auth=auth, listen=listen, tls=tls or {})

    return run


def ends(pooler: Pooler, folder: Path) -> dict[str, tuple[str, int]]:
    """Where it listens, by 4, 6 and unix."""
    found = {"unix": (str(folder), 0)}
    for event in pooler.log:
        if event.get("event") == "listening" and not event["address"].startswith("/"):
            host, _, port = event["address"].rpartition(":")
            found["6" if host.startswith("[") else "4"] = (host.strip("[]"), int(port))
    return found


def login(
    end: tuple[str, int], user: str = "app", database: str = "app", password: str | None = None
) -> str:
    """How a client is let in, or why not as "SQLSTATE text"."""
    with RawClient(*end) as client:
        secret = PASSWORDS.get(user, "") if password is None else password
        try:
            messages = client.login(user, database, secret)
        except ServerError as refused:
            return f"{refused.fields['C']} {refused.fields['M']}"
        assert client.values("SELECT current_user") == [[user.encode()]]
        kinds = [body[:4] for kind, body in messages if kind == b"R"]
        names = {0: "trust", 3: "password", 5: "md5", 10: "scram-sha-256"}
        return names[int.from_bytes(kinds[0], "big")]


def test_rules_decide(ruled: Ruled, folder: Path) -> None:
    pooler = ruled(
        "local all bob trust\n"
        "local all alice reject\n"
        "host all bob 127.0.0.1/32 reject\n"
        "host app,other app 127.0.0.0/8 password\n"
        "host app all 127.0.0.1 255.255.255.255 scram-sha-256\n"
        "host all all ::1/128 md5\n"
    )
    at = ends(pooler, folder)
    assert login(at["4"], "app") == "password"
    assert login(at["4"], "app", "postgres") == "28000 " + NOBODY.format(
        "127.0.0.1", "app", "postgres"
    )
    assert login(at["4"], "alice") == "scram-sha-256"
    assert login(at["4"], "bob") == "28000 " + REJECTED.format("127.0.0.1", "bob", "app")
    assert login(at["6"], "bob") == "md5"
    assert login(at["unix"], "bob") == "trust"
    assert login(at["unix"], "alice") == "28000 " + REJECTED.format("[local]", "alice", "app")
    assert login(at["unix"], "app") == "28000 " + NOBODY.format("[local]", "app", "app")
    assert login(at["4"], "app", password="wrong") == (
        '28P01 password authentication failed for user "app"'
    )
    event = pooler.wait_for_log(event="client refused", user="bob")
    assert event["cause"] == f"{folder}/hba:3"


def test_psql_is_told_the_same_as_by_postgres(
    ruled: Ruled, folder: Path, postgres: Postgres
) -> None:
    pooler = ruled("host app app samehost scram-sha-256\n")
    psql = [str(postgres.bin_dir / "psql"), "-XAt", "-c", "SELECT 42"]
    good = subprocess.run([*psql, pooler.dsn("app")], capture_output=True, text=True)
    assert good.stdout == "42\n"
    bad = subprocess.run([*psql, pooler.dsn("alice")], capture_output=True, text=True)
    assert "FATAL:  " + NOBODY.format("127.0.0.1", "alice", "app") in bad.stderr


def test_replication_has_a_keyword(ruled: Ruled) -> None:
    pooler = ruled("host all all all trust\n")
    with RawClient(pooler.host, pooler.port) as client, pytest.raises(ServerError) as refused:
        client.login("app", "app", replication="true")
    assert refused.value.fields["M"] == (
        'no pg_hba.conf entry for replication connection from host "127.0.0.1", user "app", '
        "no encryption"
    )


def test_peer(ruled: Ruled, folder: Path) -> None:
    rules = "local other all peer\nlocal all all peer map=m\n"
    (folder / "ident").write_text(f"m {ME} app\nm {ME} /^ali\n")
    pooler = ruled(rules, ident_file=str(folder / "ident"))
    unix = ends(pooler, folder)["unix"]
    assert login(unix, "app") == "trust"  # nothing more has to be proven
    assert login(unix, "alice") == "trust"
    assert login(unix, "bob") == '28000 Peer authentication failed for user "bob"'
    assert login(unix, "app", "other") == '28000 Peer authentication failed for user "app"'


def until(condition: Callable[[], bool]) -> None:
    """Wait for a change of a file to be noticed, which takes some two seconds."""
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_changed_file_is_for_new_logins(ruled: Ruled, folder: Path) -> None:
    pooler = ruled("host all all all trust\ninclude_if_exists more\n")
    at = (pooler.host, pooler.port)
    with RawClient(*at) as early:
        early.login("app", "app")
        (folder / "hba").write_text("host all alice all password\ninclude_if_exists more\n")
        event = pooler.reload(pooler.config)
        assert event["changes"] == ["auth.hba_file: (changed)"]
        assert login(at, "app") == "28000 " + NOBODY.format("127.0.0.1", "app", "app")
        assert login(at, "alice") == "password"
        assert early.values("SELECT 1") == [[b"1"]]

        (folder / "hba").write_text("host all app all trust\nhost all all all gss\n")
        event = pooler.reload(pooler.config)
        assert event["event"] == "reload failed"
        assert event["problems"] == [f"{folder}/hba:2: the method gss is not supported"]
        assert login(at, "app").startswith("28000")  # as before
        assert login(at, "alice") == "password"
        assert early.values("SELECT 1") == [[b"1"]]

        (folder / "hba").write_text("include_if_exists more\nhost all all all reject\n")
        assert pooler.reload(pooler.config)["event"] == "reloaded"
        (folder / "more").write_text("host all app all trust\n")  # noticed without a signal
        until(lambda: login(at, "app") == "trust")


def test_rules_in_yaml(run_with_config: RunWithConfig) -> None:
    rules = [
        {"type": "host", "database": "app", "user": ["alice", "/^b"], "address": "127.0.0.0/8",
         "method": "md5"},
        {"type": "host", "database": "all", "user": "app", "address": "samenet",
         "method": "scram-sha-256"},
    ]  # fmt: skip
    pooler = run_with_config(auth={"type": "hba", "hba": rules, "failure_delay": 0})
    at = (pooler.host, pooler.port)
    assert login(at, "bob") == "md5"
    assert login(at, "alice", "other").startswith("28000")
    assert login(at, "app", "other") == "scram-sha-256"


# Certificates.


def said(pooler: Pooler, user: str, **options: str) -> str:
    """What psycopg is told: "" when it is let in."""
    try:
        pooler.connect(user, **{"host": "localhost", "hostaddr": pooler.host, **options}).close()
    except psycopg.OperationalError as error:
        return str(error).rpartition("FATAL:  ")[2].strip()
    return ""


def test_certificates(ruled: Ruled, folder: Path) -> None:
    authority, stranger = Authority(folder), Authority(folder, "another CA")
    server = authority.issue("localhost", ["localhost", "127.0.0.1"])
    shop = name("Bob B.", (NameOID.ORGANIZATION_NAME, "Shop"))
    pairs = {
        "alice": authority.issue("alice"),
        "bob@example.net": authority.issue("bob@example.net"),
        "shop": authority.issue(shop),
        "stranger": stranger.issue("alice"),
    }
    (folder / "ident").write_text(
        'dn "CN=Bob B.,O=Shop" bob\n'
        "cn /^(.*)@example\\.net$ \\1\n"
    )  # fmt: skip
    pooler = ruled(
        "hostssl app alice all cert\n"
        "hostssl app bob all cert map=cn\n"
        "hostssl other bob all cert map=dn clientname=DN\n"
        "hostssl other alice all scram-sha-256 clientcert=verify-ca\n"
        "hostnossl all app all trust\n",
        ident_file=str(folder / "ident"),
        tls={
            "cert_file": str(server.cert),
            "key_file": str(server.key),
            "ca_file": str(authority.file),
        },
    )

    def with_(pair: str, user: str, dbname: str = "app", **options: str) -> str:
        files = {}
        if pair:
            files = {"sslcert": str(pairs[pair].cert), "sslkey": str(pairs[pair].key)}
        return said(pooler, user, dbname=dbname, sslmode="require", **files, **options)

    wrong = 'certificate authentication failed for user "{}"'
    none = "connection requires a valid client certificate"
    assert with_("alice", "alice") == ""
    assert with_("alice", "bob") == wrong.format("bob")
    assert with_("shop", "alice") == wrong.format("alice")
    assert with_("", "alice") == none
    assert with_("stranger", "alice") != ""
    assert with_("bob@example.net", "bob") == ""
    assert with_("shop", "bob", "other") == ""
    assert with_("bob@example.net", "bob", "other") == wrong.format("bob")
    assert with_("shop", "alice", "other") == ""  # any certificate, and the password
    assert with_("", "alice", "other") == none
    assert with_("alice", "app") == (
        'no pg_hba.conf entry for host "127.0.0.1", user "app", database "app", SSL encryption'
    )
    assert said(pooler, "app", sslmode="disable") == ""
    assert said(pooler, "alice", sslmode="disable") == NOBODY.format("127.0.0.1", "alice", "app")

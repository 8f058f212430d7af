"""What the authenticator asks of whom: certificates, users of the system, rules' places in logs."""

import asyncio
import base64
import ipaddress
import json
import os
import pwd
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

from pooler.config import Config, load
from pooler.interfaces import interfaces
from pooler.login.auth import Authenticator
from pooler.login.ends import Connection
from pooler.outside import Outside
from pooler.wire import codes
from pooler.wire.logins import Account, Find, LoginFailed

ME = pwd.getpwuid(os.getuid()).pw_name
Asking = Callable[..., Account]


@dataclass(frozen=True)
class Shown:
    """What a TLS connection says of its client."""

    verified: bool = True
    cn: str = "bob"
    dn: str = "CN=bob,O=Shop"


@pytest.fixture
def ask(tmp_path: Path) -> Asking:
    """Gives the account that a connection finds under an `auth` section; LoginFailed."""

    def asked(auth: str, connection: Connection, user: str = "bob") -> Account:
        config = configured(tmp_path, auth)

        async def find() -> Account:
            request = Find(user, "app", {"user": user})
            found = Authenticator(lambda: config).find(connection, request)
            return found if isinstance(found, Account) else await found

        return asyncio.run(find())

    return asked


def configured(folder: Path, auth: str) -> Config:
    """A configuration with that `auth` section."""
    head = "databases: {app: {}}\nusers: {bob: {password: secret}}\nauth:\n"
    lines = "".join(f"  {line}\n" for line in dedent(auth).strip().splitlines())
    (folder / "pooler.yaml").write_text(head + lines)
    return load(str(folder / "pooler.yaml"), environ={})


def rules(*written: str) -> str:
    """An `auth` section with one rule and a map."""
    (rule,) = written
    return (
        f"type: hba\nhba:\n  - {{database: all, user: all, {rule}}}\n"
        "ident:\n"
        "  - {map: m, system: 'CN=bob,O=Shop', user: alice}\n"
        "  - {map: m, system: '/^(.*)@example$', user: '\\1'}\n"
        f"  - {{map: m, system: {ME}, user: alice}}\n"
    )


CERT = rules("type: hostssl, address: all, method: cert")
CERT_DN = rules("type: hostssl, address: all, method: cert, map: m, clientname: DN")
CERT_MAP = rules("type: hostssl, address: all, method: cert, map: m")
NO_CERTIFICATE = "connection requires a valid client certificate"
WRONG_CERTIFICATE = 'certificate authentication failed for user "{}"'


@pytest.mark.parametrize(
    ("auth", "shown", "user", "refused"),
    [
        (CERT, Shown(), "bob", None),
        (CERT, Shown(), "alice", WRONG_CERTIFICATE),
        (CERT, Shown(cn="Bob"), "bob", WRONG_CERTIFICATE),
        (CERT, Shown(cn=""), "bob", WRONG_CERTIFICATE),
        (CERT, Shown(verified=False), "bob", NO_CERTIFICATE),
        (CERT_DN, Shown(), "alice", None),
        (CERT_DN, Shown(), "bob", WRONG_CERTIFICATE),
        (CERT_DN, Shown(dn="CN=bob,O=Other"), "alice", WRONG_CERTIFICATE),
        (CERT_MAP, Shown(cn="carol@example"), "carol", None),
        (CERT_MAP, Shown(cn="carol@example"), "bob", WRONG_CERTIFICATE),
        (CERT_MAP, Shown(), "bob", WRONG_CERTIFICATE),  # the map alone says, not the name
        ("type: cert", Shown(), "bob", None),
        ("type: cert", Shown(), "alice", WRONG_CERTIFICATE),
        ("type: cert", Shown(verified=False), "bob", NO_CERTIFICATE),
        ("type: cert", None, "bob", NO_CERTIFICATE),
    ],
)
def test_certificates(
    ask: Asking, auth: str, shown: Shown | None, user: str, refused: str | None
) -> None:
    connection = Connection("127.0.0.1", tls=shown)
    if refused is None:
        assert ask(auth, connection, user).method == "cert"
        return
    with pytest.raises(LoginFailed) as caught:
        ask(auth, connection, user)
    assert (caught.value.sqlstate, caught.value.text) == ("28000", refused.format(user))


@pytest.mark.parametrize(
    ("level", "shown", "refused"),
    [
        ("verify-ca", Shown(cn="somebody"), None),
        ("verify-ca", Shown(verified=False), ("28000", NO_CERTIFICATE)),
        ("verify-full", Shown(), None),
        (
            "verify-full",
            Shown(cn="somebody"),
            ("28P01", 'password authentication failed for user "bob"'),
        ),
    ],
)
def test_a_certificate_besides_the_password(
    ask: Asking, level: str, shown: Shown, refused: tuple[str, str] | None
) -> None:
    auth = rules(f"type: hostssl, address: all, method: scram-sha-256, clientcert: {level}")
    connection = Connection("127.0.0.1", tls=shown)
    if refused is None:
        assert ask(auth, connection) == Account("scram-sha-256", "secret")
        return
    with pytest.raises(LoginFailed) as caught:
        ask(auth, connection)
    assert (caught.value.sqlstate, caught.value.text) == refused


def test_encryption_is_named(ask: Asking) -> None:
    auth = rules("type: hostnossl, address: all, method: trust")
    with pytest.raises(LoginFailed) as caught:
        ask(auth, Connection("127.0.0.1", tls=Shown()))
    assert caught.value.text == (
        'no pg_hba.conf entry for host "127.0.0.1", user "bob", database "app", SSL encryption'
    )
    with pytest.raises(LoginFailed) as caught:
        ask(CERT, Connection(""))
    assert caught.value.text == (
        'no pg_hba.conf entry for host "[local]", user "bob", database "app", no encryption'
    )


@pytest.mark.parametrize(
    ("rule", "uid", "user", "lets"),
    [
        ("method: peer", os.getuid(), ME, True),
        ("method: peer", os.getuid(), "bob", False),
        ("method: peer, map: m", os.getuid(), "alice", True),
        ("method: peer, map: m", os.getuid(), ME, False),
        ("method: peer", 2**31 - 7, "bob", False),  # a user without a name
        ("method: peer", None, "bob", False),
    ],
)
def test_peer(ask: Asking, rule: str, uid: int | None, user: str, lets: bool) -> None:
    auth = rules(f"type: local, {rule}")
    if lets:
        assert ask(auth, Connection("", uid), user).method == "peer"
        return
    with pytest.raises(LoginFailed) as caught:
        ask(auth, Connection("", uid), user)
    assert caught.value.sqlstate == codes.INVALID_AUTHORIZATION
    assert caught.value.text == f'Peer authentication failed for user "{user}"'


def test_a_refusal_names_the_rule_in_the_log_alone(ask: Asking, tmp_path: Path) -> None:
    with pytest.raises(LoginFailed) as caught:
        ask(rules("type: host, address: all, method: reject"), Connection("::1"))
    assert caught.value.cause == f"{tmp_path}/pooler.yaml:6"
    assert caught.value.text == (
        'pg_hba.conf rejects connection for host "::1", user "bob", database "app", no encryption'
    )


def test_the_addresses_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = interfaces()
    assert ipaddress.ip_interface("127.0.0.1/8") in found
    for interface in found:
        family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
        if not interface.ip.is_link_local:  # which needs a zone
            with socket.socket(family) as probe:
                probe.bind((str(interface.ip), 0))  # only one's own address can be bound

    def refused(*_: object) -> socket.socket:
        raise PermissionError

    monkeypatch.setattr(socket, "socket", refused)
    assert interfaces() == []


# Those who are asked in threads.


def test_questions_take_turns_and_no_longer_than_they_may() -> None:
    async def run() -> None:
        from threading import Event

        hold = Event()
        outside = Outside(parallel=1, timeout=0.2)
        try:
            with pytest.raises(TimeoutError):
                await outside.ask(hold.wait)
            with pytest.raises(TimeoutError):  # the first one still has the only place
                await outside.ask(lambda: True)
        finally:
            hold.set()
        for _ in range(100):
            try:
                assert await outside.ask(lambda: 42) == 42
                break
            except TimeoutError:
                continue
        else:
            pytest.fail("the place was not given back")
        with pytest.raises(ZeroDivisionError):
            await outside.ask(lambda: 1 // 0)
        assert await outside.ask(lambda: 43) == 43

    asyncio.run(run())


VERIFIER = "SCRAM-SHA-256$4096:c2FsdA==$" + ":".join(
    base64.b64encode(bytes(32)).decode() for _ in "ab"
)


@pytest.mark.parametrize(
    ("secrets", "method"),
    [
        (["secret"], "md5"),
        (["secret", "password", VERIFIER], "md5"),
        (["secret", VERIFIER, VERIFIER, VERIFIER], "scram-sha-256"),
    ],
)
def test_who_is_unknown_is_asked_as_most_users_are(
    tmp_path: Path, secrets: list[str], method: str
) -> None:
    """Under md5, a user with a verifier is asked for SCRAM: so must those be who do not exist."""
    users = {f"user{number}": {"password": secret} for number, secret in enumerate(secrets)}
    settings = {
        "databases": {"app": {}},
        "users": users,
        "auth": {"type": "md5"},
    }
    (tmp_path / "pooler.yaml").write_text(json.dumps(settings))
    config = load(str(tmp_path / "pooler.yaml"), environ={})
    found = Authenticator(lambda: config).find(Connection(""), Find("nobody", "app", {}))
    assert found == Account(method)  # type: ignore[arg-type]


def test_who_is_unknown_is_asked_as_those_who_were_looked_up(tmp_path: Path) -> None:
    config = configured(tmp_path, "type: md5\nuser: bob")

    async def lookup(_: str, user: str) -> str | None:
        return {"old": "md5" + "0" * 32, "new": VERIFIER}.get(user)

    authenticator = Authenticator(lambda: config, lookup=lookup)

    async def method(user: str) -> str:
        found = authenticator.find(Connection(""), Find(user, "app", {}))
        assert not isinstance(found, Account)
        return (await found).method

    async def run() -> list[str]:
        return [await method(user) for user in ("nobody", "old", "nobody", "new", "nobody")]

    # One of two is not most; the method of a known user is the dialogue's to settle.
    assert asyncio.run(run()) == ["scram-sha-256", "md5", "md5", "md5", "scram-sha-256"]

"""Passwords checked by LDAP: against a slapd of the test's own, with names meant to deceive it."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pooler.config.ldapoptions import LdapOptions, OptionError, ldap_options
from pooler.embedded import free_port
from pooler.ldapcheck import ldap_check
from tests.conftest import RunWithConfig
from tests.support.rawclient import RawClient, ServerError

BASE = "dc=example,dc=net"
BIND_PASSWORD = "search-hunter2"
USERS = {
    "app": "app-ldap",
    "bob": "bob-ldap",
    "a*b": "star-ldap",
    "x,ou=y": "comma-ldap",
    "twin": "twin-ldap",
}
SCHEMAS = Path("/etc/ldap/schema")
MODULES = Path("/usr/lib/ldap")


def escaped(user: str) -> str:
    """A user in a name."""
    return user.replace(",", "\\2C").replace("=", "\\3D")


def people() -> str:
    """The directory as LDIF: users in two places, `twin` in both."""
    text = f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: x\ndc: example\n\n"
    for unit in ("people", "others"):
        text += f"dn: ou={unit},{BASE}\nobjectClass: organizationalUnit\nou: {unit}\n\n"
    places = [(user, "people") for user in USERS] + [("twin", "others")]
    for user, unit in places:
        text += f"dn: uid={escaped(user)},ou={unit},{BASE}\nobjectClass: inetOrgPerson\n"
        text += f"uid: {user}\ncn: {user}\nsn: {user}\nuserPassword: {USERS[user]}\n\n"
    return text


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an LDAP server."""
    pytest.importorskip("ldap", reason="NOT TESTED: LDAP, for want of the extra `ldap`")
    program = shutil.which("slapd") or shutil.which("slapd", path="/usr/sbin")
    if program is None or not (SCHEMAS / "core.schema").exists():
        pytest.skip("NOT TESTED: LDAP, for want of slapd")
    folder = tmp_path_factory.mktemp("slapd")
    (folder / "db").mkdir()
    includes = "".join(
        f"include {SCHEMAS}/{name}.schema\n" for name in ("core", "cosine", "inetorgperson")
    )
    (folder / "slapd.conf").write_text(
        f"{includes}modulepath {MODULES}\nmoduleload back_mdb\npidfile {folder}/pid\n"
        f"database mdb\nsuffix {BASE}\ndirectory {folder}/db\n"
        f'rootdn "cn=admin,{BASE}"\nrootpw {BIND_PASSWORD}\n'
        "access to attrs=userPassword by anonymous auth by * none\n"
        "access to * by * read\n"
    )
    config = ["-f", str(folder / "slapd.conf")]
    adding = [str(Path(program).with_name("slapadd")), *config]
    subprocess.run(adding, input=people(), text=True, check=True, capture_output=True)
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *config, "-d", "0", "-h", f"ldap://127.0.0.1:{port}"], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 15
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def options(port: int, **more: str) -> LdapOptions:
    """Options as in a rule, less their `ldap`."""
    given = {"server": "127.0.0.1", "port": str(port), **more}
    return ldap_options((f"ldap{name}", value) for name, value in given.items())


def simple(port: int) -> LdapOptions:
    """Of a bind as a name that is put together."""
    return options(port, prefix="uid=", suffix=f",ou=people,{BASE}")


def search(port: int, **more: str) -> LdapOptions:
    """Of a search."""
    return options(port, basedn=BASE, binddn=f"cn=admin,{BASE}", bindpasswd=BIND_PASSWORD, **more)


@pytest.mark.parametrize("way", [simple, search])
@pytest.mark.parametrize("user", ["app", "bob", "a*b", "x,ou=y"])
def test_passwords(slapd: int, way: Any, user: str) -> None:
    assert ldap_check(way(slapd), user, USERS[user]) == ""
    for wrong in ("wrong", USERS[user] + "x", "*", "", "\0"):
        assert ldap_check(way(slapd), user, wrong) != ""


@pytest.mark.parametrize("way", [simple, search])
@pytest.mark.parametrize(
    "user",
    [
        "nobody",
        "*",
        "b*",
        "a*",
        "bob)(uid=*",
        "bob)(|(uid=*))",
        "*)(objectClass=*",
        "bob,ou=people,dc=example,dc=net",
        f"bob,ou=people,{BASE}#",
        "bob\\2cou=people",
        "bob+cn=bob",
        "",
        "bob\0",
        "\udcff",
    ],
)
def test_names_meant_to_deceive(slapd: int, way: Any, user: str) -> None:
    for password in USERS.values():
        assert ldap_check(way(slapd), user, password) != ""


def test_searches(slapd: int) -> None:
    everywhere = search(slapd)
    assert ldap_check(everywhere, "twin", USERS["twin"]) == "LDAP knows no such user, or several"
    assert ldap_check(search(slapd, searchattribute="cn"), "bob", USERS["bob"]) == ""
    wanted = "(&(objectClass=inetOrgPerson)(|(uid=$username)(cn=$username)))"
    assert ldap_check(search(slapd, searchfilter=wanted), "bob", USERS["bob"]) == ""
    url = f"ldap://127.0.0.1:{slapd}/ou=people,{BASE}?uid?one"
    assert ldap_check(ldap_options([("ldapurl", url)]), "twin", USERS["twin"]) == ""  # anonymous
    url = f"ldap://127.0.0.1:{slapd}/{BASE}??sub?(cn=$username)"
    assert ldap_check(ldap_options([("ldapurl", url)]), "bob", USERS["bob"]) == ""
    bad = options(slapd, basedn=BASE, binddn=f"cn=admin,{BASE}", bindpasswd="wrong-hunter2")
    assert ldap_check(bad, "bob", USERS["bob"]) == "LDAP: Invalid credentials"


def test_names_that_are_no_distinguished_ones(slapd: int) -> None:
    windows = options(slapd, suffix="@example.net")
    assert ldap_check(windows, "bob,x", "y") == "LDAP knows no such user, or several"
    assert ldap_check(windows, "bob", "y").startswith("LDAP: ")  # slapd wants another form


def test_servers_that_are_not_there(slapd: int) -> None:
    assert ldap_check(simple(free_port()), "bob", "x") == "LDAP: Can't contact LDAP server"
    both = ldap_options(
        [("ldapserver", "127.0.0.2 127.0.0.1"), ("ldapport", str(slapd)), ("ldapprefix", "uid="),
         ("ldapsuffix", f",ou=people,{BASE}")]
    )  # fmt: skip
    assert ldap_check(both, "bob", USERS["bob"]) == ""
    assert ldap_check(options(slapd, tls="1", prefix="uid="), "bob", "x").startswith("LDAP: ")


def test_through_the_pooler(slapd: int, run_with_config: RunWithConfig) -> None:
    rule = {"type": "host", "database": "all", "user": "all", "address": "all", "method": "ldap",
            "ldapserver": "127.0.0.1", "ldapport": str(slapd), "ldapbasedn": BASE,
            "ldapbinddn": f"cn=admin,{BASE}", "ldapbindpasswd": BIND_PASSWORD}  # fmt: skip
    pooler = run_with_config(auth={"type": "hba", "hba": [rule], "failure_delay": 0})

    def login(user: str, password: str) -> RawClient:
        client = RawClient(pooler.host, pooler.port)
        try:
            client.login(user, "app", password)
        except BaseException:
            client.close()
            raise
        return client

    with login("app", USERS["app"]) as client:
        assert client.values("SELECT current_user") == [[b"app"]]
    for user, password in (("app", "wrong-hunter2"), ("nobody", "hunter2"), ("app)(uid=*", "x")):
        with pytest.raises(ServerError) as refused:
            login(user, password)
        assert refused.value.fields["C"] == "28000"
        assert refused.value.fields["M"] == f'LDAP authentication failed for user "{user}"'
    with pytest.raises(ServerError) as refused:
        login("app", "")
    assert refused.value.fields["C"] == "28P01"
    assert refused.value.fields["M"] == "empty password returned by client"
    assert "hunter2" not in pooler.log_text
    assert USERS["app"] not in pooler.log_text


# Without a server.


def test_urls() -> None:
    url = "ldaps://[::1]:1636/dc=a%20b??sub?(x=$username%29"
    assert ldap_options([("ldapurl", url)]) == LdapOptions(
        uri="ldaps://[::1]:1636", basedn="dc=a b", filter="(x=$username)", scope="sub"
    )
    found = ldap_options([("ldapurl", "ldap://h/dc=x?cn,uid"), ("ldapport", "1389")])
    assert (found.uri, found.filter, found.scope) == ("ldap://h:1389", "(cn=$username)", "base")


@pytest.mark.parametrize(
    "given",
    [
        {"ldapurl": "ldap:///dc=x"},
        {"ldapurl": "ldap://h:99999/dc=x"},
        {"ldapurl": "ldap://u:hunter2@h/dc=x"},
        {"ldapurl": "ldap://h/dc=x?uid?sub?(a=b)?ext"},
        {"ldapserver": "h/x", "ldapprefix": "y"},
        {"ldapserver": "h", "ldapprefix": "y", "ldapscheme": "ldapi"},
        {"ldapserver": "h", "ldapprefix": "y", "ldaptls": "yes"},
        {"ldapserver": "h", "ldapprefix": "y", "ldaptls": "1", "ldapscheme": "ldaps"},
        {"ldapserver": "h", "ldapprefix": "y", "ldapport": "0"},
        {"ldapservers": "h", "ldapprefix": "y"},
    ],
)
def test_options_that_are_wrong(given: dict[str, str]) -> None:
    with pytest.raises(OptionError) as wrong:
        ldap_options(given.items())
    assert "hunter2" not in f"{wrong.value}{wrong.value.hint}"


def test_it_is_not_loaded_unless_it_is_used() -> None:
    code = "import pooler.service, sys; sys.exit(bool({'ldap', 'pamela'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

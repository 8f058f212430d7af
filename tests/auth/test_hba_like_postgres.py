"""Rules and maps side by side with PostgreSQL: the same mistakes, the same decisions, its words."""

import re
import subprocess
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest

from pooler.config import Config, ConfigError, load
from pooler.embedded import find_binaries, wheel_binaries
from pooler.login.auth import Authenticator
from pooler.login.ends import Connection
from pooler.wire.logins import Find, LoginFailed
from tests.support.postgres import Postgres
from tests.support.rawclient import RawClient, error_fields, startup_packet

ADMIN = "host postgres postgres all scram-sha-256\n"
ADDRESS = "127.0.0.1"

GOOD = [
    "host all all all trust",
    "local all all peer",
    "host all,app bob,alice 10.0.0.0/8 md5",
    "host all all 10.0.0.0 255.0.0.0 reject",
    "host all all 10.0.0.0 255.0.255.0 reject",
    "host all all ::1/128 trust",
    "host all all samehost trust",
    "host all all samenet trust",
    "hostssl all all all cert clientname=DN",
    "hostssl all all all scram-sha-256 clientcert=verify-full",
    "hostnossl all all all password",
    "hostnogssenc all all all password",
    'host "a b" "c,d" all trust',
    r"host /^db\d+$ /^(?:a|b)$ all trust",
    r'host "/^db\d{1,2}$" all all trust',
    "host replication all all trust",
    "host all @names all trust",
    "include more",
    "include_if_exists gone",
    "include_dir dir",
    "host all all all trust # a comment",
]
BAD = [
    "hosts all all all trust",
    "host",
    "host all",
    "host all all",
    "host all all all",
    "local all all",
    "host,local all all all trust",
    "host all all 10.0.0.0/33 trust",
    "host all all 10.0.0.0/x trust",
    "host all all 10.0.0.0/ trust",
    "host all all 10.0.0.1 trust",
    "host all all 10.0.0.1 ffff:: trust",
    "host all all 10.0.0.0/8,11.0.0.0/8 trust",
    "host all all all scram",
    "host all all all trust,md5",
    "host all all all peer",
    "host all all all cert",
    "host all all all trust map=m",
    "host all all all trust nonsense",
    "host all all all trust nonsense=1",
    "host all all all trust clientcert=verify-ca",
    "hostssl all all all cert clientcert=verify-ca",
    "host all all all md5 pamservice=x",
    "host all all all md5 ldapserver=x",
    "host /( all all trust",
    "host /a** all all trust",
    "host /[z-a] all all trust",
    "host /a{3,2} all all trust",
    "host /*a all all trust",
    "host all /^* all trust",
    "host all @gone all trust",
    'host all "bob all trust',
    "include gone",
    "include_dir gone",
]
STRICTER = [
    "host all all db.example.net trust",
    "host samerole all all trust",
    "host all +staff all trust",
    "host all all 10.1 255.0.0.0 trust",
    'host all all all "trust',
    "host /(a+)+ all all trust",
    "host all all all radius radiusservers=127.0.0.1 radiussecrets=x",
]
"""What PostgreSQL takes and we refuse, for the reasons that `pooler.config.hba` gives."""

IDENT_GOOD = ["m root app", r"m /^(.*)@x$ \1", "m root all", "m root /^a", 'm "a b" "c,d"']
IDENT_BAD = ["m", "m root", "m a,b app", "m root a,b", "m /( app", "m root /("]

DECISIONS = [
    "host app app all trust\nhost app all all password\nhost all bob all reject\n",
    "host sameuser all all trust\nhost all,@names alice all password\n",
    'host "all" all all trust\nhost all "all" all trust\nhost "sameuser" all all trust\n',
    "host all all 127.0.0.0/8 reject\nhost all all all trust\n",
    "host all all 127.0.0.1 255.255.255.255 scram-sha-256\n",
    "host all all 127.0.0.2/32 trust\nhost all all samehost password\n",
    "host all all ::1/128 trust\nhost all all samenet trust\n",
    "hostssl all all all trust\nhostnossl all app all trust\n",
    "host replication all all trust\nhost other all all trust\n",
    "host all all all trust\nhost replication bob all reject\n",
    r"host /^ap all all trust" "\n" r"host all /^(?:bob|carol)$ all password" "\n",
    r"host all /^[[:alpha:]]{3}$ all trust" "\nhost all /E$ all trust\n",
    "include more\nhost all all all reject\n",
    'host "app""x",app "b"ob all trust\nhost all all all \\\n   password\n',
]
CLIENTS = [
    (user, database, replication)
    for user in ("app", "alice", "bob")
    for database, replication in (("app", ""), ("other", ""), ("app", "true"), ("app", "database"))
] + [("bob", "bob", ""), ("all", "all", ""), ("sameuser", "sameuser", ""), ("nobody", "app", "")]


def modern() -> Path | None:
    """The programs of a PostgreSQL that knows includes and regular expressions in rules."""
    for folder in (find_binaries(), wheel_binaries()):
        if folder is None:
            continue
        done = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True)
        version = re.search(r"(\d+)", done.stdout)
        if version and int(version[1]) >= 16:
            return folder
    return None


@pytest.fixture(scope="module")
def rules_server(leftovers: Path) -> Iterator[Postgres]:
    """A PostgreSQL whose rules are the tests'."""
    folder = modern()
    if folder is None:
        pytest.skip("NOT TESTED: rules against PostgreSQL, which is older than 16 here")
    with Postgres(bin_dir=folder) as server:
        yield server


def write(folder: Path, text: str, *, name: str = "pg_hba.conf") -> None:
    """Put a file in place, with those that it may include."""
    (folder / "names").write_text("alice\nother\n")
    (folder / "more").write_text("host app app all trust\n" if "hba" in name else "m x y\n")
    (folder / "dir").mkdir(exist_ok=True)
    for file in ("names", "more", "dir"):
        (folder / file).chmod(0o755)
    (folder / name).write_text(text)


def our_mistakes(folder: Path, auth: str, name: str) -> set[int]:
    """Lines of a file that we find a mistake in."""
    (folder / "pooler.yaml").write_text(f"databases: {{app: {{}}}}\nauth: {{{auth}}}\n")
    with pytest.raises(ConfigError) as caught:
        load(str(folder / "pooler.yaml"), environ={})
    return {problem.line for problem in caught.value.problems if problem.file.endswith(name)}


def test_the_same_mistakes(rules_server: Postgres, tmp_path: Path) -> None:
    lines = [*GOOD, *BAD, *STRICTER]
    text = ADMIN + "".join(f"{line}\n" for line in lines)
    data = rules_server.folder / "data"
    before = (data / "pg_hba.conf").read_text()
    try:
        write(data, text)
        found = rules_server.sql(
            "SELECT line_number, error FROM pg_hba_file_rules "
            "WHERE error IS NOT NULL AND file_name LIKE '%/pg_hba.conf'"
        )
    finally:
        (data / "pg_hba.conf").write_text(before)
    write(tmp_path, text)
    ours = our_mistakes(tmp_path, "type: hba, hba_file: pg_hba.conf", "pg_hba.conf")
    named = {number: line for number, line in enumerate(lines, 2)}
    # What a build lacks, and that TLS is off, is found before any mistake in the line.
    of_the_build = re.compile("cannot match because|not supported by this build")
    unknown = {named[number] for number, error in found if of_the_build.search(error)}
    theirs = {named[number] for number, _ in found} - unknown
    assert theirs == {*BAD} - unknown
    assert {named[number] for number in ours} == {*BAD, *STRICTER}


def test_the_same_mistakes_in_maps(rules_server: Postgres, tmp_path: Path) -> None:
    lines = [*IDENT_GOOD, *IDENT_BAD]
    text = "".join(f"{line}\n" for line in lines)
    data = rules_server.folder / "data"
    write(data, text, name="pg_ident.conf")
    found = rules_server.sql(
        "SELECT line_number FROM pg_ident_file_mappings WHERE error IS NOT NULL"
    )
    write(tmp_path, text, name="pg_ident.conf")
    ours = our_mistakes(tmp_path, "type: cert, ident_file: pg_ident.conf", "pg_ident.conf")
    assert (
        {number for (number,) in found} == ours == set(range(len(IDENT_GOOD) + 1, len(lines) + 1))
    )


def first_word(server: Postgres, user: str, database: str, replication: str) -> tuple[str, str]:
    """What PostgreSQL says first to a client: how to log in, or why not."""
    with RawClient(ADDRESS, server.port) as client:
        parameters = {"user": user, "database": database}
        if replication:
            parameters["replication"] = replication
        client.send(startup_packet(parameters))
        kind, body = client.read()
    if kind == b"R":
        number = int.from_bytes(body[:4], "big")
        return "method", {0: "trust", 3: "password", 10: "scram-sha-256"}[number]
    fields = error_fields(body)
    return fields["C"], fields["M"]


def our_word(config: Config, user: str, database: str, replication: str) -> tuple[str, str]:
    """The same of us."""
    parameters = {"user": user, "database": database, "replication": replication}
    try:
        found = Authenticator(lambda: config).find(
            Connection(ADDRESS), Find(user, database, parameters)
        )
    except LoginFailed as error:
        return error.sqlstate, error.text
    assert not isinstance(found, Awaitable)
    return "method", found.method


def wait_for_reload(server: Postgres, marker: str) -> None:
    """Until the rule for the database `marker`, which there is not, is in force."""
    deadline = time.monotonic() + 10
    while first_word(server, "postgres", marker, "")[0] != "method":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_same_decisions(rules_server: Postgres, tmp_path: Path) -> None:
    data = rules_server.folder / "data"
    for number, rules in enumerate(DECISIONS):
        text = f"{ADMIN}host marker{number} postgres all trust\n{rules}"
        write(data, text)
        rules_server.sql("SELECT pg_reload_conf()")
        wait_for_reload(rules_server, f"marker{number}")
        write(tmp_path, text)
        (tmp_path / "pooler.yaml").write_text(
            "databases: {app: {}}\nauth: {type: hba, hba_file: pg_hba.conf}\n"
        )
        config = load(str(tmp_path / "pooler.yaml"), environ={})
        for client in CLIENTS:
            theirs = first_word(rules_server, *client)
            assert our_word(config, *client) == theirs, (rules, client)

"""Rules in pg_hba.conf's syntax and as YAML: whom they fit, and what is wrong with them."""

import ipaddress
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from pooler.config import changes
from pooler.config.authfile import AuthFile
from pooler.config.hba import Asked, Rule, Rules, rules_of
from tests.config.conftest import Load, Mistakes

INTERFACES = [
    ipaddress.ip_interface(text) for text in ("127.0.0.1/8", "192.0.2.2/24", "fd00::2/64")
]
BASE = "databases: {app: {}}\nauth: {type: hba, hba_file: hba}\n"


class Memory:
    """Files that are in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.seen: list[str] = []

    def text(self, file: str) -> bytes | str:
        """A file's content."""
        self.seen.append(file)
        return self.files.get(file, "can not be read: No such file or directory")

    def exists(self, file: str) -> bool:
        """Whether there is such a file."""
        self.seen.append(file)
        return file in self.files

    def folder(self, name: str) -> list[str] | str:
        """The names in a folder."""
        self.seen.append(name)
        found = [
            file.removeprefix(f"{name}/") for file in self.files if file.startswith(f"{name}/")
        ]
        return found or "can not be read: No such file or directory"


def read(text: str | bytes, files: dict[str, str] | None = None) -> tuple[list[Rule], list[str]]:
    """The rules of a file, and what is wrong with it."""
    data = text if isinstance(text, bytes) else text.encode()
    memory = Memory(
        {"/etc/hba": data, **{f"/etc/{k}": v.encode() for k, v in (files or {}).items()}}
    )
    reading = AuthFile(memory)
    rules, problems = rules_of(reading.read("/etc/hba"))
    return rules, [str(p).removeprefix("/etc/") for p in (*reading.problems, *problems)]


def first(
    text: str,
    *,
    address: str = "127.0.0.1",
    encrypted: bool = False,
    user: str = "bob",
    database: str = "app",
    replication: bool = False,
    files: dict[str, str] | None = None,
) -> int | None:
    """The line of the rule that decides."""
    rules, problems = read(text, files)
    assert problems == []
    asked = Asked(address, encrypted, user, database, replication)
    rule = Rules(rules).first(asked, lambda: INTERFACES)
    return rule.line if rule else None


# Who fits.


@pytest.mark.parametrize(
    ("kind", "fits"),
    [
        ("local", {"unix"}),
        ("host", {"tcp", "tls"}),
        ("hostssl", {"tls"}),
        ("hostnossl", {"tcp"}),
        ("hostnogssenc", {"tcp", "tls"}),
    ],
)
def test_kinds_of_connection(kind: str, fits: set[str]) -> None:
    line = f"{kind} all all {'' if kind == 'local' else 'all'} trust"
    ends = {"unix": ("", False), "tcp": ("127.0.0.1", False), "tls": ("127.0.0.1", True)}
    found = {
        name
        for name, (address, encrypted) in ends.items()
        if first(line, address=address, encrypted=encrypted)
    }
    assert found == fits


@pytest.mark.parametrize(
    ("written", "client", "fits"),
    [
        ("10.1.0.0/16", "10.1.255.1", True),
        ("10.1.0.0/16", "10.2.0.1", False),
        ("10.1.2.3/16", "10.1.9.9", True),  # bits behind the mask mean nothing
        ("10.1.2.3/32", "10.1.2.3", True),
        ("0.0.0.0/0", "203.0.113.1", True),
        ("0.0.0.0/0", "::1", False),
        ("::/0", "::1", True),
        ("::/0", "10.0.0.1", False),
        ("::1/128", "::1", True),
        ("fe80::%eth0/10", "fe80::1%eth1", True),
        ("10.0.0.0 255.0.0.0", "10.9.9.9", True),
        ("10.0.7.0 255.0.255.0", "10.9.7.1", True),  # a mask need not be a prefix
        ("10.0.7.0 255.0.255.0", "10.9.8.1", False),
        ("fd00:: ffff::", "fd00:1::1", True),
        ("10.0.0.0/8", "::ffff:10.1.1.1", True),
        ("::ffff:10.0.0.0/104", "10.1.1.1", True),
        ("::ffff:10.0.0.0/104", "11.1.1.1", False),
        ("::/0", "::ffff:10.1.1.1", False),
        ("all", "203.0.113.1", True),
        ("all", "2001:db8::1", True),
        ("samehost", "192.0.2.2", True),
        ("samehost", "192.0.2.3", False),
        ("samenet", "192.0.2.3", True),
        ("samenet", "192.0.3.3", False),
        ("samenet", "fd00::9", True),
        ("samenet", "127.9.9.9", True),
    ],
)
def test_addresses(written: str, client: str, fits: bool) -> None:
    assert (first(f"host all all {written} trust", address=client) == 1) is fits


@pytest.mark.parametrize(
    ("databases", "users", "database", "user", "fits"),
    [
        ("app", "bob", "app", "bob", True),
        ("app", "bob", "App", "bob", False),
        ("app", "bob", "app", "Bob", False),
        ("other,app", "alice,bob", "app", "bob", True),
        ("other, app", "alice, bob", "app", "bob", True),
        ("sameuser", "all", "bob", "bob", True),
        ("sameuser", "all", "app", "bob", False),
        ('"sameuser"', "all", "sameuser", "bob", True),
        ('"all"', "all", "app", "bob", False),
        ('"all"', "all", "all", "bob", True),
        ("all", '"all"', "app", "bob", False),
        ("ALL", "all", "app", "bob", False),  # keywords are in small letters
        ('"a b"', '"x,y"', "a b", "x,y", True),
        ('"a""b"', "all", 'a"b', "bob", True),
        ('a"b c"', "all", "ab c", "bob", True),
        ("replication", "all", "replication", "bob", False),
        ('"replication"', "all", "replication", "bob", True),
        ("all", '"+staff"', "app", "+staff", True),
        (r"/^db\d+$", "all", "db12", "bob", True),
        (r"/^db\d+$", "all", "db", "bob", False),
        (r'"/^db\d{1,2}$"', "all", "db12", "bob", True),  # quoted for the comma, still a pattern
        ("all", "/^b", "app", "bob", True),
        ("all", "/^b", "app", "alice", False),
        ("all", "/.", "app", "b" * 64, False),  # longer than any name in PostgreSQL
        ("@dbs", "@users", "other", "carol", True),
        ("@dbs", "@users", "app", "carol", False),
        ("app,@dbs", "bob,@users", "app", "bob", True),
        ('"@dbs"', "all", "@dbs", "bob", True),
        ('@"dbs"', "all", "other", "bob", True),
    ],
)
def test_names(databases: str, users: str, database: str, user: str, fits: bool) -> None:
    line = f"host {databases} {users} all trust"
    files = {"dbs": "# ours\nother\n", "users": "alice, carol\n@more", "more": "dave\n"}
    assert (first(line, database=database, user=user, files=files) == 1) is fits


def test_replication_fits_its_keyword_only() -> None:
    text = "host all all all trust\nhost replication bob all reject"
    assert first(text, replication=True) == 2
    assert first(text) == 1
    assert first("host all all all trust", replication=True) is None


def test_the_first_rule_decides() -> None:
    text = """
        # nobody from there
        host all all 10.0.0.0/8 reject

        host app bob all md5   # bob
        host all all all scram-sha-256
    """
    assert first(text, address="10.1.1.1") == 3
    assert first(text) == 5
    assert first(text, user="alice") == 6
    assert first(text, address="") is None


# How it is written.


def test_lines() -> None:
    text = (
        b"\xef\xbb\xbfhost all all \\\r\n  all trust\r\n"
        b"\thost\tall\tall\tall\treject # a comment \\\nthat goes on\n"
        b'host "a#b" all all md5\n'
        b"host all all all trust\\"
    )
    rules, problems = read(text)
    assert problems == []
    assert [(rule.line, rule.method) for rule in rules] == [
        (1, "trust"),
        (3, "reject"),
        (5, "md5"),
        (6, "trust"),
    ]


def test_includes(load_text: Load, tmp_path: Path) -> None:
    (tmp_path / "hba").write_text(
        "include one\ninclude_if_exists gone\ninclude_if_exists two\ninclude_dir dir\n"
    )
    (tmp_path / "one").write_text("host one all all trust\n")
    (tmp_path / "two").write_text('"include" "one"\n')
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "b.conf").write_text("host b @names all trust\n")
    (tmp_path / "dir" / "names").write_text("bob\n")
    (tmp_path / "dir" / "a.conf").write_text("host a all all trust\n")
    (tmp_path / "dir" / ".c.conf").write_text("nonsense\n")
    config = load_text(BASE)
    names = [rule.databases[0].token.text for rule in config.rules]
    assert names == ["one", "one", "a", "b"]
    watched = {str(Path(file).relative_to(tmp_path)) for file in config.files}
    assert watched == {
        *("pooler.yaml", "hba", "one", "gone", "two"),
        *("dir", "dir/a.conf", "dir/b.conf", "dir/names"),
    }


def test_a_file_that_includes_itself(mistakes: Mistakes, tmp_path: Path) -> None:
    (tmp_path / "hba").write_text("host all all all trust\ninclude hba\n")
    assert mistakes(BASE) == ["hba:2: includes are nested more than 10 deep; does one loop?"]
    (tmp_path / "hba").write_text("include hba\ninclude hba\ninclude hba\n")
    assert mistakes(BASE)[-1] == "hba:3: more than 1000 files are included"


# What is wrong.

MISTAKES = [
    ("hosts all all all trust", "'hosts' is not a connection type; did you mean host?"),
    ("host,local all all all trust", "there is more than one connection type"),
    ("hostgssenc all all all trust", "hostgssenc would never fit: there is no"),
    ("host", "there is no database"),
    ("host all", "there is no user"),
    ("host all all", "there is no address"),
    ("host all all all", "there is no method"),
    ("local all all", "there is no method"),
    ("host all all 10.0.0.1", "the line ends before the mask of the address; write the address as "
     "10.0.0.0/8, or the mask in a column of its own"),
    ("host all all 10.0.0.1 trust", "'trust' is not a mask; write one such as 255.255.255.0"),
    ("host all all 10.0.0.1 ffff:: trust", "the address and its mask are not of the same kind"),
    ("host all all 10.0.0.0/33 trust", "'10.0.0.0/33' has a mask that is none"),
    ("host all all 10.0.0.0/x trust", "'10.0.0.0/x' has a mask that is none"),
    ("host all all 10.0.0.0/ trust", "'10.0.0.0/' has a mask that is none"),
    ("host all all 10.0.0.0/8,all trust", "there is more than one address; write a rule for each"),
    ("host all all db.example.net trust", "'db.example.net' is not an IP address; host names are "
     "not supported, since a login would hang on a name server; write 10.0.0.0/8, an address and a "
     "mask, all, samehost or samenet"),
    ('host all all "all" trust', "'all' is not an IP address"),
    ("host samerole all all trust", "samerole is not supported: only a database knows who is in a "
     "role; name the databases, or give a file of names as @file"),
    ("host samegroup all all trust", "samegroup is not supported"),
    ("host all +staff all trust", "'+staff' is not supported: only a database knows who is in a "
     "role; name the users, give a file of names as @file, or a regular expression as /^name_"),
    ("host all /( all trust", "the regular expression '(' has a ( that is not closed"),
    ("host all all all scram_sha_256", "'scram_sha_256' is not a method; did you mean"),
    ("host all all all trust,md5", "there is more than one method; write a rule for each"),
    ("host all all all gss", "the method gss is not supported"),
    ("host all all all radius", "the method radius is not supported; pam reaches a RADIUS server "
     "through pam_radius"),
    ("local all all ident", "the method ident is not supported; use peer on unix sockets"),
    ("host all all all peer", "peer works on unix sockets alone; write local in place of host"),
    ("host all all all cert", "cert needs TLS; write hostssl in place of host"),
    ("host all all all trust map=x", "the option map is for the methods cert and peer alone"),
    ("host all all all trust hunter2", "an option is not of the form name=value"),
    ("host all all all trust clientcert=verify-ca", "the option clientcert is for hostssl"),
    ("hostssl all all all trust clientcert=1", "clientcert is '1'; write verify-ca or verify-full"),
    ("hostssl all all all cert clientcert=verify-ca", "the method cert asks for a certificate as "
     "clientcert=verify-full does"),
    ("hostssl all all all cert clientname=cn", "clientname is 'cn'; write CN or DN"),
    ("host all all all trust pamservice=x", "the option pamservice is for the method pam alone"),
    ("host all all all pam pamservice=../x", "pamservice is not the name of a service"),
    ("host all all all pam pam_use_hostname=1", "pam_use_hostname=1 is not supported"),
    ("host all all all md5 ldapserver=x", "the option 'ldapserver' is for the method ldap alone"),
    ("hostssl all all all cert mop=x", "the option 'mop' is not known; did you mean map?"),
    ("host all all all ldap", "the method ldap needs ldapbasedn, ldapprefix or ldapsuffix"),
    ("host all all all ldap ldapprefix=x", "ldapserver is missing"),
    ("host all all all ldap ldapprefix=x ldapbasedn=y ldapserver=h", "ldapprefix and ldapsuffix do "
     "not go with the options of a search"),
    ("host all all all ldap ldapserver=h ldapport=x ldapprefix=y", "ldapport is not a port"),
    ("host all all all ldap ldapurl=http://h/x", "ldapurl is not a URL such as"),
    ("host all all all ldap ldapurl=ldap://h/x??deep", "the scope in ldapurl is not one of base, "
     "one, sub"),
    ("host all all all ldap ldapserver=h ldapbasedn=x ldapsearchattribute=a ldapsearchfilter=b",
     "ldapsearchattribute does not go with ldapsearchfilter; keep one"),
    ('host all "bob all trust', "a quote is not closed"),
    ("host all @gone all trust", "the file /etc/gone can not be read: No such file or directory"),
    ("include gone", "the file /etc/gone can not be read: No such file or directory"),
    ("include_dir gone", "the folder /etc/gone can not be read: No such file or directory"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_mistakes(line: str, message: str) -> None:
    _, problems = read(f"# the first line\n{line}\n")
    assert problems[0].startswith(f"hba:2: {message}")
    assert "hunter2" not in "".join(problems)


@pytest.mark.parametrize("data", [b"host \xff all all trust", b"host a\0b all all trust"])
def test_what_is_no_text(data: bytes) -> None:
    _, problems = read(b"\n" + data + b"\nhost all all all trust\n")
    assert len(problems) == 1
    assert problems[0].startswith("hba:2: ")


def test_all_mistakes_at_once(mistakes: Mistakes, tmp_path: Path) -> None:
    (tmp_path / "hba").write_text("include more\nhost all all all gss\n")
    (tmp_path / "more").write_text("\n\nhosts\n")
    assert mistakes(f"{BASE}limits: {{max_client_connections: x}}\n") == [
        "hba:2: the method gss is not supported",
        "pooler.yaml:3: limits.max_client_connections: 'x' is not a whole number; "
        "write a number such as 1000",
        "more:3: 'hosts' is not a connection type; did you mean host?",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auth: {type: hba}", "auth.type: is hba, but there are no rules"),
        ("auth: {type: hba, hba_file: gone}", "auth.hba_file: the file can not be read: No such"),
        ("auth: {type: hba, hba_file: empty}", "auth.hba_file: the file holds no rule"),
        ("auth: {hba_file: good}", "auth.hba_file: is not used, since auth.type is scram-sha-256"),
        (
            "auth: {type: hba, hba_file: good, hba: [{type: local, database: all, user: all, "
            "method: trust}]}",
            "auth.hba: auth.hba_file is given as well; keep one",
        ),
        ("auth: {type: any}", "auth.type: 'any' is not offered: it lets everybody in as anybody"),
        ("auth: {type: ldap}", "auth.type: 'ldap' is the method of a rule; set auth.type: hba"),
        ("auth: {type: hba, hba_file: mapped}", "there is no user name map 'm'; add its lines to"),
    ],
)
def test_settings_that_do_not_go_together(
    mistakes: Mistakes, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "good").write_text("host all all all trust\n")
    (tmp_path / "empty").write_text("# nothing\n")
    (tmp_path / "mapped").write_text("local all all peer map=m\n")
    problems = mistakes(f"databases: {{app: {{}}}}\nusers: {{u: {{password: p}}}}\n{text}\n")
    assert any(message in problem for problem in problems), problems


# YAML.


def test_yaml_says_the_same(
    load_text: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ldap", ModuleType("ldap"))  # an extra
    (tmp_path / "names").write_text("carol\n")
    lines = """
        local all all peer map=m
        host app,other "a b",/^x,@names 10.0.0.0/8 md5
        host all all 10.0.0.0 255.0.0.0 reject
        hostssl "all" all samenet cert map=m clientname=DN
        host all all all ldap ldapserver=h ldapprefix=uid= "ldapsuffix=,dc=x" ldaptls=1
    """
    (tmp_path / "hba").write_text(lines)
    maps = "ident: [{map: m, system: '/^(.*)@x$', user: '\\1'}]"
    from_file = load_text(f"databases: {{app: {{}}}}\nauth: {{type: hba, hba_file: hba, {maps}}}\n")
    from_yaml = load_text(
        f"""
        databases: {{app: {{}}}}
        auth:
          type: hba
          {maps}
          hba:
            - {{type: local, database: all, user: all, method: peer, map: m}}
            - type: host
              database: [app, other]
              user: ['"a b"', /^x, '@names']
              address: 10.0.0.0/8
              method: md5
            - {{type: host, database: all, user: all, address: 10.0.0.0, mask: 255.0.0.0,
               method: reject}}
            - {{type: hostssl, database: '"all"', user: all, address: samenet, method: cert,
               map: m, clientname: DN}}
            - {{type: host, database: all, user: all, address: all, method: ldap, ldapserver: h,
               ldapprefix: uid=, ldapsuffix: ',dc=x', ldaptls: true}}
        """
    )
    assert len(from_file.rules) == 5
    assert from_yaml.rules == from_file.rules
    assert from_yaml.maps == from_file.maps


def test_mistakes_in_yaml(mistakes: Mistakes) -> None:
    text = """
        databases: {app: {}}
        auth:
          type: hba
          hba:
            - {type: host, database: all, user: +x, address: all, method: trust}
            - type: host
              database: '@gone'
              user: all
              address: all
              method: trust
            - {type: host, database: all, user: all, address: all}
            - {type: local, database: all, user: all, address: all, method: trust}
    """
    assert [problem.partition("; ")[0] for problem in mistakes(text)] == [
        "pooler.yaml:6: auth.hba[0]: '+x' is not supported: only a database knows who is in a role",
        "pooler.yaml:7: auth.hba[1]: the file gone can not be read: No such file or directory",
        "pooler.yaml:7: auth.hba[1]: there is no database",
        "pooler.yaml:12: auth.hba[2]: there is no method",
        "pooler.yaml:13: auth.hba[3]: a local rule has no address",
    ]


def test_an_unknown_key_of_a_rule(mistakes: Mistakes) -> None:
    text = "databases: {app: {}}\nauth:\n  type: hba\n  hba:\n    - {type: host, metod: md5}\n"
    assert mistakes(text) == ["pooler.yaml:5: auth.hba[0].metod: unknown key; did you mean method?"]


def test_the_password_for_ldap_is_shown_nowhere(
    load_text: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ldap", ModuleType("ldap"))  # an extra
    options = "ldapserver=h ldapbasedn=x ldapbinddn=y ldapbindpasswd=hunter2"
    (tmp_path / "hba").write_text(f"host all all all ldap {options}\n")
    old = load_text(BASE)
    assert "hunter2" not in f"{old!r}{[*old.rules]}{old.model_dump()}{old.model_dump_json()}"
    rule = "{type: host, database: all, user: all, address: all, method: ldap, ldapserver: h, "
    rule += "ldapbasedn: x, ldapbinddn: y, ldapbindpasswd: hunter2}"
    new = load_text(f"databases: {{app: {{}}}}\nauth: {{type: hba, hba: [{rule}]}}\n")
    (found,) = [rule.ldap for rule in new.rules]
    assert found is not None
    assert found.bindpasswd is not None
    assert found.bindpasswd.get_secret_value() == "hunter2"
    assert "hunter2" not in f"{new!r}{[*new.rules]}{new.model_dump()}{new.model_dump_json()}"
    assert "hunter2" not in "".join(str(change) for change in changes(old, new))


def test_without_the_extra(
    mistakes: Mistakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ldap", "pamela"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "hba").write_text(
        "host all all all ldap ldapserver=h ldapprefix=x\nhost all all all pam\n"
    )
    assert mistakes(BASE) == [
        "hba:1: the method ldap needs the package python-ldap; pip install 'pooler[ldap]'",
        "hba:2: the method pam needs the package pamela; pip install 'pooler[pam]'",
    ]


def test_changes_name_the_file(load_text: Load, tmp_path: Path) -> None:
    loaded = []
    for text in ("host all all all trust\n", "host all all all md5\n"):
        (tmp_path / "hba").write_text(text)
        loaded.append(load_text(BASE))
    assert [str(c) for c in changes(loaded[0], loaded[1])] == ["auth.hba_file: (changed)"]
    assert changes(loaded[0], loaded[0]) == []


def test_the_example(load_text: Callable[..., object], tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "config" / "pg_hba.conf"
    (tmp_path / "hba").write_bytes(example.read_bytes())
    assert yaml.safe_load(BASE)
    load_text(BASE)

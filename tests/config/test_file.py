"""The file: YAML with positions, whatever bytes it holds."""

from pathlib import Path

import pytest

from pooler.config import ConfigError, load
from tests.config.conftest import LOGIN, Load, Mistakes

BASE = LOGIN + "databases: {app: {}}\n"


def test_all_mistakes_at_once_in_order_of_lines(mistakes: Mistakes) -> None:
    found = mistakes("""\
        listen:
          prot: 6432
        defaults:
          pool_size: abc
        databases:
          app: {host: "${HOST}", pool_size: 1, min_pool_size: 2}
          app: {}
        users:
          bob: hunter2
        auth_type: md5
    """)
    assert found == [
        "pooler.yaml:2: listen.prot: unknown key; did you mean port?",
        "pooler.yaml:4: defaults.pool_size: 'abc' is not a whole number; write a number such as 20",
        "pooler.yaml:6: databases.app.host: the environment variable HOST is not set; "
        "set it, or give a default: ${HOST:-default}",
        "pooler.yaml:7: databases.app: is given twice, first in line 6",
        "pooler.yaml:9: users.bob: the value is not a mapping; write `key: value` lines under it",
        "pooler.yaml:10: auth_type: unknown key; it belongs in auth.type",
    ]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("defaults: {pool_sise: 1}", "did you mean pool_size?"),
        ("databases: {app: {pol_size: 1}}", "did you mean pool_size?"),
        ("users: {u: {pasword: p}}", "did you mean password?"),
        ("database: {app: {}}", "did you mean databases?"),
        ("listen: {pool_size: 1}", "it belongs in defaults.pool_size"),
        ("listen_port: 1", "it belongs in listen.port"),
        ("query_timeout: 1", "it belongs in timeouts.query_timeout"),
        ("max_client_conn: 1", "did you mean limits.max_client_connections?"),
    ],
)
def test_unknown_key(mistakes: Mistakes, text: str, hint: str) -> None:
    assert any(f"unknown key; {hint}" in problem for problem in mistakes(text))


def test_unknown_key_like_nothing(mistakes: Mistakes) -> None:
    assert mistakes(BASE + "xyzzy: 1\n") == ["pooler.yaml:3: xyzzy: unknown key"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n", "{}", "\ufeff# mark\n"])
def test_empty_file_lacks_a_database(mistakes: Mistakes, text: str) -> None:
    assert "databases: no database is configured" in mistakes(text.encode())[0]


def test_byte_order_mark_and_crlf(load_text: Load) -> None:
    assert load_text(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode()).databases


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (b"listen:\n\tport: 1\n", 2, "YAML: a tab is used for indentation; indent with spaces"),
        (b"- a\n- b\n", 1, "is not a mapping"),
        (b"just text\n", 1, "is not a mapping"),
        (b"a: 1\n---\nb: 2\n", 2, "a second document begins here"),
        (b"a: [1\nb: 2\n", 2, "YAML: "),
        (b"a: 'x\n", 2, "YAML: a quote is not closed"),
        (b"a: b: c\n", 1, "YAML: a second ': ' on one line, or wrong indentation"),
        (b"a: 1\n b: 2\n", 2, "YAML: "),
        (b'a: "\\q"\n', 1, "YAML: unknown escape after a backslash"),
        (b'a: "\\U99999999"\n', 0, "YAML: an escape in quotes is not a character"),
        (b"a: @x\n", 1, "YAML: a value begins with a character that YAML reserves"),
        (b"*: {}\n", 1, "YAML: a '*' or '&' that names no alias or anchor"),
        (b"a: *nobody\n", 1, "an alias is not defined"),
        (b"a: &a [*a]\n", 1, "an alias stands inside the value it stands for"),
        (b"a: 1\nb: \xff\xfe\n", 2, "is not UTF-8 text"),
        (b"\x7fELF\x02\x01\x00\x00", 1, "holds the control character '\\x7f'"),
        (b"a: 1\nb: x\x00y\n", 2, "holds the control character '\\x00'"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", 1, "is not UTF-8 text"),
        (b"[" * 100_000, 1, "is nested more than 20 levels deep"),
        (b"{a: " * 10_000, 1, "is nested more than 20 levels deep"),
        (b"- " * 10_000, 1, "is nested more than 20 levels deep"),
        (b"? " * 10_000, 1, "is nested more than 20 levels deep"),
        (b"%YAML 9.9\n---\na: 1\n", 1, "YAML: found incompatible YAML document"),
        (b"x" * (1 << 20) + b"y", 0, "is longer than 1048576 bytes"),
    ],
)
def test_unreadable(mistakes: Mistakes, text: bytes, line: int, message: str) -> None:
    (problem,) = mistakes(text)
    place = f"pooler.yaml:{line}: " if line else "pooler.yaml: "
    assert problem.startswith(place + message)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("!!python/object/apply:os.system ['touch hacked']", "YAML tags are not known"),
        ("!secret x", "YAML tags are not known"),
        ("!!binary aGVsbG8=", "YAML tags are not known"),
        ('"a\\0b"', "a text PostgreSQL can not take"),
        ('"\\ud800"', "a text PostgreSQL can not take"),
    ],
)
def test_value_that_is_not_plain(
    mistakes: Mistakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    problems = mistakes(f"{LOGIN}databases:\n  app:\n    password: {value}\n")
    assert problems[0].startswith(f"pooler.yaml:4: databases.app.password: {message}")
    assert not (tmp_path / "hacked").exists()


def test_billion_laughs(mistakes: Mistakes) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (problem,) = mistakes("\n".join(levels))  # expanded, it would never end
    assert problem == "pooler.yaml:5: holds more than 50000 values with its aliases expanded"


def test_anchors_and_merge_keys(load_text: Load) -> None:
    databases = load_text("""
        users: {u: {password: p}}
        databases:
          a: &a {host: db1, pool_size: 5}
          b: {<<: *a, pool_size: 6}
          c: &c {dbname: x}
          d: {<<: [*c, *a], host: db4}
          e: *a
    """).databases
    d = databases["d"]
    assert (databases["b"].host, databases["b"].pool_size) == (("db1",), 6)
    assert (d.dbname, d.host, d.pool_size) == ("x", ("db4",), 5)
    assert databases["e"] == databases["a"]


def test_a_password_replaces_a_merged_password_file(load_text: Load, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("from-file\n")
    config = load_text("""
        users: {u: &u {password_file: pw}, v: {<<: *u, password: own}}
        databases: {app: {}}
    """)
    assert (config.secret("u"), config.secret("v")) == ("from-file", "own")


@pytest.mark.parametrize("value", ["x", "[x]", "[{a: b}, x]"])
def test_merge_of_no_mapping(mistakes: Mistakes, value: str) -> None:
    assert mistakes(f"{BASE}listen:\n  <<: {value}\n") == [
        "pooler.yaml:4: listen.<<: is not a mapping; write `<<: *name`"
    ] + (["pooler.yaml:4: listen.a: unknown key"] if "{" in value else [])


@pytest.mark.parametrize("key", ["~", "", "[a]", "{a: b}", '""'])
def test_key_that_is_no_name(mistakes: Mistakes, key: str) -> None:
    (problem,) = mistakes(f"{LOGIN}databases:\n  app: {{}}\n  ? {key}\n  : {{}}\n")
    assert problem == "pooler.yaml:4: databases: a key is empty or not text; write `key: value`"


def test_integer_and_star_as_database_names(load_text: Load) -> None:
    config = load_text(LOGIN + 'databases: {42: {host: a}, "*": {host: b}}')
    answer, other = config.resolve("42", "u"), config.resolve("x", "u")
    assert answer is not None
    assert other is not None
    assert (answer.target.hosts[0].host, other.target.hosts[0].host) == ("a", "b")
    assert (other.database, other.target.dbname) == ("x", "x")


def test_hostile_key_can_not_forge_a_log_line(mistakes: Mistakes) -> None:
    (problem,) = mistakes(BASE + '"a\\nERROR\\e[31m": 1\n')
    assert problem == "pooler.yaml:3: a\\nERROR\\x1b[31m: unknown key"


def test_long_value_is_shortened(mistakes: Mistakes) -> None:
    (problem,) = mistakes(BASE + f"defaults: {{pool_size: {'x' * 1000}}}")
    assert f"'{'x' * 60}...' is not a whole number" in problem


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing.yaml", "No such file"), (".", "Is a directory"), ("a\0b", "not a file's name")],
)
def test_file_that_can_not_be_read(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"can not be read: {reason}"):
        load(f"{tmp_path}/{name}", environ={})


def test_files_that_were_read(load_text: Load, tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text('"a" "b"\n')
    (tmp_path / "pw").write_text("secret")
    config = load_text("""
        auth: {file: users.txt}
        databases: {x: {password_file: pw}, y: {password_file: pw}}
    """)
    assert config.source == f"{tmp_path}/pooler.yaml"
    assert config.files == tuple(
        f"{tmp_path}/{name}" for name in ("pooler.yaml", "pw", "users.txt")
    )


def test_line_is_that_of_the_key(mistakes: Mistakes) -> None:
    (problem,) = mistakes(BASE + "defaults:\n  pool_size:\n\n    abc\n")
    assert problem.startswith("pooler.yaml:4: defaults.pool_size: 'abc' is not a whole number")

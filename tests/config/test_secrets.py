"""Secrets: where they come from, and that nothing shows them."""

from pathlib import Path

import pytest

from pooler.config.units import is_verifier
from tests.config.conftest import Load, Mistakes, resolved

MD5 = "md5" + "0123456789abcdef" * 2
SCRAM = f"SCRAM-SHA-256$4096:c2FsdA==${'A' * 43}=:{'B' * 43}="


@pytest.mark.parametrize(
    ("database", "expected"),
    [("{password: db}", "db"), ("{}", "u-secret"), ("{user: f}", "f-secret"),
     ("{user: m}", MD5), ("{user: s}", None), ("{user: nobody}", None)],
)  # fmt: skip
def test_server_password(
    load_text: Load, tmp_path: Path, database: str, expected: str | None
) -> None:
    (tmp_path / "list").write_text(f'"f" "f-secret"\n"u" "loses"\n"m" "{MD5}"\n"s" "{SCRAM}"\n')
    config = load_text(f"""
        auth: {{file: list}}
        users: {{u: {{password: u-secret}}}}
        databases: {{app: {database}}}
    """)
    assert resolved(config, "app", "u").target.password == expected
    assert [config.secret(user) for user in "ums"] == ["u-secret", MD5, SCRAM]
    assert config.secret("nobody") is None


def test_what_logs_in_to_no_server() -> None:
    assert not is_verifier("md5x")
    assert not is_verifier(MD5)  # it answers an md5 request
    assert is_verifier(SCRAM)


def test_userlist(load_text: Load, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(
        '; comment\n# another\n\n"a""b" "c""d" ignored\n  "x"\t"é"\r\n"none" ""\n', "utf-8"
    )
    config = load_text("{auth: {file: list}, databases: {app: {}}}")
    assert [config.secret(user) for user in ('a"b', "x", "none")] == ['c"d', "é", None]


def test_broken_userlist(mistakes: Mistakes, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(
        b'"a" "hunter2"\n"a" "hunter2"\nb hunter2\n"c" "hunter2\n"d" "hunter2"x\n"\xff" "hunter2"\n'
        b'"e" "SCRAM-SHA-256$4096:hunter2"\n"f" "hunter2\0"\n'
    )
    problems = mistakes("{auth: {file: list}, databases: {app: {}}}")
    assert [problem.split(";")[0] for problem in problems] == [
        "list:2: the user is given twice, first in line 1",
        'list:3: is not a line of "user" "secret"',
        'list:4: is not a line of "user" "secret"',
        'list:5: is not a line of "user" "secret"',
        "list:6: is not UTF-8 text",
        "list:7: the secret looks like a SCRAM secret but is cut short or damaged",
        'list:8: is not a line of "user" "secret"',
    ]
    assert "hunter2" not in "".join(problems)


@pytest.mark.parametrize("section", ["databases", "users"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the file can not be read: No such file or directory"),
        (b"", "the file is empty or holds more than one line"),
        (b"\n", "the file is empty or holds more than one line"),
        (b"hunter2\nhunter2\n", "the file is empty or holds more than one line"),
        (b"hunter2\xff", "the file is not UTF-8 text"),
        (b"x" * 70_000, "the file is longer than 65536 bytes"),
    ],
)
def test_password_file_that_is_none(
    mistakes: Mistakes, tmp_path: Path, section: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "pw").write_bytes(content)
    text = "auth: {type: trust}\ndatabases: {app: {}}\nusers: {app: {}}\n".replace(
        f"{section}: {{app: {{}}}}", f"{section}: {{app: {{password_file: pw}}}}"
    )
    line = 2 if section == "databases" else 3
    assert mistakes(text) == [f"pooler.yaml:{line}: {section}.app.password_file: {message}"]


def test_password_and_password_file(mistakes: Mistakes) -> None:
    assert mistakes("databases: {app: {}}\nusers: {u: {password: x, password_file: y}}\n") == [
        "pooler.yaml:2: users.u.password_file: password is given as well; keep one"
    ]


def test_password_file_keeps_spaces(load_text: Load, tmp_path: Path) -> None:
    (tmp_path / "pw").write_bytes(b" pass word \r\n")
    config = load_text("{databases: {app: {}}, users: {u: {password_file: pw}}}")
    assert config.secret("u") == " pass word "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("users: {u: hunter2}", "the value is not a mapping"),
        ("users: {u: {password: [hunter2]}}", "the value is not text"),
        ("users: {u: {password: {hunter2: x}}}", "the value is not text"),
        ("users: {u: {password: SCRAM-SHA-256$hunter2}}", "the value looks like a SCRAM secret"),
        ("users: {u: {password: ''}}", "the value is empty"),
        ("users: {u: {passwort: hunter2}}", "unknown key; did you mean password?"),
        ("users:\n  u:\n    password: *hunter2", "an alias is not defined"),
        ("users:\n  u:\n    password: &hunter2", "nobody could log in"),
        ("users:\n  u:\n    password: !hunter2 x", "YAML tags are not known"),
        ("users:\n  u:\n    password: %hunter2", "a character that YAML reserves"),
        ("users:\n  u:\n    password: [hunter2", "a bracket or brace is not closed"),
        ("users:\n  u:\n    password: 'hunter2", "a quote is not closed"),
        ("users:\n  u:\n    password: hunter2: x", "a second ': ' on one line"),
        ("users:\n  u:\n    password: 'x'hunter2", "YAML: "),
        ("users:\n  u:\n    password: &a &hunter2 x", "YAML: "),
        ("users:\n  u:\n    password: |hunter2", "YAML: "),
        ("databases: {app: {host: 'postgresql://u:hunter2@h'}}", "the value is not the address"),
    ],
)
def test_secrets_are_not_in_errors(mistakes: Mistakes, text: str, message: str) -> None:
    problems = mistakes(text + "\n" + ("" if "databases" in text else "databases: {app: {}}\n"))
    assert any(message in problem for problem in problems)
    assert "hunter2" not in "".join(problems)


def test_secrets_are_not_in_repr(load_text: Load, tmp_path: Path) -> None:
    (tmp_path / "list").write_text('"f" "hunter2"\n')
    (tmp_path / "pw").write_text("hunter2")
    config = load_text(
        """
        auth: {file: list}
        databases: {app: {password: "${PW}"}, b: {password_file: pw}}
        users: {u: {password: hunter2}}
    """,
        {"PW": "hunter2"},
    )
    route = resolved(config, "app", "u")
    assert route.target.password == "hunter2"
    shown = f"{config!r}{config}{route!r}{config.model_dump()}{config.model_dump_json()}"
    assert "hunter2" not in shown

"""The syntax of pgbouncer.ini, and PgBouncer's own opinion of it."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.importer.ini import MAX_INCLUDE, BadString, Ini, pairs
from tests.importer.conftest import PgBouncer


def read(files: Mapping[str, str | bytes]) -> Ini:
    """The first of these files, with what it includes."""

    def text(name: str) -> bytes | str:
        content = files.get(name, "can not be read: no such file")
        if name not in files:
            return str(content)
        return content.encode() if isinstance(content, str) else content

    return Ini(next(iter(files)), text)


def entries(text: str) -> list[tuple[str, str, str]]:
    """What a text that is right says."""
    ini = read({"x.ini": text})
    assert ini.problems == []
    return [(e.section, e.key, e.value) for e in ini.entries]


def mistakes(files: Mapping[str, str | bytes]) -> list[str]:
    """What is wrong with the first of these files."""
    return [str(problem) for problem in read(files).problems]


def test_lines() -> None:
    text = """\ufeff
; a comment
   # another
[databases]
a.b-c_1* =  host=x   ; no comment
* =
"with ""quotes"" in it" = dbname=y
'simple' = dbname=z\r
[pgbouncer] pool_mode=session
  listen_port\t=\t6432  \v
"""
    assert entries(text) == [
        ("databases", "a.b-c_1*", "host=x   ; no comment"),
        ("databases", "*", ""),
        ("databases", 'with "quotes" in it', "dbname=y"),
        ("databases", "simple", "dbname=z"),
        ("pgbouncer", "pool_mode", "session"),
        ("pgbouncer", "listen_port", "6432"),
    ]


def test_each_mistake_has_its_line() -> None:
    text = b"a = b\n[pgbouncers]\n[pgbouncer\n[pgbouncer]\nno sign\n= x\nverbose = \xff\nverbose=1"
    assert mistakes({"x.ini": text}) == [
        "x.ini:1: stands before any [section]; begin with [pgbouncer]",
        "x.ini:2: is not a section of PgBouncer; did you mean pgbouncer?",
        "x.ini:3: is not a line `key = value`, a [section] or a comment",
        "x.ini:5: is not a line `key = value`, a [section] or a comment",
        "x.ini:6: is not a line `key = value`, a [section] or a comment",
        "x.ini:7: is not UTF-8 text",
    ]


def test_without_its_section() -> None:
    assert mistakes({"x.ini": "[databases]\na=\n"}) == [
        "x.ini: has no setting in a section [pgbouncer]"
    ]


def test_latin1_in_a_comment_is_nobodys_business() -> None:
    assert mistakes({"x.ini": b"; \xe4\n[pgbouncer]\nverbose = 0\n"}) == []


def test_included_files_go_on_with_the_section() -> None:
    ini = read(
        {
            "x.ini": "[pgbouncer]\n%include  a b.ini \nverbose=2",
            "a b.ini": "verbose=1\n[databases]\nx=\n%include c.ini",
            "c.ini": "y=\n[pgbouncer]",
        }
    )
    assert [(e.section, e.key, e.origin.file, e.origin.line) for e in ini.entries] == [
        ("pgbouncer", "verbose", "a b.ini", 1),
        ("databases", "x", "a b.ini", 3),
        ("databases", "y", "c.ini", 1),
        ("pgbouncer", "verbose", "x.ini", 3),
    ]


def test_included_files_that_can_not_be_read() -> None:
    assert mistakes({"x.ini": "[pgbouncer]\n\n%include y.ini"}) == [
        "x.ini:3: the included file y.ini can not be read: no such file"
    ]
    loop = mistakes({"x.ini": "[pgbouncer]\n%include x.ini"})
    assert loop == ["x.ini:2: files include each other too deeply"]
    deep = {f"{n}.ini": f"%include {n + 1}.ini" for n in range(MAX_INCLUDE)}
    assert mistakes({"x.ini": "[pgbouncer]\nverbose=1\n%include 0.ini", **deep}) == [
        "9.ini:1: files include each other too deeply"
    ]


RIGHT = {
    "": [],
    "host=a": [("host", "a")],
    "  host = a   port= 5 ": [("host", "a"), ("port", "5")],
    "password='it''s' host='a b'": [("password", "it's"), ("host", "a b")],
    "dbname='a=b' user=c=d": [("dbname", "a=b"), ("user", "c=d")],
    "dbname=a'b user=''''": [("dbname", "a'b"), ("user", "'")],
    "dbname=a\tb": [("dbname", "a\tb")],
    "dbname='x'; user=y": [("dbname", "x"), ("user", "y")],
    "dbname='x'user=y user=z": [("dbname", "x"), ("ser", "y"), ("user", "z")],
    "user=a user=b": [("user", "a"), ("user", "b")],
}
WRONG = [
    "host",
    "host=",
    "host=a port",
    "=x",
    "dbname='a",
    "dbname=''",
    "dbname='a''",
    "host port=5",
]


@pytest.mark.parametrize("text", RIGHT)
def test_connection_string(text: str) -> None:
    assert list(pairs(text)) == RIGHT[text]


@pytest.mark.parametrize("text", WRONG)
def test_wrong_connection_string(text: str) -> None:
    with pytest.raises(BadString):
        list(pairs(text))


@given(st.text(st.sampled_from("Q='\t b"), max_size=20))
def test_any_connection_string(text: str) -> None:
    """It has pairs of non-empty words, or a mistake that shows none of it."""
    said = ""
    try:
        assert all(key and value for key, value in pairs(text))
    except BadString as bad:
        said = bad.message + bad.hint
    assert "Q" not in said


def test_connection_strings_as_pgbouncer_has_them(pgbouncer: PgBouncer) -> None:
    """Those that it takes mean the same, those that it refuses are refused."""
    good = [text for text in RIGHT if "ser=y user=z" not in text]
    lines = "\n".join(f"db{index} = {text}" for index, text in enumerate(good))
    assert pgbouncer.start(f"[databases]\n{lines}\n[pgbouncer]\nauth_type = any")
    rows = {str(row["name"]): row for row in pgbouncer.console("SHOW DATABASES")}
    for index, text in enumerate(good):
        row, held = rows[f"db{index}"], dict(RIGHT[text])
        assert row["database"] == held.get("dbname", f"db{index}"), text
        assert row["host"] == held.get("host"), text
        assert row["force_user"] == held.get("user"), text
        assert int(str(row["port"])) == int(held.get("port", "5432")), text
    pgbouncer.stop()
    for text in [*WRONG, "dbname='x'user=y user=z"]:
        assert not pgbouncer.start(f"[databases]\ndb = {text}\n[pgbouncer]\nauth_type = any"), text


def test_files_as_pgbouncer_has_them(pgbouncer: PgBouncer) -> None:
    """A section that ends in the middle of a line, included files, numbers in octal."""
    (pgbouncer.folder / "more.ini").write_text("b = dbname=c\n[pgbouncer]\nlisten_backlog = 0x10\n")
    text = (
        f"[databases] a = host=x\n%include {pgbouncer.folder}/more.ini\n"
        "auth_type = any\ndefault_pool_size = 020\nquery_timeout = 1e3\n"
    )
    assert pgbouncer.start(text)
    names = {row["name"] for row in pgbouncer.console("SHOW DATABASES")}
    config = {row["key"]: row["value"] for row in pgbouncer.console("SHOW CONFIG")}
    assert {"a", "b"} <= names
    assert (config["default_pool_size"], config["listen_backlog"]) == ("16", "16")
    assert config["query_timeout"] == "1000"

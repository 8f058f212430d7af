"""Outlines: no value of a client's is ever in one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.core import outline

SECRETS = st.sampled_from(
    ["secret", "4711", "s$x$e", "it''s", "a\\'b", "--x", "/*x*/", "$$", '"q"']
)


def shown(sql: str) -> str:
    return outline.shown(sql.encode() + b"\0")


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELECT pg_advisory_lock(4711, 'a''b')", "SELECT pg_advisory_lock(?, ?)"),
        ("  SELECT\n\t1 -- 'x'\n;", "SELECT ? ;"),
        ("/* a /* 'b' */ c */ SELECT x", "SELECT x"),
        ("SELECT /* not closed", "SELECT"),
        ("SELECT 'not closed", "SELECT ?"),
        (r"SELECT E'a\'b', U&'c', x'ff', N'd'", "SELECT ?, ?, ?, ?"),
        (r"SELECT 'in doubt\', secret, 'b'", "SELECT ?"),
        ("DO $body$ BEGIN 'x'; $y$ END $body$", "DO ?"),
        ("SELECT $$a$$, $1, a1, 1.5e3, .5, b$2", "SELECT ?, $1, a1, ?, ?, b$2"),
        ('SELECT "a ""b"".c", schema.name', 'SELECT "a ""b"".c", schema.name'),
        ("SET app.tenant = acme", "SET app.tenant = ?"),
        ("SET app.tenant TO 'acme'; SELECT 1", "SET app.tenant TO ?; SELECT ?"),
        ("SET ROLE bob", "SET ROLE ?"),
        ("ALTER ROLE bob SET search_path TO acme, public", "ALTER ROLE bob SET search_path TO ?"),
        (
            "CREATE FUNCTION f() RETURNS int SET role = bob LANGUAGE sql AS $$SELECT 1$$",
            "CREATE FUNCTION f() RETURNS int SET role = ?",
        ),
        ("UPDATE t SET x='y' WHERE id=5", "UPDATE t SET x=? WHERE id=?"),
        (
            "INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET x = excluded.x RETURNING id",
            "INSERT INTO t VALUES (?) ON CONFLICT (id) DO UPDATE SET x = excluded.x RETURNING id",
        ),
        ("ALTER TABLE t SET SCHEMA s", "ALTER TABLE t SET SCHEMA s"),
        ("SELECT " + "x" * 300, "SELECT " + "x" * 190 + "..."),
    ],
)
def test_outline(sql: str, text: str) -> None:
    assert shown(sql) == text


def test_outline_of_a_parse() -> None:
    assert outline.shown(b"name\0SELECT 'x', $1\0\0\1\0\0\0\x17") == "SELECT ?, $1"


@given(st.lists(SECRETS, max_size=5), st.sampled_from(["'", "E'", "$$", "$a$"]))
def test_no_value_is_shown(secrets: list[str], quote: str) -> None:
    end = quote[-1] if quote.endswith("'") else quote
    values = [f"{quote}{s.replace('$$', '')}zebra{end}" for s in secrets]
    assert "zebra" not in shown(f"SELECT {', '.join(values)} FROM t WHERE a = b")


@given(st.text() | st.text("'\"$\\-/*;eE \nax1?"))
def test_any_text_ends(sql: str) -> None:
    assert len(shown(sql)) <= outline.SHOWN
    assert "'" not in outline.of(sql.encode() + b"\0").replace('"', "") or '"' in sql

"""What a text shows of changes of the schema."""

import pytest

from pooler.core import ddl


def read(sql: str) -> ddl.Change | None:
    """Read a Query."""
    return ddl.read(sql.encode() + b"\0")


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("ALTER TABLE a.Foo ADD COLUMN x int", "foo"),
        ('alter table if exists only "Bar" drop column c, add d int', "bar"),
        ("DROP TABLE IF EXISTS a, b.c CASCADE", "a c"),
        ("create or replace view v as select * from z", "v"),
        ("create table x.y (a int references q(id))", "y"),
        ("create table if not exists foo as select 1", "foo"),
        ("begin; alter table t rename to u; commit", "t u"),
        ("/* hi */ -- there\n ALTER TABLE x SET (fillfactor=70)", "x"),
        ("create function f() returns int language sql as $$select 1$$", "f"),
        ("alter materialized view mv rename to mv2", "mv mv2"),
        ("drop table a; drop view b", "a b"),
        ("ALTER TYPE mood ADD VALUE 'x'", ""),
        ("create schema s; create table s.t ()", ""),
        ("CREATE INDEX ON t (x)", "\0"),
        ("truncate a, b", "\0"),
        ("refresh materialized view mv", "\0"),
        ("create trigger tr before insert on t execute function f()", "\0"),
    ],
)
def test_what_a_change_is_about(sql: str, names: str) -> None:
    change = read(sql)
    assert change is not None
    assert change.words == frozenset(name.encode() for name in names.split(" ") if name)
    assert change.told
    assert change.guarded


@pytest.mark.parametrize(
    "sql",
    [
        "create unique index concurrently i on t(x)",
        "drop index concurrently i",
        "refresh materialized view concurrently mv",
        "reindex table concurrently t",
        "REINDEX (CONCURRENTLY) TABLE t",
        "alter table t detach partition p concurrently",
        "begin isolation level serializable; alter table t add a int; commit",
    ],
)
def test_what_must_not_be_touched(sql: str) -> None:
    change = read(sql)
    assert change is not None
    assert change.told
    assert not change.guarded
    assert not change.solitary


@pytest.mark.parametrize(
    ("sql", "solitary"),
    [
        ("VACUUM FULL t", True),
        ("vacuum full", True),
        ("VACUUM(FULL, ANALYZE) t;", True),
        ("vacuum (verbose, full true) t", True),
        ("CLUSTER t USING i", True),
        ('cluster "a;b"', True),
        ("CLUSTER", True),
        ("REINDEX TABLE t", True),
        ("reindex (verbose) database d", True),
        ("BEGIN; CLUSTER t; COMMIT", False),
        ("reindex table t; select 1", False),
        ("truncate t", False),
    ],
)
def test_what_may_need_a_transaction_of_its_own(sql: str, solitary: bool) -> None:
    change = read(sql)
    assert change is not None
    assert change.words == ddl.NOTHING
    assert change.told
    assert change.guarded
    assert change.solitary is solitary


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TEMP TABLE t (i int)",
        "create local temporary view t as select 1",
        "create table pg_temp.t (i int)",
        "drop database d",
        "alter role x set search_path to y",
        "ALTER DEFAULT PRIVILEGES in schema x grant select on tables to y",
        "create user mapping for x server y",
    ],
)
def test_what_is_no_part_of_the_schema(sql: str) -> None:
    change = read(sql)
    assert change is not None
    assert change.words == ddl.NOTHING
    assert not change.told
    assert not change.guarded


@pytest.mark.parametrize(
    "sql",
    [
        "select 'alter table x'",
        "DO $$ alter table x $$",
        "select created from t",
        "vacuum t",
        "vacuum (analyze, full off) t",
        "VACUUM ANALYZE full_table",
        "analyze t",
        "created",
    ],
)
def test_what_is_none(sql: str) -> None:
    assert read(sql) is None


def test_a_prepared_one() -> None:
    change = ddl.read(b"name\0ALTER TABLE zz ADD b int DEFAULT 7\0\0\0")
    assert change is not None
    assert change.words == {b"zz"}
    assert change.outline == "ALTER TABLE zz ADD b int DEFAULT ?"

"""currval and lastval: one's own value, or an error, never another session's."""

from collections.abc import Callable

import psycopg
import pytest

from tests.conftest import RunWithConfig

UNDEFINED = psycopg.errors.ObjectNotInPrerequisiteState


@pytest.mark.parametrize("begin", [False, True], ids=["alone", "in a block"])
@pytest.mark.parametrize("prepare", [False, True], ids=["parsed", "prepared"])
def test_nobody_sees_anothers(
    run_with_config: RunWithConfig,
    make_database: Callable[[], str],
    begin: bool,
    prepare: bool,
) -> None:
    database = make_database()
    pooler = run_with_config(databases={"*": {"pool_size": 1}})
    with (
        pooler.connect(dbname=database) as one,
        pooler.connect(dbname=database) as other,
    ):
        one.execute("CREATE SEQUENCE s START 77")
        ask = "SELECT currval('s') WHERE %s = 1"
        other.execute(ask, [0], prepare=prepare)  # nobody is asked for a value here
        for _ in range(2):
            assert one.execute("SELECT nextval('s')") is not None
            if begin:
                other.execute("BEGIN")
            with pytest.raises(UNDEFINED):
                other.execute(ask, [1], prepare=prepare)
            if begin:
                other.execute("ROLLBACK")


def test_ones_own_within_a_transaction(
    run_with_config: RunWithConfig, make_database: Callable[[], str]
) -> None:
    database = make_database()
    pooler = run_with_config(databases={"*": {"pool_size": 1}})
    with pooler.connect(dbname=database) as one, pooler.connect(dbname=database) as other:
        one.execute("CREATE TABLE t (id serial)")
        for number, client in enumerate((one, other, one), 1):
            with client.transaction():
                client.execute("INSERT INTO t DEFAULT VALUES")
                assert client.execute("SELECT lastval()").fetchone() == (number,)

"""A pooler is replaced by a new process, and its clients do not notice."""

import psycopg

from tests.adversity.witness import Census
from tests.support.postgres import PASSWORDS, Postgres
from tests.upgrade.conftest import StartLine, sessions


def test_an_idle_client_goes_on(start_line: StartLine) -> None:
    line = start_line()
    with line.connect() as client:
        client.execute("SET application_name = 'kept'")
        client.execute("SET my.own = 'mine'")
        old = line.pid
        line.upgrade()
        assert line.pid != old
        row = client.execute(
            "SELECT current_setting('application_name'), current_setting('my.own')"
        ).fetchone()
        assert row == ("kept", "mine")
        with line.connect() as another:
            assert another.execute("SELECT 1").fetchone() == (1,)
    assert isinstance(client, psycopg.Connection)


def test_two_upgrades_under_load(start_line: StartLine, postgres: Postgres, database: str) -> None:
    entry = {
        "host": postgres.host,
        "port": postgres.port,
        "dbname": database,
        "password": PASSWORDS["app"],
    }
    databases = {"*": entry}
    line = start_line(
        auth={"type": "trust"},
        databases={"*": {**entry, "pool_size": None}},
        defaults={"pool_size": 8},
        limits={"max_client_connections": 500},
        logging={"log_connections": False, "log_disconnections": False},
    )
    with Census(postgres, database, limit=8), sessions(line, listeners=10) as finish:
        for size in (7, 8):
            line.upgrade()
            line.reload({**line.config, "defaults": {"pool_size": size}, "databases": databases})
        tally = finish()
    assert tally.answers > 100
    assert tally.logins > 1
    assert tally.told > 20

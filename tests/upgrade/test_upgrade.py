"""A pooler is replaced by a new process, and its clients do not notice."""

import psycopg

from tests.upgrade.conftest import StartLine


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

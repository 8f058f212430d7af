"""What an operator has paused or disabled stays so in the process that takes over."""

import psycopg
import pytest

from tests.admin.conftest import ADMIN, ask
from tests.upgrade.conftest import StartLine


def test_a_pause_outlives_an_upgrade(start_line: StartLine) -> None:
    line = start_line(admin={"users": ADMIN})
    with line.connect() as client, line.connect(dbname="other") as other:
        client.execute("SELECT 1")
        ask(line, "PAUSE app TIMEOUT 600")
        ask(line, "DISABLE other")
        line.upgrade()
        assert {row["name"]: row["paused"] for row in ask(line, "SHOW DATABASES")}["app"] == 1
        with pytest.raises(psycopg.OperationalError, match='database "other" is disabled'):
            line.connect(dbname="other")
        assert other.execute("SELECT 2").fetchone() == (2,)
        ask(line, "RESUME app")
        assert client.execute("SELECT 3").fetchone() == (3,)

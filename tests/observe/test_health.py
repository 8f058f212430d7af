"""What the probes say, and why."""

import json
import signal
from typing import Any

import pytest

from tests.conftest import RunWithConfig
from tests.live.conftest import Login
from tests.live.test_command_line import page
from tests.support import rawclient as raw
from tests.support.pooler import Pooler
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until

NOWHERE = {"host": "127.0.0.1", "port": 1}
"""Nobody listens there."""


def probe(pooler: Pooler, path: str = "/readyz") -> tuple[int, dict[str, Any]]:
    status, body = page(pooler.metrics_port, path)
    return status, json.loads(body)


def test_it_works(pooler: Pooler) -> None:
    status, body = probe(pooler, "/healthz")
    assert status == 200
    assert (body["status"], body["reasons"]) == ("ok", [])
    assert body["uptime_seconds"] >= 0


def test_ready_before_anybody_has_come(pooler: Pooler) -> None:
    status, body = probe(pooler)
    assert (status, body["status"]) == (200, "ready")
    assert body["databases"] == {"*": {"status": "reachable", "optional": False}}


def test_a_database_that_nobody_has_asked_for(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(databases={"gone": NOWHERE})
    status, body = probe(pooler)
    assert (status, body["status"]) == (503, "not ready")
    assert body["reasons"] == [
        "database gone is unreachable: 127.0.0.1:1: Connection refused",
    ]
    assert body["databases"]["*"]["status"] == "reachable"


def test_an_optional_database(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(databases={"gone": {**NOWHERE, "optional": True}})
    status, body = probe(pooler)
    assert status == 200
    assert body["databases"]["gone"]["status"] == "unreachable"
    assert "refused" in body["databases"]["gone"]["error"]


def test_one_host_of_several_is_enough(run_with_config: RunWithConfig, postgres: Postgres) -> None:
    hosts = ["127.0.0.1:1", f"{postgres.host}:{postgres.port}"]
    assert probe(run_with_config(databases={"*": {"host": hosts}}))[0] == 200


@pytest.mark.parametrize("configured", [True, False], ids=["its-user", "a-clients-user"])
def test_a_refused_login(
    run_with_config: RunWithConfig, default_config: dict[str, Any], configured: bool
) -> None:
    """Of the user that is configured for a database, not of one who comes along."""
    server = default_config["databases"]["*"]
    database = {**server, "dbname": "does_not_exist"}
    if configured:
        database |= {"user": "app", "password": "app-password"}
    pooler = run_with_config(databases={"bad": database}, auth={"type": "trust"})
    with pytest.raises(Exception, match="does_not_exist"):
        pooler.connect(dbname="bad")
    status, body = probe(pooler)
    assert (status, body["databases"]["bad"]["status"]) == (
        (503, "refused") if configured else (200, "reachable")
    )


def test_one_that_shuts_down(run_with_config: RunWithConfig, login: Login) -> None:
    pooler = run_with_config()
    client = login(at=pooler)
    client.query("BEGIN")
    pooler._expects_end = True

    pooler.signal(signal.SIGTERM)
    wait_until(lambda: probe(pooler)[0] == 503)
    assert probe(pooler)[1]["reasons"] == ["the pooler is shutting down"]
    assert probe(pooler, "/healthz")[0] == 200
    client.send(raw.query("COMMIT"))
    assert pooler.wait() == 0

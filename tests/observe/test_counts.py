"""What is counted, against PostgreSQL: each figure for what caused it."""

import json
from typing import Any

import psycopg
import pytest

from tests.conftest import RunWithConfig
from tests.live.conftest import Login
from tests.live.test_command_line import page
from tests.session_state.test_pins import metric
from tests.support import rawclient as raw
from tests.support.pooler import Pooler
from tests.support.waiting import wait_until

QUIET = {"catalog_interval": 0}


def errors(pooler: Pooler, origin: str, sqlstate_class: str) -> float:
    return metric(pooler, "pooler_errors_total", origin=origin, **{"class": sqlstate_class})


def test_errors_by_whose_doing_they_are(run_with_config: RunWithConfig, login: Login) -> None:
    pooler = run_with_config(
        timeouts={"query_wait_timeout": 0.2},
        databases={"*": {"pool_size": 1}},
        session_state=QUIET,
    )
    client = login(at=pooler)
    client.query("SELECT 1/0")
    assert errors(pooler, "server", "22") == 1
    client.query("DO $$ BEGIN RAISE SQLSTATE 'ZZ001'; END $$")
    assert errors(pooler, "server", "other") == 1
    client.query("BEGIN")
    waiter = login(at=pooler)
    waiter.query("SELECT 1")  # a server did not become free
    assert errors(pooler, "pooler", "53") == 1
    waiter.send(b"?\0\0\0\4")
    wait_until(lambda: errors(pooler, "client", "08") == 1)


def test_logins_and_refusals(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config()
    for _ in range(2):
        pooler.connect().close()
    with pytest.raises(psycopg.OperationalError):
        pooler.connect(password="wrong")
    assert metric(pooler, "pooler_logins_total", user="app") == 2
    assert metric(pooler, "pooler_refused_clients_total", **{"class": "28"}) == 1
    opened = metric(pooler, "pooler_connections_opened_total", side="client", tls="none")
    assert opened == 2
    wait_until(
        lambda: (
            metric(pooler, "pooler_client_disconnections_total", reason="client terminated") == 2
        )
    )


def test_prepared_statements(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(databases={"*": {"pool_size": 1}}, session_state=QUIET)
    for _ in range(2):
        with pooler.connect(prepare_threshold=0) as connection:
            for n in range(5):
                connection.execute("SELECT %s::int", [n])
    assert metric(pooler, "pooler_client_parses_total") == 2
    assert metric(pooler, "pooler_server_parses_total") == 1
    assert metric(pooler, "pooler_binds_total") == 10
    assert metric(pooler, "pooler_prepared_hits_total") >= 9
    with pooler.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS shape")
        connection.execute("CREATE TABLE shape (a int)")
        connection.execute("DROP TABLE shape")
    assert metric(pooler, "pooler_schema_changes_total") >= 2


def test_times_are_counted_once_each(run_with_config: RunWithConfig, login: Login) -> None:
    pooler = run_with_config(databases={"*": {"pool_size": 1}}, session_state=QUIET)
    client = login(at=pooler)
    for sql in ("SELECT 1", "BEGIN", "SELECT pg_sleep(0.3)", "COMMIT"):
        client.query(sql)
    assert metric(pooler, "pooler_query_seconds_count") == 4
    assert metric(pooler, "pooler_transaction_seconds_count") == 2
    assert metric(pooler, "pooler_query_seconds_bucket", le="0.25") == 3
    assert metric(pooler, "pooler_transaction_seconds_bucket", le="0.25") == 1
    assert metric(pooler, "pooler_query_seconds_sum") >= 0.3
    assert metric(pooler, "pooler_connect_seconds_count") == 1
    assert metric(pooler, "pooler_assignments_total") == metric(pooler, "pooler_wait_seconds_count")


def test_cancels(run_with_config: RunWithConfig, login: Login) -> None:
    pooler = run_with_config()
    client = login(at=pooler)
    client.send(raw.query("SELECT pg_sleep(60)"))
    wait_until(lambda: metric(pooler, "pooler_servers", state="active") == 1)
    for key in (client.key, b"nobody's"):
        with raw.RawClient(pooler.host, pooler.port) as courier:
            courier.send(raw.cancel_request(client.pid, key))
    client.read_until()
    assert metric(pooler, "pooler_cancel_requests_total", user="app") == 1
    assert metric(pooler, "pooler_cancels_total", user="app") == 1
    wait_until(lambda: sample(pooler, "pooler_unknown_cancel_requests_total") == 1)


def sample(pooler: Pooler, name: str) -> float:
    lines = page(pooler.metrics_port, "/metrics")[1].splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def test_statements_over_http(run_with_config: RunWithConfig, login: Login) -> None:
    pooler = run_with_config(queries={"statistics": "on"}, session_state=QUIET)
    client = login(at=pooler)
    for n in range(3):
        client.query(f"SELECT {n}, 'secret'")
    status, body = page(pooler.metrics_port, "/api/statements")
    assert status == 200
    assert "secret" not in body
    found: Any = json.loads(body)
    names = [column["name"] for column in found["columns"]]
    rows = [dict(zip(names, row, strict=True)) for row in found["rows"]]
    (row,) = [row for row in rows if row["statement"] == "SELECT ?, ?"]
    assert (row["calls"], row["rows"], row["database"]) == (3, 3, "app")

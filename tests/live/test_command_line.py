"""The command line, what is logged, and the pages of the metrics server."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import pooler as package
from tests.conftest import RunWithConfig
from tests.live.conftest import Login
from tests.support import rawclient as raw
from tests.support.pooler import Config, merged
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.waiting import wait_until


def run(
    *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """`pooler` with these arguments, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "pooler", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={**clean_environment(), **(environment or {})},
    )


def clean_environment() -> dict[str, str]:
    """Ours without settings of the pooler."""
    import os

    return {name: value for name, value in os.environ.items() if not name.startswith("POOLER_")}


def write(folder: Path, config: Config) -> Path:
    """The configuration as a file."""
    path = folder / "pooler.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


# Commands that end by themselves.


def test_version() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout == f"pooler {package.__version__} ({package.build_kind()})\n"


def test_schema() -> None:
    done = run("schema")
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    assert "databases" in schema["properties"]


def test_check(tmp_path: Path, default_config: Config) -> None:
    path = write(tmp_path, default_config)
    done = run("check", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{path}: ok, 1 database(s)\n"


def test_check_says_all_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "pooler.yaml"
    path.write_text("databases:\n  app:\n    pool_size: abc\n    hots: x\nlimit: 1\n")
    done = run("check", path)
    assert (done.returncode, done.stdout) == (2, "")
    for line in (3, 4, 5):
        assert f"{path}:{line}" in done.stderr
    assert "host" in done.stderr
    assert run(path).stderr == done.stderr  # the same when it is to serve


@pytest.mark.parametrize("arguments", [["check", "/no/such/file"], ["--no-such-option"]])
def test_wrong_use(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_address_in_use(tmp_path: Path, default_config: Config, postgres: Postgres) -> None:
    listen = {"host": "127.0.0.1", "port": postgres.port}
    done = run(write(tmp_path, merged(default_config, {"listen": listen})))
    assert done.returncode == 1
    assert str(postgres.port) in done.stderr
    assert "Traceback" not in done.stderr


# Doctor.


def test_doctor_when_all_is_well(tmp_path: Path, postgres: Postgres) -> None:
    server = {"host": postgres.host, "port": postgres.port, "dbname": "app"}
    forced = {**server, "user": "alice", "password": PASSWORDS["alice"]}
    config = {
        "auth": {"type": "trust"},
        "databases": {"one": forced, "*": {"host": postgres.host, "port": postgres.port}},
    }
    done = run("doctor", write(tmp_path, config))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^ok    one as alice at .*: PostgreSQL \d+", done.stdout, re.M)
    assert re.search(r"^skip  \*: ", done.stdout, re.M)


def test_doctor_says_what_is_wrong(tmp_path: Path, postgres: Postgres) -> None:
    server = {
        "host": postgres.host,
        "port": postgres.port,
        "dbname": "app",
        "user": "alice",
        "password": PASSWORDS["alice"],
    }
    config = {
        "auth": {"type": "trust"},
        "databases": {
            "password": {**server, "password": "secret"},
            "database": {**server, "dbname": "nowhere"},
            "port": {**server, "port": 1},
            "size": {**server, "pool_size": 5000},
        },
    }
    done = run("doctor", write(tmp_path, config))
    assert done.returncode == 1
    for name, words in {
        "password": "the password in",
        "database": "does not exist",
        "port": "nothing listens there",
        "size": "max_connections",
    }.items():
        line = re.search(rf"^WRONG {name} as alice at .*$", done.stdout, re.M)
        assert line is not None, done.stdout
        assert words in line[0]
    assert "secret" not in done.stdout


# Without a file.


@contextmanager
def serving(*arguments: str, environment: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """A pooler without a file; its port, and that of its metrics (0: none)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pooler", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**clean_environment(), **environment},
    )
    ports = {"listening": 0, "metrics": 0}
    assert process.stderr is not None
    try:
        for line in process.stderr:
            event = json.loads(line)
            if event["event"] in ports:
                ports[event["event"]] = int(event["address"].rpartition(":")[2])
            if event["event"] == "ready":
                break
        yield ports["listening"], ports["metrics"]
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("how", ["option", "environment"])
def test_upstream(postgres: Postgres, how: str) -> None:
    """On the loopback interface it lets in whoever can reach the database with it."""
    url = postgres.dsn("app", "app")
    given = {"POOLER_LISTEN_PORT": "1", "POOLER_METRICS_LISTEN": "127.0.0.1:1"}
    arguments = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]  # these win
    if how == "option":
        arguments += ["--upstream", url]
    else:
        given["POOLER_UPSTREAM"] = url
    with (
        serving(*arguments, environment=given) as (port, metrics),
        psycopg.connect(f"host=127.0.0.1 port={port} user=app dbname=app") as connection,
    ):
        assert connection.execute("SELECT current_user, 1").fetchone() == ("app", 1)
        assert page(metrics, "/healthz")[0] == 200


def test_settings_from_the_environment(postgres: Postgres) -> None:
    given = {
        "POOLER_LISTEN_PORT": "0",
        "POOLER_DEFAULTS_POOL_SIZE": "3",
        "POOLER_METRICS_LISTEN": "127.0.0.1:0",
        "POOLER_UPSTREAM": postgres.dsn("app", "app"),
    }
    with serving(environment=given) as (port, metrics):
        with psycopg.connect(f"host=127.0.0.1 port={port} user=app dbname=app") as connection:
            connection.execute("SELECT 1")
        assert sample(metrics, "pooler_pool_size", database="app", user="app") == 3


# Logs.


def test_logs_show_no_password_and_no_query(
    run_with_config: RunWithConfig, login: Login, postgres: Postgres
) -> None:
    pooler = run_with_config(logging={"level": "debug"})
    client = login(at=pooler)
    client.query("SELECT 'secret of a query'")
    client.send(
        raw.parse("SELECT $1::text, 1/0"),
        raw.bind([b"secret of a parameter"]),
        raw.execute(),
        raw.sync(),
    )
    client.read_until()
    with pytest.raises(psycopg.OperationalError):
        pooler.connect(password="secret of a typo")
    users = {"app": {"password": "secret of a new one"}}
    assert pooler.reload(merged(pooler.config, {"users": users}))["event"] == "reloaded"
    client.send(b"?secret of garbage")
    assert client.is_closed()
    pooler.terminate()
    assert pooler.log_contains(event="client closed", reason="protocol violation")
    assert "secret" not in pooler.log_text
    for password in PASSWORDS.values():
        assert password not in pooler.log_text


def test_one_line_for_each_connection(run_with_config: RunWithConfig, login: Login) -> None:
    pooler = run_with_config()
    client = login(application_name="x", at=pooler)
    client.query("SELECT 1")
    client.send(raw.terminate())
    closed = pooler.wait_for_log(event="client closed")
    opened = pooler.wait_for_log(event="client connected")
    for event in (opened, closed):
        assert (event["user"], event["database"]) == ("app", "app")
        assert event["address"].startswith("127.0.0.1:")
    assert closed["reason"] == "client terminated"
    quiet = run_with_config(
        logging={"log_connections": False, "log_disconnections": False, "log_pooler_errors": False}
    )
    other = login(at=quiet)
    other.query("SELECT 1")
    other.send(raw.terminate())
    assert other.is_closed()
    with pytest.raises(psycopg.OperationalError):
        quiet.connect(password="wrong")
    assert quiet.terminate() == 0
    assert {event["event"] for event in quiet.log} <= {
        *("starting", "listening", "metrics", "ready", "stopping", "stopped")
    }


def test_text_for_people(
    run_with_config: RunWithConfig, tmp_path: Path, postgres: Postgres
) -> None:
    """`auto` is JSON where standard error is no terminal; `text` is text."""
    path = write(
        tmp_path,
        {
            "databases": {"*": {"host": postgres.host, "port": postgres.port}},
            "auth": {"type": "trust"},
            "listen": {"port": 0},
            "logging": {"format": "text"},
        },
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pooler", path],
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "ready" in line:
            break
    process.terminate()
    process.communicate(timeout=10)
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} info    starting  version=.*\n", lines[0])


# Pages.


def page(port: int, path: str) -> tuple[int, str]:
    """Status and body of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def sample(port: int, name: str, **labels: str) -> float:
    """The value of one sample of /metrics."""
    status, body = page(port, "/metrics")
    assert status == 200
    (value,) = [
        found.value
        for family in text_string_to_metric_families(body)
        for found in family.samples
        if found.name == name and found.labels == labels
    ]
    return float(value)


def test_metrics_tell_the_truth(run_with_config: RunWithConfig, login: Login) -> None:
    pooler = run_with_config(
        databases={"*": {"pool_size": 2}},
        session_state={"catalog_interval": 0},  # our own queries are counted, too
    )
    clients = [login(at=pooler) for _ in range(4)]
    for _ in range(10):
        clients[0].query("SELECT 1")
    clients[0].query("BEGIN")
    clients[1].query("BEGIN")
    clients[2].send(raw.query("SELECT 1"))
    where: dict[str, Any] = {"database": "app", "user": "app"}

    def value(name: str, **labels: str) -> float:
        return sample(pooler.metrics_port, name, **labels)

    wait_until(lambda: value("pooler_clients", **where, state="waiting") == 1)
    assert value("pooler_clients", **where, state="active") == 2
    assert value("pooler_clients", **where, state="idle") == 1
    assert value("pooler_servers", **where, state="active") == 2
    assert value("pooler_servers", **where, state="login") == 0
    assert value("pooler_client_connections") == 4
    assert value("pooler_queries_total", **where) == 12
    assert value("pooler_transactions_total", **where) == 10
    assert value("pooler_oldest_wait_seconds", **where) > 0
    assert value("pooler_received_bytes_total", **where) > 0


def test_probes(run_with_config: RunWithConfig, own_postgres: Postgres, login: Login) -> None:
    pooler = run_with_config(
        databases={"*": {"host": own_postgres.host, "port": own_postgres.port}}
    )
    login(at=pooler).query("SELECT 1")
    for path in ("/healthz", "/readyz"):
        assert page(pooler.metrics_port, path)[0] == 200
    assert page(pooler.metrics_port, "/nothing")[0] == 404
    busy = login(at=pooler)
    own_postgres.stop("immediate")
    busy.send(raw.query("SELECT 1"))
    wait_until(lambda: page(pooler.metrics_port, "/readyz")[0] == 503)
    assert page(pooler.metrics_port, "/healthz")[0] == 200
    assert "refused" in page(pooler.metrics_port, "/readyz")[1]
    own_postgres.start()
    wait_until(lambda: page(pooler.metrics_port, "/readyz")[0] == 200)

"""PgBouncer's Prometheus exporter, unchanged, scrapes our console."""

import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.admin.conftest import STATS
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS

MODULE = "github.com/prometheus-community/pgbouncer_exporter"
VERSION = "v0.12.1"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def exporter() -> Path:
    """The exporter's binary: the system's, or built once and kept in the user's cache."""
    for name in ("pgbouncer_exporter", "prometheus-pgbouncer-exporter"):
        found = shutil.which(name)
        if found:
            return Path(found)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pooler-tests"
    binary = cache / f"pgbouncer_exporter-{VERSION}"
    if binary.exists():
        return binary
    if shutil.which("go") is None:
        pytest.skip("NOT TESTED against the exporter: it is not installed, and there is no Go")
    folder = cache / "pgbouncer_exporter"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text(f"module build\n\ngo 1.24\n\nrequire {MODULE} {VERSION}\n")
    new = folder / f"new-{os.getpid()}"
    built = subprocess.run(
        ["go", "build", "-mod=mod", "-o", new, MODULE],
        cwd=folder,
        env={**os.environ, "GOWORK": "off"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if built.returncode != 0:
        pytest.skip(
            f"NOT TESTED against the exporter, which cannot be built: {built.stderr[-500:]}"
        )
    new.replace(binary)
    return binary


@contextmanager
def running(binary: Path, pooler: Pooler) -> Iterator[str]:
    """The exporter at work; the URL of its metrics."""
    url = f"postgres://{STATS}:{PASSWORDS[STATS]}@{pooler.host}:{pooler.port}/pgbouncer"
    with subprocess.Popen(
        [
            binary,
            f"--pgBouncer.connectionString={url}?sslmode=disable",
            "--web.listen-address=127.0.0.1:0",
        ],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                found = re.search(r"Listening on.*address=(\S+)", line)
                if found:
                    yield f"http://{found[1]}/metrics"
                    return
            pytest.fail("the exporter ended")
        finally:
            process.kill()


def scrape(url: str) -> Samples:
    """Every sample, by name and labels."""
    with urllib.request.urlopen(url, timeout=30) as response:
        text = response.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.timeout(700)
def test_the_exporter_finds_what_it_looks_for(exporter: Path, operated: Pooler) -> None:
    with operated.connect(application_name="shop") as client:
        client.execute("BEGIN")
        for _ in range(10):
            client.execute("SELECT 1")
        with running(exporter, operated) as url:
            found = scrape(url)
        client.execute("COMMIT")

    def value(name: str, **labels: str) -> float:
        return found[f"pgbouncer_{name}", frozenset(labels.items())]

    names = {name for name, _ in found}
    pool = {"database": "app", "user": "app"}
    assert value("up") == 1
    assert any(name == "pgbouncer_version_info" for name in names)
    assert value("pools_client_active_connections", **pool) == 1
    assert value("pools_server_active_connections", **pool) == 1
    assert value("pools_client_waiting_connections", **pool) == 0
    assert value("pools_client_maxwait_seconds", **pool) == 0
    assert value("stats_totals_queries_pooled_total", database="app") >= 10
    assert value("stats_totals_received_bytes_total", database="app") > 100
    assert value("config_max_client_connections") == 1000
    assert value("config_max_user_connections") == 0
    assert value("used_clients") == 1
    assert value("pools") == 1
    state = {"application_name": "shop", "state": "active"}
    assert value("client_connections", **pool, **state) == 1
    databases = [dict(labels) for name, labels in found if name == "pgbouncer_databases_pool_size"]
    assert [labels["name"] for labels in databases] == ["app"]
    wanted = {
        f"pgbouncer_pools_{name}"
        for name in (
            *("client_active_cancel_connections", "client_waiting_cancel_connections"),
            *("server_active_cancel_connections", "server_being_canceled_connections"),
            *("server_idle_connections", "server_used_connections", "server_testing_connections"),
            "server_login_connections",
        )
    }
    wanted |= {
        f"pgbouncer_stats_totals_{name}"
        for name in (
            *("queries_duration_seconds_total", "sent_bytes_total", "client_wait_seconds_total"),
            *("sql_transactions_pooled_total", "server_in_transaction_seconds_total"),
            *("client_parses_total", "server_parses_total", "binds_total"),
            "server_assignments_total",
        )
    }
    wanted |= {
        f"pgbouncer_{name}"
        for name in (
            *("databases", "users", "free_clients", "login_clients", "free_servers"),
            *("used_servers", "cached_dns_names", "cached_dns_zones", "in_flight_dns_queries"),
            *("databases_reserve_pool", "databases_max_connections", "databases_paused"),
            *("databases_current_connections", "databases_disabled"),
        )
    }
    assert wanted - names == set()

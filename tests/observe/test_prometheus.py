"""deploy/prometheus and deploy/grafana, by Prometheus' own tools and with a real Prometheus."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pooler.metrics.families import POOLS, SERVICE
from tests.conftest import RunWithConfig
from tests.live.conftest import Login
from tests.support import rawclient as raw
from tests.support.pooler import merged
from tests.support.postgres import Postgres

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = Path(__file__).with_name("rules.yml")

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")),
    reason="Prometheus is not installed: apt install prometheus",
)


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_prometheus
def test_rules_and_their_tests(tmp_path: Path) -> None:
    folder = DEPLOY / "prometheus"
    promtool("check", "config", folder / "prometheus.yml")
    promtool("check", "rules", folder / "alerts.yml", folder / "recording.yml")
    tests = tmp_path / "rules.yml"
    tests.write_text(RULES.read_text().replace("FOLDER", str(folder)))
    promtool("test", "rules", tests)


def _known() -> set[str]:
    names = {"pooler_build_info"}
    for family in (*SERVICE, *POOLS):
        ends = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        names.update(family.name + end for end in ends)
    return names


def _asked(text: str) -> set[str]:
    return set(re.findall(r"(?<![:\w])pooler_\w+", re.sub(r"\w+:pooler_\w+:\w+", "", text)))


@pytest.mark.parametrize("name", ["alerts.yml", "recording.yml"])
def test_rules_ask_for_what_there_is(name: str) -> None:
    groups = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        assert _asked(rule["expr"]) <= _known(), rule


def test_the_grafana_dashboard_asks_for_what_there_is() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "pooler.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 20
    for panel in panels:
        for target in panel.get("targets", ()):
            assert _asked(target["expr"]) <= _known(), panel["title"]
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y)
        for at in places
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))  # nothing lies on anything else
    for path in (DEPLOY / "grafana" / "provisioning").rglob("*.yml"):
        assert yaml.safe_load(path.read_text())["apiVersion"] == 1


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/{path}", timeout=30) as answer:
            return json.loads(answer.read())["data"]

    def firing(self) -> set[str]:
        return {
            alert["labels"]["alertname"]
            for alert in self.get("alerts")["alerts"]
            if alert["state"] == "firing"
        }


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[Prometheus]:
    """A Prometheus with our rules, but quick: seconds instead of minutes."""
    for name in ("alerts.yml", "recording.yml"):
        text = (DEPLOY / "prometheus" / name).read_text()
        text = re.sub(r"for: \d+m", "for: 1s", text)
        (folder / name).write_text(re.sub(r"\[(5m|1h)\]", "[5s]", text))
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    log = folder / "prometheus.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
            ],
            stdout=file,
            stderr=file,
        )
    try:
        found = _eventually(lambda: re.search(r"Listening on.*:(\d+)\n", log.read_text()))
        yield Prometheus(int(found[1]))
    finally:
        process.terminate()
        process.wait(30)


def _eventually(look: Callable[[], Any]) -> Any:
    end = time.monotonic() + 40
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited 40 s for {look}")


@needs_prometheus
def test_alerts_fire_and_clear(
    run_with_config: RunWithConfig, own_postgres: Postgres, login: Login, tmp_path: Path
) -> None:
    """Clients that wait, a server that is down, a file that is wrong: each noticed, each over."""
    pooler = run_with_config(
        databases={
            "*": {"host": own_postgres.host, "port": own_postgres.port, "pool_size": 1},
        }
    )
    folder = tmp_path / "prometheus"
    folder.mkdir()
    with prometheus(folder, pooler.metrics_port) as seen:
        holder, waiter = login(at=pooler), login(at=pooler)
        for _ in range(50):
            holder.query("SELECT 1")
        _eventually(lambda: seen.get("query?query=pooler_transactions_total")["result"])
        assert seen.firing() == set()

        holder.query("BEGIN")
        waiter.send(raw.query("SELECT 1"))
        _eventually(lambda: "PoolerPoolSaturated" in seen.firing())
        holder.query("COMMIT")
        waiter.read_until()
        _eventually(lambda: "PoolerPoolSaturated" not in seen.firing())

        good = pooler.config
        pooler.reload(merged(good, {"defaults": {"pool_size": "many"}}))
        own_postgres.stop("immediate")
        waiter.send(raw.query("SELECT 1"))
        _eventually(lambda: {"PoolerServersDown", "PoolerReloadFailed"} <= seen.firing())
        pooler.reload(good)
        own_postgres.start()
        _eventually(lambda: not {"PoolerServersDown", "PoolerReloadFailed"} & seen.firing())

        (target,) = seen.get("targets")["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")

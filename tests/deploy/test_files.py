"""The files under deploy/ and docker-compose.yml say what the pooler understands.

They are read, not run: neither a container engine nor systemd is needed for the tests.
"""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pooler.config import load
from pooler.core.settings import Host

ROOT = Path(__file__).parents[2]


def test_compose() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    ours = services["pooler"]
    config = load(None, environ={k: str(v) for k, v in ours["environment"].items()})
    route = config.resolve("postgres", "postgres")
    assert route is not None
    assert route.target.hosts == (Host("postgres", 5432),)
    assert config.auth.type.value == "scram-sha-256"
    assert config.secret("postgres") == services["postgres"]["environment"]["POSTGRES_PASSWORD"]
    published = {int(port.rpartition(":")[2]) for port in ours["ports"]}
    assert config.metrics.address is not None
    assert published == {config.listen.port, config.metrics.address[1]}
    assert (ROOT / ours["build"]["dockerfile"]).is_file()
    assert int(ours["stop_grace_period"].rstrip("s")) > config.timeouts.shutdown_timeout


def test_compose_fits_together() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name, service in services.items():
        assert re.fullmatch(r"[\w./-]+:v?\d[\w.]*", service["image"]) or "build" in service, name
        for other, how in _needs(service):
            healthy = "healthcheck" in services[other] or "build" in services[other]
            assert how != "service_healthy" or healthy
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
    load = services["load"]["environment"]
    assert (load["PGHOST"], load["PGPORT"]) == ("pooler", 6432)


def test_compose_mounts_what_prometheus_and_grafana_look_for() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounts = {
        target: ROOT / source
        for service in services.values()
        for source, target, _ in (volume.split(":") for volume in service.get("volumes", ()))
    }
    prometheus = mounts["/etc/prometheus"]
    scraped = yaml.safe_load((prometheus / "prometheus.yml").read_text())
    for rules in scraped["rule_files"]:
        assert (prometheus / rules).is_file()
    assert scraped["scrape_configs"][0]["static_configs"][0]["targets"] == ["pooler:9127"]
    provisioning = mounts["/etc/grafana/provisioning"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards/pooler.yml").read_text())["providers"]
    dashboards = mounts[provider["options"]["path"]]
    assert (dashboards / "pooler.json").is_file()


def _needs(service: dict[str, Any]) -> Iterator[tuple[str, str]]:
    needed = service.get("depends_on", {})
    for other in needed:
        yield other, needed[other]["condition"] if isinstance(needed, dict) else ""


def test_dockerfile() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", " ")
    environ = {
        name: value
        for line in re.findall(r"^ENV (.*)$", text, re.M)
        for name, value in (word.split("=", 1) for word in shlex.split(line))
        if name.startswith("POOLER_")
    }
    upstream = "postgresql://app:secret@db/app"
    config = load(
        None, environ={**environ, "POOLER_UPSTREAM": upstream, "POOLER_AUTH_TYPE": "trust"}
    )
    ports = {int(port) for port in re.findall(r"^EXPOSE (.*)$", text, re.M)[0].split()}
    assert config.metrics.address is not None
    assert ports == {config.listen.port, config.metrics.address[1]}
    for copied in re.findall(r"^COPY (?!--from)(.*)$", text, re.M):
        for source in copied.split()[:-1]:
            assert (ROOT / source).exists(), source
    assert re.search(r"^USER \d+", text, re.M)


UNIT = ROOT / "deploy/pooler.service"


def test_systemd_unit() -> None:
    text = UNIT.read_text()
    limit = re.search(r"^TimeoutStopSec=(\d+)$", text, re.M)
    assert limit is not None
    config = load(None, environ={"POOLER_UPSTREAM": "postgresql://db/app"})
    assert int(limit[1]) > config.timeouts.shutdown_timeout


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """With a program that is there in place of ours."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed: the unit was not verified")
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.M)
    unit = tmp_path / "pooler.service"
    unit.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd can not judge a unit by its file: its sandbox was not judged")
    assert done.returncode == 0, done.stdout

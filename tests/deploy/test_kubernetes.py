"""The Kubernetes manifests and the Helm chart: right by Kubernetes' own schemas, and by ours."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import pooler
from pooler.config import Config, load
from pooler.metrics.families import POOLS

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/pooler"
MANIFESTS = ROOT / "deploy/kubernetes"
OLDEST = "1.30"
"""Of Kubernetes, as the chart says."""

TEMPLATE = ("template", "pooler", str(CHART), "--kube-version", OLDEST)

Manifest = dict[str, Any]

HELM = shutil.which("helm")
needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed: the chart was not run")


def helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """The tool, with nothing of this machine's."""
    assert HELM is not None
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=60)


def rendered(*arguments: str, values: Manifest | None = None, folder: Path | None = None) -> str:
    """What the chart makes of these values."""
    extra: list[str] = []
    if values is not None and folder is not None:
        file = folder / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        extra = ["--values", str(file)]
    done = helm(*TEMPLATE, *extra, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifests(text: str) -> list[Manifest]:
    """The documents of a stream."""
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(kind: str, documents: list[Manifest]) -> Manifest:
    """The only one of a kind, or the first."""
    return next(document for document in documents if document["kind"] == kind)


def validated(documents: list[Manifest]) -> None:
    """Held to Kubernetes' schemas, in which nothing unknown is allowed."""
    validator = pytest.importorskip("kubernetes_validate")
    for document in documents:
        if "keda" not in document["apiVersion"]:  # whose schema does not come with Kubernetes
            for version in (OLDEST, validator.latest_version()):
                validator.validate(document, version, strict=True)


def containers(pod: Manifest) -> Iterator[Manifest]:
    """All of a pod's."""
    yield from pod.get("initContainers", ())
    yield from pod["containers"]


def configuration(documents: list[Manifest], folder: Path) -> Config:
    """What the pods would load, with their Secrets beside it."""
    text = of_kind("ConfigMap", documents)["data"]["pooler.yaml"]
    for document in documents:
        if document["kind"] == "Secret":
            for name, content in document["stringData"].items():
                (folder / name).write_text(content)
    file = folder / "pooler.yaml"
    file.write_text(text.replace("/etc/pooler-secrets/userlist", str(folder)))
    return load(str(file), environ={})


# What is committed.


@pytest.mark.parametrize("name", sorted(path.name for path in MANIFESTS.glob("*.yaml")))
def test_manifests_fit_kubernetes(name: str) -> None:
    documents = manifests((MANIFESTS / name).read_text())
    assert documents
    validated(documents)


@pytest.mark.parametrize("name", ["pooler.yaml", "sidecar.yaml"])
def test_manifests_say_what_the_pooler_understands(name: str, tmp_path: Path) -> None:
    documents = manifests((MANIFESTS / name).read_text())
    config = configuration(documents, tmp_path)
    pod = of_kind("Deployment", documents)["spec"]["template"]["spec"]
    ours = next(c for c in containers(pod) if c["name"] == "pooler")
    ports = {port["name"]: port["containerPort"] for port in ours["ports"]}
    assert config.metrics.address is not None
    assert ports["metrics"] == config.metrics.address[1]
    assert config.listen.port == 6432
    security = ours["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert {probe for probe in ours if probe.endswith("Probe")} == {
        *("startupProbe", "livenessProbe", "readinessProbe"),
    }
    delay = ours["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > delay + config.timeouts.shutdown_timeout
    (mount,) = (m for m in ours["volumeMounts"] if m["mountPath"] == "/etc/pooler")
    assert "subPath" not in mount  # a mounted file would never change
    assert ours["args"] == ["/etc/pooler/pooler.yaml"]


@needs_helm
def test_the_committed_manifests_are_the_charts() -> None:
    """As their heading says."""
    text = (MANIFESTS / "pooler.yaml").read_text()
    heading, _, body = text.partition("---\n")
    assert all(line.startswith("#") for line in heading.splitlines() if line)
    values = str(ROOT / "deploy/helm/values-example.yaml")
    assert manifests(body) == manifests(rendered("--values", values))


# The chart.

USERS: Manifest = {"userlist": '"app" "secret"\n'}
CASES: dict[str, Manifest] = {
    "least": USERS,
    "hpa": {**USERS, "autoscaling": {"kind": "hpa"}},
    "keda": {**USERS, "autoscaling": {"kind": "keda"}},
    "alone": {
        **USERS,
        **{"replicas": 1, "peers": False, "podDisruptionBudget": False},
        "networkPolicy": {"enabled": False},
        "rollout": {"surge": 0},
    },
    "rich": {
        "existingSecret": "users",
        "secrets": ["certificates"],
        "imagePullSecrets": [{"name": "registry"}],
        "service": {"type": "LoadBalancer", "port": 5432, "annotations": {"a": "b"}},
        "tolerations": [{"operator": "Exists"}],
        "nodeSelector": {"disk": "ssd"},
        "affinity": {"podAntiAffinity": {}},
        "config": {
            "databases": {"app": {"host": "db"}},
            "tls": {
                "cert_file": "/etc/pooler-secrets/certificates/tls.crt",
                "key_file": "/etc/pooler-secrets/certificates/tls.key",
            },
        },
    },
}


@needs_helm
@pytest.mark.parametrize("name", CASES)
def test_chart_fits_kubernetes(name: str, tmp_path: Path) -> None:
    validated(manifests(rendered(values=CASES[name], folder=tmp_path)))


@needs_helm
def test_lint(tmp_path: Path) -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_helm
@pytest.mark.parametrize(
    ("values", "share"),
    [
        ({}, 30),  # (100 - 10) / (2 + 1)
        ({"replicas": 8}, 10),
        ({"replicas": 8, "rollout": {"surge": 0}}, 11),
        ({"postgres": {"maxConnections": 500, "reserved": 20}, "replicas": 3}, 120),
        ({"autoscaling": {"kind": "hpa", "max": 5}}, 15),  # whatever `replicas` says
    ],
)
def test_share_of_max_connections(values: Manifest, share: int, tmp_path: Path) -> None:
    """All replicas together, and one that still drains, never ask for more than there is."""
    documents = manifests(rendered(values={**USERS, **values}, folder=tmp_path))
    assert configuration(documents, tmp_path).limits.max_server_connections == share


@needs_helm
def test_values_of_ones_own_are_merged(tmp_path: Path) -> None:
    values = {
        **USERS,
        "config": {
            "databases": {"app": {"host": "db.internal", "pool_size": 7}},
            "timeouts": {"query_timeout": "30s", "shutdown_timeout": 1},
            "limits": {"max_client_connections": 5, "max_server_connections": 10_000},
        },
    }
    documents = manifests(rendered(values=values, folder=tmp_path))
    config = configuration(documents, tmp_path)
    assert config.databases["app"].pool_size == 7
    assert config.timeouts.query_timeout == 30
    assert config.timeouts.shutdown_timeout == 60  # the chart's, since the pod's grace hangs on it
    assert config.limits.max_client_connections == 5
    assert config.limits.max_server_connections == 30
    assert config.secret("app") == "secret"
    assert config.peers.hosts == ("pooler-peers:6432",)
    headless = [d for d in documents if d.get("spec", {}).get("clusterIP") == "None"]
    assert [service["metadata"]["name"] for service in headless] == ["pooler-peers"]


@needs_helm
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replica": 3}, "replica"),
        ({"replicas": "many"}, "replicas"),
        ({"autoscaling": {"kind": "vertical"}}, "kind"),
        ({"config": {"databases": {}}}, "databases"),
        ({"config": {"databases": {"a": {}}, "listen": {"port": 1}}}, "listen"),
        ({"replicas": 200}, "too few for 201 replicas"),
    ],
)
def test_wrong_values_are_refused(values: Manifest, words: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    if "config" in values:  # in place of the chart's own, which it would be merged with
        values["config"]["databases"].setdefault("*", None)
    file.write_text(yaml.safe_dump(values))
    done = helm(*TEMPLATE, "--values", str(file))
    assert done.returncode != 0
    assert words in done.stderr


def test_values_fit_their_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(values, schema)
    assert set(values) | {"global", "nameOverride"} == set(schema["properties"])


def test_metric_of_the_autoscaler_is_one_of_ours() -> None:
    text = (CHART / "templates/autoscaling.yaml").read_text()
    family = next(family for family in POOLS if family.name == "pooler_clients")
    assert "state" in family.labels
    assert "pooler_clients{" in text


def test_versions_go_together() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == pooler.__version__
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"

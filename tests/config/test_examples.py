"""The example files load, and show the defaults that are the real ones."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from pooler.config import Config, Database, User, json_schema, load
from pooler.config.model import Section, Settings
from pooler.core.settings import PoolMode
from tests.config.conftest import resolved
from tests.config.test_schema import accepts
from tests.tls.certificates import Authority

EXAMPLES = Path(__file__).parents[2] / "config"


@pytest.mark.parametrize("name", ["minimal.yaml", "pooler.yaml"])
def test_example_loads_and_fits_the_schema(name: str) -> None:
    path = EXAMPLES / name
    config = load(str(path), environ={"APP_PASSWORD": "secret"})
    assert resolved(config, "any", "app").target.password == "secret"
    schema = json_schema()
    assert accepts(schema, yaml.safe_load(path.read_text()), schema)


def test_full_example_shows_every_setting_with_its_default(tmp_path: Path) -> None:
    text = (EXAMPLES / "pooler.yaml").read_text()
    live = re.sub(r"^( +)# (\w+:( \S.*)?)$", r"\1\2", text, flags=re.MULTILINE)
    data = yaml.safe_load(live)
    defaults = Settings().model_dump(mode="json", exclude={"databases", "users"})
    assert list(data) == list(Settings.model_fields)
    assert data["workers"] == defaults.pop("workers")
    for section, keys in defaults.items():
        assert data[section] == keys | ({"host": "127.0.0.1"} if section == "listen" else {}), (
            section
        )
    for entry, model in ((data["databases"]["app"], Database), (data["users"]["app"], User)):
        assert set(entry) == set(model.model_fields)
        for key, field in model.model_fields.items():
            default = field.examples[0] if field.examples else field.default
            default = getattr(default, "value", default)
            if isinstance(default, Section):
                default = {
                    name: getattr(inner.examples[0], "value", inner.examples[0])
                    for name, inner in type(default).model_fields.items()
                    if inner.examples
                }
            if key not in ("host", "password"):
                assert entry[key] == default, key
    assert data["databases"]["app"]["host"] == "127.0.0.1"


CASES = sorted(
    path.name
    for path in EXAMPLES.glob("*.yaml")
    if path.name not in ("minimal.yaml", "pooler.yaml")
)
SECRETS = {f"{user}_PASSWORD": f"{user.lower()}-secret" for user in ("APP", "LOOKUP", "REPORTS")}


@pytest.mark.parametrize("name", CASES)
def test_case_loads_and_fits_the_schema(name: str, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "config")
    authority = Authority(tmp_path / "config", "ca")
    authority.issue("pooler.internal", ["pooler.internal"], file="server")
    path = tmp_path / "config" / name
    config = load(str(path), environ=SECRETS)
    assert config.metrics.address is not None
    schema = json_schema()
    assert accepts(schema, yaml.safe_load(path.read_text()), schema)
    assert (EXAMPLES / name).read_text().startswith("#")


def case(name: str) -> Config:
    """An example that names no file."""
    return load(str(EXAMPLES / name), environ=SECRETS)


def test_cases_do_what_they_say() -> None:
    sidecar = resolved(case("sidecar.yaml"), "app", "whoever").target
    assert (sidecar.user, sidecar.password) == ("app", "app-secret")
    tenants = case("multi-tenant.yaml")
    assert resolved(tenants, "big-tenant", "u").pool.max_db_server_connections == 40
    small = resolved(tenants, "small", "u")
    assert (small.pool.max_db_server_connections, small.target.dbname) == (10, "small")
    reads = resolved(case("read-write-and-read-only.yaml"), "app_ro", "app").target
    assert reads.dbname == "app"
    assert dict(reads.startup) == {"default_transaction_read_only": "on"}
    sessions = case("session-mode-for-one.yaml")
    assert resolved(sessions, "app", "app").session.pool_mode is PoolMode.TRANSACTION
    assert resolved(sessions, "app", "reports").session.pool_mode is PoolMode.SESSION
    assert resolved(sessions, "app_session", "app").session.pool_mode is PoolMode.SESSION
    lookup = case("auth-query.yaml").lookup("app")
    assert lookup is not None
    assert (lookup.user, lookup.database) == ("pooler", "app")

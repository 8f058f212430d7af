"""The example files load, and show the defaults that are the real ones."""

import re
from pathlib import Path

import pytest
import yaml

from pooler.config import Database, User, json_schema, load
from pooler.config.model import Section, Settings
from tests.config.conftest import resolved
from tests.config.test_schema import accepts

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

"""The JSON Schema for editors takes what the loader takes and refuses what it refuses."""

import re
from typing import Any

import pytest
import yaml

from pooler.config import json_schema
from pooler.config.model import Settings

KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def is_a(kind: str, value: Any) -> bool:
    """Whether a value is of a JSON type; true and false are no numbers."""
    return isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def accepts(schema: Any, value: Any, root: dict[str, Any]) -> bool:
    """Whether `value` fits a schema of the keywords we use; any other keyword is an error."""
    for keyword, rule in schema.items():
        match keyword:
            case "$schema" | "$defs" | "title" | "description" | "default" | "examples":
                ok = True
            case "format" | "writeOnly":
                ok = rule in ("password", True)
            case "$ref":
                ok = accepts(root["$defs"][rule.removeprefix("#/$defs/")], value, root)
            case "anyOf":
                ok = any(accepts(choice, value, root) for choice in rule)
            case "enum":
                ok = value in rule
            case "type":
                ok = any(is_a(kind, value) for kind in ([rule] if isinstance(rule, str) else rule))
            case "pattern":
                ok = not isinstance(value, str) or bool(re.search(rule, value))
            case "minimum":
                ok = not isinstance(value, int | float) or value >= rule
            case "maximum":
                ok = not isinstance(value, int | float) or value <= rule
            case "items":
                ok = not isinstance(value, list) or all(accepts(rule, v, root) for v in value)
            case "properties":
                ok = not isinstance(value, dict) or all(
                    accepts(rule[key], v, root) for key, v in value.items() if key in rule
                )
            case "additionalProperties":
                known = schema.get("properties", {})
                ok = not isinstance(value, dict) or all(
                    rule is not False and accepts(rule, value[key], root)
                    for key in value.keys() - known.keys()
                )
            case _:
                raise AssertionError(f"unexpected keyword {keyword}")
        if not ok:
            return False
    return True


def test_every_key_of_the_schema_is_described() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == set(Settings.model_fields)
    for name, section in [("", schema), *schema["$defs"].items()]:
        for key, rule in section.get("properties", {}).items():
            assert rule.get("description", "").endswith("."), f"{name}.{key}"


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "defaults: {pool_size: 5, pool_mode: session}",
        "defaults: {pool_size: '${SIZE}', pool_mode: '${MODE:-session}'}",
        "defaults:",
        "databases: {app: , b: {host: [a, b], settings: {jit: true, work_mem: 64}}}",
        "databases: {1: {dbname: 2, password: 3, max_protocol_version: 3.2, port: '${P}'}}",
        "timeouts: {query_timeout: 5min, client_idle_timeout: 1.5, shutdown_timeout: '${T}'}",
        "listen: {unix_socket_mode: '0770', host: '', reuse_port: '${R}'}",
        "auth: {type: plain}",
    ],
)
def test_schema_accepts(text: str) -> None:
    schema = json_schema()
    data = {str(key): value for key, value in yaml.safe_load(text).items()}
    assert accepts(schema, data, schema)


@pytest.mark.parametrize(
    "text",
    [
        "xyzzy: 1",
        "defaults: {pool_size: abc}",
        "defaults: {pool_size: 0}",
        "defaults: {pool_sise: 1}",
        "defaults: {pool_mode: trans}",
        "defaults: 5",
        "databases: {app: {port: 70000}}",
        "databases: [app]",
        "timeouts: {query_timeout: 5 parsecs}",
        "timeouts: {query_timeout: -1}",
        "listen: {unix_socket_mode: '9'}",
        "auth: {type: md6}",
        "users: {u: p}",
    ],
)
def test_schema_refuses(text: str) -> None:
    schema = json_schema()
    assert not accepts(schema, yaml.safe_load(text), schema)

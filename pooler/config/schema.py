"""The JSON Schema (2020-12) of the configuration file, for editors.

It comes out of the model, descriptions and defaults included. What the loader takes beyond the
types is added here: a value may be a text with placeholders, a text may look like a number, and
what is left empty is the default.
"""

from typing import Any

from pooler.config.model import Settings

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_ABOUT = ("description", "default", "examples")
"""Keywords that say something about a value and restrict nothing."""
_PLACEHOLDER = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"}
_TEXT = {"type": "string"}
_SCALAR = {"type": ["string", "number", "boolean"]}
_EMPTY = {"type": "null"}


def json_schema() -> dict[str, Any]:
    """The schema of the whole file."""
    schema = Settings.model_json_schema()
    definitions: dict[str, dict[str, Any]] = schema.pop("$defs")
    for definition in (schema, *definitions.values()):
        definition.pop("title")
        for name, rule in definition.get("properties", {}).items():
            definition["properties"][name] = _property(rule, definitions)
    return {"$schema": DIALECT, "title": "pooler", **schema, "$defs": definitions}


def _property(schema: dict[str, Any], definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A key's schema as the loader sees it."""
    about = {key: schema[key] for key in _ABOUT if key in schema}
    rule = {key: value for key, value in schema.items() if key not in (*_ABOUT, "title")}
    section = definitions.get(rule.get("$ref", "").removeprefix("#/$defs/"))
    if section:
        about.setdefault("description", section["description"])
    if "additionalProperties" in rule:
        entry = rule["additionalProperties"]
        rule["additionalProperties"] = {"anyOf": [_SCALAR if entry == _TEXT else entry, _EMPTY]}
        section = rule
    choices = [_SCALAR if choice == _TEXT else choice for choice in rule.get("anyOf", [rule])]
    more = [_EMPTY] if section and "enum" not in section else [_EMPTY, _PLACEHOLDER]
    choices += [choice for choice in more if choice not in choices]
    return {**about, "anyOf": choices}

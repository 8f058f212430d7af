"""A tree to settings, and pydantic's errors in plain words.

Rules: every mistake is reported, and the settings that are left without the mistaken values are
returned, so that checks across settings can go on. Nothing is shown of a mapping, a list or a
secret.
"""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pooler.config.model import Database, HbaRule, IdentLine, Section, Settings, User
from pooler.config.problem import Problem, did_you_mean
from pooler.config.tree import SECRET_KEYS, Node, Path, dotted, find, plain, texts, without
from pooler.config.yamltext import show

_UNFIT = re.compile("[\0\ud800-\udfff]")
_NOT_A_MAPPING = {"model_type", "model_attributes_type", "dict_type"}
_ENTRIES: dict[str, type[Section]] = {"databases": Database, "users": User}
_ITEMS: dict[Path, type[Section]] = {("auth", "hba"): HbaRule, ("auth", "ident"): IdentLine}
_HIDDEN = SECRET_KEYS | {"ldapbindpasswd"}


def validate(tree: Node) -> tuple[Settings, list[tuple[Path, Problem]]]:
    """The settings of a tree, less those that are wrong, and what is wrong with which path."""
    found = [
        (path, _problem(path, node, "a text PostgreSQL can not take: it holds a NUL or no UTF-8"))
        for path, node, text in texts(tree)
        if _UNFIT.search(text)
    ]
    for path, _ in found:
        tree = without(tree, path)
    while True:
        try:
            return Settings.model_validate(plain(tree)), found
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                path, problem = _translate(tree, detail)
                found.append((path, problem))
            for path, _ in found:
                tree = without(tree, path)


def _translate(tree: Node, detail: ErrorDetails) -> tuple[Path, Problem]:
    # Below a key, pydantic's location goes on into the parts of its types; the tree does not.
    path, node = find(tree, detail["loc"])
    kind = detail["type"]
    message, hint = _words(path, kind, detail.get("ctx", {}))
    if detail["loc"][-1] == "[key]":
        message = f"{show(str(path[-1]))} {message}"
    elif kind != "extra_forbidden":
        # Where a mapping belongs, what stands there may be anything: `users: {bob: secret}`.
        hidden = kind in _NOT_A_MAPPING or bool(_HIDDEN.intersection(path))
        message = f"{'the value' if hidden else node.shown} {message}"
    return path, _problem(path, node, message, hint)


def _problem(path: Path, node: Node, message: str, hint: str = "") -> Problem:
    return Problem(node.origin.file, node.origin.line, dotted(path), message, hint)


def _words(path: Path, kind: str, context: dict[str, Any]) -> tuple[str, str]:
    """Message and hint for one of pydantic's kinds of error."""
    match kind:
        case "wrong":
            return context["message"], context["hint"]
        case "extra_forbidden":
            return "unknown key", _suggestion(path)
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            return "is not a whole number", f"write a number such as {_example(path, 20)}"
        case "greater_than_equal":
            return f"is less than {context['ge']}", ""
        case "less_than_equal":
            return f"is more than {context['le']}", ""
        case "bool_parsing" | "bool_type":
            return "is neither true nor false", "write true or false"
        case "enum" | "literal_error":
            return f"is not one of {context['expected']}", ""
        case "string_type":
            return "is not text", "write one value"
        case "tuple_type" | "list_type":
            return "is not one value or a list of values", ""
        case _ if kind in _NOT_A_MAPPING:
            return "is not a mapping", "write `key: value` lines under it"
        case _:
            return "is not valid", ""


def _keys(path: Path) -> dict[str, FieldInfo]:
    """The settings that can stand beside the one at `path`."""
    if len(path) == 1:
        return Settings.model_fields
    if len(path) > 2 and path[:2] in _ITEMS:
        return _ITEMS[path[:2]].model_fields
    section: object = _ENTRIES.get(str(path[0])) or Settings.model_fields[str(path[0])].annotation
    fields: dict[str, FieldInfo] = {}
    for key in (*path[2 if path[0] in _ENTRIES else 1 : -1], ""):
        if not isinstance(section, type) or not issubclass(section, BaseModel):
            break
        fields = section.model_fields
        section = fields[str(key)].annotation if key in fields else None
    return fields


def _example(path: Path, otherwise: object) -> object:
    """A value to show as an example: the default."""
    key = next((str(key) for key in reversed(path) if isinstance(key, str)), "")
    field = _keys(path).get(key)
    if field is None:
        return otherwise
    return field.examples[0] if field.examples else field.default


def _everything() -> Iterator[tuple[str, str]]:
    for name in Settings.model_fields:
        if name not in _ENTRIES:
            yield from ((name, key) for key in _keys((name, "?")))


def _suggestion(path: Path) -> str:
    """Where an unknown key may belong: beside it under a like name, or in another section."""
    key = str(path[-1])
    homes = [".".join(place) for place in _everything() if key in (place[1], "_".join(place))]
    if homes:
        return f"it belongs in {' or '.join(homes)}"
    return did_you_mean(key, _keys(path)) or did_you_mean(
        key, [".".join(place) for place in _everything()]
    )

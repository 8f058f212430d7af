"""A tree of settings as the text of a configuration file.

Rules: pure; what is read back by `config.yamltext` is the same tree, whatever the values hold.
"""

import re
from typing import Final

import yaml

from pooler.config.model import Database, Section, Settings, User
from pooler.config.tree import Node

_NUMBER = re.compile(r"0|[1-9][0-9]*|[0-9]+\.[0-9]+", re.ASCII)
_TEXTS: Final = frozenset({"password", "dbname", "user", "auth_user", "auth_dbname"})
"""Keys whose values are text also where they look like a number."""
_ENTRIES: Final[dict[str, type[Section]]] = {"databases": Database, "users": User}
_STR: Final = "tag:yaml.org,2002:str"
_MAP: Final = "tag:yaml.org,2002:map"
_SEQ: Final = "tag:yaml.org,2002:seq"


def to_yaml(tree: Node, heading: str) -> str:
    """The file, with `heading` as a comment at its top and settings in their usual order."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in heading.splitlines())
    parts = []
    for name in _ordered(tree, Settings):
        root = yaml.MappingNode(_MAP, [(yaml.ScalarNode(_STR, name), _section(tree, name))])
        parts.append(yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True, width=100))
    return comment + "\n" + "\n".join(parts)


def _ordered(node: Node, model: type[Section]) -> list[str]:
    """The keys of a mapping in the order of its settings, its own before those it shares."""
    names = sorted(model.model_fields, key=lambda name: name not in model.__annotations__)
    keys = node.value if isinstance(node.value, dict) else {}
    return sorted(keys, key=lambda key: names.index(key) if key in names else len(names))


def _section(tree: Node, name: str) -> yaml.Node:
    """A section. Of the mappings of databases and users, `*` comes last."""
    node = tree.child(name)
    assert node is not None
    entry = _ENTRIES.get(name)
    if entry is None:
        annotation = Settings.model_fields[name].annotation
        assert isinstance(annotation, type)
        return _mapping(node, name, _ordered(node, annotation))
    assert isinstance(node.value, dict)
    pairs = [
        (yaml.ScalarNode(_STR, _escaped(key)), _mapping(child, key, _ordered(child, entry)))
        for key, child in sorted(node.value.items(), key=lambda pair: pair[0] == "*")
    ]
    return yaml.MappingNode(_MAP, pairs)


def _mapping(node: Node, name: str, keys: list[str]) -> yaml.Node:
    pairs = []
    for key in keys:
        child = node.child(key)
        assert child is not None
        pairs.append((yaml.ScalarNode(_STR, _escaped(key)), _node(child, key, name)))
    return yaml.MappingNode(_MAP, pairs)


def _node(node: Node, key: str, above: str) -> yaml.Node:
    if isinstance(node.value, dict):
        return _mapping(node, key, list(node.value))
    if isinstance(node.value, list):
        return yaml.SequenceNode(_SEQ, [_node(child, key, above) for child in node.value])
    text = node.value or ""
    if key not in _TEXTS and above != "settings":
        if _NUMBER.fullmatch(text):
            kind = "float" if "." in text else "int"
            return yaml.ScalarNode(f"tag:yaml.org,2002:{kind}", text)
        if text in ("true", "false"):
            return yaml.ScalarNode("tag:yaml.org,2002:bool", text)
    return yaml.ScalarNode(_STR, _escaped(text))


def _escaped(text: str) -> str:
    """With what would be a placeholder written so that it is none."""
    return re.sub(r"\$(?=[${])", "$$", text)

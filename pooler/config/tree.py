"""A configuration before it is validated: values that know where they came from.

The file, the environment and the command line each give a tree; merging them in order of precedence
gives the one that is validated. Scalars stay text: the type of a setting decides what `5432`, `off`
or `3.2` means, so that a password of digits or a server setting `jit: off` is taken as written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written: a file and line, or a variable or option (line 0)."""

    file: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """A mapping, a list, a text, or None for a value that was left empty."""

    value: dict[str, Node] | list[Node] | str | None = field(repr=False)
    origin: Origin
    shown: str = field(default="the value", repr=False)
    """What an error may call the value: its text as written, never what a variable held."""
    size: int = 1
    """Nodes in this tree with every alias expanded."""

    def child(self, key: str | int) -> Node | None:
        """The value under a key or index; None where there is none."""
        if isinstance(self.value, dict):
            return self.value.get(str(key))
        if isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None


def dotted(path: Path) -> str:
    """A path as people write it: `databases.app.host[1]`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def mapping(entries: Mapping[str, Node], origin: Origin) -> Node:
    """A mapping node."""
    size = 1 + sum(node.size for node in entries.values())
    return Node(dict(entries), origin, "a mapping", size)


def sequence(items: Iterable[Node], origin: Origin) -> Node:
    """A list node."""
    nodes = list(items)
    return Node(nodes, origin, "a list", 1 + sum(node.size for node in nodes))


def at(path: Path, leaf: Node) -> Node:
    """A tree that holds nothing but `leaf` under `path`."""
    for key in reversed(path):
        leaf = mapping({str(key): leaf}, leaf.origin)
    return leaf


def plain(node: Node) -> object:
    """The tree as plain data. What was left empty is left out, so that its default applies."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items() if child.value is not None}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def texts(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node, str]]:
    """Each key and value of the tree, with the path and node it belongs to."""
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            yield (*path, key), child, key
            yield from texts(child, (*path, key))
    elif isinstance(node.value, list):
        for index, child in enumerate(node.value):
            yield from texts(child, (*path, index))
    elif node.value is not None:
        yield path, node, node.value


def find(root: Node, path: Path) -> tuple[Path, Node]:
    """The node at `path`, or the last one on the way to it, with its own path."""
    node = root
    for depth, key in enumerate(path):
        child = node.child(key)
        if child is None:
            return path[:depth], node
        node = child
    return path, node


def without(node: Node, path: Path) -> Node:
    """The tree less what is at `path`. A list goes whole when one of its items does."""
    if not isinstance(node.value, dict) or str(path[0]) not in node.value:
        return node
    entries = dict(node.value)
    key = str(path[0])
    if len(path) == 1 or not isinstance(entries[key].value, dict):
        del entries[key]
    else:
        entries[key] = without(entries[key], path[1:])
    return mapping(entries, node.origin)


SECRET_KEYS = {"password", "password_file"}


def lay(base: dict[str, Node], over: dict[str, Node]) -> dict[str, Node]:
    """The entries of `base` with those of `over` in their place.

    A secret can be given in two ways: naming either replaces whichever was there.
    """
    dropped = SECRET_KEYS if SECRET_KEYS & over.keys() else set()
    return {key: node for key, node in base.items() if key not in dropped} | over


def merge(base: Node, over: Node) -> Node:
    """`base` with the values of `over` laid on top, mapping by mapping."""
    if over.value is None:
        return base
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    both = {
        key: merge(base.value[key], node) for key, node in over.value.items() if key in base.value
    }
    return mapping(lay(base.value, over.value | both), base.origin)

"""YAML text to a tree that knows its lines, whatever the text is.

Built from PyYAML's events, which carry positions and come one at a time, so that depth and the
expansion of aliases are bounded before anything is built. Rules: no tag makes an object; what the
environment holds is put into scalars after parsing, so it can not add structure; an error in the
syntax shows nothing of the text, which PyYAML's own words for it may quote.
"""

import re
from collections.abc import Iterator, Mapping

import yaml

from pooler.config.environment import expand
from pooler.config.problem import Problem, printable
from pooler.config.tree import Node, Origin, Path, dotted, lay, mapping, sequence

MAX_DEPTH = 20
"""Levels of nesting; a configuration has four."""
MAX_SIZE = 50_000
"""Values with aliases expanded: thousands of databases, but no "billion laughs"."""
MAX_SHOWN = 60
"""Characters of a value that an error shows."""

_TAGS = {None, "!"} | {
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")
}
_NULLS = {"", "~", "null", "Null", "NULL"}

# What PyYAML says, by its beginning, and what it means. The rest is passed on less its quotations.
_PLAIN_WORDS = {
    "found character '\\t'": ("a tab is used for indentation", "indent with spaces"),
    "found character": (
        "a value begins with a character that YAML reserves",
        "put the value in quotes",
    ),
    "expected alphabetic or numeric": (
        "a '*' or '&' that names no alias or anchor",
        'put the fallback database in quotes: "*"',
    ),
    "mapping values are not allowed": (
        "a second ': ' on one line, or wrong indentation",
        "put a value that holds ': ' in quotes",
    ),
    "could not find expected ':'": ("a ':' is missing after a key", "write `key: value`"),
    "expected <block end>": (
        "the indentation does not fit the lines above",
        "start the keys of one group in the same column; quote a value that goes on after a "
        "bracket or a quote",
    ),
    "did not find expected key": ("the indentation does not fit the lines above", ""),
    "found unexpected end of stream": ("a quote is not closed", ""),
    "found unknown escape character": (
        "unknown escape after a backslash",
        "use single quotes for text with backslashes",
    ),
    "expected the node content": ("a value is missing or a bracket is not closed", ""),
    "expected ',' or": (
        "a bracket or brace is not closed, or a comma is missing",
        "put ${NAME} in quotes inside of braces",
    ),
}


class _Stop(Exception):
    """The text can not be read any further."""

    def __init__(self, line: int, message: str, hint: str = "") -> None:
        self.line, self.message, self.hint = line, message, hint


def parse(
    data: bytes,
    file: str,
    environ: Mapping[str, str],
    *,
    under: Path = (),
    hidden: bool = False,
) -> tuple[Node | None, list[tuple[Path, Problem]]]:
    """The tree of one YAML document, None where it can not be read, and what is wrong with it.

    An empty document is an empty mapping. `under`: where the document belongs in the configuration.
    `hidden`: the text came from the environment, so errors show none of it.
    """
    builder = _Builder(file, environ, hidden)
    try:
        root = builder.document(_decode(data), under)
    except _Stop as stop:
        builder.complain(stop.line, under, stop.message, stop.hint)
        root = None
    return root, builder.problems


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _Stop(line, "is not UTF-8 text", "save the file as UTF-8") from None
    if bad := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise _Stop(line, f"holds the control character {bad[0]!a}", "is it a text file?")
    return text


def _events(text: str) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = error.problem or "can not be read"
        unquoted = re.sub(r"'.+'|\".+\"", "...", said)
        known = (words for start, words in _PLAIN_WORDS.items() if said.startswith(start))
        message, hint = next(known, (unquoted, ""))
        raise _Stop(mark.line + 1 if mark else 0, f"YAML: {message}", hint) from None
    except (ValueError, OverflowError):
        # PyYAML 6 on escapes that are no character, such as "\U99999999".
        raise _Stop(0, "YAML: an escape in quotes is not a character") from None


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


class _Builder:
    """Makes nodes out of events; holds what one document defines."""

    def __init__(self, file: str, environ: Mapping[str, str], hidden: bool) -> None:
        self.file = file
        self.environ = environ
        self.hidden = hidden
        self.problems: list[tuple[Path, Problem]] = []
        self.anchors: dict[str, Node | None] = {}
        """None while the value is being built: an alias to it would never end."""
        self.events: Iterator[yaml.Event] = iter(())

    def complain(self, line: int, path: Path, message: str, hint: str = "") -> None:
        """Adds a problem of this document."""
        problem = Problem(self.file, line, dotted(path), message, hint)
        self.problems.append((path, problem))

    def document(self, text: str, path: Path) -> Node:
        """The root of the only document; it is a mapping."""
        self.events = _events(text)
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return mapping({}, Origin(self.file))
        root = self.node(next(self.events), path)
        next(self.events)  # the end of the document
        if not isinstance(second := next(self.events), yaml.StreamEndEvent):
            raise _Stop(_line(second), "a second document begins here", "remove `---`")
        if root.value is None:
            return mapping({}, Origin(self.file))
        if not isinstance(root.value, dict):
            raise _Stop(root.origin.line, "is not a mapping", "write lines such as `listen:`")
        return root

    def node(self, event: yaml.Event, path: Path, line: int = 0) -> Node:
        """The node that begins with `event`; `line` is that of its key, where it has one."""
        line = line or _line(event)
        if len(path) > MAX_DEPTH:
            raise _Stop(line, f"is nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, line)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag not in _TAGS:
            self.complain(line, path, "YAML tags are not known", "quote a value that begins with !")
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = self.scalar(event, path, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = sequence(self.items(path), Origin(self.file, line))
        else:
            node = self.mapping(Origin(self.file, line), path)
        if node.size > MAX_SIZE:
            raise _Stop(line, f"holds more than {MAX_SIZE} values with its aliases expanded")
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def alias(self, event: yaml.AliasEvent, line: int) -> Node:
        """The node an alias stands for."""
        if event.anchor not in self.anchors:
            raise _Stop(line, "an alias is not defined", "quote a value that begins with *")
        node = self.anchors[event.anchor]
        if node is None:
            raise _Stop(line, "an alias stands inside the value it stands for")
        return Node(node.value, Origin(self.file, line), node.shown, node.size)

    def items(self, path: Path) -> Iterator[Node]:
        """The items of the list that has begun."""
        index = 0
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            yield self.node(event, (*path, index))
            index += 1

    def mapping(self, origin: Origin, path: Path) -> Node:
        """The mapping that has begun."""
        entries: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = _line(event)
            key = self.node(event, (*path, "?")).value
            here = (*path, key) if isinstance(key, str) else path
            value = self.node(next(self.events), here, line)
            if key == "<<" and isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
                merged = self.merged(value, here)
            elif not isinstance(key, str) or not key:
                self.complain(line, path, "a key is empty or not text", "write `key: value`")
            elif key in entries:
                first = entries[key].origin.line
                self.complain(line, here, f"is given twice, first in line {first}")
            else:
                entries[key] = value
        return mapping(lay(merged, entries), origin)

    def merged(self, value: Node, path: Path) -> dict[str, Node]:
        """What `<<: *alias` or `<<: [*alias, ...]` brings into a mapping; the first one wins."""
        entries: dict[str, Node] = {}
        for node in value.value if isinstance(value.value, list) else [value]:
            if isinstance(node.value, dict):
                entries = node.value | entries
            else:
                self.complain(value.origin.line, path, "is not a mapping", "write `<<: *name`")
        return entries

    def scalar(self, event: yaml.ScalarEvent, path: Path, line: int) -> Node:
        """A text with placeholders filled in; None for one that YAML reads as null."""
        text, faults = expand(event.value, self.environ)
        for message, hint in faults:
            self.complain(line, path, message, hint)
        if (
            faults
            or event.tag == "tag:yaml.org,2002:null"
            or (event.implicit[0] and text in _NULLS)
        ):
            return Node(None, Origin(self.file, line))
        shown = "the value" if self.hidden else show(event.value)
        return Node(text, Origin(self.file, line), shown)


def show(text: str) -> str:
    """A value as an error may show it. A URL in the wrong place may carry a password."""
    if "://" in text:
        return "the value"
    return f"'{printable(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + '...')}'"

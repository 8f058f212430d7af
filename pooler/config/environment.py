"""What the environment has to say: placeholders in values, and settings of its own.

Rules: a value out of the environment is never shown; a POOLER_ variable that means nothing is a
mistake, because a misspelt one would be ignored in silence.
"""

import re
from collections.abc import Collection, Iterator, Mapping

from pooler.config.model import Section, Settings
from pooler.config.problem import Problem, did_you_mean
from pooler.config.tree import Node, Origin, Path, at

CONFIG = "POOLER_CONFIG"
UPSTREAM = "POOLER_UPSTREAM"
TREES = {"POOLER_DATABASES": "databases", "POOLER_USERS": "users"}
"""Variables that hold a YAML mapping."""
NOT_SETTINGS = frozenset({"POOLER_COMPILE"})
"""Variables that are not about the configuration: how the package was built."""

# Kubernetes sets these in every container of a namespace that has a service called `pooler` or
# `pooler-...`. One that ends in _PORT may have the name of a setting: its value, a URL, tells.
_SERVICE = re.compile(
    r"POOLER_(\w+_)?SERVICE_(HOST|PORT(_\w+)?)|POOLER_(\w+_)?PORT_\d+_(TCP|UDP|SCTP)\w*"
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")

_PLACEHOLDER = re.compile(r"\$\$|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?")


def expand(text: str, environ: Mapping[str, str]) -> tuple[str, list[tuple[str, str]]]:
    """`text` with `${NAME}`, `${NAME:-default}` and `$$` replaced, and (message, hint) of faults.

    As in a shell, the default stands for a variable that is unset or empty.
    """
    faults: list[tuple[str, str]] = []

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        if match[0] == "$$":
            return "$"
        if name is None:
            faults.append(("'${' does not begin a ${NAME}", "write $${ for the characters ${"))
            return ""
        value = environ.get(name)
        if default is not None:
            return value or str(default)
        if value is None:
            faults.append(
                (
                    f"the environment variable {name} is not set",
                    f"set it, or give a default: ${{{name}:-default}}",
                )
            )
        return value or ""

    return _PLACEHOLDER.sub(replace, text), faults


def placeholders(text: str) -> set[str]:
    """The names of the variables that `text` has placeholders for."""
    return {match[1] for match in _PLACEHOLDER.finditer(text) if match[1]}


def variables() -> dict[str, Path]:
    """Each POOLER_<SECTION>_<KEY> or POOLER_<KEY>, and the path of its setting."""
    return {f"POOLER_{'_'.join(path).upper()}": path for path in _paths()}


def _paths() -> Iterator[tuple[str, ...]]:
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            yield from ((name, key) for key in section.model_fields)
        elif f"POOLER_{name.upper()}" not in TREES:
            yield (name,)


def overlays(environ: Mapping[str, str], used: Collection[str]) -> tuple[list[Node], list[Problem]]:
    """The trees of the variables that are single settings, and a problem for each unknown one.

    `used`: variables that have a meaning already, since a placeholder names them.
    """
    known = variables()
    others = {CONFIG, UPSTREAM, *TREES}
    trees: list[Node] = []
    problems: list[Problem] = []
    for name, value in sorted(environ.items()):
        if not name.startswith("POOLER_") or name in others | NOT_SETTINGS:
            continue
        if _SERVICE.fullmatch(name) or (name.endswith("_PORT") and _SERVICE_URL.match(value)):
            continue
        if name in known:
            trees.append(at(known[name], Node(value, Origin(name))))
        elif name not in used:
            hint = did_you_mean(name, [*known, *others])
            problems.append(Problem(name, 0, "", "is not a setting", hint))
    return trees, problems

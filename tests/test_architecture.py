"""The architecture, as a test: who may import whom, and what may not be known below the edge."""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pooler

PACKAGE = Path(pooler.__file__).parent

# From the bottom up: what each layer may import of the package; the edge, all the rest, anything.
LAYERS = {
    "pooler.wire": ("pooler.wire",),
    "pooler.core": ("pooler.wire", "pooler.core"),
}

# Time, randomness, files, sockets, loops and logs come in from above or stay there.
_FORBIDDEN = """
    asyncio concurrent contextvars datetime fcntl http io logging mmap multiprocessing os pathlib
    queue random sched secrets select selectors shutil signal socket socketserver ssl subprocess
    syslog tempfile threading time urllib uuid warnings _thread
"""
FORBIDDEN = frozenset(_FORBIDDEN.split())


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _layer(module: str) -> str | None:
    return next((layer for layer in LAYERS if _within(module, layer)), None)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


class _WithoutTypes(ast.NodeTransformer):
    """Drops what is there for type checking alone."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        only_types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if only_types else self.generic_visit(node)


def _imported(
    source: str, module: str, *, is_package: bool = False, types: bool = True
) -> set[str]:
    """Names of the modules that `source` imports, anywhere in it; `types` alone, too."""
    found: set[str] = set()
    base = module.split(".") if is_package else module.split(".")[:-1]
    tree: ast.AST = ast.parse(source)
    for node in ast.walk(tree if types else _WithoutTypes().visit(tree)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = base[: len(base) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                found.add(inner if inner in MODULES else origin)
    return found


def _complaints(module: str, imported: set[str]) -> list[str]:
    layer = _layer(module)
    if layer is None:
        return []
    complaints = []
    for name in sorted(imported):
        top = name.split(".")[0]
        if top == "pooler":
            if not any(_within(name, allowed) for allowed in LAYERS[layer]):
                complaints.append(f"{module} imports {name}, which is above {layer}")
        elif top in FORBIDDEN:
            complaints.append(f"{module} imports {name}, which {layer} may not know")
        elif top not in sys.stdlib_module_names:
            complaints.append(f"{module} imports {name}, which is not the standard library's")
    return complaints


def _imports_of(module: str, *, types: bool = True) -> set[str]:
    path = MODULES[module]
    source = path.read_text(encoding="utf-8")
    return _imported(source, module, is_package=path.name == "__init__.py", types=types)


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_what_its_layer_may(module: str) -> None:
    assert _complaints(module, _imports_of(module)) == []


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {module: _imports_of(module, types=False) & MODULES.keys() for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_every_layer_is_there() -> None:
    assert {_layer(module) for module in MODULES} >= set(LAYERS)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pooler.wire.x", "import pooler.core.ledger"),
        ("pooler.wire.x", "from pooler.core import ledger"),
        ("pooler.wire.x", "from ..core import ledger"),
        ("pooler.wire.x", "from pooler import core"),
        ("pooler.wire.x", "from pooler import embedded"),
        ("pooler.wire.x", "def f():\n    from time import monotonic"),
        ("pooler.wire.x", "import asyncio.events"),
        ("pooler.core.x", "from pooler.embedded import EmbeddedPostgres"),
        ("pooler.core.x", "if TYPE_CHECKING:\n    import socket"),
        ("pooler.core.x", "import uvloop"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert len(_complaints(module, _imported(source, module))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pooler.wire.x", "import struct\nfrom . import codes\nfrom pooler.wire import build"),
        ("pooler.core.x", "from ..wire.codes import QUERY\nfrom pooler.core.ledger import Ledger"),
        ("pooler.embedded", "import asyncio, uvloop\nfrom pooler.core import ledger"),
    ],
)
def test_an_allowed_import_is_none(module: str, source: str) -> None:
    assert _complaints(module, _imported(source, module)) == []

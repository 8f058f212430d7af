"""The two builds: interpreted, and compiled by `setup.py`."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pooler
from tests.test_architecture import LAYERS, MODULES

ROOT = Path(pooler.__file__).parents[1]
INTERPRETED = {"pooler.core.edge", "pooler.core.errors"}
"""Subclassed by what is not compiled."""


def test_the_pure_layers_and_logins_are_compiled_all_or_none() -> None:
    packages = tuple(f"{package}." for package in (*LAYERS, "pooler.login"))
    names = [name for name in MODULES if name.startswith(packages) or name == "pooler.tls"]
    files = {name: importlib.import_module(name).__file__ or "" for name in names}
    compiled = {name for name, file in files.items() if not file.endswith(".py")}
    wanted = pooler.build_kind() == "compiled"
    assert compiled == (set(names) - INTERPRETED if wanted else set())


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the source is not here")
def test_pooler_compile_is_yes_or_no() -> None:
    pytest.importorskip("setuptools")
    built = subprocess.run(
        [sys.executable, "setup.py", "--name"],
        cwd=ROOT,
        env={**os.environ, "POOLER_COMPILE": "perhaps"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 1
    assert built.stderr.strip() == "POOLER_COMPILE=perhaps: it is yes, no or nothing"

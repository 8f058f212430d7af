"""What a transaction costs in instructions: the same on a busy machine, so a bound can be close."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pooler

ROOT = Path(pooler.__file__).parents[1]
LIMITS = {"simple": 33_000, "extended": 52_000, "prepared": 62_000}
"""Of the compiled build, for one transaction."""
FEW, MANY = 200, 1_200


def _instructions(kind: str, count: int) -> int:
    done = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
            *(sys.executable, "-m", "tests.bench.transactions", kind, str(count)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


@pytest.mark.timeout(600)
@pytest.mark.skipif(not shutil.which("valgrind"), reason="NOT GUARDED: valgrind is not installed")
@pytest.mark.skipif(pooler.build_kind() != "compiled", reason="of the compiled build")
@pytest.mark.parametrize("kind", LIMITS)
def test_a_transaction_costs_so_many_instructions(kind: str) -> None:
    cost = (_instructions(kind, MANY) - _instructions(kind, FEW)) / (MANY - FEW)
    assert 0 < cost < LIMITS[kind]

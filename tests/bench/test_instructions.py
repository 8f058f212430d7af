"""What a transaction and a login cost in instructions: a busy machine has no part in that.

Python's own for the interpreted build, the processor's for the compiled one.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pooler
from tests.bench import logins, transactions

ROOT = Path(pooler.__file__).parents[1]
STEPS = {"simple": 2_500, "extended": 4_000, "prepared": 3_850, "login": 7_500}
"""Of the interpreted build, in Python's own instructions; Python 3.11 needs a tenth less."""
LIMITS = {"simple": 20_500, "extended": 34_000, "prepared": 34_500, "login": 240_000}
"""Of the compiled build, for one transaction, or a login by SCRAM with one."""
FEW, MANY = 200, 1_200
COMMANDS = {"login": ("tests.bench.logins", "scram-sha-256")}

TraceFunction = Any
"""What `sys.settrace` takes, and gives for each frame."""


def _instructions(kind: str, count: int) -> int:
    done = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
            *(sys.executable, "-m"),
            *COMMANDS.get(kind, ("tests.bench.transactions", kind)),
            str(count),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])


def _run(kind: str, count: int) -> None:
    if kind == "login":
        asyncio.run(logins.run("scram-sha-256", count))
    else:
        transactions.run(kind, count)


def _steps(kind: str, count: int) -> int:
    steps = 0

    def step(frame: FrameType, event: str, _: object) -> TraceFunction:
        nonlocal steps
        steps += event == "opcode"
        return step

    def enter(frame: FrameType, event: str, _: object) -> TraceFunction:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        _run(kind, count)
    finally:
        sys.settrace(before)
    return steps


@pytest.mark.skipif(pooler.build_kind() != "interpreted", reason="of the interpreted build")
@pytest.mark.parametrize("kind", STEPS)
def test_it_costs_so_many_steps(kind: str) -> None:
    cost = (_steps(kind, 150) - _steps(kind, 50)) / 100
    assert 0 < cost < STEPS[kind]


@pytest.mark.timeout(600)
@pytest.mark.skipif(not shutil.which("valgrind"), reason="NOT GUARDED: valgrind is not installed")
@pytest.mark.skipif(pooler.build_kind() != "compiled", reason="of the compiled build")
@pytest.mark.parametrize("kind", LIMITS)
def test_it_costs_so_many_instructions(kind: str) -> None:
    cost = (_instructions(kind, MANY) - _instructions(kind, FEW)) / (MANY - FEW)
    assert 0 < cost < LIMITS[kind]

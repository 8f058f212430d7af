"""The parts of the benchmark that say what came out."""

import json
from pathlib import Path

import pytest

from tests.bench.loads import parsed
from tests.bench.report import table, write_json
from tests.bench.rows import Result
from tests.bench.subjects import Missing
from tests.bench.transactions import KINDS, run

OUTPUT = """
number of transactions actually processed: 1000
number of failed transactions: 0 (0.000%)
latency average = 0.1 ms
tps = 500.0 (without initial connection time)
"""


def test_pgbench_is_read() -> None:
    done = parsed(OUTPUT, 0.02, [i / 1000 for i in range(100)])
    assert (done.done, done.seconds, done.rate) == (1000, 2.0, 500.0)
    assert done.cost == pytest.approx(20e-6)
    assert (done.percentile(0.5), done.percentile(1.0)) == (0.05, 0.099)
    with pytest.raises(Missing):
        parsed("pgbench: error", 0.0, [])


def test_the_table_has_ratios_and_says_what_is_missing() -> None:
    found = Result("CPU", "us", "<= 1.15", True, {"pgbouncer": 10.0, "compiled": 11.5})
    missing = Result("COPY", "MB/s", ">= 1.0", False, missing="not measured: no psql")
    lines = table([found, missing]).splitlines()
    assert lines[2] == "| CPU, us | <= 1.15 |  | 10.0 |  | 11.5 |  | 1.15 x |"
    assert lines[3].startswith("| COPY, MB/s | >= 1.0 | not measured: no psql |")


def test_json_has_everything(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json([Result("CPU", "us", "", True, {"pgbouncer": 2.0, "compiled": 1.0})], path, {})
    (row,) = json.loads(path.read_text())["rows"]
    assert row["ratios"] == {"interpreted": None, "compiled": 0.5}


@pytest.mark.parametrize("kind", KINDS)
def test_transactions_run_through_the_core(kind: str) -> None:
    assert run(kind, 50) > 0

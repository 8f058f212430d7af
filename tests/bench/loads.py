"""Load: pgbench of the server's installation, psql, and crowds of clients that mostly wait."""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.subjects import Missing, Subject, cpu_seconds
from tests.support.postgres import PASSWORDS

THREADS = 2
LIMIT = 300.0  # seconds for anything to end


@dataclass
class Run:
    """What one run of a load on one subject gave."""

    done: int
    seconds: float
    cpu: float
    """CPU seconds of the pooler; 0.0 where there is none."""
    latencies: list[float] = field(default_factory=list, repr=False)
    """In seconds, sorted; of transactions."""

    @property
    def rate(self) -> float:
        """How many per second."""
        return self.done / self.seconds

    @property
    def cost(self) -> float:
        """CPU seconds of one."""
        return self.cpu / self.done

    def percentile(self, share: float) -> float:
        """The latency that this share is below."""
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * share))]


def pgbench(
    bin_dir: Path,
    subject: Subject,
    arguments: Sequence[str],
    seconds: float,
    folder: Path,
    watched: int = 0,
) -> Run:
    """Run pgbench; `-l` in `arguments` has latencies kept.

    CPU is that of the process `watched`, by default of the subject's.
    """
    watched = watched or subject.pid
    for old in folder.glob("pgbench_log.*"):
        old.unlink()
    command = [str(bin_dir / "pgbench"), "-n", "-T", str(max(1, round(seconds))), *arguments]
    before = cpu_seconds(watched) if watched else 0.0
    done = subprocess.run(
        [*command, subject.url()], cwd=folder, capture_output=True, text=True, timeout=LIMIT
    )
    cpu = cpu_seconds(watched) - before if watched else 0.0
    if done.returncode:
        raise Missing(f"pgbench: {done.stderr.strip().splitlines()[-1]}")
    return parsed(done.stdout, cpu, sorted(_latencies(folder)))


def parsed(output: str, cpu: float, latencies: list[float]) -> Run:
    """Read what pgbench says at its end."""
    count = re.search(r"transactions actually processed: (\d+)", output)
    rate = re.search(r"tps = ([\d.]+)", output)
    if count is None or rate is None or not int(count[1]):
        raise Missing("pgbench did nothing")
    return Run(int(count[1]), int(count[1]) / float(rate[1]), cpu, latencies)


def _latencies(folder: Path) -> Iterator[float]:
    for file in folder.glob("pgbench_log.*"):
        for line in file.read_text().splitlines():
            yield int(line.split()[2]) / 1e6


def psql(
    bin_dir: Path, subject: Subject, command: str, size: int, source: bytes | None = None
) -> Run:
    """Have psql run one command that moves `size` bytes; `source` is its standard input."""
    before = cpu_seconds(subject.pid) if subject.pid else 0.0
    began = time.monotonic()
    done = subprocess.run(
        [bin_dir / "psql", "-XqAt", subject.url(), "-c", command],
        input=source,
        stdin=subprocess.DEVNULL if source is None else None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=LIMIT,
    )
    seconds = time.monotonic() - began
    cpu = cpu_seconds(subject.pid) - before if subject.pid else 0.0
    if done.returncode:
        raise Missing(f"psql: {done.stderr.decode().strip()}")
    return Run(size, seconds, cpu)


@contextmanager
def crowd(subject: Subject, count: int, query: bool) -> Iterator[None]:
    """Hold `count` more connections open, each of which asks once if `query`."""
    plan = {"port": subject.port, "count": count, "query": query, "password": PASSWORDS["app"]}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.crowd", json.dumps(plan)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        if process.stdout.readline() != b"ready\n":
            last = process.stderr.read().decode().strip().splitlines()
            raise Missing(f"{count} clients: {last[-1] if last else 'they did not come in'}")
        yield
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()
        process.stderr.close()


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)

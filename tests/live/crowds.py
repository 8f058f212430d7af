"""Runs a crowd of clients while the test does something else."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from tests.support.crowd import Plan, Tally
from tests.support.pooler import Pooler


class Crowd:
    """A crowd under way; `tally` once it is over."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.tally = Tally()

    @property
    def busy(self) -> bool:
        """Whether it still goes on."""
        return self._process.poll() is None

    def finish(self) -> Tally:
        """Wait for its end; AssertionError when one of its clients saw what must not be."""
        output, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0
        self.tally = Tally(**json.loads(output))
        assert self.tally.faults == []
        return self.tally


@contextmanager
def crowd(
    pooler: Pooler, database: str, *, clients: int, seconds: float, user: str = "app"
) -> Iterator[Crowd]:
    """A crowd at work for so many seconds; the pooler lets it in by trust."""
    plan = Plan(pooler.host, pooler.port, user, database, clients, seconds)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.crowd"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(plan)))
        process.stdin.close()
        process.stdin = None
        try:
            yield Crowd(process)
        finally:
            process.kill()

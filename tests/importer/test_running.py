"""`pooler --ini` serves as PgBouncer does with the same file; `pooler import` as a command."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from pooler.embedded import find_binaries
from tests.conftest import _POOLERS
from tests.importer.conftest import PgBouncer
from tests.live.test_command_line import run
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.waiting import wait_until


class IniPooler(Pooler):
    """A pooler that runs straight from a pgbouncer.ini."""

    command = (sys.executable, "-m", "pooler", "--ini")

    def __init__(self, text: str, folder: Path) -> None:
        super().__init__({"ini": text}, folder)
        self.config_path = folder / "pgbouncer.ini"

    def _write(self, config: dict[str, str]) -> None:
        new = self.config_path.with_suffix(".new")
        new.write_text(config["ini"])
        new.replace(self.config_path)


RunIni = Callable[[str], IniPooler]


@pytest.fixture
def run_ini(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RunIni]:
    """Starts poolers from the text of an ini, on a port that the system picks."""
    with ExitStack() as stack:

        def start(text: str) -> IniPooler:
            folder = tmp_path / "ini-pooler"
            folder.mkdir()
            own = "\nlisten_addr = 127.0.0.1\nlisten_port = 0\nunix_socket_dir =\n"
            pooler = IniPooler(text + own, folder)
            request.node.stash.setdefault(_POOLERS, []).append(pooler)
            stack.callback(pooler.close)
            pooler.start()
            return pooler

        yield start


@pytest.fixture
def userlist(tmp_path: Path) -> Path:
    """All roles with their passwords, as PgBouncer has them."""
    path = tmp_path / "userlist.txt"
    path.write_text("".join(f'"{user}" "{secret}"\n' for user, secret in PASSWORDS.items()))
    path.chmod(0o644)
    return path


SCRIPT = """\
SELECT current_user, current_database();
SET statement_timeout = '5s';
SHOW statement_timeout;
SELECT 1/0;
BEGIN;
CREATE TEMPORARY TABLE t (a int) ON COMMIT DROP;
INSERT INTO t SELECT generate_series(1, 3);
SELECT sum(a) FROM t;
SAVEPOINT s;
SELECT nothing;
ROLLBACK TO s;
COMMIT;
PREPARE p AS SELECT $1::int + 1;
EXECUTE p(41);
COPY (SELECT generate_series(1, 3)) TO STDOUT;
SELECT 1 AS a, 'x'::text AS b, now() AS c \\gdesc
SELECT 'one'; SELECT 'two' \\; SELECT 'three';
LISTEN channel;
NOTIFY channel;
DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 5);
FETCH 2 FROM c;
CLOSE c;
SELECT current_setting('application_name'), current_setting('TimeZone');
RESET ALL;
\\connect - alice
SELECT current_user;
"""


def psql(port: int) -> str:
    """What a session of psql with the script shows, less what names the server process."""
    environment = {**os.environ, "PGPASSWORD": PASSWORDS["app"], "PGTZ": "Asia/Tokyo"}
    environment["PGAPPNAME"] = "moved"
    psql = find_binaries() / "psql"
    done = subprocess.run(
        [psql, "-X", "-h", "127.0.0.1", "-p", str(port), "-U", "app", "app"],
        input=SCRIPT.replace("\\connect - alice", f"\\connect {alice(port)}"),
        capture_output=True,
        text=True,
        timeout=30,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    shown = (done.stdout + done.stderr).replace(str(port), "PORT")
    lines = [line for line in shown.splitlines() if "Asynchronous notification" not in line]
    return "\n".join(lines)


def alice(port: int) -> str:
    """A connection string of psql's."""
    words = f"host=127.0.0.1 port={port} dbname=app user=alice password={PASSWORDS['alice']}"
    return f'"{words}"'


def ini(postgres: Postgres, userlist: Path, more: str = "") -> str:
    """A configuration for both."""
    return f"""
[databases]
app = host={postgres.host} port={postgres.port}
* = host={postgres.host} port={postgres.port}
[users]
bob = pool_mode=session
[pgbouncer]
auth_type = md5
auth_file = {userlist}
default_pool_size = 3
{more}
"""


@pytest.mark.parametrize("auth_type", ["md5", "scram-sha-256", "plain"])
def test_psql_sees_the_same(
    auth_type: str, postgres: Postgres, userlist: Path, run_ini: RunIni, pgbouncer: PgBouncer
) -> None:
    """Directly, through PgBouncer and through us, with one file."""
    text = ini(postgres, userlist, "pool_mode = session").replace("md5", auth_type)
    assert pgbouncer.start(text)
    ours = run_ini(text)
    theirs = psql(pgbouncer.port)
    assert psql(ours.port) == theirs
    assert "division by zero" in theirs
    assert "alice" in theirs


def test_psql_gets_through(postgres: Postgres, userlist: Path, run_ini: RunIni) -> None:
    """Also in transaction mode, where PgBouncer would lose the session's state."""
    ours = run_ini(ini(postgres, userlist, "pool_mode = transaction\ndisable_pqexec = 1"))
    assert psql(ours.port) == psql(postgres.port)
    assert ours.log_contains(event="setting not supported")
    event = next(e for e in ours.log if e["event"] == "setting not supported")
    assert "disable_pqexec" in event["setting"]


def test_reload_reads_the_ini_and_what_it_includes(
    postgres: Postgres, userlist: Path, run_ini: RunIni, tmp_path: Path
) -> None:
    more = tmp_path / "more.ini"
    more.write_text("min_pool_size = 1\n")
    ours = run_ini(ini(postgres, userlist, f"%include {more}"))
    with ours.connect() as connection:
        connection.execute("SELECT 1")
        more.write_text("default_pool_size = 7\n")
        event = ours.reload(ours.config)
        assert sorted(event["changes"]) == [
            "defaults.min_pool_size: 1 -> 0",
            "defaults.pool_size: 3 -> 7",
        ]
        broken = ours.config["ini"].replace("auth_type", "auth_typo")
        event = ours.reload({"ini": broken})
        assert event["event"] == "reload failed"
        (problem,) = event["problems"]
        line = broken[: broken.index("auth_typo")].count("\n") + 1
        assert problem.startswith(f"{ours.config_path}:{line}: auth_typo: is not a setting")
        assert connection.execute("SELECT 2").fetchone() == (2,)


def test_a_changed_file_is_noticed(
    postgres: Postgres, userlist: Path, run_ini: RunIni, tmp_path: Path
) -> None:
    more = tmp_path / "more.ini"
    more.write_text("")
    ours = run_ini(ini(postgres, userlist, f"%include {more}"))
    more.write_text("verbose = 1\n")
    wait_until(lambda: ours.log_contains(event="reloaded"), timeout=10)


def test_user_settings_come_along(postgres: Postgres, userlist: Path, run_ini: RunIni) -> None:
    ours = run_ini(ini(postgres, userlist, "pool_mode = statement"))
    with pytest.raises(psycopg.Error), ours.connect("app") as connection:
        connection.execute("BEGIN; SELECT 1")
    assert ours.log_contains(reason="transaction block in statement mode")
    with ours.connect("bob") as connection:
        connection.execute("BEGIN")
        connection.execute("COMMIT")


def test_the_console_is_for_the_same_users(
    postgres: Postgres, userlist: Path, run_ini: RunIni
) -> None:
    """What PgBouncer shows of its configuration, by its names."""
    ours = run_ini(ini(postgres, userlist, "admin_users = alice\nstats_users = bob, app"))
    with ours.connect("alice", "pgbouncer") as console:
        rows = console.execute("SHOW CONFIG").fetchall()
        assert {row[0]: row[1] for row in rows}["default_pool_size"] == "3"
        console.execute("RELOAD")
    with ours.connect("bob", "pgbouncer") as console:
        console.execute("SHOW POOLS")
        with pytest.raises(psycopg.Error, match="admin"):
            console.execute("RELOAD")
    with pytest.raises(psycopg.OperationalError):
        ours.connect("trustuser", "pgbouncer")


def test_check_and_import(postgres: Postgres, userlist: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "pgbouncer.ini", tmp_path / "pooler.yaml"
    source.write_text(ini(postgres, userlist, "listen_addr = 127.0.0.1"))
    done = run("check", "--ini", source)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{source}: ok, 2 database(s)\n"
    done = run("import", source, "-o", target)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{source}: ")
    for secret in PASSWORDS.values():
        assert secret not in done.stdout + target.read_text()
    assert run("check", target).returncode == 0
    again = run("import", source, "-o", target)
    assert again.returncode == 1
    assert "File exists" in again.stderr
    printed = run("import", source)
    assert printed.stdout == target.read_text()
    assert "Kept" in printed.stderr


def test_wrong_use(tmp_path: Path) -> None:
    missing = run("import", tmp_path / "none.ini")
    assert missing.returncode == 2
    assert missing.stderr == f"{tmp_path}/none.ini: can not be read: No such file or directory\n"
    both = run("check", "a.yaml", "--ini", "b.ini")
    assert both.returncode == 2
    assert "not allowed with" in both.stderr

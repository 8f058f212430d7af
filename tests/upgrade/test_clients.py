"""What becomes of each kind of client when the pooler is replaced."""

import threading
from functools import partial
from pathlib import Path

import psycopg
import pytest

from tests.adversity.witness import Census, login, until
from tests.support import rawclient as raw
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient
from tests.tls.certificates import Authority
from tests.upgrade.conftest import StartLine
from tests.upgrade.line import Line, measured, metrics


def start_of_upgrade(line: Line) -> int:
    """Have a successor serve, whoever is still with the old process; return its process id."""
    seen = line.ask()
    pid: int = line.event(seen, event="replaced")["successor"]
    return pid


def test_half_a_message_is_completed_by_its_other_half(start_line: StartLine) -> None:
    line = start_line()
    with login(line) as client:
        question = raw.query("SELECT 'whole'")
        client.send(question[:9])
        line.upgrade()
        client.send(question[9:])
        assert raw.rows(client.read_until()) == [[b"whole"]]


def test_what_is_sent_while_nobody_reads_is_not_lost(start_line: StartLine) -> None:
    line = start_line()
    with login(line) as client:
        total = 0
        done = threading.Event()

        def ask() -> None:
            nonlocal total
            while not done.is_set():
                big = b"x" * 300_000
                client.send(raw.query(f"SELECT length('{big.decode()}')"))
                assert raw.rows(client.read_until()) == [[b"300000"]]
                total += 1

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            until(lambda: total > 3)
            line.upgrade()
            seen = total
            until(lambda: total > seen + 3)
        finally:
            done.set()
            thread.join()


def test_who_is_in_a_transaction_follows_when_it_ends(start_line: StartLine) -> None:
    line = start_line()
    with login(line) as client:
        client.values("BEGIN")
        (mine,) = client.values("SELECT pg_backend_pid()")
        old = line.pid
        seen = line.ask()
        line.event(seen, event="replaced")
        assert client.values("SELECT pg_backend_pid()") == [mine]
        seen_again = line.ask()
        failure = line.event(seen_again, event="upgrade failed")
        assert "an upgrade is under way" in failure["message"]
        client.values("COMMIT")
        upgraded = line.event(seen, event="upgraded")
        assert upgraded["old"] == old
        assert upgraded["clients"] == 1
        line.follow(upgraded["pid"])
        assert client.values("SELECT 1") == [[b"1"]]


def test_who_waits_for_a_server_waits_on(start_line: StartLine) -> None:
    line = start_line(
        databases={"*": {"pool_size": 1}},
        timeouts={"query_wait_notify": 0, "query_wait_timeout": 0},
    )
    with login(line) as busy, login(line) as waiting:
        busy.values("BEGIN")
        waiting.send(raw.query("SELECT 'at last'"))
        until(lambda: waiters(line) == 1)
        pid = start_of_upgrade(line)
        assert waiting.is_silent()
        busy.values("COMMIT")
        assert raw.rows(waiting.read_until()) == [[b"at last"]]
        line.follow(pid)
        assert busy.values("SELECT 1") == [[b"1"]]


def test_a_pinned_client_follows_when_its_pin_ends(start_line: StartLine) -> None:
    line = start_line()
    with login(line) as client:
        client.values("SELECT pg_advisory_lock(42)")
        pid = start_of_upgrade(line)
        client.values("SELECT 1")
        client.values("SELECT pg_advisory_unlock(42)")
        line.follow(pid)
        assert client.values("SELECT 2") == [[b"2"]]


def test_both_processes_share_one_place(
    start_line: StartLine, postgres: Postgres, database: str
) -> None:
    """A client that stays with the old one, and those of the new one, by turns."""
    line = start_line(
        databases={"*": {"pool_size": 1}},
        timeouts={"query_wait_notify": 0, "query_wait_timeout": 0},
    )
    with login(line) as stays, login(line) as moves:
        stays.values("SELECT pg_advisory_lock(43)")
        pid = start_of_upgrade(line)
        moves.send(raw.query("SELECT 'mine'"))
        assert moves.is_silent()
        assert len(postgres.backends(database)) == 1
        stays.values("SELECT pg_advisory_unlock(43)")
        assert raw.rows(moves.read_until()) == [[b"mine"]]
        line.follow(pid)


def test_a_session_keeps_its_server_until_it_leaves(start_line: StartLine) -> None:
    line = start_line(databases={"*": {"pool_mode": "session"}})
    with login(line) as client:
        client.values("CREATE TEMP TABLE mine (n int)")
        pid = start_of_upgrade(line)
        assert client.values("SELECT count(*) FROM mine") == [[b"0"]]
        client.send(raw.terminate())
        line.follow(pid)


def test_tls_clients_stay_and_are_told_in_the_end(start_line: StartLine, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate = authority.issue("pooler")
    line = start_line(
        tls={"cert_file": str(certificate.cert), "key_file": str(certificate.key)},
        upgrade={"timeout": 3},
    )
    with line.connect(sslmode="require") as client:
        pid = start_of_upgrade(line)
        assert client.execute("SELECT 1").fetchone() == (1,)
        with line.connect(sslmode="require") as another:
            assert another.execute("SELECT 1").fetchone() == (1,)
            line.follow(pid)
            with pytest.raises(psycopg.errors.AdminShutdown):
                client.execute("SELECT 1")
            assert another.execute("SELECT 2").fetchone() == (2,)


def test_cancel_requests_find_their_client(start_line: StartLine) -> None:
    line = start_line()
    with login(line) as stays, login(line) as moves:
        stays.values("BEGIN")
        pid = start_of_upgrade(line)
        until(lambda: measured(line, "pooler_client_connections") == 1)
        for client in (stays, moves):
            client.send(raw.query("SELECT pg_sleep(60)"))
            assert client.is_silent(0.3)
            with RawClient(line.host, line.port) as canceller:
                canceller.send(raw.cancel_request(client.pid, client.key))
                assert canceller.is_closed()
            fields = raw.error_fields(next(b for k, b in client.read_until() if k == b"E"))
            assert fields["C"] == "57014"
        stays.values("ROLLBACK")
        line.follow(pid)


def test_other_sockets_go_over_too(start_line: StartLine, tmp_path: Path) -> None:
    """The unix socket and that of Prometheus; a setting that needs a new process is changed."""
    line = start_line(
        listen={"unix_socket_dir": str(tmp_path), "port": 0},
        databases={"*": {"password": PASSWORDS["app"]}},
    )
    path = next(p for p in tmp_path.iterdir() if p.name.startswith(".s.PGSQL"))
    with RawClient(str(tmp_path), int(path.name.rpartition(".")[2])) as client:
        client.login("app", "app", PASSWORDS["app"])
        inode = path.stat().st_ino
        line.config["listen"]["unix_socket_mode"] = "0700"
        line._write(line.config)
        line.upgrade()
        assert client.values("SELECT 1") == [[b"1"]]
        assert path.stat().st_ino == inode
        assert path.stat().st_mode & 0o777 == 0o700
    assert "pooler_build_info" in metrics(line)


def waiters(line: Line) -> float:
    """How many clients wait, by its metrics."""
    return measured(line, r'^pooler_clients\{.*state="waiting".*\} (\S+)$')


def test_both_processes_are_served_by_turns(
    start_line: StartLine, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    """One place: a client that stays with the old process, and one of the new one."""
    certificate = Authority(tmp_path).issue("pooler")
    line = start_line(
        tls={"cert_file": str(certificate.cert), "key_file": str(certificate.key)},
        databases={"*": {"pool_size": 1}},
    )
    answers = {"stays": 0, "moves": 0}
    faults: list[BaseException] = []
    done = threading.Event()

    def ask(name: str, client: psycopg.Connection[tuple[int]]) -> None:
        try:
            while not done.is_set():
                assert client.execute("SELECT 1").fetchone() == (1,)
                answers[name] += 1
        except BaseException as error:
            faults.append(error)

    with (
        line.connect(sslmode="require") as stays,
        line.connect(sslmode="disable") as moves,
        Census(postgres, database, limit=1),
    ):
        pid = start_of_upgrade(line)
        threads = [
            threading.Thread(target=ask, args=("stays", stays)),
            threading.Thread(target=ask, args=("moves", moves)),
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                wanted = {name: count + 1 for name, count in answers.items()}
                until(partial(_reached, answers, wanted, faults), 30)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert faults == []
        stays.close()
        line.follow(pid)


def _reached(found: dict[str, int], wanted: dict[str, int], faults: list[BaseException]) -> bool:
    return bool(faults) or all(found[name] >= wanted[name] for name in wanted)

"""Several workers are one pooler: one size, one limit, one cancel, one reload, one end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from tests.conftest import RunWithConfig
from tests.support.pooler import Config, Pooler
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.processes import children
from tests.support.waiting import wait_until
from tests.workers.spread import everywhere

Row = tuple[Any, ...]


def worker_pids(pooler: Pooler) -> list[int]:
    """The processes of the workers, by their numbers as far as that can be told."""
    return children(pooler.pid)


class Watch:
    """Looks all the time how many backends there are."""

    def __init__(self, postgres: Postgres, database: str) -> None:
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(postgres, database))

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self, postgres: Postgres, database: str) -> None:
        count = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = %s AND backend_type = 'client backend'"
        )
        with postgres.connect() as connection:
            while not self._over.is_set():
                row = connection.execute(count, [database]).fetchone()
                assert row is not None
                self.most = max(self.most, row[0])
                time.sleep(0.002)


def test_clients_of_all_workers_share_the_pool_size(
    run_with_config: RunWithConfig, postgres: Postgres, make_database: Any
) -> None:
    database = make_database()
    pooler = run_with_config(workers=3, databases={"*": {"pool_size": 4}})
    assert len(worker_pids(pooler)) == 3
    answers: Counter[int] = Counter()

    def client(number: int) -> None:
        with pooler.connect(dbname=database) as connection:
            for turn in range(20):
                sql = "SELECT %s, pg_backend_pid(), pg_sleep(0.002)"
                row = connection.execute(sql, [number * 100 + turn]).fetchone()
                assert row is not None
                assert row[0] == number * 100 + turn
                answers[row[1]] += 1

    with Watch(postgres, database) as watch, ThreadPoolExecutor(40) as threads:
        list(threads.map(client, range(40)))
    assert answers.total() == 800
    assert 1 < watch.most <= 4


def test_one_connection_serves_the_clients_of_all_workers(
    run_with_config: RunWithConfig, postgres: Postgres, make_database: Any
) -> None:
    database = make_database()
    pooler = run_with_config(workers=3, databases={"*": {"pool_size": 1}})
    with Watch(postgres, database) as watch, ExitStack() as stack:
        clients = [stack.enter_context(pooler.connect(dbname=database)) for _ in range(12)]
        for _ in range(2):
            with ThreadPoolExecutor(12) as threads:
                list(threads.map(lambda one: one.execute("SELECT pg_sleep(0.02)"), clients))
    assert watch.most == 1


def test_idle_connections_move_to_where_clients_wait(
    run_with_config: RunWithConfig, make_database: Any
) -> None:
    """Whichever workers clients come to, four transactions at the same time are possible."""
    database = make_database()
    pooler = run_with_config(workers=2, databases={"*": {"pool_size": 4}})
    for _ in range(6):
        with ExitStack() as stack:
            for _ in range(4):
                client = stack.enter_context(pooler.connect(dbname=database, autocommit=False))
                client.execute("SELECT 1")


def test_client_limits_hold_for_all_workers_together(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(
        workers=3,
        limits={"max_client_connections": 10},
        databases={"few": {"host": "127.0.0.1", "max_client_connections": 3}},
    )
    with ExitStack() as stack:
        clients = [stack.enter_context(pooler.connect()) for _ in range(10)]
        with pytest.raises(psycopg.OperationalError, match="max_client_connections"):
            pooler.connect()
        clients[4].close()
        wait_until(lambda: _comes_in(pooler, stack))


def _comes_in(pooler: Pooler, stack: ExitStack) -> bool:
    try:
        stack.enter_context(pooler.connect())
    except psycopg.OperationalError:
        return False
    return True


def test_cancel_finds_its_client_whichever_worker_it_comes_to(
    run_with_config: RunWithConfig,
) -> None:
    pooler = run_with_config(workers=3)
    with ThreadPoolExecutor(8) as threads, ExitStack() as stack:
        clients = [stack.enter_context(pooler.connect()) for _ in range(8)]
        running = [threads.submit(client.execute, "SELECT pg_sleep(30)") for client in clients]
        for client, query in zip(clients, running, strict=True):
            while not query.done():
                client.cancel_safe()
                time.sleep(0.02)
            assert isinstance(query.exception(), psycopg.errors.QueryCanceled)


def test_reload_reaches_all_workers(run_with_config: RunWithConfig, make_database: Any) -> None:
    database = make_database()
    pooler = run_with_config(workers=2, databases={"*": {"pool_size": 1}})
    with ExitStack() as stack:
        for size in (6, 2, 5):
            config = {**pooler.config, "databases": {"*": {**_target(pooler), "pool_size": size}}}
            assert pooler.reload(config)["event"] == "reloaded"
            with ExitStack() as busy:
                for _ in range(size):
                    client = busy.enter_context(pooler.connect(dbname=database, autocommit=False))
                    client.execute("SELECT 1")
        client = stack.enter_context(pooler.connect(dbname=database))
        bad = {**pooler.config, "auth": {"type": "nonsense"}}
        assert pooler.reload(bad)["event"] == "reload failed"
        client.execute("SELECT 1")
        pooler.connect(dbname=database).close()


def _target(pooler: Pooler) -> dict[str, Any]:
    target: dict[str, Any] = pooler.config["databases"]["*"]
    return target


def test_worker_that_dies_costs_its_own_clients_only(
    run_with_config: RunWithConfig, postgres: Postgres, make_database: Any
) -> None:
    database = make_database()
    pooler = run_with_config(workers=2, databases={"*": {"pool_size": 3}})
    with ExitStack() as stack:
        clients = everywhere(pooler, stack, 10, workers=2, dbname=database)
        for client in clients:
            client.execute("SELECT 1")
        victim = worker_pids(pooler)[0]
        os.kill(victim, signal.SIGKILL)
        pooler.wait_for_log(30, event="worker restarted")
        assert victim not in worker_pids(pooler)
        alive = [client for client in clients if _answers(client)]
        assert 0 < len(alive) < 10
        with ExitStack() as more, Watch(postgres, database) as watch:
            crowd = [more.enter_context(pooler.connect(dbname=database)) for _ in range(10)]
            with ThreadPoolExecutor(10) as threads:
                list(threads.map(lambda one: one.execute("SELECT pg_sleep(0.01)"), crowd))
        assert watch.most <= 3
        for client in alive:
            client.execute("SELECT 1")


def _answers(client: psycopg.Connection[Row]) -> bool:
    try:
        client.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def test_connections_wait_while_a_worker_is_restarted(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(workers=2)
    failed = threading.Event()
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            try:
                pooler.connect(connect_timeout=10).close()
            except psycopg.OperationalError as error:
                if "refused" in str(error):
                    failed.set()

    threads = [threading.Thread(target=come_and_go) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        os.kill(worker_pids(pooler)[0], signal.SIGKILL)
        pooler.wait_for_log(30, event="worker restarted")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failed.is_set()


def test_stop_lets_transactions_finish(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(workers=2)
    with ExitStack() as stack:
        clients = [stack.enter_context(pooler.connect(autocommit=False)) for _ in range(4)]
        for client in clients:
            client.execute("SELECT 1")
        pooler._expects_end = True
        pooler.signal(signal.SIGTERM)
        pooler.wait_for_log(event="stopping")
        for client in clients:
            client.execute("SELECT 2")
            client.commit()
        assert pooler.wait() == 0
    with pytest.raises(psycopg.OperationalError):
        pooler.connect()


def test_supervisor_that_is_killed_takes_its_workers_along(
    run_with_config: RunWithConfig,
) -> None:
    pooler = run_with_config(workers=2)
    pids = worker_pids(pooler)
    with pooler.connect() as client:
        client.execute("SELECT 1")
        pooler.kill()
        wait_until(lambda: not any(_lives(pid) for pid in pids))


def test_worker_whose_supervisor_is_killed_while_it_starts(
    default_config: Config, tmp_path: Path
) -> None:
    path = tmp_path / "pooler.yaml"
    path.write_text(yaml.safe_dump(default_config))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "pooler", "run", str(path), "--worker", "0/2"]
        file = theirs.fileno()
        worker = subprocess.Popen([*command, str(file)], pass_fds=[file])
        theirs.close()
        ours.settimeout(60)
        assert b"here" in ours.recv(1000)
    assert worker.wait(60) == 1


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_unix_socket_is_served_by_all(run_with_config: RunWithConfig, tmp_path: Path) -> None:
    listen = {"host": "", "port": 6432, "unix_socket_dir": str(tmp_path)}
    pooler = run_with_config(workers=2, listen=listen)
    for _ in range(6):
        dsn = f"host={tmp_path} port=6432 user=app password={PASSWORDS['app']} dbname=app"
        with psycopg.connect(dsn) as client:
            client.execute("SELECT 1")
    pooler.terminate()
    assert not (tmp_path / ".s.PGSQL.6432").exists()


def test_min_pool_size_is_kept_warm_once(
    run_with_config: RunWithConfig, postgres: Postgres, make_database: Any
) -> None:
    database = make_database()
    target = {"host": postgres.host, "port": postgres.port, "user": "app"}
    run_with_config(workers=2, databases={database: {**target, "min_pool_size": 3, "pool_size": 5}})
    count = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = %s AND backend_type = 'client backend'"
    )
    with postgres.connect() as connection:

        def backends() -> int:
            row = connection.execute(count, [database]).fetchone()
            assert row is not None
            return int(row[0])

        wait_until(lambda: backends() == 3)
        time.sleep(0.3)
        assert backends() == 3


def test_what_people_see_is_one_pooler(
    run_with_config: RunWithConfig, make_database: Callable[[], str]
) -> None:
    database = make_database()
    pooler = run_with_config(workers=3, databases={"*": {"pool_size": 6}})

    def get(path: str) -> str:
        url = f"http://127.0.0.1:{pooler.metrics_port}{path}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    with ExitStack() as stack:
        clients = everywhere(pooler, stack, 12, workers=3, dbname=database)
        for client in clients:
            client.execute("SELECT 1")
        view = json.loads(get(f"/api/clients?database={database}"))
        assert view["total"] == 12
        numbers = [row[[c["name"] for c in view["columns"]].index("id")] for row in view["rows"]]
        assert len(set(numbers)) == 12
        assert f'pooler_clients{{database="{database}",user="app",state="idle"}} 12' in get(
            "/metrics"
        )
        used = dict(
            re.findall(r'^pooler_process_open_fds\{process="(\w+)"\} (\S+)$', get("/metrics"), re.M)
        )
        assert used.keys() == {"0", "1", "2", "supervisor"}
        assert json.loads(get("/readyz"))["status"] == "ready"
        os.kill(worker_pids(pooler)[-1], signal.SIGKILL)
        pooler.wait_for_log(30, event="worker restarted")
        assert json.loads(get("/healthz"))["status"] == "ok"
        assert 0 < json.loads(get(f"/api/clients?database={database}"))["total"] < 12


class _WithOptions(Pooler):
    command = (sys.executable, "-X", "utf8", "-m", "pooler")


def test_workers_are_run_by_the_same_python(default_config: Config, tmp_path: Path) -> None:
    """With its options, and from the same place: a worker of another build would be slow, say."""
    pooler = _WithOptions({**default_config, "workers": 2}, tmp_path)
    pooler.start()
    try:
        own = Path(f"/proc/{pooler.pid}/cmdline").read_bytes().split(b"\0")[:5]
        assert own[1:3] == [b"-X", b"utf8"]
        pids = worker_pids(pooler)
        assert len(pids) == 2
        for pid in pids:
            assert Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:5] == own
    finally:
        pooler.close()

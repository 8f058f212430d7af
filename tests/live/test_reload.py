"""Reloads drop nobody, shutdowns lose nothing, and whoever starts us is told."""

import os
import signal
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import RunWithConfig
from tests.live.conftest import Login
from tests.live.crowds import crowd
from tests.support import rawclient as raw
from tests.support.pooler import Config, Pooler, merged
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient, ServerError
from tests.support.waiting import wait_until


def reload_with(pooler: Pooler, **overrides: object) -> None:
    """Lay these on the configuration, and reload; it must succeed."""
    event = pooler.reload(merged(pooler.config, overrides))
    assert event["event"] == "reloaded", event


def fatal(client: RawClient) -> dict[str, str]:
    """The error that ends this client's connection."""
    kind, body = client.read_until(b"E")[-1]
    assert kind == b"E"
    assert client.is_closed()
    fields = raw.error_fields(body)
    assert fields["V"] == "FATAL"
    return fields


# Reload.


def test_pool_grows_and_shrinks_under_load(
    run_with_config: RunWithConfig, postgres: Postgres, make_database: Callable[[], str]
) -> None:
    """Clients notice nothing, and the server count follows."""
    database = make_database()
    pooler = run_with_config(
        auth={"type": "trust"},
        databases={"*": {"pool_size": 3}},
        logging={"log_connections": False},
    )

    def count() -> int:
        return len(postgres.backends(database))

    with crowd(pooler, database, clients=60, seconds=4) as clients:
        for size in (3, 9, 2, 6):
            if size != 3:
                reload_with(pooler, databases={"*": {"pool_size": size}})
            wait_until(lambda size=size: count() == size)  # type: ignore[misc]
        assert clients.busy
        clients.finish()
    assert not pooler.log_contains(event="client closed", reason="server connection lost")


def test_file_change_and_symlink_swap(run_with_config: RunWithConfig, login: Login) -> None:
    """As Kubernetes updates a ConfigMap: file -> ..data/file, ..data -> a folder, swapped."""
    pooler = run_with_config(limits={"max_client_connections": 50})
    path = pooler.config_path
    volume = path.parent

    def publish(name: str, limit: int) -> None:
        (volume / name).mkdir()
        config = merged(pooler.config, {"limits": {"max_client_connections": limit}})
        (volume / name / path.name).write_text(yaml.safe_dump(config))
        (volume / "..new").symlink_to(name)
        (volume / "..new").replace(volume / "..data")

    publish("one", 51)
    path.unlink()
    path.symlink_to(f"..data/{path.name}")
    (first,) = wait_changes(pooler, 1)
    assert "51" in str(first)
    publish("two", 52)
    assert "52" in str(wait_changes(pooler, 2)[1])
    target = volume / "two" / path.name
    target.write_text(target.read_text().replace("52", "53"))
    assert "53" in str(wait_changes(pooler, 3)[2])


def wait_changes(pooler: Pooler, count: int) -> list[object]:
    """What each reload so far has changed, once there were so many."""

    def found() -> list[object]:
        return [event["changes"] for event in pooler.log if event.get("event") == "reloaded"]

    wait_until(lambda: len(found()) >= count)
    return found()


@pytest.mark.parametrize("mistake", ["unknown", "value", "syntax", "port"])
def test_bad_file_changes_nothing(
    run_with_config: RunWithConfig, login: Login, mistake: str
) -> None:
    pooler = run_with_config()
    client = login(at=pooler)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = yaml.safe_dump({**pooler.config, "limits": {"max_client_connections": 1}})
        text += {
            "unknown": "no_such_section: 1\n",
            "value": "timeouts: {query_timeout: soon}\n",
            "syntax": "timeouts: {query_timeout: 1\n",
            "port": "",
        }[mistake]
        if mistake == "port":
            text = text.replace("port: 0", f"port: {port}", 1)
        pooler.config_path.write_text(text)
        pooler.signal(signal.SIGHUP)
        event = pooler.wait_for_log(event="reload failed")
    (problem, *_) = event["problems"]
    if mistake == "port":
        assert str(port) in problem
    else:
        assert problem.startswith(f"{pooler.config_path}:")
        assert problem.split(":")[1].isdigit()
    assert client.values("SELECT 1") == [[b"1"]]
    assert login(at=pooler).values("SELECT 2") == [[b"2"]]  # a second one: the limit is not 1


def test_forced_user_changed(
    run_with_config: RunWithConfig,
    login: Login,
    postgres: Postgres,
    make_database: Callable[[], str],
) -> None:
    name = make_database()
    entry = {"host": postgres.host, "port": postgres.port, "dbname": name, "user": "alice"}
    pooler = run_with_config(databases={"forced": entry})
    idle, busy = login("app", "forced", at=pooler), login("app", "forced", at=pooler)
    who = "SELECT current_user::text"
    assert idle.values(who) == [[b"alice"]]
    busy.query("BEGIN")
    reload_with(pooler, databases={"forced": {"user": "bob"}})
    assert idle.values(who) == [[b"bob"]]
    assert busy.values(who) == [[b"alice"]]
    busy.query("COMMIT")
    assert busy.values(who) == [[b"bob"]]
    wait_until(lambda: {found["usename"] for found in postgres.backends(name)} == {"bob"})


def test_target_changed(
    run_with_config: RunWithConfig, login: Login, make_database: Callable[[], str]
) -> None:
    pooler = run_with_config(databases={"*": {"dbname": "app"}})
    where = "SELECT current_database()::text"
    client, busy = login("app", "name", at=pooler), login("app", "name", at=pooler)
    assert client.values(where) == [[b"app"]]
    busy.query("BEGIN")
    reload_with(pooler, databases={"*": {"dbname": "other"}})
    assert client.values(where) == [[b"other"]]
    assert busy.values(where) == [[b"app"]]
    busy.query("COMMIT")
    assert busy.values(where) == [[b"other"]]


def test_database_removed(run_with_config: RunWithConfig, login: Login, postgres: Postgres) -> None:
    entry = {"host": postgres.host, "port": postgres.port}
    pooler = run_with_config(databases={"*": None, "app": entry, "other": entry})
    idle, busy, kept = (login("app", name, at=pooler) for name in ("app", "app", "other"))
    idle.query("SELECT 1")
    busy.query("BEGIN")
    reload_with(pooler, databases={"app": None})
    assert fatal(idle)["C"] == "57P01"
    assert busy.values("SELECT 1") == [[b"1"]]
    assert busy.query("COMMIT")[0] == (b"C", b"COMMIT\0")
    assert fatal(busy)["C"] == "57P01"
    assert kept.values("SELECT 1") == [[b"1"]]
    with pytest.raises(ServerError, match="3D000"):
        login("app", "app", at=pooler)
    reload_with(pooler, databases={"app": entry})
    assert login("app", "app", at=pooler).values("SELECT 1") == [[b"1"]]


def test_listening_elsewhere(run_with_config: RunWithConfig, login: Login) -> None:
    pooler = run_with_config()
    client = login(at=pooler)
    before, metrics = pooler.port, pooler.metrics_port
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, metrics_port = one.getsockname()[1], two.getsockname()[1]
    reload_with(pooler, listen={"port": port}, metrics={"listen": f"127.0.0.1:{metrics_port}"})
    assert client.values("SELECT 1") == [[b"1"]]  # connected before: nobody is dropped
    with pytest.raises(ConnectionRefusedError):
        RawClient(pooler.host, before)
    with RawClient(pooler.host, port) as other:
        other.login("app", "app", PASSWORDS["app"])
    assert b"pooler_build_info" in fetch(metrics_port)
    with pytest.raises(OSError, match="refused"):
        fetch(metrics)
    reload_with(pooler, metrics=None)
    with pytest.raises(OSError, match="refused"):
        fetch(metrics_port)


def fetch(port: int, path: str = "/metrics") -> bytes:
    """A page of the metrics server."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
        body: bytes = response.read()
        return body


# The end.


def test_sigterm(run_with_config: RunWithConfig, login: Login) -> None:
    """Idle clients are told, a transaction is finished, nobody comes in, the status is 0."""
    pooler = run_with_config(databases={"*": {"pool_size": 1}})
    idle, busy, waiting = (login(at=pooler) for _ in range(3))
    busy.query("BEGIN")
    waiting.send(raw.query("SELECT 'served'"))
    assert waiting.is_silent(0.1)
    pooler.signal(signal.SIGTERM)
    assert fatal(idle)["C"] == "57P01"
    with pytest.raises(ConnectionRefusedError):
        RawClient(pooler.host, pooler.port)
    assert busy.values("SELECT 1") == [[b"1"]]
    assert busy.query("COMMIT")[0] == (b"C", b"COMMIT\0")
    assert fatal(busy)["C"] == "57P01"
    assert raw.rows(waiting.read_until(b"C")) == [[b"served"]]
    assert fatal(waiting)["C"] == "57P01"
    assert pooler.wait() == 0
    assert pooler.log_contains(event="stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_leaves_now(
    run_with_config: RunWithConfig, login: Login, number: signal.Signals
) -> None:
    pooler = run_with_config(timeouts={"shutdown_timeout": 0})  # the first one waits for ever
    busy = login(at=pooler)
    busy.query("BEGIN")
    pooler.signal(number)
    pooler.wait_for_log(event="stopping")
    assert busy.values("SELECT 1") == [[b"1"]]
    pooler.signal(number)
    assert fatal(busy)["C"] == "57P01"
    assert pooler.wait() == 0
    assert pooler.log_contains(event="clients cut off", clients=1)


def test_shutdown_timeout(run_with_config: RunWithConfig, login: Login) -> None:
    pooler = run_with_config(timeouts={"shutdown_timeout": 0.5})
    busy = login(at=pooler)
    busy.query("BEGIN")
    assert pooler.terminate() == 0
    assert fatal(busy)["C"] == "57P01"
    assert pooler.log_contains(event="clients cut off", clients=1)


def test_no_server_session_is_left(
    run_with_config: RunWithConfig,
    login: Login,
    postgres: Postgres,
    make_database: Callable[[], str],
) -> None:
    database = make_database()
    pooler = run_with_config()
    login("app", database, at=pooler).query("SELECT 1")
    assert pooler.terminate() == 0
    assert postgres.backends(database) == []


def test_systemd_is_told(
    run_with_config: RunWithConfig, default_config: Config, leftovers: Path
) -> None:
    address = leftovers / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.settimeout(5)

        def told() -> list[str]:
            return listener.recv(4096).decode().splitlines()

        pooler = run_with_config(environment={"NOTIFY_SOCKET": str(address)})
        assert told() == ["READY=1"]
        before = time.monotonic_ns() // 1000
        os.kill(pooler.pid, signal.SIGHUP)
        state, stamp = told()
        assert state == "RELOADING=1"
        assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
        assert told() == ["READY=1"]
        pooler.signal(signal.SIGTERM)
        assert told() == ["STOPPING=1"]
        assert pooler.wait() == 0
    address.unlink()

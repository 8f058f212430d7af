"""Commands that change a running pooler: who waits stays, who works finishes, nobody is lied to."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import yaml
from psycopg import errors

from pooler.admin.settings import UNCHANGEABLE, paths
from tests.admin.conftest import ADMIN, ask, console
from tests.conftest import RunWithConfig
from tests.live.crowds import crowd
from tests.support.pooler import Pooler, merged
from tests.support.postgres import Postgres
from tests.support.waiting import wait_until

Do = Callable[..., Future[Any]]


@pytest.fixture
def soon() -> Iterator[Do]:
    """Runs something in a thread of its own: what waits, while the test goes on."""
    with ThreadPoolExecutor() as threads:
        yield threads.submit


def states(pooler: Pooler) -> dict[str, str]:
    """Each client's state, by its application_name."""
    clients = ask(pooler, "SHOW CLIENTS")
    return {row["application_name"]: row["state"] for row in clients}


# What is going on.


@pytest.mark.parametrize("prepare", [None, False, True])
def test_queries(operated: Pooler, soon: Do, prepare: bool | None) -> None:
    """What runs, for whom and since when, by either protocol; no value is shown."""
    with operated.connect(application_name="shop") as client:
        client.execute("SELECT 1")
        parameters = None if prepare is None else [3.5]
        text = "SELECT 'secret', pg_sleep(3.5)" if prepare is None else "SELECT pg_sleep(%s)"
        for _ in range(2 if prepare else 1):  # the second time, it is but bound
            running = soon(client.execute, text, parameters, prepare=prepare)
            wait_until(lambda: _running(operated) != [])
            (row,) = _running(operated)
            shown = "SELECT ?, pg_sleep(?)" if prepare is None else "SELECT pg_sleep($1)"
            assert (row["query"], row["application_name"]) == (shown, "shop")
            assert 0 <= row["query_seconds"] <= row["transaction_seconds"] < 60
            ask(operated, f"CANCEL {row['client']}")
            with pytest.raises(errors.QueryCanceled):
                running.result(10)
        wait_until(lambda: _running(operated) == [])


def _running(pooler: Pooler) -> list[dict[str, Any]]:
    rows = ask(pooler, "SHOW QUERIES")
    return [row for row in rows if row["activity"] == "active" and row["client"] is not None]


# PAUSE and RESUME.


def test_pause_lets_transactions_finish(
    operated: Pooler, postgres: Postgres, make_database: Callable[[], str], soon: Do
) -> None:
    """Then no server connection is left; clients stay, ask, wait, and go on with RESUME."""
    database = make_database()
    with operated.connect(dbname=database) as client, operated.connect(dbname=database) as other:
        other.execute("SELECT 1")
        client.execute("BEGIN")
        client.execute("CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1")
        pausing = soon(ask, operated, f"PAUSE {database}")
        wait_until(lambda: _database(operated, database)["paused"] == 1)
        assert not pausing.done()
        assert client.execute("SELECT * FROM t").fetchone() == (1,)
        client.execute("COMMIT")
        pausing.result(10)
        assert postgres.backends(database) == []
        waiting = soon(lambda: other.execute("SELECT 2").fetchone())
        wait_until(lambda: _pool(operated, database)["cl_waiting"] == 1)
        with operated.connect(dbname=database):  # logins go on, too
            ask(operated, f"RESUME {database}")
            assert waiting.result(10) == (2,)
        assert client.execute("SELECT 3").fetchone() == (3,)


def _database(pooler: Pooler, name: str) -> dict[str, Any]:
    return next(row for row in ask(pooler, "SHOW DATABASES") if row["name"] == name)


def _pool(pooler: Pooler, name: str) -> dict[str, Any]:
    return next(row for row in ask(pooler, "SHOW POOLS") if row["database"] == name)


def test_who_waits_is_told(run_with_config: RunWithConfig) -> None:
    """By a NOTICE, and by the error when the time is over that a client may wait."""
    timeouts = {"query_wait_notify": 0.1, "query_wait_timeout": 0.5}
    pooler = run_with_config(admin={"users": ADMIN}, timeouts=timeouts)
    told: list[str] = []
    with pooler.connect() as client:
        client.add_notice_handler(lambda notice: told.append(str(notice.message_primary)))
        client.execute("SELECT 1")
        ask(pooler, "PAUSE app")
        with pytest.raises(errors.CannotConnectNow, match="the database was paused"):
            client.execute("SELECT 1")
        assert told == ["the database is paused, query is waiting for it to be resumed"]
        ask(pooler, "RESUME app")
        assert client.execute("SELECT 2").fetchone() == (2,)


def test_pause_with_a_deadline(operated: Pooler) -> None:
    """It resumes by itself."""
    with operated.connect() as client:
        client.execute("SELECT 1")
        ask(operated, "PAUSE app TIMEOUT 0.3")
        assert client.execute("SELECT 2").fetchone() == (2,)
        assert _database(operated, "app")["paused"] == 0


def test_pause_that_is_not_done_in_time(operated: Pooler) -> None:
    """Is taken back, and says who is in the way."""
    with operated.connect(application_name="busy") as client:
        client.execute("BEGIN")
        with pytest.raises(errors.QueryCanceled, match="has been resumed") as failed:
            ask(operated, "PAUSE app TIMEOUT 0.2")
        assert "idle in transaction" in str(failed.value.diag.message_detail)
        assert _database(operated, "app")["paused"] == 0
        client.execute("COMMIT")


def test_pause_that_is_given_up(operated: Pooler, soon: Do) -> None:
    """By a cancel request, or because whoever wanted it has gone: nobody knows it is paused."""
    with operated.connect() as client:
        client.execute("BEGIN")
        with console(operated) as connection:
            pausing = soon(connection.execute, "PAUSE app")
            wait_until(lambda: _database(operated, "app")["paused"] == 1)
            connection.cancel()
            with pytest.raises(errors.QueryCanceled, match="due to user request"):
                pausing.result(10)
            assert _database(operated, "app")["paused"] == 0
        connection = console(operated)
        connection.pgconn.send_query(b"PAUSE app")
        wait_until(lambda: _database(operated, "app")["paused"] == 1)
        connection.close()
        wait_until(lambda: _database(operated, "app")["paused"] == 0)
        client.execute("COMMIT")


def test_pause_of_one_user(operated: Pooler, soon: Do) -> None:
    with operated.connect("app") as one, operated.connect("md5user") as two:
        two.execute("SELECT 1")
        ask(operated, "PAUSE app USER md5user")
        assert one.execute("SELECT 1").fetchone() == (1,)
        waiting = soon(lambda: two.execute("SELECT 2").fetchone())
        wait_until(lambda: ask(operated, "SHOW WAITERS") != [])
        (waiter,) = ask(operated, "SHOW WAITERS")
        assert (waiter["user"], waiter["waits_for"]) == ("md5user", "RESUME: it is paused")
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="is not paused"):
            ask(operated, "RESUME app")
        ask(operated, "RESUME app USER md5user")
        assert waiting.result(10) == (2,)


def test_pause_of_everything(operated: Pooler, soon: Do) -> None:
    """Also of what comes later; PgBouncer's errors when it is said twice."""
    ask(operated, "PAUSE")
    try:
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="already suspended/paused"):
            ask(operated, "PAUSE")
        assert ask(operated, "SHOW STATE")[1] == {"key": "paused", "value": "yes"}

        def log_in() -> object:
            with operated.connect("plainuser", "other") as client:
                return client.execute("SELECT 1").fetchone()

        waiting = soon(log_in)
        wait_until(lambda: ask(operated, "SHOW WAITERS") != [])
    finally:
        ask(operated, "RESUME")
    assert waiting.result(10) == (1,)
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="pooler is not paused/suspended"):
        ask(operated, "RESUME")


def test_listeners_go_through_a_pause(operated: Pooler) -> None:
    """Their common server connection closes as any other, and they listen again afterwards."""
    with operated.connect() as listener, operated.connect() as sender:
        listener.execute("LISTEN ch")
        ask(operated, "PAUSE app TIMEOUT 20")
        ask(operated, "RESUME app")

        def heard() -> bool:
            sender.execute("NOTIFY ch, 'x'")
            return any(listener.notifies(timeout=0.1, stop_after=1))

        wait_until(heard)


# DISABLE and ENABLE.


def test_disable(operated: Pooler) -> None:
    """Turns away who comes; who is there stays."""
    with operated.connect() as client:
        ask(operated, "DISABLE app")
        with pytest.raises(psycopg.OperationalError, match='database "app" is disabled'):
            operated.connect()
        assert client.execute("SELECT 1").fetchone() == (1,)
        with operated.connect(dbname="other"):
            pass
        assert _database(operated, "app")["disabled"] == 1
        ask(operated, "ENABLE app")
        with operated.connect():
            pass


# RECONNECT and WAIT_CLOSE.


def test_reconnect(operated: Pooler, soon: Do) -> None:
    """Free servers are replaced at once, others when they are free; WAIT_CLOSE waits for those."""
    pid = "SELECT pg_backend_pid()"
    with operated.connect() as client, operated.connect() as other:
        first = other.execute(pid).fetchone()
        client.execute("BEGIN")
        second = client.execute(pid).fetchone()
        ask(operated, "RECONNECT app")
        assert other.execute(pid).fetchone() not in (first, second)
        waiting = soon(ask, operated, "WAIT_CLOSE app")
        assert client.execute(pid).fetchone() == second
        assert not waiting.done()
        client.execute("COMMIT")
        waiting.result(10)
        assert client.execute(pid).fetchone() not in (first, second)


# KILL, KILL_CLIENT, CANCEL, UNPIN.


def test_kill(operated: Pooler, postgres: Postgres, make_database: Callable[[], str]) -> None:
    """Clients are told why, their servers are gone, new clients wait for RESUME."""
    database = make_database()
    with operated.connect(dbname=database) as client:
        client.execute("BEGIN")
        ask(operated, f"KILL {database}")
        with pytest.raises(errors.AdminShutdown):
            client.execute("SELECT 1")
    wait_until(lambda: postgres.backends(database) == [])
    assert _database(operated, database)["paused"] == 1
    ask(operated, f"RESUME {database}")
    with operated.connect(dbname=database) as client:
        client.execute("SELECT 1")


def test_cancel(operated: Pooler, soon: Do) -> None:
    """Of what runs; the client goes on."""
    with operated.connect(application_name="sleeper") as client:
        sleeping = soon(client.execute, "SELECT pg_sleep(60)")
        wait_until(lambda: states(operated).get("sleeper") == "active")
        (row,) = [
            row for row in ask(operated, "SHOW CLIENTS") if row["application_name"] == "sleeper"
        ]
        ask(operated, f"CANCEL {row['id']}")
        with pytest.raises(errors.QueryCanceled):
            sleeping.result(10)
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_unpin(operated: Pooler, postgres: Postgres, make_database: Callable[[], str]) -> None:
    """The lock is gone, the client knows, its settings are kept, and it goes on."""
    database = make_database()
    told: list[str] = []
    with operated.connect(dbname=database) as client:
        client.add_notice_handler(lambda notice: told.append(str(notice.message_primary)))
        client.execute("SET work_mem = '7MB'")
        client.execute("SELECT pg_advisory_lock(12345)")
        wait_until(lambda: ask(operated, "SHOW PINS") != [])
        (pin,) = ask(operated, "SHOW PINS")
        assert pin["reasons"] == "locks"
        client.execute("BEGIN")
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="in a transaction"):
            ask(operated, f"UNPIN {pin['client']}")
        client.execute("COMMIT")
        wait_until(lambda: _unpinned(operated, pin["client"]))
        assert client.execute("SHOW work_mem").fetchone() == ("7MB",)
        assert "session state is lost: locks" in told[0]
        assert ask(operated, "SHOW PINS") == []
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 12345"
    assert postgres.sql(locks) == [(0,)]


def _unpinned(pooler: Pooler, client: int) -> bool:
    try:
        ask(pooler, f"UNPIN {client}")
    except errors.ObjectNotInPrerequisiteState:
        return False
    return True


# SET and RELOAD.


def test_every_setting_can_be_set(operated: Pooler) -> None:
    """To what it is, by the name that SHOW CONFIG has."""
    rows = ask(operated, "SHOW CONFIG")
    lists = ("auth.hba", "auth.ident", "peers.members")  # written in files
    assert {row["key"] for row in rows} >= {".".join(path) for path in paths()}
    with console(operated) as connection:
        for row in rows:
            if row["key"] not in lists and row["changeable"] == "yes":
                value = row["value"].replace("'", "''")
                connection.execute(f"SET {row['key']} = '{value}'")
        for path in UNCHANGEABLE:
            with pytest.raises(errors.ObjectNotInPrerequisiteState):
                connection.execute(f"SET {'.'.join(path)} = 1")
        connection.execute("RELOAD")
    assert ask(operated, "SHOW CONFIG") == rows


def test_set(operated: Pooler) -> None:
    """Counts at once, by PgBouncer's name, ours, or that of one database, and until RELOAD."""
    for name, value, where in (
        ("default_pool_size", "7", "defaults.pool_size"),
        ("timeouts.query_timeout", "2min", "query_timeout"),
        ("pool_mode", "session", "pool_mode"),
        ("databases.*.pool_size", "3", None),
    ):
        ask(operated, f"SET {name} = '{value}'")
        if where is not None:
            shown = {row["key"]: row["value"] for row in ask(operated, "SHOW CONFIG")}
            assert shown[where] == {"2min": "120"}.get(value, value)
    with operated.connect() as client:
        client.execute("SELECT 1")
        assert _database(operated, "app")["pool_size"] == 3
    ask(operated, "RESET databases.*.pool_size")
    assert _database(operated, "app")["pool_size"] == 5
    ask(operated, "RELOAD")
    found = {row["setting"]: row["before"] for row in ask(operated, "SHOW RELOAD")}
    assert found["defaults.pool_size"] == "7"
    assert {row["key"]: row["value"] for row in ask(operated, "SHOW CONFIG")}[
        "query_timeout"
    ] == "0"


@pytest.mark.parametrize(
    ("command", "detail"),
    [
        ("SET default_pool_size = many", "is not a whole number"),
        ("SET default_pool_size = 0", "defaults.pool_size"),
        ("SET nonsense = 1", "There is no setting"),
        ("SET limits.nonsense = 1", "There is no setting"),
        ("SET databases.nosuch.pool_size = 1", "There is no setting"),
        ("SET tls_cert_file = '/nonexistent'", "There is no setting"),
        ("SET client_tls_cert_file = '/nonexistent'", "is of no use alone"),
    ],
)
def test_set_that_fails_changes_nothing(operated: Pooler, command: str, detail: str) -> None:
    before = ask(operated, "SHOW CONFIG")
    with pytest.raises(psycopg.Error, match="SET failed") as failed:
        ask(operated, command)
    assert detail in str(failed.value.diag.message_detail)
    assert ask(operated, "SHOW CONFIG") == before


def test_reload(run_with_config: RunWithConfig) -> None:
    """Says what has changed; or what is wrong, and then nothing has. CHECK CONFIG says before."""
    pooler = run_with_config(admin={"users": ADMIN})
    told: list[tuple[str, str]] = []
    with console(pooler) as connection:
        connection.add_notice_handler(
            lambda notice: told.append((str(notice.message_primary), str(notice.message_detail)))
        )
        good = merged(pooler.config, {"defaults": {"pool_size": 9}})
        bad = merged(pooler.config, {"defaults": {"pool_size": "many"}, "limits": {"x": 1}})
        for config in (bad, good):
            pooler.config_path.write_text(_yaml(config))
            checked = ask(pooler, "CHECK CONFIG")
            if config is bad:
                assert [row["result"] for row in checked] == ["problem", "problem"]
                with pytest.raises(errors.ConfigFileError, match="RELOAD failed") as failed:
                    connection.execute("RELOAD")
                lines = str(failed.value.diag.message_detail).splitlines()
                assert [row["text"] for row in checked] == lines
                assert "pooler.yaml:" in lines[0]
            else:
                assert checked in (
                    [{"result": "change", "text": "defaults.pool_size: 20 -> 9"}],
                    [{"result": "ok", "text": "nothing would change"}],  # it was seen meanwhile
                )
                connection.execute("RELOAD")
    wait_until(
        lambda: (
            {"setting": "defaults.pool_size", "before": "20", "now": "9"} in _changes(pooler, told)
        )
    )


def _changes(pooler: Pooler, told: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """What SHOW RELOAD shows, or what RELOAD told where the file's own reload came first."""
    if ("1 setting changed", "defaults.pool_size: 20 -> 9") in told:
        return [{"setting": "defaults.pool_size", "before": "20", "now": "9"}]
    return ask(pooler, "SHOW RELOAD")


def _yaml(config: dict[str, Any]) -> str:
    return str(yaml.safe_dump(config))


# All of it, under load.


def test_nobody_notices(run_with_config: RunWithConfig, own_postgres: Postgres) -> None:
    """200 clients through PAUSE and RESUME, RECONNECT, reloads with other sizes, and a restart of
    the server while it is paused: no error, and no wrong answer."""
    database = own_postgres.create_database()
    target = {"host": own_postgres.host, "port": own_postgres.port, "pool_size": 10}
    pooler = run_with_config(
        auth={"type": "trust"},
        admin={"users": ADMIN},
        databases={"*": target},
        logging={"log_connections": False, "log_disconnections": False},
    )
    with crowd(pooler, database, clients=200, seconds=12) as clients, console(pooler) as operator:
        wait_until(lambda: _answers(pooler, database) > 200)
        for size in (5, 3, 12, 20, 1, 8, 4, 15, 2, 10):
            operator.execute(f"SET default_pool_size = {size}")
            operator.execute(f"SET databases.*.pool_size = {size}")
            seen = _answers(pooler, database)
            wait_until(lambda seen=seen: _answers(pooler, database) > seen)  # type: ignore[misc]
        operator.execute("RELOAD")
        operator.execute(f"PAUSE {database} TIMEOUT 60")
        assert own_postgres.backends(database) == []
        own_postgres.restart()
        operator.execute(f"RESUME {database}")
        seen = _answers(pooler, database)
        wait_until(lambda: _answers(pooler, database) > seen)
        operator.execute("RECONNECT")
        operator.execute("WAIT_CLOSE")
        operator.execute("PAUSE TIMEOUT 60")
        operator.execute("RESUME")
        assert clients.busy
        tally = clients.finish()
    assert tally.answers > 200


def _answers(pooler: Pooler, database: str) -> int:
    found = [
        r["query_count"] for r in ask(pooler, "SHOW STATS_TOTALS") if r["database"] == database
    ]
    return int(sum(found))

"""How the pooler ends: by SHUTDOWN in its forms and by signals, told to clients and to probes."""

import signal
import urllib.error
import urllib.request

import psycopg
import pytest
from psycopg import errors

from tests.admin.conftest import ADMIN, console
from tests.conftest import RunWithConfig
from tests.support.pooler import Pooler
from tests.support.waiting import wait_until


def ready(pooler: Pooler) -> bool:
    """Whether /readyz says that clients should be sent here."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{pooler.metrics_port}/readyz", timeout=30).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code != 503
    return True


def test_wait_for_servers(run_with_config: RunWithConfig) -> None:
    """Idle clients are told at once, others when their transaction has ended."""
    pooler = run_with_config(admin={"users": ADMIN})
    with pooler.connect() as idle, pooler.connect() as busy, console(pooler) as operator:
        idle.execute("SELECT 1")
        busy.execute("BEGIN")
        operator.execute("SHUTDOWN WAIT_FOR_SERVERS")
        wait_until(lambda: _refuses(pooler))
        with pytest.raises(errors.AdminShutdown):
            idle.execute("SELECT 1")
        assert not ready(pooler)
        assert dict(operator.execute("SHOW STATE").fetchall())["shutting_down"] == "yes"
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="pooler is shutting down"):
            operator.execute("PAUSE")
        assert busy.execute("SELECT 1").fetchone() == (1,)
        busy.execute("COMMIT")
        assert pooler.wait() == 0


def test_wait_for_clients(run_with_config: RunWithConfig) -> None:
    """They go on until they leave; nobody new comes in."""
    pooler = run_with_config(admin={"users": ADMIN})
    with pooler.connect() as client, console(pooler) as operator:
        operator.execute("SHUTDOWN WAIT_FOR_CLIENTS")
        wait_until(lambda: not ready(pooler))
        wait_until(lambda: _refuses(pooler))
        for _ in range(3):
            assert client.execute("SELECT 1").fetchone() == (1,)
        client.close()
        assert pooler.wait() == 0


def _refuses(pooler: Pooler) -> bool:
    try:
        pooler.connect().close()
    except psycopg.OperationalError:
        return True
    return False


def test_wait_for_clients_with_a_limit(run_with_config: RunWithConfig) -> None:
    """When it is over, transactions are all that is waited for."""
    pooler = run_with_config(admin={"users": ADMIN})
    with pooler.connect() as client, console(pooler) as operator:
        operator.execute("SHUTDOWN WAIT_FOR_CLIENTS TIMEOUT 0.2")
        assert pooler.wait() == 0
        with pytest.raises(errors.AdminShutdown):
            client.execute("SELECT 1")


def test_wait_for_servers_with_a_limit(run_with_config: RunWithConfig) -> None:
    """Who is still at work then is cut off, and told."""
    pooler = run_with_config(admin={"users": ADMIN})
    with pooler.connect() as client, console(pooler) as operator:
        client.execute("BEGIN")
        operator.execute("SHUTDOWN WAIT_FOR_SERVERS TIMEOUT 0.2")
        assert pooler.wait() == 0
        with pytest.raises(errors.AdminShutdown):
            client.execute("SELECT 1")
    assert pooler.log_contains(event="clients cut off", clients=1)


def test_shutdown_at_once(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config(admin={"users": ADMIN})
    with pooler.connect() as client, console(pooler) as operator:
        client.execute("BEGIN")
        operator.execute("SHUTDOWN")
        assert pooler.wait() == 0
        with pytest.raises(errors.AdminShutdown):
            client.execute("SELECT 1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_drain_and_the_second_one_ends(
    run_with_config: RunWithConfig, number: signal.Signals
) -> None:
    pooler = run_with_config()
    with pooler.connect() as client:
        client.execute("BEGIN")
        pooler.signal(number)
        pooler.wait_for_log(event="stopping")
        assert client.execute("SELECT 1").fetchone() == (1,)
        pooler.signal(number)
        assert pooler.wait() == 0
        client.close()


def test_sigquit_waits_for_nobody(run_with_config: RunWithConfig) -> None:
    pooler = run_with_config()
    with pooler.connect() as client:
        client.execute("BEGIN")
        pooler.signal(signal.SIGQUIT)
        assert pooler.wait() == 0
        client.close()


def test_signal_while_clients_are_waited_for(run_with_config: RunWithConfig) -> None:
    """SIGTERM is more haste than WAIT_FOR_CLIENTS: transactions may still end."""
    pooler = run_with_config(admin={"users": ADMIN})
    with pooler.connect() as client, console(pooler) as operator:
        operator.execute("SHUTDOWN WAIT_FOR_CLIENTS")
        client.execute("BEGIN")
        pooler.signal(signal.SIGTERM)
        assert client.execute("SELECT 1").fetchone() == (1,)
        client.execute("COMMIT")
        assert pooler.wait() == 0


def test_probes_are_told_first(run_with_config: RunWithConfig) -> None:
    """For `shutdown_delay` everything goes on, but for /readyz."""
    pooler = run_with_config(timeouts={"shutdown_delay": 600})
    with pooler.connect() as client:
        pooler.signal(signal.SIGTERM)
        pooler.wait_for_log(event="stopping")
        assert not ready(pooler)
        assert client.execute("SELECT 1").fetchone() == (1,)
        with pooler.connect() as late:
            assert late.execute("SELECT 1").fetchone() == (1,)
        pooler.signal(signal.SIGTERM)
        assert pooler.wait() == 0

"""The fixtures `pooler` and `run_with_config` with the real pooler: the shortest way through it."""

import pytest

from tests.conftest import RunWithConfig
from tests.support.pooler import Config, Pooler, merged
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import RawClient


@pytest.mark.parametrize("user", ["app", "alice", "md5user", "plainuser", "trustuser"])
def test_every_role_gets_through(pooler: Pooler, user: str) -> None:
    with pooler.connect(user) as connection:
        row = connection.execute("SELECT current_user, current_database()").fetchone()
    assert row == (user, "app")
    assert pooler.metrics_port


def test_raw_client_gets_through(pooler: Pooler, postgres: Postgres) -> None:
    with RawClient(pooler.host, pooler.port) as client:
        client.login("app", "other", PASSWORDS["app"])
        ((pid,),) = client.values("SELECT pg_backend_pid()")
        assert int(pid or 0) in {backend["pid"] for backend in postgres.backends("other")}
        assert client.pid != int(pid or 0)


def test_reload_and_end(run_with_config: RunWithConfig, default_config: Config) -> None:
    pooler = run_with_config(metrics=None)
    assert pooler.metrics_port == 0
    event = pooler.reload(merged(default_config, {"metrics": None, "limits": {"no_such": 1}}))
    assert event["event"] == "reload failed"
    event = pooler.reload(merged(default_config, {"metrics": None, "users": {"bob": None}}))
    assert event["event"] == "reloaded"
    assert pooler.terminate() == 0

"""A PostgreSQL URL in place of a file."""

import pytest

from pooler.config import AuthType, Config, ConfigError, Overrides, load
from pooler.core.settings import Host, SslMode, TargetTls
from tests.config.conftest import Load, resolved

HINT = "write postgresql://user:password@host:5432/dbname, special characters as %XX"


def up(url: str, **environ: str) -> Config:
    return load(None, environ=environ, overrides=Overrides(upstream=url))


@pytest.mark.parametrize(
    ("url", "name", "hosts", "dbname", "user", "password"),
    [
        ("postgresql://db/app", "app", "db:5432", "app", "me", None),
        ("postgres://db:5433/app", "app", "db:5433", "app", "me", None),
        ("postgresql://u@db", "*", "db:5432", "asked", "u", None),
        ("postgresql://u:p@db/", "*", "db:5432", "asked", "u", "p"),
        ("postgresql://u:p%40%3a%2F%25@db/a%20b", "a b", "db:5432", "a b", "u", "p@:/%"),
        ("postgresql://u:a:b@db/app", "app", "db:5432", "app", "u", "a:b"),
        ("postgresql://[::1]:5/app", "app", "[::1]:5", "app", "me", None),
        ("postgresql://a:1,b,[::2]:3/app", "app", "a:1 b:5432 [::2]:3", "app", "me", None),
        ("postgresql:///app?host=/tmp", "app", "/tmp/.s.PGSQL.5432", "app", "me", None),
        ("postgresql://%2Ftmp/app", "app", "/tmp/.s.PGSQL.5432", "app", "me", None),
        ("postgresql:///app?host=a,b&port=7", "app", "a:7 b:7", "app", "me", None),
        ("postgresql://?dbname=x&user=y&password=z", "x", "127.0.0.1:5432", "x", "y", "z"),
        ("postgresql://", "*", "127.0.0.1:5432", "asked", "me", None),
    ],
)
def test_url(url: str, name: str, hosts: str, dbname: str, user: str, password: str | None) -> None:
    config = up(url)
    assert list(config.databases) == [name]
    route = config.resolve("asked" if name == "*" else name, "me")
    assert route is not None
    target = route.target
    assert " ".join(map(str, target.hosts)) == hosts
    assert (target.dbname, target.user, target.password) == (dbname, user, password)


def test_options() -> None:
    config = up(
        "postgresql://db/app?application_name=x%20y&options=-c%20jit%3Doff&connect_timeout=3"
        "&client_encoding=UTF8&sslmode=prefer&gssencmode=disable&target_session_attrs=any"
        "&load_balance_hosts=disable&max_protocol_version=3.2"
    )
    route = config.resolve("app", "u")
    assert route is not None
    assert route.target.startup == (
        ("application_name", "x y"),
        ("client_encoding", "UTF8"),
        ("options", "-c jit=off"),
    )
    assert route.pool.server_connect_timeout == 3
    assert route.target.load_balance_hosts is False
    assert route.target.max_protocol_version == "3.2"


def test_tls_options() -> None:
    config = up(
        "postgresql://db/app?sslmode=verify-full&sslrootcert=system&sslnegotiation=direct"
        "&channel_binding=require&ssl_min_protocol_version=TLSv1.3"
    )
    assert resolved(config, "app", "u").target.tls == TargetTls(
        sslmode=SslMode.VERIFY_FULL,
        sslnegotiation="direct",
        channel_binding="require",
        ca_file="system",
        min_protocol_version="TLSv1.3",
    )


AT_SIGN = f"holds an '@' that does not stand before the host; {HINT}"
ESCAPE = "has a %XX that is not a character; write % itself as %25"
UNKNOWN = "which is not known here; remove it"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("db:5432", f"is not a PostgreSQL URL; {HINT}"),
        ("mysql://db", f"is not a PostgreSQL URL; {HINT}"),
        ("postgresql://u:hunter2#x@db/app", f"is not a PostgreSQL URL; {HINT}"),
        ("postgresql://u:hun ter2@db", f"is not a PostgreSQL URL; {HINT}"),
        ("postgresql://u:hunter2/x@db/app", AT_SIGN),
        ("postgresql://u:hunter2?x@db/app", AT_SIGN),
        ("postgresql://u:hunter2@x@db/app", AT_SIGN),
        ("postgresql://u:hunter2%zz@db", ESCAPE),
        ("postgresql://u:hunter2%00@db", ESCAPE),
        ("postgresql://u:hunter2%ff@db", ESCAPE),
        ("postgresql://u:hunter2", f"has a host or port that can not be read; {HINT}"),
        ("postgresql://[::1/app", f"has a host or port that can not be read; {HINT}"),
        ("postgresql://a,/app", f"has an empty host; {HINT}"),
        (
            "postgresql://%2Ftmp:1/app",
            "has a socket directory with a port; use ?host=/dir&port=5433",
        ),
        ("postgresql://db/app?hunter2", f"has an option without a value; {HINT}"),
        ("postgresql://db/app?krbsrvname=hunter2", f"has the option krbsrvname, {UNKNOWN}"),
        (
            "postgresql://db/app?gssencmode=require",
            "asks for a gssencmode that is not supported; use one of disable, prefer",
        ),
        (
            "postgresql://db/app?load_balance_hosts=hunter2",
            "asks for a load_balance_hosts that is not supported; use one of disable, random",
        ),
    ],
)
def test_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        up(url)
    assert [str(problem) for problem in caught.value.problems] == [f"--upstream: {message}"]


def test_values_of_a_url_are_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        up("postgresql://db/app?port=hunter2")
    (problem,) = caught.value.problems
    assert str(problem).startswith("--upstream: databases.app.port: the value is not a whole")


@pytest.mark.parametrize("host", ["", "127.0.0.1", "::1", "localhost", "127.9.9.9,::1"])
def test_only_local_clients_are_trusted(host: str) -> None:
    config = up(
        "postgresql://db/app", POOLER_LISTEN_HOST=host, POOLER_LISTEN_UNIX_SOCKET_DIR="/tmp"
    )
    assert config.auth.type is AuthType.TRUST


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "*", "10.0.0.1", "127.0.0.1,db.example"])
def test_others_are_not_let_in_by_default(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        up("postgresql://db/app", POOLER_LISTEN_HOST=host)
    (problem,) = caught.value.problems
    assert problem.path == "auth.type"
    assert "POOLER_AUTH_TYPE=trust" in problem.hint
    config = up("postgresql://db/app", POOLER_LISTEN_HOST=host, POOLER_AUTH_TYPE="trust")
    assert config.auth.type is AuthType.TRUST


def test_users_mean_that_clients_log_in() -> None:
    config = up("postgresql://db/app", POOLER_USERS="{u: {password: p}}")
    assert config.auth.type is AuthType.SCRAM


def test_url_replaces_how_the_database_of_the_file_is_reached(load_text: Load) -> None:
    text = """
        users: {u: {password: p}}
        databases:
          app: {host: prod, port: 1, user: a, password: of-prod, dbname: x, pool_size: 5}
          other: {host: prod}
    """
    config = load_text(text, None, Overrides(upstream="postgresql://test/app"))
    route, other = config.resolve("app", "v"), config.resolve("other", "v")
    assert route is not None
    assert other is not None
    assert route.target.hosts == (Host("test", 5432),)
    assert (route.target.user, route.target.password, route.target.dbname) == ("v", None, "app")
    assert route.pool.pool_size == 5
    assert other.target.hosts == (Host("prod", 5432),)


def test_empty_variable_is_no_url() -> None:
    with pytest.raises(ConfigError, match="no database is configured"):
        load(None, environ={"POOLER_UPSTREAM": ""})

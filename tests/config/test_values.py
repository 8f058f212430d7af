"""Values of settings: what each kind takes, what it refuses, and in which words."""

from dataclasses import replace

import pytest

from pooler.config import AuthType
from pooler.config.model import Listen, Settings
from pooler.config.units import parse_duration, split_address
from pooler.core.policy import Check, Policies, Policy
from pooler.core.settings import Host, PoolMode
from tests.config.conftest import LOGIN, Load, Mistakes, resolved

BASE = LOGIN + "databases: {app: {}}\n"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("5", 5.0),
        ("0.8", 0.8),
        (".5", 0.5),
        ("500ms", 0.5),
        ("5s", 5.0),
        ("5 s", 5.0),
        ("10min", 600.0),
        ("1h", 3600.0),
        ("1d", 86400.0),
        (7, 7.0),
        (0.25, 0.25),
    ],
)
def test_duration(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "-1", "5 parsecs", "5m", "1h30", "inf", "nan", "1e3", "9" * 400, "٣s", "0x5"]
)
def test_not_a_duration(mistakes: Mistakes, text: str) -> None:
    (problem,) = mistakes(BASE + f"timeouts:\n  query_timeout: '{text}'\n")
    assert problem.startswith("pooler.yaml:4: timeouts.query_timeout: '")
    assert "is not a duration; write seconds, or a unit such as 500ms" in problem


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("db", ("db", None)),
        ("db:5433", ("db", 5433)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("::1", ("::1", None)),
        ("[::1]", ("::1", None)),
        ("[fe80::1%eth0]:5433", ("fe80::1%eth0", 5433)),
        ("/tmp", ("/tmp", None)),
        (":6432", ("", 6432)),
    ],
)
def test_address(text: str, address: tuple[str, int | None]) -> None:
    assert split_address(text) == address


@pytest.mark.parametrize(
    "text", ["db:", "db:x", "db:99999", "[::1", "[::1]5", "a b", "u@h", "db:-1"]
)
def test_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        split_address(text)


NUMBER = "is not a whole number; write a number such as"
MAPPING = "the value is not a mapping; write `key: value` lines under it"


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("defaults.pool_size", "abc", f"'abc' {NUMBER} 20"),
        ("defaults.pool_size", "1.5", f"'1.5' {NUMBER} 20"),
        ("defaults.pool_size", "true", f"'true' {NUMBER} 20"),
        ("defaults.pool_size", "''", f"'' {NUMBER} 20"),
        ("defaults.pool_size", "[1]", f"a list {NUMBER} 20"),
        ("defaults.pool_size", "{a: 1}", f"a mapping {NUMBER} 20"),
        ("defaults.pool_size", "0", "'0' is less than 1"),
        ("defaults.pool_size", "2147483648", "'2147483648' is more than 2147483647"),
        ("defaults.min_pool_size", "-1", "'-1' is less than 0"),
        ("limits.max_client_connections", "many", f"'many' {NUMBER} 1000"),
        ("listen.port", "65536", "'65536' is more than 65535"),
        (
            "listen.host",
            "a:1",
            "'a:1' is not an address to listen on; "
            "write an IP address or a host name; the port goes into listen.port",
        ),
        ("listen.host", "{a: b}", "a mapping is not one value or a list of values"),
        ("listen.host[0]", "[[a]]", "a list is not text; write one value"),
        (
            "listen.unix_socket_mode",
            "'9'",
            "'9' is not a file mode; write octal digits such as 0777",
        ),
        (
            "listen.unix_socket_dir",
            "run",
            "'run' is not an absolute path; write a directory such as /var/run/postgresql",
        ),
        (
            "listen.reuse_port",
            "maybe",
            "'maybe' is neither true nor false; write true or false",
        ),
        (
            "defaults.pool_mode",
            "trans",
            "'trans' is not one of 'session', 'transaction' or 'statement'",
        ),
        ("logging.format", "xml", "'xml' is not one of 'auto', 'text' or 'json'"),
        (
            "metrics.listen",
            "9127",
            "'9127' is not HOST:PORT; write an address such as 127.0.0.1:9127",
        ),
        ("defaults.server_check_query", "[a]", "a list is not text; write one value"),
        ("listen", "6432", MAPPING),
        ("tcp", "[]", MAPPING),
    ],
)
def test_refused(mistakes: Mistakes, setting: str, value: str, message: str) -> None:
    section, _, key = setting.partition("[")[0].partition(".")
    text = f"{section}: {{{key}: {value}}}" if key else f"{section}: {value}"
    assert mistakes(BASE + text) == [f"pooler.yaml:3: {setting}: {message}"]


@pytest.mark.parametrize(
    ("database", "line"),
    [
        ("{port: 0}", "port: '0' is less than 1"),
        ("{host: 'db:0'}", "host: 'db:0' is not the address of a server"),
        ("{host: []}", "host: a list is empty; name at least one host"),
        ("{host: [a, 'b c']}", "host[1]: 'b c' is not the address of a server"),
        ("{max_protocol_version: 3.1}", "max_protocol_version: '3.1' is not one of '3.0' or '3.2'"),
        ("{settings: {user: x}}", "settings.user: 'user' is not a setting but a part of the proto"),
        ("{settings: {'a b': x}}", "settings.a b: 'a b' is not the name of a server setting"),
        ("{settings: {jit: [x]}}", "settings.jit: a list is not text; write one value"),
        ("{query_wait_timeout: soon}", "query_wait_timeout: 'soon' is not a duration"),
    ],
)
def test_refused_in_a_database(mistakes: Mistakes, database: str, line: str) -> None:
    (problem,) = mistakes(f"{LOGIN}databases:\n  app: {database}\n")
    assert problem.startswith(f"pooler.yaml:3: databases.app.{line}")


def test_what_looks_like_another_type_is_taken_as_written(load_text: Load) -> None:
    config = load_text("""
        users: {2024: {password: 0123}, 'on': {password: 1.10}, x: {password: true}}
        databases: {7: {dbname: 1e3, settings: {jit: off, work_mem: 64, a: 1.10}}}
    """)
    assert [config.secret(user) for user in ("2024", "on", "x")] == ["0123", "1.10", "true"]
    route = config.resolve("7", "2024")
    assert route is not None
    assert route.target.dbname == "1e3"
    assert route.target.startup == (("a", "1.10"), ("jit", "off"), ("work_mem", "64"))


@pytest.mark.parametrize("mode", ["0770", "770", "0o770", "'0770'"])
def test_mode_is_octal(load_text: Load, mode: str) -> None:
    assert load_text(f"{BASE}listen: {{unix_socket_mode: {mode}}}").listen.unix_socket_mode == 0o770


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ("0.0.0.0", ("0.0.0.0",)),
        ("[127.0.0.1, '::1']", ("127.0.0.1", "::1")),
        ("127.0.0.1, ::1", ("127.0.0.1", "::1")),
        ("'*'", ("*",)),
        ("", ("127.0.0.1",)),
    ],
)
def test_listen_hosts(load_text: Load, hosts: str, expected: tuple[str, ...]) -> None:
    assert load_text(f"{BASE}listen:\n  host: {hosts}\n").listen.host == expected


@pytest.mark.parametrize("hosts", ['""', "[]"])
def test_no_tcp(load_text: Load, hosts: str) -> None:
    assert load_text(f"{BASE}listen: {{host: {hosts}, unix_socket_dir: /tmp}}").listen.host == ()


def test_server_hosts(load_text: Load) -> None:
    config = load_text(f"{LOGIN}databases: {{app: {{port: 1, host: [a, 'b:2', '[::1]:3', /run]}}}}")
    hosts = (Host("a", 1), Host("b", 2), Host("::1", 3), Host("/run", 1))
    assert config.databases["app"].hosts == hosts


def test_plain_is_password(load_text: Load) -> None:
    assert load_text(f"{BASE}auth: {{type: plain}}").auth.type is AuthType.PASSWORD


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        (":9127", ("*", 9127)),
        ("[::1]:9", ("::1", 9)),
        ("", None),
    ],
)
def test_metrics_address(load_text: Load, listen: str, address: tuple[str, int] | None) -> None:
    assert load_text(f"{BASE}metrics: {{listen: '{listen}'}}").metrics.address == address


def test_socket_path_fits_the_kernel(mistakes: Mistakes) -> None:
    (problem,) = mistakes(f"{BASE}listen: {{unix_socket_dir: /{'d' * 100}}}")
    assert "is too long for a unix socket" in problem


def test_settings_can_be_made_of_python_values() -> None:
    settings = Settings.model_validate({"defaults": {"pool_mode": "session", "pool_size": 3}})
    assert settings.defaults.pool_mode is PoolMode.SESSION
    assert settings.listen == Listen()


# What is done about session state.


@pytest.mark.parametrize("name", ["locks", "temporary", "hold", "load"])
def test_what_cannot_be_tracked(mistakes: Mistakes, name: str) -> None:
    for text in (
        f"session_state:\n  {name}: track\n",
        f"databases:\n  app:\n    session_state: {{{name}: track}}\n",
    ):
        base = LOGIN if text.startswith("databases") else BASE
        (problem,) = mistakes(base + text)
        assert "'track' can not be had: no other server connection can be given this" in problem
        assert problem.endswith("write pin, warn, error or ignore")


def test_policies(load_text: Load, mistakes: Mistakes) -> None:
    config = load_text(
        LOGIN
        + """
session_state: {locks: error, sequences: pin, check: sampled, check_sample: 10}
databases:
  app: {}
  own: {session_state: {locks: warn, settings: ignore, catalog_interval: 0}}
"""
    )
    app, own = (resolved(config, name, "u").pool.session_state for name in ("app", "own"))
    assert app == Policies(
        locks=Policy.ERROR, sequences=Policy.PIN, check=Check.SAMPLED, check_sample=10
    )
    assert own == replace(app, locks=Policy.WARN, settings=Policy.IGNORE, catalog_interval=0.0)
    (problem,) = mistakes(BASE + "session_state: {locks: follow}\n")
    assert "'follow' is not one of" in problem
    (problem,) = mistakes(BASE + "session_state: {lock: pin}\n")
    assert "unknown key; did you mean locks?" in problem

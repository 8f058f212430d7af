"""Environment and command line: placeholders, POOLER_ variables, the URL, and who wins."""

from typing import Any

import pytest

from pooler.config import AuthType, Config, ConfigError, Overrides, load
from pooler.config.environment import expand, variables
from pooler.config.model import Settings
from pooler.config.tree import dotted
from tests.config.conftest import LOGIN, Load, Mistakes

BASE = LOGIN + "databases: {app: {}}\n"
URL = "postgresql://db/app"


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("${A}", "1"),
        ("x${A}y${B}z", "x1y2z"),
        ("${E}", ""),
        ("${E:-d}", "d"),
        ("${NO:-}", ""),
        ("${NO:-a:b/c d}", "a:b/c d"),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$$$${A}", "$${A}"),
        ("$$${A}", "$1"),
        ("pa$word $A", "pa$word $A"),
        ("SCRAM-SHA-256$4096:ab$cd=:ef=", "SCRAM-SHA-256$4096:ab$cd=:ef="),
        ("${SELF}", "${SELF}"),
    ],
)
def test_placeholders(text: str, expanded: str) -> None:
    environ = {"A": "1", "B": "2", "E": "", "SELF": "${SELF}"}
    assert expand(text, environ) == (expanded, [])


@pytest.mark.parametrize("text", ["${", "${}", "${1A}", "${A", "${A-b}", "${ A }"])
def test_broken_placeholder(mistakes: Mistakes, text: str) -> None:
    (problem,) = mistakes(f"{BASE}listen:\n  unix_socket_group: '{text}'\n", {"A": "1"})
    assert problem == (
        "pooler.yaml:4: listen.unix_socket_group: '${' does not begin a ${NAME}; "
        "write $${ for the characters ${"
    )


def test_placeholder_takes_the_type_of_the_setting(load_text: Load) -> None:
    config = load_text(
        BASE + "defaults:\n  pool_size: ${SIZE}\n  server_round_robin: ${RR}\n"
        "  min_pool_size: ${NONE:-}\n",
        {"SIZE": "7", "RR": "yes"},
    )
    assert config.defaults.pool_size == 7
    assert config.defaults.server_round_robin is True
    assert config.defaults.min_pool_size == 0


def test_placeholder_can_not_add_structure(load_text: Load) -> None:
    value = "x\nusers: {evil: {password: p}}"
    config = load_text(BASE + "listen:\n  unix_socket_group: ${V}\n", {"V": value})
    assert config.listen.unix_socket_group == value
    assert set(config.users) == {"u"}


def test_placeholder_in_a_key(load_text: Load) -> None:
    assert set(load_text(LOGIN + 'databases: {"${DB}": {}}', {"DB": "x"}).databases) == {"x"}


def test_values_of_variables_are_never_shown(mistakes: Mistakes) -> None:
    environ = {"X": "hunter2", "POOLER_LISTEN_PORT": "hunter2", "POOLER_USERS": "u: hunter2"}
    environ["POOLER_DATABASES"] = "app: {pool_size: hunter2, host: hunter2@hunter2}"
    problems = mistakes(BASE + "defaults:\n  pool_size: ${X}\n", environ)
    assert "pooler.yaml:4: defaults.pool_size: '${X}' is not a whole number" in problems[-1]
    assert any(
        problem.startswith("POOLER_DATABASES:1: databases.app.pool_size: the value is not")
        for problem in problems
    )
    assert len(problems) == 5
    assert not any("hunter2" in problem for problem in problems)


def test_every_setting_has_a_variable_that_reaches_it() -> None:
    names = variables()
    assert names["POOLER_LIMITS_MAX_CLIENT_CONNECTIONS"] == ("limits", "max_client_connections")
    settings = Settings().model_dump(exclude={"databases", "users", "workers"})
    paths = {(a, b) for a, keys in settings.items() for b in keys} | {("workers",)}
    assert set(names.values()) == paths
    for name, path in names.items():
        with pytest.raises(ConfigError) as caught:
            load(None, environ={"POOLER_UPSTREAM": URL, name: "\udcff"})
        assert {(p.file, p.path) for p in caught.value.problems} == {(name, dotted(path))}


@pytest.mark.parametrize(
    ("name", "value", "path", "expected"),
    [
        ("POOLER_WORKERS", "2", "workers", 2),
        ("POOLER_LISTEN_PORT", "7000", "listen.port", 7000),
        ("POOLER_LISTEN_HOST", "127.0.0.1,::1", "listen.host", ("127.0.0.1", "::1")),
        ("POOLER_DEFAULTS_POOL_SIZE", "9", "defaults.pool_size", 9),
        ("POOLER_TIMEOUTS_QUERY_TIMEOUT", "5min", "timeouts.query_timeout", 300.0),
        ("POOLER_AUTH_TYPE", "md5", "auth.type", AuthType.MD5),
        ("POOLER_METRICS_LISTEN", "", "metrics.listen", ""),
        ("POOLER_LOGGING_LOG_CONNECTIONS", "off", "logging.log_connections", False),
        ("POOLER_DEFAULTS_SERVER_RESET_QUERY", "", "defaults.server_reset_query", ""),
    ],
)
def test_variable_wins_over_file(
    load_text: Load, name: str, value: str, path: str, expected: object
) -> None:
    text = BASE + "listen: {port: 1}\ndefaults: {pool_size: 1}\nmetrics: {listen: ':1'}\n"
    config: Any = load_text(text, {name: value})
    for key in path.split("."):
        config = getattr(config, key)
    assert config == expected


def test_databases_and_users_from_variables(load_text: Load) -> None:
    environ = {
        "POOLER_DATABASES": "{app: {pool_size: 5}, other: {host: '${H}'}}",
        "POOLER_USERS": "u: {password: new}",
        "H": "db2",
    }
    config = load_text(LOGIN + "databases: {app: {host: db1, pool_size: 1}}", environ)
    assert (config.databases["app"].host, config.databases["app"].pool_size) == (("db1",), 5)
    assert config.databases["other"].host == ("db2",)
    assert config.secret("u") == "new"


def test_broken_tree_in_a_variable(mistakes: Mistakes) -> None:
    assert mistakes(LOGIN, {"POOLER_DATABASES": "a: [hunter2"}) == [
        "POOLER_DATABASES:1: databases: YAML: a bracket or brace is not closed, or a comma is "
        "missing; put ${NAME} in quotes inside of braces"
    ]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("POOLER_LISTEN_PROT", "; did you mean POOLER_LISTEN_PORT?"),
        ("POOLER_POOL_SIZE", "; did you mean POOLER_DEFAULTS_POOL_SIZE?"),
        ("POOLER_DATABASE", "; did you mean POOLER_DATABASES?"),
        ("POOLER_XYZZY", ""),
    ],
)
def test_unknown_variable(mistakes: Mistakes, name: str, hint: str) -> None:
    assert mistakes(BASE, {name: "hunter2"}) == [f"{name}: is not a setting{hint}"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POOLER_COMPILE", "no"),
        ("POOLER_SERVICE_HOST", "10.0.0.1"),
        ("POOLER_SERVICE_PORT", "6432"),
        ("POOLER_SERVICE_PORT_POSTGRES", "6432"),
        ("POOLER_PORT", "tcp://10.0.0.1:6432"),
        ("POOLER_PORT_6432_TCP", "tcp://10.0.0.1:6432"),
        ("POOLER_PORT_6432_TCP_ADDR", "10.0.0.1"),
        ("POOLER_LISTEN_PORT", "tcp://10.0.0.1:6432"),
        ("POOLER_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ],
)
def test_variables_that_are_not_ours(load_text: Load, name: str, value: str) -> None:
    assert load_text(BASE, {name: value}).listen.port == 6432


def test_a_variable_that_a_placeholder_names_is_known(load_text: Load) -> None:
    text = BASE + "listen:\n  unix_socket_group: ${POOLER_GROUP}\n"
    assert load_text(text, {"POOLER_GROUP": "pg"}).listen.unix_socket_group == "pg"


def test_file_from_the_environment(load_text: Load) -> None:
    source = load_text(BASE).source
    assert load(None, environ={"POOLER_CONFIG": str(source)}).source == source


def test_command_line_wins_over_environment_over_file(load_text: Load) -> None:
    text = BASE + "listen: {host: 127.0.0.3, port: 3}\nmetrics: {listen: ':3'}\n"
    environ = {"POOLER_LISTEN_PORT": "2", "POOLER_METRICS_LISTEN": ":2"}
    environ["POOLER_UPSTREAM"] = "postgresql://env/app"
    options = Overrides(upstream="postgresql://cli/app", listen="127.0.0.1:1", metrics=":1")

    def seen(config: Config) -> tuple[object, ...]:
        return (config.listen.host, config.listen.port, config.metrics.listen,
                config.databases["app"].host)  # fmt: skip

    assert seen(load_text(text, environ, options)) == (("127.0.0.1",), 1, ":1", ("cli",))
    assert seen(load_text(text, environ)) == (("127.0.0.3",), 2, ":2", ("env",))
    assert seen(load_text(text)) == (("127.0.0.3",), 3, ":3", ("127.0.0.1",))


@pytest.mark.parametrize(
    ("listen", "host"),
    [("[::1]:5", "::1"), (":5", "*"), ("*:5", "*"), ("localhost:5", "localhost")],
)
def test_listen_option(load_text: Load, listen: str, host: str) -> None:
    config = load_text(BASE, None, Overrides(listen=listen))
    assert (config.listen.host, config.listen.port) == ((host,), 5)


@pytest.mark.parametrize("listen", ["6432", "host", "", "host:", "::1", "a b:1", "x:70000"])
def test_listen_option_that_is_no_address(mistakes: Mistakes, listen: str) -> None:
    assert mistakes(BASE, None, Overrides(listen=listen)) == [
        "--listen: is not HOST:PORT; write an address such as 0.0.0.0:6432"
    ]


def test_metrics_option_that_is_no_address(mistakes: Mistakes) -> None:
    (problem,) = mistakes(BASE, None, Overrides(metrics="9127"))
    assert problem.startswith("--metrics: metrics.listen: the value is not HOST:PORT")

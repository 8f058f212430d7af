"""What becomes of a pgbouncer.ini: our settings, the YAML, and an answer to each line."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pooler.config import Config, ConfigError, Database, Settings, User, load
from pooler.config.model import Section
from pooler.config.schema import json_schema
from pooler.config.tree import Path as ConfigPath
from pooler.core.settings import PoolMode
from pooler.importer import run
from pooler.importer.answers import DATABASE, PEER, SETTINGS, USER, Answer, Verdict, Wrong
from pooler.importer.convert import convert
from pooler.importer.ini import Ini, pairs
from tests.config.conftest import resolved
from tests.config.test_schema import accepts
from tests.importer import reference
from tests.importer.conftest import EXAMPLES, Convert, Disk, LoadIni, PgBouncer

NAMES = sorted(path.name for path in EXAMPLES.glob("*.ini"))


def key(verdict: Verdict, converted: Any) -> set[str]:
    """The settings of a conversion with that verdict, without defaults."""
    return {f.setting for f in converted.findings if f.verdict is verdict and f.origin.line}


# The table.


def test_every_setting_has_an_answer() -> None:
    assert set(SETTINGS) == set(reference.SETTINGS)
    assert set(DATABASE) == reference.DATABASE
    assert set(USER) == reference.USER
    assert set(PEER) == reference.PEER


def test_every_setting_of_the_installed_pgbouncer_has_an_answer(pgbouncer: PgBouncer) -> None:
    assert pgbouncer.start("[pgbouncer]\nauth_type = any")
    config = {str(row["key"]): row for row in pgbouncer.console("SHOW CONFIG")}
    assert set(config) <= set(SETTINGS)
    for name, row in config.items():
        if row["default"]:
            SETTINGS[name](str(row["default"]))  # nothing is Wrong that PgBouncer takes


@pytest.mark.parametrize("name", SETTINGS)
def test_defaults_cost_nothing(name: str) -> None:
    """What is written as PgBouncer has it anyway is nothing to lose."""
    assert SETTINGS[name](reference.SETTINGS[name]).verdict is not Verdict.UNSUPPORTED


def test_answers_name_settings_that_there_are() -> None:
    tables: list[tuple[Mapping[str, Answer], ConfigPath]]
    tables = [(SETTINGS, ()), (DATABASE, ("databases", "x")), (USER, ("users", "x"))]
    for table, prefix in tables:
        for name, answer in table.items():
            for text in ("1", "a", "session", "tlsv1.3", "md5", "round-robin", "disable", "any"):
                try:
                    outcome = answer(text)
                except Wrong:
                    continue
                for path, _ in outcome.put:
                    assert _is_setting((*prefix, *path)), name


def _is_setting(path: ConfigPath) -> bool:
    entries: dict[object, type[Section]] = {"databases": Database, "users": User}
    if path[0] in entries:
        return path[2] in entries[path[0]].model_fields
    section = Settings.model_fields[str(path[0])].annotation
    assert isinstance(section, type)
    assert issubclass(section, Section)
    return str(path[1]) in section.model_fields


def test_the_examples_show_every_setting() -> None:
    """So that each one has been through a whole conversion."""
    seen: dict[str, set[str]] = {"pgbouncer": set(), "databases": set(), "users": set()}
    seen["peers"] = set()
    for name in NAMES:
        for entry in Ini(name, Here(EXAMPLES).text).entries:
            if entry.section == "pgbouncer":
                seen["pgbouncer"].add(entry.key)
            else:
                seen[entry.section] |= {key for key, _ in pairs(entry.value)}
    assert seen["pgbouncer"] == set(SETTINGS)
    assert seen["databases"] == set(DATABASE)
    assert seen["users"] == set(USER)
    assert seen["peers"] == set(PEER)


class Here(Disk):
    """Files by their names in a folder."""

    def __init__(self, folder: Path) -> None:
        self.base = folder

    def text(self, file: str) -> bytes | str:
        return super().text(os.path.join(self.base, file))


# Whole files.


def settings(config: Config) -> Iterator[tuple[str, object]]:
    """What a configuration says, without where it is from."""
    for name in Settings.model_fields:
        yield name, getattr(config, name)
    for extra in ("stored", "maps"):
        yield extra, getattr(config, extra)
    yield "rules", [repr(rule) for rule in config.rules]


LIBRARIES = {"ldap.ini": "ldap", "pam.ini": "pamela"}
"""What their methods need to be loaded: optional extras."""


@pytest.mark.parametrize("name", [name for name in NAMES if name != "debian.ini"])
def test_the_yaml_says_what_the_ini_says(
    name: str, folder: Path, load_ini: LoadIni, capsys: pytest.CaptureFixture[str]
) -> None:
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name], reason=f"NOT TESTED: {name}, for want of its extra")
    direct = load_ini(name)
    assert run(name, "pooler.yaml", {}) == 0
    from_yaml = load("pooler.yaml", environ={})
    for (what, a), (_, b) in zip(settings(direct), settings(from_yaml), strict=True):
        if what != "rules":
            assert a == b, what
    assert len(direct.rules) == len(from_yaml.rules)
    assert capsys.readouterr().err == ""
    assert os.stat("pooler.yaml").st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", NAMES)
def test_every_line_has_one_answer_and_no_value_is_shown(name: str, folder: Path) -> None:
    done = convert(name, Disk())
    assert done.problems == []
    lines = {e.origin.line for e in Ini(name, Disk().text).entries if e.value}
    assert {f.origin.line for f in done.findings if f.origin.file == name} >= {
        line for line in lines if line
    } - {e.origin.line for e in Ini(name, Disk().text).entries if e.origin.file != name}
    told = " ".join(f"{f.setting} {f.to} {f.why}" for f in done.findings)
    for secret in ("password=", "it's me", "alice-password", "secret", "12345"):
        assert secret not in told


def test_sidecar(load_ini: LoadIni) -> None:
    config = load_ini("sidecar.ini")
    assert config.listen.host == ("127.0.0.1",)
    assert (config.listen.port, config.listen.unix_socket_dir) == (6543, "")
    route = resolved(config, "app", "whoever")
    assert [(h.host, h.port) for h in route.target.hosts] == [("db.internal", 5433)]
    assert (route.target.dbname, route.target.user) == ("production", "app")
    assert route.target.password == "it's me"
    assert (route.pool.pool_size, route.pool.min_pool_size, route.pool.reserve_pool_size) == (
        *(15, 3, 2),
    )
    assert route.session.pool_mode is PoolMode.TRANSACTION
    assert config.limits.max_client_connections == 500


def test_many_databases(load_ini: LoadIni) -> None:
    config = load_ini("many-databases.ini")
    two = resolved(config, "two", "alice")
    assert two.target.dbname == "second"
    assert two.target.connect_query == "SELECT set_config('work_mem', '64MB', false)"
    assert two.target.password == "alice-password"
    three = resolved(config, "three", "alice")
    assert [h.host for h in three.target.hosts] == ["10.0.0.3", "10.0.0.4"]
    assert not three.target.load_balance_hosts
    four = resolved(config, "four", "alice")
    assert [h.host for h in four.target.hosts] == ["2001:db8::1"]
    assert four.pool.max_db_server_connections == 50
    assert four.pool.server_lifetime == 600
    assert four.session.max_db_client_connections == 400
    five = resolved(config, "five", "alice")
    assert [(h.host, h.port) for h in five.target.hosts] == [("/var/run/postgresql", 5440)]
    assert five.session.pool_mode is PoolMode.STATEMENT
    six = resolved(config, "six of them", "alice")
    assert dict(six.target.startup) == {
        **{"application_name": "six apps", "client_encoding": "UTF8"},
        **{"datestyle": "ISO", "timezone": "UTC"},
    }
    assert resolved(config, "seven", "alice").session.query_wait_timeout == 7
    assert resolved(config, "seven", "alice").pool.reserve_pool_size == 3
    assert [h.host for h in resolved(config, "eight", "x").target.hosts] == ["/tmp"]
    other = resolved(config, "any other", "reports")
    assert [h.host for h in other.target.hosts] == ["10.0.0.9"]
    assert other.target.dbname == "any other"
    assert (other.pool.pool_size, other.pool.pool_idle_timeout) == (4, 120)
    assert other.pool.max_user_server_connections == 6
    assert other.session.max_user_client_connections == 60
    assert other.session.pool_mode is PoolMode.SESSION
    batch = resolved(config, "one", "batch").session
    assert (batch.query_timeout, batch.query_wait_timeout) == (3600, 300)
    assert (batch.idle_in_transaction_timeout, batch.transaction_timeout) == (30, 7200)
    assert batch.client_idle_timeout == 900
    assert resolved(config, "one", "nobody").session.client_idle_timeout == 0
    assert config.defaults.pool_size == 30


def test_timeouts(load_ini: LoadIni, folder: Path) -> None:
    config = load_ini("timeouts.ini")
    timeouts = config.timeouts
    assert timeouts.server_lifetime == 0.001  # 0 is "used once" there and "for ever" here
    assert timeouts.client_idle_timeout == 10_000
    assert timeouts.query_timeout == 100.5
    assert timeouts.server_check_delay == 0
    assert config.defaults.server_check_query == "SELECT 1"
    assert config.defaults.reserve_pool_size == 0  # the timeout of 0 turns it off
    done = convert("timeouts.ini", Disk())
    assert key(Verdict.UNSUPPORTED, done) == {"server_fast_close"}
    assert "reserve_pool_timeout" in key(Verdict.UNNEEDED, done)


def test_network(load_ini: LoadIni, folder: Path) -> None:
    config = load_ini("network.ini")
    assert config.listen.host == ("127.0.0.1", "::1")
    assert (config.listen.backlog, config.listen.unix_socket_mode) == (256, 0o770)
    assert config.listen.reuse_port
    assert (config.tcp.keepidle, config.tcp.keepcnt, config.tcp.user_timeout) == (60, 5, 12.5)
    assert key(Verdict.UNSUPPORTED, convert("network.ini", Disk())) == {
        *("max_packet_size", "tcp_socket_buffer", "dns_zone_check_period", "resolv_conf"),
    }


def test_logs(load_ini: LoadIni, folder: Path) -> None:
    config = load_ini("logs.ini")
    assert config.auth.type.value == "password"
    assert config.logging.level == "debug"
    assert not config.logging.log_connections
    assert config.defaults.max_prepared_statements == 0
    assert (config.admin.users, config.admin.stats_users) == (("root", "operator"), ("stats",))
    assert config.admin.stats_period == 30
    assert len(config.notes) == len(key(Verdict.UNSUPPORTED, convert("logs.ini", Disk())))
    assert any("disable_pqexec" in note for note in config.notes)


def test_auth_query(load_ini: LoadIni) -> None:
    config = load_ini("auth-query.ini")
    app, other = config.lookup("app"), config.lookup("auth")
    assert app is not None
    assert other is not None
    assert (app.database, app.user) == ("postgres", "looker")
    assert app.query == "SELECT uname, phash FROM pgbouncer.user_lookup($1)"
    assert (other.database, other.user) == ("auth", "alice")


def test_hba(load_ini: LoadIni) -> None:
    config = load_ini("hba.ini")
    assert [rule.method for rule in config.rules] == ["peer", "cert", "scram-sha-256", "md5"]
    assert config.maps.lets("staff", "root", "postgres")
    assert len(load_ini("not-hba.ini").rules) == 0


def test_ldap(load_ini: LoadIni) -> None:
    pytest.importorskip("ldap")
    rules = list(load_ini("ldap.ini").rules)
    assert [(rule.kind, rule.method) for rule in rules] == [("host", "ldap"), ("local", "ldap")]
    options = rules[0].ldap
    assert options is not None
    assert "127.0.0.1:12345" in repr(options)
    assert "dc=example,dc=net" in repr(options)


def test_pam(load_ini: LoadIni) -> None:
    pytest.importorskip("pamela")
    rules = list(load_ini("pam.ini").rules)
    assert [(rule.method, rule.pamservice) for rule in rules] == [("pam", "pgbouncer")] * 2


def test_any(load_ini: LoadIni, folder: Path) -> None:
    config = load_ini("any.ini")
    assert config.auth.type.value == "trust"
    done = convert("any.ini", Disk())
    assert any(f.setting == "databases.free: user" for f in done.findings)


def test_tls(load_ini: LoadIni, folder: Path) -> None:
    config = load_ini("tls.ini")
    assert config.tls.min_protocol_version == "TLSv1.3"
    assert config.tls.cert_file == str(folder / "server.crt")
    assert config.tls.ciphers == "HIGH:!aNULL"
    assert config.server_tls.sslmode.value == "verify-full"
    assert config.server_tls.min_protocol_version == "TLSv1.2"
    assert config.server_tls.ciphers == ""
    assert "server_tls_protocols" in key(Verdict.CHANGED, convert("tls.ini", Disk()))


def test_included(load_ini: LoadIni, folder: Path) -> None:
    config = load_ini("included.ini")
    assert config.defaults.pool_size == 7
    assert set(config.databases) == {"app", "more"}
    assert {os.path.basename(file) for file in config.files} == {
        *("included.ini", "common.inc", "databases.inc", "userlist.txt"),
    }


def test_peers(load_ini: LoadIni) -> None:
    config = load_ini("peers.ini")
    assert config.peers.id == 1
    assert config.peers.members == {1: "/tmp/pgbouncer1", 2: "10.0.0.2:6543"}
    assert config.listen.reuse_port


def test_debians_own_has_no_database(load_ini: LoadIni) -> None:
    with pytest.raises(ConfigError, match="no database is configured"):
        load_ini("debian.ini")


# Cases.

LEAST = "[pgbouncer]\nlisten_addr=127.0.0.1\nauth_type=trust\n"


def test_minimum_above_the_size_is_capped(load_ini: LoadIni) -> None:
    text = "[databases]\na = host=x pool_size=3\nb = host=x min_pool_size=40\nc = host=x\n"
    config = load_ini(text=f"{text}{LEAST}min_pool_size=30\ndefault_pool_size=10")
    sizes = {name: resolved(config, name, "u").pool.min_pool_size for name in "abc"}
    assert sizes == {"a": 3, "b": 10, "c": 10}


def test_later_lines_win(load_ini: LoadIni) -> None:
    text = f"[databases]\na = host=x user=u\na = host=y\n{LEAST}[users]\n[pgbouncer]\nlisten_port=1"
    config = load_ini(text=text)
    assert resolved(config, "a", "z").target.user == "z"
    assert config.listen.port == 1
    assert config.auth.type.value == "trust"  # PgBouncer would have gone back to its default


def test_password_without_a_user_is_not_used(load_ini: LoadIni) -> None:
    config = load_ini(text=f"[databases]\na = host=x password=secret\n{LEAST}")
    assert resolved(config, "a", "u").target.password is None


def test_text_that_looks_like_something_else(folder: Path) -> None:
    """Numbers, booleans, placeholders and YAML's own characters come through as they are."""
    words = ["123", "true", "null", "${HOME}", "$$", "a: b # c", "* &x !y", "'", "é", "1.5", "- a"]
    lines = "".join(
        f"\"d{index} $${{x}}\" = host=x user=u password='{word.replace(chr(39), chr(39) * 2)}'"
        f" application_name='{word.replace(chr(39), chr(39) * 2)}'\n"
        for index, word in enumerate(words)
    )
    (folder / "x.ini").write_text(f"[databases]\n{lines}{LEAST}")
    assert run("x.ini", "x.yaml", {}) == 0
    config = load("x.yaml", environ={})
    for index, word in enumerate(words):
        target = resolved(config, f"d{index} $${{x}}", "u").target
        assert (target.password, dict(target.startup)["application_name"]) == (word, word)


def test_names_of_files(load_ini: LoadIni, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to where we are; where there is none, beside the ini."""
    config = load_ini(text=f"[databases]\na=host=x\n{LEAST}auth_file=userlist.txt")
    assert config.auth.file == str(folder / "userlist.txt")
    monkeypatch.chdir("/")
    assert load_ini().auth.file == str(folder / "userlist.txt")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/userlist.txt").write_text('"eve" "x"\n')
    monkeypatch.chdir(folder / "elsewhere")
    assert load_ini().secret("eve") == "x"


MISTAKES = {
    "default_pool_sizes = 5": "default_pool_sizes: is not a setting of PgBouncer; "
    "did you mean default_pool_size?",
    "default_pool_size = many": "default_pool_size: is not a whole number",
    "default_pool_size = 0": "defaults.pool_size: '0' is less than 1",
    "query_timeout = 5s": "query_timeout: is not a time in seconds; write a number such as 5 "
    "or 0.5",
    "pool_mode = transactions": "pool_mode: is not one of its values; write one of session, "
    "transaction, statement",
    "listen_port = 70000": "listen.port: '70000' is more than 65535",
    "client_tls_protocols = sslv3": "client_tls_protocols: is not a list of TLS versions; write "
    "secure, or tlsv1.2,tlsv1.3",
    "auth_file = nowhere.txt": "auth.file: the file can not be read: No such file or directory",
    "[databases]\npgbouncer = host=x": "databases.pgbouncer: is the name of the console's database",
    "[databases]\na = host=x pool_size=abc": "databases.a.pool_size: 'abc' is not a whole number; "
    "write a number such as 20",
    "[databases]\na = host=x poolsize=5": "databases.a: 'poolsize' is not a setting of PgBouncer; "
    "did you mean pool_size?",
    "[databases]\na = password=my secret=5": "databases.a: a word of the connection string is not "
    "a setting of PgBouncer",
    "[databases]\na = password=my secret": "databases.a: a word of the connection string has no "
    "'='; put a value with blanks in single quotes, and write a quote within it twice",
    "[peers]\n1 = port=5": "peers.1: has no host",
    "[peers]\n300 = host=x": "peers.members.300: '300' is more than 255",
    "[users]\nu = pool_mode=often": "users.u: is not one of its values; write one of session, "
    "transaction, statement",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_have_their_line(line: str, load_ini: LoadIni, folder: Path) -> None:
    """PgBouncer's and ours alike; no word of a password is shown."""
    text = f"[databases]\nok = host=x\n{LEAST}{line}\n"
    with pytest.raises(ConfigError) as caught:
        load_ini(text=text)
    number = text.rstrip().count("\n") + 1
    assert [str(problem) for problem in caught.value.problems] == [
        f"{folder}/text.ini:{number}: {MISTAKES[line]}"
    ]


def test_nothing_is_written_where_pgbouncer_would_not_start(folder: Path) -> None:
    (folder / "x.ini").write_text("[pgbouncer]\nverbose = very\n")
    with pytest.raises(ConfigError):
        run("x.ini", "x.yaml", {})
    assert not (folder / "x.yaml").exists()


def test_what_is_missing_here_may_be_there_elsewhere(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is written, and what is wrong with it is told."""
    (folder / "x.ini").write_text(f"[databases]\na=host=x\n{LEAST}auth_file=/no/such/file")
    assert run("x.ini", "x.yaml", {}) == 1
    assert "x.ini:6: auth.file: the file can not be read" in capsys.readouterr().err
    assert "file: /no/such/file" in (folder / "x.yaml").read_text()


def test_a_file_that_is_there_is_not_replaced(folder: Path) -> None:
    (folder / "pooler.yaml").write_text("mine")
    with pytest.raises(FileExistsError):
        run("sidecar.ini", "pooler.yaml", {})
    assert (folder / "pooler.yaml").read_text() == "mine"


def test_the_yaml_fits_the_schema(folder: Path, converted: Convert) -> None:
    run("many-databases.ini", "x.yaml", {})
    schema = json_schema()
    assert accepts(schema, yaml.safe_load((folder / "x.yaml").read_text()), schema)


def test_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("logs.ini", "x.yaml", {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("logs.ini: ")
    assert "Not supported: what you lose" in lines
    assert "  logs.ini:2: databases.app: host -> databases.app.host" in lines
    assert [line for line in lines if "verbose" in line] == [
        "  logs.ini:21: verbose -> logging.level: there is one level below info"
    ]


def test_the_example_of_the_installed_package(folder: Path) -> None:
    installed = Path("/usr/share/doc/pgbouncer/examples/pgbouncer.ini")
    if not installed.exists():
        pytest.skip("pgbouncer's package is not installed: its example was not converted")
    done = convert(str(installed), Disk())
    assert done.problems == []
    assert not key(Verdict.UNSUPPORTED, done)

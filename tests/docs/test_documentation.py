"""What the documentation says is so: its commands, YAML, SQL, sums, names and links."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import yaml

from pooler.cli import _parser, main
from pooler.config import ConfigError, load
from pooler.config.environment import placeholders
from pooler.metrics.reference import markdown
from pooler.wire import codes
from tests.conftest import RunWithConfig
from tests.docs.conftest import PAGES, ROOT, Block, fenced, shell_lines
from tests.live.test_command_line import run
from tests.support.postgres import Postgres

# The page that is generated; that of metrics has its test in tests/observe.


def test_the_page_of_settings_is_fresh() -> None:
    """If not: `python scripts/generate_docs.py`."""
    done = subprocess.run(
        [sys.executable, "scripts/generate_docs.py", "--check"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


# Commands.

COMMANDS = [block for block in shell_lines() if re.match(r"(\S*/)?pooler($| (?!\d))", block.text)]


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_commands_are_understood(block: Block) -> None:
    """Every `pooler ...` that one is told to type."""
    words = shlex.split(block.text)[1:]
    parser, names = _parser()
    parser.parse_args(words if words and words[0] in (*names, "--version") else ["run", *words])


def test_what_ctl_is_told_to_do_is_done(
    run_with_config: RunWithConfig, postgres: Postgres, tmp_path: Path
) -> None:
    """In the order of the pages, on a pooler with a client."""
    server = {"host": postgres.host, "port": postgres.port, "pool_size": 2}
    socket = str(tmp_path / "ctl.sock")
    pooler = run_with_config(databases={"app": server}, admin={"socket": socket})
    with pooler.connect() as connection:
        for block in COMMANDS:
            words = shlex.split(block.text)
            if words[1:2] != ["ctl"] or "drain" in words:
                continue
            assert main(["ctl", "--socket", socket, *words[2:]]) == 0, str(block)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_quick_start(tmp_path: Path, postgres: Postgres, run_with_config: RunWithConfig) -> None:
    """Its file and its commands, with addresses that are there."""
    (block,) = (b for b in fenced("yaml") if b.page == "quick-start.md")
    config = yaml.safe_load(block.text)
    config["databases"]["*"] |= {"host": postgres.host, "port": postgres.port}
    config["users"]["app"]["password"] = "app-password"
    config["listen"]["port"] = 0
    config["metrics"]["listen"] = "127.0.0.1:0"
    file = tmp_path / "pooler.yaml"
    file.write_text(yaml.safe_dump(config))
    for command in ("check", "doctor"):
        assert run(command, file).returncode == 0
    pooler = run_with_config(**config)
    with psycopg.connect(
        f"host=127.0.0.1 port={pooler.port} user=app dbname=app password=app-password"
    ) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert run("healthcheck", f"127.0.0.1:{pooler.metrics_port}", "--ready").returncode == 0


# Configurations.

_COMPLETE = {
    "databases": {"documented": {"host": "127.0.0.1"}},
    "users": {"documented": {"password": "secret"}},
}
_NOT_HERE = ("can not be read", "needs the package", "there is no user name map", "can not be made")


@pytest.mark.parametrize("block", fenced("yaml"), ids=str)
def test_configurations_load(block: Block, tmp_path: Path) -> None:
    """With what they leave out beside them; the files that they name are not there."""
    given = yaml.safe_load(block.text)
    assert isinstance(given, dict)
    for section, entries in _COMPLETE.items():
        given[section] = {**entries, **(given.get(section) or {})}
    file = tmp_path / "pooler.yaml"
    file.write_text(yaml.safe_dump(given))
    environ = {name: "secret" for name in placeholders(block.text)}
    try:
        load(str(file), environ=environ)
    except ConfigError as error:
        wrong = [str(p) for p in error.problems if not any(n in str(p) for n in _NOT_HERE)]
        assert wrong == []


# SQL.


@pytest.mark.parametrize("block", fenced("sql"), ids=str)
def test_sql_runs(block: Block, postgres: Postgres, make_database: Callable[[], str]) -> None:
    """In a database of its own, and taken back."""
    with psycopg.connect(postgres.dsn(dbname=make_database())) as connection:
        connection.execute(block.text.encode())
        connection.rollback()


# Numbers and names.


def test_sums_are_right() -> None:
    found = 0
    for page in PAGES:
        for expression, result in re.findall(r"`([0-9 ()*/+.-]+) = (\d+)`", page.read_text()):
            assert re.fullmatch(r"[0-9 ()*/+.-]+", expression)
            assert round(eval(expression)) == int(result), f"{page.name}: {expression}"
            found += 1
    assert found > 8


def test_sqlstates() -> None:
    """Those that we give, and no others, are explained."""
    text = (ROOT / "docs/troubleshooting.md").read_text()
    listed = re.findall(r"^\| ([0-9A-Z]{5}) \|", text, re.M)
    given = {
        value
        for name, value in vars(codes).items()
        if name.isupper() and isinstance(value, str) and re.fullmatch(r"[0-9A-Z]{5}", value)
    }
    assert set(listed) == given
    assert listed == sorted(listed)


def test_metrics_that_are_named_are_exported() -> None:
    known = set(re.findall(r"`(pooler_\w+)", markdown()))
    known |= {f"{name}_{end}" for name in known for end in ("bucket", "sum", "count")}
    for page in PAGES:
        for name in re.findall(r"`(pooler_\w+)", page.read_text()):
            assert name in known, f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not re.match(r"https?:|mailto:", target):
            assert (page.parent / target).exists(), target


def test_every_page_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", text))
    assert {page.name for page in PAGES[1:]} <= linked

"""`pooler top` in a terminal of 80 by 24: what it shows, what keys do, what it does without."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pooler.admin.views import VIEWS
from pooler.top.look import _more
from pooler.top.sheets import SHEETS
from pooler.top.write import number, seconds, spark
from tests.conftest import RunWithConfig
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORDS
from tests.support.standing import load, until
from tests.top.terminal import Terminal

ESCAPE, ENTER, TAB = "\x1b", "\r", "\t"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.254, "0.25"),
        (3.4, "3.4"),
        (27, "27"),
        (99.96, "100"),
        (999.6, "1k"),
        (1254, "1.25k"),
        (31_400_000, "31.4M"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.00042, "420us"),
        (0.0124, "12.4ms"),
        (0.9999, "1s"),
        (1.25, "1.25s"),
        (59.97, "1m00s"),
        (192, "3m12s"),
        (7500, "2h05m"),
        (273_600, "3d04h"),
    ],
)
def test_times(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_lines_of_bars() -> None:
    assert spark([None, 0, 4, 8], 8, 6) == "   ▁▄█"
    assert spark([1, 2, 3], 0, 2) == "██"


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.title)
def test_sheets_fit_and_show_what_there_is(sheet: Any) -> None:
    width = sum(column.room + 2 for column in sheet.columns if column.least <= 80)
    assert width <= 78  # with a scroll bar
    there = {column.name for column in VIEWS[sheet.view].columns}
    known = there | _more(dict.fromkeys(there, 0)).keys()
    if sheet.view == "occupancy":
        known |= {"use", "trouble", "wait_p50", "wait_p95", "wait_p99", "query_p95"}
        known |= {"transactions", "queries", "errors"}
    assert {column.name for column in sheet.columns} <= known
    assert sheet.sort in {column.name for column in sheet.columns}


@pytest.fixture
def watched(run_with_config: RunWithConfig) -> Pooler:
    """A pooler with two servers, whose console `app` may use."""
    return run_with_config(databases={"*": {"pool_size": 2}}, admin={"users": ["app"]})


@pytest.fixture
def top(watched: Pooler) -> Callable[..., Terminal]:
    """Starts `pooler top` on it."""

    def start(**options: Any) -> Terminal:
        arguments = ("--host", watched.host, "--port", str(watched.port), "--user", "app")
        environment = {"PGPASSWORD": PASSWORDS["app"]}
        return Terminal(*arguments, "--interval", "0.2", environment=environment, **options)

    return start


def test_it_shows_what_goes_on(watched: Pooler, top: Callable[..., Terminal]) -> None:
    with load(watched) as wait, top() as terminal:
        terminal.wait("live", "Waits▼")
        until(lambda: terminal.line("Servers ").split()[:2], ["Servers", "2/2"])
        until(lambda: terminal.line("app  ").split()[:3], ["app", "app", "2/2"])
        assert terminal.line("Waiting ").split()[1] == "2"
        wait()
        until(lambda: terminal.line("Waiting ").split()[1], "3")
        terminal.press("2")  # its own is one of them
        text = terminal.wait("Application", "waiter0", "pooler top", "7 clients")
        assert text.count("waiting") == 3
        terminal.press("3")
        assert "idle in transaction" in terminal.wait("pinned", "busy", "2 servers")
        terminal.press("4")
        terminal.wait("waiter0", "waiter1", "waiter2", "one of 2 server", "3 waiting")
        terminal.press(TAB)
        terminal.wait("locks", "SELECT pg_adv", "1 pins")
        for key in "671":
            terminal.press(key)
        terminal.wait("Waits▼")
        terminal.press("q")
        assert terminal.status() == 0


def test_rows_are_filtered_sorted_and_held(watched: Pooler, top: Callable[..., Terminal]) -> None:
    with load(watched), top() as terminal:
        terminal.wait("live")
        terminal.press("2")
        terminal.wait("7 clients")
        terminal.press("/")
        terminal.wait("Enter keeps it")
        terminal.press("qq")  # q is a letter here
        terminal.wait("0 of 7")
        terminal.press(ESCAPE)
        terminal.wait("7 clients", gone="Enter keeps it")
        terminal.press("/")
        terminal.wait("Enter keeps it")
        terminal.press("waiter1" + ENTER)
        text = terminal.wait("1 of 7", gone="Enter keeps it")
        assert ("waiter1" in text, "busy" in text) == (True, False)
        terminal.press(ESCAPE)
        terminal.wait("7 clients", "busy")
        terminal.press("s")  # around to the first column
        terminal.wait("Id▼")
        until(lambda: _identities(terminal), list("7654321"))
        terminal.press("r")
        terminal.wait("Id▲")
        until(lambda: _identities(terminal), list("1234567"))
        terminal.press(" ")
        terminal.wait("held")
        with watched.connect(dbname="other"):
            terminal.press(" ")
            terminal.wait("live", "8 clients")


def _identities(terminal: Terminal) -> list[str]:
    return [line.split()[0] for line in terminal.lines if " app  " in line]


def test_names_are_text_and_nothing_else(watched: Pooler, top: Callable[..., Terminal]) -> None:
    with watched.connect(application_name="[red]a[/]\x1b[31mb"), top() as terminal:
        terminal.wait("live")
        terminal.press("2")
        terminal.wait("[red]a[/]")
        with pytest.raises(psycopg.OperationalError):
            watched.connect(user="x%1B%5B2Jy", password="x")
        terminal.press("7")
        assert "\x1b" not in terminal.wait("client refused")


def test_a_pooler_that_comes_back_is_found_again(
    watched: Pooler, top: Callable[..., Terminal]
) -> None:
    with top() as terminal:
        terminal.wait("live")
        watched.terminate()
        terminal.wait("no answer from the pooler")
        watched.config = {**watched.config, "listen": {"host": watched.host, "port": watched.port}}
        watched.start()
        terminal.wait("live", gone="no answer")


def test_a_wide_terminal_shows_more(watched: Pooler, top: Callable[..., Terminal]) -> None:
    with watched.connect(), top(columns=132, lines=40) as terminal:
        terminal.wait("live", "Longest", "Query95", "Err/s", "Clients")


def test_nobody_to_talk_to() -> None:
    with Terminal("--socket", "/nonexistent/pooler.sock") as terminal:
        assert terminal.status() == 3
        assert "pooler top: no answer from the pooler" in terminal.text


def test_it_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "textual.py").write_text("raise ModuleNotFoundError('x', name='textual')")
    with Terminal(environment={"PYTHONPATH": str(tmp_path)}) as terminal:
        assert terminal.status() == 1
        assert "pip install 'pooler[top]'" in terminal.text


def test_without_a_terminal_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pooler", "top"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "needs a terminal" in done.stderr) == (2, True)

"""Log lines: one an event, the same names always, and repeats counted."""

import ast
import json
import logging
import re
import signal
from pathlib import Path

import psycopg
import pytest

import pooler
from pooler.logs import WINDOW, WINDOWS, Repeats, event, flush, set_up
from tests.conftest import RunWithConfig
from tests.support.pooler import merged
from tests.support.waiting import wait_until

PACKAGE = Path(pooler.__file__).parent
DOCS = PACKAGE.parent / "docs" / "logging.md"


def record(name: str, level: int = logging.WARNING, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("pooler", level, "", 0, name, (), None)
    made.fields = fields
    return made


class Clock:
    """A clock that stands."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_repeats_are_counted() -> None:
    clock = Clock()
    repeats = Repeats(3, clock)
    told = [repeats.filter(record("x", client=n, reason="a")) for n in range(10)]
    assert told == [True] * 3 + [False] * 7
    assert repeats.filter(record("x", client=1, reason="b"))
    assert repeats.over(ended=False) == []
    clock.now += WINDOW
    (line,) = repeats.over(ended=False)
    assert (line.getMessage(), vars(line)["fields"]) == ("x", {"reason": "a", "left_out": 7})
    assert repeats.over(ended=True) == []


def test_the_next_of_its_kind_tells_what_was_left_out() -> None:
    clock = Clock()
    repeats = Repeats(1, clock)
    for n in range(5):
        repeats.filter(record("x", client=n))
    clock.now += WINDOW
    following = record("x", client=9)
    assert repeats.filter(following)
    assert vars(following)["fields"] == {"client": 9, "left_out": 4}
    clock.now += WINDOW
    assert repeats.over(ended=False) == []


def test_what_is_no_warning_is_always_told() -> None:
    repeats = Repeats(1, Clock())
    assert all(repeats.filter(record("client connected", logging.INFO)) for _ in range(5))
    refused = [repeats.filter(record("client refused", logging.INFO)) for _ in range(3)]
    assert refused == [True, False, False]


def test_kinds_watched_are_bounded() -> None:
    repeats = Repeats(1, Clock())
    for n in range(WINDOWS + 100):
        assert repeats.filter(record("x", message=str(n)))
    assert len(repeats.over(ended=True)) == 0


@pytest.mark.parametrize("form", ["json", "text"])
def test_one_event_is_one_line(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("pooler")
    before = logger.handlers[:], logger.level, logger.propagate
    try:
        set_up(form, "info", 2)  # type: ignore[arg-type]
        try:
            raise ValueError("two\nlines")
        except ValueError as error:
            logger.error("bug", exc_info=error, extra={"fields": {"where": "a\nb"}})
        for _ in range(5):
            event(logging.WARNING, "client refused", reason="two\nlines")
        event(logging.DEBUG, "not told")
        flush(ended=True)
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 + 2 + 1
    if form == "json":
        assert json.loads(lines[0])["event"] == "bug"
        assert "ValueError" in json.loads(lines[0])["traceback"]
        assert json.loads(lines[-1])["left_out"] == 3
    else:
        assert "ValueError" in lines[0]
        assert lines[-1].endswith("left_out=3")


def test_a_flood_of_refusals_is_a_few_lines(run_with_config: RunWithConfig) -> None:
    server = run_with_config(logging={"repeat_limit": 3})
    for _ in range(8):
        with pytest.raises(psycopg.OperationalError):
            server.connect(password="wrong")
    assert sum(line.get("event") == "client refused" for line in server.log) == 3
    server.terminate()
    wait_until(lambda: server.log_contains(event="client refused", left_out=5))


def test_the_level_changes_while_it_runs(run_with_config: RunWithConfig) -> None:
    server = run_with_config(logging={"level": "info"})
    quiet = merged(server.config, {"logging": {"level": "warning"}})
    server._write(quiet)
    server.signal(signal.SIGHUP)
    gone = "client connected"

    def silent() -> bool:
        before = len(server.log)
        server.connect().close()
        return not any(line.get("event") == gone for line in server.log[before:])

    wait_until(silent)
    server.reload(merged(quiet, {"logging": {"level": "debug"}}))
    server.connect().close()
    server.wait_for_log(event=gone)


# The documentation.


def _events() -> dict[str, set[str]]:
    """Events in the source, and the fields that are written out where they are logged."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if ast.unparse(node.func) == "logs.event":
                name = node.args[1]
            elif ast.unparse(node.func) == "logs.LOGGER.error":
                name = node.args[0]
            else:
                continue
            if isinstance(name, ast.Constant):
                fields = {keyword.arg for keyword in node.keywords if keyword.arg}
                found.setdefault(str(name.value), set()).update(fields - {"exc_info", "extra"})
    return found


def test_every_event_and_field_is_documented() -> None:
    text = DOCS.read_text()
    documented = set(re.findall(r"^\| `([^`]+)` \| [a-z]+ \|", text, re.MULTILINE))
    fields = set(re.findall(r"`(\w+)`", text))
    events = _events()
    assert set(events) == documented
    for name, used in events.items():
        assert used <= fields, name

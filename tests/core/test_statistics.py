"""Figures by statement: what is one statement, what is bounded, and that no value is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.core import outline
from pooler.core.counters import BOUNDS, buckets, quantile
from pooler.core.statistics import KNOWN, REST, Figures, Statistics, alike

MOST = 20

SAME = [
    ("SELECT 1", "SELECT  42"),
    ("SELECT * FROM t WHERE a = 'x'", "SELECT * FROM t WHERE a = 'y z'"),
    ("SELECT * FROM t WHERE a IN (1, 2)", "SELECT * FROM t WHERE a IN (3,4,5)"),
    ("SELECT * FROM t WHERE a IN ($1, $2)", "SELECT * FROM t WHERE a IN ($1,$2,$3)"),
    (
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        "INSERT INTO t VALUES (3, 'c'), (4, 'd'), (5, 'e')",
    ),
    ("SELECT 1 /*traceparent='00-1'*/", "SELECT 2 /*traceparent='00-2'*/"),
    (r"SELECT E'it\'s'", r"SELECT E'\\'"),
    ("SELECT $$it's$$", "SELECT $x$other$x$"),
    ("SELECT -- one\n 1", "SELECT -- two\n 1"),
]

DIFFERENT = [
    ('SELECT * FROM "a"', 'SELECT * FROM "b"'),
    ('SELECT * FROM "p-2024-01"', 'SELECT * FROM "p-2024-02"'),
    ("SELECT * FROM t1", "SELECT * FROM t2"),
    ("SELECT a FROM t WHERE b = $1", "SELECT a FROM t WHERE c = $1"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_texts_that_differ_in_values_are_one(one: str, other: str) -> None:
    statistics = Statistics()
    assert statistics.of(one.encode(), MOST) is statistics.of(other.encode(), MOST)
    assert len(statistics) == 1


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_texts_that_differ_in_names_are_not(one: str, other: str) -> None:
    statistics = Statistics()
    assert statistics.of(one.encode(), MOST) is not statistics.of(other.encode(), MOST)


@given(st.lists(st.sampled_from("'\"$ \\-/*;aE1") | st.just("secret"), max_size=40))
def test_the_cheap_part_shows_nothing(parts: list[str]) -> None:
    """Whatever it makes alike, what is shown is an outline, made with care of one of the texts."""
    text = "".join(parts).encode()
    statistics = Statistics()
    figures = statistics.of(text, MOST)
    assert figures.statement == outline.statement(text)
    assert statistics.of(text, MOST) is figures
    alike(text)


def test_what_is_set_is_a_value() -> None:
    shown = outline.statement(b"SET ROLE hidden")
    assert "hidden" not in shown
    assert "hidden" not in outline.statement(b"SET app.key TO hidden")


def test_those_unused_for_longest_make_room() -> None:
    statistics = Statistics()
    for n in range(100):
        statistics.of(f"SELECT c{n}".encode(), MOST).add(0.0, 1.0, False, float(n))
        statistics.of(b"SELECT often", MOST).add(0.0, 1.0, n % 2 == 0, float(n))
    assert len(statistics) <= MOST
    found = {figures.statement: figures for figures in statistics}
    assert found["SELECT often"].calls == 100
    assert found["SELECT often"].errors == 50
    assert "SELECT c99" in found
    assert "SELECT c0" not in found
    assert found[REST].calls > 0
    assert sum(figures.calls for figures in found.values()) == 200
    assert sum(figures.times[-1] + sum(figures.times) for figures in found.values()) == 200


def test_a_smaller_limit_holds_at_once() -> None:
    statistics = Statistics()
    for n in range(MOST):
        statistics.of(f"SELECT c{n}".encode(), MOST).add(0.0, 1.0, False, float(n))
    statistics.of(b"SELECT one_more", 5).add(0.0, 1.0, False, 100.0)
    assert len(statistics) <= 5


def test_texts_remembered_are_bounded() -> None:
    statistics = Statistics()
    for n in range(KNOWN + 100):
        statistics.of(b"SELECT '" + b"\\" * (n % 50) + b"%d'" % n, MOST)
        statistics.know(b"SELECT %d -- prepared" % n, Figures("x"))
    assert len(statistics._known) <= KNOWN
    statistics.know(b"x" * 10_000, Figures("x"))
    assert b"x" * 10_000 not in statistics._known


def test_figures_add_up() -> None:
    figures = Figures("SELECT ?")
    figures.add(0.5, 0.002, False, 1.0)
    figures.add(0.0, 60.0, True, 2.0)
    assert (figures.calls, figures.errors, figures.longest) == (2, 1, 60.0)
    assert (figures.wait_time, figures.time) == (0.5, 60.002)
    assert figures.times[-1] == 1
    assert sum(figures.waits) == 2


def test_quantiles() -> None:
    counts = buckets()
    assert quantile(counts, 0.99) == 0.0
    counts[BOUNDS.index(0.01)] = 100  # between 5 and 10 ms
    assert quantile(counts, 0.5) == pytest.approx(0.0075)
    assert quantile(counts, 1.0) == pytest.approx(0.01)
    counts[-1] = 100
    assert quantile(counts, 0.99) == BOUNDS[-1]

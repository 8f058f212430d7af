"""Rates and percentiles: what two looks at counters say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.rates import GAUGES, POINT, RATES, STALE, WINDOW, Rates, quantile

BOUNDS = (0.1, 1.0, 10.0)


def pool(name: str = "app", counted: float = 0, **gauges: float) -> tuple[Any, Any, Any]:
    """A pool's rows of the three views, with `counted` of everything."""
    key = {"database": name, "user": "u"}
    gauge = {**dict.fromkeys(GAUGES, 0), **gauges}
    upto = {f"le_{bound}": counted for bound in BOUNDS[1:]}
    waits = {"kind": "wait", "count": counted, "seconds": 0.0, "le_0.1": 0, **upto}
    return (
        {**key, **gauge},
        {**key, **dict.fromkeys(RATES.values(), counted)},
        {**key, **waits},
    )


def look(rates: Rates, now: float, *pools: tuple[Any, Any, Any]) -> list[dict[str, Any]]:
    """What is made of these pools, by name: the total and each of them."""
    points = rates.look(now, *([rows[i] for rows in pools] for i in range(3)))
    return [dict(zip(POINT, point, strict=True)) for point in points]


def test_the_first_look_knows_no_rates() -> None:
    total, app = look(Rates(), 5.0, pool(counted=7, clients=3))
    assert (app["database"], app["user"], app["clients"]) == ("app", "u", 3)
    assert (total["database"], total["clients"]) == ("", 3)
    for name in ("queries", "errors", "wait_p50", "query_p99"):
        assert app[name] is None
        assert total[name] is None


def test_rates_are_per_second_and_add_up() -> None:
    rates = Rates()
    look(rates, 10.0, pool("a", 100), pool("b", 50))
    total, a, b = look(rates, 12.0, pool("a", 110), pool("b", 51))
    assert (a["queries"], b["queries"], total["queries"]) == (5.0, 0.5, 5.5)


def test_gauges_add_up_but_for_the_longest_wait() -> None:
    total = look(Rates(), 1.0, pool("a", waiting=2, oldest_wait=3), pool("b", oldest_wait=9))[0]
    assert (total["waiting"], total["oldest_wait"]) == (2, 9)


def test_a_pool_made_anew_has_no_negative_rate() -> None:
    rates = Rates()
    look(rates, 1.0, pool("a", 1000), pool("b", 10))
    total, a, _ = look(rates, 2.0, pool("a", 1), pool("b", 12))
    assert a["queries"] is None
    assert a["wait_p50"] is None
    assert total["queries"] == 2.0


def test_percentiles_are_of_the_window_alone() -> None:
    rates = Rates()
    look(rates, 0.0, pool(counted=1000))
    assert look(rates, 1.0, pool(counted=1000))[1]["wait_p95"] is None  # nothing new
    # all that came lies between 0.1 and 1.0
    assert look(rates, 2.0, pool(counted=1100))[1]["wait_p50"] == pytest.approx(0.55)
    for second in range(3, int(WINDOW) + 5):
        app = look(rates, float(second), pool(counted=1100))[1]
    assert app["wait_p50"] is None  # long ago


def test_a_look_after_a_rest_begins_again() -> None:
    rates = Rates()
    look(rates, 0.0, pool(counted=0))
    assert look(rates, STALE + 1, pool(counted=100))[1]["queries"] is None


counts = st.lists(st.integers(0, 1000), min_size=4, max_size=4).map(tuple)


@given(counts, st.floats(0.01, 0.99))
def test_a_quantile_lies_in_the_bucket_where_it_has_to(
    counts: tuple[float, ...], share: float
) -> None:
    value = quantile(share, BOUNDS, counts)
    if not sum(counts):
        assert value is None
        return
    assert value is not None
    below = [sum(counts[: i + 1]) for i in range(4)]
    place = next(i for i in range(4) if below[i] >= share * sum(counts) - 1e-9)
    low, high = (0.0, *BOUNDS)[place], (*BOUNDS, BOUNDS[-1])[place]
    assert low - 1e-9 <= value <= high + 1e-9

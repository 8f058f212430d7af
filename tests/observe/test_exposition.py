"""The text of /metrics: what a snapshot holds, by Prometheus' own rules, in turns."""

import asyncio
import json
import shutil
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pooler.core.counters import BOUNDS, Counters, buckets, class_of
from pooler.core.pins import REASONS
from pooler.metrics import Snapshot, Tally, exposition, merge, pgbouncer
from pooler.metrics.families import POOLS, SERVICE
from pooler.metrics.process import SUPERVISOR, usage
from pooler.metrics.reference import markdown
from pooler.metrics.snapshot import OTHER
from pooler.metrics.text import escaped, pieces
from tests.conftest import RunWithConfig
from tests.live.conftest import Login
from tests.live.test_command_line import page as fetch

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt install prometheus"
)


def row(database: str, user: str = "app", **values: Any) -> dict[str, Any]:
    """A pool's row with something in every value."""
    counters = Counters()
    made: dict[str, Any] = {"database": database, "user": user, "in_use": 3}
    for family in POOLS:
        if family.kind == "histogram":
            made[family.key] = getattr(counters, family.key)
            made[family.sum] = 0.25
        elif not family.labels:
            made[family.key] = 1
    made |= {
        "pool_size": 4,
        "clients": {"idle": 2, "waiting": 1},
        "servers": {"active": 3},
        "errors": {"server/23": 2, "pooler/57": 1},
        "pinned": dict.fromkeys(REASONS, 0),
        "pins": dict.fromkeys(REASONS, 1),
    }
    return {**made, **values}


def found(*rows: dict[str, Any], **values: Any) -> Snapshot:
    """A snapshot of these rows."""
    tally = Tally()
    numbers = {family.key: 1 for family in SERVICE if not family.labels}
    return {
        "version": "1",
        "build": "interpreted",
        "values": {
            **numbers,
            "reload_failed": 0,
            "refused": {"login failed/28": 2},
            "opened": {"client/TLSv1.3": 1},
            "clients_closed": {"client terminated": 1},
            "servers_closed": {},
            "reloads": dict(tally.reloads),
            **usage("0"),
            **values,
        },
        "pools": list(rows),
    }


def text(snapshot: Snapshot) -> str:
    """All of it."""

    async def read() -> bytes:
        return b"".join([piece async for piece in exposition(snapshot)])

    return asyncio.run(read()).decode()


def together(snapshots: list[Snapshot], limit: int) -> Snapshot:
    """What several processes are."""
    return asyncio.run(merge(snapshots, limit))


def samples(snapshot: Snapshot) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample, as prometheus-client reads them."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text(snapshot))
        for sample in family.samples
    }


def labels(**values: str) -> frozenset[tuple[str, str]]:
    """A key of `samples`."""
    return frozenset(values.items())


def test_what_is_written_is_what_was_found() -> None:
    waits = buckets()
    waits[0], waits[3], waits[-1] = 5, 2, 1
    read = samples(found(row("shop", waits=waits, wait_time=40.5, queries=7)))
    where = {"database": "shop", "user": "app"}
    assert read["pooler_queries_total", labels(**where)] == 7
    assert read["pooler_clients", labels(**where, state="waiting")] == 1
    assert read["pooler_errors_total", labels(**where, origin="server", **{"class": "23"})] == 2
    assert read["pooler_pool_saturation_ratio", labels(**where)] == 0.75
    assert read["pooler_wait_seconds_sum", labels(**where)] == 40.5
    assert read["pooler_wait_seconds_count", labels(**where)] == 8
    by_bound = [
        read["pooler_wait_seconds_bucket", labels(**where, le=bound)]
        for bound in [*map(repr, BOUNDS), "+Inf"]
    ]
    assert by_bound == [5, 5, 5] + [7] * (len(BOUNDS) - 3) + [8]
    refused = labels(reason="login failed", **{"class": "28"})
    assert read["pooler_refused_clients_total", refused] == 2
    assert read["pooler_config_last_reload_successful", labels()] == 1
    assert read["process_cpu_seconds_total", labels()] > 0
    used = "process_resident_memory_bytes"
    assert read[used, labels()] == read[f"pooler_{used}", labels(process="0")] > 1_000_000


def test_what_processes_use_is_added_up() -> None:
    first, second = usage("0"), usage(SUPERVISOR)
    one = found(**first)
    read = samples(together([one, {"values": second, "pools": []}], 10))
    for name in ("process_open_fds", "process_cpu_seconds_total"):
        assert read[name, labels()] == first[name] + second[name]
        assert read[f"pooler_{name}", labels(process="0")] == first[name]
        assert read[f"pooler_{name}", labels(process=SUPERVISOR)] == second[name]
    assert read["process_max_fds", labels()] == first["process_max_fds"]
    generations = [labels(generation=str(number)) for number in range(3)]
    name = "python_gc_collections_total"
    total = sum(read[name, generation] for generation in generations)
    assert total == sum(first[name].values()) + sum(second[name].values())


def test_every_value_is_shown() -> None:
    """What is counted and not shown would be forgotten."""
    shown = {family.key for family in POOLS} | {family.sum for family in POOLS}
    counters = Counters()
    counted = {name for name in dir(counters) if not name.startswith("_")}  # compiled, too
    counted = {name for name in counted if not callable(getattr(counters, name))}
    assert counted - shown == {"errors_by"}


@promtool
def test_promtool_finds_nothing_to_mend() -> None:
    page = text(found(row("shop"), row("other things", '100% \\ "quoted"\n')))
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_documentation_is_fresh() -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert page.read_text() == markdown(), "python -m pooler.metrics.reference > docs/metrics.md"


@promtool
def test_pgbouncers_names(run_with_config: RunWithConfig, login: Login) -> None:
    pooler = run_with_config(
        metrics={"pgbouncer_names": True},
        databases={"shop": {"host": "127.0.0.1", "port": 1, "pool_size": 7}},
    )
    client = login(at=pooler)
    for _ in range(3):
        client.query("SELECT 1")
    status, page = fetch(pooler.metrics_port, "/metrics")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(page)}
    for family in pgbouncer.ALL:
        assert family.name.removesuffix("_total") in families, family.name
    (size,) = [
        sample
        for sample in families["pgbouncer_databases_pool_size"].samples
        if sample.labels["name"] == "shop"
    ]
    assert (size.value, size.labels["port"], size.labels["force_user"]) == (7, "1", "")
    (queries,) = families["pgbouncer_stats_totals_queries_pooled"].samples
    assert queries.value >= 3
    assert queries.labels == {"database": "app"}
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_a_label_means_itself(name: str) -> None:
    line = f'x{{a="{escaped(name)}"}} 1\n'
    (family,) = text_string_to_metric_families(line)
    assert family.samples[0].labels == {"a": name}


def test_names_that_clients_choose_are_bounded() -> None:
    many = together([found(*(row(f"db{n}", queries=1) for n in range(10)))], 4)
    rows = many["pools"]
    assert [row["database"] for row in rows] == ["db0", "db1", "db2", "db3", OTHER]
    assert rows[-1]["queries"] == 6
    assert rows[-1]["pool_size"] == 6 * 4
    assert rows[-1]["user"] == OTHER


def test_a_database_named_like_the_rest_is_one_of_it() -> None:
    rows = together([found(row(OTHER, OTHER), row("a"), row("b"), row("c"))], 2)["pools"]
    assert [(row["database"], row["pool_size"]) for row in rows] == [
        (OTHER, 4 + 4),
        ("a", 4),
        ("b", 4),
    ]


def test_several_processes_are_one() -> None:
    """Through JSON, as they come."""
    one = found(row("a", oldest_wait=1.0, up=1), row("b"), clients=3, client_limit=10)
    two = found(
        row("a", oldest_wait=4.0, up=0, clients={"idle": 1, "active": 5}),
        row("c"),
        clients=4,
        client_limit=10,
        refused={"login failed/28": 1, "closed by peer/none": 6},
    )
    both = together([json.loads(json.dumps(each)) for each in (one, two)], 100)
    values, rows = both["values"], {row["database"]: row for row in both["pools"]}
    assert values["clients"] == 7
    assert values["client_limit"] == 10
    assert values["refused"] == {"login failed/28": 3, "closed by peer/none": 6}
    assert list(rows) == ["a", "b", "c"]
    assert rows["a"]["clients"] == {"idle": 3, "waiting": 1, "active": 5}
    assert rows["a"]["oldest_wait"] == 4.0
    assert rows["a"]["pool_size"] == 4
    assert rows["a"]["up"] == 0
    assert rows["a"]["queries"] == 2
    assert one["pools"][0]["queries"] == 1  # what was merged is as it was
    assert samples(both)["pooler_clients", labels(database="a", user="app", state="idle")] == 3


def test_hundreds_of_pools_keep_nobody_waiting() -> None:
    """No piece of work is long; the whole takes some tens of milliseconds."""
    snapshot = found(*(row(f"db{n}") for n in range(500)))
    list(pieces(snapshot))
    times = [time.thread_time()]
    for _ in pieces(snapshot):
        times.append(time.thread_time())
    assert (
        max(after - before for before, after in pairwise(times)) < 0.02
    )  # 1 ms on a quiet machine
    assert times[-1] - times[0] < 0.5


@pytest.mark.parametrize(
    ("sqlstate", "expected"), [("23505", "23"), ("ZZ000", "other"), ("", "other"), ("P0001", "P0")]
)
def test_classes_are_a_closed_set(sqlstate: str, expected: str) -> None:
    assert class_of(sqlstate) == expected

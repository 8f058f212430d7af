"""Writes docs/metrics.md: `python -m pooler.metrics.reference > docs/metrics.md`."""

from collections.abc import Iterable

from pooler.core.counters import BOUNDS
from pooler.metrics import pgbouncer
from pooler.metrics.families import POOLS, PROCESS, SERVICE, Family

_INTRODUCTION = """\
# Metrics

`/metrics` on the address of `metrics.listen`, in Prometheus' text format. This page is made of the
same tables as the metrics, by `python -m pooler.metrics.reference`; `deploy/prometheus` has rules
that use them, `deploy/grafana` a dashboard.

Figures of a pool have the labels `database` (by the name clients use) and `user` (of its server
connections). Clients choose such names, so `metrics.pool_limit` pools have figures of their own;
the others are one, with `other` for both. With several workers, a scrape shows the sum of all.

A scrape is made in turns of 2 ms, between which clients are served. Per pool it costs about 60 us
of CPU and 9 kB of text: 500 pools take some 30 ms.

`/healthz` says whether the process works, `/readyz` whether clients should be sent to it: who does
not listen, is shutting down or cannot reach a configured database (unless that is `optional`) is
not ready, and the JSON says why.
"""

_STATISTICS = """\
## Statistics by statement

`queries.statistics` (off, sampled or on) has figures kept by statement: `SHOW STATEMENTS` in the
console, `/api/statements`, the dashboard. A statement is told by its outline: comments are gone,
`?` stands for each value, and parameters are never looked at. What ends with one Sync is measured
together and shared evenly by its statements, but for BEGIN and COMMIT beside others. The time that
a transaction waited for a server is its first statement's.

`queries.slow_query_time` has queries logged that take longer, waiting included: `slow query` in
[logging.md](logging.md). `traces.endpoint` has transactions sent to an OpenTelemetry collector, as
spans with waiting and executing as children; where the caller is traced itself and says so by a
`traceparent` comment (sqlcommenter), they are part of its trace.
"""


def _table(families: Iterable[Family]) -> str:
    lines = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    for family in families:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        lines.append(f"| `{family.name}` | {family.kind} | {labels} | {family.text} |")
    return "\n".join(lines)


def markdown() -> str:
    """Return the page."""
    bounds = ", ".join(f"{bound:g}" for bound in BOUNDS)
    return "\n".join(
        (
            _INTRODUCTION,
            "## Of each pool\n",
            f"Buckets of histograms, in seconds: {bounds}.\n",
            _table(POOLS),
            "\n## Of the pooler\n",
            "`pooler_build_info` has version and kind of build as labels, `python_info` those of "
            "Python.\n",
            _table(SERVICE),
            "\n## Of its processes\n",
            "With `workers`, `process_...` and `python_gc_...` are of all workers and the "
            "supervisor together,\n`pooler_process_...` of each, and are there only then.\n",
            _table(PROCESS),
            "",
            _STATISTICS,
            "## PgBouncer's names\n",
            "With `metrics.pgbouncer_names: true`, those of pgbouncer_exporter besides.\n",
            _table(pgbouncer.ALL),
            "",
        )
    )


if __name__ == "__main__":
    print(markdown(), end="")

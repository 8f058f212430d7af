"""What came out, for people: a table in Markdown, a plot, and JSON for what comes later."""

import json
import os
import platform
from pathlib import Path

from tests.bench.rows import Result

SHOWN = ("direct", "pgbouncer", "interpreted", "compiled")


def machine() -> str:
    """Say on what it ran."""
    return f"{os.cpu_count()} cores, {platform.system()} {platform.release()}"


def table(results: list[Result]) -> str:
    """Return the table: values, and those of ours in PgBouncer's."""
    head = ("measure", "target", *SHOWN, "interpreted / PgBouncer", "compiled / PgBouncer")
    lines = [_line(head), _line(["---"] * len(head))]
    for result in results:
        name = f"{result.name}, {result.unit}" if result.unit else result.name
        if result.missing:
            lines.append(_line((name, result.target, result.missing, *[""] * (len(head) - 3))))
            continue
        values = [_number(result.values.get(subject)) for subject in SHOWN]
        ratios = [_number(result.ratio(subject), " x") for subject in SHOWN[2:]]
        lines.append(_line((name, result.target, *values, *ratios)))
    return "\n".join(lines)


def _line(cells: "tuple[str, ...] | list[str]") -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return ""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}{unit}"


def write_json(results: list[Result], path: Path, about: dict[str, str]) -> None:
    """Write everything that was measured."""
    rows = [
        {
            "name": result.name,
            "unit": result.unit,
            "target": result.target,
            "values": result.values,
            "ratios": {subject: result.ratio(subject) for subject in SHOWN[2:]},
            "missing": result.missing,
        }
        for result in results
    ]
    path.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def plot(results: list[Result], path: Path, about: str) -> None:
    """Draw how ours compare to PgBouncer, row by row: right of the line is better than it."""
    import matplotlib  # of the extra `dev`

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [r for r in results if r.ratio("compiled") or r.ratio("interpreted")][::-1]
    figure, axes = pyplot.subplots(figsize=(9, 1.5 + 0.42 * len(rows)), layout="constrained")
    for offset, (subject, colour) in enumerate(
        (("interpreted", "#9db4c0"), ("compiled", "#2a6f97"))
    ):
        places = [place + 0.2 - 0.4 * (1 - offset) for place in range(len(rows))]
        values = []
        for row in rows:
            ratio = row.ratio(subject) or 0.0
            values.append(1 / ratio if row.lower_is_better and ratio > 0 else max(ratio, 0.0))
        bars = axes.barh(places, values, height=0.38, color=colour, label=f"pooler, {subject}")
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.axvline(1.0, color="#333333", linewidth=1)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=9)
    axes.set_xlabel("times as good as PgBouncer (1.0), each measure in one alternating run")
    axes.set_title(about, fontsize=9, loc="left")
    axes.legend(loc="lower right", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    pyplot.close(figure)

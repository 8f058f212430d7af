"""`python -m tests.bench [--full] [--only WORD ...] [--json FILE] [--plot FILE] [--table FILE]`.

Measures every row of the table in `docs/performance.md`: PostgreSQL directly, PgBouncer and both
builds of the pooler, alternating in one run. The quick form takes less than five minutes, once the
compiled build has been made. A row that cannot be measured says why.
"""

import argparse
import contextlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from tests.bench.report import machine, plot, table, write_json
from tests.bench.rows import FULL, QUICK, ROWS, SERVERS, Bench, Result, Scale
from tests.bench.subjects import USER, Missing, Subject, build, ours, pgbouncer
from tests.support.postgres import Postgres
from tests.tls.certificates import Authority

SETTINGS: dict[str, str | int] = {"max_connections": 400, "shared_buffers": "256MB"}


class _Starter:
    """Starts those who are compared, each in a folder of its own."""

    def __init__(self, postgres: Postgres, folder: Path) -> None:
        self._postgres = postgres
        self._folder = folder
        self._pair = Authority(folder).issue("127.0.0.1", ["127.0.0.1"])

    def start(
        self,
        name: str,
        database: Mapping[str, object] | None = None,
        *,
        auth: str = "trust",
        **settings: object,
    ) -> AbstractContextManager[Subject]:
        """Return one of them, to be entered; Missing."""
        own = Path(tempfile.mkdtemp(dir=self._folder, prefix=f"{name}-"))
        own.chmod(0o755)
        if name == "pgbouncer":
            return pgbouncer(self._postgres, own, self._pair, SERVERS, auth)
        compiled = name == "compiled"
        return ours(
            self._postgres, own, self._pair, SERVERS, auth, compiled, database or {}, **settings
        )

    def start_all(self, stack: ExitStack, auth: str) -> list[Subject]:
        """Start all that can be started; say what cannot."""
        version = self._postgres.sql("SHOW server_version")[0][0]
        found = [Subject("direct", self._postgres.port, 0, version)]
        for name in ("pgbouncer", "interpreted", "compiled"):
            try:
                found.append(stack.enter_context(self.start(name, auth=auth)))
            except Missing as missing:
                print(f"not there: {missing}", file=sys.stderr)
        return found


def _measure(bench: Bench, words: list[str]) -> list[Result]:
    results = []
    for row in ROWS:
        if words and not any(word.lower() in row.name.lower() for word in words):
            continue
        began = time.monotonic()
        result = Result(row.name, row.unit, row.target, row.lower_is_better)
        try:
            result.values = row.measure(bench)
        except (Missing, subprocess.TimeoutExpired, OSError) as missing:
            result.missing = f"not measured: {missing}"
        results.append(result)
        values = ", ".join(f"{name} {value:.4g}" for name, value in result.values.items())
        took = time.monotonic() - began
        print(f"{row.name}: {result.missing or values} ({took:.0f} s)", file=sys.stderr)
    return results


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="the long form")
    parser.add_argument("--only", nargs="*", default=[], help="rows that have one of these words")
    parser.add_argument("--json", type=Path, help="where to write everything measured")
    parser.add_argument("--plot", type=Path, help="where to draw the comparison (.svg, .png)")
    parser.add_argument("--table", type=Path, help="where to write the table")
    asked = parser.parse_args()
    scale: Scale = FULL if asked.full else QUICK
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for compiled in (False, True):
        with contextlib.suppress(Missing):  # told where it is started
            build(compiled)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pooler-bench")))
        folder.chmod(0o755)
        postgres = stack.enter_context(Postgres(settings=SETTINGS))
        postgres.sql(f"CREATE DATABASE bench OWNER {USER}")
        direct = Subject("direct", postgres.port, 0, "")
        made = [str(postgres.bin_dir / "pgbench"), "-i", "-q", "-s", "1", direct.url()]
        subprocess.run(made, check=True, capture_output=True)
        postgres.sql("CREATE UNLOGGED TABLE bench_copy (text text)", db="bench")
        postgres.sql(f"ALTER TABLE bench_copy OWNER TO {USER}", db="bench")
        starter = _Starter(postgres, folder)
        trusted = starter.start_all(stack, "trust")
        proven = starter.start_all(stack, "scram-sha-256")
        bench = Bench(postgres.bin_dir, folder, scale, trusted, proven, starter.start, postgres.pid)
        results = _measure(bench, asked.only)
        about = {
            "machine": machine(),
            "form": "full" if asked.full else "quick",
            **{s.name: s.version for s in trusted},
        }
    text = table(results)
    print(text)
    if asked.table:
        asked.table.write_text(text + "\n")
    if asked.json:
        write_json(results, asked.json, about)
    if asked.plot:
        plot(results, asked.plot, f"PostgreSQL {about['direct']}, {about.get('pgbouncer', '')}")


if __name__ == "__main__":
    main()

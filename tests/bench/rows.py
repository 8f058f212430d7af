"""The rows of the table in `docs/performance.md`: what is run, and what is compared."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.loads import Run, crowd, median, pgbench, psql
from tests.bench.subjects import Missing, Subject, memory

SERVERS = 20
CLIENTS = 16
SET_SCRIPT = "SET statement_timeout = 60000;\nSELECT 1;\n"
GET_SCRIPT = "SELECT 1;\n"
WIDE_SCRIPT = "SELECT * FROM pgbench_accounts WHERE aid <= 500;\n"


@dataclass
class Scale:
    """How long, how often, how many."""

    seconds: float
    repeats: int
    megabytes: int
    idle: int
    crowds: tuple[int, ...]
    tail: int


QUICK = Scale(2, 2, 100, 2_000, (10, 1_000), 200)
FULL = Scale(6, 5, 1_000, 10_000, (10, 100, 1_000, 10_000), 1_000)


@dataclass
class Bench:
    """Where things are; who is compared."""

    bin_dir: Path
    folder: Path
    scale: Scale
    trusted: list[Subject]
    """Clients log in without a password."""
    proven: list[Subject]
    """Clients log in with SCRAM."""
    start: Callable[..., AbstractContextManager[Subject]]
    """Gives another one of a name; settings of its database, and of the whole, may follow."""
    postmaster: int
    """PostgreSQL's first process."""

    def pgbench(self, subject: Subject, *arguments: str, watched: int = 0) -> Run:
        """Run it for as long as the scale says."""
        seconds = self.scale.seconds
        return pgbench(self.bin_dir, subject, arguments, seconds, self.folder, watched)


@dataclass
class Row:
    """One measure."""

    name: str
    unit: str
    measure: Callable[[Bench], "Values"]
    target: str = ""
    lower_is_better: bool = True


Values = dict[str, float]
"""By subject."""


@dataclass
class Result:
    """What came out of a row."""

    name: str
    unit: str
    target: str
    lower_is_better: bool
    values: Values = field(default_factory=dict)
    missing: str = ""

    def ratio(self, subject: str) -> float | None:
        """A subject's value in PgBouncer's."""
        own, peer = self.values.get(subject), self.values.get("pgbouncer")
        return own / peer if own is not None and peer else None


def _alternating(
    bench: Bench, subjects: Sequence[Subject], run: Callable[[Subject], float | None]
) -> Values:
    """Run for each in turn, again and again; the medians of those that can and have a value.

    PgBouncer before 1.21 cannot run prepared statements in transaction mode, say.
    """
    found: dict[str, list[float]] = {}
    failed: dict[str, Missing] = {}
    for _ in range(bench.scale.repeats):
        for subject in subjects:
            if subject.name in failed:
                continue
            try:
                value = run(subject)
            except Missing as missing:
                failed[subject.name] = missing
                found.pop(subject.name, None)
                print(f"{subject.name}: {missing}", file=sys.stderr)
                continue
            if value is not None:
                found.setdefault(subject.name, []).append(value)
    if failed and not found:
        raise next(iter(failed.values()))
    return {name: median(values) for name, values in found.items()}


def _cost(run: Run) -> float | None:
    return run.cost * 1e6 if run.cpu else None


def _load(*arguments: str, of: Callable[[Run], float | None]) -> Callable[[Bench], Values]:
    def measure(bench: Bench) -> Values:
        return _alternating(bench, bench.trusted, lambda s: of(bench.pgbench(s, *arguments)))

    return measure


def _script(text: str, name: str) -> Callable[[Bench], str]:
    def write(bench: Bench) -> str:
        path = bench.folder / f"{name}.sql"
        path.write_text(text)
        return str(path)

    return write


_SELECT = ("-S", "-c", str(CLIENTS), "-j", "2")


def _wide(bench: Bench) -> Values:
    script = _script(WIDE_SCRIPT, "wide")(bench)
    arguments = ("-c", "4", "-j", "2", "-f", script)
    return _alternating(bench, bench.trusted, lambda s: bench.pgbench(s, *arguments).rate)


def _copy_out(bench: Bench) -> Values:
    size = bench.scale.megabytes
    rows = size * 1_000
    command = f"COPY (SELECT repeat('x', 999) FROM generate_series(1, {rows})) TO STDOUT"
    run = lambda s: psql(bench.bin_dir, s, command, size).rate  # noqa: E731
    return _alternating(bench, bench.trusted, run)


def _copy_in(bench: Bench) -> Values:
    size = bench.scale.megabytes
    source = (b"x" * 999 + b"\n") * (size * 1_000)
    command = "COPY bench_copy FROM STDIN"

    def run(subject: Subject) -> float:
        rate = psql(bench.bin_dir, subject, command, size, source).rate
        psql(bench.bin_dir, subject, "TRUNCATE bench_copy", 1)
        return rate

    return _alternating(bench, bench.trusted, run)


def _latency(share: float) -> Callable[[Bench], Values]:
    """What is added to a direct connection's latency at one client, in microseconds."""

    def measure(bench: Bench) -> Values:
        run = lambda s: bench.pgbench(s, "-S", "-l").percentile(share) * 1e6  # noqa: E731
        values = _alternating(bench, bench.trusted, run)
        if "direct" not in values:
            raise Missing("there is no direct connection to compare with")
        direct = values.pop("direct")
        return {name: value - direct for name, value in values.items()}

    return measure


def _tail(of: Callable[[Run], float]) -> Callable[[Bench], Values]:
    def measure(bench: Bench) -> Values:
        clients = str(bench.scale.tail)
        pooled = [subject for subject in bench.trusted if subject.pid]
        run = lambda s: of(bench.pgbench(s, "-S", "-l", "-c", clients, "-j", "2"))  # noqa: E731
        return _alternating(bench, pooled, run)

    return measure


def _held(query: bool) -> Callable[[Bench], Values]:
    """Memory per client, in kilobytes, of many that come to a process that has had none."""

    def measure(bench: Bench) -> Values:
        values = {}
        for name in [subject.name for subject in bench.trusted if subject.pid]:
            with bench.start(name) as subject:
                before = memory(subject.pid)
                with crowd(subject, bench.scale.idle, query):
                    grown = memory(subject.pid) - before
            values[name] = grown / bench.scale.idle / 1000
        return values

    return measure


def _logins(*, tls: bool, of: Callable[[Run], float | None]) -> Callable[[Bench], Values]:
    def measure(bench: Bench) -> Values:
        def run(subject: Subject) -> float | None:
            plain = subject.url
            mode = "require" if tls else "disable"
            secured = Subject(subject.name, subject.port, subject.pid, subject.version)
            secured.url = lambda **options: plain(sslmode=mode, **options)  # type: ignore[method-assign]
            return of(bench.pgbench(secured, "-S", "-C", "-c", "8", "-j", "2"))

        subjects = [s for s in bench.proven if s.pid or not tls]
        return _alternating(bench, subjects, run)

    return measure


def _with_set(bench: Bench) -> Values:
    """CPU of a transaction where each sixteenth is a SET, in that where none is."""
    gets = _script(GET_SCRIPT, "get")(bench)
    sets = _script(SET_SCRIPT, "set")(bench)
    alone = ("-c", str(CLIENTS), "-j", "2", "-f", gets)
    mixed = ("-c", str(CLIENTS), "-j", "2", "-f", f"{gets}@15", "-f", f"{sets}@1")
    own = [s for s in bench.trusted if s.name in ("interpreted", "compiled")]
    without = _alternating(bench, own, lambda s: _cost(bench.pgbench(s, *alone)))
    having = _alternating(bench, own, lambda s: _cost(bench.pgbench(s, *mixed)))
    return {name: having[name] / value for name, value in without.items()}


def _growth(bench: Bench) -> Values:
    """CPU of a transaction beside the most connected clients, in that beside the fewest."""
    costs: list[Values] = []
    pooled = [subject for subject in bench.trusted if subject.pid]
    for count in (bench.scale.crowds[0], bench.scale.crowds[-1]):
        with ExitStack() as stack:
            for subject in pooled:
                stack.enter_context(crowd(subject, count, query=True))
            costs.append(_alternating(bench, pooled, lambda s: _cost(bench.pgbench(s, *_SELECT))))
    fewest, most = costs
    return {name: most[name] / value for name, value in fewest.items()}


def _workers(bench: Bench) -> Values:
    """CPU of a transaction with two workers, all processes together, in that with one."""
    values = {}
    own = [s for s in bench.trusted if s.name in ("interpreted", "compiled")]
    for one in own:
        with bench.start(one.name, workers=2) as two:
            two.name = "two"
            costs = _alternating(bench, [one, two], lambda s: _cost(bench.pgbench(s, *_SELECT)))
        values[one.name] = costs["two"] / costs[one.name]
    return values


def _cached(of: Callable[[Run], float | None], *, watch: bool) -> Callable[[Bench], Values]:
    """Unnamed statements, which ours serves from its cache; `watch`: it is PostgreSQL's CPU."""

    def measure(bench: Bench) -> Values:
        with ExitStack() as stack:
            subjects = [s for s in bench.trusted if s.name in ("direct", "pgbouncer")]
            for name in ("interpreted", "compiled"):
                if any(subject.name == name for subject in bench.trusted):
                    cached = bench.start(name, {"statement_cache": "unnamed"})
                    subjects.append(stack.enter_context(cached))
            watched = bench.postmaster if watch else 0
            arguments = (*_SELECT, "-M", "extended")
            run = lambda s: of(bench.pgbench(s, *arguments, watched=watched))  # noqa: E731
            return _alternating(bench, subjects, run)

    return measure


def _rate(run: Run) -> float:
    return run.rate


ROWS = (
    *(
        Row(f"CPU per transaction, {kind}", "us", _load(*_SELECT, "-M", kind, of=_cost), "<= 1.15")
        for kind in ("simple", "extended", "prepared")
    ),
    *(
        Row(
            f"throughput, {kind}", "/s", _load(*_SELECT, "-M", kind, of=_rate), ">= 0.95",
            lower_is_better=False,
        )
        for kind in ("simple", "extended", "prepared")
    ),
    Row(
        "CPU per transaction, TPC-B-like", "us",
        _load("-c", str(CLIENTS), "-j", "2", of=_cost), "<= 1.15",
    ),
    Row("wide results (500 rows)", "/s", _wide, ">= 1.0", lower_is_better=False),
    Row("COPY out", "MB/s", _copy_out, ">= 1.0", lower_is_better=False),
    Row("COPY in", "MB/s", _copy_in, ">= 1.0", lower_is_better=False),
    Row("latency added at one client, p50", "us", _latency(0.5), "<= 1.1"),
    Row("latency added at one client, p99", "us", _latency(0.99), "<= 1.1"),
    Row(
        "p99 with many clients on 20 servers", "ms",
        _tail(lambda run: run.percentile(0.99) * 1e3), "<= 1.0",
    ),
    Row(
        "p99 / p50 with many clients on 20 servers", "",
        _tail(lambda run: run.percentile(0.99) / run.percentile(0.5)), "<= 1.0",
    ),
    Row("memory per idle client", "kB", _held(query=False), "<= 2.2 kB"),
    Row("memory per client that has asked", "kB", _held(query=True), "< 1.0"),
    Row("CPU per login and query, SCRAM", "us", _logins(tls=False, of=_cost), "<= 1.0"),
    Row("CPU per login and query, SCRAM and TLS", "us", _logins(tls=True, of=_cost), "<= 1.0"),
    Row("logins, SCRAM", "/s", _logins(tls=False, of=_rate), ">= 1.0", lower_is_better=False),
    Row(
        "logins, SCRAM and TLS", "/s", _logins(tls=True, of=_rate), ">= 1.0",
        lower_is_better=False,
    ),
    Row("CPU with a SET in 16 / with none", "", _with_set, "<= 1.3 of itself"),
    Row("CPU with the most clients / the fewest", "", _growth, "<= 1.3 of itself"),
    Row(
        "throughput, extended, statement cache", "/s",
        _cached(of=_rate, watch=False), "> 1.0", lower_is_better=False,
    ),
    Row(
        "CPU of PostgreSQL per transaction, extended, statement cache", "us",
        _cached(of=_cost, watch=True), "< direct",
    ),
    Row("CPU per transaction, two workers / one", "", _workers, "<= 1.1 of itself"),
)  # fmt: skip

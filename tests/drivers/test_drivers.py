"""Drivers of other languages, each by a program of its own over one or two servers.

What they check themselves, with the driver's defaults and its ways to ask: logins by SCRAM and over
TLS, prepared statements that go by the same name for several clients, errors, transactions,
settings of the session, COPY, notifications, cancels.
"""

import pytest

from tests.drivers.conftest import RunProgram
from tests.drivers.toolchains import HERE, built, fetch, made, need, node_modules

PGJDBC = "42.7.8"


def test_node_postgres(run_program: RunProgram) -> None:
    run_program("node", HERE / "node" / "check.js", NODE_PATH=node_modules())


def test_pgjdbc(run_program: RunProgram) -> None:
    need("pgjdbc", "java", "mvn")
    artifact = f"-Dartifact=org.postgresql:postgresql:{PGJDBC}"
    copy = ["mvn", "-q", "-B", "dependency:copy", artifact, "-DoutputDirectory=."]
    folder = made("pgjdbc", PGJDBC, lambda new: fetch("pgjdbc", copy, new))
    jar = folder / f"postgresql-{PGJDBC}.jar"
    run_program("java", "-XX:TieredStopAtLevel=1", "-cp", jar, HERE / "pgjdbc" / "Check.java")


def test_pgx(run_program: RunProgram) -> None:
    need("pgx", "go")
    fetches, builds = ["go", "mod", "tidy"], ["go", "build", "-o", "check", "."]
    files = ("go.mod", "main.go")
    run_program(built("pgx", files, fetches, builds, {"GOTOOLCHAIN": "local"}) / "check")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tokio_postgres(run_program: RunProgram) -> None:
    need("tokio", "cargo")
    builds = ["cargo", "build", "--quiet", "--offline", "--target-dir", "target"]
    folder = built("tokio", ("Cargo.toml", "src/main.rs"), ["cargo", "fetch"], builds)
    run_program(folder / "target" / "debug" / "check")

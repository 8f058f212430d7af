"""`pooler demo` as a user runs it."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from pooler.demo import HOST, choose_port
from pooler.embedded import free_port

SCRIPT = """
import argparse, sys
from pooler.demo import run
port, metrics = (value or None for value in sys.argv[1:])
sys.exit(run(argparse.Namespace(port=port and int(port), metrics=metrics)))
"""


@contextmanager
def demo(port: int | str, metrics: str = "127.0.0.1:0") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SCRIPT, str(port), metrics]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if text in line:
            return output
    raise AssertionError(f"it ended after: {output}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_demo(number: signal.Signals) -> None:
    with demo(free_port()) as process:
        guide = read_until(process, "Ctrl-C")
        found = re.search(r"postgresql://\S+", guide)
        assert found is not None
        for _ in range(3):
            with psycopg.connect(found[0]) as connection:
                connection.execute("CREATE TEMP TABLE mine () ON COMMIT DROP")
        connection = psycopg.connect(found[0])  # an idle client does not hold it up
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
        connection.close()
        assert (process.returncode, "everything is removed" in output) == (0, True), errors
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(found[0])


def test_a_taken_default_port_is_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((HOST, free_port())) as taken:
        default = taken.getsockname()[1]
        port = choose_port(HOST, None, default)
    assert port > default
    assert capsys.readouterr().out == f"pooler demo: port {default} is taken, using {port}\n"


def test_stopped_while_it_starts() -> None:
    with demo(free_port()) as process:
        read_until(process, "starting PostgreSQL")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")


def test_a_taken_port_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, demo(taken.getsockname()[1]) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert re.fullmatch(r"pooler demo: port \d+ of 127.0.0.1 is not free\n", errors)


def test_no_binaries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POOLER_PG_BIN", str(tmp_path))
    with demo(free_port()) as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert re.fullmatch(r"pooler demo: POOLER_PG_BIN=.*\n", errors)


def test_a_wrong_metrics_address() -> None:
    with demo(free_port(), metrics="9127") as process:
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (1, "pooler demo: --metrics 9127 is not HOST:PORT\n")

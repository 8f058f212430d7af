"""Fetches and builds the programs of other languages; what comes is kept in the user's cache.

Each language's own client fetches, with its own configuration. What has been built of the same
files is not built again. Where a toolchain or what it fetches cannot be had, tests are skipped.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TIMEOUT = 600  # seconds; a build of many crates on a loaded machine takes some


def cache() -> Path:
    """The user's folder for what can be fetched again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "pooler-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def need(driver: str, *commands: str) -> None:
    """Skip where one of the commands is missing."""
    for command in commands:
        if shutil.which(command) is None:
            pytest.skip(f"SKIPPED: {driver} is not tested, there is no {command} here")


def made(driver: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills, once for all runs with this key."""
    folder = cache() / f"{driver}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not folder.exists():
        new = Path(tempfile.mkdtemp(prefix=f".{driver}-", dir=cache()))
        try:
            make(new)
            new.replace(folder)
        except OSError:
            if not folder.exists():  # somebody else has made it meanwhile
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return folder


def fetch(
    driver: str, arguments: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> None:
    """Run a command that uses the network; skip where that fails."""
    try:
        run(arguments, folder, environment)
    except subprocess.TimeoutExpired:
        pytest.skip(f"SKIPPED: {driver} is not tested, {arguments[0]} does not come to an end")
    except subprocess.CalledProcessError as failed:
        said = str(failed.output)[-300:]
        pytest.skip(f"SKIPPED: {driver} is not tested, {arguments[0]} says {said}")


def run(arguments: list[str], folder: Path, environment: Mapping[str, str] | None) -> None:
    """Run a toolchain's command; what it said is in the error, if it fails."""
    subprocess.run(
        arguments,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        env={**os.environ, **(environment or {})},
        check=True,
    )


def built(
    driver: str,
    names: Sequence[str],
    fetches: list[str],
    builds: list[str],
    environment: Mapping[str, str] | None = None,
) -> Path:
    """The folder with the files of these names and what is built of them and what they need."""
    files = {name: (HERE / driver / name).read_text() for name in names}

    def make(folder: Path) -> None:
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        fetch(driver, fetches, folder, environment)
        try:
            run(builds, folder, environment)
        except subprocess.CalledProcessError as failed:
            pytest.fail(f"{driver}: {failed.output}")

    return made(driver, str(files), make)


def node_modules() -> str:
    """What NODE_PATH has to be for programs that need node-postgres."""
    need("node-postgres", "node", "npm")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "pg@8"]
    folder = made("node", "pg@8", lambda folder: fetch("node-postgres", install, folder))
    return str(folder / "node_modules")

"""What a test session leaves behind: processes it started, files in its temporary folder."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

MARK = "POOLER_TEST_SESSION"
"""An environment variable that our children inherit and by which we know them."""

_GRACE = 5.0  # seconds for what has been told to leave


@contextmanager
def nothing_left_over() -> Iterator[Path]:
    """Give a temporary folder, made the default one; fail when anything is left at the end."""
    mark = uuid4().hex
    with tempfile.TemporaryDirectory(prefix="pooler-test-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # an unprivileged PostgreSQL works below it
        before = tempfile.tempdir, os.environ.get("TMPDIR")
        tempfile.tempdir = os.environ["TMPDIR"] = name
        os.environ[MARK] = mark
        try:
            yield folder
        finally:
            del os.environ[MARK], os.environ["TMPDIR"]
            tempfile.tempdir = before[0]
            if before[1] is not None:
                os.environ["TMPDIR"] = before[1]
        deadline = time.monotonic() + _GRACE
        while (
            left := [*_processes(mark, folder), *_files(folder)]
        ) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, f"the tests left behind: {', '.join(left)}"


def _processes(mark: str, folder: Path) -> Iterator[str]:
    """Ours by their mark, or by working in our folder: PostgreSQL writes over its environment."""
    wanted = f"{MARK}={mark}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            marked = wanted in (process / "environ").read_bytes()
            if marked or (process / "cwd").readlink().is_relative_to(folder):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                yield f"process {process.name} ({command.strip()})"
        except OSError:
            continue  # it ended, or is another user's


def _files(folder: Path) -> Iterator[str]:
    return (f"file {path}" for path in folder.iterdir())

"""What a test session leaves behind: processes it started, files in its temporary folder."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from pooler.admin.socket import found

MARK = "TEST_SESSION_OF_POOLER"
"""An environment variable that our children inherit; POOLER_... would be taken for a setting."""


@contextlib.contextmanager
def nothing_left_over(grace: float = 5.0) -> Iterator[Path]:
    """Give a temporary folder, made the default one; fail when anything is left at the end.

    `grace` is the time, in seconds, for what has been told to leave.
    """
    mark = uuid4().hex
    with tempfile.TemporaryDirectory(prefix="pooler-test-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # an unprivileged PostgreSQL works below it
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", name)
            patch.setenv("TMPDIR", name)
            patch.setenv(MARK, mark)
            yield folder
            _sweep()
        deadline = time.monotonic() + grace
        while (
            left := [*_processes(mark, folder), *_files(folder)]
        ) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, f"the tests left behind: {', '.join(left)}"


def _sweep() -> None:
    """Remove the sockets of poolers that were killed, as the next `pooler ctl` would."""
    found()
    for empty in Path(tempfile.gettempdir()).glob("pooler-*"):
        with contextlib.suppress(OSError):
            empty.rmdir()


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

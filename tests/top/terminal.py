"""A program in a terminal of a given size, and what can be read there."""

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from types import TracebackType

import pyte

from tests.support.standing import PATIENCE


class Terminal:
    """Runs `pooler top` with these arguments; ended at the latest with the block."""

    def __init__(
        self,
        *arguments: str,
        columns: int = 80,
        lines: int = 24,
        environment: Mapping[str, str] = {},
    ) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._end, other = os.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        settings = {"TERM": "xterm-256color", "LANG": "C.UTF-8", **environment}
        inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pooler", "top", *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            env={**inherited, **settings},
            start_new_session=True,
        )
        os.close(other)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._end)

    @property
    def text(self) -> str:
        """What can be read now."""
        while select.select([self._end], [], [], 0)[0]:
            try:
                data = os.read(self._end, 65536)
            except OSError:  # the program has ended
                break
            self._stream.feed(data)
        return "\n".join(line.rstrip() for line in self._screen.display)

    @property
    def lines(self) -> list[str]:
        """It, by lines."""
        return self.text.split("\n")

    def line(self, part: str) -> str:
        """The first line with this in it, "" for none."""
        return next((line for line in self.lines if part in line), "")

    def wait(self, *parts: str, gone: str = "") -> str:
        """Wait until all of these can be read, and `gone` cannot; the text."""
        end = time.monotonic() + PATIENCE
        while True:
            text = self.text
            if all(part in text for part in parts) and not (gone and gone in text):
                return text
            assert time.monotonic() < end, f"waited for {parts}, without {gone!r}:\n{text}"
            select.select([self._end], [], [], 0.1)

    def press(self, keys: str) -> None:
        """Type it."""
        os.write(self._end, keys.encode())

    def status(self) -> int:
        """Wait for it to end; its exit status."""
        end = time.monotonic() + PATIENCE
        while self._process.poll() is None:
            assert time.monotonic() < end, f"it does not end:\n{self.text}"
            _ = self.text  # or it would wait for somebody to read
            time.sleep(0.02)
        return self._process.returncode

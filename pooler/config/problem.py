"""What is wrong with a configuration, in words for the person who wrote it.

Rules: a problem says where (source, line, path), what is wrong, and what would be right. It never
shows a secret, nor a value that came out of the environment: callers pass only what may be read by
anybody who reads the log.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake."""

    file: str
    """The file, or the environment variable or option the value came from."""
    line: int
    """Counted from 1; 0 where there are no lines."""
    path: str
    """The setting, as `databases.app.pool_size`; "" where it is not about one."""
    message: str
    hint: str = ""

    def __str__(self) -> str:
        """One line, as `pooler.yaml:12: databases.app.pool_size: 'abc' is not a whole number`."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        text = ": ".join(part for part in (place, self.path, self.message) if part)
        return printable(f"{text}; {self.hint}" if self.hint else text)


class Wrong(Exception):
    """What is wrong with a line, for whoever knows where that stands to make a Problem of."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(Exception):
    """The configuration can not be used. Every mistake that was found is in `problems`."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def printable(text: str) -> str:
    """`text` with control characters escaped, so that a hostile name can not forge a log line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A hint that names the choice most like `word`; "" where none is like it."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"did you mean {close[0]}?" if close else ""

"""The documentation as its tests read it: blocks of code, tables, links."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A block of code."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def fenced(language: str) -> list[Block]:
    """All blocks that are marked as of a language."""
    return [
        Block(page.name, text[: match.start()].count("\n") + 1, match[1], match[2])
        for page in PAGES
        for text in [page.read_text()]
        for match in _FENCE.finditer(text)
        if match[1] == language
    ]


def shell_lines() -> list[Block]:
    """Each indented line, less its comment; a line that a backslash goes on with is one."""
    found = []
    for page in PAGES:
        text = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text())
        joined = text.replace("\\\n", "")
        for number, line in enumerate(joined.splitlines(), 1):
            if line.startswith("    "):
                code = re.sub(r"\s+#.*$", "", line.strip())
                found.append(Block(page.name, number, "sh", code))
    return found

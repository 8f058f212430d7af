"""Rows as a table in a terminal: one line each where that fits, else one column to a line.

What is shown was partly chosen by strangers, so that control characters are escaped.
"""

import shutil
from collections.abc import Sequence
from typing import Final

from pooler.config.problem import printable

GAP: Final = "  "
_BOLD: Final = "\x1b[1m{}\x1b[0m"
_DIM: Final = "\x1b[2m{}\x1b[0m"

Cell = str | int | float | bool | None


def table(names: Sequence[str], rows: Sequence[Sequence[Cell]], *, terminal: bool) -> str:
    """Return the rows below their names; in a `terminal` with emphasis, and no wider than that."""
    cells = [[_shown(value) for value in row] for row in rows]
    widths = [
        max(len(name), *(len(row[place]) for row in cells)) if cells else len(name)
        for place, name in enumerate(names)
    ]
    width = sum(widths) + len(GAP) * (len(widths) - 1)
    if terminal and cells and width > shutil.get_terminal_size().columns:
        return _records(names, cells)
    numeric = [
        bool(rows) and all(_is_number(row[place]) for row in rows) for place in range(len(names))
    ]
    head = _line(names, widths, numeric)
    lines = [_BOLD.format(head) if terminal else head]
    lines += [_line(row, widths, numeric) for row in cells]
    return "\n".join(lines)


def _line(texts: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    columns = zip(texts, widths, numeric, strict=True)
    padded = (text.rjust(width) if right else text.ljust(width) for text, width, right in columns)
    return GAP.join(padded).rstrip()


def _records(names: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    longest = max(map(len, names))
    blocks = []
    for row in cells:
        pairs = zip(names, row, strict=True)
        blocks.append(
            "\n".join(
                f"{_DIM.format(name.rjust(longest))}  {text}".rstrip() for name, text in pairs
            )
        )
    return "\n\n".join(blocks)


def _shown(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


def _is_number(value: Cell) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))

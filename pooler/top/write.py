"""How `pooler top` writes numbers: as short as can be read. Unknown is a dash."""

from collections.abc import Sequence
from typing import Final

UNKNOWN: Final = "-"

_UNITS: Final = ("", "k", "M", "G", "T", "P")
_BARS: Final = " ▁▂▃▄▅▆▇█"


def number(value: float | None) -> str:
    """Write a number in three digits: 0.25, 3.4, 27, 1.25k."""
    if value is None:
        return UNKNOWN
    size = float(value)
    unit = 0
    while abs(size) >= 999.5 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    return _digits(size) + _UNITS[unit]


def seconds(value: float | None) -> str:
    """Write a time: 420us, 12.4ms, 1.2s, 3m12s, 2h05m, 3d04h."""
    if value is None:
        return UNKNOWN
    if not value:
        return "0"
    if value < 0.0009995:
        return f"{_digits(value * 1e6)}us"
    if value < 0.9995:
        return f"{_digits(value * 1e3)}ms"
    if value < 59.95:
        return f"{_digits(value)}s"
    whole = round(value)
    for size, name, small, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if whole >= size:
            return f"{whole // size}{name}{whole % size // small:02}{small_name}"
    return f"{whole // 60}m{whole % 60:02}s"


def spark(values: Sequence[float | None], top: float, width: int) -> str:
    """Draw the last values as a line of bars; what is at `top` is as high as can be."""
    shown = values[-width:]
    high = max(top, 1e-9)
    bars = (
        " " if value is None else _BARS[min(8, max(1, round(8 * value / high)))] for value in shown
    )
    return "".join(bars).rjust(width)


def _digits(value: float) -> str:
    if abs(value) >= 99.95 or value == int(value):
        return f"{value:.0f}"
    text = f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
    return text.rstrip("0").rstrip(".")

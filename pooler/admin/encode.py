"""Rows of plain values as PostgreSQL's wire has them, as text or in binary."""

import struct
from collections.abc import Sequence
from typing import Final

from pooler.admin.view import Column, Row, Type, Value
from pooler.wire import build

OIDS: Final = {
    Type.BOOL: 16,
    Type.BIGINT: 20,
    Type.INT: 23,
    Type.TEXT: 25,
    Type.FLOAT: 701,
    Type.NUMERIC: 1700,
}
_SIZES: Final = {Type.BOOL: 1, Type.BIGINT: 8, Type.INT: 4, Type.FLOAT: 8}
TEXT: Final = 0
BINARY: Final = 1

_INT4: Final = 2**31 - 1
_INT8: Final = 2**63 - 1


def description(columns: Sequence[Column], formats: Sequence[int]) -> bytes:
    """Return the RowDescription; `formats` as in a Bind: none, one for all, or one for each."""
    each = spread(formats, len(columns))
    return build.row_description(
        [
            (column.name, OIDS[column.type], _SIZES.get(column.type, -1), form)
            for column, form in zip(columns, each, strict=True)
        ]
    )


def spread(formats: Sequence[int], count: int) -> Sequence[int]:
    """Return a format for each column."""
    if len(formats) == count:
        return formats
    return [formats[0] if formats else TEXT] * count


def row(columns: Sequence[Column], values: Row, formats: Sequence[int]) -> bytes:
    """Return a DataRow."""
    return build.data_row(
        [
            None if value is None else _value(column.type, value, form)
            for column, value, form in zip(columns, values, formats, strict=True)
        ]
    )


def _value(kind: Type, value: Value, form: int) -> bytes:
    if form == TEXT or kind is Type.TEXT:
        return _text(kind, value).encode("utf-8", "replace").replace(b"\0", b"")
    if kind is Type.BOOL:
        return b"\1" if value else b"\0"
    assert isinstance(value, int | float)
    if kind is Type.FLOAT:
        return struct.pack("!d", value)
    if kind is Type.NUMERIC:
        return _numeric(int(value))
    return struct.pack("!i" if kind is Type.INT else "!q", _fitting(kind, int(value)))


def _text(kind: Type, value: Value) -> str:
    if isinstance(value, bool):
        return ("t" if value else "f") if kind is Type.BOOL else str(int(value))
    if kind in (Type.INT, Type.BIGINT) and isinstance(value, int):
        return str(_fitting(kind, value))
    return str(value)


def _fitting(kind: Type, value: int) -> int:
    """Return the value, or the largest that its type has."""
    most = _INT4 if kind is Type.INT else _INT8
    return max(-most, min(value, most))


def _numeric(value: int) -> bytes:
    """Return an integer as a numeric: digits to the base of 10000, weight, sign, scale."""
    digits: list[int] = []
    rest = abs(value)
    while rest:
        rest, digit = divmod(rest, 10_000)
        digits.insert(0, digit)
    weight = max(len(digits) - 1, 0)
    sign = 0x4000 if value < 0 else 0
    return struct.pack(f"!HhHH{len(digits)}H", len(digits), weight, sign, 0, *digits)

"""What changed between two configurations, for the log line of a reload.

Rules: a secret that changed is named, never shown; a database or user that came or went is one
change, not one for each of its settings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from pydantic import SecretStr

from pooler.config.config import Config
from pooler.config.model import Settings
from pooler.config.problem import printable

SECRET = "(changed)"
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs; None where it was not there, or is no longer."""

    path: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        """As `databases.app.pool_size: 20 -> 40`."""
        if self.old is None:
            text = f"added {self.new}"
        elif self.new is None:
            text = f"removed {self.old}"
        else:
            text = SECRET if self.new == SECRET else f"{self.old} -> {self.new}"
        return printable(f"{self.path}: {text.rstrip()}")


def changes(old: Config, new: Config) -> list[Change]:
    """Every difference, in the order of the settings."""
    names = set(Settings.model_fields)
    found = list(_differences("", old.model_dump(include=names), new.model_dump(include=names)))
    # The content of auth.file, which is no setting.
    found += _differences("auth.file", old.stored, new.stored)
    found += _content("auth.hba_file", old.auth.hba_file, old.rules, new.rules)
    found += _content("auth.ident_file", old.auth.ident_file, old.maps, new.maps)
    # The content of certificates and keys that are still the same file.
    old_files, new_files = old.certificates.digests, new.certificates.digests
    found += [
        Change(file, SECRET, SECRET)
        for file in old_files
        if new_files.get(file, old_files[file]) != old_files[file]
    ]
    return found


def _content(path: str, file: str, old: object, new: object) -> Iterator[Change]:
    """What is in a file, which is no setting either: that it differs says enough."""
    if file and old != new:
        yield _changed(path)


def _changed(path: str) -> Change:
    return Change(path, SECRET, SECRET)


def _differences(path: str, old: object, new: object) -> Iterator[Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            below = f"{path}.{key}" if path else str(key)
            yield from _differences(below, old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif isinstance(old, SecretStr) or isinstance(new, SecretStr):
        if old != new:
            yield _changed(path)
    elif old != new and _is_list_of_mappings(old, new):
        yield _changed(path)
    elif old != new:
        yield Change(path, written(old), written(new))


def _is_list_of_mappings(*values: object) -> bool:
    return any(isinstance(value, tuple) and isinstance((*value, "")[0], dict) for value in values)


def written(value: object) -> str | None:
    """A value as the file would have it; a whole database or user has none."""
    match value:
        case _ if value is _ABSENT:
            return None
        case dict():
            return ""
        case None:
            return "default"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.15g}"
        case Enum():
            return str(value.value)
        case tuple():
            return ", ".join(value) or '""'
        case _:
            return str(value) or '""'

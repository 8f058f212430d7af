"""Writes docs/settings.md and docs/metrics.md from the code that means them.

python scripts/generate_docs.py            writes them
python scripts/generate_docs.py --check    exit status 1 where they are not what it would write
"""

import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from pooler.config.model import Database, Section, Settings, User

PAGE = Path(__file__).parents[1] / "docs/settings.md"

SETTINGS = """\
# Settings

Generated from the types in `pooler/config/model/` by `scripts/generate_docs.py`.
[config/pooler.yaml](../config/pooler.yaml) is a file that has them all, `pooler schema` prints a
JSON Schema for editors, and `pooler check` finds every mistake at once.

- Durations are in seconds, or carry a unit: `500ms`, `5s`, `10min`, `1h`, `1d`. 0 turns a limit
  off.
- Values may hold `${NAME}` or `${NAME:-default}` from the environment; `$$` is a `$`.
- A setting outside of `databases` and `users` can also be given as `POOLER_<SECTION>_<KEY>`, which
  wins over the file: `POOLER_LISTEN_PORT=6432`. `POOLER_DATABASES` and `POOLER_USERS` hold YAML,
  `POOLER_UPSTREAM` a URL, `POOLER_CONFIG` the file's name.
- A user's value wins over the database's, and that over the section's.
"""


def settings() -> str:
    """The page of all settings."""
    parts = [SETTINGS]
    for name, field in Settings.model_fields.items():
        model = {"databases": Database, "users": User}.get(name) or field.annotation
        if isinstance(model, type) and issubclass(model, Section):
            parts.append(f"## {name}\n\n{_intro(name, model, field)}\n\n{_table(model)}\n")
        else:
            row = f"| `{name}` | {_default(field)} | {_text(field.description)} |"
            parts.append(f"## {name}\n\n{_HEAD}\n{row}\n")
    return "\n".join(parts)


_HEAD = "| setting | default | |\n|---|---|---|"


def _intro(name: str, model: type[Section], field: FieldInfo) -> str:
    text = field.description if name in ("databases", "users") else model.__doc__
    return _text(text)


def _table(model: type[Section]) -> str:
    rows = [f"| `{name}` | {default} | {text} |" for name, default, text in _rows("", model)]
    return "\n".join([_HEAD, *rows])


def _rows(prefix: str, model: type[Section]) -> Iterator[tuple[str, str, str]]:
    own = sorted(model.model_fields.items(), key=lambda item: item[0] not in model.__annotations__)
    for name, field in own:
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from _rows(f"{prefix}{name}.", inner)
        else:
            yield prefix + name, _default(field), _text(field.description)


def _default(field: FieldInfo) -> str:
    if field.is_required() or field.examples:
        return ""  # an inherited one is in the description
    return _shown(field.default, octal=(field.description or "").startswith("File mode"))


def _shown(value: Any, *, octal: bool = False) -> str:
    if value is None or isinstance(value, SecretStr):
        return ""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        value = "true" if value else "false"
    if octal:
        value = f"{value:04o}"
    if isinstance(value, tuple):
        value = ", ".join(str(item) for item in value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, dict) or value == "":
        return ""
    return f"`{value}`".replace("|", "\\|")


def _text(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the page, or compare it; the exit status."""
    fresh = PAGE.exists() and PAGE.read_text() == settings()
    if arguments == ["--check"]:
        if not fresh:
            print(f"{PAGE.name} is stale: run scripts/generate_docs.py", file=sys.stderr)
        return 0 if fresh else 1
    PAGE.write_text(settings())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The files of the page: all in the package, read once, found by name and by nothing else."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What is served; licences and the record of origins beside it are for readers of the package."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is served."""

    body: bytes
    content_type: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """Return every file by its path under `/static/`."""
    return dict(_walk("", resources.files("pooler.dashboard").joinpath("static")))


def _walk(prefix: str, folder: Traversable) -> list[tuple[str, Asset]]:
    found: list[tuple[str, Asset]] = []
    for entry in folder.iterdir():
        name = prefix + entry.name
        content_type = _TYPES.get("." + entry.name.rpartition(".")[2])
        if entry.is_dir():
            found += _walk(f"{name}/", entry)
        elif content_type is not None:
            body = entry.read_bytes()
            found.append((name, Asset(body, content_type, hashlib.sha256(body).hexdigest()[:16])))
    return found

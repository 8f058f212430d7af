"""The page's files: all of them in the package, none from elsewhere, readable in both themes."""

import hashlib
import json
import re
from importlib import resources
from pathlib import Path

import pytest

from pooler.dashboard.assets import assets
from pooler.dashboard.guard import HEADERS

STATIC = Path(str(resources.files("pooler.dashboard").joinpath("static")))
VENDOR = STATIC / "vendor"
OURS = sorted(path for path in STATIC.iterdir() if path.is_file())


def test_libraries_are_what_their_makers_published() -> None:
    record = json.loads((VENDOR / "vendor.json").read_text())
    files = {
        name: digest for library in record.values() for name, digest in library["files"].items()
    }
    there = {path.name for path in VENDOR.iterdir()} - {"vendor.json"}
    assert files.keys() == there
    for name, digest in files.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest
    for library, entry in record.items():
        assert entry["license"] == "MIT"
        assert re.fullmatch(r"\d+\.\d+\.\d+", entry["version"])
        licence = next(VENDOR / name for name in entry["files"] if name.endswith(".LICENSE"))
        assert "Permission is hereby granted, free of charge" in licence.read_text(), library


def test_everything_is_packaged() -> None:
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for pattern in ("dashboard/static/*", "dashboard/static/vendor/*"):
        assert f'"{pattern}"' in pyproject
    assert {path.name for path in OURS} <= assets().keys()


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_nothing_points_elsewhere(path: Path) -> None:
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert re.search(r"\b(https?|wss?)://|[\"'(]//", text) is None


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_nothing_makes_markup_of_text(path: Path) -> None:
    found = re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", path.read_text()
    )
    assert found is None


def test_the_page_has_no_script_or_style_within() -> None:
    page = (STATIC / "index.html").read_text()
    assert re.search(r"<style|style=|\son\w+=|javascript:", page) is None
    assert re.findall(r"<script[^>]*>[^<]", page) == []


def test_the_policy_lets_nothing_in() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) <= {"'self'", "'none'", "'script'"}
    assert policy["script-src"] == policy["connect-src"] == "'self'"


# Contrast, by WCAG 2.1: 4.5 for text, 3 for what is drawn.

CSS = (STATIC / "app.css").read_text()


def _themes() -> dict[str, dict[str, str]]:
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\);", CSS)
    return {
        "light": {name: light for name, light, _ in pairs},
        "dark": {name: dark for name, _, dark in pairs},
    }


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_told_apart(theme: str) -> None:
    colours = _themes()[theme]
    text = [
        *(
            (name, back)
            for name in ("text", "muted", "link")
            for back in ("card", "page", "raised")
        ),
        ("faint", "card"),
        *((f"{name}-text", f"{name}-back") for name in ("active", "warn", "bad", "pin")),
        ("warn-text", "card"),
        ("bad-text", "card"),
    ]
    for name, back in text:
        assert _contrast(colours[name], colours[back]) >= 4.5, (name, back)
    for name in ("active", "warn", "bad", "pin", "p50", "p95", "p99", "limit"):
        assert _contrast(colours[name], colours["card"]) >= 3, name

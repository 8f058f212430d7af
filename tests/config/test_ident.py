"""User name maps: who may log in as whom, and what is wrong with a line."""

from pathlib import Path

import pytest

from pooler.config.authfile import AuthFile
from pooler.config.ident import Maps, entries_of
from tests.config.conftest import Load, Mistakes
from tests.config.test_hba import Memory

BASE = """
    databases: {app: {}}
    auth: {type: hba, hba: [{type: local, database: all, user: all, method: peer, map: m}],
           ident_file: ident}
"""


def read(text: str) -> tuple[Maps, list[str]]:
    """The maps of a file, and what is wrong with it."""
    reading = AuthFile(Memory({"/etc/ident": text.encode(), "/etc/more": b"m late app\n"}))
    entries, problems = entries_of(reading.read("/etc/ident"))
    return Maps(entries), [str(p).removeprefix("/etc/") for p in (*reading.problems, *problems)]


@pytest.mark.parametrize(
    ("line", "system", "user", "lets"),
    [
        ("m root app", "root", "app", True),
        ("m root app", "root", "bob", False),
        ("m root app", "Root", "app", False),
        ("other root app", "root", "app", False),
        ("m root all", "root", "anybody", True),
        ('m root "all"', "root", "anybody", False),
        ('m root "all"', "root", "all", True),
        ("m all app", "root", "app", False),  # no keyword there
        ("m root /^dev_", "root", "dev_x", True),
        ("m root /^dev_", "root", "app", False),
        (r"m /^(.*)@example\.net$ \1", "bob@example.net", "bob", True),
        (r"m /^(.*)@example\.net$ \1", "bob@example.org", "bob", False),
        (r"m /^(.*)@example\.net$ \1", "bob@example.net\n", "bob", False),
        (r"m /^(.*)@example\.net$ \1", "bob@example.net", "alice", False),
        (r"m /^(.*)@x$ pre_\1_post", "bob@x", "pre_bob_post", True),
        (r"m /^(.*)@x$ \1", "all@x", "anybody", False),  # what is put in is just a name
        (r"m /^(.*)@x$ \1", "/.@x", "anybody", False),
        (r"m /^(.*)@x$ \1\1", "b@x", r"b\1", True),  # the first place only
        (r"m /@x$ app", "bob@x", "app", True),
        (r"m /^(a)?b$ \1", "b", "", False),  # nothing was captured: an error, so no
        (r'm "CN=Bob Smith,O=X" bob', "CN=Bob Smith,O=X", "bob", True),
        (r'm "/^CN=([a-z]+),O=X$" \1', "CN=bob,O=X", "bob", True),
        (r"m \1 app", r"\1", "app", True),
        (r"m root \1", "root", r"\1", True),
        ("include more", "late", "app", True),
    ],
)
def test_maps(line: str, system: str, user: str, lets: bool) -> None:
    maps, problems = read(line)
    assert problems == []
    assert maps.lets("m", system, user) is lets


def test_no_map_means_the_same_name() -> None:
    maps, _ = read("m root app")
    assert maps.lets("", "bob", "bob")
    assert not maps.lets("", "root", "app")


def test_any_line_will_do() -> None:
    maps, _ = read("m root app\nm root bob\nm alice app\n")
    assert maps.lets("m", "root", "bob")
    assert maps.lets("m", "alice", "app")
    assert not maps.lets("m", "alice", "bob")


def test_a_capture_that_is_none_ends_the_search() -> None:
    maps, _ = read("m /^(a)?b$ \\1\nm b app\n")
    assert not maps.lets("m", "b", "app")  # as in PostgreSQL, where it is an error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("m", "is not a line of map, system name and database user"),
        ("m root", "is not a line of map, system name and database user"),
        ("m root app more", "is not a line of map, system name and database user"),
        ("m root,other app", "is not a line of map, system name and database user"),
        ('"" root app', "the map has no name"),
        ("m root +staff", "'+staff' is not supported: only a database knows who is in a role"),
        ("m /( app", "the regular expression '(' has a ( that is not closed"),
        ("m root /)", "the regular expression ')' has a ) that closes nothing"),
        (r"m /^a \1", "the database user has \\1, but the system name captures nothing"),
        ('m "root app', "a quote is not closed"),
    ],
)
def test_mistakes(line: str, message: str) -> None:
    _, problems = read(f"\n{line}\n")
    assert problems[0].startswith(f"ident:2: {message}")


def test_a_file(load_text: Load, mistakes: Mistakes, tmp_path: Path) -> None:
    (tmp_path / "ident").write_text("m root app\n")
    config = load_text(BASE)
    assert config.maps.lets("m", "root", "app")
    assert str(tmp_path / "ident") in config.files
    (tmp_path / "ident").write_text("m root\n")
    (problem,) = mistakes(BASE)  # and not that the map is missing
    assert problem.startswith("ident:1: is not a line")


def test_mistakes_in_yaml(mistakes: Mistakes) -> None:
    text = """
        databases: {app: {}}
        auth:
          type: cert
          ident:
            - {map: m, system: x}
            - {map: m, system: x, user: +y}
    """
    assert [problem.partition(";")[0] for problem in mistakes(text)] == [
        "pooler.yaml:6: auth.ident[0]: is not a line of map, system name and database user",
        "pooler.yaml:7: auth.ident[1]: '+y' is not supported: only a database knows who is in a "
        "role",
    ]

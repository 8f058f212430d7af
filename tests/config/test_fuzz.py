"""Whatever a file holds: a configuration, or problems; no other exception, no secret in words."""

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from pooler.config import ConfigError, json_schema
from pooler.config.environment import expand
from pooler.config.load import Overrides, load
from pooler.config.tree import Origin, mapping
from pooler.config.upstream import UpstreamError, parse_upstream
from pooler.config.userlist import parse_userlist
from pooler.config.validate import validate
from pooler.config.yamltext import parse

SECRET = "hunter2"
SCHEMA = json_schema()
KEYS = sorted({*SCHEMA["properties"], *SCHEMA["$defs"]["Database"]["properties"]})
PIECES = st.sampled_from(
    [*KEYS, ": ", ":", "- ", "\n", "\n  ", "\n    ", "{", "}", "[", "]", ", ", "&a ", "*a", "<<: ",
     "'", '"', "!x ", "|", ">", "? ", "#", "%", "@", "\t", "\\", "${A}", "${B:-1}", "$", "~", "1",
     "abc", "5s", "*", "---\n", "\0", "\x85", "\u2028", "\ufeff", "é", SECRET]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=40).map("".join)


@given(TEXTS.map(str.encode) | st.binary(max_size=200))
def test_any_file(data: bytes) -> None:
    tree, problems = parse(data, "f", {"A": "x"})
    assert tree is not None or problems
    validate(tree or mapping({}, Origin("f")))


@given(TEXTS)
def test_a_secret_is_not_shown_whatever_stands_around_it(text: str) -> None:
    data = f"users:\n  u:\n    password: {text.replace(chr(10), '')}{SECRET}\n".encode()
    tree, problems = parse(data, "f", {"A": "x"})
    if tree is not None:
        problems += validate(tree)[1]
    # A name is no secret: text that ends the value and begins a key makes one of what follows.
    shown = [str(problem) for path, problem in problems if SECRET not in "".join(map(str, path))]
    assert SECRET not in "".join(shown)


@given(st.text(max_size=60) | st.lists(st.sampled_from("/:@?#&=%,[]a1")).map("".join))
def test_any_url(rest: str) -> None:
    with suppress(UpstreamError):
        validate(parse_upstream(f"postgresql://{rest}", "--upstream"))


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_any_option(upstream: str, listen: str, metrics: str) -> None:
    with suppress(ConfigError):
        load(None, environ={}, overrides=Overrides(upstream, listen, metrics))


@given(st.binary(max_size=200) | TEXTS.map(str.encode))
def test_any_userlist(data: bytes) -> None:
    secrets, _ = parse_userlist(data, "f")
    assert all(secrets.values())


@given(st.text(max_size=40))
def test_escaped_text_expands_to_itself(text: str) -> None:
    assert expand(text.replace("$", "$$"), {}) == (text, [])

"""Regular expressions of rules: PostgreSQL's meaning, or a refusal; never a long wait."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler.config.regex import MAX_PATTERN, MAX_TEXT, BadPattern, Pattern

MATCHES = [
    ("^a", "abc", True),
    ("^a", "bac", False),
    ("b", "abc", True),
    ("^abc$", "abc", True),
    ("^abc$", "abc\n", False),  # Python's own $ would take it
    (r"\Aabc\Z", "abc\n", False),
    ("^.$", "\n", True),
    (r"^\d+$", "12", True),
    (r"^\d+$", "\u0661\u0662", False),  # the collation is C: ASCII digits
    (r"^\w+$", "a_1", True),
    (r"^[[:alpha:]_]+$", "ab_", True),
    (r"^[[:alpha:]]+$", "a1", False),
    ("^[^a-c]$", "d", True),
    ("^[]a]+$", "a]", True),
    ("^[a-]+$", "a-a", True),
    ("^[.*+?]$", "*", True),
    (r"^[\w.]+$", "a.b", True),
    (r"^(?:dev|test)_[a-z]{2,4}$", "dev_abc", True),
    (r"^(?:dev|test)_[a-z]{2,4}$", "dev_abcde", False),
    ("(?i)^ABC$", "abc", True),
    (r"\mb\M", "a b c", True),
    (r"\mb\M", "abc", False),
    ("a{,2}", "a{,2}", True),  # no bounds, so text
    (r"^a\.b$", "a.b", True),
    (r"^a\.b$", "axb", False),
    ("", "anything", True),
    ("a||b", "x", True),
]


@pytest.mark.parametrize(("pattern", "text", "expected"), MATCHES)
def test_what_fits(pattern: str, text: str, expected: bool) -> None:
    assert (Pattern(pattern).search(text) is not None) is expected


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("(", "has a ( that is not closed"),
        (")", "has a ) that closes nothing"),
        ("[a", "has a [ that is not closed"),
        ("*a", "has a * that repeats nothing"),
        ("a|+", "has a + that repeats nothing"),
        ("a**", "repeats a repetition"),
        ("a++", "repeats a repetition"),  # possessive in Python
        ("a{2}{3}", "has a { that repeats nothing"),
        ("a{3,2}", "has repetitions {3,2} that are out of range"),
        ("a{256}", "has repetitions {256} that are out of range"),
        ("^*", "repeats what matches a place, not a character"),
        (r"(a)\1", r"has \1, which is not supported"),
        (r"\bword", r"has \b, which is not supported"),  # a backspace in PostgreSQL
        (r"[\b]", r"has \b in [], which is not supported"),
        ("(?=a)", "has a (?, of which only (?: and a leading (?i) are supported"),
        ("(?P<n>a)", "has a (?, of which only (?: and a leading (?i) are supported"),
        ("***=a", "begins with ***, which is not supported"),
        ("[[.a.]]", "has a collating element, which is not supported"),
        ("[[:alpah:]]", "has an unknown class [:alpah:]"),
        ("[z-a]", "is not a regular expression"),
        ("a\\", "has \\, which is not supported"),
        ("(a+)+", "repeats something that can match in several ways"),
        ("(a|b)*", "repeats something that can match in several ways"),
        ("(a?){30}", "repeats something that can match in several ways"),
        ("a*a*a*a*", "has more than 3 repetitions of open length"),
        ("a?a?a?a?a?", "has more than 4 of ? and groups with |"),
        ("a" * (MAX_PATTERN + 1), f"is longer than {MAX_PATTERN} characters"),
    ],
)
def test_what_is_refused(pattern: str, fault: str) -> None:
    with pytest.raises(BadPattern, match=f"^{re.escape(fault)}$"):
        Pattern(pattern)


def test_long_names_fit_nothing() -> None:
    assert Pattern(".*").search("a" * MAX_TEXT)
    assert not Pattern(".*").search("a" * (MAX_TEXT + 1))


@pytest.mark.parametrize("pattern", ["a*a*a*b", "(a|a)(a|a)(a|a)(a|a)a*a*a*b", "a?a?a?a?a*a*a*b"])
def test_the_worst_takes_no_time(pattern: str) -> None:
    compiled = Pattern(pattern)
    start = time.process_time()
    assert compiled.search("a" * 63) is None
    assert time.process_time() - start < 1  # measured: 0.05 s


PIECES = st.sampled_from([*"ab.*+?{}()[]|^$\\-,:=!<123dwmZ", "(?:", "[[:alpha:]]", "{2,3}"])


@given(st.lists(PIECES, max_size=25).map("".join), st.text("ab12\n", max_size=8))
def test_any_pattern(pattern: str, text: str) -> None:
    try:
        compiled = Pattern(pattern)
    except BadPattern:
        return
    compiled.search(text)

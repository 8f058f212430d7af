"""Session settings: read from hostile startup packets, turned into SQL nothing breaks out of."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pooler.core import session
from pooler.core.errors import ClientFault
from pooler.wire import parse

TEXTS = st.text() | st.text("'\\\";$ \n\0abcÿ\udcff\udc80€")


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        pytest.param("", {}, id="nothing"),
        pytest.param("   \t\n ", {}, id="white space"),
        pytest.param("-c work_mem=1MB", {"work_mem": "1MB"}, id="short"),
        pytest.param("-cwork_mem=1MB", {"work_mem": "1MB"}, id="short, in one word"),
        pytest.param("--work-mem=1MB", {"work_mem": "1MB"}, id="long"),
        pytest.param("  -c  a=1   --b=2 -cc=3 ", {"a": "1", "b": "2", "c": "3"}, id="several"),
        pytest.param("-c a=1 -c a=2", {"a": "2"}, id="the last one counts"),
        pytest.param("-c A=1", {"a": "1"}, id="lower case"),
        pytest.param(r"-c search_path=a,\ b", {"search_path": "a, b"}, id="escaped space"),
        pytest.param(r"-c a=\\", {"a": "\\"}, id="escaped backslash"),
        pytest.param("-c a=b\\", {"a": "b"}, id="backslash at the end"),
        pytest.param("-c a=", {"a": ""}, id="empty value"),
        pytest.param("-c a=b=c", {"a": "b=c"}, id="equals sign in the value"),
        pytest.param("-c a='x'", {"a": "'x'"}, id="quotes mean nothing"),
        pytest.param("-c my.own-thing=1", {"my.own_thing": "1"}, id="class"),
    ],
)
def test_options(options: str, settings: dict[str, str]) -> None:
    assert session.from_options(options) == settings


@pytest.mark.parametrize(
    ("options", "sqlstate"),
    [
        # CVE-2026-107349: an assignment without a name was looked at again and again.
        pytest.param("-c=", "42704", id="no name, short"),
        pytest.param("-c =1", "42704", id="no name, two words"),
        pytest.param("--=1", "42704", id="no name, long"),
        pytest.param("-c= -c= -c=", "42704", id="no name, repeatedly"),
        pytest.param("-c", "42601", id="nothing follows"),
        pytest.param("--", "42601", id="end of options"),
        pytest.param("-c a", "42601", id="no value"),
        pytest.param("-c -c a=1", "42601", id="an option for a value"),
        pytest.param("-d 5", "0A000", id="another option"),
        pytest.param("-", "0A000", id="dash"),
        pytest.param("options=-c=", "0A000", id="options in options"),
        pytest.param("-c a;b=1", "42704", id="SQL in a name"),
        pytest.param("-c a'=1", "42704", id="quote in a name"),
        pytest.param('-c a"=1', "42704", id="double quote in a name"),
        pytest.param("-c ä=1", "42704", id="not ASCII in a name"),
        pytest.param("-c a.=1", "42704", id="half a class"),
        pytest.param("-c 1a=1", "42704", id="digit first"),
        pytest.param("\\", None, id="nothing but a backslash"),
    ],
)
def test_bad_options(options: str, sqlstate: str | None) -> None:
    if sqlstate is None:
        assert session.from_options(options) == {}
        return
    with pytest.raises(ClientFault) as error:
        session.from_options(options)
    assert error.value.sqlstate == sqlstate


@given(st.text() | st.text("-c= \\ab\n"))
def test_any_options_end(options: str) -> None:
    try:
        settings = session.from_options(options)
    except ClientFault:
        return
    assert all(re.fullmatch(r"[a-z0-9_$.]+", name) for name in settings)


@settings(max_examples=50)
@given(st.dictionaries(st.text("abA_.;' ", min_size=1), TEXTS), TEXTS)
def test_any_startup_parameters_end(parameters: dict[str, str], options: str) -> None:
    try:
        settings = session.from_startup({**parameters, "options": options, "user": "u"})
    except ClientFault:
        return
    assert "options" not in settings
    assert "user" not in settings
    session.difference({}, settings, {})


def test_startup_parameters_override_options() -> None:
    parameters = {"user": "u", "database": "d", "options": "-c a=1 -c b=1", "A": "2"}
    assert session.from_startup(parameters) == {"a": "2", "b": "1"}


# -- SQL


@given(TEXTS.filter(lambda text: _is_wire(text)))
def test_nothing_breaks_out_of_a_literal(value: str) -> None:
    """CVE-2025-12819: a search_path replayed without quoting."""
    sql = session.literal(value)
    assert sql.isascii()
    plain = re.fullmatch(r"'([A-Za-z0-9_ .,:/+\-]*)'", sql)
    if plain:
        assert plain[1] == value
        return
    hexed = re.fullmatch(
        r"pg_catalog\.convert_from\(pg_catalog\.decode\('([0-9a-f]*)','hex'\),'UTF8'\)", sql
    )
    assert hexed
    assert parse.text(bytes.fromhex(hexed[1])) == value


def _is_wire(text: str) -> bool:
    """Whether a text can come from the wire: only the surrogates that stand for bytes."""
    try:
        return parse.text(text.encode("utf-8", "surrogateescape")) == text
    except UnicodeEncodeError:
        return False


def test_difference_sets_what_is_wanted_and_resets_what_is_not() -> None:
    sql = session.difference({"a": "1", "b": "1", "my.c": "1"}, {"b": "2", "d": "x'y"}, {})
    assert sql.split(";") == [
        'RESET "a"',
        'RESET "my"."c"',
        "SELECT pg_catalog.set_config('b','2',false)",
        f"SELECT pg_catalog.set_config('d',{session.literal(chr(120) + chr(39) + 'y')},false)",
    ]


@pytest.mark.parametrize(
    ("has", "wants", "base"),
    [
        ({}, {}, {}),
        ({"a": "1"}, {"a": "1"}, {}),
        ({}, {"a": "1"}, {"a": "1"}),
        ({"a": "1"}, {"a": "1"}, {"a": "2"}),
    ],
)
def test_no_difference(has: dict[str, str], wants: dict[str, str], base: dict[str, str]) -> None:
    assert session.difference(has, wants, base) == ""


def test_what_was_set_counts_more_than_the_base() -> None:
    assert "'a','1'" in session.difference({"a": "2"}, {"a": "1"}, {"a": "1"})


@given(
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12")),
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12")),
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12"), min_size=4),
)
def test_a_difference_leads_where_it_should(
    has: dict[str, str], wants: dict[str, str], base: dict[str, str]
) -> None:
    now = {**base, **has}
    for part in filter(None, session.difference(has, wants, base).split(";")):
        reset = re.fullmatch('RESET "(.)"', part)
        change = re.search(r"'(.)','(.)'", part)
        if reset:
            now[reset[1]] = base[reset[1]]
        else:
            assert change
            now[change[1]] = change[2]
    assert now == {**base, **wants}


# -- one copy of each set


def test_equal_settings_are_the_same_object() -> None:
    shelf = session.Shelf()
    first = shelf.shared({"a": "1", "b": "2"})
    assert shelf.shared({"b": "2", "a": "1"}) is first
    assert shelf.shared({"a": "1"}) is not first
    assert shelf.shared({}) is session.NONE


def test_a_shelf_forgets_all_when_there_are_too_many() -> None:
    shelf = session.Shelf()
    first = shelf.shared({"a": "first"})
    for i in range(session._SHELF_LIMIT):
        shelf.shared({"a": str(i)})
    assert shelf.shared({"a": "first"}) == first
    assert len(shelf._sets) <= session._SHELF_LIMIT


@pytest.mark.parametrize(
    ("name", "settable"),
    [("TimeZone", True), ("search_path", True), ("server_version", False), ("IS_SUPERUSER", False)],
)
def test_settable(name: str, settable: bool) -> None:
    assert session.settable(name) is settable


@pytest.mark.parametrize(
    ("statement", "whom"),
    [
        ("RESET ROLE", {"role"}),
        (" set  role other ;", {"role"}),
        ("SET SESSION ROLE NONE", {"role"}),
        ("DISCARD ALL", {"role", "session_authorization"}),
        ("RESET SESSION AUTHORIZATION", {"role", "session_authorization"}),
        ("SET SESSION AUTHORIZATION DEFAULT", {"role", "session_authorization"}),
        ("set session session authorization bob", {"role", "session_authorization"}),
        ("SET LOCAL ROLE other", set()),
        ("RESET ALL", set()),
        ("RESET ROLE; SELECT 1", set()),
        ("SELECT 1; RESET ROLE", set()),
        ("SELECT 'RESET ROLE'", set()),
        ("SET roles.x = 1", set()),
        ("DISCARD PLANS", set()),
    ],
)
def test_whom_a_statement_gives_up(statement: str, whom: set[str]) -> None:
    text = statement.encode()
    assert session.given_up(text + b"\0") == whom  # a Query
    assert session.given_up(b"name\0" + text + b"\0\0\0") == whom  # a Parse

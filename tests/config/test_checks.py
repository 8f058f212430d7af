"""Settings that are right by themselves and do not go together."""

import pytest

from tests.config.conftest import Mistakes

NO_LOGIN = (
    "and no user has a password: nobody could log in; "
    "give users passwords, name an auth.file, or set auth.type: trust"
)
SIZES = "raise pool_size or lower min_pool_size"
TRUST = "databases: {a: {}}\nauth: {type: trust}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "{databases: {}, users: {u: {password: p}}}",
            "1: databases: no database is configured; list one under databases, "
            "or give --upstream postgresql://host/dbname",
        ),
        ("{databases: {a: {}}}", f"1: users: auth.type is scram-sha-256 {NO_LOGIN}"),
        (
            "databases: {a: {}}\nauth: {type: md5}\nusers: {u: {}}",
            f"3: users: auth.type is md5 {NO_LOGIN}",
        ),
        (
            TRUST + "listen:\n  host: []",
            "4: listen.host: there is nowhere to listen; set listen.host or listen.unix_socket_dir",
        ),
        (
            TRUST + "defaults:\n  min_pool_size: 21",
            f"4: defaults.min_pool_size: 21 is more than pool_size, 20; {SIZES}",
        ),
        (
            "databases: {a: {min_pool_size: 21}}\nauth: {type: trust}",
            f"1: databases.a.min_pool_size: min_pool_size 21 is more than pool_size 20; {SIZES}",
        ),
        (
            "databases: {a: {pool_size: 1}}\nauth: {type: trust}\ndefaults: {min_pool_size: 2}",
            f"1: databases.a.pool_size: min_pool_size 2 is more than pool_size 1; {SIZES}",
        ),
        (
            "databases: {a: {}}\nauth: {file: none}",
            "2: auth.file: the file can not be read: No such file or directory",
        ),
    ],
)
def test_inconsistent(mistakes: Mistakes, text: str, problem: str) -> None:
    assert mistakes(text) == [f"pooler.yaml:{problem}"]


@pytest.mark.parametrize(
    "text",
    [
        "{databases: {a: {pool_size: x, min_pool_size: 30}}, auth: {type: trust}}",
        "{databases: {a: {min_pool_size: 30}}, defaults: {pool_size: x}, auth: {type: trust}}",
        "{databases: x, auth: {type: trust}}",
        "{databases: {a: {}}, auth: {type: trist}}",
        "{databases: {a: {}}, users: {u: {password: ''}}}",
        "{databases: {a: {}}, users: {u: {password: '${PW}'}}}",
    ],
)
def test_a_mistake_is_reported_without_its_consequences(mistakes: Mistakes, text: str) -> None:
    assert len(mistakes(text)) == 1

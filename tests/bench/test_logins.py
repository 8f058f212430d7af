"""What a login is made of: see `logins`."""

from pooler.wire import build, codes
from tests.bench.logins import World, answers

FINAL = build.authentication(codes.AUTH_SASL_FINAL, b"v=")[5:11]


def test_a_login_is_answered_in_as_few_writes_as_can_be() -> None:
    world = World("scram-sha-256")
    messages = answers(world, "scram-sha-256")
    first = world.visit(messages)  # of the pool: it waits for a server to be greeted by
    later = world.visit(messages)
    assert [len(first), len(later)] == [4, 3]
    assert FINAL in first[2]
    assert build.READY not in first[2]
    assert FINAL in later[2]
    assert later[2].endswith(build.READY)
    assert build.AUTHENTICATION_OK in later[2]

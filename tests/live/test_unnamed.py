"""The unnamed statement is a session's own, though a server keeps the last one it was sent."""

from tests.live.conftest import Login, SharedPooler
from tests.support import rawclient as raw


def test_the_unnamed_statement_is_nobody_elses(shared_pooler: SharedPooler, login: Login) -> None:
    pooler = shared_pooler(databases={"*": {"pool_size": 1}})
    one, other = login(at=pooler), login(at=pooler)
    one.send(raw.parse("SELECT 'secret'") + raw.sync())
    assert raw.kinds(one.read_until()) == b"1Z"
    execute = raw.bind() + raw.execute() + raw.sync()
    for asked in (execute, raw.describe("S", "") + raw.sync()):
        other.send(asked)
        error, _ = other.read_until()
        assert raw.error_fields(error[1])["C"] == "26000"
        assert raw.error_fields(error[1])["M"] == "unnamed prepared statement does not exist"
    one.send(execute)
    assert raw.rows(one.read_until()) == [[b"secret"]]


def test_the_unnamed_statement_follows_its_client(
    shared_pooler: SharedPooler, login: Login
) -> None:
    pooler = shared_pooler(databases={"*": {"pool_size": 2}})
    client, other = login(at=pooler), login(at=pooler)
    client.send(raw.parse("SELECT 42, pg_backend_pid()") + raw.sync())
    client.read_until()
    execute = raw.bind() + raw.execute() + raw.sync()
    seen = set()
    for _ in range(2):
        client.send(execute)
        ((answer, pid),) = raw.rows(client.read_until())
        assert answer == b"42"
        seen.add(pid)
        other.query("BEGIN")  # takes the server that came free last
    assert len(seen) == 2
    other.query("ROLLBACK")
    client.query("SELECT 1")  # a simple query ends it
    client.send(execute)
    assert raw.kinds(client.read_until()) == b"EZ"

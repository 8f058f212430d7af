"""Prepared statements against a model: a client alone on a server of its own, without a pooler.

Scripts of two or three clients run through the pooler over one or two servers, in any interleaving;
what each is answered is, to the last byte, what it is answered alone. PostgreSQL is the fake one.
"""

from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pooler.wire import parse as reading
from tests.core.support import HOST, App, Session, World, messages, query
from tests.support.rawclient import bind, close, describe, execute, flush, parse, sync

NAMES = ("a", "b", "c")
TEXTS = ("select 1", "select 2", "error x", "syntax", "missing", "", "rollback")

name = st.sampled_from(NAMES)
burst = st.builds(lambda name: bind(statement=name) + describe("P") + execute(), name)
message = st.one_of(
    st.builds(parse, st.sampled_from(TEXTS), name),
    st.builds(lambda sql: parse(sql, "a"), st.sampled_from(TEXTS)),
    burst,
    burst,
    st.builds(lambda name: bind(statement=name), name),
    st.builds(lambda name: describe("S", name), name),
    st.builds(lambda name: close("S", name), name),
    st.just(execute()),
    st.just(describe("P")),
    st.just(close("P")),
    st.just(flush()),
    st.just(sync()),
    st.just(sync()),
    st.just(parse("select 7") + bind() + execute()),
    st.builds(lambda sql: parse(sql) + bind() + describe("P") + execute(), st.sampled_from(TEXTS)),
    st.just(parse("select 2") + describe("S") + bind() + execute()),
    st.just(parse("begin") + bind() + execute()),
    st.builds(
        query,
        st.sampled_from(
            (
                "select 3",
                "begin",
                "rollback",
                "error y",
                "deallocate a",
                "deallocate b",
                "execute a",
                "deallocate all",
            )
        ),
    ),
    st.builds(lambda name: parse(f"deallocate {name}") + bind() + execute(), name),
)
chunk = st.lists(message, min_size=1, max_size=6).map(b"".join)
turns = st.lists(st.tuples(st.integers(0, 2), chunk), min_size=1, max_size=12)

END = sync() + query("rollback") + sync()


@dataclass
class Sink:
    """Who talks to a fake PostgreSQL directly."""

    got: bytes = b""

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self.got += data

    def eof_received(self) -> bool:
        """No more will come."""
        return False

    def connection_lost(self, error: BaseException | None) -> None:
        """The connection has ended."""


def alone(chunks: list[bytes]) -> bytes:
    """Return what a client without a pooler is answered."""
    world = World()
    session = Session(world, 1, world.target, HOST)
    world.sessions.append(session)
    sink = Sink()
    session.transport.protocol = sink
    for data in chunks:
        session.receive(data)
        world.run()
    return sink.got


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    script=turns,
    servers=st.integers(1, 2),
    most=st.integers(1, 4),
    size=st.sampled_from((0, 0, 1, 7, 30)),
    at_once=st.booleans(),
    cached=st.booleans(),
)
def test_replies_are_those_of_a_client_alone(
    script: list[tuple[int, bytes]],
    servers: int,
    most: int,
    size: int,
    at_once: bool,
    cached: bool,
) -> None:
    world = World(pool_size=servers, max_prepared_statements=most, cache_unnamed=cached)
    apps = world.apps(3)
    world.chunk = size
    chunks: list[list[bytes]] = [[], [], []]
    for app in apps:
        app.raw.clear()
    for who, data in [*script, (0, END), (1, END), (2, END)]:
        chunks[who].append(data)
        apps[who].transport.deliver(data)
        if not at_once:
            world.run()
    world.run()
    for app, sent in zip(apps, chunks, strict=True):
        assert bytes(app.raw) == alone(sent)
    pool = world.pool()
    world.chunk = 0
    # What an error in a pipeline did not let be put out is put out with the next one.
    for i in range(servers):
        apps[i].send(query("begin") + parse(f"select {i + 100}", "new") + sync())
    for app in apps:
        app.send(query("rollback"))
    for server in pool.idle:
        there = {name for name, _ in world.session(server).statements.items()}
        assert {statement.name for statement in server.prepared._statements} <= there
        assert len(server.prepared) <= most
        assert not server.effects
        assert len(there) <= most + 2, "and the unnamed one, and the spare one"
    for app in apps:
        app.bye()
    world.run()
    for session in list(world.sessions):
        session.kill()
    world.run()
    assert len(pool.registry) == 0


# -- shapes


ACTIONS = ("prepare", "describe", "blind", "blind", "described", "in pieces", "begin", "rollback")


@dataclass
class Reliant:
    """A client that decodes what it gets by what it was told last, for each name."""

    app: App
    told: dict[str, bytes]

    def ask(self, data: bytes) -> list[tuple[int, bytes]]:
        """Send; return the replies."""
        self.app.raw.clear()
        self.app.send(data)
        return list(messages(bytearray(self.app.raw)))

    def act(self, action: str, name: str) -> None:
        """Do one thing, and see whether it can be decoded."""
        if action == "prepare":
            replies = self.ask(close("S", name) + parse("shape", name) + sync())
            self.told.pop(name, None)
        elif action in ("begin", "rollback"):
            replies = self.ask(query(action))
        elif action == "describe":
            replies = self.ask(describe("S", name) + sync())
        elif action == "blind":
            replies = self.ask(bind(statement=name) + execute() + sync())
        elif action == "in pieces":
            replies = self.ask(bind(statement=name) + flush())
            replies += self.ask(describe("P") + execute() + sync())
        else:
            replies = self.ask(bind(statement=name) + describe("P") + execute() + sync())
        for kind, body in replies:
            if kind == ord("T"):
                self.told[name] = body[7 : body.index(b"\0", 7)]
            elif kind == ord("D") and name in self.told:
                assert reading.data_row(body) == [self.told[name]]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    script=st.lists(
        st.one_of(
            st.tuples(
                st.integers(0, 1),
                st.sampled_from(ACTIONS),
                name,
            ),
            st.tuples(st.just(2), st.sampled_from(("seen", "unseen")), st.sampled_from("012")),
        ),
        max_size=25,
    ),
    servers=st.integers(2, 3),
    most=st.integers(1, 4),
)
def test_what_is_decoded_is_what_was_told(
    script: list[tuple[int, str, str]], servers: int, most: int
) -> None:
    world = World(pool_size=servers, max_prepared_statements=most)
    clients = [Reliant(app, {}) for app in world.apps(2)]
    for client in clients:
        for one in NAMES:
            client.act("prepare", one)
    for who, action, what in script:
        if who == 2:
            world.shape = int(what)
            if action == "seen":
                world.pool().registry.changed(frozenset({b"shape"}))
        else:
            clients[who].act(action, what)
    for client in clients:
        client.act("rollback", "")
        for one in NAMES:
            client.act("prepare", one)
            client.act("described", one)
            assert client.told[one] == b"%d" % world.shape
        client.app.bye()

"""A Hypothesis machine over router and pools: anything happens at any time, nothing gets mixed up.

Two databases, two users, few servers. Every question has a tag that the fake PostgreSQL answers
with; each client checks that its answers are its own, in order, each exactly once. `World.check`
looks at pools, servers, links and gauges after each step. In the end everybody has an answer.
"""

from collections import deque
from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pooler.core.errors import PoolerError
from pooler.core.server import Server
from pooler.core.settings import Host, PoolMode
from pooler.core.states import ServerState
from pooler.wire import build
from tests.core.support import (
    COPY_DONE,
    App,
    World,
    bind_execute,
    copy_data,
    extended,
    query,
)

DATABASES = ("one", "two")
USERS = ("alice", "bob")


class Asker:
    """A client that checks its answers."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.expected: deque[str] = deque()  # tags of the questions not answered yet
        self.answered = False  # the first of them, all but the ReadyForQuery
        self.rest = b""  # of a message sent in part
        self.copying = False
        self.unsynced = False
        self.greeted = False

    @property
    def alive(self) -> bool:
        return not self.app.closed and not self.app.transport.closing

    def ask(self, tag: str, data: bytes) -> None:
        """Send a question."""
        self.expected.append(tag)
        self.send(data)

    def send(self, data: bytes) -> None:
        """Send what is left of the last message, and this."""
        data, self.rest = self.rest + data, b""
        self.app.send(data)

    def read(self) -> None:
        """Check what has come."""
        words, self.app.inbox = self.app.inbox, []
        for word in words:
            if word.startswith("row "):
                assert self.expected, word
                assert self.expected[0] == word[4:], (word, self.expected)
                assert not self.answered, word
                self.answered = True
            elif word.startswith("ERROR"):
                assert self.expected, word
                self.answered = True
            elif word.startswith("ready"):
                if not self.greeted:
                    self.greeted = True
                    continue
                tag = self.expected.popleft()
                assert self.answered or tag.startswith("quiet"), (tag, word)
                self.answered = False
        if self.app.closed:
            self.expected.clear()


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.askers: list[Asker] = []
        self.tags = 0
        self.generation = 0

    @initialize(
        chunk=st.sampled_from([0, 0, 1, 7]),
        pool_size=st.integers(1, 2),
        reserve=st.integers(0, 1),
        minimum=st.integers(0, 1),
        max_servers=st.integers(0, 3),
        mode=st.sampled_from(PoolMode),
        seed=st.integers(0, 3),
    )
    def start(
        self,
        chunk: int,
        pool_size: int,
        reserve: int,
        minimum: int,
        max_servers: int,
        mode: PoolMode,
        seed: int,
    ) -> None:
        self.world = World(
            max_servers=max_servers,
            mode=mode,
            seed=seed,
            pool_size=pool_size,
            reserve_pool_size=reserve,
            reserve_pool_timeout=1.0,
            min_pool_size=minimum,
            server_idle_timeout=4.0,
            server_lifetime=9.0,
            server_check_query=";",
            server_check_delay=2.0,
            server_connect_timeout=3.0,
            cancel_wait_timeout=3.0,
        )
        self.world.chunk = chunk
        for database, user in [("one", "alice")] * 4 + [("one", "bob"), ("two", "alice")]:
            self.connect(database, user, {})

    def tag(self, kind: str = "q") -> str:
        self.tags += 1
        return f"{kind}{self.tags}"

    def one(self, which: int, *, free: bool = True) -> Asker | None:
        """Pick a client; `free`: one that may send a new message."""
        fit = [
            asker
            for asker in self.askers
            if asker.alive and not (free and (asker.copying or asker.unsynced))
        ]
        return fit[which % len(fit)] if fit else None

    # -- clients

    @precondition(lambda self: len(self.askers) < 9)
    @rule(
        database=st.sampled_from(DATABASES),
        user=st.sampled_from(USERS),
        parameters=st.sampled_from([{}, {}, {"application_name": "x"}, {"work_mem": "1MB"}]),
    )
    def newcomer(self, database: str, user: str, parameters: dict[str, str]) -> None:
        self.connect(database, user, parameters)

    def connect(self, database: str, user: str, parameters: dict[str, str]) -> None:
        app = App(self.world)
        try:
            app.log_in(database, user, parameters, 0)
        except PoolerError:
            return
        self.askers.append(Asker(app))
        self.world.run()

    @rule(which=st.integers(0, 9), simple=st.booleans())
    def select(self, which: int, simple: bool) -> None:
        asker = self.one(which)
        if asker is not None:
            tag = self.tag()
            asker.ask(tag, (query if simple else extended)(f"select {tag}"))

    @rule(which=st.integers(0, 9), kinds=st.lists(st.booleans(), min_size=2, max_size=4))
    def pipeline(self, which: int, kinds: list[bool]) -> None:
        asker = self.one(which)
        if asker is not None:
            data = b""
            for simple in kinds:
                tag = self.tag()
                asker.expected.append(tag)
                data += (query if simple else extended)(f"select {tag}")
            asker.send(data)

    @rule(which=st.integers(0, 9), cut=st.integers(1, 40), simple=st.booleans())
    def select_in_part(self, which: int, cut: int, simple: bool) -> None:
        asker = self.one(which)
        if asker is not None:
            tag = self.tag()
            data = asker.rest + (query if simple else extended)(f"select {tag}")
            asker.rest = b""
            asker.expected.append(tag)
            cut = min(cut, len(data) - 1)
            asker.app.send(data[:cut])
            asker.rest = data[cut:]

    @rule(which=st.integers(0, 9))
    def sleep(self, which: int) -> None:
        asker = self.one(which)
        if asker is not None:
            tag = self.tag()
            asker.ask(tag, query(f"sleep {tag}"))

    @rule(which=st.integers(0, 9), sql=st.sampled_from(["begin", "commit", "rollback", ""]))
    def quiet(self, which: int, sql: str) -> None:
        asker = self.one(which)
        if asker is not None:
            asker.ask(self.tag("quiet"), query(sql))

    @rule(which=st.integers(0, 9))
    def error(self, which: int) -> None:
        asker = self.one(which)
        if asker is not None:
            tag = self.tag()
            asker.ask(tag, query(f"error {tag}"))

    @rule(which=st.integers(0, 9), value=st.sampled_from(["x", "y"]))
    def set(self, which: int, value: str) -> None:
        asker = self.one(which)
        if asker is not None:
            asker.ask(self.tag("quiet"), query(f"set application_name={value}"))

    @rule(which=st.integers(0, 9))
    def execute(self, which: int) -> None:
        asker = self.one(which)
        if asker is not None:
            tag = self.tag()
            asker.unsynced = True
            asker.ask(tag, bind_execute(f"select {tag}"))

    @rule(which=st.integers(0, 9))
    def copy(self, which: int) -> None:
        asker = self.one(which)
        if asker is not None:
            asker.copying = True
            asker.ask(self.tag("quiet"), query("copy in") + copy_data(b"1"))

    @rule(which=st.integers(0, 9), data=st.booleans())
    def go_on(self, which: int, data: bool) -> None:
        asker = self.one(which, free=False)
        if asker is None:
            return
        if asker.copying:
            asker.copying = data
            asker.send(copy_data(b"2") if data else COPY_DONE)
        elif asker.unsynced:
            asker.unsynced = False
            asker.send(build.SYNC)
        else:
            asker.send(b"")

    @rule(which=st.integers(0, 9))
    def cancel(self, which: int) -> None:
        asker = self.one(which, free=False)
        if asker is not None and asker.greeted:
            asker.app.cancel()

    @rule(which=st.integers(0, 9), slow=st.booleans())
    def read_slowly(self, which: int, slow: bool) -> None:
        asker = self.one(which, free=False)
        if asker is not None:
            if slow:
                asker.app.client.pause_writing()
            else:
                asker.app.client.resume_writing()
            self.world.run()

    @rule(which=st.integers(0, 9), how=st.sampled_from(["vanish", "end", "bye", "garbage"]))
    def leave(self, which: int, how: str) -> None:
        asker = self.one(which, free=False)
        if asker is None:
            return
        if how == "vanish":
            asker.app.vanish()
        elif how == "end":
            asker.app.transport.deliver_eof()
            self.world.run()
        elif how == "garbage":
            asker.send(b"\xff" * 6)
        elif not asker.copying:
            asker.send(build.TERMINATE)

    # -- PostgreSQL

    @rule(which=st.integers(0, 9))
    def finish(self, which: int) -> None:
        sleeping = [session for session in self.world.sessions if session.sleeping is not None]
        if sleeping:
            sleeping[which % len(sleeping)].finish()
            self.world.run()

    @rule(which=st.integers(0, 9), how=st.sampled_from(["kill", "terminate", "end"]))
    def die(self, which: int, how: str) -> None:
        sessions = self.world.sessions
        if sessions:
            session = sessions[which % len(sessions)]
            getattr(session, how)()
            self.world.run()

    @rule(which=st.integers(0, 9))
    def notify(self, which: int) -> None:
        sessions = self.world.sessions
        if sessions:
            sessions[which % len(sessions)].say(build.notice("01000", "x"))
            self.world.run()

    @property
    def host(self) -> Host:
        return self.world.target.hosts[0]

    # -- the edge

    @rule(
        what=st.sampled_from(["dials", "cancels", "refusals"]),
        sqlstate=st.sampled_from(["3D000", "57P03", "08001", ""]),
    )
    def change_the_network(self, what: str, sqlstate: str) -> None:
        world = self.world
        if what == "dials":
            world.hold_dials = not world.hold_dials
        elif what == "cancels":
            world.hold_cancels = not world.hold_cancels
        elif sqlstate:
            world.refuse(sqlstate, host=self.host, told=sqlstate != "08001")
        else:
            world.refusals.clear()

    @precondition(lambda self: self.world.dials)
    @rule()
    def dialled(self) -> None:
        self.world.connect(*self.world.dials.popleft())
        self.world.run()

    @precondition(lambda self: self.world.held_cancels)
    @rule(delivered=st.booleans())
    def cancelled(self, delivered: bool) -> None:
        self.world.deliver_cancel(self.world.held_cancels.popleft(), delivered=delivered)
        self.world.run()

    @rule(seconds=st.sampled_from([0.1, 0.3, 1.0, 2.5, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.wait(seconds)

    # -- configuration

    @rule(
        what=st.sampled_from(
            ["size", "size", "limit", "mode", "timeouts", "target", "user", "there"]
        ),
        size=st.integers(1, 3),
        small=st.integers(0, 1),
        mode=st.sampled_from(PoolMode),
        database=st.sampled_from(DATABASES),
    )
    def reload(self, what: str, size: int, small: int, mode: PoolMode, database: str) -> None:
        world = self.world
        if what == "size":
            world.configure(pool_size=size, reserve_pool_size=small, min_pool_size=1 - small)
        elif what == "limit":
            world.configure(max_servers=size * small)
        elif what == "mode":
            world.configure(pool_mode=mode)
        elif what == "timeouts":
            world.configure(query_timeout=float(small), query_wait_timeout=float(size - 1))
        elif what == "target":
            self.generation += 1
            host = Host(f"db{self.generation}", 5432)
            world.configure(target=replace(world.target, hosts=(host,)))
        elif what == "user":
            own = {database: {"user": "app"}} if small else {}
            others = {name: own for name, own in world.per_database.items() if name != database}
            world.configure(per_database=others | own)
        else:
            world.configure(removed=world.removed ^ {database})

    # -- what must be true

    @invariant()
    def answers_belong_to_their_questions(self) -> None:
        for asker in self.askers:
            asker.read()
        self.askers = [asker for asker in self.askers if not asker.app.closed]

    @invariant()
    def ledgers_agree_with_postgres(self) -> None:
        for session in self.world.sessions:
            server = session.transport.protocol
            assert isinstance(server, Server)
            if server.state is not ServerState.ACTIVE or session.transport.incoming:
                continue
            if server.farewell is None and not server.ledger.unsure:
                assert server.ledger.settled == session.settled, (server.ledger, session)
                assert not session.settled or server.status == session.status, server

    @invariant()
    def nobody_waits_without_a_reason(self) -> None:
        world = self.world
        if world.hold_dials or world.dials or world.refusals:
            return
        for pool in list(world.router.pools.values()):
            if pool.supply.wanted() > 0 and pool.someone_waits():
                pool.wake()  # as the next tick does
        world.run()
        for pool in world.router.pools.values():
            if pool.supply.wanted() > 0 and pool.someone_waits():
                full = any(gauge.full for gauge in pool.gauges)
                resting = not pool.supply.hosts.ready(world.clock)
                assert full or resting or pool.supply._allowance < 1.0, pool

    @invariant()
    def gone_clients_are_forgotten(self) -> None:
        known = {client for pool in self.world.router.pools.values() for client in pool.clients}
        assert known.issuperset(self.world.router.keys._clients.values())

    def finish_all(self) -> None:
        """Let every query end, those behind it in its pipeline too."""
        while sleeping := [one for one in self.world.sessions if one.sleeping is not None]:
            for session in sleeping:
                session.finish()
            self.world.run()

    def teardown(self) -> None:
        """Let everybody finish: each question has its answer, nothing is left behind."""
        world = self.world
        world.hold_dials = world.hold_cancels = False
        world.refusals.clear()
        world.configure(query_timeout=0.0, query_wait_timeout=0.0, min_pool_size=0, max_servers=0)
        for asker in self.askers:
            if asker.alive:
                if asker.app.client.full:
                    asker.app.client.resume_writing()
                end = (COPY_DONE if asker.copying else b"") + (
                    build.SYNC if asker.unsynced else b""
                )
                asker.send(end)
            if asker.alive:
                asker.ask(self.tag("quiet"), query("rollback"))
        while world.dials:
            world.connect(*world.dials.popleft())
        while world.held_cancels:
            world.deliver_cancel(world.held_cancels.popleft())
        for _ in range(200):
            self.answers_belong_to_their_questions()
            for asker in self.askers:
                if asker.alive and asker.greeted and not asker.expected:
                    asker.app.bye()
            if not self.askers:
                break
            self.finish_all()
            world.wait(0.2)
        assert not self.askers, [(asker.app.client, asker.expected) for asker in self.askers]
        self.finish_all()
        world.wait(12.0)
        for pool in world.router.pools.values():
            assert pool.total == 0, pool
        assert not world.sessions
        assert world.router.servers.count == 0
        assert world.router.clients.count == 0
        assert not world.router.servers.leaving


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=200,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

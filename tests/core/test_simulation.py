"""Simulation: many clients on few servers in virtual time, scored for fairness and use.

The same crowd is put before a naive pool that gives a free server to any of those who wait. The
floors below are the pooler's promise; the baseline shows that they are not met by chance.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import mean, median

import pytest

from tests.core.support import App, Session, World, query

SERVERS = 10


@dataclass(frozen=True)
class Load:
    """A crowd: what its clients do."""

    clients: int
    service: Callable[[random.Random], float]
    """Seconds that a server works on a query."""
    think: Callable[[random.Random], float]
    """Seconds from an answer to the next query."""
    seconds: float


@dataclass
class Scores:
    """What a run was like, the first tenth left out."""

    waits: list[float] = field(default_factory=list)
    served: dict[int, int] = field(default_factory=dict)
    most: int = 0
    use: float = 0.0

    @property
    def jain(self) -> float:
        """Jain's index of how often each client was served: 1 is equality, 1/n one takes all."""
        counts = list(self.served.values())
        return sum(counts) ** 2 / (len(counts) * sum(count * count for count in counts))

    @property
    def spread(self) -> float:
        """How many times the median the 99th percentile of the waits is."""
        waits = sorted(self.waits)
        return waits[int(len(waits) * 0.99)] / max(median(waits), 1e-9)


LOADS = {
    # Everybody wants a server all the time: nobody may be forgotten, no server may rest.
    "overload": Load(200, lambda r: r.expovariate(20.0), lambda r: 0.0, 30.0),
    # As above, one query in fifty takes a hundred times as long: it holds up only its server.
    "mixed": Load(200, lambda r: 1.0 if r.random() < 0.02 else 0.01, lambda r: 0.0, 20.0),
    # Half of what the servers can do: hardly anybody waits.
    "calm": Load(50, lambda r: r.expovariate(20.0), lambda r: r.expovariate(2.0), 20.0),
}


def simulate(load: Load) -> Scores:
    """Put a crowd before the pooler."""
    world = World(pool_size=SERVERS, seed=7)
    world.configure(query_wait_timeout=0.0, query_wait_notify=0.0)
    dice = random.Random(11)
    scores = Scores(served=dict.fromkeys(range(load.clients), 0))
    begin = world.clock + load.seconds / 10
    end = world.clock + load.seconds
    apps = world.apps(load.clients)
    world.careful = False  # too slow for each of so many steps
    numbers = {app.client: i for i, app in enumerate(apps)}
    queue: list[tuple[float, int, str, int]] = []
    asked = [0.0] * load.clients
    working: dict[int, tuple[Session, App]] = {}  # by server
    busy = 0.0
    order = 0

    def later(seconds: float, what: str, which: int) -> None:
        nonlocal order
        order += 1
        heapq.heappush(queue, (world.clock + seconds, order, what, which))

    def started() -> None:
        """Note who has been given a server, and for how long."""
        for server in world.pool().working:
            session = world.session(server)
            if session.sleeping is not None and server.ident not in working:
                assert server.client is not None
                which = numbers[server.client]
                working[server.ident] = session, apps[which]
                if world.clock >= begin:
                    scores.waits.append(world.clock - asked[which])
                later(load.service(dice), "done", server.ident)

    for i in range(load.clients):
        later(load.think(dice), "ask", i)
    while queue and queue[0][0] < end:
        at, _, what, which = heapq.heappop(queue)
        if at > begin:
            busy += len(working) * (at - max(world.clock, begin))
        world.clock = at
        scores.most = max(scores.most, len(world.sessions))
        if what == "ask":
            asked[which] = at
            apps[which].transport.deliver(query(f"sleep {which}"))
        else:
            session, app = working.pop(which)
            session.finish()
            client = numbers[app.client]
            if at >= begin:
                scores.served[client] += 1
            later(load.think(dice), "ask", client)
        world.run()
        if order % 200 == 0:
            world.check()
        started()
    for i, app in enumerate(apps):
        assert set(app.said().split(", ")) <= {f"row {i}", "ready", ""}
    scores.use = busy / (SERVERS * (end - begin))
    return scores


def naive(load: Load) -> Scores:
    """Put a crowd before a pool that picks anyone who waits."""
    dice = random.Random(11)
    scores = Scores(served=dict.fromkeys(range(load.clients), 0))
    begin, end = load.seconds / 10, load.seconds
    queue = [(load.think(dice), i, "ask", i) for i in range(load.clients)]
    heapq.heapify(queue)
    order = load.clients
    waiting: dict[int, float] = {}
    free = SERVERS
    while queue and queue[0][0] < end:
        now, _, what, which = heapq.heappop(queue)
        order += 1
        if what == "ask":
            waiting[which] = now
        else:
            free += 1
            if now >= begin:
                scores.served[which] += 1
            heapq.heappush(queue, (now + load.think(dice), order, "ask", which))
        while free and waiting and (not queue or queue[0][0] > now):
            free -= 1
            order += 1
            chosen = dice.choice(list(waiting))
            asked = waiting.pop(chosen)
            if now >= begin:
                scores.waits.append(now - asked)
            heapq.heappush(queue, (now + load.service(dice), order, "done", chosen))
    return scores


@pytest.mark.parametrize("name", ["overload", "mixed"])
def test_under_overload_all_are_served_alike_and_no_server_rests(name: str) -> None:
    scores, baseline = simulate(LOADS[name]), naive(LOADS[name])
    assert scores.most == SERVERS
    assert scores.use > 0.95
    assert scores.jain > 0.99
    assert scores.jain > baseline.jain
    assert scores.spread < 2.0
    assert baseline.spread > 3.0
    assert mean(scores.waits) == pytest.approx(mean(baseline.waits), rel=0.15)


def test_when_it_is_calm_hardly_anybody_waits() -> None:
    scores = simulate(LOADS["calm"])
    assert scores.most <= SERVERS
    assert sum(wait > 0 for wait in scores.waits) < 0.1 * len(scores.waits)

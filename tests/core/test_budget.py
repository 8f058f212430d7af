"""The budget of several workers: exact limits, whatever is reported when, and nobody starves."""

from collections import deque

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pooler.core.budget import Budget, Limits, PoolName, Report

A: PoolName = ("a", "app", "")
B: PoolName = ("b", "app", "")
NAMES = (A, B)
WORKERS = (0, 1, 2)


class Worker:
    """A worker's side, with its messages on the way."""

    def __init__(self) -> None:
        self.limit = dict.fromkeys(NAMES, 0)
        self.round = dict.fromkeys(NAMES, 0)
        self.count = dict.fromkeys(NAMES, 0)
        self.waiting = dict.fromkeys(NAMES, 0)
        self.busy = dict.fromkeys(NAMES, 0)
        self.wait = dict.fromkeys(NAMES, 0.0)
        self.inbox: deque[tuple[PoolName, int, int]] = deque()
        self.outbox: deque[tuple[PoolName, int, Report]] = deque()

    def report(self, name: PoolName) -> None:
        wait = self.wait[name] if self.waiting[name] else 0.0
        want = self.busy[name] + self.waiting[name]
        self.outbox.append((name, self.round[name], Report(self.count[name], want, wait)))


class Together:
    """A budget and its workers."""

    def __init__(self, limits: dict[PoolName, Limits]) -> None:
        self.limits = limits
        self.workers = {number: Worker() for number in WORKERS}
        self.budget = Budget(lambda name: self.limits[name], self.tell)

    def tell(self, worker: int, name: PoolName, allotment: int, round_: int) -> None:
        self.workers[worker].inbox.append((name, allotment, round_))

    def hear(self, number: int) -> None:
        """The worker reads its next message, and answers."""
        worker = self.workers[number]
        name, worker.limit[name], worker.round[name] = worker.inbox.popleft()
        idle = worker.count[name] - worker.busy[name]
        worker.count[name] -= max(0, min(idle, worker.count[name] - worker.limit[name]))
        worker.report(name)

    def read(self, number: int) -> None:
        """The budget reads the worker's next message."""
        name, answers, report = self.workers[number].outbox.popleft()
        self.budget.report(number, name, answers, report)

    def settle(self) -> None:
        """All messages arrive, and whoever may open a connection for a waiting client does so."""
        moved = True
        while moved:
            moved = False
            for number, worker in self.workers.items():
                while worker.inbox:
                    self.hear(number)
                    moved = True
                for name in NAMES:
                    moved = self.open(worker, name) or moved
                while worker.outbox:
                    self.read(number)
                    moved = True

    def open(self, worker: Worker, name: PoolName) -> bool:
        """Serve a waiting client with an idle connection or a new one, where that is allowed."""
        if not worker.waiting[name]:
            return False
        if worker.count[name] == worker.busy[name]:
            if worker.count[name] >= worker.limit[name]:
                return False
            worker.count[name] += 1
        worker.busy[name] += 1
        worker.waiting[name] -= 1
        worker.report(name)
        return True

    def ask(self, number: int, name: PoolName, clients: int, wait: float = 0.001) -> None:
        """So many more clients wait."""
        worker = self.workers[number]
        worker.waiting[name] += clients
        worker.wait[name] = wait
        worker.report(name)
        self.settle()

    def counts(self, name: PoolName) -> list[int]:
        return [worker.count[name] for worker in self.workers.values()]


def test_what_is_free_goes_to_whoever_asks() -> None:
    together = Together({A: Limits(5)})
    together.ask(0, A, 2)
    together.ask(1, A, 1)
    assert together.counts(A) == [2, 1, 0]
    together.ask(2, A, 9)
    assert together.counts(A) == [2, 1, 2]


def test_what_is_idle_moves() -> None:
    together = Together({A: Limits(4)})
    together.ask(0, A, 4)
    together.workers[0].busy[A] = 1
    together.workers[0].report(A)
    together.settle()
    together.ask(1, A, 1)  # it has none: not asked for patience
    assert together.counts(A) == [3, 1, 0]
    together.ask(1, A, 1)
    assert together.counts(A) == [3, 1, 0]  # it has not waited long
    together.workers[1].wait[A] = 0.1
    together.workers[1].report(A)
    together.settle()
    assert together.counts(A) == [2, 2, 0]


def test_one_connection_goes_from_worker_to_worker() -> None:
    together = Together({A: Limits(1)})
    together.ask(0, A, 3)
    together.ask(1, A, 3, wait=0.2)
    together.budget.rebalance()
    together.settle()
    worker = together.workers[0]
    assert (worker.limit[A], worker.count[A]) == (0, 1)  # it is in use
    worker.busy[A] -= 1
    worker.count[A] -= 1
    worker.report(A)
    together.settle()
    assert together.counts(A) == [0, 1, 0]


def test_those_who_wait_longest_get_one_from_those_who_wait_least() -> None:
    together = Together({A: Limits(4)})
    together.ask(0, A, 3, wait=0.01)
    together.ask(1, A, 1, wait=0.01)
    together.ask(0, A, 1, wait=0.01)
    together.ask(1, A, 5, wait=0.3)
    together.budget.rebalance()
    together.settle()
    assert together.workers[0].limit[A] == 2
    together.budget.rebalance()
    together.settle()
    assert together.workers[0].limit[A] == 2  # the first one is still on its way


def test_reserve_is_for_those_who_wait_long() -> None:
    together = Together({A: Limits(1, reserve=1, reserve_after=5.0)})
    together.ask(0, A, 2, wait=4.9)
    assert together.counts(A) == [1, 0, 0]
    together.workers[0].wait[A] = 5.0
    together.workers[0].report(A)
    together.settle()
    assert together.counts(A) == [2, 0, 0]


def test_limit_over_pools() -> None:
    limits = Limits(5, groups=(("servers", 3),))
    together = Together({A: limits, B: limits})
    together.ask(0, A, 3)
    together.workers[0].busy[A] = 1
    together.workers[0].report(A)
    together.ask(1, B, 2, wait=0.1)
    assert together.counts(A) == [1, 0, 0]
    assert together.counts(B) == [0, 2, 0]


def test_worker_that_ends_gives_all_back() -> None:
    together = Together({A: Limits(2)})
    together.ask(0, A, 2)
    together.ask(1, A, 2)
    assert together.counts(A) == [2, 0, 0]
    together.workers[0] = Worker()
    together.budget.left(0)
    together.settle()
    assert together.counts(A) == [0, 2, 0]


def test_smaller_limits_are_kept_to() -> None:
    together = Together({A: Limits(5)})
    together.ask(0, A, 3)
    together.ask(1, A, 2)
    for worker in together.workers.values():
        worker.busy[A] = 0
        worker.report(A)
    together.limits[A] = Limits(2)
    together.settle()
    together.budget.configure()
    together.settle()
    assert sum(together.counts(A)) == 2


def test_nothing_is_remembered_of_who_needs_nothing() -> None:
    together = Together({A: Limits(5)})
    together.ask(0, A, 3)
    worker = together.workers[0]
    worker.busy[A] = worker.count[A] = 0
    worker.report(A)
    together.settle()
    assert together.budget.held(A) == 0
    assert worker.limit[A] == 0


class BudgetMachine(RuleBasedStateMachine):
    """Any order of messages: no limit is ever exceeded, and in the end nobody is forgotten."""

    def __init__(self) -> None:
        super().__init__()
        group = (("servers", 6),)
        self.together = Together({A: Limits(4, groups=group), B: Limits(3, groups=group)})

    workers = st.sampled_from(WORKERS)
    names = st.sampled_from(NAMES)

    @rule(number=workers, name=names, clients=st.integers(1, 5), wait=st.floats(0.001, 9))
    def clients_wait(self, number: int, name: PoolName, clients: int, wait: float) -> None:
        worker = self.together.workers[number]
        worker.waiting[name] += clients
        worker.wait[name] = wait
        worker.report(name)

    @rule(number=workers, name=names)
    def connection_is_opened(self, number: int, name: PoolName) -> None:
        self.together.open(self.together.workers[number], name)

    @rule(number=workers, name=names)
    def query_ends(self, number: int, name: PoolName) -> None:
        worker = self.together.workers[number]
        if worker.busy[name]:
            worker.busy[name] -= 1
            if worker.count[name] > worker.limit[name]:
                worker.count[name] -= 1
            worker.report(name)

    @rule(number=workers, name=names)
    def connection_dies(self, number: int, name: PoolName) -> None:
        worker = self.together.workers[number]
        if worker.count[name]:
            worker.count[name] -= 1
            worker.busy[name] = min(worker.busy[name], worker.count[name])
            worker.report(name)

    @rule(number=workers)
    def message_goes_down(self, number: int) -> None:
        if self.together.workers[number].inbox:
            self.together.hear(number)

    @rule(number=workers)
    def message_goes_up(self, number: int) -> None:
        if self.together.workers[number].outbox:
            self.together.read(number)

    @rule()
    def time_passes(self) -> None:
        self.together.budget.rebalance()

    @precondition(
        lambda self: all(not w.busy[A] + w.busy[B] for w in self.together.workers.values())
    )
    @rule(number=workers)
    def worker_ends(self, number: int) -> None:
        self.together.workers[number] = Worker()
        self.together.budget.left(number)

    @invariant()
    def limits_hold(self) -> None:
        assert sum(self.together.counts(A)) <= 4
        assert sum(self.together.counts(B)) <= 3
        assert sum(self.together.counts(A)) + sum(self.together.counts(B)) <= 6

    def teardown(self) -> None:
        """Everybody ends what he does at last: then everybody has been served."""
        together = self.together
        for _ in range(300):
            together.settle()
            together.budget.rebalance()
            for worker in together.workers.values():
                for name in NAMES:
                    while worker.busy[name]:
                        worker.busy[name] -= 1
                        if worker.count[name] > worker.limit[name]:
                            worker.count[name] -= 1
                    worker.wait[name] = worker.wait[name] + 1 if worker.waiting[name] else 0.0
                    worker.report(name)
        assert not any(
            worker.waiting[name] for worker in together.workers.values() for name in NAMES
        )


TestBudget = BudgetMachine.TestCase
TestBudget.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)

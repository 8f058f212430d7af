"""The supervisor remembers nothing of pools and names that nobody has any more."""

from collections import Counter
from typing import Any

from pooler.core.budget import Budget, Limits, Report
from pooler.workers.census import Census, Own
from pooler.workers.ears import Ears


class Told:
    """What workers were told, and an ear for them."""

    def __init__(self) -> None:
        self.messages: list[tuple[Any, ...]] = []
        self.ears = Ears(lambda *what: self.messages.append(what))

    def say(self, worker: int, name: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Have a worker say something; return what others were told for it."""
        self.messages.clear()
        self.ears.handlers(worker)[name](*arguments)
        return self.messages


def test_ears_of_pools_are_forgotten() -> None:
    told = Told()
    for number in range(100):
        key = [f"database{number}", "user", ""]
        told.say(0, "hear", key, ["news"])
        told.say(1, "hear", key, ["news", "more"])
        assert told.say(0, "heard", key, "more", "00") == [(1, "heard", tuple(key), "00")]
        (attend,) = told.say(1, "hear", key, [])
        assert attend[:4] == (0, "attend", tuple(key), [])
        assert told.say(0, "heard", key, "more", "00") == []
        assert told.say(0, "deaf", key) == []  # it has let go of its ear: nobody needs it
    assert len(told.ears) == 0
    told.say(1, "hear", key, [])
    assert len(told.ears) == 0


def test_a_former_host_is_not_heard() -> None:
    told = Told()
    key = ["database", "user", ""]
    told.say(0, "hear", key, ["news"])
    told.say(1, "hear", key, ["news"])
    assert told.say(0, "deaf", key) == [(1, "deaf", tuple(key))]
    told.say(1, "hear", key, ["news"])
    told.say(2, "hear", key, ["news"])
    assert told.say(0, "heard", key, "news", "00") == []
    assert told.say(0, "attending", key, ["news"], 99) == []
    assert told.say(1, "heard", key, "news", "00") == [(2, "heard", tuple(key), "00")]


def test_pools_of_the_budget_are_forgotten() -> None:
    rounds: dict[tuple[int, Any], int] = {}

    def tell(worker: int, name: Any, allotment: int, round_: int) -> None:
        rounds[worker, name] = round_

    budget = Budget(lambda name: Limits(4), tell)
    for number in range(100):
        name = (f"database{number}", "user", "")
        for worker in (0, 1):
            budget.report(worker, name, 0, Report(0, 2))
        for worker in (0, 1):
            budget.report(worker, name, rounds[worker, name], Report(2, 2))
        assert budget.held(name) == 4
        for worker in (0, 1):
            budget.report(worker, name, rounds[worker, name], Report(0, 0))
            budget.report(worker, name, rounds[worker, name], Report(0, 0))
    assert len(budget) == 0


def test_names_of_clients_are_forgotten() -> None:
    census = Census()
    own: Own = Counter()
    for number in range(100):
        census.come(own, "app", f"user{number}")
    assert census.total == 100
    assert census.counts("app", "user7") == [
        ("", "", 100),
        ("database", "app", 100),
        ("user", "user7", 1),
    ]
    for number in range(50):
        census.gone(own, "app", f"user{number}")
    census.ended(own)
    assert census.counts() == [("", "", 0)]
    assert census.counts("app", "user7") == [
        ("", "", 0),
        ("database", "app", 0),
        ("user", "user7", 0),
    ]
    assert not own

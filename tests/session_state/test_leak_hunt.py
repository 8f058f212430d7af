"""After any script a new session is as new, whichever server it gets, however the others ended."""

from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.session_state.conftest import Stage
from tests.session_state.scripts import STARTS as START_PARAMETERS
from tests.session_state.scripts import Place, Player, Script, choose, fresh_state, scripts
from tests.support import rawclient as raw

FAMILIES = ("settings", "statements", "pinning", "channels", "transactions")
SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def play_and_leave(script: Script, place: Place, servers: int, farewells: list[str]) -> None:
    """Play a script; its sessions leave politely, without a word, or with a move unanswered."""
    with ExitStack() as stack:
        players: list[Player] = []
        for start in script.starts:
            client = stack.enter_context(place.login(**START_PARAMETERS[start]))
            players.append(Player(client))
        for move in script.moves[:-1]:
            choose(players, move.session, servers).make(move)
        last = choose(players, script.moves[-1].session, servers)
        for player, farewell in zip(players, farewells, strict=False):
            if farewell == "unanswered" and (player.keeps or player is last):
                player.client.send(script.moves[-1].data())
            elif farewell == "torn" and (player.keeps or player is last):
                data = script.moves[-1].data()
                player.client.send(data[: len(data) * 2 // 3])
            if farewell != "vanish":
                player.client.send(raw.terminate() if farewell == "polite" else b"")


def all_are_fresh(stage: Stage, size: int) -> None:
    """Have each server of the pool looked at, by sessions in transactions at the same time."""
    with ExitStack() as stack:
        direct = stack.enter_context(stage.direct.login())
        want = fresh_state(direct)
        seen: set[bytes | None] = set()
        for _ in range(size):
            client = stack.enter_context(stage.pooled[size].login())
            assert client.parameters == direct.parameters, (client.parameters, direct.parameters)
            client.values("BEGIN")
            ((pid,),) = client.values("SELECT pg_backend_pid()")
            seen.add(pid)
            assert (state := fresh_state(client)) == want, state
            with pytest.raises(raw.ServerError) as none:
                client.values("SELECT lastval()")
            assert none.value.fields["C"] == "55000"
        assert len(seen) == size, seen


def run(stage: Stage, examples: int) -> None:
    """Hunt after so many scripts."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=SUPPRESSED, database=None)
    @given(
        scripts(FAMILIES, longest=15),
        st.lists(st.sampled_from(("polite", "vanish", "unanswered", "torn")), min_size=4),
    )
    def property_(script: Script, farewells: list[str]) -> None:
        play_and_leave(script, stage.pooled[4], 2, farewells)
        all_are_fresh(stage, 4)

    property_()


def test_no_leak(stage: Stage) -> None:
    run(stage, 60)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_leak_at_length(stage: Stage) -> None:
    run(stage, 2000)

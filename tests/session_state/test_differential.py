"""Random scripts of several sessions: through a small pool, each step's answer is as directly.

Both play the same script step by step. What is compared: the answers' messages, the parameters
that the session was told, and the notifications it got by the end. Process ids, OIDs and where in
its source PostgreSQL raised an error are not.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.session_state.conftest import Stage
from tests.session_state.scripts import Script, play, scripts

COMMON = ("settings", "settings", "transactions", "reads", "reads")
KINDS = {
    "settings": (COMMON, (1, 2)),
    "statements": (("statements", "statements", *COMMON), (1, 2)),
    "pinning": (("pinning", "pinning", "transactions", "settings", "reads"), (2, 4)),
    "listen": (("channels", "channels", "transactions", "reads"), (5,)),
    "all": (("pinning", "statements", "channels", *COMMON), (5,)),
}
SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def check(stage: Stage, script: Script, size: int) -> None:
    """Play a script both ways."""
    # What is asked of PostgreSQL for the pool itself, the ear, is one of its servers.
    servers = size - 1 if size == 5 else size
    for direct, pooled in play(script, [stage.direct, stage.pooled[size]], servers):
        assert pooled.messages == direct.messages, pooled.move
        assert pooled.status == direct.status, pooled.move
        assert pooled.parameters == direct.parameters, pooled.move


def run(stage: Stage, kind: str, examples: int) -> None:
    """Check so many scripts of a kind."""
    families, sizes = KINDS[kind]

    @settings(max_examples=examples, deadline=None, suppress_health_check=SUPPRESSED, database=None)
    @given(scripts(families), st.sampled_from(sizes))
    def property_(script: Script, size: int) -> None:
        check(stage, script, size)

    property_()


@pytest.mark.parametrize("kind", KINDS)
def test_as_directly(stage: Stage, kind: str) -> None:
    run(stage, kind, 50)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_as_directly_at_length(stage: Stage, kind: str) -> None:
    run(stage, kind, 2000)

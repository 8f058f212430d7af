"""What messages do to prepared statements, and to clients' names, when a server has done them.

Each message of a special kind in the ledger has an `Effect`, in the same order in `Server.effects`.
It happens when its reply comes, and is undone if an error has the server skip it.
"""

from typing import TYPE_CHECKING, Final

from pooler.core.peer import NAMES_FULL
from pooler.core.statements import Name, Statement, shape_of
from pooler.core.states import ServerState

if TYPE_CHECKING:
    from pooler.core.server import Server

FEW: Final = 1_000
"""So many effects are left when a client with too many is read from again."""


class Effect:
    """What a message of a special kind does when the server has done it.

    `concerns` is the statement that it prepares or closes on the server. `name` is the client's,
    b"" for a message of our own, and stands for `means` then, which is the effect's meanwhile.
    `group` is that of the message, see `Prepared`. A Describe has `describes` instead, and `name`
    if the client is told of it; `parameters` is the first half of its answer.
    """

    __slots__ = ("concerns", "describes", "group", "means", "name", "parameters")

    def __init__(
        self,
        concerns: Statement | None = None,
        name: bytes = b"",
        means: Name | None = None,
        group: int = 0,
        describes: Statement | None = None,
    ) -> None:
        self.concerns = concerns
        self.name = name
        self.means = means
        self.group = group
        self.describes = describes
        self.parameters = b""


def next_effect(server: "Server") -> Effect:
    """Take the oldest effect; its client may ask for more when few are left."""
    effect = server.effects.popleft()
    client = server.client
    if client is not None and client.braked & NAMES_FULL and len(server.effects) <= FEW:
        client.unbrake(NAMES_FULL)
    return effect


def happened(server: "Server", effect: Effect, there: bool) -> None:
    """The server has done it: the statement is `there` now, or is not any more."""
    if effect.concerns is not None:
        server.prepared.answered(effect.concerns, there)
    client = server.client
    if client is None:
        if effect.means is not None:
            server.pool.registry.drop(effect.means.statement)
        return
    if effect.name:
        client.names.happened(effect)


def described(server: "Server", effect: Effect, columns: bytes) -> None:
    """The server has told of a statement's shape, of which these are the columns."""
    assert effect.describes is not None
    shape = shape_of(effect.parameters, columns)
    server.prepared.described(effect.describes, shape)
    if server.client is not None and effect.name:
        server.client.names.told(effect, shape)


def undo(server: "Server", effect: Effect) -> None:
    """Nothing comes of it."""
    if effect.concerns is not None:
        server.prepared.answered(effect.concerns, None)
    if effect.means is not None:
        server.pool.registry.drop(effect.means.statement)


def skipped(server: "Server", count: int) -> None:
    """The server has failed at the oldest ones, or skips them."""
    effects = [next_effect(server) for _ in range(count)]
    for effect in effects:
        undo(server, effect)
    if server.client is not None:
        server.client.names.skipped(effects, server.effects)


def forgot_all(server: "Server") -> None:
    """The server has no prepared statements any more but those still to come."""
    server.prepared.clear()
    if server.client is not None and server.state is ServerState.ACTIVE:
        server.client.names.clear(server.effects)

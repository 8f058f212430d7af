"""The states of clients and servers, and which may follow which.

Not an Enum: a state is changed five times in a transaction, and each change is checked, which
costs a look at two integers here.
"""

from typing import Final, final


@final
class State:
    """One state; the same only as itself."""

    __slots__ = ("_bit", "after", "value")

    def __init__(self, value: str, number: int) -> None:
        self.value = value  # as people see it
        self._bit = 1 << number
        self.after = 0  # the bits of those that may follow

    def __repr__(self) -> str:
        """Show its value."""
        return f"<State {self.value}>"

    def then(self, *states: "State") -> None:
        """Have these, and no others, be what may follow."""
        for state in states:
            self.after |= state._bit

    def may_follow(self, state: "State") -> bool:
        """Return whether something in the other state can come to be in this one."""
        return state.after & self._bit != 0


class ClientState:
    """Where a logged-in client is in its life."""

    GREETING: Final = State("login", 0)
    """Waits for a server to learn what to greet it with."""
    IDLE: Final = State("idle", 1)
    WAITING: Final = State("waiting", 2)
    """For a server; also while that server is prepared for it."""
    ACTIVE: Final = State("active", 3)
    CLOSED: Final = State("closed", 4)


CLIENT_STATES: Final = (
    ClientState.GREETING,
    ClientState.IDLE,
    ClientState.WAITING,
    ClientState.ACTIVE,
    ClientState.CLOSED,
)

ClientState.GREETING.then(ClientState.IDLE, ClientState.CLOSED)
ClientState.IDLE.then(ClientState.WAITING, ClientState.CLOSED)
ClientState.WAITING.then(ClientState.ACTIVE, ClientState.IDLE, ClientState.CLOSED)
ClientState.ACTIVE.then(ClientState.IDLE, ClientState.CLOSED)


class ServerState:
    """Where a logged-in server connection is in its life."""

    IDLE: Final = State("idle", 0)
    PREPARING: Final = State("tested", 1)
    """Linked, but first checked, or set as its client wants."""
    ACTIVE: Final = State("active", 2)
    """Linked."""
    ASKING: Final = State("asking", 3)
    """Its client has finished, and may have left something behind."""
    TIDYING: Final = State("tidying", 4)
    """Its client has gone and left something behind."""
    LEAVING: Final = State("leaving", 5)
    """Told to go; counted until it has."""
    CLOSED: Final = State("closed", 6)


SERVER_STATES: Final = (
    ServerState.IDLE,
    ServerState.PREPARING,
    ServerState.ACTIVE,
    ServerState.ASKING,
    ServerState.TIDYING,
    ServerState.LEAVING,
    ServerState.CLOSED,
)

_ENDS: Final = (ServerState.LEAVING, ServerState.CLOSED)

ServerState.IDLE.then(ServerState.PREPARING, ServerState.ACTIVE, *_ENDS)
ServerState.PREPARING.then(ServerState.ACTIVE, ServerState.IDLE, ServerState.TIDYING, *_ENDS)
ServerState.ACTIVE.then(
    ServerState.PREPARING, ServerState.IDLE, ServerState.ASKING, ServerState.TIDYING, *_ENDS
)
ServerState.ASKING.then(
    ServerState.PREPARING, ServerState.ACTIVE, ServerState.IDLE, ServerState.TIDYING, *_ENDS
)
ServerState.TIDYING.then(ServerState.IDLE, *_ENDS)
ServerState.LEAVING.then(ServerState.CLOSED)

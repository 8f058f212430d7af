"""What the dashboard can do: the console's commands that a page needs, with checked arguments."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pooler import logs
from pooler.admin import commands
from pooler.wire import codes

if TYPE_CHECKING:
    from pooler.service import Service

PATIENCE: Final = 30.0
"""Seconds that a command may take; one that has not come to its end is taken back."""


class WrongArguments(Exception):
    """The command does not take these."""


@dataclass(frozen=True, slots=True)
class Action:
    """A command, the arguments that it has to be given, and what it is."""

    help: str
    arguments: Mapping[str, type]
    do: "Callable[..., Awaitable[str]]"

    def check(self, arguments: Any) -> None:
        """WrongArguments unless these are what it takes."""
        if not isinstance(arguments, dict) or arguments.keys() != self.arguments.keys():
            raise WrongArguments(f"Arguments are {', '.join(self.arguments) or 'none'}.")
        for name, kind in self.arguments.items():
            if type(arguments[name]) is not kind:
                raise WrongArguments(f"{name} has to be a {'number' if kind is int else 'text'}.")


async def run(service: "Service", name: str, user: str, arguments: Any) -> str:
    """Do it for an administrator; return what has been done. WrongArguments, PoolerError."""
    action = ACTIONS[name]
    action.check(arguments)
    logs.event(logging.INFO, "dashboard command", command=name, user=user, **arguments)
    try:
        async with asyncio.timeout(PATIENCE):
            return await action.do(service, **arguments)
    except TimeoutError:
        raise commands.CommandError(
            codes.QUERY_CANCELED,
            f"not done in {PATIENCE:g} s, and taken back",
            hint="See who holds the server connections.",
        ) from None


async def _pause(service: "Service", database: str) -> str:
    await service.do(commands.pause, database)
    return f"{database} is paused: its clients wait, and it has no server connections."


async def _resume(service: "Service", database: str) -> str:
    await service.do(commands.resume, database)
    return f"{database} is resumed."


async def _reconnect(service: "Service", database: str) -> str:
    await service.do(commands.reconnect, database)
    return f"Each server connection of {database} is replaced when it is free."


async def _kill_client(service: "Service", client: int) -> str:
    await service.do_for(client, commands.kill_client)
    return f"Client {client} is disconnected."


async def _unpin(service: "Service", client: int) -> str:
    what = await service.do_for(client, commands.unpin)
    return f"Client {client} has given its server connection back and lost: {what}."


async def _reload(service: "Service") -> str:
    changes = await commands.reload(service)
    return f"Reloaded: {len(changes) or 'no'} setting{'s' * (len(changes) != 1)} changed."


ACTIONS: Final[Mapping[str, Action]] = {
    "pause": Action("have the clients of a database wait", {"database": str}, _pause),
    "resume": Action("end the pause of a database", {"database": str}, _resume),
    "reconnect": Action("replace its server connections", {"database": str}, _reconnect),
    "kill_client": Action("disconnect a client", {"client": int}, _kill_client),
    "unpin": Action("take back what a client keeps", {"client": int}, _unpin),
    "reload": Action("read the configuration again, and go by it", {}, _reload),
}

"""What the dashboard can do: the console's commands that a page needs, with checked arguments."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pooler.admin import commands

if TYPE_CHECKING:
    from pooler.service import Service


class WrongArguments(Exception):
    """The command does not take these."""


@dataclass(frozen=True, slots=True)
class Action:
    """A command, and the arguments that it has to be given."""

    help: str
    arguments: Mapping[str, type]
    do: "Callable[..., Awaitable[str]]"

    async def run(self, service: "Service", user: str, arguments: Any) -> str:
        """Do it for an administrator; return what happened. WrongArguments, PoolerError."""
        if not isinstance(arguments, dict) or arguments.keys() != self.arguments.keys():
            raise WrongArguments(f"Arguments are {', '.join(self.arguments) or 'none'}.")
        for name, kind in self.arguments.items():
            if type(arguments[name]) is not kind:
                raise WrongArguments(f"{name} has to be a {'number' if kind is int else 'text'}.")
        return await self.do(service, **arguments)


async def _reload(service: "Service") -> str:
    changes = await commands.reload(service)
    return f"{len(changes)} settings changed"


ACTIONS: Final[Mapping[str, Action]] = {
    "reload": Action("read the configuration again, and go by it", {}, _reload),
}

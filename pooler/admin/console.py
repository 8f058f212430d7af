"""The admin console: which command is whose, what it answers, and who may give it.

The language is PgBouncer's and more. Authorization is asked when a command is run, by the
configuration in force then. The protocol is the session's business.
"""

import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from pooler.admin import chatter, commands, language
from pooler.admin.commands import CommandError, Tell
from pooler.admin.language import Command, syntax_error
from pooler.admin.view import Column, Row, Rows, ints, text
from pooler.admin.views import VIEWS
from pooler.config.config import CONSOLE
from pooler.shutdown import Stop
from pooler.wire import codes

if TYPE_CHECKING:
    from pooler.admin.session import Session
    from pooler.login.ends import Connection
    from pooler.service import Service

SESSIONS: Final = 100
"""Console sessions at a time."""

ROOT: Final = 0

HIDDEN: Final = frozenset(view.source for view in VIEWS.values()) - {"stats", ""}
"""Views that others are made from, and nobody asks for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command that is done says."""

    tag: str
    rows: Rows | None = None


Run = Callable[[Tell], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Plan:
    """A command that has been understood: the columns of its answer, if any, and how to run it."""

    columns: tuple[Column, ...] | None
    run: Run


Reading = Callable[["Service", Command], Plan]


@dataclass(frozen=True, slots=True)
class Usage:
    """A line of SHOW HELP."""

    command: str
    help: str


class Console:
    """The console of a service."""

    def __init__(self, service: "Service") -> None:
        self.service = service
        self.sessions: dict[Session, None] = {}

    # -- who

    def is_own(self, connection: "Connection", database: str, user: str) -> bool:
        """Return whether it is the system's user who runs the pooler, or root: no proof needed."""
        own = connection.uid in (os.getuid(), ROOT)
        return own and database in CONSOLE and user in CONSOLE

    def check(self, user: str, *, own: bool) -> None:
        """Let a user in who has proven who he is; CommandError."""
        admin = self.service.config.admin
        if not own and user not in admin.users and user not in admin.stats_users:
            raise CommandError(
                codes.INSUFFICIENT_PRIVILEGE,
                "not allowed",
                hint="Users of the console are listed in admin.users and admin.stats_users.",
            )
        if len(self.sessions) >= SESSIONS:
            raise CommandError(
                codes.TOO_MANY_CONNECTIONS, f"no more than {SESSIONS} console sessions are allowed"
            )

    def may_change(self, session: "Session") -> bool:
        """Return whether a session may give every command."""
        return session.own or session.user in self.service.config.admin.users

    # -- what

    def plan(self, session: "Session", command: Command) -> Plan:
        """Understand a command; CommandError."""
        tag = chatter.ignored(command)
        if tag is not None:
            return _doing_nothing(session, command, tag)
        answered = chatter.answer(command)
        if answered is not None:
            columns, row = answered
            return Plan(columns, partial(_say, Answer("SHOW", [row])))
        if command.verb in ("show", "select"):
            return self._show(command)
        reading = _COMMANDS.get(command.verb)
        if reading is None:
            raise syntax_error(command)
        self._authorize(session)
        planned = reading(self.service, command)

        async def run(tell: Tell) -> Answer:
            self._authorize(session)
            return await planned.run(tell)

        return Plan(planned.columns, run)

    def _authorize(self, session: "Session") -> None:
        if not self.may_change(session):
            raise CommandError(codes.INSUFFICIENT_PRIVILEGE, "admin access needed")

    def _show(self, command: Command) -> Plan:
        name = command.tokens[1].text.lower() if len(command.tokens) == 2 else ""
        if name == "help":
            return Plan(text("command", "help"), partial(_say, Answer("SHOW", list(help_rows()))))
        if name == "fds":
            raise CommandError(
                codes.FEATURE_NOT_SUPPORTED,
                "SHOW FDS is not supported",
                hint="A new version takes over by itself: pooler upgrade.",
            )
        view = VIEWS.get(name)
        if view is None or name in HIDDEN:
            raise syntax_error(command)

        async def run(tell: Tell) -> Answer:
            return Answer("SHOW", await self.service.rows(name))

        return Plan(view.columns, run)


def _doing_nothing(session: "Session", command: Command, tag: str) -> Plan:
    async def run(tell: Tell) -> Answer:
        begins = chatter.transaction(command)
        if begins is not None:
            session.in_transaction = begins
        elif tag == "SET":
            tell("SET ignored", "")
        return Answer(tag)

    return Plan(None, run)


async def _say(answer: Answer, tell: Tell) -> Answer:
    return answer


def _done(tag: str, work: Callable[[Tell], Awaitable[object]]) -> Plan:
    """Plan a command that answers nothing but its tag."""

    async def run(tell: Tell) -> Answer:
        await work(tell)
        return Answer(tag)

    return Plan(None, run)


def _scoped(
    tag: str, act: Callable[["Service", str, str], Awaitable[object]]
) -> tuple[str, Reading]:
    def read(service: "Service", command: Command) -> Plan:
        what = language.about(command)
        return _done(tag, lambda tell: service.do(act, what.database, what.user))

    return tag.lower(), read


def _for_database(
    tag: str, act: Callable[["Service", str], Awaitable[object]]
) -> tuple[str, Reading]:
    def read(service: "Service", command: Command) -> Plan:
        what = language.about(command)
        if what.user:
            raise syntax_error(command)
        return _done(tag, lambda tell: service.do(act, what.database))

    return tag.lower(), read


def _for_client(
    tag: str, act: Callable[["Service", int], Awaitable[object]]
) -> tuple[str, Reading]:
    def read(service: "Service", command: Command) -> Plan:
        client = language.number(command)

        async def work(tell: Tell) -> None:
            result = await service.do_for(client, act)
            if isinstance(result, str):
                tell(f"dropped: {result}", "")

        return _done(tag, work)

    return tag.lower(), read


def _pause(service: "Service", command: Command) -> Plan:
    what = language.about(command, timeout=True)
    return _done(
        "PAUSE",
        lambda tell: service.do(commands.pause, what.database, what.user, what.seconds, tell=tell),
    )


def _wait_close(service: "Service", command: Command) -> Plan:
    what = language.about(command)
    return _done(
        "WAIT_CLOSE",
        lambda tell: service.do(commands.wait_close, what.database, what.user, tell=tell),
    )


def _suspend(service: "Service", command: Command) -> Plan:
    raise CommandError(
        codes.FEATURE_NOT_SUPPORTED,
        "SUSPEND is not supported",
        hint="PAUSE waits for transactions to end; a new version takes over by pooler upgrade.",
    )


def _reload(service: "Service", command: Command) -> Plan:
    language.nothing(command)

    async def work(tell: Tell) -> None:
        changes = await commands.reload(service)
        count = len(changes)
        what = f"{count} setting{'s' * (count != 1)} changed" if count else "nothing has changed"
        tell(what, "\n".join(map(str, changes)))

    return _done("RELOAD", work)


def _set(service: "Service", command: Command) -> Plan:
    assigned = language.assignment(command)
    if assigned is None:
        raise syntax_error(command)
    name, value = assigned
    commands.setting(service, name)

    async def run(tell: Tell) -> Answer:
        await commands.set_value(service, name, value)
        return Answer(f"SET {name}={value}"[:200])

    return Plan(None, run)


def _reset(service: "Service", command: Command) -> Plan:
    name = "".join(token.text for token in command.tokens[1:])
    commands.setting(service, name)
    return _done("RESET", lambda tell: commands.reset_value(service, name))


def _check(service: "Service", command: Command) -> Plan:
    if command.words != "check config":
        raise syntax_error(command)

    async def run(tell: Tell) -> Answer:
        problems, changes = await commands.check_config(service)
        found: list[Row] = [("problem", problem) for problem in problems]
        found += [("change", str(change)) for change in changes]
        return Answer("CHECK", found or [("ok", "nothing would change")])

    return Plan(text("result", "text"), run)


def _upgrade(service: "Service", command: Command) -> Plan:
    if command.words != "upgrade":
        raise syntax_error(command)

    async def run(tell: Tell) -> Answer:
        return Answer("UPGRADE", [(await commands.upgrade(service),)])

    return Plan(ints("pid"), run)


def _shutdown(service: "Service", command: Command) -> Plan:
    what = language.about(command, timeout=True)
    how = next((how for how in Stop if how.value == what.database.upper()), None)
    if how is None or what.user:
        raise syntax_error(command)
    seconds = what.seconds or None
    return _done("SHUTDOWN", lambda tell: commands.shutdown(service, how, seconds))


_COMMANDS: Final[dict[str, Reading]] = dict(
    (
        ("pause", _pause),
        _scoped("RESUME", commands.resume),
        _for_database("DISABLE", commands.disable),
        _for_database("ENABLE", commands.enable),
        _scoped("RECONNECT", commands.reconnect),
        ("wait_close", _wait_close),
        _scoped("KILL", commands.kill),
        _for_client("KILL_CLIENT", commands.kill_client),
        _for_client("CANCEL", commands.cancel),
        _for_client("UNPIN", commands.unpin),
        ("reload", _reload),
        ("set", _set),
        ("reset", _reset),
        ("check", _check),
        ("suspend", _suspend),
        ("upgrade", _upgrade),
        ("shutdown", _shutdown),
    )
)

_ABOUT: Final = "[database [USER name]]"
_HELP: Final = (
    Usage(
        f"PAUSE {_ABOUT} [TIMEOUT seconds]",
        "give servers to nobody, wait until all are free and closed; resume after the time",
    ),
    Usage(f"RESUME {_ABOUT}", "go on after PAUSE or KILL"),
    Usage("DISABLE database", "turn new clients away"),
    Usage("ENABLE database", "let new clients in again"),
    Usage(f"RECONNECT {_ABOUT}", "replace every server connection when it is free"),
    Usage(f"WAIT_CLOSE {_ABOUT}", "wait until those to be replaced have gone"),
    Usage(f"KILL {_ABOUT}", "cut off clients and servers, new clients wait for RESUME"),
    Usage("KILL_CLIENT id", "end one client; SHOW CLIENTS shows its id"),
    Usage("CANCEL id", "cancel what a client has asked for"),
    Usage("UNPIN id", "take back a server that its client keeps, its session state is dropped"),
    Usage("RELOAD", "load the configuration anew: whole, or not at all"),
    Usage("CHECK CONFIG", "what a RELOAD would change, or what is wrong"),
    Usage("SET name = value", "change a setting until the next RELOAD"),
    Usage("RESET name", "undo a SET"),
    Usage("UPGRADE", "have a new process take over, unnoticed by clients; its process id"),
    Usage("SHUTDOWN", "end at once"),
    Usage("SHUTDOWN WAIT_FOR_SERVERS [TIMEOUT seconds]", "end when transactions have ended"),
    Usage("SHUTDOWN WAIT_FOR_CLIENTS [TIMEOUT seconds]", "end when clients have left"),
)


def help_rows() -> Iterator[Row]:
    """What can be said, and what it does."""
    for view in VIEWS.values():
        if view.name not in HIDDEN:
            yield f"SHOW {view.name.upper()}", view.help
    for usage in _HELP:
        yield usage.command, usage.help

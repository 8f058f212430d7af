"""What people do to a running pooler: each command is one call with plain arguments.

A command is an async function of the service that returns when it is done, with a plain result, or
raises a PoolerError that says why not. It may `tell` something meanwhile. Cancelled, it takes back
what it began. Texts of errors are PgBouncer's where it has the same one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from pooler import logs
from pooler.admin.settings import PGBOUNCER, UNCHANGEABLE, Path, paths
from pooler.admin.sockets import activity, all_clients
from pooler.config import Change, ConfigError, changes
from pooler.config.config import CONSOLE
from pooler.config.model import Database, User
from pooler.config.problem import did_you_mean
from pooler.core import control
from pooler.core.cancel import cancel_client
from pooler.core.client import Client
from pooler.core.errors import CloseReason, PoolerError
from pooler.core.holds import EVERYTHING, FOREVER, Scope
from pooler.core.server import Server
from pooler.core.states import ServerState
from pooler.reload import ReloadRefused, problems_of
from pooler.shutdown import Stop
from pooler.wire import build, codes

if TYPE_CHECKING:
    from pooler.service import Service

Tell = Callable[[str, str], None]
"""Takes the text of a notice, and its detail."""

LOOK: Final = 0.02
"""Seconds between looks at what is waited for."""
PATIENCE: Final = 5.0
"""Seconds of waiting after which whoever waits is told what for."""
NAMED: Final = 10
"""Connections that are named there at most."""


class CommandError(PoolerError):
    """A command that is not done; the console goes on."""

    severity = "ERROR"


Command = Callable[..., Awaitable[Any]]
"""Takes the service and plain arguments."""


def _nobody(text: str, detail: str) -> None:
    pass


# -- pause and resume


async def pause(
    service: "Service",
    database: str = "",
    user: str = "",
    seconds: float = 0.0,
    tell: Tell = _nobody,
) -> None:
    """Give no server to anybody, and return when all server connections have ended.

    Clients stay and wait. With a number of `seconds`, all goes on by itself when it is over,
    whether the wait for the servers has ended by then or not: not having ended is an error.
    """
    holds = service.router.holds
    scope = _scope(service, database, user, "pause")
    _not_stopping(service)
    if holds.pauses_all:
        raise CommandError(codes.NOT_IN_STATE, "already suspended/paused", hint="RESUME ends that.")
    before = holds.paused.get(scope)
    until = service.now() + seconds if seconds else FOREVER
    holds.paused[scope] = until
    service.hold()
    _log("PAUSE", scope, seconds=seconds or None)
    done = False
    try:
        await _until(
            lambda: not _busy(service, scope) or service.now() >= until, service, scope, tell
        )
        done = not _busy(service, scope)
    finally:
        if not done and holds.paused.get(scope) == until:
            if before is None:
                del holds.paused[scope]
            else:
                holds.paused[scope] = before
            service.hold()
            _log("RESUME", scope, why="PAUSE did not come to its end")
    if not done:
        raise CommandError(
            codes.QUERY_CANCELED,
            f"PAUSE was not done in {seconds:g} s, {scope} has been resumed",
            _who_is_busy(service, scope),
            "Give it more time, or end these clients with KILL_CLIENT.",
        )


async def resume(service: "Service", database: str = "", user: str = "") -> None:
    """End a pause."""
    holds = service.router.holds
    scope = _scope(service, database, user, "resume", known=False)
    _not_stopping(service)
    if scope not in holds.paused:
        raise _not_paused(service, scope)
    del holds.paused[scope]
    service.hold()
    _log("RESUME", scope)


def _not_paused(service: "Service", scope: Scope) -> CommandError:
    paused = sorted(map(str, service.router.holds.paused))
    hint = f"Paused: {', '.join(paused)}." if paused else "Nothing is paused."
    if scope == EVERYTHING:
        return CommandError(codes.NOT_IN_STATE, "pooler is not paused/suspended", hint=hint)
    return CommandError(codes.NOT_IN_STATE, f"{scope} is not paused", hint=hint)


async def disable(service: "Service", database: str) -> None:
    """Turn new clients of a database away."""
    _scope(service, database, "", "disable", needed=True)
    service.router.holds.disabled.add(database)
    service.hold()
    _log("DISABLE", Scope(database))


async def enable(service: "Service", database: str) -> None:
    """Let clients of a database in again."""
    _scope(service, database, "", "enable", needed=True)
    service.router.holds.disabled.discard(database)
    service.hold()
    _log("ENABLE", Scope(database))


# -- connections


async def reconnect(service: "Service", database: str = "", user: str = "") -> None:
    """Have every server connection replaced when it is free."""
    scope = _scope(service, database, user, "reconnect")
    for pool in service.router.covered(scope):
        control.renew(pool)
    _log("RECONNECT", scope)


async def wait_close(
    service: "Service", database: str = "", user: str = "", tell: Tell = _nobody
) -> None:
    """Return when all server connections have gone that RECONNECT or RELOAD wanted gone."""
    scope = _scope(service, database, user, "wait in")

    def gone() -> bool:
        return not any(control.renewing(pool) for pool in service.router.covered(scope))

    await _until(gone, service, scope, tell)


async def kill(service: "Service", database: str = "", user: str = "") -> None:
    """Cut off all clients and servers; new clients wait until it is resumed."""
    scope = _scope(service, database, user, "kill")
    _not_stopping(service)
    holds = service.router.holds
    holds.paused[scope] = FOREVER
    error = PoolerError(codes.ADMIN_SHUTDOWN, "terminating connection due to administrator command")
    service.hold()
    for pool in service.router.covered(scope):
        control.kill(pool, error)
    _log("KILL", scope)


async def kill_client(service: "Service", client: int) -> None:
    """End one client."""
    error = PoolerError(codes.ADMIN_SHUTDOWN, "admin forced disconnect")
    _client(service, client).fail(error, CloseReason.KILLED)
    _log("KILL_CLIENT", client=client)


async def cancel(service: "Service", client: int) -> None:
    """Cancel what a client has asked for, running or waiting."""
    found = _client(service, client)
    cancel_client(found)
    _log("CANCEL", client=client)


async def unpin(service: "Service", client: int) -> str:
    """Take the server back that a client keeps but does not use; return what was dropped."""
    found = _client(service, client)
    pool = found.pool
    server = found.server
    if server is None or pool.keeper.pins.get(server) is None:
        raise CommandError(codes.NOT_IN_STATE, f"client {client} is not pinned")
    pin = control.unpin(found)
    if pin is None:
        raise CommandError(
            codes.NOT_IN_STATE,
            f"client {client} is in a transaction",
            hint="Try again when it is over, or end the client with KILL_CLIENT.",
        )
    what = ", ".join(pin.reasons)
    found.send(
        build.warning(
            codes.SUCCESSFUL_COMPLETION,
            f"an administrator has taken back the server connection, session state is lost: {what}",
        )
    )
    _log("UNPIN", client=client, reasons=what)
    return what


def _client(service: "Service", ident: int) -> Client:
    for client in all_clients(service):
        if client.ident == ident:
            return client
    raise CommandError(
        codes.UNDEFINED_OBJECT, "client not found", hint="SHOW CLIENTS shows the id of each."
    )


# -- configuration


async def reload(service: "Service") -> list[Change]:
    """Load the configuration anew, forget what SET has changed; return what is different now."""
    return await _reload(service, {})


async def set_value(service: "Service", name: str, value: str) -> str:
    """Change a setting until the next RELOAD; return its name."""
    path = setting(service, name)
    overlay = {**service.overlay, path: value}
    try:
        await service.reload(overlay)
    except ReloadRefused as refused:
        text = "; ".join(refused.problems)
        raise CommandError(codes.INVALID_PARAMETER, "SET failed", text) from None
    return ".".join(path)


async def reset_value(service: "Service", name: str) -> str:
    """Undo what SET has changed; return the setting's name."""
    path = setting(service, name)
    await _reload(service, {key: value for key, value in service.overlay.items() if key != path})
    return ".".join(path)


def setting(service: "Service", name: str) -> Path:
    """Return the path of a setting, by PgBouncer's name or ours; CommandError."""
    known = list(paths())
    path = PGBOUNCER.get(name.lower()) or _path(name)
    if len(path) == 1:
        alike = [other for other in known if other[1:] == path]
        path = alike[0] if len(alike) == 1 else path
    if path in UNCHANGEABLE:
        raise CommandError(
            codes.NOT_IN_STATE, "SET failed", f'"{name}" takes effect after a restart.'
        )
    if path in known or _is_of_an_entry(service, path):
        return path
    choices = [*PGBOUNCER, *map(".".join, known)]
    hint = did_you_mean(name, choices) or "SHOW CONFIG shows all settings."
    raise CommandError(codes.UNDEFINED_OBJECT, "SET failed", f'There is no setting "{name}".', hint)


def _path(name: str) -> Path:
    """Return the path of a dotted name; those of databases and users may have dots in them."""
    section, _, rest = name.partition(".")
    if section in ("databases", "users"):
        entry, _, key = rest.rpartition(".")
        return (section, entry, key.lower())
    return (section.lower(), *(rest.lower().split(".") if rest else ()))


def _is_of_an_entry(service: "Service", path: Path) -> bool:
    """Return whether it is a setting of a database or user that is configured."""
    section, *rest = path
    config = service.config
    if len(rest) != 2:
        return False
    if section == "databases":
        return rest[0] in config.databases and rest[1] in Database.model_fields
    return section == "users" and rest[0] in config.users and rest[1] in User.model_fields


async def check_config(service: "Service") -> tuple[list[str], list[Change]]:
    """Load the configuration without going by it: what is wrong, and what it would change."""
    try:
        config = service.load(service.overlay)
    except ConfigError as error:
        return problems_of(error), []
    return [], changes(service.config, config)


async def _reload(service: "Service", overlay: dict[Path, str]) -> list[Change]:
    try:
        return await service.reload(overlay)
    except ReloadRefused as refused:
        text = "\n".join(refused.problems)
        raise CommandError(
            codes.CONFIG_FILE_ERROR, "RELOAD failed, nothing has been changed", text
        ) from None


# -- the end


async def upgrade(service: "Service") -> int:
    """Have a new process take over; return its process id when it serves."""
    pid = await service.upgrades.start()
    _log("UPGRADE", successor=pid)
    return pid


async def shutdown(service: "Service", how: Stop, seconds: float | None = None) -> None:
    """Begin to end the pooler."""
    _log("SHUTDOWN", how=how.value)
    service.stop(how, seconds)


def _not_stopping(service: "Service") -> None:
    if service.stopping:
        raise CommandError(codes.NOT_IN_STATE, "pooler is shutting down")


# -- what they have in common


def _scope(
    service: "Service",
    database: str,
    user: str,
    verb: str,
    *,
    known: bool = True,
    needed: bool = False,
) -> Scope:
    """Return what a command is about; CommandError: there is no such database."""
    if needed and not database:
        raise CommandError(codes.SYNTAX_ERROR, "a database is required")
    if database in CONSOLE:
        raise CommandError(codes.NOT_IN_STATE, f"cannot {verb} admin db: {database}")
    exists = not database or service.config.resolve(database, user or "?") is not None
    if known and not exists and not service.router.covered(Scope(database)):
        hint = did_you_mean(database, service.config.databases)
        raise CommandError(codes.INVALID_DATABASE, f"no such database: {database}", hint=hint)
    return Scope(database, user)


def _busy(service: "Service", scope: Scope) -> bool:
    return any(pool.total for pool in service.router.covered(scope))


async def _until(over: Callable[[], bool], service: "Service", scope: Scope, tell: Tell) -> None:
    """Wait; whoever waits for long is told what for."""
    told_at = service.now()
    while not over():
        await asyncio.sleep(LOOK)
        if service.now() - told_at >= PATIENCE:
            told_at = service.now()
            tell("waiting for server connections to be released", _who_is_busy(service, scope))


def _who_is_busy(service: "Service", scope: Scope) -> str:
    """Return, a line each, which server connections are still in use, and by whom."""
    now = service.now()
    lines = [
        _in_use(server, now)
        for pool in service.router.covered(scope)
        for server in pool.servers()
        if server.state is not ServerState.LEAVING
    ]
    more = len(lines) - NAMED
    return "\n".join([*lines[:NAMED], *([f"and {more} more"] if more > 0 else [])])


def _in_use(server: Server, now: float) -> str:
    client = server.client or server.owner
    who = f"client {client.ident} ({client.name})" if client is not None else "nobody"
    since = server.transaction_since or server.busy_since or server.idle_since
    pool = server.pool
    what = f"{activity(server)} for {now - since:.0f} s, {who}"
    return f"{pool.user}@{pool.database}, pid {server.pid}: {what}"


def _log(command: str, scope: Scope | None = None, **fields: object) -> None:
    about = {"scope": str(scope)} if scope is not None else {}
    logs.event(logging.INFO, "command", command=command, **about, **fields)


EVERYWHERE: Final[dict[str, Command]] = {
    command.__name__: command
    for command in (pause, resume, disable, enable, reconnect, wait_close, kill)
}
"""Those that every process of a pooler has to do, by name."""

FOR_CLIENTS: Final[dict[str, Command]] = {
    command.__name__: command for command in (kill_client, cancel, unpin)
}
"""Those that only the process can do that has the client."""

"""A session of the console: PostgreSQL's protocol, simple and extended, as a server speaks it.

One task reads the messages in order and answers them, so that a command may wait; what comes
meanwhile is kept up to a bound, then not read. Answers go out in pieces as the client takes them.
"""

import asyncio
import struct
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pooler.admin import encode, language
from pooler.admin.commands import CommandError
from pooler.admin.console import Answer, Console, Plan
from pooler.admin.language import Command
from pooler.admin.process import COMPATIBLE
from pooler.admin.view import Column
from pooler.core.errors import CloseReason, PoolerError
from pooler.wire import build, codes, parse
from pooler.wire.logins import Login
from pooler.wire.parse import Malformed

MESSAGE_LIMIT: Final = 65_536
"""Bytes of a message of the client."""
AHEAD_LIMIT: Final = 1_000
"""Messages kept while a command runs, before reading is paused."""
NAMES_LIMIT: Final = 100
"""Prepared statements, and portals, of a session."""
PIECE: Final = 65_536
"""Bytes of an answer that are written at a time."""
SLOW: Final = 60.0
"""Seconds for which a client may leave an answer unread."""

_PARAMETERS: Final = {
    "server_version": f"{COMPATIBLE}/bouncer",
    "client_encoding": "UTF8",
    "server_encoding": "UTF8",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "GMT",
    "standard_conforming_strings": "on",
    "integer_datetimes": "on",
}
_BINARY_INTEGERS: Final = {21: "!h", 23: "!i", 20: "!q"}  # by the type's OID
_TEXTS: Final = (0, 18, 19, 25, 705, 1042, 1043)  # OIDs whose binary form is the text


@dataclass(slots=True)
class _Statement:
    """A prepared statement."""

    command: Command | None
    """None: an empty one."""
    types: tuple[int, ...]
    plan: Plan | None
    """None where parameters are still to come."""


@dataclass(slots=True)
class _Portal:
    """A statement with its parameters, run or not."""

    plan: Plan | None
    formats: Sequence[int]
    answer: Answer | None = None
    sent: int = 0


@dataclass(slots=True)
class _Names:
    """What a session has prepared; the oldest is forgotten where there is too much."""

    statements: "OrderedDict[str, _Statement]" = field(default_factory=OrderedDict)
    portals: "OrderedDict[str, _Portal]" = field(default_factory=OrderedDict)


class Session(asyncio.Protocol):
    """One client of the console, logged in."""

    def __init__(
        self, console: Console, transport: asyncio.Transport, name: str, login: Login, *, own: bool
    ) -> None:
        # for ever
        self.console = console
        self.transport = transport
        self.name = name
        self.database = login.database
        self.user = login.user
        self.application_name = login.parameters.get("application_name", "")
        self.own = own  # the system's user who runs the pooler
        service = console.service
        self.ident = service.router.ident()
        self.opened_at = service.now()
        self.pid, self.secret = service.router.keys.issue(self, 0)
        # now
        self.in_transaction = False
        self._names = _Names()
        self._skipping = False  # to the next Sync, after an error
        self._received = bytearray()
        self._messages: deque[tuple[int, bytes]] = deque()
        self._came = asyncio.Event()
        self._paused = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._out: list[bytes] = []
        self._out_size = 0
        self._running: asyncio.Task[Answer] | None = None  # a command
        self._over = False
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def __repr__(self) -> str:
        """Show id, user and peer."""
        return f"<Session {self.ident} {self.user}@{self.database} {self.name}>"

    def greet(self, said: bytes) -> None:
        """Complete the login, whose last words are still to be sent."""
        superuser = "on" if self.console.may_change(self) else "off"
        parameters = {**_PARAMETERS, "is_superuser": superuser}
        self._send(said + build.AUTHENTICATION_OK)
        for name, value in parameters.items():
            self._send(build.parameter_status(name, value))
        self._send(build.backend_key_data(self.pid, self.secret))
        self._send(build.READY)
        self._write()

    # -- asyncio

    def data_received(self, data: bytes) -> None:
        """Cut what came into messages."""
        received = self._received
        received += data
        at = 0
        while len(received) - at >= codes.HEADER:
            size = int.from_bytes(received[at + 1 : at + 5], "big") + 1
            if not codes.HEADER <= size <= MESSAGE_LIMIT:
                self._received.clear()
                self.fail(PoolerError(codes.PROTOCOL_VIOLATION, "invalid length of message"))
                return
            if len(received) - at < size:
                break
            self._messages.append((received[at], bytes(received[at + codes.HEADER : at + size])))
            at += size
        del received[:at]
        if self._messages:
            self._came.set()
        if len(self._messages) > AHEAD_LIMIT and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        """The client does not take its answer."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It does again."""
        self._writable.set()

    def eof_received(self) -> bool:
        """Close."""
        return False

    def connection_lost(self, error: BaseException | None) -> None:
        """Take back a command under way: nobody will hear that it is done."""
        self.end()

    # -- for the service

    def cancel(self) -> None:
        """Cancel the command under way, if any."""
        if self._running is not None:
            self._running.cancel()

    def fail(self, error: PoolerError) -> None:
        """Say why, and close."""
        if not self._over:
            self.transport.write(error.response("FATAL"))
            self.transport.close()
            self.end()

    def end(self) -> None:
        """Stop."""
        if self._over:
            return
        self._over = True
        self.cancel()
        self._task.cancel()
        self.console.sessions.pop(self, None)
        self.console.service.router.keys.forget(self.pid)

    # -- answers

    def _send(self, data: bytes) -> None:
        self._out.append(data)
        self._out_size += len(data)

    def _write(self) -> None:
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._out_size = 0
            if not self.transport.is_closing():
                self.transport.write(data)

    async def _flush(self) -> None:
        """Write, and wait until the client has taken most of it."""
        self._write()
        try:
            async with asyncio.timeout(SLOW):
                await self._writable.wait()
        except TimeoutError:
            self.transport.abort()
            raise

    def _ready(self) -> None:
        status = codes.IN_TRANSACTION if self.in_transaction else codes.IDLE
        self._send(build.ready_for_query(status))

    def _tell(self, text: str, detail: str) -> None:
        """Send a notice at once."""
        self._send(build.notice(codes.SUCCESSFUL_COMPLETION, text, detail))
        self._write()

    # -- messages

    async def _serve(self) -> None:
        try:
            while not self._over:
                while not self._messages:
                    self._came.clear()
                    await self._came.wait()
                kind, body = self._messages.popleft()
                if self._paused and len(self._messages) <= AHEAD_LIMIT // 2:
                    self._paused = False
                    self.transport.resume_reading()
                if kind == codes.TERMINATE:
                    self.transport.close()
                    self.end()
                    return
                await self._handle(kind, body)
                if self._out_size >= PIECE or not self._messages:
                    await self._flush()
        except TimeoutError:
            self.end()
        except Exception as error:  # ours: the session ends, the pooler goes on
            self.console.service.bug(self, error)
            self.fail(PoolerError(codes.INTERNAL_ERROR, CloseReason.BUG.value))

    async def _handle(self, kind: int, body: bytes) -> None:
        if kind == codes.SYNC:
            self._skipping = False
            if not self.in_transaction:
                self._names.portals.clear()
            self._ready()
            return
        if self._skipping or kind in (codes.COPY_DATA, codes.COPY_DONE, codes.COPY_FAIL):
            return
        try:
            if kind == codes.QUERY:
                await self._query(parse.query(body))
            elif kind == codes.PARSE:
                self._parse(parse.parse(body))
            elif kind == codes.BIND:
                self._bind(parse.bind(body))
            elif kind == codes.DESCRIBE:
                self._describe(*parse.named(body))
            elif kind == codes.EXECUTE:
                await self._execute(*parse.execute(body))
            elif kind == codes.CLOSE:
                self._close(*parse.named(body))
            elif kind != codes.FLUSH:
                raise CommandError(
                    codes.PROTOCOL_VIOLATION, f"invalid frontend message type {kind}"
                )
        except (PoolerError, Malformed) as error:
            if isinstance(error, Malformed):
                error = CommandError(codes.PROTOCOL_VIOLATION, str(error))
            self._send(error.response("ERROR"))
            if kind == codes.QUERY:
                self._ready()
            else:
                self._skipping = True

    async def _run(self, plan: Plan) -> Answer:
        """Run a command so that it can be cancelled while it waits."""
        self._write()
        self._running = asyncio.get_running_loop().create_task(self._tried(plan))
        try:
            return await self._running
        except asyncio.CancelledError:
            if self._over:
                raise
            raise CommandError(
                codes.QUERY_CANCELED, "canceling statement due to user request"
            ) from None
        finally:
            self._running = None

    async def _tried(self, plan: Plan) -> Answer:
        return await plan.run(self._tell)

    async def _query(self, sql: str) -> None:
        commands = language.commands(sql)
        if not commands:
            self._send(build.EMPTY_QUERY)
        for command in commands:
            if command.parameters:
                raise CommandError("42P02", "there is no parameter $1")
            plan = self.console.plan(self, command)
            answer = await self._run(plan)
            if plan.columns is not None:
                self._send(encode.description(plan.columns, ()))
                await self._rows(plan.columns, answer, 0, len(answer.rows or ()), ())
            self._send(build.command_complete(answer.tag))
        self._ready()

    async def _rows(
        self,
        columns: tuple[Column, ...],
        answer: Answer,
        start: int,
        end: int,
        formats: Sequence[int],
    ) -> None:
        each = encode.spread(formats, len(columns))
        for values in (answer.rows or [])[start:end]:
            self._send(encode.row(columns, values, each))
            if self._out_size >= PIECE:
                await self._flush()

    def _parse(self, message: parse.Parse) -> None:
        commands = language.commands(message.sql)
        if len(commands) > 1:
            raise CommandError(
                codes.SYNTAX_ERROR, "cannot insert multiple commands into a prepared statement"
            )
        command = commands[0] if commands else None
        count = command.parameters if command is not None else 0
        types = (*message.types, *[0] * count)[: max(count, len(message.types))]
        plan = self.console.plan(self, command) if command is not None and not count else None
        statements = self._names.statements
        if len(statements) >= NAMES_LIMIT and message.name not in statements:
            raise CommandError(codes.PROGRAM_LIMIT_EXCEEDED, "too many prepared statements")
        statements[message.name] = _Statement(command, types, plan)
        self._send(build.PARSE_COMPLETE)

    def _statement(self, name: str) -> _Statement:
        statement = self._names.statements.get(name)
        if statement is None:
            raise CommandError(
                codes.UNDEFINED_STATEMENT, f'prepared statement "{name}" does not exist'
            )
        return statement

    def _portal(self, name: str) -> _Portal:
        portal = self._names.portals.get(name)
        if portal is None:
            raise CommandError(codes.INVALID_CURSOR_NAME, f'portal "{name}" does not exist')
        return portal

    def _bind(self, message: parse.Bind) -> None:
        statement = self._statement(message.statement)
        if len(message.values) != len(statement.types):
            raise CommandError(
                codes.PROTOCOL_VIOLATION,
                f"bind message supplies {len(message.values)} parameters, but prepared statement"
                f' "{message.statement}" requires {len(statement.types)}',
            )
        plan = statement.plan
        if plan is None and statement.command is not None:
            formats = encode.spread(message.formats, len(message.values))
            values = [
                _argument(value, form, kind)
                for value, form, kind in zip(message.values, formats, statement.types, strict=True)
            ]
            plan = self.console.plan(self, statement.command.bound(values))
        columns = plan.columns if plan is not None else None
        if len(message.result_formats) not in (0, 1, len(columns or ())):
            raise CommandError(codes.PROTOCOL_VIOLATION, "wrong number of result formats")
        if any(form not in (encode.TEXT, encode.BINARY) for form in message.result_formats):
            raise CommandError(codes.INVALID_PARAMETER, "unsupported format code")
        portals = self._names.portals
        if len(portals) >= NAMES_LIMIT and message.portal not in portals:
            raise CommandError(codes.PROGRAM_LIMIT_EXCEEDED, "too many portals")
        portals[message.portal] = _Portal(plan, message.result_formats)
        self._send(build.BIND_COMPLETE)

    def _describe(self, kind: str, name: str) -> None:
        formats: Sequence[int] = ()
        if kind == "S":
            statement = self._statement(name)
            self._send(build.parameter_description(statement.types))
            plan = statement.plan
        else:
            portal = self._portal(name)
            plan, formats = portal.plan, portal.formats
        if plan is None or plan.columns is None:
            self._send(build.NO_DATA)
        else:
            self._send(encode.description(plan.columns, formats))

    async def _execute(self, name: str, most: int) -> None:
        portal = self._portal(name)
        plan = portal.plan
        if plan is None:
            self._send(build.EMPTY_QUERY)
            return
        if portal.answer is None:
            portal.answer = await self._run(plan)
        answer = portal.answer
        count = len(answer.rows or ())
        if plan.columns is not None:
            end = min(count, portal.sent + most) if most else count
            await self._rows(plan.columns, answer, portal.sent, end, portal.formats)
            portal.sent = end
            if most and end < count:
                self._send(build.PORTAL_SUSPENDED)
                return
        self._send(build.command_complete(answer.tag))

    def _close(self, kind: str, name: str) -> None:
        names = self._names.statements if kind == "S" else self._names.portals
        names.pop(name, None)
        self._send(build.CLOSE_COMPLETE)


def _argument(value: bytes | None, form: int, kind: int) -> str:
    """Return a parameter as text; CommandError: it is of a type that no command takes."""
    if value is None:
        raise CommandError(codes.INVALID_PARAMETER, "a parameter of a command cannot be NULL")
    if form == encode.BINARY and kind in _BINARY_INTEGERS:
        layout = _BINARY_INTEGERS[kind]
        if len(value) == struct.calcsize(layout):
            return str(struct.unpack(layout, value)[0])
        raise CommandError("22P03", "incorrect binary data format in a parameter")
    if form == encode.BINARY and kind not in _TEXTS:
        raise CommandError(
            codes.FEATURE_NOT_SUPPORTED, f"a parameter of type {kind} has to be sent as text"
        )
    return parse.text(value)

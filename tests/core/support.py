"""A whole core driven in memory: clock, network, clients and PostgreSQL are fakes, one thread.

`World` is the core's `Edge`. It carries bytes between `App`s (clients), the core and `Session`s
(backends of a scripted PostgreSQL), runs until nothing moves, and then checks what must always be
true. Transports raise on misuse: writing after close, resuming what is not paused.
"""

import random
import re
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

from pooler.core import overdue
from pooler.core.cancel import cancel_over
from pooler.core.client import Client
from pooler.core.edge import Edge
from pooler.core.errors import CloseReason, ServerFault, ServerRefused
from pooler.core.limits import ServerGauge
from pooler.core.pins import Pin
from pooler.core.policy import Policies
from pooler.core.pool import Pool, is_waiting
from pooler.core.routes import Router
from pooler.core.server import Server
from pooler.core.settings import Host, PoolMode, PoolSettings, Route, SessionSettings, Target
from pooler.core.states import ClientState, ServerState, State
from pooler.wire import build, codes, parse

HOST: Final = Host("db1", 5432)
TICK: Final = 0.1
STATEMENT: Final = PoolMode.STATEMENT
SESSION: Final = PoolMode.SESSION

T = TypeVar("T")


class Misuse(AssertionError):
    """A transport was used as none may be."""


class Protocolish(Protocol):
    """What a transport calls."""

    def data_received(self, data: bytes) -> None:
        """Bytes came."""

    def eof_received(self) -> bool:
        """No more will come."""

    def connection_lost(self, error: BaseException | None) -> None:
        """The connection has ended."""


class Remote(Protocol):
    """The other end of a transport."""

    def receive(self, data: bytes) -> None:
        """Bytes came from the pooler."""

    def receive_eof(self) -> None:
        """The pooler sends no more."""


class FakeTransport:
    """The pooler's end of a connection."""

    def __init__(self, world: "World", remote: Remote) -> None:
        self.world = world
        self.remote = remote
        self.protocol: Protocolish | None = None
        self.reading = True
        self.closing = False
        self.lost = False
        self.eof_written = False
        self.incoming: deque[bytes | None] = deque()  # None: the end

    # -- what the core calls

    def write(self, data: bytes) -> None:
        """Carry bytes to the other end."""
        if self.closing or self.eof_written:
            raise Misuse(f"write after close: {data!r}")
        if not isinstance(data, bytes):
            raise Misuse(f"not bytes: {data!r}")
        self.world.soon(lambda: self.remote.receive(data))

    def write_eof(self) -> None:
        """Carry the end to the other end."""
        if self.closing or self.eof_written:
            raise Misuse("write_eof after close")
        self.eof_written = True
        self.world.soon(self.remote.receive_eof)

    def close(self) -> None:
        """Close once everything written is sent."""
        if self.closing and not self.lost:
            raise Misuse("closed twice")
        self.abort()

    def abort(self) -> None:
        """Close at once; may be repeated, as asyncio's."""
        if not self.closing:
            self.closing = True
            self.world.soon(self.lose)

    def pause_reading(self) -> None:
        """Deliver nothing more."""
        if not self.reading or self.closing:
            raise Misuse("paused twice, or after close")
        self.reading = False

    def resume_reading(self) -> None:
        """Deliver again."""
        if self.reading or self.closing:
            raise Misuse("resumed without a pause, or after close")
        self.reading = True
        self.world.soon(self.pump)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Nothing is known."""
        return default

    def is_closing(self) -> bool:
        """Return whether it is closed or on the way."""
        return self.closing

    # -- what the world does

    def deliver(self, data: bytes) -> None:
        """Bytes come from the other end."""
        size = self.world.chunk or len(data)
        for at in range(0, len(data), max(size, 1)):
            self.incoming.append(data[at : at + size])
        self.world.soon(self.pump)

    def deliver_eof(self) -> None:
        """The other end has closed."""
        self.incoming.append(None)
        self.world.soon(self.pump)

    def pump(self) -> None:
        """Hand over what has come, as long as somebody reads."""
        protocol = self.protocol
        while self.incoming and self.reading and not self.closing and protocol is not None:
            data = self.incoming.popleft()
            if data is not None:
                protocol.data_received(data)
            else:
                keep = protocol.eof_received()
                assert not keep
                self.abort()

    def lose(self, error: BaseException | None = None) -> None:
        """Be cut off, or finish closing."""
        if not self.lost:
            self.lost = self.closing = True
            if self.protocol is not None:
                self.protocol.connection_lost(error)
            self.remote.receive_eof()


def messages(buffer: bytearray) -> Iterable[tuple[int, bytes]]:
    """Take the complete messages off a buffer."""
    while len(buffer) >= codes.HEADER:
        (size,) = struct.unpack_from("!I", buffer, 1)
        if len(buffer) < 1 + size:
            return
        kind, body = buffer[0], bytes(buffer[codes.HEADER : 1 + size])
        del buffer[: 1 + size]
        yield kind, body


# -- what clients send


def query(sql: str) -> bytes:
    """Return a Query."""
    return build.query(sql)


def bind_execute(sql: str) -> bytes:
    """Return Parse, Bind, Describe, Execute of the unnamed statement, without a Sync."""
    return (
        build.message(codes.PARSE, b"\0" + build.cstring(sql) + b"\0\0")
        + build.message(codes.BIND, b"\0\0\0\0\0\0\0\0")
        + build.message(codes.DESCRIBE, b"P\0")
        + build.message(codes.EXECUTE, b"\0\0\0\0\0")
    )


def extended(sql: str) -> bytes:
    """Return a whole extended query."""
    return bind_execute(sql) + build.SYNC


FLUSH: Final = build.message(codes.FLUSH, b"")
COPY_DONE: Final = build.message(codes.COPY_DONE, b"")


def copy_data(data: bytes) -> bytes:
    """Return a CopyData."""
    return build.message(codes.COPY_DATA, data)


# -- PostgreSQL


class Session:
    """One backend. Its SQL, statements separated by `;`:

    `select X` gives one row X; `begin`, `commit`, `rollback`; `error X` fails; `sleep X` answers
    as select once `finish` is called, unless it is cancelled; `copy in`, `copy out X`;
    `set NAME=VALUE`; `syntax` and `missing` fail when they are parsed, unless it was `created`;
    `shape` gives a row whose description changes with `World.shape`; `execute X` and `deallocate X`
    of a prepared statement; what the pooler itself asks: set_config, RESET, DISCARD ALL. A setting
    whose value is `impossible` fails.
    """

    def __init__(self, world: "World", pid: int, target: Target, host: Host) -> None:
        self.world = world
        self.pid = pid
        self.target = target
        self.host = host
        self.transport = FakeTransport(world, self)
        self.defaults = {**world.postgres_parameters, **dict(target.startup)}
        self.settings = dict(self.defaults)
        self.buffer = bytearray()
        self.log: list[str] = []  # each statement run
        self.parsed: list[str] = []  # each text prepared
        self.status = codes.IDLE
        self.statements: dict[bytes, tuple[str, int]] = {}  # text, and shape of the result
        self.portals: dict[bytes, str] = {}
        self.ran: set[bytes] = set()  # portals that have been run to their end
        self.pending: deque[str] = deque()  # statements of the simple query being run
        self.simple = False
        self.sleeping: str | None = None
        self.copying = False
        self.copied: list[bytes] = []
        self.skipping = False
        self.unsynced = False  # an extended query has begun and no Sync has come
        self.frozen = False
        self.locked = False  # holds an advisory lock
        self.silent = False  # fails at the question what its session holds
        self.eof = False
        self.gone = False

    def __repr__(self) -> str:
        return f"<Session {self.pid} {chr(self.status)} sleeping={self.sleeping}>"

    @property
    def at_rest(self) -> bool:
        """Whether it waits for a new command, outside of any transaction."""
        return self.settled and self.status == codes.IDLE

    @property
    def settled(self) -> bool:
        """Whether it waits for a new command."""
        busy = self.pending or self.simple or self.copying or self.skipping or self.unsynced
        return self.sleeping is None and not (busy or self.buffer)

    # -- bytes

    def receive(self, data: bytes) -> None:
        """Bytes came from the pooler."""
        self.buffer += data
        self.work()

    def receive_eof(self) -> None:
        """The pooler sends no more."""
        self.eof = True
        self.work()

    def say(self, data: bytes) -> None:
        """Send bytes to the pooler."""
        if not self.gone:
            self.transport.deliver(data)

    def work(self) -> None:
        """Read on, as far as possible."""
        while not (self.frozen or self.gone) and self.sleeping is None:
            if self.pending and not self.copying:
                self._statement()
            elif self.simple and not self.copying:
                self.simple = False
                self._ready()
            else:
                message = next(iter(messages(self.buffer)), None)
                if message is None:
                    break
                self._message(*message)
        if self.eof and self.sleeping is None and not self.frozen:
            self.end()

    def end(self) -> None:
        """End the session."""
        if not self.gone:
            self.gone = True
            self.world.sessions.remove(self)
            self.transport.deliver_eof()

    def kill(self) -> None:
        """Die without a word."""
        if not self.gone:
            self.gone = True
            self.world.sessions.remove(self)
            self.transport.lose(ConnectionResetError())

    def terminate(self, sqlstate: str = codes.ADMIN_SHUTDOWN) -> None:
        """Say why, and end the session, as pg_terminate_backend does."""
        self.say(build.error("FATAL", sqlstate, "terminating connection"))
        self.end()

    # -- commands

    def _message(self, kind: int, body: bytes) -> None:
        if self.copying:
            if kind == codes.COPY_DATA:
                self.copied.append(body)
            elif kind == codes.COPY_DONE:
                self.copying = False
                self.say(build.message(codes.COMMAND_COMPLETE, b"COPY\0"))
            elif kind == codes.COPY_FAIL:
                self._fail(codes.QUERY_CANCELED, "COPY from stdin failed")
            elif kind not in (codes.FLUSH, codes.SYNC):
                self.terminate(codes.PROTOCOL_VIOLATION)
            return
        if kind == codes.SYNC:
            self.skipping = False
            self._ready()
        elif kind == codes.TERMINATE:
            self.end()
        elif self.skipping or kind in (codes.COPY_DATA, codes.COPY_DONE, codes.COPY_FAIL):
            pass
        elif kind == codes.QUERY:
            self.simple = True
            self.unsynced = False
            self.statements.pop(b"", None)
            sql = parse.text(body[:-1])
            # The pooler's own settings travel as one query, all or nothing.
            ours = "set_config" in sql or "pg_catalog" in sql
            self.pending = deque([sql] if ours else sql.split(";"))
        else:
            self._extended(kind, body)

    def _extended(self, kind: int, body: bytes) -> None:
        self.unsynced = self.unsynced or kind != codes.FLUSH
        first, _, rest = body.partition(b"\0")
        if kind == codes.PARSE:
            self._parse(first, rest.partition(b"\0")[0].decode())
        elif kind == codes.BIND:
            self._bind(first, rest.partition(b"\0")[0])
        elif kind == codes.DESCRIBE:
            self._describe(first[:1], first[1:])
        elif kind == codes.EXECUTE:
            if first in self.portals:
                self._execute(first)
            else:
                self._fail("34000", f'portal "{first.decode()}" does not exist')
        elif kind == codes.CLOSE:
            closed = self.statements if first[:1] == b"S" else self.portals
            closed.pop(first[1:], None)
            self.say(build.message(codes.CLOSE_COMPLETE, b""))

    def _aborted(self, sql: str) -> bool:
        if self.status != codes.FAILED_TRANSACTION or sql.split()[:1] in (["rollback"], ["commit"]):
            return False
        self._fail("25P02", "current transaction is aborted")
        return True

    def _parse(self, name: bytes, sql: str) -> None:
        if not name:
            self.statements.pop(b"", None)
        if sql.startswith("syntax"):
            self._fail("42601", f"syntax error in {sql}")
        elif "pg_node_tree" in sql:  # PostgreSQL fails while it parses
            self._run(sql)
        elif sql and self._aborted(sql):
            pass
        elif sql.startswith("missing") and sql not in self.world.created:
            self._fail("42P01", f"{sql} does not exist")
        elif name in self.statements:
            self._fail("42P05", f'prepared statement "{name.decode()}" already exists')
        else:
            self.statements[name] = sql, self.world.shape
            self.parsed.append(sql)
            self.say(build.message(codes.PARSE_COMPLETE, b""))

    def _bind(self, portal: bytes, name: bytes) -> None:
        if not self._find(name):
            return
        sql, shape = self.statements[name]
        if self._aborted(sql):
            pass
        elif shape != self.world.shape and sql.startswith("shape"):
            self._fail("0A000", "the shape has changed", R="RevalidateCachedQuery")
        elif portal and portal in self.portals:
            self._fail("42P03", f'cursor "{portal.decode()}" already exists')
        else:
            self.portals[portal] = sql
            self.ran.discard(portal)
            self.say(build.message(codes.BIND_COMPLETE, b""))

    def _execute(self, portal: bytes) -> None:
        """Run a portal; once it has run, a query has no more rows, and no other can be run."""
        sql = self.portals[portal]
        if portal not in self.ran or not sql or self.status == codes.FAILED_TRANSACTION:
            self.ran.add(portal)
            self._run(sql)
        elif sql.startswith(("select", "shape", "sleep")):
            self._done("select")
        else:
            self._fail("55000", f'portal "{portal.decode()}" cannot be run')

    def _find(self, name: bytes) -> bool:
        if name not in self.statements:
            which = f'prepared statement "{name.decode()}"' if name else "unnamed statement"
            self._fail("26000", f"{which} does not exist")
            return False
        return True

    def _describe(self, kind: bytes, name: bytes) -> None:
        if kind == b"S":
            if not self._find(name):
                return
            sql, shape = self.statements[name]
            if self._aborted(sql):
                return
            if sql.startswith("shape") and shape != self.world.shape:
                self._fail("0A000", "the shape has changed", R="RevalidateCachedQuery")
                return
            self.say(build.message(codes.PARAMETER_DESCRIPTION, b"\0\0"))
        elif name not in self.portals:
            self._fail("34000", f'portal "{name.decode()}" does not exist')
            return
        else:
            sql = self.portals[name]
        if sql.startswith("shape"):
            column = b"shape%d\0" % self.world.shape + bytes(18)
            self.say(build.message(codes.ROW_DESCRIPTION, b"\0\1" + column))
        else:
            self.say(build.message(codes.NO_DATA, b""))

    def _ready(self) -> None:
        self.unsynced = False
        if self.status == codes.IDLE:
            self.portals.clear()
        self.say(build.ready_for_query(self.status))

    def _fail(self, sqlstate: str, text: str, **more: str) -> None:
        error = build.error("ERROR", sqlstate, text)[codes.HEADER : -1]
        error += b"".join(build.cstring(name + field) for name, field in more.items())
        self.say(build.message(codes.ERROR_RESPONSE, error + b"\0"))
        self.copying = False
        self.pending.clear()
        self.skipping = not self.simple
        if self.status == codes.IN_TRANSACTION:
            self.status = codes.FAILED_TRANSACTION

    def _statement(self) -> None:
        self._run(self.pending.popleft())

    def _run(self, sql: str) -> None:
        self.log.append(sql)
        word, _, rest = sql.strip().partition(" ")
        word = word.lower()
        if "pg_node_tree" in sql:
            position = str(sql.index("'") + 1)
            self._fail("0A000", "cannot accept it", R="pg_node_tree_in", P=position)
        elif self.status == codes.FAILED_TRANSACTION and word not in ("rollback", "commit"):
            self._fail("25P02", "current transaction is aborted")
        elif sql.startswith("(SELECT '"):
            self._tell_truth(sql)
        elif "lock_timeout" in sql:
            self._done("select")
        elif "FROM pg_proc" in sql:
            self._tell_functions()
        elif "set_config" in sql or word == "reset":
            self._set_config(sql)
        elif word == "":
            self.say(build.message(codes.EMPTY_QUERY_RESPONSE, b""))
        elif word == "select":
            if rest in ("pg_advisory_lock", "pg_advisory_unlock"):
                self.locked = rest == "pg_advisory_lock"
            self._row(rest)
        elif word == "shape":
            self._row(str(self.world.shape))
        elif word == "execute":
            rest = rest.strip('"')
            if self._find(rest.encode()):
                self._run(self.statements[rest.encode()][0])
        elif word == "error":
            self._fail("22012", rest)
        elif word == "sleep":
            self.sleeping = rest
        elif word == "copy":
            self._copy(rest)
        else:
            if word == "begin":
                self.status = codes.IN_TRANSACTION
            elif word in ("commit", "rollback"):
                self.status = codes.IDLE
                self.portals.clear()
            elif word in ("deallocate", "discard") and not self._deallocate(rest):
                return
            elif word == "set":
                name, _, value = rest.partition("=")
                self._set(name, value)
            elif word == "discard":
                for name, value in self.defaults.items():
                    self._set(name, value)
                self.settings = dict(self.defaults)
                self.locked = False
            everything = word in ("deallocate", "discard") and rest.lower() == "all"
            self._done(f"{word} all" if everything else word)

    def _deallocate(self, name: str) -> bool:
        name = name.strip('"')
        if name.lower() == "all":
            self.statements = {b"": self.statements[b""]} if b"" in self.statements else {}
            return True
        if not self._find(name.encode()):
            return False
        del self.statements[name.encode()]
        return True

    def _done(self, word: str) -> None:
        self.say(build.message(codes.COMMAND_COMPLETE, build.cstring(word.upper())))

    def _row(self, text: str) -> None:
        if self.simple:
            self.say(build.message(codes.ROW_DESCRIPTION, b"\0\0"))
        raw = text.encode()
        body = struct.pack("!HI", 1, len(raw)) + raw
        self.say(build.message(codes.DATA_ROW, body))
        self._done("select")

    def _tell_truth(self, question: str) -> None:
        """Answer the pooler's question about what was left in this session."""
        if self.silent:
            self._fail(codes.QUERY_CANCELED, "canceling statement due to statement timeout")
            return
        if "SELECT 's'" in question:
            for name, value in self.settings.items():
                if value != self.defaults.get(name, ""):
                    self._tell("s", name.lower(), value)
        if "SELECT 'l'" in question and self.locked:
            self._tell("l", "", "")
        self._done("select")

    def _tell_functions(self) -> None:
        """Answer a scan of the catalog: with the next of the world's rounds."""
        rounds = self.world.catalog
        if self.world.slow_catalog:
            self.sleeping = "catalog"
            return
        for columns in rounds.pop(0) if rounds else []:
            body = struct.pack("!H", len(columns))
            body += b"".join(struct.pack("!I", len(column)) + column for column in columns)
            self.say(build.message(codes.DATA_ROW, body))
        self._done("select")

    def _tell(self, kind: str, *texts: str) -> None:
        columns = [kind.encode(), *(text.encode().hex().encode() for text in texts)]
        body = struct.pack("!H", len(columns))
        body += b"".join(struct.pack("!I", len(column)) + column for column in columns)
        self.say(build.message(codes.DATA_ROW, body))

    def _copy(self, rest: str) -> None:
        if rest.startswith("in"):
            self.copying = True
            self.say(build.message(codes.COPY_IN_RESPONSE, b"\0\0\0"))
        else:
            self.say(build.message(codes.COPY_OUT_RESPONSE, b"\0\0\0"))
            self.say(copy_data(rest.partition(" ")[2].encode()) + COPY_DONE)
            self._done("copy")

    def _set(self, name: str, value: str) -> None:
        before = self.settings.get(name)
        self.settings[name] = value
        if name in self.world.postgres_parameters and before != value:
            self.say(build.parameter_status(name, value))

    def _set_config(self, sql: str) -> None:
        changes: list[tuple[str, str]] = []
        for part in sql.split(";"):
            reset = re.fullmatch(r"RESET (.*)", part)
            if reset:
                name = reset[1].replace('"', "")
                changes.append((name, self.defaults.get(name, "")))
                continue
            found = re.fullmatch(
                r"SELECT pg_catalog\.set_config\('([^']*)',(?:'([^']*)'|"
                r"pg_catalog\.convert_from\(pg_catalog\.decode\('([0-9a-f]*)','hex'\),'UTF8'\))"
                r",false\)",
                part,
            )
            assert found, part
            value = found[2] if found[2] is not None else parse.text(bytes.fromhex(found[3]))
            if value == "impossible":
                self._fail("22023", f"invalid value for parameter {found[1]}")
                return
            changes.append((found[1], value))
        for name, value in changes:
            spelled = {known.lower(): known for known in self.world.postgres_parameters}
            self._set(spelled.get(name, name), value)
            self._done("select")

    # -- what a test does

    def finish(self) -> None:
        """Let `sleep` end."""
        assert self.sleeping is not None
        rest, self.sleeping = self.sleeping, None
        self._row(rest)
        self.work()

    def thaw(self) -> None:
        """Go on reading."""
        self.frozen = False
        self.work()

    def cancel(self) -> None:
        """The signal of a CancelRequest has come."""
        if self.gone or self.frozen:
            return
        if self.sleeping is not None or self.copying:
            self.sleeping = None
            self._fail(codes.QUERY_CANCELED, "canceling statement due to user request")
            self.work()


# -- clients


class App:
    """A client application."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.transport = FakeTransport(world, self)
        self.buffer = bytearray()
        self.inbox: list[str] = []
        self.closed = False
        self.raw = bytearray()
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The core's side of it."""
        assert self._client is not None
        return self._client

    def log_in(self, database: str, user: str, parameters: Mapping[str, str], minor: int) -> None:
        """Do what the greeter does once somebody has proven who they are; PoolerError."""
        router = self.world.router
        client = router.admit(self.transport, "app", database, user, parameters, minor)
        self._client = client
        self.transport.protocol = client
        client.pool.enter(client)

    def receive(self, data: bytes) -> None:
        """Bytes came from the pooler."""
        assert not self.closed
        self.raw += data
        self.buffer += data
        for kind, body in messages(self.buffer):
            self.inbox.append(_words(kind, body))

    def receive_eof(self) -> None:
        """The pooler has closed."""
        if not self.closed:
            self.closed = True
            self.inbox.append("closed")

    def send(self, data: bytes) -> "App":
        """Send bytes, and let the world run."""
        self.transport.deliver(data)
        self.world.run()
        return self

    def said(self) -> str:
        """Take the pooler's words since the last call."""
        words, self.inbox = self.inbox, []
        return ", ".join(word for word in words if word)

    def ask(self, sql: str) -> str:
        """Send a simple query; return the answer."""
        return self.send(query(sql)).said()

    def bye(self) -> None:
        """Say Terminate."""
        self.send(build.TERMINATE)

    def vanish(self) -> None:
        """Be cut off."""
        self.transport.lose(ConnectionResetError())
        self.world.run()

    def cancel(self) -> None:
        """Send a cancel request with the key it was told."""
        holder = self.world.router.keys.find(self.client.pid, self.client.secret)
        if holder is not None:
            holder.cancel()
        self.world.run()

    @property
    def session(self) -> Session:
        """The backend that serves it."""
        server = self.client.server
        assert server is not None
        return self.world.session(server)


def _words(kind: int, body: bytes) -> str:
    """Put a message in words; "" for those that are of no interest to tests."""
    if kind in (codes.ERROR_RESPONSE, codes.NOTICE_RESPONSE):
        fields = parse.report(body)
        return f"{fields['S']} {fields['C']}"
    if kind == codes.DATA_ROW:
        return f"row {body[6:].decode()}"
    if kind == codes.READY_FOR_QUERY:
        return "ready" if body == b"I" else f"ready {body.decode()}"
    if kind == codes.COPY_DATA:
        return f"data {body.decode()}"
    if kind == codes.PARAMETER_STATUS:
        return "{}={}".format(*parse.parameter_status(body))
    return {
        codes.COPY_IN_RESPONSE: "copy in",
        codes.COPY_OUT_RESPONSE: "copy out",
        codes.EMPTY_QUERY_RESPONSE: "empty",
        codes.NOTIFICATION_RESPONSE: "notification",
    }.get(kind, "")


# -- the world


class World(Edge):
    """Clock, network, PostgreSQL and configuration of one router."""

    def __init__(
        self,
        *,
        max_clients: int = 0,
        max_servers: int = 0,
        hosts: tuple[Host, ...] = (HOST,),
        mode: PoolMode = PoolMode.TRANSACTION,
        seed: int = 1,
        **pool: Any,
    ) -> None:
        self.clock = 1000.0
        self._random = random.Random(seed)
        self._ready: deque[Callable[[], None]] = deque()
        self._ticks = 0
        self.catalog: list[list[list[bytes]]] = []  # rounds of rows that scans are told
        self.slow_catalog = False
        self.shape = 0  # of what "shape" returns: a table, whose columns change
        self.created: set[str] = set()  # "missing" tables that are not
        self.careful = True  # check after each run
        self.chunk = 0  # bytes at a time, 0: as they were written
        # what tests look at
        self.events: list[str] = []
        self.bugs: list[BaseException] = []
        self.cancels: list[Server] = []
        # the edge
        self._asked: dict[Pool, None] = {}
        self.dials: deque[tuple[Pool, Host, int, Target]] = deque()  # while `hold_dials`
        self.hold_dials = False
        self.hold_cancels = False
        self.held_cancels: deque[Server] = deque()
        self.attempts: list[tuple[float, Host]] = []
        # PostgreSQL
        self.sessions: list[Session] = []
        self.opened: list[Session] = []
        self.refusals: dict[Host, ServerFault] = {}
        self.postgres_parameters = {
            "server_version": "17.0",
            "client_encoding": "UTF8",
            "application_name": "",
            "TimeZone": "UTC",
        }
        self._pids = 0
        # configuration
        self.target = Target(hosts, "postgres", "")
        state = Policies(catalog_interval=0.0)
        self.pool_settings = PoolSettings(
            **{"pool_size": 2, "server_check_query": "", "session_state": state, **pool}
        )
        self.session_settings = SessionSettings(pool_mode=mode)
        self.per_database: dict[str, dict[str, Any]] = {}  # PoolSettings; `user`: of the server
        self.removed: set[str] = set()
        self.max_clients = max_clients
        self.max_servers = max_servers
        self._bounds: dict[object, int] = {}
        self.router = Router(self, self._random.randbytes)
        self.configure()

    # -- configuration

    def resolve(self, database: str, user: str) -> Route | None:
        """Return the route of a client."""
        if database in self.removed:
            return None
        own = dict(self.per_database.get(database, {}))
        server_user = own.pop("user", user)
        target = replace(self.target, dbname=database, user=server_user)
        pool = replace(self.pool_settings, **own)
        return Route(database, user, target, pool, self.session_settings)

    def configure(self, **changes: Any) -> None:
        """Change settings, of pools or sessions, or anything of the configuration; reload."""
        for name, value in changes.items():
            if name in PoolSettings.__dataclass_fields__:
                self.pool_settings = replace(self.pool_settings, **{name: value})
            elif name in SessionSettings.__dataclass_fields__:
                self.session_settings = replace(self.session_settings, **{name: value})
            else:
                assert hasattr(self, name)
                setattr(self, name, value)
        self.router.configure(self.resolve, self.max_clients, self.max_servers)
        self.run()

    # -- the edge

    def now(self) -> float:
        """Return the virtual time."""
        return self.clock

    def random(self) -> float:
        """Return a random number, the same in each run."""
        return self._random.random()

    def wake(self, pool: Pool) -> None:
        """Dial soon."""
        if pool not in self._asked:
            self._asked[pool] = None
            self.soon(lambda: self._dial(pool))

    def _dial(self, pool: Pool) -> None:
        del self._asked[pool]
        while (host := pool.supply.dial()) is not None:
            self.attempts.append((self.clock, host))
            dial = (pool, host, pool.generation, pool.target)
            if self.hold_dials:
                self.dials.append(dial)
            else:
                self.soon(lambda dial=dial: self.connect(*dial))  # type: ignore[misc]

    def connect(self, pool: Pool, host: Host, generation: int, target: Target) -> None:
        """Let a dial end as PostgreSQL would have it."""
        error = self.refusals.get(host)
        if error is not None:
            pool.supply.failed(host, error)
            return
        self._pids += 1
        session = Session(self, self._pids, target, host)
        self.sessions.append(session)
        self.opened.append(session)
        server = Server(
            session.transport,
            pool,
            self._pids,
            host,
            self._pids,
            b"key",
            {name: session.settings[name] for name in self.postgres_parameters},
            generation,
            self.clock,
            1.0 - 0.1 * self.random(),
        )
        session.transport.protocol = server
        pool.supply.connected(server)

    def cancel(self, server: Server) -> None:
        """Deliver a cancel."""
        self.cancels.append(server)
        if self.hold_cancels:
            self.held_cancels.append(server)
        else:
            self.soon(lambda: self.deliver_cancel(server))

    def deliver_cancel(self, server: Server, *, delivered: bool = True) -> None:
        """Let a cancel come to its end."""
        if delivered:
            self.session(server).cancel()
        cancel_over(server, delivered=delivered)

    def schema_changed(self, database: str, words: frozenset[bytes]) -> None:
        """Tell the router."""
        self.router.schema_changed(database, words)

    def migrated(
        self, server: Server, command: str, outline: str, seconds: float, waited: float
    ) -> None:
        """Note it."""
        self.events.append(f"{command}: {outline}")

    def migration_failed(
        self, server: Server, sqlstate: str, outline: str, seconds: float, waited: float
    ) -> None:
        """Note it."""
        self.events.append(f"failed with {sqlstate}: {outline}")

    def functions_changed(self, database: str) -> None:
        """Tell the router."""
        self.router.functions_changed(database)

    def client_pinned(self, pin: Pin) -> None:
        """Note it."""
        self.events.append(f"pinned {pin}")

    def client_unpinned(self, pin: Pin, seconds: float) -> None:
        """Note it."""
        self.events.append(f"unpinned {pin}, {seconds:.1f} s")

    def leaked(self, server: Server, names: tuple[str, ...]) -> None:
        """Note it."""
        self.events.append(f"leaked {', '.join(names)}")

    def catalog_failed(self, pool: Pool, text: str) -> None:
        """Note it."""
        self.events.append(f"catalog failed: {text}")

    def client_opened(self, client: Client) -> None:
        """Note it."""
        self.events.append(f"client opened {client.user}")

    def client_closed(self, client: Client, reason: CloseReason, text: str) -> None:
        """Note it."""
        self.events.append(f"client closed: {reason.value}")

    def server_opened(self, server: Server) -> None:
        """Note it."""
        self.events.append("server opened")

    def server_closed(self, server: Server, reason: CloseReason, text: str) -> None:
        """Note it."""
        self.events.append(f"server closed: {reason.value}")

    def connect_failed(self, pool: Pool, host: str, error: ServerFault) -> None:
        """Note it."""
        self.events.append(f"connect failed: {error.sqlstate}")

    def bug(self, where: object, error: BaseException) -> None:
        """No test may get here."""
        self.bugs.append(error)
        raise error

    # -- time

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back in the next turn of the loop."""
        self._ready.append(callback)

    def run(self) -> None:
        """Run until nothing moves; check what must be true then."""
        for _ in range(1_000_000):
            if not self._ready:
                break
            self._ready.popleft()()
        else:
            raise AssertionError("it never ends")
        if self.careful:
            self.check()

    def tick(self) -> None:
        """Look at the time limits, as the edge does ten times a second."""
        self._ticks += 1
        for pool in list(self.router.pools.values()):
            overdue.enforce(pool)
            if self._ticks % 10 == 0:
                overdue.enforce_client_idle(pool)
        if self._ticks % 10 == 0:
            self.router.prune()
        self.run()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        end = self.clock + seconds
        while self.clock < end - 1e-9:
            self.clock = min(self.clock + TICK, end)
            self.tick()

    # -- for tests

    def app(
        self,
        database: str = "db",
        user: str = "alice",
        *,
        minor: int = 0,
        quiet: bool = True,
        **parameters: str,
    ) -> App:
        """Log a client in; `quiet` drops what it was told."""
        app = App(self)
        app.log_in(database, user, parameters, minor)
        self.run()
        if quiet:
            app.said()
        return app

    def apps(self, count: int, database: str = "db", user: str = "alice") -> list[App]:
        """Log several clients in."""
        return [self.app(database, user) for _ in range(count)]

    def pool(self, database: str = "db", user: str = "alice") -> Pool:
        """Return a pool that is there."""
        return self.router.pools[database, user, ""]

    def session(self, server: Server) -> Session:
        """Return the backend behind a server."""
        return self.opened[server.pid - 1]

    def refuse(
        self, sqlstate: str, *, host: Host = HOST, told: bool = True, lasting: bool = False
    ) -> None:
        """Have logins refused by PostgreSQL (`told`), by the network, or by us (`lasting`)."""
        fields = {"S": "FATAL", "C": sqlstate, "M": "no"}
        network = ServerFault(sqlstate, "no", lasting=lasting)
        self.refusals[host] = ServerRefused(fields) if told else network

    def happened(self, event: str) -> int:
        """Return how often an event was observed."""
        return self.events.count(event)

    # -- what must always be true

    def check(self) -> None:
        """Check every pool, gauge, server and client."""
        pools = list(self.router.pools.values())
        for pool in pools:
            self._check_pool(pool)
        gauges = {gauge: None for pool in pools for gauge in pool.gauges}
        for gauge in gauges:
            self._check_gauge(gauge)
        clients = sum(not client.internal for pool in pools for client in pool.clients)
        assert self.router.clients.count == clients, (self.router.clients, clients)

    def _check_gauge(self, gauge: ServerGauge) -> None:
        assert gauge.count == sum(pool.total for pool in gauge.pools), gauge
        assert gauge.leaving == sum(len(pool.leaving) for pool in gauge.pools), gauge
        if gauge.limit:
            self._bound(gauge, gauge.count, gauge.limit)
        else:
            self._bounds[gauge] = gauge.count

    def _bound(self, what: object, count: int, limit: int) -> None:
        """Hold `count` to a limit; above it, after the limit was lowered, it may only fall."""
        bound = max(limit, self._bounds.get(what, 0))
        assert count <= bound, (what, count, limit)
        self._bounds[what] = max(limit, count)

    def _check_pool(self, pool: Pool) -> None:
        groups: list[tuple[Iterable[Server], tuple[State, ...]]] = [
            (pool.idle, (ServerState.IDLE,)),
            (
                pool.working,
                (
                    ServerState.PREPARING,
                    ServerState.ACTIVE,
                    ServerState.ASKING,
                    ServerState.TIDYING,
                ),
            ),
            (pool.leaving, (ServerState.LEAVING,)),
        ]
        seen: set[Server] = set()
        for servers, states in groups:
            for server in servers:
                assert server not in seen, server
                seen.add(server)
                assert server.pool is pool, server
                assert server.state in states, server
                self._check_server(server)
        line = set(pool.waiting)
        for client in pool.clients:
            self._check_client(pool, client, client in line)
        waiting = [client for client in pool.waiting if client.state is not ClientState.CLOSED]
        assert len(set(waiting)) == len(waiting), waiting
        assert not (waiting and pool.idle), f"somebody waits while a server idles: {pool}"
        settings = pool.settings
        self._bound(pool, pool.total, settings.pool_size + settings.reserve_pool_size)
        mine = [
            session
            for session in self.sessions
            if isinstance(session.transport.protocol, Server)
            and not session.transport.lost
            and session.transport.protocol.pool is pool
        ]
        assert len(mine) <= len(seen), (pool, mine)

    def _check_server(self, server: Server) -> None:
        client = server.client
        if client is not None:
            assert client.server is server, server
            assert client.state is not ClientState.CLOSED, client
            assert server.state in (ServerState.PREPARING, ServerState.ACTIVE), server
        transport = server.transport
        assert isinstance(transport, FakeTransport)
        assert transport.closing or transport.reading == (server.braked == 0), server
        if server.state is ServerState.IDLE:
            assert client is None, server
            assert server.ledger.settled, server
            assert server.status == codes.IDLE, server
            assert not server.cancels, server
            assert not server.braked, server
            session = self.session(server)
            assert session.gone or session.frozen or session.at_rest, session

    def _check_client(self, pool: Pool, client: Client, in_line: bool) -> None:
        assert client.pool is pool, client
        transport = client.transport
        if not client.internal:
            assert isinstance(transport, FakeTransport)
            assert transport.closing or transport.reading == (client.braked == 0), client
        if client.server is not None:
            assert client.server.client is client, client
            assert client.server in pool.working, client
        if client.state is ClientState.ACTIVE:
            assert client.server is not None, client
        assert is_waiting(client) == in_line, client

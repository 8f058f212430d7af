"""Named prepared statements that outlive a transaction: clients' names, and what servers have.

A client's name stands for a `Statement` of its pool: one for each text, parameter types and set
of settings that a plan depends on, under a name of ours, shared by all clients. It is prepared on
a server when first needed there, in the same write as what needs it. A server keeps the most
recently used ones.

The client gets the replies that it expects, in number and order: what we added is taken out,
what we left out is put in. Each such message has an entry of its own in the ledger, and an
`Effect` here, which happens when its turn comes, or never if an error makes the server skip it.
"""

import re
from collections import deque
from typing import TYPE_CHECKING, Final

from pooler.core import session
from pooler.core.errors import ClientFault
from pooler.core.ledger import (
    LEFT_OUT_CLOSE,
    LEFT_OUT_PARSE,
    OUR_CLOSE,
    OUR_PARSE,
    RENAMED_PARSE,
)
from pooler.core.peer import Edit
from pooler.wire import build, codes

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.server import Server

PREFIX: Final = b"_pooler_"
"""What our names start with; `_pooler_` in an error's text is put back into the client's words."""

_OURS: Final = re.compile(PREFIX + rb"\d+")
_DEALLOCATE: Final = re.compile(
    rb"(?is)\s*deallocate\s+(?:prepare\s+)?(\"(?:[^\"]|\"\")+\"|(?!all\b)[a-z_][\w$]*)\s*;?\s*\0"
)
_EXECUTE: Final = re.compile(rb"(?is)(\s*execute\s+)(\"(?:[^\"]|\"\")+\"|[a-z_][\w$]*)")
STALE: Final = PREFIX + b"stale"
"""The name of no statement: who binds it is told what PostgreSQL says of a changed result."""
_STALE_ERROR: Final = build.error("ERROR", "0A000", "cached plan must not change result type")
_GONE: Final = build.message(codes.PARSE, PREFIX + b"gone\0\0\0\0")
"""Prepares an empty statement, to be deallocated in a client's stead."""

TEXT_LIMIT: Final = 1_048_576
"""Bytes of a statement that can be prepared by name: it is kept to be prepared again."""
CLIENT_LIMIT: Final = 10_000
"""Names that one client may have."""
CLIENT_BYTES: Final = 16_777_216
"""Bytes of the texts that one client's names stand for."""

_NO_PLAN: Final = frozenset(
    (
        "application_name",
        "client_min_messages",
        "extra_float_digits",
        "idle_in_transaction_session_timeout",
        "lock_timeout",
        "statement_timeout",
    )
)
"""Settings that no plan depends on."""


def _sql_name(raw: bytes) -> bytes:
    return raw[1:-1].replace(b'""', b'"') if raw.startswith(b'"') else raw.lower()


class Statement:
    """One text with its parameter types, as it is parsed under some settings."""

    __slots__ = ("body", "key", "name", "needs", "retired", "users")

    def __init__(self, name: bytes, body: bytes, key: "tuple[bytes, session.Settings]") -> None:
        self.name = name
        self.body = body  # of the Parse, after the name
        self.key = key
        self.needs: Statement | None = None  # what its text, an EXECUTE, executes
        self.retired = False  # its result has another shape since the schema was changed
        self.users = 0  # clients' names and servers that refer to it

    def __repr__(self) -> str:
        """Show the name; the text is the client's."""
        return f"<Statement {self.name.decode()} users={self.users}>"

    def parse(self) -> bytes:
        """Return the Parse that prepares it under our name."""
        return build.message(codes.PARSE, self.name + b"\0" + self.body)


class Registry:
    """The statements of a pool that anybody refers to."""

    def __init__(self, shelf: session.Shelf) -> None:
        self._shelf = shelf
        self._statements: dict[tuple[bytes, int], Statement] = {}
        self._named = 0

    def __len__(self) -> int:
        return len(self._statements)

    def find(self, body: bytes, wants: session.Settings) -> Statement:
        """Return the one statement of this text under these settings; `hold` it."""
        plan = self._shelf.shared(
            {
                name: value
                for name, value in wants.items()
                if name not in _NO_PLAN and not name.startswith(session.STATEMENT)
            }
        )
        found = self._statements.get((body, id(plan)))
        if found is None:
            self._named += 1
            name = PREFIX + str(self._named).encode()
            found = Statement(name, body, (body, plan))
            self._statements[body, id(plan)] = found
        return found

    def hold(self, statement: Statement) -> None:
        """Count a reference more."""
        statement.users += 1

    def release(self, effect: "Effect") -> None:
        """Count the reference of an effect that did not happen, or happened to nobody."""
        if effect.held and effect.statement is not None:
            self.drop(effect.statement)

    def retire(self, statement: Statement) -> None:
        """Have the next Parse of its text be another statement: the schema has changed."""
        statement.retired = True
        self._forget(statement)

    def _forget(self, statement: Statement) -> None:
        body, plan = statement.key
        if self._statements.get((body, id(plan))) is statement:
            del self._statements[body, id(plan)]

    def drop(self, statement: Statement) -> None:
        """Count a reference less; the last one forgets it."""
        statement.users -= 1
        if statement.users <= 0:
            self._forget(statement)


class Prepared:
    """What is prepared on one server, the most recently used last."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._statements: dict[Statement, None] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._statements)

    def __contains__(self, statement: Statement) -> bool:
        return statement in self._statements

    def use(self, statement: Statement) -> None:
        """Make it the most recently used one."""
        del self._statements[statement]
        self._statements[statement] = None

    def add(self, statement: Statement) -> None:
        """Note that it is being prepared."""
        self._statements[statement] = None
        self.bytes += len(statement.body)
        self._registry.hold(statement)

    def remove(self, statement: Statement) -> None:
        """Note that it is not, or no more."""
        if statement in self._statements:
            del self._statements[statement]
            self.bytes -= len(statement.body)
            self._registry.drop(statement)

    def clear(self) -> None:
        """Note that the server has forgotten all of them."""
        for statement in list(self._statements):
            self.remove(statement)

    def surplus(self, most: int, most_bytes: int) -> list[Statement]:
        """Return the least recently used ones that are too many."""
        over: list[Statement] = []
        count, size = len(self._statements), self.bytes
        for statement in self._statements:
            if count <= most and size <= most_bytes:
                break
            over.append(statement)
            count -= 1
            size -= len(statement.body)
        return over


class Effect:
    """What a message does to names when the server has done it."""

    __slots__ = ("duplicate", "held", "name", "statement")

    def __init__(
        self,
        name: bytes,
        statement: Statement | None,
        *,
        held: bool = False,
        duplicate: bool = False,
    ) -> None:
        self.name = name  # the client's; b"" for a message of our own
        self.statement = statement  # None: the name stands for nothing any more
        self.held = held  # it counts as a reference to its statement
        self.duplicate = duplicate  # sent so that the server refuses it


class Names:
    """One client's names."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._registry = client.pool.registry
        self._names: dict[bytes, Statement] = {}
        self._bytes = 0
        self.recent: list[Statement] = []  # bound since its server was last at rest
        # of messages under way: what the names will stand for
        self._planned: dict[bytes, Statement | None] = {}

    def __len__(self) -> int:
        return len(self._names)

    def _of(self, name: bytes) -> Statement | None:
        if name in self._planned:
            return self._planned[name]
        return self._names.get(name)

    # -- messages of the client: each returns what to send instead, None for the message itself

    def parse(self, body: bytes, server: "Server", kinds: bytearray) -> bytes | None:
        """Take a Parse."""
        end = body.find(b"\0")
        name = body[:end]
        if not name:  # of the unnamed ones, only those come here that may execute a named one
            unnamed = self._execute(body[1:], server, kinds)
            if unnamed is None:
                return None
            kinds.append(codes.PARSE)
            return unnamed[0] + build.message(codes.PARSE, b"\0" + unnamed[1])
        before = self._of(name)
        if before is not None:  # an error, and the server is to make it
            added = self._provide(before, server, kinds)
            kinds.append(RENAMED_PARSE)
            server.effects.append(Effect(name, before, duplicate=True))
            return added + before.parse()
        if len(self._names) >= CLIENT_LIMIT or self._bytes > CLIENT_BYTES:
            raise ClientFault(
                codes.PROGRAM_LIMIT_EXCEEDED,
                "too many prepared statements",
                hint=f"A client may have {CLIENT_LIMIT} names, and {CLIENT_BYTES} bytes of text.",
            )
        text = body[end + 1 :]
        executed = self._execute(text, server, kinds)
        added = b""
        if executed is not None:
            added, text = executed
        statement = self._registry.find(text, self._client.wants)
        if executed is not None:
            statement.needs = self._executes(body[end + 1 :])
        self._registry.hold(statement)  # by the effect
        self._planned[name] = statement
        server.effects.append(Effect(name, statement, held=True))
        if statement in server.prepared:
            server.prepared.use(statement)
            kinds.append(LEFT_OUT_PARSE)
            return added
        server.prepared.add(statement)
        kinds.append(RENAMED_PARSE)
        return added + statement.parse()

    def bind(self, message: bytes, size: int, server: "Server", kinds: bytearray) -> Edit | None:
        """Take a Bind of `size` bytes, of which `message` may be the start only.

        Returns the change of its start: its size, and what names the statement.
        """
        portal = message.find(b"\0", codes.HEADER) + 1
        end = message.find(b"\0", portal)
        if portal <= 0 or end <= portal:
            return None
        statement = self._of(message[portal:end])
        if statement is None:  # perhaps prepared in SQL; else an error that the server makes
            return None
        self.recent.append(statement)
        if statement.retired and statement not in server.prepared:
            # Its client may rely on a description that does not hold any more. Where it is still
            # prepared, PostgreSQL says so; here the server is made to fail, see `in_its_words`.
            name, added = STALE, b""
        else:
            name, added = statement.name, self._provide(statement, server, kinds)
        length = size - 1 + len(name) - (end - portal)
        start = bytes([codes.BIND]) + length.to_bytes(4, "big") + message[codes.HEADER : portal]
        return 0, end, added + start + name

    def describe(self, body: bytes, server: "Server", kinds: bytearray) -> bytes | None:
        """Take a Describe."""
        statement = self._of(body[1:-1]) if body[:1] == b"S" and len(body) > 2 else None
        if statement is None:
            return None
        added = self._provide(statement, server, kinds)
        kinds.append(codes.DESCRIBE)
        return added + build.message(codes.DESCRIBE, b"S" + statement.name + b"\0")

    def close(self, body: bytes, server: "Server", kinds: bytearray) -> bytes | None:
        """Take a Close."""
        name = body[1:-1]
        if body[:1] != b"S" or self._of(name) is None:
            return None
        self._planned[name] = None
        server.effects.append(Effect(name, None))
        kinds.append(LEFT_OUT_CLOSE)
        return b""

    def _provide(self, statement: Statement, server: "Server", kinds: bytearray) -> bytes:
        """Return what has to be sent first so that the server has the statement."""
        if statement in server.prepared:
            server.prepared.use(statement)
            return b""
        added = b""
        if statement.needs is not None:
            added = self._provide(statement.needs, server, kinds)
        server.prepared.add(statement)
        server.effects.append(Effect(b"", statement))
        kinds.append(OUR_PARSE)
        added += statement.parse()
        settings = self._client.pool.settings
        for old in server.prepared.surplus(
            settings.max_prepared_statements, settings.max_prepared_bytes
        ):
            if old is not statement:
                server.prepared.remove(old)
                server.effects.append(Effect(b"", old))
                kinds.append(OUR_CLOSE)
                added += build.message(codes.CLOSE, b"S" + old.name + b"\0")
        return added

    # -- what the server did

    def happened(self, effect: Effect) -> None:
        """A Parse or Close of the client has been done."""
        name, statement = effect.name, effect.statement
        before = self._names.pop(name, None)
        if before is not None:
            self._bytes -= len(before.body)
            self._registry.drop(before)
        if statement is not None:
            self._names[name] = statement
            self._bytes += len(statement.body)  # the effect's reference is the name's now

    def plan_again(self, effects: "deque[Effect]") -> None:
        """Plan anew with the effects that are still to come."""
        self._planned.clear()
        for effect in effects:
            if effect.name:
                self._planned[effect.name] = effect.statement

    def in_its_words(self, said: bytes) -> bytes:
        """Return what a server said with our names replaced by the client's."""
        if STALE in said:
            return _STALE_ERROR[codes.HEADER :]
        ours = {statement.name: name for name, statement in self._names.items()}
        for name, statement in self._planned.items():
            if statement is not None:
                ours[statement.name] = name
        return _OURS.sub(lambda found: ours.get(found[0], found[0]), said)

    def in_sql(self, text: bytes, server: "Server", kinds: bytearray) -> bytes | None:
        """Take a Query that may name one of these in SQL."""
        executed = self._execute(text, server, kinds)
        if executed is None:
            return self._deallocate(text, server, kinds)
        kinds.append(codes.QUERY)
        return executed[0] + build.message(codes.QUERY, executed[1])

    def _execute(
        self, text: bytes, server: "Server", kinds: bytearray
    ) -> tuple[bytes, bytes] | None:
        """Return what has to come first, and an EXECUTE's text with our name in it."""
        found = _EXECUTE.match(text)
        statement = self._executes(text)
        if found is None or statement is None or server.status == codes.FAILED_TRANSACTION:
            return None
        added = self._provide(statement, server, kinds)
        return added, found[1] + statement.name + text[found.end() :]

    def _executes(self, text: bytes) -> Statement | None:
        """Return the statement, of the extended protocol, that an EXECUTE names in SQL."""
        found = _EXECUTE.match(text)
        return None if found is None else self._of(_sql_name(found[2]))

    def _deallocate(self, text: bytes, server: "Server", kinds: bytearray) -> bytes | None:
        """Take a DEALLOCATE of one name; return what to send instead if the name is one of these.

        It is answered by the server, with the tag and in the state that belong there.
        """
        found = _DEALLOCATE.fullmatch(text)
        if found is None or server.status == codes.FAILED_TRANSACTION:
            return None
        if not self.forget(_sql_name(found[1])):
            return None
        kinds.append(OUR_PARSE)
        server.effects.append(Effect(b"", None))
        kinds.append(codes.QUERY)
        return _GONE + build.query(b"DEALLOCATE " + PREFIX + b"gone")

    def forget(self, name: bytes) -> bool:
        """DEALLOCATE a name; return whether there was such a one."""
        statement = self._names.pop(name, None)
        if statement is None:
            return False
        self._bytes -= len(statement.body)
        self._registry.drop(statement)
        return True

    def clear(self) -> None:
        """Forget all names."""
        for name in list(self._names):
            self.forget(name)
        self._planned.clear()

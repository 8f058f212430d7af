"""Named prepared statements that outlive a transaction: what a pool has of them, and a server.

A client's name (see `names`) stands for a `Statement` of its pool: one for each text, parameter
types and set of settings that a plan depends on, under a name of ours, shared by all clients. It is
prepared on a server when first needed there, in the same write as what needs it. A server keeps the
most recently used ones.

The client gets the replies that it expects, in number and order: what we added is taken out,
what we left out is put in. Each such message has an entry of its own in the ledger, and an `Effect`
(see `effects`).
"""

import hashlib
import struct
from collections import deque
from collections.abc import Iterable
from typing import Final

from pooler.core import session
from pooler.wire import build, codes

UNNAMED: Final = b"\0"
"""What stands for the unnamed statement among a client's names, where those are served from here
too; no name of a client can be this."""

ONCE: Final = 20_000
"""Texts remembered that were seen once."""

PREFIX: Final = b"_pooler_"
"""What our names start with; `_pooler_` in an error's text is put back into the client's words."""

CHANGES: Final = 1_000
"""Changes of the schema that are remembered for statements that were not used since."""

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


SPARE: Final = PREFIX + b"spare"
"""A name for a statement that nobody uses: prepared for the sake of PostgreSQL's answer."""


def foreign(name: bytes) -> bytes | None:
    """Return what to call an unknown name that looks like one of ours, and is not to be one."""
    return PREFIX + name if name.startswith(PREFIX) else None


class Wait(Exception):
    """A message that cannot be passed on before something else is answered.

    That is `asks`, sent now, or else what was sent up to the last Sync.
    """

    def __init__(self, asks: bytes = b"") -> None:
        super().__init__()
        self.asks = asks


class Statement:
    """One text with its parameter types, as it is parsed under some settings."""

    __slots__ = ("body", "key", "name", "needs", "retired", "seen", "users")

    def __init__(self, name: bytes, body: bytes, key: "tuple[bytes, session.Settings]") -> None:
        self.name = name
        self.body = body  # of the Parse, after the name
        self.key = key
        self.needs: Statement | None = None  # what its text, an EXECUTE, executes
        self.retired = False  # the schema was changed: its result may have another shape
        self.seen = 0  # changes of the schema that it has been looked at for
        self.users = 0  # clients' names, servers and effects that refer to it

    def __repr__(self) -> str:
        """Show the name; the text is the client's."""
        return f"<Statement {self.name.decode()} users={self.users}>"

    def parse(self) -> bytes:
        """Return the Parse that prepares it under our name."""
        return build.message(codes.PARSE, self.name + b"\0" + self.body)

    def describe(self) -> bytes:
        """Return the Describe of it."""
        return build.message(codes.DESCRIBE, b"S" + self.name + b"\0")

    def close(self) -> bytes:
        """Return the Close of it."""
        return build.message(codes.CLOSE, b"S" + self.name + b"\0")


class Name:
    """What a client's name stands for; refers to the statement."""

    __slots__ = ("statement", "told")

    def __init__(self, statement: Statement) -> None:
        self.statement = statement
        self.told = UNKNOWN  # the shape of which its client was told


UNKNOWN: Final = b""
"""A shape that nobody has asked for."""

_FIELD: Final = struct.Struct("!IhIhih")


def shape_of(parameters: bytes, columns: bytes) -> bytes:
    """Return a fingerprint of a statement's ParameterDescription and RowDescription (or NoData).

    Of columns it has what PostgreSQL compares (`equalTupleDescs`): names and types, not the table
    that they come from, nor the format that is asked for.
    """
    shape = hashlib.blake2b(parameters, digest_size=16)
    at = 2
    while 0 < at < len(columns):
        end = columns.find(b"\0", at) + 1
        if not end or end + _FIELD.size > len(columns):
            break
        _, _, kind, size, modifier, _ = _FIELD.unpack_from(columns, end)
        shape.update(columns[at:end])
        shape.update(b"%d %d %d" % (kind, size, modifier))
        at = end + _FIELD.size
    return shape.digest()


class Registry:
    """The statements of a pool that anybody refers to."""

    def __init__(self, shelf: session.Shelf) -> None:
        self._shelf = shelf
        self._statements: dict[tuple[bytes, int], Statement] = {}
        self._named = 0
        self._plan: tuple[session.Settings, session.Settings] = (session.NONE, session.NONE)
        self.changes = 0  # of the schema, so far
        self._changes: deque[frozenset[bytes]] = deque()  # what the last of them were about
        self._once: set[int] = set()  # hashes of texts that were asked for once

    def __len__(self) -> int:
        return len(self._statements)

    def find(self, body: bytes, wants: session.Settings) -> Statement:
        """Return the one statement of this text under these settings; `hold` it."""
        plan = self._plan_of(wants)
        found = self._statements.get((body, id(plan)))
        if found is None:
            self._named += 1
            name = PREFIX + str(self._named).encode()
            found = Statement(name, body, (body, plan))
            found.seen = self.changes
            self._statements[body, id(plan)] = found
        return found

    def repeated(self, body: bytes, wants: session.Settings) -> bool:
        """Return whether a text is there, or was asked for before."""
        if (body, id(self._plan_of(wants))) in self._statements:
            return True
        seen = hash(body)
        if seen in self._once:
            return True
        if len(self._once) >= ONCE:
            self._once.clear()
        self._once.add(seen)
        return False

    def _plan_of(self, wants: session.Settings) -> session.Settings:
        """Return those of some settings that a plan depends on."""
        before, plan = self._plan
        if wants is not before:
            plan = self._shelf.shared(
                {
                    name: value
                    for name, value in wants.items()
                    if name not in _NO_PLAN and not name.startswith(session.STATEMENT)
                }
            )
            self._plan = wants, plan
        return plan

    def changed(self, words: frozenset[bytes]) -> None:
        """Note a change of the schema, about these names in lower case; none: about anything."""
        self.changes += 1
        self._changes.append(words)
        if len(self._changes) > CHANGES:
            self._changes.popleft()

    def review(self, statement: Statement) -> None:
        """Retire a statement that a change of the schema since it was last looked at is about."""
        missed = self.changes - statement.seen
        statement.seen = self.changes
        if statement.retired:
            return
        if missed > len(self._changes):
            self.retire(statement)
            return
        text = statement.body.lower()
        for back in range(1, missed + 1):
            words = self._changes[-back]
            if not words or any(word in text for word in words):
                self.retire(statement)
                return

    def hold(self, statement: Statement) -> None:
        """Count a reference more."""
        statement.users += 1

    def drop(self, statement: Statement) -> None:
        """Count a reference less; the last one forgets it."""
        statement.users -= 1
        if statement.users <= 0:
            self._forget(statement)

    def retire(self, statement: Statement) -> None:
        """Have the next Parse of its text be another statement: the schema has changed."""
        statement.retired = True
        self._forget(statement)

    def successor(self, statement: Statement) -> Statement:
        """Return what a Parse of the same text under the same settings finds now."""
        found = self.find(*statement.key)
        found.needs = statement.needs
        return found

    def _forget(self, statement: Statement) -> None:
        body, plan = statement.key
        if self._statements.get((body, id(plan))) is statement:
            del self._statements[body, id(plan)]


class _Awaited:
    """A statement that messages under way prepare or close."""

    __slots__ = ("count", "group", "there")

    def __init__(self, there: bool) -> None:
        self.there = there  # by what has been answered
        self.count = 0  # of those messages
        self.group = 0  # of the last of them


class Prepared:
    """What is prepared on one server, the most recently used last.

    That is, what will be when all has been answered without an error. Messages between two Syncs
    are a group: an error skips the rest of its group, and nobody knows of it when the next group
    is sent right behind. So who relies on a statement that an earlier group prepares or closes has
    to wait for that to be answered: it is `awaited`.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._statements: dict[Statement, bytes] = {}  # and the shape of each, where it is known
        self._awaited: dict[Statement, _Awaited] = {}
        self._doubted: set[Statement] = set()
        self._newest: Statement | None = None  # of them
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._statements)

    def __contains__(self, statement: Statement) -> bool:
        return statement in self._statements

    def certain(self, statement: Statement) -> bool:
        """Return whether nothing hints at its having gone or come without us."""
        return not self._doubted or statement not in self._doubted

    def awaited(self, statement: Statement, group: int) -> bool:
        """Return whether nobody knows yet what an earlier group than this does with it."""
        awaited = self._awaited.get(statement) if self._awaited else None
        return awaited is not None and awaited.group != group

    def shape(self, statement: Statement) -> bytes:
        """Return the shape that it has here, UNKNOWN if it is not known, or not there."""
        return self._statements.get(statement, UNKNOWN)

    def described(self, statement: Statement, shape: bytes) -> None:
        """Note its shape, which it has as long as it is there: else PostgreSQL refuses it."""
        if statement in self._statements:
            self._statements[statement] = shape

    def use(self, statement: Statement) -> None:
        """Make it the most recently used one."""
        if statement is not self._newest:
            self._newest = statement
            self._statements[statement] = self._statements.pop(statement)

    def expect(self, statement: Statement, *, there: bool, group: int) -> None:
        """Note a message that prepares or closes it."""
        awaited = self._awaited.get(statement)
        if awaited is None:
            awaited = self._awaited[statement] = _Awaited(statement in self._statements)
        awaited.count += 1
        awaited.group = group
        self._doubted.discard(statement)
        self._set(statement, there)

    def answered(self, statement: Statement, there: bool | None) -> None:
        """Note the answer to such a message; None: the server did not do it."""
        awaited = self._awaited[statement]
        if there is not None:
            awaited.there = there
        awaited.count -= 1
        if not awaited.count:
            del self._awaited[statement]
            self._set(statement, awaited.there)

    def doubt(self, statements: Iterable[Statement] = ()) -> None:
        """Be no more sure of some, or of any: somebody deallocates beside us."""
        self._doubted.update(statements or self._statements)

    def _set(self, statement: Statement, there: bool) -> None:
        if there == (statement in self._statements):
            return
        if there:
            self._statements[statement] = UNKNOWN
            self._newest = statement
            self.bytes += len(statement.body)
            self._registry.hold(statement)
        else:
            del self._statements[statement]
            self._newest = None
            self.bytes -= len(statement.body)
            self._doubted.discard(statement)
            self._registry.drop(statement)

    def clear(self) -> None:
        """Note that the server has forgotten all of them; what is awaited comes after that."""
        for awaited in self._awaited.values():
            awaited.there = False
        for statement in list(self._statements):
            if statement not in self._awaited:
                self._set(statement, there=False)

    def surplus(self, most: int, most_bytes: int, keep: Statement) -> list[Statement]:
        """Return the least recently used ones that are too many; never `keep` or what it needs."""
        over: list[Statement] = []
        count, size = len(self._statements), self.bytes
        for statement in self._statements:
            if count <= most and size <= most_bytes:
                break
            if statement is not keep and statement is not keep.needs:
                over.append(statement)
                count -= 1
                size -= len(statement.body)
        return over

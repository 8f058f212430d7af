"""One client's names of prepared statements: what each message that has one becomes.

A name stands for a `Statement` of the pool (see `statements`). Each method takes a message of the
client and returns what the server is sent instead, None for the message itself; it appends to
`kinds` what the ledger is to note of it, and to the server's effects what will come of it.

What the answers of messages under way will make of a name is `_planned`, until they have come. A
message whose meaning an earlier group decides, not yet answered, has to `Wait` for it.

A client that binds without asking for a description relies on the one that it was told. Then the
server's statement has to have that shape: where it is not known, it is asked for first.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pooler.core.effects import Effect
from pooler.core.errors import ClientFault
from pooler.core.ledger import (
    LEFT_OUT_CLOSE,
    LEFT_OUT_PARSE,
    OUR_CLOSE,
    OUR_DESCRIBE,
    OUR_PARSE,
    RENAMED_PARSE,
    SEEN_DESCRIBE,
)
from pooler.core.peer import Edit
from pooler.core.sqlnames import SqlNames
from pooler.core.statements import (
    PREFIX,
    SPARE,
    UNKNOWN,
    UNNAMED,
    Name,
    Registry,
    Statement,
    Wait,
    foreign,
)
from pooler.wire import build, codes
from pooler.wire.cutter import string_end

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.server import Server

TEXT_LIMIT: Final = 1_048_576
"""Bytes of a statement that can be prepared by name: it is kept to be prepared again."""
UNNAMED_LIMIT: Final = 65_536
"""Bytes of an unnamed statement that a client can bind in a later transaction."""
CLIENT_LIMIT: Final = 10_000
"""Names that one client may have."""
CLIENT_BYTES: Final = 16_777_216
"""Bytes of the texts that one client's names stand for."""

STALE: Final = PREFIX + b"stale"
"""The name of no statement: who uses it is told what PostgreSQL says of a changed result."""
_STALE_ERROR: Final = build.error(
    "ERROR",
    codes.FEATURE_NOT_SUPPORTED,
    "cached plan must not change result type",
    routine="RevalidateCachedQuery",  # what pgjdbc goes by
)

NOBODYS: Final = PREFIX + b"unnamed"
"""The same for who binds the unnamed statement without having parsed one."""
_NOBODYS_ERROR: Final = build.error(
    "ERROR", codes.UNDEFINED_STATEMENT, "unnamed prepared statement does not exist"
)

_BIND: Final = bytes([codes.BIND])
_NO_SPARE: Final = build.message(codes.CLOSE, b"S" + SPARE + b"\0")

_KEPT: Final = re.compile(rb"(?i)\s*(?:select|insert|update|delete|with|values|merge|table)\b")
"""What an unnamed statement begins with that is worth keeping, and may be prepared by name."""

_OURS: Final = re.compile(PREFIX + rb"(?:(%b)|\d+|spare)" % PREFIX)


def made_to_fail(said: bytes) -> bool:
    """Return whether an error is one that the server was made to answer with."""
    return STALE in said or NOBODYS in said


class Names:
    """One client's names."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._registry = client.pool.registry
        self._names: dict[bytes, Name] = {}
        self._bytes = 0
        self._asked: Statement | None = None  # its shape, by who waits for that
        self.sql = SqlNames(self)
        self.deallocated = b""  # the name last deallocated in SQL
        self.unnamed: bytes | None = None  # the body of its last unnamed Parse
        self.unnamed_here = False  # the server that it has knows that one
        self._parsing = False  # perhaps it has not been answered
        self.keeps_unnamed = False  # it is, or will be, among the names
        # of messages under way
        self._planned: dict[bytes, Effect] = {}  # of each name the last
        self._planned_bytes = 0
        self._planned_all = False  # by a DEALLOCATE ALL, which is no effect of a server's
        self._bound = b""  # the name bound last, where no description was asked for
        # used since its server was last at rest, and by which name
        self.recent: dict[Statement, bytes] = {}

    def __len__(self) -> int:
        return len(self._names)

    def items(self) -> Iterable[tuple[bytes, Name]]:
        """Return all names and what they stand for."""
        return self._names.items()

    def adopt(self, name: bytes, statement: Statement, told: bytes) -> None:
        """Have a name of a client that comes from another process, and was told this shape."""
        self._registry.hold(statement)
        entry = self._names[name] = Name(statement)
        entry.told = told
        self._bytes += len(statement.body)

    def text_of(self, name: bytes) -> bytes | None:
        """Return the SQL that a name stands for, b"" of the unnamed one; None: not known here."""
        if not name:
            body = self.unnamed
            return None if body is None else body[1 : body.find(b"\0", 1)]
        known = self.of(name)
        if known is None:
            return None
        body = known.statement.body
        return body[: body.find(b"\0")]

    @property
    def any(self) -> bool:
        """True where there are names, or will be."""
        return bool(self._names or self._planned)

    def of(self, name: bytes) -> Name | None:
        """Return what a name stands for when all has been answered without an error."""
        planned = self._planned.get(name)
        return self._names.get(name) if planned is None else planned.means

    def known(self, name: bytes, server: "Server", kinds: list[int]) -> Name | None:
        """Return what a name stands for; Wait while that is not known."""
        planned = self._planned.get(name) if self._planned else None
        if planned is None:
            return self._names.get(name) if self._names else None
        if planned.group != server.group_of(kinds):
            raise Wait
        return planned.means

    def plan_none(self, group: int) -> None:
        """Note that a message under way will forget all names."""
        for name in [*self._names, *self._planned]:
            self.plan(Effect(None, name, None, group))
        self._planned_all = True

    def plan(self, effect: Effect) -> Effect:
        """Note what a message under way will make of a name."""
        self._unplan(effect.name)
        self._planned[effect.name] = effect
        if effect.means is not None:
            self._planned_bytes += len(effect.means.statement.body)
        return effect

    def _unplan(self, name: bytes) -> None:
        before = self._planned.pop(name, None)
        if before is not None and before.means is not None:
            self._planned_bytes -= len(before.means.statement.body)

    # -- messages of the extended protocol

    def parse(self, body: bytes, server: "Server", kinds: list[int]) -> bytes | None:
        """Take a Parse that has a name."""
        end = body.find(b"\0")
        name, text = body[:end], body[end + 1 :]
        self._client.pool.counters.client_parses += 1
        added = b""
        executed = self.sql.execute(text, server, kinds)
        if executed is not None:
            added, text = executed
        before = self.known(name, server, kinds)
        if before is not None:  # an error, and the server is to make it
            added += self.spare(b"", kinds, server)
            return added + self._try(text, Effect(None, name), kinds, server)
        count, size = len(self._names) + len(self._planned), self._bytes + self._planned_bytes
        if count >= CLIENT_LIMIT or size > CLIENT_BYTES:
            raise ClientFault(
                codes.PROGRAM_LIMIT_EXCEEDED,
                "too many prepared statements",
                hint=f"A client may have {CLIENT_LIMIT} names, and {CLIENT_BYTES} bytes of text.",
            )
        statement = self._registry.find(text, self._client.wants)
        if executed is not None:
            statement.needs = self.sql.executes(body[end + 1 :])
        return added + self._parse(name, statement, server, kinds)

    def caches(self, body: bytes) -> bool:
        """Return whether an unnamed Parse is served from the same statements.

        One whose text is new is not: many are never seen again.
        """
        text = body[1:]
        return (
            len(body) <= UNNAMED_LIMIT
            and _KEPT.match(text) is not None
            and self._registry.repeated(text, self._client.wants)
        )

    def parse_unnamed(self, body: bytes, server: "Server", kinds: list[int]) -> bytes:
        """Take such a Parse."""
        statement = self._registry.find(body[1:], self._client.wants)
        instead = self._parse(UNNAMED, statement, server, kinds)
        self.keeps_unnamed = True
        return instead

    def forget_unnamed(self, server: "Server") -> None:
        """The unnamed statement is another one from here on, or none."""
        self.keeps_unnamed = False
        for effect in server.effects:
            if effect.name == UNNAMED:
                if effect.means is not None:
                    self._registry.drop(effect.means.statement)
                effect.name = b""
                effect.means = None
        self._unplan(UNNAMED)
        self._forget(UNNAMED)

    def _parse(
        self, name: bytes, statement: Statement, server: "Server", kinds: list[int]
    ) -> bytes:
        """Have a name stand for a statement, and the server answer for it."""
        text = statement.body
        prepared = server.prepared
        if prepared.awaited(statement, server.group_of(kinds)):
            raise Wait
        effect = self.plan(Effect(None, name, Name(statement), server.group_of(kinds)))
        if statement not in prepared or not prepared.certain(statement):
            effect.concerns = statement
            return self._prepare(statement, effect, server, kinds)
        prepared.use(statement)
        self._client.pool.counters.prepared_hits += 1
        if server.status == codes.FAILED_TRANSACTION or server.unknown(kinds):
            # Perhaps in a failed transaction: the server is to say so.
            self.note(Effect(), OUR_CLOSE, server, kinds)
            return _NO_SPARE + self._try(text, effect, kinds, server)
        self.note(effect, LEFT_OUT_PARSE, server, kinds)
        return b""

    def bind(
        self, message: bytes, size: int, describes: bool, server: "Server", kinds: list[int]
    ) -> Edit | None:
        """Take a Bind of `size` bytes, of which `message` may be the start only.

        `describes`: its client asks for a description of the portal right behind it. Returns the
        change of its start: its size, and what names the statement.
        """
        portal = string_end(message, codes.HEADER) + 1
        end = string_end(message, portal)
        if portal <= 0 or end < 0:
            return None
        name = message[portal:end]
        entry = self.known(name or UNNAMED, server, kinds)
        if not name and entry is None:
            return self._bind_unnamed(message, size, end, server, kinds)
        if entry is not None:
            self._client.pool.counters.binds += 1
            server.asked = entry.statement
            added, instead = self.use(entry, name, server, kinds, blind=not describes)
            self._bound = b"" if describes else name or UNNAMED
            if describes:
                asks = self._tell(entry, name or UNNAMED, server, kinds)
                added = added + asks if asks else added
        else:  # perhaps prepared in SQL; else an error that the server makes
            other = foreign(name)
            if other is None:
                return None
            added, instead = b"", other
        length = size - 1 + len(instead) - len(name)
        start = _BIND + length.to_bytes(4, "big") + message[codes.HEADER : portal] + instead
        return 0, end, added + start if added else start

    def _bind_unnamed(
        self, message: bytes, size: int, end: int, server: "Server", kinds: list[int]
    ) -> Edit | None:
        """Have the unnamed statement be the client's own: the server may have another's."""
        if self.unnamed_here:
            self._wait_for_unnamed(server, kinds)
            return None
        if self.unnamed is not None:
            return 0, end, self._provide_unnamed(server, kinds) + message[:end]
        length = (size - 1 + len(NOBODYS)).to_bytes(4, "big")
        return 0, end, message[:1] + length + message[codes.HEADER : end] + NOBODYS

    def _provide_unnamed(self, server: "Server", kinds: list[int]) -> bytes:
        assert self.unnamed is not None
        self.unnamed_here = True
        self.note(Effect(), OUR_PARSE, server, kinds)
        return build.message(codes.PARSE, self.unnamed)

    def _wait_for_unnamed(self, server: "Server", kinds: list[int]) -> None:
        """Wait while nobody knows whether an earlier group parses it: an error may skip that."""
        if not self._parsing or not server.unknown(kinds):
            return
        synced = False
        for sent in (kinds, server.ledger.owed):
            for kind in reversed(sent):
                if kind == codes.PARSE:
                    if synced:
                        raise Wait
                    return
                synced |= kind == codes.SYNC
        self._parsing = False

    def unnamed_skipped(self) -> None:
        """An error came instead of it: there is none, as far as anybody can tell."""
        self.unnamed = None
        self.unnamed_here = False

    def parsed_unnamed(self, body: bytes) -> None:
        """Remember the client's unnamed statement: it may be bound on another server."""
        self.unnamed_here = True
        self._parsing = True
        self.unnamed = body if len(body) <= UNNAMED_LIMIT else None

    def describe(self, body: bytes, server: "Server", kinds: list[int]) -> bytes | None:
        """Take a Describe."""
        name = body[1:-1] if len(body) > 1 else b""  # compiled, a slice must not end first
        entry = self.known(name or UNNAMED, server, kinds) if body[:1] == b"S" else None
        if body == b"S\0" and entry is None:
            if self.unnamed_here:
                self._wait_for_unnamed(server, kinds)
                return None
            added = b"" if self.unnamed is None else self._provide_unnamed(server, kinds)
            kinds.append(codes.DESCRIBE)
            name = b"" if added else NOBODYS
            return added + build.message(codes.DESCRIBE, b"S" + name + b"\0")
        if body[:1] != b"S":
            return self._describe_portal(body, server, kinds) if self._bound else None
        if entry is not None:
            added, instead = self.use(entry, name, server, kinds, blind=False)
            shape = server.prepared.shape(entry.statement)
            if not shape:
                effect = Effect(None, name or UNNAMED, describes=entry.statement)
                self.note(effect, SEEN_DESCRIBE, server, kinds)
                return added + entry.statement.describe()
            entry.told = shape
        else:
            other = foreign(name)
            if other is None:
                return None
            added, instead = b"", other
        kinds.append(codes.DESCRIBE)
        return added + build.message(codes.DESCRIBE, b"S" + instead + b"\0")

    def _describe_portal(self, body: bytes, server: "Server", kinds: list[int]) -> bytes | None:
        """Note what its client is told of a portal: that of what it bound last, most likely."""
        name = self._bound
        entry = self.known(name, server, kinds)
        prepared = server.prepared
        if server.unknown(kinds) or (
            entry is not None and prepared.awaited(entry.statement, server.group_of(kinds))
        ):
            raise Wait
        self._bound = b""
        failed = server.status == codes.FAILED_TRANSACTION
        if entry is None or entry.statement not in prepared or failed:
            return None
        added = self._tell(entry, name, server, kinds)
        kinds.append(codes.DESCRIBE)
        return added + build.message(codes.DESCRIBE, body)

    def close(self, body: bytes, server: "Server", kinds: list[int]) -> bytes | None:
        """Take a Close."""
        name = body[1:-1] if len(body) > 1 else b""  # compiled, a slice must not end first
        if body[:1] != b"S" or not (self.known(name, server, kinds) or foreign(name)):
            return None
        effect = self.plan(Effect(None, name, None, server.group_of(kinds)))
        self.note(effect, LEFT_OUT_CLOSE, server, kinds)
        return b""

    def use(
        self, entry: Name, name: bytes, server: "Server", kinds: list[int], *, blind: bool
    ) -> tuple[bytes, bytes]:
        """Return what has to come first, and what to call a statement.

        `blind`: without a description, so that its client relies on what it was told.
        """
        statement = entry.statement
        prepared = server.prepared
        told = entry.told if blind else UNKNOWN
        if statement.seen != self._registry.changes:
            self._registry.review(statement)
        if statement.retired and not (told and prepared.shape(statement) == told):
            statement = self._renew(entry)
        group = server.group_of(kinds)
        if prepared.awaited(statement, group):
            raise Wait
        known = prepared.certain(statement) and prepared.shape(statement) == told
        if told and not known and not server.describes(statement):  # else it is being told anew
            while statement in prepared and prepared.shape(statement) != told:
                self._registry.retire(statement)
                if statement is self._asked:  # it is new, and not what its client was told
                    self._asked = None
                    self.recent[statement] = name
                    return b"", STALE
                statement = self._renew(entry)  # what is there may be older than the change
                if prepared.awaited(statement, group):
                    raise Wait
            if statement not in prepared or not prepared.certain(statement):
                self._asked = statement
                asks = self._provide(statement, server, kinds)
                self.note(Effect(None, b"", describes=statement), OUR_DESCRIBE, server, kinds)
                raise Wait(asks + statement.describe())
        self._asked = None
        self.recent[statement] = name
        return self._provide(statement, server, kinds), statement.name

    def _tell(self, entry: Name, name: bytes, server: "Server", kinds: list[int]) -> bytes:
        """Note that the client is told a statement's shape; return what asks for it, if need be."""
        shape = server.prepared.shape(entry.statement)
        if shape:
            entry.told = shape
            return b""
        effect = Effect(None, name, describes=entry.statement)
        self.note(effect, OUR_DESCRIBE, server, kinds)
        return entry.statement.describe()

    def _provide(self, statement: Statement, server: "Server", kinds: list[int]) -> bytes:
        """Return what has to be sent first so that the server has the statement."""
        added = b""
        if statement.needs is not None:
            added = self._provide(statement.needs, server, kinds)
        if statement in server.prepared and server.prepared.certain(statement):
            server.prepared.use(statement)
            self._client.pool.counters.prepared_hits += 1
            return added
        return added + self._prepare(statement, Effect(statement), server, kinds)

    def _prepare(
        self, statement: Statement, effect: Effect, server: "Server", kinds: list[int]
    ) -> bytes:
        """Return the Parse of a statement, and Closes of those for which there is no room then."""
        prepared, group = server.prepared, server.group_of(kinds)
        self._client.pool.counters.server_parses += 1
        added = b""
        if not prepared.certain(statement):
            prepared.expect(statement, there=False, group=group)
            self.note(Effect(statement), OUR_CLOSE, server, kinds)
            added = statement.close()
        prepared.expect(statement, there=True, group=group)
        self.note(effect, RENAMED_PARSE if effect.name else OUR_PARSE, server, kinds)
        added += statement.parse()
        settings = self._client.pool.settings
        for old in prepared.surplus(
            settings.max_prepared_statements, settings.max_prepared_bytes, statement
        ):
            prepared.expect(old, there=False, group=group)
            self.note(Effect(old), OUR_CLOSE, server, kinds)
            added += old.close()
        return added

    def note(self, effect: Effect, kind: int, server: "Server", kinds: list[int]) -> None:
        """Note a message of a special kind that is sent, or left out."""
        if effect.means is not None:
            self._registry.hold(effect.means.statement)
        server.effects.append(effect)
        kinds.append(kind)

    def spare(
        self, text: bytes, kinds: list[int], server: "Server", effect: Effect | None = None
    ) -> bytes:
        """Return what prepares the spare statement anew."""
        self.note(Effect(), OUR_CLOSE, server, kinds)
        self.note(effect or Effect(), OUR_PARSE, server, kinds)
        return _NO_SPARE + build.message(codes.PARSE, SPARE + b"\0" + text + b"\0\0\0")

    def _try(self, text: bytes, effect: Effect, kinds: list[int], server: "Server") -> bytes:
        """Return a Parse of the client's as the spare statement: for its answer."""
        self.note(effect, RENAMED_PARSE, server, kinds)
        return build.message(codes.PARSE, SPARE + b"\0" + text)

    # -- what the server did

    def happened(self, effect: Effect) -> None:
        """A Parse or Close of the client has been done."""
        if self._planned.get(effect.name) is effect:
            self._unplan(effect.name)
        self._forget(effect.name)
        if effect.means is not None:
            self._names[effect.name] = effect.means
            self._bytes += len(effect.means.statement.body)

    def skipped(self, skipped: Iterable[Effect], left: Iterable[Effect]) -> None:
        """Note messages that have failed, or come behind what did, and effects still to come."""
        if self._planned_all:
            self._plan_again(left)
        for effect in skipped:
            if self._planned.get(effect.name) is effect:
                self._unplan(effect.name)

    def told(self, effect: Effect, shape: bytes) -> None:
        """The client has been told the shape of a statement of its."""
        entry = self._names.get(effect.name)
        if entry is not None and entry.statement is effect.describes:
            entry.told = shape

    def _plan_again(self, effects: Iterable[Effect]) -> None:
        """Plan anew with the effects that are still to come."""
        self._planned.clear()
        self._planned_bytes = 0
        self._planned_all = False
        for effect in effects:
            if effect.name and effect.describes is None:
                self.plan(effect)

    def in_its_words(self, said: bytes, sqlstate: str, failed: Effect | None) -> bytes:
        """Return what a server said with our names replaced by the client's.

        `failed` is the effect of the message that failed, if it has one.
        """
        if STALE in said and sqlstate == codes.UNDEFINED_STATEMENT:
            return _STALE_ERROR[codes.HEADER :]
        if NOBODYS in said and sqlstate == codes.UNDEFINED_STATEMENT:
            return _NOBODYS_ERROR[codes.HEADER :]
        ours = {statement.name: name for statement, name in self.recent.items()}
        ours[PREFIX] = PREFIX
        ours[SPARE] = self.deallocated
        if failed is not None and failed.name and failed.name != UNNAMED:
            ours[SPARE] = failed.name
            if failed.concerns is not None:
                ours[failed.concerns.name] = failed.name
        return _OURS.sub(lambda found: ours.get(found[1] or found[0], found[0]), said)

    def move(self, registry: Registry) -> None:
        """Go on in another pool."""
        before, self._registry = self._registry, registry
        for entry in self._names.values():
            statement = entry.statement
            needs = statement.needs
            body = statement.body
            if needs is not None:
                moved = registry.find(*needs.key)
                body = body.replace(needs.name, moved.name, 1)
            found = registry.find(body, statement.key[1])
            if needs is not None:
                found.needs = moved
            registry.hold(found)
            entry.statement = found
            before.drop(statement)
        self.recent.clear()
        self._asked = None

    def _renew(self, entry: Name) -> Statement:
        """Have a name stand for the successor of its statement, which is retired."""
        old = entry.statement
        new = entry.statement = self._registry.successor(old)
        self._registry.hold(new)
        self._registry.drop(old)
        return new

    def _forget(self, name: bytes) -> None:
        entry = self._names.pop(name, None)
        if entry is not None:
            self._bytes -= len(entry.statement.body)
            self._registry.drop(entry.statement)

    def clear(self, effects: Iterable[Effect] = ()) -> None:
        """Forget all names; those of effects still to come will be there."""
        for name in list(self._names):
            self._forget(name)
        self._plan_again(effects)

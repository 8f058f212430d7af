"""One client's names of prepared statements: what each message that has one becomes.

A name stands for a `Statement` of the pool (see `statements`). Each method takes a message of the
client and returns what the server is sent instead, None for the message itself; it appends to
`kinds` what the ledger is to note of it, and to the server's effects what will come of it.

What the answers of messages under way will make of a name is `_planned`, until they have come. A
message whose meaning an earlier group decides, not yet answered, has to `Wait` for it.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pooler.core.errors import ClientFault
from pooler.core.ledger import (
    LEFT_OUT_CLOSE,
    LEFT_OUT_PARSE,
    OUR_CLOSE,
    OUR_PARSE,
    RENAMED_PARSE,
)
from pooler.core.peer import Edit
from pooler.core.statements import PREFIX, Effect, Registry, Statement
from pooler.wire import build, codes

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
_STALE_ERROR: Final = build.error("ERROR", "0A000", "cached plan must not change result type")

NOBODYS: Final = PREFIX + b"unnamed"
"""The same for who binds the unnamed statement without having parsed one."""
_NOBODYS_ERROR: Final = build.error(
    "ERROR", codes.UNDEFINED_STATEMENT, "unnamed prepared statement does not exist"
)

_SPARE: Final = PREFIX + b"spare"
"""A name for a statement that nobody uses: prepared for the sake of PostgreSQL's answer."""
_NO_SPARE: Final = build.message(codes.CLOSE, b"S" + _SPARE + b"\0")

_NAME: Final = rb"(\"(?:[^\"]|\"\")+\"|[a-z_][\w$]*)"
_DEALLOCATE: Final = re.compile(
    rb"(?is)\s*deallocate\s+(?:prepare\s+)?(?!all\b)%b\s*;?\s*\0" % _NAME
)
_ALL: Final = re.compile(rb"(?is)\s*(?:deallocate\s+(?:prepare\s+)?|discard\s+)all\s*;?\s*\0")
_EXECUTE: Final = re.compile(rb"(?is)(\s*execute\s+)%b" % _NAME)
_OURS: Final = re.compile(PREFIX + rb"(?:(%b)|\d+|spare)" % PREFIX)


def made_to_fail(said: bytes) -> bool:
    """Return whether an error is one that the server was made to answer with."""
    return STALE in said or NOBODYS in said


def _sql_name(raw: bytes) -> bytes:
    return raw[1:-1].replace(b'""', b'"') if raw.startswith(b'"') else raw.lower()


def _quoted(name: bytes) -> bytes:
    return b'"' + name.replace(b'"', b'""') + b'"'


def _foreign(name: bytes) -> bytes | None:
    """Return what to call an unknown name that looks like one of ours, and is not to be one."""
    return PREFIX + name if name.startswith(PREFIX) else None


def _refuses(server: "Server", kinds: bytearray) -> bool:
    """Return whether the transaction has failed; Wait where that is not known."""
    if server.unknown(kinds):
        raise Wait
    return server.status == codes.FAILED_TRANSACTION


class Wait(Exception):
    """A message that cannot be passed on before what was sent up to the last Sync is answered."""


class Names:
    """One client's names."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._registry = client.pool.registry
        self._names: dict[bytes, Statement] = {}
        self._bytes = 0
        self._deallocated = b""  # the name last deallocated in SQL
        self.unnamed: bytes | None = None  # the body of its last unnamed Parse
        self.unnamed_here = False  # the server that it has knows that one
        # of messages under way
        self._planned: dict[bytes, Effect] = {}  # of each name the last
        self._planned_bytes = 0
        # used since its server was last at rest, and by which name
        self.recent: dict[Statement, bytes] = {}

    def __len__(self) -> int:
        return len(self._names)

    @property
    def any(self) -> bool:
        """True where there are names, or will be."""
        return bool(self._names or self._planned)

    def _of(self, name: bytes) -> Statement | None:
        planned = self._planned.get(name)
        return self._names.get(name) if planned is None else planned.means

    def _known(self, name: bytes, server: "Server", kinds: bytearray) -> Statement | None:
        """Return what a name stands for; Wait while that is not known."""
        planned = self._planned.get(name)
        if planned is None:
            return self._names.get(name)
        if planned.group != server.group_of(kinds):
            raise Wait
        return planned.means

    def _plan(self, effect: Effect) -> Effect:
        self._unplan(effect.name)
        self._planned[effect.name] = effect
        if effect.means is not None:
            self._planned_bytes += len(effect.means.body)
        return effect

    def _unplan(self, name: bytes) -> None:
        before = self._planned.pop(name, None)
        if before is not None and before.means is not None:
            self._planned_bytes -= len(before.means.body)

    # -- messages of the extended protocol

    def parse(self, body: bytes, server: "Server", kinds: bytearray) -> bytes | None:
        """Take a Parse."""
        end = body.find(b"\0")
        name, text = body[:end], body[end + 1 :]
        if not name:  # of the unnamed ones, only those come here that may mean a named one in SQL
            return self._parse_unnamed(text, server, kinds)
        self._client.pool.counters.client_parses += 1
        added = b""
        executed = self._execute(text, server, kinds)
        if executed is not None:
            added, text = executed
        before = self._known(name, server, kinds)
        if before is not None:  # an error, and the server is to make it
            added += self._spare(b"", kinds, server)
            return added + self._try(text, Effect(None, name, before), kinds, server)
        count, size = len(self._names) + len(self._planned), self._bytes + self._planned_bytes
        if count >= CLIENT_LIMIT or size > CLIENT_BYTES:
            raise ClientFault(
                codes.PROGRAM_LIMIT_EXCEEDED,
                "too many prepared statements",
                hint=f"A client may have {CLIENT_LIMIT} names, and {CLIENT_BYTES} bytes of text.",
            )
        statement = self._registry.find(text, self._client.wants)
        if executed is not None:
            statement.needs = self._executes(body[end + 1 :])
        prepared = server.prepared
        if prepared.awaited(statement, server.group_of(kinds)):
            raise Wait
        effect = self._plan(Effect(None, name, statement, server.group_of(kinds)))
        if statement not in prepared or not prepared.certain(statement):
            effect.concerns = statement
            return added + self._prepare(statement, effect, server, kinds)
        prepared.use(statement)
        self._client.pool.counters.prepared_hits += 1
        if server.status == codes.FAILED_TRANSACTION or server.unknown(kinds):
            # Perhaps in a failed transaction: the server is to say so.
            self._note(Effect(), OUR_CLOSE, server, kinds)
            return added + _NO_SPARE + self._try(text, effect, kinds, server)
        self._note(effect, LEFT_OUT_PARSE, server, kinds)
        return added

    def bind(self, message: bytes, size: int, server: "Server", kinds: bytearray) -> Edit | None:
        """Take a Bind of `size` bytes, of which `message` may be the start only.

        Returns the change of its start: its size, and what names the statement.
        """
        portal = message.find(b"\0", codes.HEADER) + 1
        end = message.find(b"\0", portal)
        if portal <= 0 or end < 0:
            return None
        if end == portal:
            return self._bind_unnamed(message, size, end, server, kinds)
        name = message[portal:end]
        statement = self._known(name, server, kinds)
        if statement is not None:
            self._client.pool.counters.binds += 1
            added, instead = self._use(statement, name, server, kinds)
        else:  # perhaps prepared in SQL; else an error that the server makes
            foreign = _foreign(name)
            if foreign is None:
                return None
            added, instead = b"", foreign
        length = size - 1 + len(instead) - len(name)
        start = bytes([codes.BIND]) + length.to_bytes(4, "big") + message[codes.HEADER : portal]
        return 0, end, added + start + instead

    def _bind_unnamed(
        self, message: bytes, size: int, end: int, server: "Server", kinds: bytearray
    ) -> Edit | None:
        """Have the unnamed statement be the client's own: the server may have another's."""
        if self.unnamed_here:
            return None
        if self.unnamed is not None:
            return 0, end, self._provide_unnamed(server, kinds) + message[:end]
        length = (size - 1 + len(NOBODYS)).to_bytes(4, "big")
        return 0, end, message[:1] + length + message[codes.HEADER : end] + NOBODYS

    def _provide_unnamed(self, server: "Server", kinds: bytearray) -> bytes:
        assert self.unnamed is not None
        self.unnamed_here = True
        self._note(Effect(), OUR_PARSE, server, kinds)
        return build.message(codes.PARSE, self.unnamed)

    def parsed_unnamed(self, body: bytes) -> None:
        """Remember the client's unnamed statement: it may be bound on another server."""
        self.unnamed_here = True
        self.unnamed = body if len(body) <= UNNAMED_LIMIT else None

    def describe(self, body: bytes, server: "Server", kinds: bytearray) -> bytes | None:
        """Take a Describe."""
        name = body[1:-1]
        if body == b"S\0" and not self.unnamed_here:
            added = b"" if self.unnamed is None else self._provide_unnamed(server, kinds)
            kinds.append(codes.DESCRIBE)
            name = b"" if added else NOBODYS
            return added + build.message(codes.DESCRIBE, b"S" + name + b"\0")
        if body[:1] != b"S" or not name:
            return None
        statement = self._known(name, server, kinds)
        if statement is not None:
            added, instead = self._use(statement, name, server, kinds)
        else:
            foreign = _foreign(name)
            if foreign is None:
                return None
            added, instead = b"", foreign
        kinds.append(codes.DESCRIBE)
        return added + build.message(codes.DESCRIBE, b"S" + instead + b"\0")

    def close(self, body: bytes, server: "Server", kinds: bytearray) -> bytes | None:
        """Take a Close."""
        name = body[1:-1]
        if body[:1] != b"S" or not (self._known(name, server, kinds) or _foreign(name)):
            return None
        effect = self._plan(Effect(None, name, None, server.group_of(kinds)))
        self._note(effect, LEFT_OUT_CLOSE, server, kinds)
        return b""

    def _use(
        self, statement: Statement, name: bytes, server: "Server", kinds: bytearray
    ) -> tuple[bytes, bytes]:
        """Return what has to come first, and what to call a statement."""
        if server.prepared.awaited(statement, server.group_of(kinds)):
            raise Wait
        self.recent[statement] = name
        if statement.retired and statement not in server.prepared:
            # Its client may rely on a description that does not hold any more. Where it is still
            # prepared, PostgreSQL says so; here the server is made to fail, see `in_its_words`.
            return b"", STALE
        return self._provide(statement, server, kinds), statement.name

    def _provide(self, statement: Statement, server: "Server", kinds: bytearray) -> bytes:
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
        self, statement: Statement, effect: Effect, server: "Server", kinds: bytearray
    ) -> bytes:
        """Return the Parse of a statement, and Closes of those for which there is no room then."""
        prepared, group = server.prepared, server.group_of(kinds)
        self._client.pool.counters.server_parses += 1
        added = b""
        if not prepared.certain(statement):
            prepared.expect(statement, there=False, group=group)
            self._note(Effect(statement), OUR_CLOSE, server, kinds)
            added = statement.close()
        prepared.expect(statement, there=True, group=group)
        self._note(effect, RENAMED_PARSE if effect.name else OUR_PARSE, server, kinds)
        added += statement.parse()
        settings = self._client.pool.settings
        for old in prepared.surplus(
            settings.max_prepared_statements, settings.max_prepared_bytes, statement
        ):
            prepared.expect(old, there=False, group=group)
            self._note(Effect(old), OUR_CLOSE, server, kinds)
            added += old.close()
        return added

    def _note(self, effect: Effect, kind: int, server: "Server", kinds: bytearray) -> None:
        if effect.means is not None:
            self._registry.hold(effect.means)
        server.effects.append(effect)
        kinds.append(kind)

    def _spare(
        self, text: bytes, kinds: bytearray, server: "Server", effect: Effect | None = None
    ) -> bytes:
        """Return what prepares the spare statement anew."""
        self._note(Effect(), OUR_CLOSE, server, kinds)
        self._note(effect or Effect(), OUR_PARSE, server, kinds)
        return _NO_SPARE + build.message(codes.PARSE, _SPARE + b"\0" + text + b"\0\0\0")

    def _try(self, text: bytes, effect: Effect, kinds: bytearray, server: "Server") -> bytes:
        """Return a Parse of the client's as the spare statement: for its answer."""
        self._note(effect, RENAMED_PARSE, server, kinds)
        return build.message(codes.PARSE, _SPARE + b"\0" + text)

    # -- SQL that names one of these

    def in_sql(self, text: bytes, server: "Server", kinds: bytearray) -> bytes | None:
        """Take a Query that may name one of these."""
        if _ALL.fullmatch(text):
            if server.unknown(kinds):
                raise Wait
            for name in (*self._names, *self._planned):
                self._plan(Effect(None, name, None, server.group_of(kinds)))
            return None
        executed = self._execute(text, server, kinds)
        if executed is not None:
            kinds.append(codes.QUERY)
            return executed[0] + build.message(codes.QUERY, executed[1])
        # It is answered by the server, with the tag and in the state that belong there.
        instead = self._deallocate(text, b"", server, kinds)
        if instead is None:
            return None
        kinds.append(codes.QUERY)
        return instead[0] + build.query(instead[1])

    def _parse_unnamed(self, text: bytes, server: "Server", kinds: bytearray) -> bytes | None:
        executed = self._execute(text, server, kinds)
        if executed is None:
            end = text.find(b"\0") + 1
            instead = self._deallocate(text[:end], b"SELECT", server, kinds)
            if instead is None:
                return None
            executed = instead[0], instead[1] + b"\0" + text[end:]
        kinds.append(codes.PARSE)
        return executed[0] + build.message(codes.PARSE, b"\0" + executed[1])

    def _execute(
        self, text: bytes, server: "Server", kinds: bytearray
    ) -> tuple[bytes, bytes] | None:
        """Return what has to come first, and an EXECUTE's text with our name in it."""
        found = _EXECUTE.match(text)
        if found is None:
            return None
        name = _sql_name(found[2])
        statement = self._known(name, server, kinds)
        if statement is not None:
            if _refuses(server, kinds):
                return None
            added, instead = self._use(statement, name, server, kinds)
        elif name.startswith(PREFIX):
            added, instead = b"", _quoted(PREFIX + name)
        else:
            return None
        return added, found[1] + instead + text[found.end() :]

    def _executes(self, text: bytes) -> Statement | None:
        """Return the statement, of the extended protocol, that an EXECUTE names."""
        found = _EXECUTE.match(text)
        return None if found is None else self._of(_sql_name(found[2]))

    def _deallocate(
        self, text: bytes, spare: bytes, server: "Server", kinds: bytearray
    ) -> tuple[bytes, bytes] | None:
        """Return what prepares, as `spare`, what is deallocated instead of one of these, and that.

        A spare that is not empty fails in a failed transaction, and with it what comes behind it.
        """
        found = _DEALLOCATE.fullmatch(text)
        if found is None:
            return None
        name = _sql_name(found[1])
        if self._known(name, server, kinds) is None:
            foreign = _foreign(name)
            return None if foreign is None else (b"", b"DEALLOCATE " + _quoted(foreign))
        if _refuses(server, kinds):
            return None
        effect = self._plan(Effect(None, name, None, server.group_of(kinds)))
        self._deallocated = name
        added = self._spare(spare, kinds, server, effect)
        return added, b"DEALLOCATE " + _SPARE

    # -- what the server did

    def happened(self, effect: Effect) -> None:
        """A Parse or Close of the client has been done."""
        if self._planned.get(effect.name) is effect:
            self._unplan(effect.name)
        self._forget(effect.name)
        if effect.means is not None:
            self._names[effect.name] = effect.means  # and the effect's reference is the name's now
            self._bytes += len(effect.means.body)

    def plan_again(self, effects: Iterable[Effect] = ()) -> None:
        """Plan anew with the effects that are still to come."""
        self._planned.clear()
        self._planned_bytes = 0
        for effect in effects:
            if effect.name:
                self._plan(effect)

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
        ours[_SPARE] = self._deallocated
        if failed is not None and failed.name:
            ours[_SPARE] = failed.name
            if failed.concerns is not None:
                ours[failed.concerns.name] = failed.name
        return _OURS.sub(lambda found: ours.get(found[1] or found[0], found[0]), said)

    def renew(self) -> None:
        """Have names whose statements are retired stand for their successors."""
        for name, statement in self._names.items():
            if statement.retired and statement in self.recent:
                self._replace(name, statement, self._registry.successor(statement))

    def move(self, registry: Registry) -> None:
        """Go on in another pool."""
        before, self._registry = self._registry, registry
        for name, statement in self._names.items():
            needs = statement.needs
            body = statement.body
            if needs is not None:
                moved = registry.find(*needs.key)
                body = body.replace(needs.name, moved.name, 1)
            found = registry.find(body, statement.key[1])
            if needs is not None:
                found.needs = moved
            registry.hold(found)
            self._names[name] = found
            before.drop(statement)
        self.recent.clear()

    def _replace(self, name: bytes, old: Statement, new: Statement) -> None:
        self._registry.hold(new)
        self._names[name] = new
        self._registry.drop(old)

    def _forget(self, name: bytes) -> None:
        statement = self._names.pop(name, None)
        if statement is not None:
            self._bytes -= len(statement.body)
            self._registry.drop(statement)

    def clear(self, effects: Iterable[Effect] = ()) -> None:
        """Forget all names; those of effects still to come will be there."""
        for name in list(self._names):
            self._forget(name)
        self.plan_again(effects)

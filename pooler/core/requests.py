"""What a client asks for: each message of its stream, read on its way to a server.

Most messages are only counted for the ledger. A statement's text is looked up for what it hints
at, and may be refused; a message with the name of a prepared statement is edited to have ours. What
is changed comes out as `edits` of the chunk, what is owed as the cutter's `kinds`. Knows no
transport: `client` decides when a chunk is read, and sends it.
"""

from typing import TYPE_CHECKING, Final

from pooler.core import policy
from pooler.core.ddl import Change
from pooler.core.errors import ClientFault
from pooler.core.hints import (
    ANYTHING,
    DATABASE,
    DEALLOCATES,
    ENDLESS,
    EXECUTES,
    LOCK_TIMEOUT,
    NOTHING,
    NOTIFIES,
    PREPARED,
    RESET,
    SEQUENCES,
    TOO_LONG,
    Hint,
    databases_in,
    names_in,
)
from pooler.core.ledger import ENDS
from pooler.core.names import TEXT_LIMIT, Names
from pooler.core.peer import HOLD_LIMIT, Edit
from pooler.core.settings import PoolMode
from pooler.core.statements import Wait
from pooler.wire import build, codes
from pooler.wire.cutter import (
    END,
    FROM_CLIENT,
    FROM_CLIENT_CLOSELY,
    MORE,
    client_cutter,
    string_end,
)

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.server import Server

_PORTAL: Final = ord("P")  # in a Describe
_FLUSH: Final = build.message(codes.FLUSH, b"")

CUSTOM_LIMIT: Final = 1_000
"""Names of custom settings remembered of a client."""

HINTED_LIMIT: Final = 10_000
"""Prepared statements with a hint remembered of a client; with more, any Bind is one."""


class Requests:
    """One client's stream, as far as it has been passed on."""

    __slots__ = (
        "_client",
        "_hinted",
        "_prepared_flags",
        "cutter",
        "edits",
        "foreseen",
        "names",
        "own_limit",
    )

    def __init__(self, client: "Client") -> None:
        self._client = client
        self.names = Names(client)
        self.cutter = client_cutter()
        self.edits: list[Edit] = []  # to be made in the chunk under way
        self.foreseen: Hint | None = None  # of its first text, if that has been looked up already
        self._hinted: dict[bytes, Hint] = {}  # of prepared statements, by name
        self.own_limit = "lock_timeout" in client.startup  # set by the client itself
        self._prepared_flags = 0  # what EXECUTE of a statement prepared in SQL may do

    def remember(self, parsed: list[bytes], in_sql: list[bytes]) -> None:
        """Note what prepared statements hint at: bodies of Parses, and texts of PREPAREs."""
        hints = self._client.pool.hints
        for body in parsed:
            hint = hints.of(body)
            if hint is not NOTHING:
                self._prepared_flags |= hint.flags
                self._note_statement(body, hint)
        for text in in_sql:
            self._prepared_flags |= hints.of(text).flags

    def read(self, data: bytes, server: "Server") -> int:
        """Note what the messages in `data` mean; return where what cannot be passed on begins."""
        client = self._client
        cutter = self.cutter
        end = len(data)
        names = (
            client.mode is not PoolMode.SESSION
            and not client.pool.single_use
            and client.pool.settings.max_prepared_statements > 0
        ) or len(self.names) > 0
        replacement = b""
        foreseen, self.foreseen = self.foreseen, None
        if server.meter is not None:
            server.meter.next_chunk()
        sync = -1  # where the next Sync is, `end` if there is none
        at = cutter.scan(data, 0)
        while True:
            stop = cutter.stop
            if stop in (END, MORE):
                return at
            if stop == codes.TERMINATE:
                client.terminated = True
                return at
            size = cutter.size
            if at + size > end and size <= (TEXT_LIMIT if stop == codes.PARSE else HOLD_LIMIT):
                return at
            body = data[at + codes.HEADER : min(at + size, end)]
            if stop == codes.BIND:
                change = self._look_at_bind(body, server)
                if change is not None and self._migrate(change, stop, server, at):
                    return at
            elif stop == codes.QUERY or stop == codes.PARSE:
                if foreseen is not None and at == 0:
                    hint = foreseen
                else:
                    hint = client.pool.hints.of(body) if at + size <= end else TOO_LONG
                if hint.shown is not None and client.mode is not PoolMode.SESSION:
                    hint, replacement = self._apply_policy(hint, stop, body)
                if hint is not NOTHING:
                    self._heed(hint, server)
                    if hint.change is not None and self._migrate(hint.change, stop, server, at):
                        return at
                    if hint.flags & DATABASE:
                        client.pool.edge.vacate(databases_in(body))
                elif server.excused:
                    server.excused = False
                if stop == codes.PARSE and (hint is not NOTHING or self._hinted):
                    self._note_statement(body, hint)
                if replacement:
                    body = replacement[codes.HEADER :]
                server.asked = body
            manage = names
            cached = False
            if stop == codes.QUERY:
                self.names.unnamed = None  # a server drops it, too
                if self.names.keeps_unnamed:
                    self.names.forget_unnamed(server)
                in_sql = hint.flags & (DEALLOCATES | EXECUTES) != 0 or bool(hint.unlistened)
                manage = names and in_sql
            elif stop == codes.PARSE and body[:1] == b"\0":
                in_sql = hint.flags & (DEALLOCATES | EXECUTES) != 0
                if client.pool.settings.cache_unnamed and hint is NOTHING:
                    cached = names and self.names.caches(body)
                manage = names and (in_sql or cached)
                if not cached and not server.skips(cutter.kinds):
                    if self.names.keeps_unnamed:
                        self.names.forget_unnamed(server)
                    self.names.parsed_unnamed(body)
                    if not (self._hinted or self.names.any) and server.meter is None:
                        if sync < at + size:
                            sync = data.find(build.SYNC, at + size)
                            sync = end if sync < 0 else sync
                        if sync >= end - len(build.SYNC):
                            cutter.marks = FROM_CLIENT  # its Binds are of what it parsed here
            elif stop == codes.PARSE and not names:
                server.touch(PREPARED, hint)
            effects, kinds = len(server.effects), len(cutter.kinds)
            try:
                renamed = manage and self._rename(stop, body, data, at, size, server, cached)
            except Wait as wait:
                if wait.asks:
                    self.edits.append((at, at, wait.asks + _FLUSH))
                else:
                    server.take_back(len(server.effects) - effects)
                    del cutter.kinds[kinds:]
                client.holds = True
                return at
            if not renamed:
                cutter.kinds.append(stop)
                if replacement:
                    self.edits.append((at, at + size, replacement))
            if server.meter is not None:
                server.meter.asked(stop, body, cutter.kinds, kinds)
            replacement = b""
            if at + size == end:
                cutter.stop = END
                return end
            at = cutter.pass_over(data, at)

    def _apply_policy(self, hint: Hint, kind: int, body: bytes) -> tuple[Hint, bytes]:
        """Warn of what a text shows, or refuse it; return hint and bytes of what is sent instead.

        Nothing is, b"", where it is not refused.
        """
        assert hint.shown is not None
        for feature in hint.shown.warned:
            self._client.notes.warn(feature)
        refused = hint.shown.refused
        if refused is None:
            return hint, b""
        self._client.pool.counters.refusals += 1
        return NOTHING, policy.replacement(kind, body, refused)

    def _rename(
        self,
        kind: int,
        body: bytes,
        data: bytes,
        at: int,
        size: int,
        server: "Server",
        cached: bool,
    ) -> bool:
        """Have a message name its statement as the server does; False: it is sent as it is."""
        kinds = self.cutter.kinds
        if server.skips(kinds):
            return False  # the server will not read it
        end = min(at + size, len(data))
        whole = end == at + size
        edit: Edit | None = None
        if kind == codes.BIND:
            then = end + codes.HEADER
            describes = (
                whole and then < len(data) and data[end] == codes.DESCRIBE and data[then] == _PORTAL
            )
            edit = self.names.bind(data[at:end], size, describes, server, kinds)
            if edit is None:
                return False
            self.edits.append((at, at + edit[1], edit[2]))
            kinds.append(codes.BIND)
        else:
            instead: bytes | None = None
            if kind == codes.PARSE:
                if not whole or size > TEXT_LIMIT:
                    raise ClientFault(
                        codes.PROGRAM_LIMIT_EXCEEDED,
                        f"a statement of more than {TEXT_LIMIT} bytes cannot be prepared by name",
                        hint="Use the unnamed statement, or session mode.",
                    )
                if body[:1] != b"\0":
                    instead = self.names.parse(body, server, kinds)
                elif cached:
                    instead = self.names.parse_unnamed(body, server, kinds)
                else:  # one that may mean a named one in SQL
                    instead = self.names.sql.unnamed(body[1:], server, kinds)
                self.cutter.marks = FROM_CLIENT_CLOSELY
            elif kind == codes.DESCRIBE:
                instead = self.names.describe(body, server, kinds)
            elif kind == codes.CLOSE:
                instead = self.names.close(body, server, kinds)
            elif kind == codes.QUERY:
                instead = self.names.sql.in_sql(body, server, kinds)
            if instead is None:
                return False
            self.edits.append((at, end, instead))
        return True

    def _heed(self, hint: Hint, server: "Server") -> None:
        """Note what a text that the client sent may do to the session."""
        # Its command tag is that of any SET: it is excused where no other's can be meant.
        server.excused = hint.local and not (server.ledger.owed or self.cutter.kinds)
        flags = hint.flags
        if not self._client.startup:
            flags &= ~RESET
        if flags & EXECUTES:
            flags |= self._prepared_flags
        server.touch(flags, hint)
        if flags & SEQUENCES:
            self._client.pool.asks_sequences = True
        if flags & LOCK_TIMEOUT:
            self.own_limit = True
        if flags & NOTIFIES:
            server.notifier = self._client.pid
        if hint.unlistened and self._client.listening:
            self._client.unlistening |= hint.unlistened
        self._prepared_flags |= flags
        self._may_set(hint.names, server, hint)

    def _may_set(self, names: frozenset[str], server: "Server", hint: Hint) -> None:
        """Remember custom settings to ask about; who has too many keeps its server instead."""
        if not names <= self._client.custom:
            custom = self._client.custom | names
            if len(custom) <= CUSTOM_LIMIT:
                self._client.custom = custom
            else:
                server.touch(ENDLESS, hint)

    def _note_statement(self, body: bytes, hint: Hint) -> None:
        """Remember that a prepared statement's text hints at something: its Binds will not."""
        name = body[: body.find(b"\0")]
        if hint is NOTHING:
            self._hinted.pop(name, None)
        elif len(self._hinted) < HINTED_LIMIT:
            self._hinted[name] = hint
            self.cutter.marks = FROM_CLIENT_CLOSELY

    def _migrate(self, change: Change, kind: int, server: "Server", at: int) -> bool:
        """Let a change of the schema into the lane; True: what is from `at` on has to wait."""
        client, kinds = self._client, self.cutter.kinds
        server.changing(change.words)
        pool = client.pool
        settings = pool.settings.migrations
        if (
            not (settings.enabled and change.told)
            or server.skips(kinds)
            or pool.single_use
            or client.internal
        ):
            if server.run is not None:
                server.run.outline = ""
            return False
        if server.run is not None and (server.run.guarded or server.run.limited):
            return not pool.lane.enter(change, client, server)
        if server.unknown(kinds) or not pool.lane.enter(change, client, server):
            client.holds = True
        elif change.guarded and settings.lock_timeout and not self.own_limit:
            behind = kinds[-1] not in ENDS if kinds else server.ledger.unsynced
            if server.status == codes.FAILED_TRANSACTION or (kind == codes.QUERY and behind):
                return False
            if change.solitary and server.status == codes.IDLE:
                client.holds = pool.lane.limits(server, kinds)
                return client.holds
            self.edits.append((at, at, pool.lane.guard(server, kinds) + _FLUSH))
            client.holds = True
        return client.holds

    def _look_at_bind(self, body: bytes, server: "Server") -> Change | None:
        """Note what the statement bound may do, and names of settings among its parameters.

        Returns the change of the schema that it is.
        """
        if not self._hinted:
            server.excused = False
            return None
        portal_end = string_end(body, 0)
        name = body[portal_end + 1 : string_end(body, portal_end + 1)]
        hint = self._hinted.get(name)
        if server.excused:
            server.excused = hint is not None and hint.local
        if hint is None:
            if len(self._hinted) >= HINTED_LIMIT:
                server.touch(ANYTHING, TOO_LONG)
            return None
        server.touch(hint.flags, hint)
        if hint.unnamed:
            self._may_set(names_in(body), server, hint)
        return hint.change

"""What a client asks for: each message of its stream, read on its way to a server.

Most messages are only counted for the ledger. A statement's text is looked up for what it hints
at, and may be refused; a message with the name of a prepared statement is edited to have ours. What
is changed comes out as `edits` of the chunk, what is owed as the cutter's `kinds`. Knows no
transport: `client` decides when a chunk is read, and sends it.
"""

from typing import TYPE_CHECKING, Final

from pooler.core import policy
from pooler.core.errors import ClientFault
from pooler.core.hints import (
    ANYTHING,
    DATABASE,
    DEALLOCATES,
    ENDLESS,
    EXECUTES,
    NOTHING,
    NOTIFIES,
    PREPARED,
    RESET,
    TOO_LONG,
    Hint,
    databases_in,
    names_in,
)
from pooler.core.names import TEXT_LIMIT, Names
from pooler.core.peer import HOLD_LIMIT, Edit
from pooler.core.settings import PoolMode
from pooler.core.statements import Wait
from pooler.wire import build, codes
from pooler.wire.cutter import END, FROM_CLIENT, FROM_CLIENT_CLOSELY, MORE, client_cutter

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.server import Server

_FLUSH: Final = build.message(codes.FLUSH, b"")

CUSTOM_LIMIT: Final = 1_000
"""Names of custom settings remembered of a client."""

HINTED_LIMIT: Final = 10_000
"""Prepared statements with a hint remembered of a client; with more, any Bind is one."""


class Requests:
    """One client's stream, as far as it has been passed on."""

    __slots__ = ("_client", "_hinted", "_prepared_flags", "cutter", "edits", "names")

    def __init__(self, client: "Client") -> None:
        self._client = client
        self.names = Names(client)
        self.cutter = client_cutter()
        self.edits: list[Edit] = []  # to be made in the chunk under way
        self._hinted: dict[bytes, Hint] = {}  # of prepared statements, by name
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
                self._look_at_bind(body, server)
            elif stop in (codes.QUERY, codes.PARSE):
                hint = client.pool.hints.of(body) if at + size <= end else TOO_LONG
                if hint.shown is not None and client.mode is not PoolMode.SESSION:
                    hint, replacement = self._apply_policy(hint, stop, body)
                if hint is not NOTHING:
                    self._heed(hint, server)
                    if hint.change is not None:
                        server.changing(hint.change.words)
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
            if stop == codes.QUERY:
                self.names.unnamed = None  # a server drops it, too
                in_sql = hint.flags & (DEALLOCATES | EXECUTES) != 0 or hint.unlistened
                manage = names and bool(in_sql)
            elif stop == codes.PARSE and body[:1] == b"\0":
                self.names.parsed_unnamed(body)
                if not self._hinted and not self.names.any and server.meter is None:
                    cutter.marks = FROM_CLIENT  # its Binds are of what it parsed on this server
                manage = names and hint.flags & (DEALLOCATES | EXECUTES) != 0
            elif stop == codes.PARSE and not names:
                server.touch(PREPARED, hint)
            effects, kinds = len(server.effects), len(cutter.kinds)
            try:
                renamed = manage and self._rename(stop, body, data, at, size, server)
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
        self, kind: int, body: bytes, data: bytes, at: int, size: int, server: "Server"
    ) -> bool:
        """Have a message name its statement as the server does; False: it is sent as it is."""
        kinds = self.cutter.kinds
        if server.ledger.skipping and codes.SYNC not in kinds:
            return False  # the server will not read it
        end = min(at + size, len(data))
        whole = end == at + size
        edit: Edit | None = None
        if kind == codes.BIND:
            follows = data[end : end + codes.HEADER + 1]
            describes = whole and follows[:1] == b"D" and follows[-1:] == b"P"
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
                if body[:1] == b"\0":  # one that may mean a named one in SQL
                    instead = self.names.sql.unnamed(body[1:], server, kinds)
                else:
                    instead = self.names.parse(body, server, kinds)
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

    def _look_at_bind(self, body: bytes, server: "Server") -> None:
        """Note what the statement bound may do, and names of settings among its parameters."""
        portal_end = body.find(b"\0")
        name = body[portal_end + 1 : body.find(b"\0", portal_end + 1)]
        hint = self._hinted.get(name)
        if server.excused:
            server.excused = hint is not None and hint.local
        if hint is None:
            if len(self._hinted) >= HINTED_LIMIT:
                server.touch(ANYTHING, TOO_LONG)
            return
        server.touch(hint.flags, hint)
        if hint.change is not None:
            server.changing(hint.change.words)
        if hint.unnamed:
            self._may_set(names_in(body), server, hint)

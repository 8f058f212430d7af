"""SQL that names a client's prepared statements of the extended protocol: EXECUTE, DEALLOCATE.

PostgreSQL keeps both kinds under the same names, so what a client prepares in one way it may use in
the other. Each method returns what the server is sent instead, None for the text itself.
"""

import re
from typing import TYPE_CHECKING, Final

from pooler.core.effects import Effect
from pooler.core.statements import PREFIX, SPARE, Statement, Wait, foreign
from pooler.wire import build, codes

if TYPE_CHECKING:
    from pooler.core.names import Names
    from pooler.core.server import Server

_NAME: Final = rb"(\"(?:[^\"]|\"\")+\"|[a-z_][\w$]*)"
_DEALLOCATE: Final = re.compile(
    rb"(?is)\s*deallocate\s+(?:prepare\s+)?(?!all\b)%b\s*;?\s*\0" % _NAME
)
_ALL: Final = re.compile(rb"(?is)\s*(?:deallocate\s+(?:prepare\s+)?|discard\s+)all\s*;?\s*\0")
_EXECUTE: Final = re.compile(rb"(?is)(\s*execute\s+)%b" % _NAME)


def _sql_name(raw: bytes) -> bytes:
    return raw[1:-1].replace(b'""', b'"') if raw.startswith(b'"') else raw.lower()


def _quoted(name: bytes) -> bytes:
    return b'"' + name.replace(b'"', b'""') + b'"'


def _refuses(server: "Server", kinds: list[int]) -> bool:
    """Return whether the transaction has failed; Wait where that is not known."""
    if server.unknown(kinds):
        raise Wait
    return server.status == codes.FAILED_TRANSACTION


class SqlNames:
    """One client's names, as its SQL has them."""

    __slots__ = ("_names",)

    def __init__(self, of: "Names") -> None:
        self._names = of

    def in_sql(self, text: bytes, server: "Server", kinds: list[int]) -> bytes | None:
        """Take a Query that may name one of these."""
        if _ALL.fullmatch(text):
            if server.unknown(kinds):
                raise Wait
            self._names.plan_none(server.group_of(kinds))
            server.prepared.doubt()  # of what comes behind it, unless it fails
            return None
        executed = self.execute(text, server, kinds)
        if executed is not None:
            kinds.append(codes.QUERY)
            return executed[0] + build.message(codes.QUERY, executed[1])
        # It is answered by the server, with the tag and in the state that belong there.
        instead = self._deallocate(text, b"", server, kinds)
        if instead is None:
            return None
        kinds.append(codes.QUERY)
        return instead[0] + build.query(instead[1])

    def unnamed(self, text: bytes, server: "Server", kinds: list[int]) -> bytes | None:
        """Take an unnamed Parse that may name one of these."""
        executed = self.execute(text, server, kinds)
        if executed is None:
            end = text.find(b"\0") + 1
            instead = self._deallocate(text[:end], b"SELECT", server, kinds)
            if instead is None:
                return None
            executed = instead[0], instead[1] + b"\0" + text[end:]
        kinds.append(codes.PARSE)
        return executed[0] + build.message(codes.PARSE, b"\0" + executed[1])

    def execute(
        self, text: bytes, server: "Server", kinds: list[int]
    ) -> tuple[bytes, bytes] | None:
        """Return what has to come first, and an EXECUTE's text with our name in it."""
        found = _EXECUTE.match(text)
        if found is None:
            return None
        name = _sql_name(found[2])
        entry = self._names.known(name, server, kinds)
        if entry is not None:
            if _refuses(server, kinds):
                return None
            added, instead = self._names.use(entry, name, server, kinds, blind=False)
        elif name.startswith(PREFIX):
            added, instead = b"", _quoted(PREFIX + name)
        else:
            return None
        return added, found[1] + instead + text[found.end() :]

    def executes(self, text: bytes) -> Statement | None:
        """Return the statement, of the extended protocol, that an EXECUTE names."""
        found = _EXECUTE.match(text)
        entry = None if found is None else self._names.of(_sql_name(found[2]))
        return None if entry is None else entry.statement

    def _deallocate(
        self, text: bytes, spare: bytes, server: "Server", kinds: list[int]
    ) -> tuple[bytes, bytes] | None:
        """Return what prepares, as `spare`, what is deallocated instead of one of these, and that.

        A spare that is not empty fails in a failed transaction, and with it what comes behind it.
        """
        found = _DEALLOCATE.fullmatch(text)
        if found is None:
            return None
        name = _sql_name(found[1])
        if self._names.known(name, server, kinds) is None:
            other = foreign(name)
            return None if other is None else (b"", b"DEALLOCATE " + _quoted(other))
        if _refuses(server, kinds):
            return None
        effect = self._names.plan(Effect(None, name, None, server.group_of(kinds)))
        self._names.deallocated = name
        added = self._names.spare(spare, kinds, server, effect)
        return added, b"DEALLOCATE " + SPARE

"""What we ask a server ourselves, between clients: dialogues as generators.

A chore yields the bytes to send (b"": only wait) and is resumed, once the server has settled,
with the fields of the ErrorResponse that came meanwhile, None if none did. It returns an
ErrorResponse's fields, or None when all went well; it raises `Unusable` when the server can be
given to nobody. Nothing of its replies reaches a client.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING

from pooler.core import hints, truth
from pooler.core.errors import CloseReason
from pooler.core.session import Settings
from pooler.wire import build, codes

if TYPE_CHECKING:
    from pooler.core.server import Server

Failure = dict[str, str] | None
Chore = Generator[bytes, Failure, Failure]


class Unusable(Exception):
    """The server cannot be used any more."""

    def __init__(self, reason: CloseReason, text: str = "") -> None:
        super().__init__(text or reason.value)
        self.reason = reason
        self.text = text


def opening(server: "Server", connect_query: str) -> Chore:
    """Run `connect_query` on a new server, and note what its session is like from the start."""
    if connect_query:
        failure = yield build.query(connect_query)
        if failure or server.status != codes.IDLE:
            failure = failure or {"M": "it leaves a transaction open", "C": "25001"}
            server.pool.supply.not_opened(server, failure)
            raise Unusable(CloseReason.CONNECT_QUERY, failure.get("M", ""))
    server.pool.supply.opened(server)
    server.rebase()
    return None


def prepare(check_query: str, changes: list[str]) -> Chore:
    """See whether an idle server still answers, and set it as its next client wants."""
    if check_query:
        failure = yield build.query(check_query)
        if failure:
            raise Unusable(CloseReason.CHECK_FAILED, failure.get("M", ""))
    for sql in changes:
        failure = yield build.query(sql)
        if failure:
            return failure
    return None


def ask(server: "Server", asked: int, names: frozenset[str], before: Settings) -> Chore:
    """Ask what the session holds of what the flags `asked` say, and note it on the server.

    Where the answer cannot be had, also without the client's `statement_timeout`, it stays unknown:
    the server is pinned, and asked again later.
    """
    question = build.query(truth.question(asked, names))
    server.answer = bytearray()
    failure = yield question
    if failure:
        yield build.query("BEGIN;SET LOCAL statement_timeout=0")
        server.answer = bytearray()
        failure = yield question
    answer, server.answer = server.answer, None
    if server.status != codes.IDLE:
        yield build.query("ROLLBACK")
    if failure or len(answer) > truth.ANSWER_LIMIT:
        server.pins |= hints.UNKNOWN
        server.aim = before
    else:
        found = truth.read(bytes(answer), asked, server.pool.user)
        server.touched &= ~asked
        server.pins = server.pins & ~asked & ~hints.UNKNOWN | found.pins
        server.aim = found.merged(before)
        if asked & hints.CHANNELS:
            server.channels = frozenset(found.channels)
            owner = server.owner
            served = owner is not None and server.channels <= owner.listening
            if server.channels and served and server.pool.broadcast.hears(server.channels):
                failure = yield build.query("UNLISTEN *")
                if not failure:
                    server.pins &= ~hints.CHANNELS
    return None


def tidy(server: "Server", reset_query: str) -> Chore:
    """Bring a server whose client has gone back to a clean state, however it was left."""
    ledger = server.ledger
    server.stand_in()
    if ledger.unsynced:  # a Sync would commit what its client did not
        server.send(build.query("ROLLBACK"), [codes.QUERY])
    if not ledger.settled:
        yield b""
    for sql in ("ROLLBACK" if server.status != codes.IDLE else "", reset_query):
        if sql:
            failure = yield build.query(sql)
            if failure or server.status != codes.IDLE:
                raise Unusable(CloseReason.NOT_TIDY, (failure or {}).get("M", ""))
    return None

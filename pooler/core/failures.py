"""What an error of PostgreSQL's means: for what is owed, for statements, and for its client.

An error about a statement names it as the client does. One that says that the schema has changed
under a statement is not passed on where what failed can be sent again (see `again`).
"""

from typing import TYPE_CHECKING

from pooler.core import policy
from pooler.core.effects import skipped
from pooler.core.ledger import SPECIAL
from pooler.core.names import STALE, made_to_fail
from pooler.core.statements import PREFIX
from pooler.wire import build, codes

if TYPE_CHECKING:
    from pooler.core.server import Server


def failed(server: "Server", body: bytes, fields: dict[str, str]) -> bytes | None:
    """Account for an error; return what the client is told instead, None if it is told that."""
    ledger, client = server.ledger, server.client
    sqlstate = fields.get("C", "")
    special = 0 < (ledger.owed[0] if ledger.owed else 0) <= SPECIAL
    effect = server.effects[0] if special else None
    owed = b""
    if client is not None and client.burst and (PREFIX in body or _changed(fields)):
        owed = ledger.sent_by_client()
    instead: bytes | None = None
    if PREFIX in body and client is not None:
        said = client.names.in_its_words(body, sqlstate, effect)
        instead = build.message(codes.ERROR_RESPONSE, said)
    unanswered = ledger.failed()
    if ledger.parse_failed and client is not None and codes.PARSE not in ledger.owed:
        client.names.unnamed_skipped()
    if client is not None and (_changed(fields) or STALE in body):
        server.pool.counters.schema_changes += 1
        for statement in client.names.recent:
            server.pool.registry.retire(statement)
        if client.schema_changed(owed):
            instead = b""
    elif client is not None and sqlstate == codes.UNDEFINED_STATEMENT and PREFIX in body:
        gone = any(b'"%b"' % statement.name in body for statement in client.names.recent)
        if gone and client.schema_changed(owed):
            instead = b""
    skipped(server, unanswered)
    if PREFIX in body and not made_to_fail(body):  # somebody prepares or deallocates beside us
        if effect is not None and effect.concerns is not None:
            server.prepared.doubt((effect.concerns,))
        elif sqlstate == codes.UNDEFINED_STATEMENT:
            server.prepared.doubt()
    told = _replaced(server, body, fields) if client is not None else None
    return instead if told is None else told


def _changed(fields: dict[str, str]) -> bool:
    """Return whether an error is that a prepared statement's result has another shape now.

    By its place in PostgreSQL's source, as pgjdbc does: "cached plan must not change result type"
    is in the language of `lc_messages`.
    """
    sqlstate = fields.get("C")
    return sqlstate == codes.FEATURE_NOT_SUPPORTED and fields.get("R") == "RevalidateCachedQuery"


def _replaced(server: "Server", body: bytes, fields: dict[str, str]) -> bytes | None:
    """Return what stands for an error that we have provoked."""
    if server.run is not None:
        told = server.pool.lane.failed(server, fields, body)
        if told is not None:
            return told
    return policy.refusal(fields) if server.pool.rules.refuses else None

"""A client's session as plain data, and a client made of it: how one moves to another process.

`pack` gives what JSON can hold; bytes are text of the same code points (latin-1). `unpack` makes
the same client of it, in another process or, when that is gone, in this one. Only a client at rest
can be packed: it has no server, nothing is half sent in either direction, and nothing is due to it.

Prepared statements are many clients' and long, so each is packed once, under a number. What their
texts hint at is not packed but found again: another version may know better.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pooler.core.client import Client
from pooler.core.peer import Transport
from pooler.core.session import STATEMENT
from pooler.core.states import ClientState

if TYPE_CHECKING:
    from pooler.core.pool import Pool
    from pooler.core.routes import Router
    from pooler.core.statements import Statement

Packed = dict[str, Any]
Statements = Mapping[int, Packed]

_AT_REST: Final = (ClientState.GREETING, ClientState.IDLE, ClientState.WAITING)


def at_rest(client: Client) -> bool:
    """Return whether a client can be packed now."""
    return (
        client.state in _AT_REST
        and client.server is None
        and client.asked is None
        and not client.within_message
        and not client.full
        and not client.internal
        and not client.pool.single_use
        and client.notes.nothing_due
    )


class Packer:
    """Packs clients, and each of their prepared statements once."""

    def __init__(self) -> None:
        self._numbers: dict[Statement, int] = {}

    def statements(self, client: Client) -> list[Packed]:
        """Return the client's statements that were not packed before: to be sent first."""
        new: list[Packed] = []
        for _, entry in client.names.items():
            self._add(entry.statement, new)
        return new

    def _add(self, statement: "Statement", new: list[Packed]) -> int:
        number = self._numbers.get(statement)
        if number is None:
            needs = statement.needs
            needed = None if needs is None else self._add(needs, new)
            number = self._numbers[statement] = len(self._numbers)
            new.append(
                {
                    "number": number,
                    "name": _text(statement.name),
                    "body": _text(statement.body),
                    "settings": dict(statement.key[1]),
                    "needs": needed,
                }
            )
        return number

    def pack(self, client: Client, heard: Mapping[str, int]) -> Packed:
        """Return the client's session; `statements` were asked for before.

        `heard` is what it was told of each channel that it listens to, see `following`.
        """
        held, drop, skipping = client.held
        unnamed = client.names.unnamed
        return {
            "ident": client.ident,
            "name": client.name,
            "database": client.database,
            "user": client.user,
            "minor": client.minor,
            "pid": client.pid,
            "secret": _text(client.secret),
            "opened_at": client.opened_at,
            "idle_since": client.idle_since,
            "waiting_since": client.waiting_since if client.state is ClientState.WAITING else 0.0,
            "notified": client.notified,
            "greeted": client.state is not ClientState.GREETING,
            "startup": dict(client.startup),
            "wants": dict(client.wants),
            "told": dict(client.told),
            "custom": sorted(client.custom),
            "listening": sorted(client.listening),
            "heard": dict(heard),
            "warned": list(client.notes.warned),
            "statements": [
                [_text(name), self._numbers[entry.statement], _text(entry.told)]
                for name, entry in client.names.items()
            ],
            "unnamed": None if unnamed is None else _text(unnamed),
            "held": _text(held),
            "drop": drop,
            "skipping": skipping,
        }


def unpack(
    router: "Router", transport: Transport, packed: Packed, statements: Statements
) -> Client:
    """Return the client, counted and with its key; `arrive` lets it go on.

    PoolerError says why it cannot stay. KeyError, TypeError, ValueError: this is no packed client.
    """
    client = router.readmit(
        transport,
        packed["name"],
        packed["database"],
        packed["user"],
        packed["startup"],
        packed["minor"],
        packed["ident"],
        (packed["pid"], _bytes(packed["secret"])),
        packed["opened_at"],
    )
    pool = client.pool
    shelf = pool.shelf
    client.wants = shelf.shared(packed["wants"])
    client.told = shelf.shared(packed["told"])
    client.custom = frozenset(packed["custom"])
    client.notes.warned = tuple(packed["warned"])
    texts: list[bytes] = []
    for name, number, told in packed["statements"]:
        statement = _statement(pool, number, statements)
        raw = _bytes(name)
        client.names.adopt(raw, statement, _bytes(told))
        texts.append(raw + b"\0" + statement.body)
    unnamed = packed["unnamed"]
    if unnamed is not None:
        client.names.unnamed = _bytes(unnamed)
        texts.append(_bytes(unnamed))
    in_sql = [
        text.encode("utf-8", "surrogateescape") + b"\0"
        for name, text in client.wants.items()
        if name.startswith(STATEMENT)
    ]
    client.requests.remember(texts, in_sql)
    client.put_back(_bytes(packed["held"]), packed["drop"], packed["skipping"])
    return client


def arrive(client: Client, packed: Packed) -> None:
    """Let an unpacked client, which is its transport's protocol now, go on where it was."""
    if not packed["greeted"]:
        client.pool.enter(client)
        return
    client.idle_since = packed["idle_since"]
    channels = frozenset(packed["listening"])
    if channels:
        client.pool.broadcast.resume(client, channels, packed["heard"])
    client.pool.resume(client)
    if packed["waiting_since"] and client.state is ClientState.WAITING:
        client.waiting_since = packed["waiting_since"]
        client.notified = packed["notified"]


def _statement(pool: "Pool", number: int, statements: Statements) -> "Statement":
    packed = statements[number]
    body = _bytes(packed["body"])
    needs = packed["needs"]
    needed = None if needs is None else _statement(pool, needs, statements)
    if needed is not None:  # its text executes that by our name for it, which was another
        body = body.replace(_bytes(statements[needs]["name"]), needed.name, 1)
    found = pool.registry.find(body, packed["settings"])
    if needed is not None:
        found.needs = needed
    return found


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")

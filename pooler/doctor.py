"""`pooler doctor`: logs in to every configured database as a server connection would.

One line for each (database, user) that can be known without a client: what answered, or what is
wrong and where to look.
"""

import asyncio
import random
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from pooler.config import Config
from pooler.core.errors import ServerFault, ServerRefused
from pooler.core.settings import Host, Route
from pooler.dialer import Dialer
from pooler.wire import build, codes, parse
from pooler.wire.scram import Keyring

TIMEOUT: Final = 10.0
"""Seconds for a login, and for the answer to a question."""

_QUESTION: Final = (
    "SELECT current_setting('server_version'), current_setting('max_connections'),"
    " pg_is_in_recovery()"
)

_ADVICE: Final = {
    "28P01": "the password in `databases` or `users` is not the one PostgreSQL has",
    "28000": "PostgreSQL's pg_hba.conf does not let this user in from here",
    "3D000": "set `dbname`, or create the database",
    "53300": "PostgreSQL is full: its max_connections must exceed the sum of all pool_size",
    "certificate": "`server_tls.ca_file` must hold the CA of the server's certificate, and `host` "
    "must be one of its names",
    "no TLS": "set `ssl = on` in postgresql.conf, or `server_tls.sslmode: prefer`",
    "57P03": "PostgreSQL is starting up or shutting down",
}


async def run(config: Config) -> int:
    """Check all databases; return 0 when every one can be used, 1 otherwise."""
    dialer = Dialer(lambda: config, secrets.token_bytes, random.random, Keyring())
    wrong = 0
    for route in _routes(config):
        for host in route.target.hosts:
            where = f"{route.database} as {route.target.user} at {host}"
            try:
                version, most, standby = await _ask(dialer, route, host)
            except ServerFault as error:
                wrong += 1
                advice = _ADVICE.get(error.sqlstate) or _guess(error.text)
                words = " ".join(f"{error.text} {error.detail}".split())
                print(f"WRONG {where}: {words}{f' ({advice})' if advice else ''}")
                continue
            print(f"ok    {where}: PostgreSQL {version}{', a standby' if standby == 't' else ''}")
            if route.pool.pool_size >= int(most):
                wrong += 1
                print(
                    f"WRONG {where}: pool_size {route.pool.pool_size} is not below"
                    f" PostgreSQL's max_connections {most}"
                )
    for name in config.databases:
        if not any(route.database == name for route in _routes(config)):
            print(f"skip  {name}: whom to log in as is up to its clients")
    return 1 if wrong else 0


async def _ask(dialer: Dialer, route: Route, host: Host) -> list[str]:
    """Log in as a server connection does, and ask what is worth knowing; ServerFault."""
    name = ("application_name", "pooler doctor")
    target = replace(route.target, startup=(*route.target.startup, name))
    transport, _ = await dialer.log_in(host, target, target.password, TIMEOUT)
    try:
        if target.connect_query:
            await _answer(transport, target.connect_query)
        (row,) = parse.rows(await _answer(transport, _QUESTION))
        transport.write(build.TERMINATE)
    except TimeoutError:
        raise ServerFault(codes.UNABLE_TO_CONNECT, "no answer: timeout") from None
    finally:
        transport.close()
    return [parse.text(value or b"") for value in row]


async def _answer(transport: asyncio.Transport, query: str) -> bytes:
    """Return the messages that answer a query; ServerFault, TimeoutError."""
    answer = _Answer()
    transport.set_protocol(answer)
    transport.write(build.query(query))
    async with asyncio.timeout(TIMEOUT):
        return await answer.whole


class _Answer(asyncio.Protocol):
    """Gathers what comes until the server is ready again."""

    def __init__(self) -> None:
        self.whole: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._received = b""
        self._error: ServerFault | None = None
        self._at = 0

    def data_received(self, data: bytes) -> None:
        """Look for an error, and for the end."""
        self._received += data
        received, at = self._received, self._at
        while at + codes.HEADER <= len(received) and not self.whole.done():
            end = at + 1 + int.from_bytes(received[at + 1 : at + codes.HEADER], "big")
            if end > len(received):
                break
            if received[at] == codes.ERROR_RESPONSE:
                self._error = ServerRefused(parse.report(received[at + codes.HEADER : end]))
            elif received[at] == codes.READY_FOR_QUERY:
                self._end()
            at = end
        self._at = at

    def connection_lost(self, error: BaseException | None) -> None:
        """Nothing more will come."""
        if not self.whole.done():
            lost = ServerFault(codes.CONNECTION_FAILURE, "server closed the connection")
            self._error = self._error or lost
            self._end()

    def _end(self) -> None:
        if self._error is not None:
            self.whole.set_exception(self._error)
        else:
            self.whole.set_result(self._received)


def _routes(config: Config) -> Iterator[Route]:
    """Yield what can be tried: forced users, and users whose password we hold in plain text."""
    for name, database in config.databases.items():
        if name == "*" and not database.dbname:
            continue
        users = [database.user] if database.user else list(config.users)
        for user in users:
            route = config.resolve(name, user)
            if route is not None and (database.user or route.target.password is not None):
                yield route


def _guess(text: str) -> str:
    """Return advice on an error that comes from this side of the connection."""
    if "certificate verify failed" in text:
        return _ADVICE["certificate"]
    if "does not support SSL" in text:
        return _ADVICE["no TLS"]
    if "refused" in text or "No such file" in text:
        return "nothing listens there: is PostgreSQL running, and are host and port right?"
    if "timeout" in text or "timed out" in text:
        return "no answer: a firewall, or a wrong address?"
    return ""

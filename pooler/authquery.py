"""Asks the database for the secrets of users who are not in the configuration (auth_query).

The question goes through a pool of its own, logged in as `auth.user`, that no client's session
ever comes to: nothing that a client sent but the name it claims, bound as a parameter, has any
say in it (CVE-2025-12819). The one who asks is a client within this process, so that limits,
back-off, time limits, reloads and TLS are the pools' own.

Answers are believed for a while, and users who log in at the same time are asked for once. A
login that fails has the answer asked anew, at most once in `auth.negative_cache_ttl`: a password
that was changed is known at the next try, and a known user is asked for as often as an unknown one.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from pooler.config import Config
from pooler.config.config import Lookup
from pooler.core.client import Client
from pooler.core.errors import CloseReason
from pooler.core.routes import AUTH, Router
from pooler.core.session import NONE
from pooler.wire import build, codes, parse
from pooler.wire.logins import LoginFailed

ANSWERS: Final = 10_000
"""Remembered at most, some 4 MB; the one used longest ago is forgotten first."""

MESSAGE_LIMIT: Final = 65_536
"""Bytes of a message of the answer; a row is a name and some hundred characters."""

_Key = tuple[Lookup, str]


class _Answer:
    """What is stored of a user; in a form that a task may show in its repr."""

    __slots__ = ("asked_at", "secret", "until")

    def __init__(self, secret: str | None, asked_at: float, ttl: float) -> None:
        self.secret = secret
        self.asked_at = asked_at
        self.until = asked_at + ttl


class AuthQuery:
    """The questions under way, and the answers."""

    def __init__(self, router: Router, config: Callable[[], Config]) -> None:
        self._router = router
        self._config = config
        self._answers: OrderedDict[_Key, _Answer] = OrderedDict()
        self._asking: dict[_Key, asyncio.Task[_Answer]] = {}
        self.asked = 0
        """Questions so far."""

    async def lookup(self, database: str, user: str) -> str | None:
        """Return what is stored of a user; None: no such user, or none who has a password.

        LoginFailed: it cannot be found out.
        """
        where = self._config().lookup(database)
        if where is None:
            return None
        key = (where, user)
        answer = self._answers.get(key)
        if answer is not None and self._router.edge.now() < answer.until:
            self._answers.move_to_end(key)
            return answer.secret
        task = self._asking.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(key, database))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._asked(key, done))
        return (await asyncio.shield(task)).secret  # others may be waiting for it

    def doubt(self, database: str, user: str) -> None:
        """Believe what is known of a user no longer than that there is no such user."""
        config = self._config()
        where = config.lookup(database)
        answer = None if where is None else self._answers.get((where, user))
        if answer is not None:
            answer.until = min(answer.until, answer.asked_at + config.auth.negative_cache_ttl)

    def clear(self) -> None:
        """Forget all answers."""
        self._answers.clear()

    async def close(self) -> None:
        """Give up all questions."""
        for task in list(self._asking.values()):
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    def _asked(self, key: _Key, task: "asyncio.Task[_Answer]") -> None:
        if self._asking.get(key) is task:
            del self._asking[key]
        if not task.cancelled():
            task.exception()  # who waits for it is told; perhaps nobody does any more

    async def _ask(self, key: _Key, database: str) -> _Answer:
        where, user = key
        self.asked += 1
        route = self._config().auth_route(where.database, where.user)
        if route is None:
            raise _failed(codes.INVALID_DATABASE, f'no database "{where.database}"', where, "")
        edge = self._router.edge
        asked_at = edge.now()
        questioner = _Questioner()
        pool = self._router.pool(route, AUTH)
        client = Client(
            questioner,
            "auth_query",
            pool,
            self._router.ident(),
            route.database,
            route.user,
            route.session,
            0,
            NONE,
            (),
            asked_at,
        )
        pool.enter(client)
        client.data_received(build.query_with(where.query, [user]))
        try:
            await questioner.answered
        except _Unanswered as unanswered:
            raise _failed(unanswered.sqlstate, unanswered.text, where, database) from None
        finally:
            client.close(CloseReason.TERMINATED)
        row = questioner.row
        if row is not None and len(row) < 2:
            raise _failed(codes.DATATYPE_MISMATCH, "its rows do not have two columns", where, "")
        secret = parse.text(row[1] or b"") if row else ""
        auth = self._config().auth
        ttl = auth.cache_ttl if secret else auth.negative_cache_ttl
        answer = _Answer(secret or None, asked_at, ttl)
        self._answers[key] = answer
        self._answers.move_to_end(key)
        if len(self._answers) > ANSWERS:
            self._answers.popitem(last=False)
        return answer


def _failed(sqlstate: str, cause: str, where: Lookup, database: str) -> LoginFailed:
    """Return the error for a client, who is told the SQLSTATE; the log is told the words."""
    if sqlstate == codes.INVALID_DATABASE and where.database == database:
        return LoginFailed(sqlstate, f'database "{database}" does not exist')
    if sqlstate.startswith("28"):  # it is not this client's password that is wrong
        sqlstate = codes.CONNECTION_FAILURE
    cause = f"auth_query as {where.user} on {where.database}: {cause}"
    return LoginFailed(sqlstate, "the user could not be looked up (auth_query)", cause)


class _Unanswered(Exception):
    def __init__(self, sqlstate: str, text: str) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
        self.text = text


class _Questioner:
    """The transport of a client within this process: takes what it would be told as the answer."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[None] = loop.create_future()
        self.row: list[bytes | None] | None = None
        self._received = bytearray()
        self._greeted = False
        self._error: _Unanswered | None = None

    def write(self, data: bytes) -> None:
        """Read what comes, as far as it is whole."""
        received = self._received
        received += data
        while len(received) >= codes.HEADER and not self.answered.done():
            size = int.from_bytes(received[1:5], "big") + 1
            if size > MESSAGE_LIMIT:
                self._end(_Unanswered(codes.PROGRAM_LIMIT_EXCEEDED, "a message is too long"))
            if len(received) < size:
                return
            kind, body = received[0], bytes(received[codes.HEADER : size])
            del received[:size]
            try:
                self._take(kind, body)
            except parse.Malformed as bad:
                self._end(_Unanswered(codes.PROTOCOL_VIOLATION, str(bad)))

    def _take(self, kind: int, body: bytes) -> None:
        if kind == codes.DATA_ROW:
            self.row = parse.data_row(body)
        elif kind == codes.ERROR_RESPONSE:
            fields = parse.report(body)
            self._error = _Unanswered(fields.get("C", codes.INTERNAL_ERROR), fields.get("M", ""))
        elif kind == codes.READY_FOR_QUERY and not self._greeted:
            self._greeted = True
        elif kind == codes.READY_FOR_QUERY:
            self._end(self._error)

    def _end(self, error: _Unanswered | None) -> None:
        if self.answered.done():
            return
        if error is None:
            self.answered.set_result(None)
        else:
            self.answered.set_exception(error)

    def close(self) -> None:
        """The client was closed, perhaps with an error that it was told."""
        self._end(self._error or _Unanswered(codes.CONNECTION_FAILURE, "it was cut off"))

    abort = close

    def write_eof(self) -> None:
        """Nothing is waiting for it."""

    def pause_reading(self) -> None:
        """There is nothing to pause: one question is all."""

    def resume_reading(self) -> None:
        """As `pause_reading`."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what was to be returned if nothing is known: nothing is."""
        return default

    def is_closing(self) -> bool:
        """Return whether the answer is there."""
        return self.answered.done()

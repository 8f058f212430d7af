"""The migration lane: how changes of the schema go through a pool.

A change that waits for a lock has everybody wait who comes behind it. So it runs with a
`lock_timeout`, in its own transaction only, where neither the session nor the server has one. No
more than so many run at once; each is counted and told: how long it took, and waited for locks.

The timeout is set by a statement in front of the change, within the same transaction, which has to
be answered before the change is sent. What may need a transaction of its own has it set on its
session, which is set back afterwards, here or by whoever has the server next. Where either could
break something it is left out: see `ddl.Change`.

Where several workers share the number that may run at once, a budget of places is asked (`report`)
and says how many this one may have (`allot`), as it does for server connections.
"""

from typing import TYPE_CHECKING, Final

from pooler.core import ddl
from pooler.core.budget import Report
from pooler.core.cancel import CANCELED
from pooler.core.client import Client
from pooler.core.effects import Effect
from pooler.core.errors import CloseReason, PoolerError
from pooler.core.inner import Inner
from pooler.core.ledger import OUR_BIND, OUR_CLOSE, OUR_EXECUTE, OUR_PARSE
from pooler.core.settings import SessionSettings
from pooler.core.statements import SPARE
from pooler.core.upkeep import change
from pooler.wire import build, codes, parse

if TYPE_CHECKING:
    from pooler.core.pool import Pool
    from pooler.core.server import Server

LOCK_TIMEOUT: Final = "lock_timeout"
WATCHED_AFTER: Final = 0.5
"""Seconds after which it is asked what a change waits for, and then again after as many."""

_FLUSH: Final = build.message(codes.FLUSH, b"")
_ABORTED: Final = "25P02"
_GIVEN_UP: Final = "canceled while it waited for other changes of the schema"
_FAILING: Final = f"SELECT '{_GIVEN_UP}'::pg_catalog.bool".encode()
_SPARE: Final = SPARE + b"\0"
_SET: Final = (
    "SELECT 1 WHERE CASE pg_catalog.current_setting('lock_timeout') WHEN '0'"
    " THEN pg_catalog.set_config('lock_timeout','{}ms',{}) IS NULL END"
)
"""Sets it for the transaction (true) or the session (false), if there is none; returns no row."""


class Run:
    """The changes of one transaction."""

    __slots__ = (
        "asked",
        "cancelled",
        "guarded",
        "limited",
        "outline",
        "since",
        "waited",
        "watched",
    )

    def __init__(self) -> None:
        self.guarded = False  # a `lock_timeout` has been set, or was looked for
        self.asked = False  # the answer to that has not come
        self.limited = False  # its session's has been set, or was looked for
        self.cancelled = False  # its client has, while it waited for others
        self.outline = ""  # of the statement under way, for people
        self.since = 0.0  # the time when it was sent
        self.watched = 0.0  # the time up to which is known what it waited for
        self.waited = -1.0  # seconds, of those that are known; -1.0: none


class Lane:
    """That of one pool."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self.running: dict[Server, Run] = {}
        self.waiting: dict[Client, float] = {}  # and since when
        self._watch: _Watch | None = None
        # where workers share the places
        self._shared = pool.edge.shares_lanes()
        self._places = 0
        self.round = 0  # of the allotment that is in force
        self._told = (0, 0)

    # -- on the way in

    def enter(self, change: ddl.Change, client: Client, server: "Server") -> bool:
        """Note that a client is about to change the schema; False: it has to wait for others."""
        run = self.running.get(server)
        if run is None:
            if self._full:
                self.waiting.setdefault(client, self._pool.edge.now())
                self._changed()
                return False
            self.waiting.pop(client, None)
            run = server.run = self.running[server] = Run()
            self._changed()
        run.outline = change.outline
        run.since = run.watched = self._pool.edge.now()
        run.waited = -1.0
        return True

    def cancel(self, client: Client) -> None:
        """Have what a client waits with fail, if it waits here.

        The server is made to fail in its place, so that the transaction fails, too.
        """
        server = client.server
        if self.waiting.pop(client, None) is None or server is None or not client.holds:
            return
        self._changed()
        if server.ledger.skipping:  # nothing of it will be done
            return
        run = server.run = Run()
        run.asked = run.cancelled = True
        server.effects.append(Effect())
        kinds = [OUR_PARSE]
        server.send(build.message(codes.PARSE, _SPARE + _FAILING + b"\0\0\0") + _FLUSH, kinds)
        server.watch(kinds)

    def guard(self, server: "Server", kinds: list[int]) -> bytes:
        """Return what sets the time limit for the transaction under way."""
        run = server.run
        assert run is not None
        run.guarded = run.asked = True
        for kind in (OUR_CLOSE, OUR_PARSE, OUR_BIND, OUR_EXECUTE, OUR_CLOSE, OUR_CLOSE):
            server.effects.append(Effect())
            kinds.append(kind)
        sql = _SET.format(self._milliseconds(), "true").encode()
        return (
            build.message(codes.CLOSE, b"S" + _SPARE)
            + build.message(codes.PARSE, _SPARE + sql + b"\0\0\0")
            + build.message(codes.BIND, _SPARE + _SPARE + bytes(6))
            + build.message(codes.EXECUTE, _SPARE + bytes(4))
            + build.message(codes.CLOSE, b"P" + _SPARE)
            + build.message(codes.CLOSE, b"S" + _SPARE)
        )

    def limits(self, server: "Server", kinds: list[int]) -> bool:
        """Decide whether a session is to be limited before its change; `limit` is next, then.

        Not where something is under way on it.
        """
        run = server.run
        assert run is not None
        run.limited = not kinds and server.ledger.settled
        return run.limited

    def limit(self, server: "Server", client: Client) -> None:
        """Have a session limited before its change, which is held back."""
        milliseconds = self._milliseconds()
        settings = {**server.settings, LOCK_TIMEOUT: str(milliseconds)}
        client.waiting_since = self._pool.now()
        aim = self._pool.shelf.shared(settings)
        change(self._pool, server, client, aim, _SET.format(milliseconds, "false"))

    def set_back(self, server: "Server", client: Client) -> bool:
        """Have that undone for a client that keeps its server; False: there is nothing to undo."""
        limited = LOCK_TIMEOUT in server.settings and LOCK_TIMEOUT not in client.wants
        if not limited or client.requests.own_limit:  # what it has set meanwhile stays so
            server.settings = client.wants
            return False
        change(self._pool, server, client, client.wants, f"RESET {LOCK_TIMEOUT}")
        return True

    def _milliseconds(self) -> int:
        return max(1, round(self._pool.settings.migrations.lock_timeout * 1000))

    # -- on the way out

    def done(self, server: "Server", tag: bytes) -> None:
        """Tell of a statement that the server has done."""
        run = server.run
        if run is None or not run.outline:
            return
        seconds = self._seconds(run)
        self._pool.counters.migrations += 1
        self._pool.counters.migration_time += seconds
        self._pool.edge.migrated(server, parse.text(tag), run.outline, seconds, run.waited)

    def failed(self, server: "Server", fields: dict[str, str], body: bytes) -> bytes | None:
        """Tell of one that has failed; return what its client is told instead, if anything."""
        run = server.run
        if run is not None and run.cancelled:
            run.cancelled = False
            given_up = _GIVEN_UP in fields.get("M", "")
            if given_up or fields.get("C") == _ABORTED:
                return CANCELED.response("ERROR")
        if run is None or not run.outline:
            return None
        timeout = self._pool.settings.migrations.lock_timeout
        struck = (
            (run.guarded or run.limited)
            and fields.get("C") == "55P03"
            and fields.get("R") == _INTERRUPTED
        )
        seconds = self._seconds(run)
        if struck:
            run.waited = max(run.waited, min(seconds, timeout))
            self._pool.counters.lock_timeouts += 1
        self._pool.edge.migration_failed(
            server, fields.get("C", ""), run.outline, seconds, run.waited
        )
        run.outline = ""
        if not struck or "H" in fields:
            return None
        hint = (
            f"Changes of the schema run with a lock_timeout of {timeout:g} s here, so that those"
            " who come behind them wait no longer. Try again, or set lock_timeout yourself."
        )
        told = build.notice(
            codes.SUCCESSFUL_COMPLETION, f"lock_timeout was {timeout:g} s", "", hint
        )
        return told + build.message(
            codes.ERROR_RESPONSE, body[:-1] + build.cstring(f"H{hint}") + b"\0"
        )

    def _seconds(self, run: Run) -> float:
        """Return what a statement took; the next one begins."""
        now = self._pool.edge.now()
        seconds = now - run.since
        run.since = run.watched = now
        return seconds

    def over(self, server: "Server") -> None:
        """The transaction has ended, or its client has gone."""
        server.run = None
        self.running.pop(server, None)
        self._changed()

    # -- how many at once

    @property
    def _full(self) -> bool:
        most = self._pool.settings.migrations.max_concurrent
        return bool(most) and len(self.running) >= (self._places if self._shared else most)

    def _changed(self) -> None:
        if self._shared and self._pool.settings.migrations.max_concurrent:
            self._pool.edge.lane_changed(self._pool)

    def report(self) -> Report | None:
        """Return what the budget of places does not know yet, None if that is nothing."""
        limited = self._pool.settings.migrations.max_concurrent
        count = len(self.running) if limited else 0
        waiting = len(self.waiting) if limited else 0
        told = (count, count + waiting)
        if told == self._told and not waiting:
            return None
        self._told = told
        now = self._pool.edge.now()
        wait = now - next(iter(self.waiting.values())) if waiting else 0.0
        return Report(count, count + waiting, wait)

    def allot(self, places: int, round_: int) -> None:
        """Go by another number of places; the budget has to hear of it."""
        self._places = places
        self.round = round_
        self._told = (-1, -1)
        self._pool.edge.lane_changed(self._pool)
        self._go_on()

    # -- meanwhile

    def tick(self, now: float) -> None:
        """Have the next ones go on, send away who has waited for too long, watch who runs."""
        self._go_on()
        for client, since in list(self.waiting.items()):
            limit = client.limits.query_wait_timeout
            if limit and now - since >= limit:
                del self.waiting[client]
                text = "query_wait_timeout: other changes of the schema are still under way"
                client.fail(PoolerError("55P03", text), CloseReason.QUERY_WAIT_TIMEOUT)
        if self.waiting or self.running:
            self._changed()
        if self.running and self._watch is None:
            self._look(now)

    def _go_on(self) -> None:
        """Have as many of those who wait go on as there are places, the first ones first."""
        for client in list(self.waiting):
            if client.closed or not client.holds:
                del self.waiting[client]
                self._changed()
            elif not self._full:
                client.resume()

    def _look(self, now: float) -> None:
        """Ask what the statements wait for that have run for a while, if a server is free."""
        pool = self._pool
        due = [
            server
            for server, run in self.running.items()
            if server.ledger.owed and now - run.watched >= WATCHED_AFTER
        ]
        if due and pool.idle and not pool.someone_waits():
            self._watch = _Watch(self, {server.pid: server for server in due})
            self._watch.enter(pool)

    def watched(self, blocked: "list[Server]", seen: "list[Server]") -> None:
        """Note which of those that were looked at wait for locks."""
        self._watch = None
        now = self._pool.edge.now()
        for server in seen:
            run = server.run
            if run is not None:
                longer = now - run.watched if server in blocked else 0.0
                run.waited = max(run.waited, 0.0) + longer
                self._pool.counters.lock_time += longer
                run.watched = now


_INTERRUPTED: Final = "ProcessInterrupts"
"""Where PostgreSQL says "canceling statement due to lock timeout"; NOWAIT has the same SQLSTATE."""


class _Watch(Inner):
    """A client that asks whom the servers at work wait for."""

    def __init__(self, lane: Lane, servers: "dict[int, Server]") -> None:
        super().__init__()
        self._lane = lane
        self._servers = servers
        self._blocked: list[Server] = []
        self._ready = 0

    def enter(self, pool: "Pool") -> None:
        """Join the pool, and ask."""
        pids = ",".join(str(pid) for pid in self._servers)
        sql = (
            f"SELECT pid FROM pg_catalog.unnest(ARRAY[{pids}]) AS pid"
            " WHERE pg_catalog.cardinality(pg_catalog.pg_blocking_pids(pid)) > 0"
        )
        self.join(pool, "lane", SessionSettings(), build.query(sql))

    def take(self, kind: int, body: bytes) -> None:
        """Read what the server says."""
        if kind == codes.DATA_ROW:
            pid = parse.data_row(body)[0]
            server = self._servers.get(int(pid)) if pid is not None else None
            if server is not None:
                self._blocked.append(server)
        elif kind == codes.READY_FOR_QUERY:
            self._ready += 1
            if self._ready > 1 and self._client is not None:  # the first one is the greeting's
                self._client.close(CloseReason.TERMINATED)

    def ended(self) -> None:
        """Tell what was found."""
        self._lane.watched(self._blocked, list(self._servers.values()))

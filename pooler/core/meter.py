"""Measures what a client asks of the server that it has: for statistics, slow queries and traces.

A server has a meter while somebody wants to know, and none otherwise: what is not measured costs
a look at `Server.meter`. What a Sync or a simple Query ends is a group; its statements are measured
together, and share its time evenly but for BEGIN and COMMIT, which get none where there are others.
The time that its transaction waited is the first group's.

Texts are kept as they came only until their group is answered; what people see of them is an
outline, and parameters are never looked at.
"""

import re
from collections import deque
from typing import TYPE_CHECKING, Final

from pooler.core import outline
from pooler.core.ledger import ENDS
from pooler.core.settings import Measures, PoolMode
from pooler.wire import codes

if TYPE_CHECKING:
    from pooler.core.client import Client
    from pooler.core.pool import Pool
    from pooler.core.server import Server

NAMES_LIMIT: Final = 1_000
"""Prepared statements remembered of a session that has its server for itself."""
GROUP_LIMIT: Final = 10_000
"""Statements of one group that are measured one by one."""
SPANS_LIMIT: Final = 128
"""Queries of one transaction that a trace shows."""

_NONE: Final = Measures()

_CONTROL: Final = re.compile(rb"(?i)\s*(?:begin|start\s+transaction|commit|end)\b[\w\s,]*;?\s*")
_TRACEPARENT: Final = re.compile(
    rb"traceparent\s*=\s*'(?:%27)?(00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})"
)


class Query:
    """A group that has been answered, for whoever watches."""

    __slots__ = ("began", "ended", "rows", "sent", "sqlstate", "statement", "wait")

    def __init__(
        self,
        statement: str,
        wait: float,
        began: float,
        ended: float,
        rows: int,
        sent: int,
        sqlstate: str,
    ) -> None:
        self.statement = statement  # an outline
        self.wait = wait
        self.began = began  # in seconds of the edge's clock
        self.ended = ended
        self.rows = rows
        self.sent = sent
        self.sqlstate = sqlstate  # "" where it did not fail


class Transaction:
    """One that is to be traced."""

    __slots__ = ("began", "client", "ended", "left_out", "parent", "queries", "server", "wait")

    def __init__(
        self, client: "Client", server: "Server", parent: str, wait: float, began: float
    ) -> None:
        self.client = client
        self.server = server
        self.parent = parent  # the caller's traceparent, "" for none
        self.wait = wait
        self.began = began  # to wait, in seconds of the edge's clock
        self.ended = began
        self.queries: list[Query] = []
        self.left_out = 0


class _Group:
    """Statements that one ReadyForQuery answers."""

    __slots__ = ("failed_at", "received", "rows", "simple", "sqlstate", "texts")

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.rows: list[int] = []  # of each that is done
        self.simple = False
        self.received = 0
        self.failed_at = -1
        self.sqlstate = ""


class Meter:
    """Of one server, for one client after the other."""

    __slots__ = (
        "_client",
        "_counting",
        "_ends",
        "_groups",
        "_measures",
        "_named",
        "_pool",
        "_seen",
        "_server",
        "_transaction",
        "_wait",
        "sent",
    )

    def __init__(self, pool: "Pool", server: "Server", client: "Client") -> None:
        # for ever
        self._pool = pool
        self._server = server
        # of the client that has it
        self._client = client
        self._measures = _NONE
        self._groups: deque[_Group] = deque()  # asked and not answered, the oldest first
        self._named: dict[bytes, bytes] = {}  # texts of statements that the server alone knows
        # of the transaction
        self._wait = 0.0
        self._counting = False  # it is one of the sample
        self._transaction: Transaction | None = None  # it is traced
        # of the chunk under way
        self._seen = 0  # messages looked at
        self._ends = 0  # those of them that a ReadyForQuery answers
        # of the group under way
        self.sent = 0  # bytes of its replies

    def begin(self, client: "Client", measures: Measures, counting: bool) -> None:
        """Measure what this client asks; its first transaction counts only if `counting`."""
        self._client = client
        self._measures = measures
        self._counting = counting
        self._wait = self._pool.edge.now() - client.waiting_since
        self.sent = 0
        if self._named:
            self._named.clear()

    # -- what the client asks

    def next_chunk(self) -> None:
        """What is asked from here on comes in another chunk."""
        self._seen = self._ends = 0

    def asked(self, kind: int, body: bytes, kinds: list[int], before: int) -> None:
        """Note a Query, Parse or Bind; `before` it stand so many of the `kinds` of its chunk."""
        if kind == codes.QUERY:
            text = body[: body.find(b"\0")]
        elif kind == codes.PARSE:
            self._remember(body)
            return
        elif kind == codes.BIND:
            text = self._bound(body)
        else:
            return
        ledger = self._server.ledger
        groups = self._groups
        place = 0
        if ledger.owed or before:
            for i in range(self._seen, before):
                self._ends += kinds[i] in ENDS
            self._seen = before
            place = ledger.ends + self._ends
        elif groups and ledger.settled:
            groups.clear()
        if self._measures.traces:
            self._trace(text, not (place or groups) and self._server.status == codes.IDLE)
        while len(groups) <= place:
            groups.append(_Group())
        group = groups[place]
        if len(group.texts) < GROUP_LIMIT:
            group.texts.append(text)
        group.simple = kind == codes.QUERY
        group.received += len(body)

    def _remember(self, body: bytes) -> None:
        """Remember the text of a statement whose name only its server knows."""
        end = body.find(b"\0")
        if end > 0 and len(self._named) < NAMES_LIMIT:
            self._named[body[:end]] = body[end + 1 : body.find(b"\0", end + 1)]

    def _bound(self, body: bytes) -> bytes:
        """Return the text of the statement that a Bind names."""
        start = body.find(b"\0") + 1
        name = body[start : body.find(b"\0", start)]
        text = self._client.names.text_of(name)
        return self._named.get(name, b"") if text is None else text

    # -- what the server answers

    def completed(self, tag: bytes) -> None:
        """Note a CommandComplete."""
        if not self._groups:
            return
        group = self._groups[0]
        count = tag[tag.rfind(b" ") + 1 : -1]
        rows = int(count) if count.isdigit() else 0
        if group.simple and group.rows:
            group.rows[0] += rows
        else:
            group.rows.append(rows)

    def failed(self, sqlstate: str) -> None:
        """Note an ErrorResponse."""
        if self._groups:
            group = self._groups[0]
            group.failed_at = len(group.rows)
            group.sqlstate = sqlstate

    def ready(self) -> None:
        """Note a ReadyForQuery: a group is answered, and perhaps a transaction over."""
        now = self._pool.edge.now()
        server = self._server
        if self._groups:
            group = self._groups.popleft()
            self._answered(group, server.busy_since or now, now)
        self.sent = 0
        if server.status == codes.IDLE:
            self._end(now)

    def cut_off(self) -> None:
        """Note that client or server has gone: what was under way has failed."""
        if not self._groups and self._transaction is None:
            return
        now = self._pool.edge.now()
        began = self._server.busy_since or now
        for group in self._groups:
            group.sqlstate = group.sqlstate or codes.CONNECTION_FAILURE
            group.failed_at = max(group.failed_at, 0)
            self._answered(group, began, now)
        self._groups.clear()
        self._end(now)

    def _answered(self, group: _Group, began: float, now: float) -> None:
        texts = group.texts
        if group.failed_at >= 0:  # the server skipped what comes behind
            texts = texts[: group.failed_at + 1] if not group.simple else texts
        if not texts:
            return
        wait, self._wait = self._wait, 0.0
        took = now - began
        measures = self._measures
        if self._counting:
            self._count(group, texts, wait, took, now)
        slow = 0 < measures.slow_query <= wait + took
        if slow or self._transaction is not None:
            query = Query(
                _shown(texts), wait, began, now, sum(group.rows), self.sent, group.sqlstate
            )
            if slow:
                self._pool.edge.slow_query(self._client, self._server, query)
            if self._transaction is not None:
                if len(self._transaction.queries) < SPANS_LIMIT:
                    self._transaction.queries.append(query)
                else:
                    self._transaction.left_out += 1

    def _count(
        self, group: _Group, texts: list[bytes], wait: float, took: float, now: float
    ) -> None:
        statistics, most = self._pool.statistics, self._measures.statements
        measured = len(texts)
        control = [False]
        if measured > 1:
            control = [_CONTROL.fullmatch(text) is not None for text in texts]
            measured = control.count(False) or measured
        share = took / measured
        last = len(texts) - 1
        for i in range(len(texts)):
            text = texts[i]
            figures = statistics.of(text, most)
            own = 0.0 if measured < len(texts) and control[i] else share
            figures.add(wait if i == 0 else 0.0, own, i == last and group.failed_at >= 0, now)
            if i < len(group.rows):
                figures.rows += group.rows[i]
            if not group.simple:
                statistics.know(text, figures)
        figures.received += group.received
        figures.sent += self.sent

    # -- the transaction

    def _trace(self, text: bytes, first: bool) -> None:
        """Decide by a text whether its transaction is traced: as its caller is, else by chance."""
        found = _TRACEPARENT.search(text)
        parent = found[1].decode() if found is not None else ""
        if self._transaction is not None:
            self._transaction.parent = self._transaction.parent or parent
            return
        if parent:
            traced = bool(int(parent[-2:], 16) & 1)
        else:
            traced = first and self._pool.edge.random() * self._measures.traces < 1.0
        if traced:
            began = self._pool.edge.now() - self._wait
            self._transaction = Transaction(self._client, self._server, parent, self._wait, began)

    def _end(self, now: float) -> None:
        """Report the transaction, and be ready for the next one of a server that is kept."""
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.ended = now
            self._pool.edge.transaction_traced(transaction)
        sample = self._measures.sample
        if sample > 1:
            self._counting = self._pool.edge.random() * sample < 1.0


def _shown(texts: list[bytes]) -> str:
    """Return what people see of a group: the outline of its last statement."""
    statement = outline.shown(texts[-1] + b"\0")
    return statement if len(texts) == 1 else f"{statement} (the last of {len(texts)})"


def measure(pool: "Pool", server: "Server", client: "Client", measures: Measures) -> None:
    """Have what the client asks measured, if all is or it is one of the sample."""
    sample = measures.sample
    pool.unmeasured -= 1
    counting = sample == 1 or (sample > 0 and pool.unmeasured < 0)
    if counting:  # the next one is as many transactions away, on average
        pool.unmeasured = int(pool.edge.random() * (2 * sample - 1))
    if counting or measures.all or client.mode is PoolMode.SESSION:
        meter = server.spare_meter
        if meter is None:
            meter = server.spare_meter = Meter(pool, server, client)
        meter.begin(client, measures, counting)
        server.meter = meter

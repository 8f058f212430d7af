"""Random scripts of several sessions: what they do, and what each is answered.

A script is a list of moves, each some SQL in one of the protocol's ways, with the number of the
session that makes it. `play` runs one against any server; which session moves is settled there,
for a pool has fewer servers than there are sessions: those that keep one (in a transaction, or
with what pins) must be able to go on.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from tests.support import rawclient as raw
from tests.support.rawclient import Message, RawClient

SCHEMA = """
CREATE SCHEMA one; CREATE SCHEMA two;
CREATE TABLE one.t (v text); CREATE TABLE two.t (v text);
INSERT INTO one.t VALUES ('one'); INSERT INTO two.t VALUES ('two');
CREATE TABLE tenants (tenant text, v int); INSERT INTO tenants VALUES ('x', 1), ('y', 2);
CREATE SEQUENCE s;
GRANT USAGE ON SCHEMA one, two TO PUBLIC; GRANT SELECT ON one.t, two.t, tenants TO PUBLIC;
CREATE FUNCTION changes_memory() RETURNS void LANGUAGE plpgsql
    AS $$BEGIN PERFORM set_config('work_mem', '7MB', false); END$$;
CREATE FUNCTION becomes_bob() RETURNS void LANGUAGE plpgsql AS $$BEGIN SET ROLE bob; END$$;
CREATE FUNCTION sets_tenant(text) RETURNS text LANGUAGE sql
    AS $$SELECT set_config('app.tenant', $1, false)$$;
CREATE PROCEDURE sets_path() LANGUAGE plpgsql AS $$BEGIN SET search_path = two; END$$;
"""

READS = (
    "SHOW work_mem",
    "SHOW DateStyle",
    "SHOW TimeZone",
    "SHOW search_path",
    "SHOW application_name",
    "SHOW default_transaction_isolation",
    "SELECT current_user, session_user, current_setting('role')",
    "SELECT current_setting('app.tenant', true), current_setting('app.Other', true)",
    "SELECT v FROM t",
    "SELECT v FROM tenants WHERE tenant = current_setting('app.tenant', true)",
    "SELECT '2020-02-03'::date, '2020-02-03 00:00Z'::timestamptz",
    "SELECT name FROM pg_prepared_statements WHERE from_sql ORDER BY 1",
    "SELECT name FROM pg_cursors WHERE is_holdable ORDER BY 1",
    "EXECUTE p1",
    "EXECUTE p2(4)",
    "SELECT 1",
    "SELECT 1/0",
    "SELECT no_such_column",
)
SETTINGS = (
    "SET work_mem = '2MB'",
    "SET work_mem TO '3MB'",
    "SET work_mem = 'nonsense'",
    "SET work_mem TO DEFAULT",
    "SET DateStyle = 'German'",
    "SET datestyle TO 'SQL, DMY'",
    "SET TIME ZONE 'Asia/Tokyo'",
    "SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE",
    "SET search_path = one, public",
    "SET search_path = two",
    "SET search_path TO ''",
    "set /* hidden */ application_name = 'it''s; me'",
    "SET application_name = 'ä€\\'",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SET LOCAL work_mem = '4MB'",
    "SET LOCAL search_path = two",
    "SET LOCAL app.tenant = 'local'",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET app.tenant = 'x'",
    "SET SESSION app.tenant TO 'y'",
    "SET app . Other = 'spaced'",
    "SET/**/app.tenant='commented'",
    'SET "app"."Other" = \'quoted\'',
    "SELECT set_config('work_mem', '5MB', false)",
    "SELECT set_config('work_mem', '6MB', true)",
    "SELECT set_config('app.tenant', 'x', false)",
    "SELECT set_config('app.tenant', 'y', true)",
    "SELECT set_config('app.tenant', 'z, true)', false)",
    "SELECT set_config('app.' || 'tenant', 'composed', false)",
    "SELECT set_config('search_path', 'one', false)",
    "RESET work_mem",
    "RESET search_path",
    "RESET DateStyle",
    "RESET app.tenant",
    "RESET ALL",
    "SET ROLE alice",
    "SET ROLE bob",
    "SET ROLE nobody_of_this_name",
    "SET LOCAL ROLE bob",
    "SET ROLE NONE",
    "RESET ROLE",
    "SET SESSION AUTHORIZATION alice",
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET SESSION AUTHORIZATION",
    "DO $$BEGIN SET work_mem = '8MB'; END$$",
    "DO $$BEGIN PERFORM set_config('app.tenant', 'done', false); END$$",
    "DO $$BEGIN SET LOCAL work_mem = '9MB'; END$$",
    "SELECT changes_memory()",
    "SELECT becomes_bob()",
    "SELECT sets_tenant('y')",
    "CALL sets_path()",
    "DISCARD ALL",
    "DISCARD PLANS",
)
TRANSACTIONS = (
    "BEGIN",
    "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "COMMIT",
    "COMMIT AND CHAIN",
    "ROLLBACK",
    "ROLLBACK",
    "SAVEPOINT a",
    "SAVEPOINT b",
    "ROLLBACK TO a",
    "RELEASE a",
    "ROLLBACK TO b",
)
STATEMENTS = (
    "PREPARE p1 AS SELECT 'one', current_user",
    "PREPARE p1 AS SELECT v FROM t",
    "PREPARE p2(int) AS SELECT $1 + 1",
    "PREPARE p2(int) AS SELECT $1 * 10; SELECT 'behind it'",
    "PREPARE \"P 1\" AS SELECT 'quoted'",
    'EXECUTE "P 1"',
    "EXECUTE p1",
    "EXECUTE p2(5)",
    "DEALLOCATE p1",
    "DEALLOCATE PREPARE p2",
    "DEALLOCATE ALL",
    "PREPARE p3 AS SELECT set_config('work_mem', '10MB', false)",
    "EXECUTE p3",
)
PINNING = (
    "CREATE TEMP TABLE mine (a int)",
    "CREATE TEMP TABLE brief (a int) ON COMMIT DROP",
    "SELECT 1 AS a INTO TEMP mine",
    "CREATE TABLE pg_temp.mine (a int)",
    "INSERT INTO mine VALUES (1)",
    "SELECT count(*) FROM mine",
    "DROP TABLE mine",
    "CREATE TEMP SEQUENCE mine_s",
    "DROP SEQUENCE mine_s",
    "DISCARD TEMP",
    "SELECT pg_try_advisory_lock(1)",
    "SELECT pg_try_advisory_lock(2)",
    "SELECT pg_try_advisory_xact_lock(1)",
    "SELECT pg_advisory_unlock(1)",
    "SELECT pg_advisory_unlock_all()",
    "DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 5)",
    "FETCH c",
    "FETCH ALL FROM c",
    "CLOSE c",
    "CLOSE ALL",
)
CHANNELS = (
    "LISTEN one",
    "LISTEN two",
    'LISTEN "Two"',
    "UNLISTEN one",
    "UNLISTEN *",
    "NOTIFY one, 'first'",
    "NOTIFY two",
    "SELECT pg_notify('Two', 'by function')",
    "NOTIFY one; NOTIFY two, 'x'",
)
FAMILIES: Mapping[str, Sequence[str]] = {
    "settings": SETTINGS,
    "transactions": TRANSACTIONS,
    "statements": STATEMENTS,
    "pinning": PINNING,
    "channels": CHANNELS,
    "reads": READS,
}
STARTS: Sequence[Mapping[str, str]] = (
    {},
    {},
    {"application_name": "from the start"},
    {"options": "-c work_mem=11MB -c app.tenant=x", "DateStyle": "SQL"},
    {"options": r"-c search_path=one,\ two", "TimeZone": "Europe/Paris"},
)
"""Startup parameters of the sessions."""

_PINS = re.compile(r"(?i)temp|advisory|hold|LISTEN|; SELECT 'behind|composed")

_RESETS = re.compile(r"(?i)\breset\b|default|discard all")


@dataclass(frozen=True)
class Move:
    """What one session sends, and waits for the answer of."""

    session: int
    way: str  # "simple", "extended", "pipeline" (one Sync), "syncs" (one each), "bound"
    texts: tuple[str, ...]

    @property
    def syncs(self) -> int:
        """How many ReadyForQuery come."""
        return len(self.texts) if self.way == "syncs" else 1

    @property
    def pins(self) -> bool:
        """Whether it may leave something that keeps a server.

        A PREPARE among other statements does: PostgreSQL remembers all of the text with it.
        """
        together = self.way == "simple" and len(self.texts) > 1
        return any(
            _PINS.search(text) or (together and text.startswith("PREPARE")) for text in self.texts
        )

    @property
    def resets(self) -> bool:
        """Whether it goes back to what the session had from its start.

        That comes with the next transaction only, a known difference: see `test_resets`.
        """
        return any(_RESETS.search(text) for text in self.texts)

    def data(self) -> bytes:
        """The bytes."""
        if self.way == "simple":
            return raw.query(";".join(self.texts))
        if self.way == "bound":
            name, value, local = (text.encode() for text in self.texts)
            sql = "SELECT set_config($1, $2, $3)"
            parts = [raw.parse(sql), raw.bind([name, value, local]), raw.execute()]
            return b"".join(parts) + raw.sync()
        after = raw.sync() if self.way == "syncs" else b""
        each = [raw.parse(t) + raw.bind() + raw.execute() + after for t in self.texts]
        return b"".join(each) + (b"" if after else raw.sync())


def moves(families: Sequence[str], sessions: int) -> st.SearchStrategy[Move]:
    """Moves of so many sessions; of the families named, those first are the more frequent."""
    texts = st.one_of([st.sampled_from(FAMILIES[family]) for family in families])
    who = st.integers(0, sessions - 1)
    single = st.lists(texts, min_size=1, max_size=1)
    several = st.lists(texts, min_size=2, max_size=4)
    bound = st.tuples(
        st.sampled_from(("work_mem", "app.tenant", "App.Other", "search_path", "nonsense")),
        st.sampled_from(("12MB", "x", "one", "")),
        st.sampled_from(("true", "false", "false")),
    )
    return st.one_of(
        st.builds(_move, who, st.sampled_from(("simple", "extended")), single),
        st.builds(_move, who, st.just("simple"), single),
        st.builds(_move, who, st.sampled_from(("simple", "pipeline", "syncs")), several),
        *([st.builds(Move, who, st.just("bound"), bound)] if "settings" in families else []),
    )


def _move(session: int, way: str, texts: list[str]) -> Move:
    """One Parse holds one statement."""
    if way != "simple":
        texts = [text for text in texts if ";" not in text.replace("'it''s; me'", "")] or ["SHOW a"]
    return Move(session, "pipeline" if way == "extended" else way, tuple(texts))


@dataclass
class Script:
    """Sessions, by what they start with, and their moves."""

    starts: tuple[int, ...]
    moves: list[Move] = field(default_factory=list)


@st.composite
def scripts(
    draw: st.DrawFn, families: Sequence[str], sessions: tuple[int, int] = (2, 4), longest: int = 30
) -> Script:
    """Scripts of moves of these families."""
    count = draw(st.integers(*sessions))
    starts = draw(st.tuples(*[st.integers(0, len(STARTS) - 1)] * count))
    return Script(starts, draw(st.lists(moves(families, count), min_size=5, max_size=longest)))


@dataclass
class Answer:
    """What a session was told in answer to one move."""

    move: Move
    messages: list[tuple[str, object]]
    parameters: dict[str, str]
    status: bytes


class Player:
    """One session of a script."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.pinned = False
        self.heard: list[str] = []  # notifications

    @property
    def keeps(self) -> bool:
        """Whether it may need a server of its own."""
        return self.pinned or self.client.status not in (b"I", b"")

    def make(self, move: Move) -> Answer:
        """Send a move; what it is answered."""
        client = self.client
        self.pinned = self.pinned or move.pins
        client.send(move.data())
        messages: list[Message] = []
        for _ in range(move.syncs):
            messages += client.read_until()
        return Answer(move, self.told(messages), dict(client.parameters), client.status)

    def told(self, messages: Sequence[Message]) -> list[tuple[str, object]]:
        """The messages in comparable form; notifications are put aside."""
        told: list[tuple[str, object]] = []
        for kind, body in messages:
            if kind == b"A":
                channel, payload, _ = body[4:].split(b"\0")
                self.heard.append(f"{channel.decode()}:{payload.decode()}")
            elif kind in (b"E", b"N"):
                fields = raw.error_fields(body)
                told.append((kind.decode(), tuple(fields.get(f) for f in "VCMDH")))
            elif kind == b"D":  # a custom setting that was RESET is '', not NULL
                told.append(("D", [value or b"" for value in raw.data_row(body)]))
            elif kind != b"S":
                told.append((kind.decode(), body if kind in b"CZ" else b""))
        return told

    def settle(self, seconds: float) -> None:
        """Hear what comes for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                self.told([self.client.read(max(left, 0.001))])
            except TimeoutError:
                return


def choose(players: Sequence[Player], wanted: int, servers: int) -> Player:
    """The session that can move: the one that is to, unless it could be left without a server."""
    keeping = [player for player in players if player.keeps]
    player = players[wanted % len(players)]
    if player.keeps or len(keeping) < servers:
        return player
    return keeping[wanted % len(keeping)]


@dataclass(frozen=True)
class Place:
    """Where sessions log in."""

    host: str
    port: int
    user: str
    database: str
    password: str
    timeout: float = 10.0

    def login(self, **parameters: Any) -> RawClient:
        """A new session."""
        client = RawClient(self.host, self.port, timeout=self.timeout)
        try:
            client.login(self.user, self.database, self.password, **parameters)
        except BaseException:
            client.close()
            raise
        return client


def play(script: Script, places: Sequence[Place], servers: int) -> Iterator[list[Answer]]:
    """Play a script at several places at once; the answers to each move, place by place."""
    with ExitStack() as stack:
        stages: list[list[Player]] = []
        for place in places:
            clients = [stack.enter_context(place.login(**STARTS[start])) for start in script.starts]
            stages.append([Player(client) for client in clients])
        for move in script.moves:
            who = stages[0].index(choose(stages[0], move.session, servers))
            if STARTS[script.starts[who]] and move.resets:
                continue
            yield [players[who].make(move) for players in stages]
        for players in stages:
            for player in players:
                if player.keeps:
                    player.make(Move(0, "simple", ("ROLLBACK",)))
        if any(text in CHANNELS for move in script.moves for text in move.texts):
            for players in stages:
                for player in players:
                    player.settle(0.05)
            for number, same in enumerate(zip(*stages, strict=True)):
                heard = [Counter(player.heard) for player in same]
                assert all(h == heard[0] for h in heard), (number, heard)
        for players in stages:
            for player in players:
                player.client.send(raw.terminate())


FRESH = (
    "SELECT name, setting FROM pg_settings WHERE source = 'session' "
    "AND name NOT IN ('transaction_isolation', 'transaction_read_only') ORDER BY 1",
    "SELECT current_user, session_user, current_setting('role')",
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "SELECT name FROM pg_cursors WHERE name <> ''",
    "SELECT name FROM pg_prepared_statements WHERE from_sql",
    "SELECT pg_listening_channels()",
    "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
    "SELECT nullif(current_setting('app.tenant', true), ''), "
    "nullif(current_setting('app.Other', true), '')",
)


def fresh_state(client: RawClient) -> list[list[list[bytes | None]]]:
    """What tells a session that was used from a new one."""
    return [client.values(sql) for sql in FRESH]

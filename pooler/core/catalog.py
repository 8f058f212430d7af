"""Names that hide session state: of functions whose bodies touch it, and of what calls those.

A statement that calls `lock_account()`, or inserts into a table whose trigger calls set_config,
shows nothing of it. So the catalog is asked, when a pool has its first server, after function DDL
and now and then: which functions hold what hints are made of, which functions and views name those,
which tables have triggers, rules, defaults, constraints or policies with them. The names become
hints of the pool; see `hints.Hints.learn`.

The scan is a client of our own. It takes a server that nobody wants, has its question cancelled
when somebody waits, and its failure costs nothing but a line in the log.
"""

from typing import TYPE_CHECKING, Final

from pooler.core import hints
from pooler.core.cancel import cancel_client
from pooler.core.client import Client
from pooler.core.errors import CloseReason
from pooler.core.inner import Inner
from pooler.core.retiring import retire_idle
from pooler.core.session import literal
from pooler.core.settings import PoolMode, SessionSettings
from pooler.wire import build, codes, parse

if TYPE_CHECKING:
    from pooler.core.pool import Pool

NAMES: Final = 5_000
"""Names of a pool's catalog that are gone by, at most; with more, `check: always` is better."""

ROUNDS: Final = 8
"""How deep functions may call each other."""

QUIET: Final = 0.05
"""Seconds that a server is idle before a scan takes it: nobody has to open another instead."""

IN_LINE: Final = 10.0
"""Seconds after which a scan that found no idle server waits for one as any client does."""

RETRY: Final = 30.0
"""Seconds before a scan that failed, or was in the way, is made again."""

TIMEOUT: Final = "5s"
"""What one of its questions may take."""

_MODE: Final = SessionSettings()


class Catalog:
    """What one pool knows of its database's functions."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._scan: _Scan | None = None
        self._due = 0.0  # the time of the next scan; 0.0: as soon as possible
        self._wanting_since = 0.0  # when a scan was due and there was no idle server
        self._transactions = -1  # of the pool, when it was scanned: an unused one is left alone
        self._complaint = ""

    def changed(self) -> None:
        """Scan again soon: functions have changed."""
        self._due = 0.0
        self._transactions = -1

    def give_way(self) -> None:
        """Have the server freed that a scan has."""
        if self._scan is not None:
            self._scan.give_way()

    def tick(self, now: float) -> None:
        """Scan when it is time and nobody is disturbed."""
        pool = self._pool
        interval = pool.rules.policies.catalog_interval
        if self._scan is not None:
            if self._scan.answering and pool.someone_waits():
                self._scan.give_way()
            return
        if (
            not interval
            or now < self._due
            or pool.ending is not None
            or pool.internal
            or pool.single_use
            or not pool.rules.asked
            or pool.counters.transactions == self._transactions
            or not any(_may_share(client) for client in pool.clients)
        ):
            return
        quiet = pool.idle and now - pool.idle[0].idle_since >= QUIET
        if quiet and not pool.someone_waits():
            self._start()
        elif not self._wanting_since:
            self._wanting_since = now
        elif pool.in_use and now - self._wanting_since >= IN_LINE:
            self._start()

    def _start(self) -> None:
        self._transactions = self._pool.counters.transactions
        self._due = self._wanting_since = 0.0
        self._scan = _Scan(self)
        self._scan.enter(self._pool)

    # -- for the scan

    def found(self, words: dict[bytes, hints.Word]) -> None:
        """Go by what was found, also with what has been done already."""
        pool = self._pool
        self._scan = None
        if self._transactions >= 0:  # else functions have changed meanwhile
            self._transactions = pool.counters.transactions
            self._due = pool.edge.now() + pool.rules.policies.catalog_interval
        pool.counters.scans += 1
        if pool.hints.learn(words):  # nobody knows what is on any server
            for server in pool.servers():
                server.generation = -1
                if server.client is not None:
                    server.touch(hints.ANYTHING, b"")
            retire_idle(pool)

    def failed(self, text: str) -> None:
        """Say so, once, and try again later."""
        self._scan = None
        self._transactions = -1
        self._due = self._pool.edge.now() + RETRY
        if text:
            self.complain(text)

    def complain(self, text: str) -> None:
        """Say what is wrong, unless it is what was said last."""
        if text != self._complaint:
            self._complaint = text
            self._pool.edge.catalog_failed(self._pool, text)


def _may_share(client: Client) -> bool:
    return client.limits.pool_mode is not PoolMode.SESSION


class _Scan(Inner):
    """The client that asks."""

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self._catalog = catalog
        self._greeted = False
        self._given_way = False
        self._rounds = 0
        self._rows: list[list[bytes | None]] = []
        self._patterns: dict[int, str] = {}  # by the flags of what they find
        self._functions: dict[int, None] = {}  # found so far, by oid
        self._relations: dict[int, None] = {}
        self._new_relations: list[int] = []
        self._words: dict[bytes, hints.Word] = {}

    def enter(self, pool: "Pool") -> None:
        """Join the pool, and ask the first question."""
        heeded = pool.rules.heeded
        self._patterns = {
            flags: pattern.replace(r"\b", r"\y")
            for flags, pattern in hints.HIDDEN.items()
            if flags & heeded
        }
        self.join(pool, "catalog", _MODE, self._question())

    @property
    def answering(self) -> bool:
        """Whether a server works for it."""
        return self._client is not None and self._client.server is not None

    def give_way(self) -> None:
        """Somebody waits: have the server freed."""
        client = self._client
        if client is not None and not self._given_way:
            self._given_way = True
            cancel_client(client)

    def take(self, kind: int, body: bytes) -> None:
        """Read what the server says."""
        if kind == codes.DATA_ROW:
            row = parse.data_row(body)
            if len(row) == _COLUMNS:  # else what set_config returned
                self._rows.append(row)
        elif kind == codes.ERROR_RESPONSE:
            self._error = parse.report(body).get("M", "")
        elif kind == codes.READY_FOR_QUERY and not self._greeted:
            self._greeted = True
        elif kind == codes.READY_FOR_QUERY:
            self._over()

    def ended(self) -> None:
        """The client is gone, or never had a server."""
        if self._client is not None:
            self._client = None
            self._catalog.failed(self._error if not self._given_way else "")

    def _over(self) -> None:
        """Go on with the next question, or with what was found."""
        client = self._client
        assert client is not None
        if self._error:
            client.close(CloseReason.TERMINATED)
            return
        self._read()
        self._rounds += 1
        many = len(self._words) > NAMES
        if self._patterns and self._rounds < ROUNDS and not many:
            client.data_received(self._question())
            return
        self._client = None
        client.close(CloseReason.TERMINATED)
        if many:
            self._catalog.complain(f"more than {NAMES} names hide session state")
        self._catalog.found(dict(list(self._words.items())[:NAMES]))

    def _read(self) -> None:
        """Take in the rows, and make of them the patterns of the next round."""
        rows, self._rows = self._rows, []
        new: dict[int, list[str]] = {}
        self._new_relations = []
        for row in rows:
            kind, oid_text, flags_text, unnamed, name, names = [column or b"" for column in row]
            oid, flags = int(oid_text), int(flags_text)
            known = self._functions if kind == b"f" else self._relations
            if oid in known:
                continue
            known[oid] = None
            if kind == b"r":
                self._new_relations.append(oid)
            text = _text(name)
            settings = frozenset(word.lower() for word in _text(names).split())
            hints.add_word(self._words, text, hints.Word(flags, settings, unnamed == b"t"))
            for flag in hints.HIDDEN:
                if flags & flag:
                    new.setdefault(flag, []).append(text)
        self._patterns = {flag: _any_of(texts) for flag, texts in new.items()}

    def _question(self) -> bytes:
        return build.query(question(self._patterns, self._new_relations, first=not self._rounds))


def question(patterns: dict[int, str], relations: list[int], *, first: bool) -> str:
    """Return what is asked: functions with bodies of these patterns, and what depends on them.

    `relations` are those found in the last round. Rows: kind, oid, flags, whether names of settings
    are unknown, the name and names of settings in hex.
    """
    matches = {flags: f"body ~* {literal(pattern)}" for flags, pattern in patterns.items()}
    flags = " | ".join(f"CASE WHEN {m} THEN {flag} ELSE 0 END" for flag, m in matches.items())
    oids = f"ARRAY[{','.join(map(str, relations))}]::oid[]"
    built_in = (  # there is no row in pg_depend for what a rule calls of pg_catalog's
        f" OR {hints.ANYTHING in patterns and first} AND w.oid >= 16384 AND w.ev_action::text ~ ("
        "SELECT ':funcid (' || string_agg(oid::text, '|') || ') ' FROM pg_proc"
        f" WHERE pronamespace='pg_catalog'::regnamespace AND proname ~ {literal(_BUILT_IN)})"
    )
    return (
        f"SELECT set_config('statement_timeout','{TIMEOUT}',true),"
        "set_config('search_path','pg_catalog',true);"
        "WITH p AS (SELECT p.oid, p.proname AS name, regexp_replace(CASE p.prosrc WHEN ''"
        " THEN pg_get_functiondef(p.oid) ELSE p.prosrc END,"
        f" {literal(_LOCAL)}, '', 'gi') AS body FROM pg_proc p"
        " JOIN pg_language l ON l.oid=p.prolang AND l.lanname NOT IN ('c','internal')"
        " WHERE p.prokind<>'a' AND p.pronamespace NOT IN (SELECT oid FROM pg_namespace"
        " WHERE nspname IN ('pg_catalog','information_schema'))),"
        f"f AS (SELECT oid, name, body, {flags} AS flags FROM p"
        f" WHERE {' OR '.join(matches.values())} LIMIT {NAMES}),"
        "r AS (SELECT coalesce(t.tgrelid,a.adrelid,c.conrelid,y.polrelid) AS oid,"
        " bit_or(coalesce(f.flags,0)) AS flags FROM f JOIN pg_depend d"
        " ON d.refclassid='pg_proc'::regclass AND d.refobjid=f.oid"
        " LEFT JOIN pg_trigger t ON d.classid='pg_trigger'::regclass AND t.oid=d.objid"
        " LEFT JOIN pg_attrdef a ON d.classid='pg_attrdef'::regclass AND a.oid=d.objid"
        " LEFT JOIN pg_constraint c ON d.classid='pg_constraint'::regclass AND c.oid=d.objid"
        " LEFT JOIN pg_policy y ON d.classid='pg_policy'::regclass AND y.oid=d.objid GROUP BY 1"
        f" UNION ALL SELECT w.ev_class,{hints.ANYTHING} FROM pg_rewrite w WHERE EXISTS ("
        "SELECT FROM pg_depend d WHERE d.classid='pg_rewrite'::regclass AND d.objid=w.oid AND ("
        "d.refclassid='pg_proc'::regclass AND d.refobjid IN (SELECT oid FROM f)"
        f" OR d.refclassid='pg_class'::regclass AND d.refobjid=ANY({oids}))){built_in}"
        f" UNION ALL SELECT inhparent,{hints.ANYTHING} FROM pg_inherits WHERE inhrelid=ANY({oids})"
        f" UNION ALL SELECT confrelid,{hints.ANYTHING} FROM pg_constraint"
        f" WHERE contype='f' AND conrelid=ANY({oids}))"
        "SELECT 'f',oid,flags,"
        f"body ~* {literal(_UNNAMED)},encode(convert_to(name,'UTF8'),'hex'),"
        f"encode(convert_to(array_to_string(ARRAY(SELECT coalesce(m[1],m[2]) FROM"
        f" regexp_matches(body,{literal(_SETTING)},'gi') AS m),' '),'UTF8'),'hex') FROM f"
        " UNION ALL SELECT 'r',k.oid,bit_or(r.flags),false,"
        "encode(convert_to(k.relname,'UTF8'),'hex'),''"
        " FROM r JOIN pg_class k ON k.oid=r.oid GROUP BY k.oid,k.relname"
    )


_COLUMNS: Final = 6
_BUILT_IN: Final = "^(set_config|pg_(try_)?advisory_lock(_shared)?|setseed)$"
_LOCAL: Final = r"set_config\s*\([^()]*,\s*true\s*\)"
_SETTING: Final = (
    r"set_config\s*\(\s*'([a-z_][\w$]*(?:\.[\w$]+)+)'"
    r"|\yset\s+(?:session\s+)?([a-z_][\w$]*(?:\.[\w$]+)+)\s*(?:=|to\y)"
)
_UNNAMED: Final = r"set_config\s*\(\s*[^'\s]|\yexecute\y"


def _any_of(names: list[str]) -> str:
    return rf"\y({'|'.join(sorted(set(map(_escaped, names))))})\y"


def _escaped(name: str) -> str:
    return "".join(c if c.isalnum() or c == "_" else f"\\{c}" for c in name)


def _text(value: bytes) -> str:
    return bytes.fromhex(value.decode("ascii")).decode("utf-8", "replace")

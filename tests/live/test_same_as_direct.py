"""The same bytes direct and through the pooler: the same messages back, to the last byte.

Each case is a script of what a client sends and how far it then reads; it runs on a connection
of its own past the pooler and on one through it. Only process ids are masked.
"""

import re
import struct
from collections.abc import Callable

import pytest

from tests.live.conftest import SharedPooler
from tests.support import rawclient as raw
from tests.support.postgres import PASSWORDS, Postgres
from tests.support.rawclient import Message, RawClient

BIG = 10_000_000  # bytes

Script = Callable[[RawClient], list[Message]]
SCRIPTS: dict[str, Script] = {}


def script(function: Script) -> Script:
    """Register a script under its name."""
    SCRIPTS[function.__name__] = function
    return function


def simple(name: str, *queries: str) -> None:
    """Register a script of simple queries, each awaited."""
    SCRIPTS[name] = lambda client: [m for sql in queries for m in client.query(sql)]


def pipeline(name: str, *messages: bytes, syncs: int = 1) -> None:
    """Register a script that sends everything in one go, and reads so many ReadyForQuery."""

    def run(client: RawClient) -> list[Message]:
        client.send(*messages)
        return [m for _ in range(syncs) for m in client.read_until()]

    SCRIPTS[name] = run


simple("one row", "SELECT 1 AS one, 'two'::text AS two, NULL::int AS three")
simple("no rows", "SELECT 1 WHERE false")
simple("no columns", "SELECT")
simple("empty query", "")
simple("only a semicolon", ";")
simple("only a comment", "-- nothing")
simple("several statements", "SELECT 1; SELECT 'a', 'b'; SELECT 3 LIMIT 0")
simple("an error among several statements", "SELECT 1; SELECT 1/0; SELECT 2")
simple("syntax error", "SELEC 1")
simple("syntax error after the start", "SELECT 1; SELEC 1")
simple("undefined table", "SELECT * FROM no_such_table")
simple("undefined column with a hint", "SELECT relnam FROM pg_class")
simple(
    "constraint violation",
    "BEGIN; CREATE TEMP TABLE t (a int CONSTRAINT positive CHECK (a > 0)) ON COMMIT DROP",
    "INSERT INTO t VALUES (-1)",
    "SELECT 1",
    "ROLLBACK",
)
simple(
    "unique violation",
    "BEGIN; CREATE TEMP TABLE u (a int PRIMARY KEY) ON COMMIT DROP;INSERT INTO u VALUES (1), (1)",
    "ROLLBACK",
)
simple(
    "raised error with all fields",
    "DO $$ BEGIN RAISE EXCEPTION 'text' USING ERRCODE='P0042', DETAIL='detail', HINT='hint',"
    " COLUMN='c', CONSTRAINT='k', DATATYPE='d', TABLE='t', SCHEMA='s'; END $$",
)
simple("error message with line breaks", "DO $$ BEGIN RAISE EXCEPTION E'one\\ntwo\\tthree'; END $$")
simple(
    "notices",
    "DO $$ BEGIN RAISE NOTICE 'n %', 1; RAISE WARNING 'w'; RAISE INFO 'i'; END $$",
    "ROLLBACK",
)
simple("many notices", "DO $$ BEGIN FOR i IN 1..500 LOOP RAISE NOTICE '%', i; END LOOP; END $$")
simple("a long notice", "DO $$ BEGIN RAISE NOTICE '%', repeat('n', 200000); END $$")
simple("a long error", "DO $$ BEGIN RAISE EXCEPTION '%', repeat('e', 200000); END $$", "SELECT 1")
simple("transaction", "BEGIN", "SELECT 1", "COMMIT", "SELECT 2")
simple("begin twice", "BEGIN", "BEGIN", "COMMIT", "COMMIT")
simple("failed transaction", "BEGIN", "SELECT 1/0", "SELECT 1", "COMMIT")
simple("savepoint", "BEGIN", "SAVEPOINT a", "SELECT 1/0", "ROLLBACK TO a", "SELECT 1", "COMMIT")
simple("commit and chain", "BEGIN", "COMMIT AND CHAIN", "SELECT 1", "ROLLBACK")
simple(
    "isolation level",
    "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
    "SHOW transaction_isolation",
    "CREATE TABLE x ()",
    "ROLLBACK",
)
simple("implicit transaction of several statements", "SELECT 1; BEGIN; SELECT 2", "ROLLBACK")
simple(
    "command tags",
    "BEGIN; CREATE TEMP TABLE t (a int) ON COMMIT DROP; INSERT INTO t VALUES (1), (2);"
    "UPDATE t SET a = a + 1; DELETE FROM t WHERE a = 3; SELECT a + 0 FROM t; TRUNCATE t; COMMIT",
)
simple(
    "cursors",
    "BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 10)",
    "FETCH 3 FROM c",
    "MOVE 2 IN c",
    "FETCH ALL FROM c",
    "CLOSE c; COMMIT",
)
simple(
    "parameter status",
    "BEGIN; SET LOCAL DateStyle = 'German'; SET LOCAL TimeZone = 'Asia/Tokyo'",
    "SELECT '2024-05-06 07:08:09+00'::timestamptz",
    "ROLLBACK",
    "SELECT 1",
)
simple(
    "parameter status of a session",
    "SET application_name = 'it''s me'",
    "SHOW application_name",
    "RESET application_name",
)
simple(
    "standard_conforming_strings",
    "BEGIN; SET LOCAL standard_conforming_strings = off",
    r"SELECT '\x41'",
    "COMMIT",
)
simple("client encoding", "BEGIN; SET LOCAL client_encoding = LATIN1", "SELECT chr(233)", "COMMIT")
simple(
    "client encoding that cannot",
    "BEGIN; SET LOCAL client_encoding = LATIN1",
    "SELECT chr(8364)",
    "ROLLBACK",
)
simple(
    "types",
    "SELECT 1::int2, 2::int8, 1.5::float4, 'NaN'::float8, 12.50::numeric, true,"
    " '\\xdeadbeef'::bytea, '{1,NULL,3}'::int[], '{\"a\": 1}'::jsonb, 'x'::char(5),"
    " '2024-01-02'::date, '1 day'::interval, ROW(1, 'a'), '[1,2)'::int4range",
)
simple("many rows", "SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i")
simple("a large value", f"SELECT repeat('v', {BIG})")
simple("a large query", f"SELECT length('{'q' * BIG}')")
simple("listen and notify", "LISTEN here; NOTIFY here, 'payload'", "UNLISTEN *")
simple("copy out", "COPY (SELECT i, NULL, E'a\\tb' FROM generate_series(1, 1000) i) TO STDOUT")
simple("copy out in binary", "COPY (SELECT 1, 'a') TO STDOUT (FORMAT binary)")
simple(
    "copy out that fails",
    "COPY (SELECT 1 / (50000 - i) FROM generate_series(1, 60000) i) TO STDOUT",
)
simple("copy out among others", "SELECT 1; COPY (SELECT 2) TO STDOUT; SELECT 3")

pipeline(
    "extended",
    raw.parse("SELECT $1::int + $2::int"),
    raw.bind([b"1", b"2"]),
    raw.describe(),
    raw.execute(),
    raw.sync(),
)
pipeline(
    "extended in binary",
    raw.parse("SELECT $1, $2::text", types=[23, 25]),
    raw.describe("S"),
    raw.bind([struct.pack("!i", 7), None], formats=[1], result_formats=[1, 0]),
    raw.describe(),
    raw.execute(),
    raw.sync(),
)
pipeline(
    "extended empty query", raw.parse(""), raw.bind(), raw.describe(), raw.execute(), raw.sync()
)
pipeline(
    "statement and portal by name",
    raw.parse("SELECT $1::text", "s1"),
    raw.describe("S", "s1"),
    raw.bind([b"a"], "s1", "p1"),
    raw.bind([b"b"], "s1", "p2"),
    raw.execute("p2"),
    raw.execute("p1"),
    raw.close("P", "p1"),
    raw.close("S", "s1"),
    raw.close("S", "never there"),
    raw.sync(),
)
pipeline(
    "row limits",
    raw.parse("SELECT generate_series(1, 5)"),
    raw.bind(portal="rows"),
    *[raw.execute("rows", 2) for _ in range(4)],
    raw.sync(),
)
pipeline(
    "pipeline of several syncs",
    *[
        raw.parse("SELECT $1::int") + raw.bind([b"%d" % i]) + raw.execute() + raw.sync()
        for i in range(50)
    ],
    syncs=50,
)
pipeline(
    "pipeline with errors",
    *[
        raw.parse("SELECT 10 / $1::int") + raw.bind([b"%d" % (i % 3)]) + raw.execute() + raw.sync()
        for i in range(30)
    ],
    syncs=30,
)
pipeline("syncs alone", raw.sync(), raw.sync(), raw.sync(), syncs=3)
pipeline("flush alone, then sync", raw.flush(), raw.sync())
pipeline(
    "error recovery to the next sync",
    raw.parse("SELECT no_such_column"),
    raw.bind(),
    raw.describe(),
    raw.execute(),
    raw.parse("SELECT 1"),
    raw.query("SELECT 'skipped'"),
    raw.sync(),
    raw.query("SELECT 'not skipped'"),
    syncs=2,
)
pipeline(
    "error in bind",
    raw.parse("SELECT $1::int"),
    raw.bind([b"not a number"]),
    raw.execute(),
    raw.sync(),
)
pipeline("wrong number of parameters", raw.parse("SELECT $1::int"), raw.bind(), raw.sync())
pipeline("unknown statement", raw.bind(statement="nobody"), raw.sync())
pipeline("unknown portal", raw.execute("nobody"), raw.sync())
pipeline("describe of an unknown statement", raw.describe("S", "nobody"), raw.sync())
pipeline("simple queries in one go", *[raw.query(f"SELECT {i}") for i in range(20)], syncs=20)
pipeline(
    "a transaction in one pipeline",
    raw.query("BEGIN"),
    raw.parse("SELECT 1/0"),
    raw.sync(),
    raw.bind(),
    raw.execute(),
    raw.sync(),
    raw.query("SELECT 'failed'"),
    raw.query("ROLLBACK"),
    raw.query("SELECT 'fine'"),
    syncs=6,
)
pipeline(
    "simple query behind an unfinished extended one",
    raw.parse("SELECT 1"),
    raw.bind(),
    raw.execute(),
    raw.query("SELECT 2"),
    raw.sync(),
    syncs=2,
)
pipeline(
    "a large parameter",
    raw.parse("SELECT $1::text"),
    raw.bind([b"p" * BIG]),
    raw.execute(),
    raw.sync(),
)
pipeline(
    "copy data outside of a copy",
    raw.copy_data(b"stray"),
    raw.copy_done(),
    raw.query("SELECT 1"),
    raw.copy_fail("stray"),
    raw.query("SELECT 2"),
    syncs=2,
)

INT4PL, TEXT_CAT, INT4DIV = 177, 1258, 154


def function_call(oid: int, *arguments: bytes | None, binary: bool = False) -> bytes:
    """A FunctionCall."""
    formats = struct.pack("!hh", 1, binary)
    values = b"".join(
        struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
        for value in arguments
    )
    count = struct.pack("!h", len(arguments))
    return raw.message(
        b"F", struct.pack("!I", oid) + formats + count + values + struct.pack("!h", binary)
    )


pipeline("function call", function_call(INT4PL, b"1", b"2"))
pipeline(
    "function call in binary",
    function_call(INT4PL, struct.pack("!i", 1), struct.pack("!i", 2), binary=True),
)
pipeline(
    "function call that fails", function_call(INT4DIV, b"1", b"0"), raw.query("SELECT 1"), syncs=2
)
pipeline("function call with null", function_call(TEXT_CAT, b"a", None))
pipeline(
    "function calls in a transaction",
    raw.query("BEGIN"),
    function_call(INT4PL, b"1", b"2"),
    function_call(1, b"x"),
    raw.query("ROLLBACK"),
    syncs=4,
)

IN_TRANSACTION = "BEGIN; CREATE TEMP TABLE c (a int, b text) ON COMMIT DROP"
COPY = "COPY c FROM STDIN"
ROWS = [raw.copy_data(b"%d\trow %d\n" % (i, i)) for i in range(1000)]


def copy_in(name: str, start: bytes, *rest: bytes, syncs: int = 1) -> None:
    """Register a COPY IN: begin, send `start`, wait for CopyInResponse or an error, go on."""

    def run(client: RawClient) -> list[Message]:
        messages = client.query(IN_TRANSACTION)
        client.send(start)
        messages += client.read_until(b"GE")
        client.send(*rest)
        for _ in range(syncs):
            messages += client.read_until()
        return messages + client.query("SELECT count(*) FROM c") + client.query("ROLLBACK")

    SCRIPTS[name] = run


EXTENDED_COPY = raw.parse(COPY) + raw.bind() + raw.describe() + raw.execute()

copy_in("copy in", raw.query(COPY), *ROWS, raw.copy_done())
copy_in("copy in of nothing", raw.query(COPY), raw.copy_done())
copy_in("copy in, given up by the client", raw.query(COPY), *ROWS, raw.copy_fail("enough"))
copy_in(
    "copy in, wrong data in the middle",
    raw.query(COPY),
    *ROWS,
    raw.copy_data(b"no number\tx\n"),
    *ROWS,
    raw.copy_done(),
)
copy_in(
    "copy in, wrong data and then given up",
    raw.query(COPY),
    raw.copy_data(b"x\n"),
    *ROWS,
    raw.copy_fail("enough"),
)
copy_in(
    "copy in with flush and sync within",
    raw.query(COPY),
    ROWS[0],
    raw.flush(),
    raw.sync(),
    ROWS[1],
    raw.copy_done(),
)
copy_in(
    "copy in, rows split between messages",
    raw.query(COPY),
    raw.copy_data(b"1\to"),
    raw.copy_data(b"ne\n2\t"),
    raw.copy_data(b"two\n"),
    raw.copy_done(),
)
copy_in(
    "copy in, a large row",
    raw.query(COPY),
    raw.copy_data(b"1\t" + b"r" * BIG + b"\n"),
    raw.copy_done(),
)
copy_in(
    "two copies in one query",
    raw.query(f"{COPY}; SELECT 1; {COPY}"),
    *ROWS[:2],
    raw.copy_done(),
    *ROWS[2:5],
    raw.copy_done(),
)
copy_in("extended copy in", EXTENDED_COPY + raw.flush(), *ROWS, raw.copy_done(), raw.sync())
copy_in(
    "extended copy in, a sync behind execute",
    EXTENDED_COPY + raw.sync(),
    *ROWS,
    raw.copy_done(),
    raw.sync(),
)
copy_in(
    "extended copy in, given up",
    EXTENDED_COPY + raw.sync(),
    *ROWS,
    raw.copy_fail("enough"),
    raw.sync(),
)
copy_in(
    "extended copy in, wrong data",
    EXTENDED_COPY + raw.flush(),
    raw.copy_data(b"x\n"),
    *ROWS,
    raw.copy_done(),
    raw.sync(),
)
copy_in(
    "extended copy in to no table",
    raw.parse("COPY nowhere FROM STDIN") + raw.bind() + raw.execute() + raw.sync(),
)


@script
def flush_without_sync(client: RawClient) -> list[Message]:
    client.send(raw.parse("SELECT generate_series(1, 3)"), raw.describe("S"), raw.flush())
    messages = client.read_until(b"T")
    client.send(raw.bind(), raw.execute(max_rows=2), raw.flush())
    messages += client.read_until(b"s")
    client.send(raw.execute(max_rows=2), raw.flush())
    messages += client.read_until(b"C")
    client.send(raw.sync())
    return messages + client.read_until()


@script
def error_then_flush_then_sync(client: RawClient) -> list[Message]:
    client.send(raw.parse("SELECT 1/0"), raw.bind(), raw.execute(), raw.flush())
    messages = client.read_until(b"E")
    client.send(raw.parse("SELECT 1"), raw.flush())
    assert client.is_silent(0.05)
    client.send(raw.sync())
    return messages + client.read_until()


@script
def prepared_within_a_transaction(client: RawClient) -> list[Message]:
    messages = client.query("BEGIN")
    client.send(raw.parse("SELECT $1::int * 2", "twice"), raw.sync())
    messages += client.read_until()
    for value in (b"21", b"oops", b"4"):
        client.send(raw.bind([value], "twice"), raw.execute(), raw.sync())
        messages += client.read_until()
    messages += client.query("ROLLBACK")
    client.send(raw.close("S", "twice"), raw.sync())
    return messages + client.read_until()


@script
def byte_by_byte(client: RawClient) -> list[Message]:
    for byte in raw.query("SELECT 'slow'") + raw.parse("SELECT 1") + raw.bind() + raw.execute():
        client.send(bytes([byte]))
    client.send(raw.sync())
    return client.read_until() + client.read_until()


@script
def copy_out_with_extended_protocol(client: RawClient) -> list[Message]:
    client.send(raw.parse("COPY (SELECT generate_series(1, 100)) TO STDOUT"), raw.bind())
    client.send(raw.describe(), raw.execute(), raw.sync())
    return client.read_until()


@script
def query_within_copy_in_ends_the_connection(client: RawClient) -> list[Message]:
    messages = client.query(IN_TRANSACTION)
    client.send(raw.query(COPY))
    messages += client.read_until(b"G")
    client.send(raw.query("SELECT 1"))
    return messages + client.read_until(b"E")


@script
def statement_timeout(client: RawClient) -> list[Message]:
    messages = client.query("BEGIN; SET LOCAL statement_timeout = 20")
    return messages + client.query("SELECT pg_sleep(10)") + client.query("ROLLBACK")


@script
def terminated_by_itself(client: RawClient) -> list[Message]:
    client.send(raw.query("SELECT pg_terminate_backend(pg_backend_pid())"))
    messages = client.read_until(b"EZ")
    assert client.is_closed()
    return messages


def masked(messages: list[Message]) -> list[Message]:
    """The messages without what names a process: its id, and its schema of temporary tables."""
    return [
        (kind, b"pid " + body[4:] if kind == b"A" else re.sub(rb"pg_temp_\d+", b"pg_temp", body))
        for kind, body in messages
    ]


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_same_messages(
    name: str, mode: str, postgres: Postgres, shared_pooler: SharedPooler
) -> None:
    pooler = shared_pooler(defaults={"pool_mode": mode})
    run = SCRIPTS[name]
    answers: list[list[Message]] = []
    for host, port in ((postgres.host, postgres.port), (pooler.host, pooler.port)):
        with RawClient(host, port) as client:
            client.login("app", "app", PASSWORDS["app"])
            answers.append(masked(run(client)))
            client.send(raw.terminate())
    direct, through = answers
    assert raw.kinds(through) == raw.kinds(direct)
    for (kind, ours), (_, theirs) in zip(through, direct, strict=True):
        same = ours == theirs  # compared here: pytest would take minutes to show how 10 MB differ
        assert same, (kind, ours[:1000], theirs[:1000])

"""`pooler ctl`: a command for the console of a running pooler, from a shell or a script.

By default over the socket that every pooler has for this (see `admin.socket`): no configuration,
no password. The exit status says what became of it.
"""

import argparse
import asyncio
import getpass
import json
import os
import re
import secrets
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from pooler.admin import encode
from pooler.admin.socket import found
from pooler.admin.view import Type
from pooler.core.errors import PoolerError, ServerRefused
from pooler.core.settings import Host, Target
from pooler.dialer import open_connection
from pooler.login.servers import Manner, ServerLogin
from pooler.table import Cell, table
from pooler.wire import build, codes, parse
from pooler.wire.scram import Keyring

DONE: Final = 0
FAILED: Final = 1
MISUSED: Final = 2
UNREACHABLE: Final = 3
FORBIDDEN: Final = 4
TIMED_OUT: Final = 5

STATUS: Final = f"""\
exit status:
  {DONE}  done
  {FAILED}  the pooler could not do it, and says why
  {MISUSED}  no such command, or wrong arguments
  {UNREACHABLE}  no pooler to talk to, or it ended meanwhile
  {FORBIDDEN}  not allowed
  {TIMED_OUT}  not done in time, and taken back
"""

_DATABASE: Final = "pooler"
_PLAIN: Final = re.compile(r"[\w.*/@:+-]+")


class CtlError(Exception):
    """Why nothing came of it."""

    def __init__(self, status: int, text: str, detail: str = "", hint: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.detail = detail
        self.hint = hint


@dataclass(slots=True)
class Answer:
    """What the console said."""

    names: list[str] | None = None
    types: list[int] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    tag: str = ""


# -- the command line


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to those of `pooler`."""
    parser = commands.add_parser(
        "ctl",
        help="operate a running pooler: ctl show pools, ctl pause app, ctl reload, ctl drain",
        description="Give a command to a running pooler. `pooler ctl show help` lists them all; "
        "`drain` is SHUTDOWN WAIT_FOR_SERVERS, and waits until the pooler has ended.",
        epilog=STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(parser)
    parser.add_argument("words", nargs="+", metavar="COMMAND", help="such as: show pools")
    parser.set_defaults(command=run)
    upgrade = commands.add_parser(
        "upgrade",
        help="replace the running pooler by a new process, unnoticed by its clients",
        description="Replace the running pooler by a new process: of another version, or with "
        "settings that need a restart. Returns when that serves, or has failed.",
        epilog=STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(upgrade)
    upgrade.set_defaults(command=run, words=["upgrade"])


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_connection(parser)
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="give up after this time")
    parser.add_argument("--json", action="store_true", help="print JSON: a list of objects")


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add what says which console is meant, for `connected`."""
    parser.add_argument("--socket", metavar="PATH", help="the pooler's admin.socket")
    parser.add_argument("--pid", type=int, help="process id of the pooler, where there are several")
    parser.add_argument("--host", help="go over TCP instead, or a unix socket's directory")
    parser.add_argument("--port", type=int, default=6432, help="port of that (default: 6432)")
    parser.add_argument("--user", help="user of the console, its password in PGPASSWORD")


def run(options: argparse.Namespace) -> int:
    """Give the command, print what the console says; return the exit status."""
    try:
        options.password = password(options)
        answer = asyncio.run(_talk(options))
    except CtlError as error:
        _print_error(error, as_json=options.json)
        return error.status
    except KeyboardInterrupt:
        return FAILED
    if answer is not None:
        _print_answer(answer, as_json=options.json)
    return DONE


def sentence(words: Sequence[str]) -> str:
    """Return a command of the console from the words of a command line.

    One word with blanks in it is taken as it is. Otherwise each is a word, a name or a value, and
    quoted where it has to be.
    """
    if len(words) == 1 and not _PLAIN.fullmatch(words[0]):
        return words[0]
    if words[0].lower() == "set" and len(words) > 1:
        name, _, value = " ".join(words[1:]).partition("=")
        if not _ and len(words) > 2:
            name, value = words[1], " ".join(words[3 if words[2].lower() == "to" else 2 :])
        return f"SET {_quoted(name.strip())} = {_literal(value.strip())}"
    return " ".join([words[0], *map(_quoted, words[1:])])


def _quoted(word: str) -> str:
    return word if _PLAIN.fullmatch(word) else '"' + word.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# -- the conversation


async def _talk(options: argparse.Namespace) -> Answer | None:
    drains = [word.lower() for word in options.words] == ["drain"]
    command = "SHUTDOWN WAIT_FOR_SERVERS" if drains else sentence(options.words)
    ends = command.lower().split()[:1] == ["shutdown"]
    try:
        async with asyncio.timeout(options.timeout), connected(options) as conversation:
            try:
                answer = await conversation.ask(command)
                if drains:
                    await conversation.ended
                return None if ends else answer
            except ConnectionError:
                if ends:
                    return None
                raise
    except TimeoutError:
        raise CtlError(TIMED_OUT, f"not done in {options.timeout:g} s, given up") from None


@asynccontextmanager
async def connected(
    options: argparse.Namespace, name: str = "pooler ctl"
) -> "AsyncIterator[Conversation]":
    """Connect to the console that is meant. What goes wrong meanwhile is a CtlError."""
    try:
        conversation = await _connect(options, name)
        try:
            yield conversation
        finally:
            conversation.transport.close()
    except PoolerError as error:
        hint = error.hint
        if error.sqlstate == codes.INVALID_PASSWORD:
            hint = hint or "Give the password of --user in PGPASSWORD."
        raise CtlError(_status(error), error.text, error.detail, hint) from None
    except OSError as error:
        raise CtlError(
            UNREACHABLE, f"no answer from the pooler: {error.strerror or error}"
        ) from None


def _status(error: PoolerError) -> int:
    code = error.sqlstate
    if code == codes.QUERY_CANCELED:
        return TIMED_OUT
    if code == codes.SYNTAX_ERROR:
        return MISUSED
    if code == codes.INSUFFICIENT_PRIVILEGE or code.startswith("28"):
        return FORBIDDEN
    return UNREACHABLE if code.startswith("08") else FAILED


def password(options: argparse.Namespace) -> str | None:
    """Return the password of who is to be connected as; None: none is needed, or there is none."""
    if not options.host:
        return None
    given = os.environ.get("PGPASSWORD")
    if given is None and sys.stdin.isatty():
        return getpass.getpass(f"Password of {_user(options)}: ")
    return given


def _user(options: argparse.Namespace) -> str:
    user: str = options.user or (os.environ.get("PGUSER", "") if options.host else _DATABASE)
    if not user:
        raise CtlError(MISUSED, "with --host, say who you are: --user, or PGUSER")
    return user


async def _connect(options: argparse.Namespace, name: str) -> "Conversation":
    user = _user(options)
    host = Host(options.host or "/", options.port)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    over_tcp = options.host and not host.is_unix
    manner = Manner("try", context, host.host) if over_tcp else Manner("not")
    target = Target((host,), _DATABASE, user, startup=(("application_name", name),))
    login = partial(ServerLogin, target, options.password, secrets.token_bytes, Keyring(), manner)
    if options.host:
        transport, dialogue = await open_connection(host, login)
    else:
        loop: Any = asyncio.get_running_loop()
        path = str(_socket(options))
        transport, dialogue = await loop.create_unix_connection(login, path)
    try:
        await dialogue.result
    except BaseException:
        transport.abort()
        raise
    conversation = Conversation(dialogue.transport)
    dialogue.transport.set_protocol(conversation)
    return conversation


def _socket(options: argparse.Namespace) -> Path:
    """Return the socket of the pooler that is meant; CtlError: there is none, or several."""
    if options.socket:
        return Path(options.socket)
    sockets = [path for path in found() if options.pid in (None, int(path.stem))]
    if len(sockets) == 1:
        return sockets[0]
    if not sockets:
        raise CtlError(
            UNREACHABLE,
            "no pooler of this user runs here" if options.pid is None else "no such pooler",
            hint="Name its admin.socket with --socket, or its address with --host and --port.",
        )
    raise CtlError(
        MISUSED,
        "several poolers run here",
        hint="Say which with --pid: " + ", ".join(path.stem for path in sockets),
    )


class Conversation(asyncio.Protocol):
    """A session of the console, from the other end."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._received = bytearray()
        self._answer = Answer()
        self._error: PoolerError | None = None
        self._result: asyncio.Future[Answer] | None = None

    async def ask(self, command: str) -> Answer:
        """Return the answer, one command at a time; PoolerError or ConnectionError."""
        if self.ended.done():
            raise _gone()
        self._answer, self._error = Answer(), None
        self._result = asyncio.get_running_loop().create_future()
        self.transport.write(build.query(command))
        return await self._result

    def data_received(self, data: bytes) -> None:
        """Read what comes."""
        received = self._received
        received += data
        while len(received) >= codes.HEADER:
            size = int.from_bytes(received[1:5], "big") + 1
            if len(received) < size:
                break
            kind, body = received[0], bytes(received[codes.HEADER : size])
            del received[:size]
            self._take(kind, body)

    def _take(self, kind: int, body: bytes) -> None:
        answer = self._answer
        if kind == codes.ROW_DESCRIPTION:
            fields = parse.row_description(body)
            answer.names = [name for name, _ in fields]
            answer.types = [oid for _, oid in fields]
        elif kind == codes.DATA_ROW:
            values = parse.data_row(body)
            answer.rows.append([_value(*v) for v in zip(answer.types, values, strict=True)])
        elif kind == codes.NOTICE_RESPONSE:
            _print_notice(parse.report(body))
        elif kind == codes.ERROR_RESPONSE:
            self._error = ServerRefused(parse.report(body))
        elif kind == codes.COMMAND_COMPLETE:
            answer.tag = parse.query(body)
        elif kind == codes.READY_FOR_QUERY and self._result and not self._result.done():
            if self._error is not None:
                self._result.set_exception(self._error)
            else:
                self._result.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        """The pooler has ended, or the session."""
        if self._result and not self._result.done():
            self._result.set_exception(self._error or _gone())
        if not self.ended.done():
            self.ended.set_result(None)


def _gone() -> ConnectionResetError:
    return ConnectionResetError("the pooler closed the connection")


_KINDS: Final = {oid: kind for kind, oid in encode.OIDS.items()}


def _value(oid: int, raw: bytes | None) -> Cell:
    if raw is None:
        return None
    text = parse.text(raw)
    match _KINDS.get(oid):
        case Type.BOOL:
            return text == "t"
        case Type.INT | Type.BIGINT | Type.NUMERIC:
            return int(text)
        case Type.FLOAT:
            return float(text)
        case _:
            return text


# -- what is printed


def _print_answer(answer: Answer, *, as_json: bool) -> None:
    names = answer.names
    if as_json:
        found: Any = {"command": answer.tag}
        if names is not None:
            found = [dict(zip(names, row, strict=True)) for row in answer.rows]
        print(json.dumps(found, indent=2, ensure_ascii=False))
    elif names is not None:
        print(table(names, answer.rows, terminal=sys.stdout.isatty()))
    else:
        print(answer.tag)


def _print_notice(fields: dict[str, str]) -> None:
    print(fields.get("M", ""), file=sys.stderr)
    for line in fields.get("D", "").splitlines():
        print(f"  {line}", file=sys.stderr)


def _print_error(error: CtlError, *, as_json: bool) -> None:
    if as_json:
        parts = {"error": error.text, "detail": error.detail, "hint": error.hint}
        print(json.dumps({key: text for key, text in parts.items() if text}), file=sys.stderr)
        return
    print(f"pooler ctl: {error.text}", file=sys.stderr)
    for line in [*error.detail.splitlines(), *error.hint.splitlines()]:
        print(f"  {line}", file=sys.stderr)

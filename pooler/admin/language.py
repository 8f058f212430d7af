"""The console's language: from text to commands, each read and checked whole before any is run.

A command is a word and arguments: names as they are or in double quotes, texts in single quotes,
`$1` for a parameter of the extended protocol. Everything has a bound.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pooler.admin.commands import CommandError
from pooler.wire import codes

QUERY_LIMIT: Final = 8_192
"""Characters of a query, of one or more commands."""
COMMANDS_LIMIT: Final = 100
"""Commands in one query."""
SHOWN: Final = 200
"""Characters of a command that an error repeats."""

_TOKENS: Final = re.compile(
    r"""
      (?P<space> (?: \s | --[^\n]* | /\*.*?\*/ )+ )
    | (?P<quoted> "(?:[^"]|"")*" )
    | (?P<text> '(?:[^']|'')*' )
    | (?P<param> \$\d{1,4} )
    | (?P<word> [\w.*/@:+-]+ )
    | (?P<symbol> [=(),;] )
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a command."""

    kind: str
    text: str
    """What it means: without its quotes."""

    @property
    def is_name(self) -> bool:
        """True where it can be the name of a database, a user or a setting."""
        return self.kind in ("word", "quoted", "text")


@dataclass(frozen=True, slots=True)
class Command:
    """One command, as it was written."""

    text: str
    tokens: tuple[Token, ...]

    @property
    def verb(self) -> str:
        """The first word in lower case, "" where there is none."""
        first = self.tokens[0]
        return first.text.lower() if first.kind == "word" else ""

    @property
    def words(self) -> str:
        """All of it in lower case, one blank between, as drivers' phrases are compared."""
        return " ".join(token.text.lower() for token in self.tokens)

    @property
    def parameters(self) -> int:
        """How many parameters it needs."""
        found = (int(t.text) for t in self.tokens if t.kind == "param")
        return max(found, default=0)

    def bound(self, values: Sequence[str]) -> "Command":
        """Return the command with values in place of its parameters."""
        tokens = tuple(
            Token("text", values[int(token.text) - 1]) if token.kind == "param" else token
            for token in self.tokens
        )
        return Command(self.text, tokens)


def syntax_error(command: Command | str) -> CommandError:
    """Return the error for what is no command, in PgBouncer's words."""
    text = command if isinstance(command, str) else command.text
    shown = text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
    return CommandError(codes.SYNTAX_ERROR, f"invalid command '{shown}', use SHOW HELP;")


def commands(query: str) -> list[Command]:
    """Return the commands of a query; none for an empty one. CommandError."""
    if len(query) > QUERY_LIMIT:
        raise CommandError(
            codes.PROGRAM_LIMIT_EXCEEDED, f"a command has at most {QUERY_LIMIT} characters"
        )
    found: list[Command] = []
    tokens: list[Token] = []
    start = 0
    for token, at in _tokens(query):
        if token.kind == "symbol" and token.text == ";":
            if tokens:
                found.append(Command(query[start:at].strip(), tuple(tokens)))
            tokens, start = [], at + 1
        else:
            tokens.append(token)
    if tokens:
        found.append(Command(query[start:].strip(), tuple(tokens)))
    if len(found) > COMMANDS_LIMIT:
        raise CommandError(
            codes.PROGRAM_LIMIT_EXCEEDED, f"a query has at most {COMMANDS_LIMIT} commands"
        )
    return found


def _tokens(query: str) -> Iterator[tuple[Token, int]]:
    at = 0
    while at < len(query):
        match = _TOKENS.match(query, at)
        if match is None:
            raise syntax_error(query.strip())
        kind, text = str(match.lastgroup), match[0]
        if kind == "quoted":
            yield Token(kind, text[1:-1].replace('""', '"')), at
        elif kind == "text":
            yield Token(kind, text[1:-1].replace("''", "'")), at
        elif kind == "param":
            yield Token(kind, text[1:]), at
        elif kind != "space":
            yield Token(kind, text), at
        at = match.end()


# -- arguments


@dataclass(frozen=True, slots=True)
class About:
    """`[database] [USER user] [TIMEOUT seconds]`."""

    database: str = ""
    user: str = ""
    seconds: float = 0.0


def about(command: Command, *, timeout: bool = False) -> About:
    """Read what a command is about."""
    rest = list(command.tokens[1:])
    database = user = ""
    seconds = 0.0
    if rest and rest[0].is_name and not (_is(rest[0], "timeout") and len(rest) == 2):
        database = rest.pop(0).text
    while rest:
        if len(rest) < 2 or not rest[1].is_name:
            raise syntax_error(command)
        word, value = rest.pop(0), rest.pop(0)
        if _is(word, "user") and database and not user:
            user = value.text
        elif _is(word, "timeout") and timeout and not seconds:
            seconds = _seconds(value.text, command)
        else:
            raise syntax_error(command)
    return About(database, user, seconds)


def _is(token: Token, word: str) -> bool:
    return token.kind == "word" and token.text.lower() == word


def _seconds(text: str, command: Command) -> float:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|min|h)?", text.lower())
    seconds = float(match[1]) * {"ms": 0.001, "min": 60, "h": 3600}.get(match[2], 1) if match else 0
    if not seconds:
        raise CommandError(
            codes.INVALID_PARAMETER,
            f"invalid time '{text[:SHOWN]}' in '{command.verb.upper()}'",
            hint="Write seconds, or a number with ms, s, min or h.",
        )
    return seconds


def nothing(command: Command) -> None:
    """Read that there are no arguments."""
    if len(command.tokens) > 1:
        raise syntax_error(command)


def number(command: Command) -> int:
    """Read the id of a client."""
    if len(command.tokens) != 2:
        raise CommandError(
            codes.SYNTAX_ERROR,
            "invalid client pointer supplied",
            hint=f"Write {command.verb.upper()} and the id that SHOW CLIENTS shows.",
        )
    text = command.tokens[1].text.removeprefix("c")
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise CommandError(codes.INVALID_PARAMETER, "invalid client pointer supplied")
    return int(text)


def assignment(command: Command) -> tuple[str, str] | None:
    """Read `SET name = value` or `SET name TO value`; None: it is another kind of SET."""
    rest = command.tokens[1:]
    place = next(
        (i for i, t in enumerate(rest) if _is(t, "to") or (t.kind, t.text) == ("symbol", "=")), 0
    )
    values = rest[place + 1 :]
    if not place or not values or not all(token.is_name for token in rest[:place]):
        return None
    name = "".join(token.text for token in rest[:place])
    commas, texts = values[1::2], values[::2]
    if not all(t.text == "," for t in commas) or not all(t.is_name for t in texts):
        raise syntax_error(command)
    return name, ", ".join(token.text for token in texts)

"""Regular expressions of pg_hba.conf and pg_ident.conf: PostgreSQL's, as far as both sides agree.

PostgreSQL reads them as its "advanced regular expressions", Python's `re` has another dialect and
goes back and forth over the text where PostgreSQL's engine does not. So a pattern is translated
piece by piece, and refused where the two would differ or where matching could take very long: the
names it is matched against come from people who have not logged in yet.

The same in both: text, `.`, `[...]` with ranges and POSIX classes, `^ $ \\A \\Z`, `\\d \\w \\s` and
their opposites, `\\m \\M \\y \\Y`, groups, `|`, `* + ? {m,n}` and their non-greedy forms, a leading
`(?i)`. Refused: back references, lookahead, character escapes, embedded options, and repetitions
of what itself varies, such as `(a+)*`. One difference is left: of several ways to match, PostgreSQL
takes the longest and we the first, which only shows in what `\\1` stands for.

Rules: pure. The worst pattern that is accepted takes some hundredths of a second for a name as long
as PostgreSQL's, some tenths for one of MAX_TEXT, which only the holder of a certificate can send.

Source: PostgreSQL documentation, "POSIX Regular Expressions"; `regcomp_auth_token` in `hba.c`, for
which the collation is C: classes are those of ASCII, and case is ignored only there.
"""

import re
from typing import Final

MAX_PATTERN: Final = 1000
"""Characters of a pattern."""
MAX_TEXT: Final = 250
"""Characters of a name; a longer one matches nothing. PostgreSQL's own names end at 63 bytes."""
MAX_OPEN: Final = 3
"""Repetitions without an end in one pattern: work grows with the length to this power."""
MAX_CHOICES: Final = 4
"""Of `?` and `(a|b)` in one pattern: each may double the work."""
MAX_REPEAT: Final = 255
"""PostgreSQL's DUPMAX."""

_CLASSES: Final = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": "\\t-\\r ",
    "upper": "A-Z",
    "word": "a-zA-Z0-9_",
    "xdigit": "0-9A-Fa-f",
}
_CONSTRAINTS: Final = {
    "A": "\\A",
    "Z": "\\Z",
    "m": "\\b(?=\\w)",
    "M": "\\b(?<=\\w)",
    "y": "\\b",
    "Y": "\\B",
}
_BOUNDS: Final = re.compile(r"\{(\d{1,3})(?:(,)(\d{1,3})?)?\}")


class BadPattern(ValueError):
    """The pattern can not be used; the text is a predicate ("has ...")."""


class Pattern:
    """A pattern that was accepted."""

    def __init__(self, text: str) -> None:
        self.text = text
        translated, flags = _Translation(text).run()
        try:
            self._compiled = re.compile(translated, re.ASCII | re.DOTALL | flags)
        except (re.error, OverflowError, RecursionError):
            raise BadPattern("is not a regular expression") from None

    @property
    def groups(self) -> int:
        """How many parts it captures."""
        return self._compiled.groups

    def search(self, name: str) -> re.Match[str] | None:
        """The match anywhere in `name`, as PostgreSQL's is not tied to the ends."""
        return self._compiled.search(name) if len(name) <= MAX_TEXT else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


class _Translation:
    """One pattern on its way from PostgreSQL's dialect to Python's."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_PATTERN:
            raise BadPattern(f"is longer than {MAX_PATTERN} characters")
        self.text = text
        self.at = 0
        self.open = 0
        self.choices = 0
        self.varies: list[bool] = [False]
        """For each group we are in, outermost first: can it match in more than one way?"""
        self.last_varies = False
        """The same for the piece that a quantifier would be about."""

    def run(self) -> tuple[str, re.RegexFlag]:
        flags = re.RegexFlag(0)
        if self.text.startswith("***"):
            raise BadPattern("begins with ***, which is not supported")
        if self.text.startswith("(?i)"):
            self.at, flags = 4, re.IGNORECASE
        parts: list[str] = []
        while self.at < len(self.text):
            parts.append(self.piece())
        if len(self.varies) > 1:
            raise BadPattern("has a ( that is not closed")
        return "".join(parts), flags

    def piece(self) -> str:
        """The next atom with its quantifier, or a bracket of a group."""
        char = self.text[self.at]
        self.at += 1
        self.last_varies = False
        if char == "(":
            return self.opened()
        if char == "|":
            if not self.varies[-1]:
                self.choice()
            self.varies[-1] = True
            return "|"
        if char == ")":
            if len(self.varies) == 1:
                raise BadPattern("has a ) that closes nothing")
            self.last_varies = self.varies.pop()
            self.varies[-1] |= self.last_varies
            return ")" + self.quantifier()
        if char == "^":
            return self.constraint("\\A")
        if char == "$":
            return self.constraint("\\Z")  # Python's own $ lets a newline follow
        if char in "*+?" or (char == "{" and self.text[self.at : self.at + 1].isdigit()):
            raise BadPattern(f"has a {char} that repeats nothing")
        if char == ".":
            return "." + self.quantifier()
        if char == "[":
            return self.bracket() + self.quantifier()
        if char == "\\":
            return self.escape()
        return re.escape(char) + self.quantifier()

    def opened(self) -> str:
        self.varies.append(False)
        if self.text.startswith("?:", self.at):
            self.at += 2
            return "(?:"
        if self.text.startswith("?", self.at):
            raise BadPattern("has a (?, of which only (?: and a leading (?i) are supported")
        return "("

    def constraint(self, translated: str) -> str:
        if self.text[self.at : self.at + 1] in ("*", "+", "?"):
            raise BadPattern("repeats what matches a place, not a character")
        return translated

    def escape(self) -> str:
        char = self.text[self.at : self.at + 1]
        self.at += 1
        if char in _CONSTRAINTS:
            return self.constraint(_CONSTRAINTS[char])
        if char and char in "dDwWsS":
            return "\\" + char + self.quantifier()
        if not char or char.isalnum():
            raise BadPattern(f"has \\{char}, which is not supported")
        return re.escape(char) + self.quantifier()

    def bracket(self) -> str:
        """A bracket expression. In PostgreSQL's, the first ] is a member."""
        end = self.at + (self.text.startswith("^", self.at))
        members = "^" if end > self.at else ""
        first = end
        while end < len(self.text) and (self.text[end] != "]" or end == first):
            rest = self.text[end:]
            if named := re.match(r"\[:(\w+):\]", rest):
                if named[1] not in _CLASSES:
                    raise BadPattern(f"has an unknown class [:{named[1]}:]")
                members += _CLASSES[named[1]]
                end += named.end()
            elif rest.startswith(("[.", "[=", "[:")):
                raise BadPattern("has a collating element, which is not supported")
            elif rest[0] == "\\":
                if rest[1:2] and rest[1] in "dsw":
                    members += rest[:2]
                elif not rest[1:2] or rest[1].isalnum():
                    raise BadPattern(f"has {rest[:2]} in [], which is not supported")
                else:
                    members += re.escape(rest[1])
                end += 2
            else:
                members += (
                    "-" if rest[0] == "-" and self.is_range(first, end) else re.escape(rest[0])
                )
                end += 1
        if end >= len(self.text):
            raise BadPattern("has a [ that is not closed")
        self.at = end + 1
        return f"[{members}]"

    def is_range(self, first: int, at: int) -> bool:
        """Whether the - at `at` stands between two members."""
        return at > first and self.text[at + 1 : at + 2] not in ("]", "")

    def quantifier(self) -> str:
        """What follows a piece and repeats it, "" where nothing does; its cost is counted."""
        rest = self.text[self.at : self.at + 10]
        bounds = _BOUNDS.match(rest)
        if bounds:
            least = int(bounds[1])
            most = int(bounds[3]) if bounds[3] else None if bounds[2] else least
            if least > MAX_REPEAT or (most is not None and not least <= most <= MAX_REPEAT):
                raise BadPattern(f"has repetitions {bounds[0]} that are out of range")
            text = bounds[0]
        elif rest[:1] and rest[0] in "*+?":
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[rest[0]]
            text = rest[0]
        elif rest[:1] == "{" and rest[1:2].isdigit():
            raise BadPattern("has repetitions in {} that are none")
        else:
            return ""
        self.at += len(text)
        if self.text.startswith("?", self.at):
            self.at += 1
            text += "?"
        if self.text[self.at : self.at + 1] in ("*", "+", "?") and self.at < len(self.text):
            raise BadPattern("repeats a repetition")
        self.count(least, most)
        return text

    def count(self, least: int, most: int | None) -> None:
        """Add up what a quantifier costs; BadPattern where it is too much."""
        if self.last_varies and most != 1:
            raise BadPattern("repeats something that can match in several ways")
        if least != most:
            self.varies[-1] = True
            if most == 1:
                self.choice()
            else:
                self.open += 1
        if self.open > MAX_OPEN:
            raise BadPattern(f"has more than {MAX_OPEN} repetitions of open length")

    def choice(self) -> None:
        self.choices += 1
        if self.choices > MAX_CHOICES:
            raise BadPattern(f"has more than {MAX_CHOICES} of ? and groups with |")

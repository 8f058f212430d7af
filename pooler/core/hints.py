"""What may have touched a session's state: a cheap over-approximation, never an under-estimate.

Two sources. A statement's text, matched once by one pattern and remembered: functions that change
state without saying so in a command tag. And the tags with which the server says what it did. What
is hinted at is not believed, only asked about: see `truth`.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pooler.core import ddl

if TYPE_CHECKING:
    from pooler.core.policy import Rules, Shown

SETTINGS: Final = 1
"""Run-time parameters, role, session authorization."""
PREPARED: Final = 2
"""Statements prepared in SQL."""
CHANNELS: Final = 4
"""LISTEN and UNLISTEN."""
LOCKS: Final = 8
"""Session-level advisory locks."""
CURSORS: Final = 16
"""Cursors WITH HOLD."""
TEMPORARY: Final = 32
"""Temporary tables, views, sequences, functions."""
ENDLESS: Final = 64
"""What cannot be undone or asked about: LOAD, setseed. Stays until the session ends."""
UNKNOWN: Final = 128
"""The question could not be answered."""
RESET: Final = 256
"""Settings have gone back to the server's defaults, perhaps: a client's own are due again."""
EXECUTES: Final = 512
"""EXECUTE of a statement prepared in SQL, which does whatever its text hinted at."""
SEQUENCES: Final = 1024
"""currval or lastval: reads what an earlier transaction may have left on another server."""
DATABASE: Final = 2048
"""DROP, ALTER or CREATE DATABASE, in whose way our idle servers would stand."""
NOTIFIES: Final = 4096
"""NOTIFY: who sent it is to be known when it arrives."""
ADVANCES: Final = 16384
"""nextval or setval: what currval and lastval tell of."""
FUNCTIONS: Final = 32768
"""Functions, or what calls them, were created, changed or dropped: see `catalog`."""
SCHEMA: Final = 65536
"""The schema was changed: prepared statements may have other results."""
REWRITES: Final = 262144
"""A table or its indexes were written anew; VACUUM has no tag of its own where it does that."""
LOCK_TIMEOUT: Final = 131072
"""The session sets its own `lock_timeout`."""
DEALLOCATES: Final = 8192
"""DEALLOCATE, perhaps of a statement prepared in the extended protocol."""
ANYTHING: Final = SETTINGS | PREPARED | CHANNELS | LOCKS | CURSORS | TEMPORARY

_REMEMBERED: Final = 20_000
"""Texts whose hints are remembered, at most."""
_LONGEST: Final = 4_096
"""Bytes of the longest of them."""

AT_END: Final = FUNCTIONS | SCHEMA
"""What others hear of when the transaction has ended."""

MEMORY: Final = ANYTHING | ENDLESS | RESET | AT_END
"""What a session remembers; the rest is about the moment."""


class Hint:
    """What one text hints at."""

    __slots__ = ("change", "flags", "local", "names", "shown", "text", "unlistened", "unnamed")

    def __init__(
        self,
        flags: int,
        names: frozenset[str],
        *,
        unnamed: bool = False,
        local: bool = False,
        unlistened: frozenset[str] = frozenset(),
        shown: "Shown | None" = None,
        text: bytes = b"",
        change: ddl.Change | None = None,
    ) -> None:
        self.flags = flags
        self.names = names  # of custom settings: pg_settings does not show them
        self.unnamed = unnamed  # a setting whose name is a parameter or an expression
        self.unlistened = unlistened  # channels of UNLISTEN, "*" for all
        self.local = local  # one SET that ends with its transaction, and nothing else
        self.shown = shown  # what clients are warned of, or refused
        self.text = text  # the beginning of the Query's or Parse's body
        self.change = change  # of the schema


NOTHING: Final = Hint(0, frozenset())
TOO_LONG: Final = Hint(ANYTHING, frozenset())
LOCAL: Final = Hint(0, frozenset(), local=True)
LOCAL_LIMIT: Final = Hint(LOCK_TIMEOUT, frozenset(), local=True)

# What no command tag tells. Words that are common as parts of other names (role, load, hold) are
# left to the tags: SET, LOAD, DECLARE.
_WORDS: Final = (
    (SETTINGS, rb"set_config"),
    (LOCKS, rb"advisory"),
    (TEMPORARY, rb"pg_temp|\b(?:into|create)\s+(?:(?:local|global)\s+)?temp"),
    (ENDLESS, rb"setseed"),
    (ANYTHING, rb"dblink"),
    (EXECUTES, rb"execute"),
    (SEQUENCES, rb"currval|lastval"),
    (ADVANCES, rb"nextval|setval"),
    (DATABASE, rb"\bdatabase\b"),
    (NOTIFIES, rb"notify"),
    (DEALLOCATES, rb"deallocate"),
    (LOCK_TIMEOUT, rb"\b(?:re)?set(?:_config)?\b[^;]{1,100}lock_timeout"),
)
_PATTERN: Final = re.compile(rb"(?i)" + b"|".join(b"(%b)" % words for _, words in _WORDS))
_DIGITS: Final = b"0123456789"
_ALIKE: Final = bytes.maketrans(_DIGITS, b"0" * 10)
"""Texts that differ in digits only hint at the same, if no word that hides something has any."""
_AS_IT_IS: Final = bytes(range(256))
_GAP: Final = rb"(?:\s|/\*[^*]{0,500}\*/|--[^\n]{0,500}\n)"
_PART: Final = rb"\"?[a-z_\x80-\xff][\w$\x80-\xff]*\"?"
_SETTING: Final = re.compile(
    rb"(?i)\bset(?:%b+(?:session|local))?%b+((?:%b%b*\.%b*)+%b)"
    % (_GAP, _GAP, _PART, _GAP, _GAP, _PART)
)
_GAPS: Final = re.compile(_GAP)
_SET_CONFIG: Final = re.compile(
    rb"(?i)\bset_config\b[^(]{0,500}\(\s*(?:e?'([^'\\]*)'(?=\s*,)|(\$))?"
)
_LOCAL: Final = re.compile(  # a Query's text, or a Parse's between its name and its types
    rb"(?is)(?:[^\0]*\0)?\s*set\s+(?:local|transaction)\b[^;\0]*;?\s*(?:\0.*)?"
)
_LOCAL_CONFIG: Final = re.compile(
    rb"(?i)\bset_config\s*\((?:[^()'\"$\\/\-]|'[^'\\]*'|\$\d+)*,\s*true\s*\)"
)
_TO_DEFAULT: Final = re.compile(rb"(?i)\bset\s+[\w.\"$ ]{1,100}?(?:=|\bto\b)\s*default\b")
_UNLISTEN: Final = re.compile(rb"(?i)\bunlisten\s+(\*|\"(?:[^\"]|\"\")+\"|[a-z_][\w$]*)")
_DISCARD: Final = re.compile(rb"(?i)\bdiscard\s+all\b")
_DOTTED: Final = re.compile(rb"[A-Za-z_][\w$]*(?:\.[A-Za-z_][\w$]*)+")


class Word:
    """A name that hides session state: of a function, or of a relation that calls one."""

    __slots__ = ("flags", "names", "unnamed")

    def __init__(
        self, flags: int, names: frozenset[str] = frozenset(), unnamed: bool = False
    ) -> None:
        self.flags = flags
        self.names = names  # of custom settings
        self.unnamed = unnamed  # it sets others too, of which the text may tell

    def __or__(self, other: "Word") -> "Word":
        """Return what a name stands for that is both."""
        return Word(
            self.flags | other.flags, self.names | other.names, self.unnamed or other.unnamed
        )

    def covers(self, other: "Word") -> bool:
        """Return whether the other says nothing more."""
        return (
            not other.flags & ~self.flags
            and other.names <= self.names
            and self.unnamed >= other.unnamed
        )


Words = Mapping[bytes, Word]

_FIRST: Final = r"(?:^|[;'$]|\b(?:begin|then|else|loop)\b)\s*"
HIDDEN: Final = {
    ANYTHING: r"\b(?:set_config|pg_(?:try_)?advisory_(?:un)?lock\w*|dblink\w*|temp|temporary"
    r"|pg_temp|with\s+hold)\b|" + _FIRST + r"(?:set\s+(?!local\b|transaction\b|constraints\b)"
    r"|(?:reset|listen|unlisten|prepare|deallocate|discard)\b)",
    ENDLESS: r"\bsetseed\b|" + _FIRST + r"load\s",
    SEQUENCES: r"\b(?:currval|lastval)\b",
    ADVANCES: r"\b(?:nextval|setval)\b",
}
"""What the body of a function has that hides these; the same to Python and to PostgreSQL, but for
the word boundary."""

_HIDDEN: Final = {
    flags: re.compile(pattern.encode(), re.IGNORECASE) for flags, pattern in HIDDEN.items()
}
_NAME: Final = rb"((?:\"[^\"]+\"|[\w$\x80-\xff]+)(?:\s*\.\s*(?:\"[^\"]+\"|[\w$\x80-\xff]+))*)"
_DEFINITIONS: Final = re.compile(
    rb"(?is)\bcreate\s+(?:or\s+replace\s+)?(?:"
    rb"(?:function|procedure|(?:temp\w*\s+)?(?:recursive\s+)?view)\s+" + _NAME + rb"|"
    rb"(?:constraint\s+)?trigger\b[^;]*?\bon\s+" + _NAME + rb"|"
    rb"rule\b[^;]*?\bto\s+" + _NAME + rb")"
)
_DEFINED: Final = 1_000
"""Names learnt of definitions, at most; they are in the catalog soon."""


def add_word(words: dict[bytes, Word], name: str, word: Word) -> None:
    """Add a name to `words`, by the longest word in it."""
    token = max(_TOKEN.findall(name.lower().encode("utf-8", "replace")), key=len, default=b"")
    if token:
        words[token] = words[token] | word if token in words else word


class Hints:
    """Remembers the hints of the texts it has seen."""

    def __init__(self, rules: "Rules", words: Words) -> None:
        self._rules = rules
        self._words: dict[bytes, Word] = {}
        self._alike = _ALIKE
        self._go_by({**words})
        self._defined: dict[bytes, Word] = {}  # by statements seen, and perhaps not committed yet
        self._seen: dict[bytes, Hint] = {}
        self._harmless: set[bytes] = set()  # texts that hint at nothing, by what makes them alike

    @property
    def words(self) -> Words:
        """Names that hide session state: of the catalog, and of definitions it has seen."""
        return self._words

    def learn(self, words: Words) -> bool:
        """Go by these words from now on; return whether a text seen before holds a new one."""
        before = self._words
        self._go_by({**words, **self._defined})
        new = {
            token
            for token, word in self._words.items()
            if token not in before or not before[token].covers(word)
        }
        if new or len(self._words) < len(before):
            seen, self._seen = {*self._seen, *self._harmless}, {}
            self._harmless = set()
            alike = {token.translate(_ALIKE) for token in new}
            return any(not alike.isdisjoint(_tokens(text.translate(_ALIKE))) for text in seen)
        return False

    def _go_by(self, words: dict[bytes, Word]) -> None:
        self._words = words
        digits = any(token.translate(None, _DIGITS) != token for token in words)
        self._alike = _AS_IT_IS if digits else _ALIKE

    def _learn_of(self, text: bytes, flags: int) -> None:
        """Learn the names that a text defines, if it holds what makes them hide something."""
        names = [name for found in _DEFINITIONS.findall(text) for name in found if name]
        for hidden, pattern in _HIDDEN.items():
            if names and pattern.search(text):
                flags |= hidden
        flags &= self._rules.heeded & _HIDEABLE
        if not names or not flags:
            return
        if len(self._defined) >= _DEFINED:
            self._defined.clear()
        settings = frozenset(_name(name) for name in _SETTING.findall(text)) | frozenset(
            _name(found) for found, _ in _SET_CONFIG.findall(text) if b"." in found
        )
        for name in names:
            last = name.rpartition(b".")[2].decode("utf-8", "replace")
            add_word(self._defined, last, Word(flags, settings, unnamed=True))
        self.learn({**self._words, **self._defined})

    def of(self, text: bytes) -> Hint:
        """Return what a Query's or Parse's body hints at."""
        if len(text) > _LONGEST:
            return self._read(text)
        alike = text.translate(self._alike)
        if alike in self._harmless:
            return NOTHING
        hint = self._seen.get(text)
        if hint is not None:
            return hint
        hint = self._read(text)
        if hint is NOTHING:
            if len(self._harmless) >= _REMEMBERED:
                self._harmless.clear()
            self._harmless.add(alike)
        else:
            if len(self._seen) >= _REMEMBERED:
                self._seen.clear()
            self._seen[text] = hint
        return hint

    def _read(self, body: bytes) -> Hint:
        if _LOCAL.fullmatch(body):
            return LOCAL_LIMIT if b"lock_timeout" in body.lower() else LOCAL
        text = _LOCAL_CONFIG.sub(b"", body)
        flags = 0
        for found in _PATTERN.finditer(text):
            group = found.lastindex
            if group is not None:
                flags |= _WORDS[group - 1][0]
        names = {_name(name) for name in _SETTING.findall(text)}
        unnamed = False
        if self._words:
            for token in _tokens(text) & self._words.keys():
                flags |= self._words[token].flags
                names |= self._words[token].names
                unnamed |= self._words[token].unnamed
        if unnamed:
            names |= names_in(text)
        for found in _SET_CONFIG.finditer(text):
            if found[1] is None:
                unnamed = True
                if found[2] is None:  # no parameter either: no Bind will tell
                    flags |= ENDLESS
            elif b"." in found[1]:
                names.add(_name(found[1]))
        if _TO_DEFAULT.search(text):
            flags |= SETTINGS | RESET
        unlistened = {_channel(found) for found in _UNLISTEN.findall(text)}
        if _DISCARD.search(text):
            unlistened.add("*")
        if _CREATE.search(text):
            self._learn_of(text, flags)
        flags &= self._rules.heeded
        shown = self._rules.shown_by(body)
        change = ddl.read(body)
        if not flags and not names and not unlistened and shown is None and change is None:
            return NOTHING
        return Hint(
            flags,
            frozenset(names),
            unnamed=unnamed,
            unlistened=frozenset(unlistened),
            shown=shown,
            text=body[:_LONGEST],
            change=change,
        )


_CREATE: Final = re.compile(rb"(?i)\bcreate\b")
_HIDEABLE: Final = MEMORY | SEQUENCES | ADVANCES

_TOKEN: Final = re.compile(rb"[\w\x80-\xff]+")


def _tokens(text: bytes) -> set[bytes]:
    return set(_TOKEN.findall(text.lower()))


def _channel(raw: bytes) -> str:
    name = raw.decode("utf-8", "replace")
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


_DATABASES: Final = re.compile(
    rb"(?i)\b(?:database(?:\s+if\s+exists)?|template\s*=?)\s+?\"?([^\s\";(\0]+)"
)


def databases_in(text: bytes) -> frozenset[str]:
    """Return the databases that a DROP, ALTER or CREATE DATABASE needs nobody to be in."""
    if not re.search(rb"(?i)\b(?:drop|alter|create)\s+database\b", text):
        return frozenset()
    found = [name.decode("utf-8", "replace") for name in _DATABASES.findall(text)]
    return frozenset(found) | frozenset(name.lower() for name in found) | {"template1"}


def names_in(parameters: bytes) -> frozenset[str]:
    """Return what may be names of custom settings among a Bind's parameters."""
    return frozenset(_name(name) for name in _DOTTED.findall(parameters))


def _name(raw: bytes) -> str:
    return _GAPS.sub(b"", raw).replace(b'"', b"").lower().decode("utf-8", "replace")


_TAGS: Final = {
    b"SET": SETTINGS,
    b"RES": SETTINGS | RESET,
    b"PRE": PREPARED,
    b"DEA": PREPARED,
    b"LIS": CHANNELS,
    b"UNL": CHANNELS,
    b"DEC": CURSORS,
    b"CLO": CURSORS,
    b"DIS": ANYTHING | RESET,
    b"LOA": ENDLESS,
    b"DO\0": ANYTHING,
    b"CAL": ANYTHING,
    b"CRE": TEMPORARY | SCHEMA,
    b"DRO": TEMPORARY | SCHEMA,
    b"ALT": TEMPORARY | SCHEMA,  # of a temporary table's schema
    b"IMP": SCHEMA,
    b"REF": SCHEMA,
    b"TRU": SCHEMA,
    b"CLU": REWRITES,
    b"REI": REWRITES,
    b"VAC": REWRITES,
}


_DEFINITION: Final = re.compile(
    rb"(?:CREATE|ALTER|DROP) "
    rb"(?:FUNCTION|PROCEDURE|ROUTINE|EXTENSION|TRIGGER|RULE|VIEW|POLICY|EVENT TRIGGER)"
)


def of_definition(tag: bytes) -> int:
    """Return whether a command tag says that what hides session state may have changed."""
    return FUNCTIONS if _DEFINITION.fullmatch(tag) else 0


def of_tag(start: bytes) -> int:
    """Return what a command tag, of which `start` is the first three bytes, hints at."""
    return _TAGS.get(start, 0)

"""What is done about each kind of session state: followed, kept in place, announced, refused.

A `Policies` is what the configuration says, `Rules` is what follows from it for a pool: which hints
count, what pins, and which statements a client is warned about or refused. What a text does is read
off its outline: a function that hides it is not refused, but followed as by default.

A refused statement is not ours to answer: it may stand in a transaction, which has to fail, or in
a pipeline, where its turn has to come. So another is sent in its place that PostgreSQL fails to
parse, with an error that is known by where it was raised and by its position; see `refused`.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pooler.core import hints, outline
from pooler.wire import build, codes


class Policy(Enum):
    """What is done about one kind of session state."""

    TRACK = "track"
    """Other servers are brought to it."""
    PIN = "pin"
    """The client keeps its server while there is any."""
    WARN = "warn"
    """As by default, and the client is told once what it costs."""
    ERROR = "error"
    """Statements whose text shows it are refused."""
    IGNORE = "ignore"
    """Nobody looks after it."""


class Check(Enum):
    """When servers are asked what their sessions hold."""

    HINTS = "hints"
    """After transactions that may have touched it."""
    ALWAYS = "always"
    """After all."""
    SAMPLED = "sampled"
    """After some of the others, too."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One kind of session state."""

    name: str
    label: str
    """In a sentence."""
    flags: int
    """Its hints."""
    pattern: str
    """Finds it in an outline."""
    cost: str
    instead: str
    tracked: bool = False
    """Whether another server can be brought to it: the default, else it pins."""

    @property
    def default(self) -> Policy:
        """What is done about it by default."""
        return Policy.TRACK if self.tracked else Policy.PIN


_START: Final = r"(?:^|;)\s*"

FEATURES: Final = (
    Feature(
        "settings",
        "settings of the session",
        hints.SETTINGS,
        _START + r"(?:set\s+(?!local\b|transaction\b|constraints\b)\w|reset\b|discard\s+all\b)"
        r"|\bset_config\s*\((?![^()]*,\s*true\s*\))",
        "Each server connection given to this session has to be set first.",
        "SET LOCAL within the transaction, or ALTER ROLE ... SET",
        tracked=True,
    ),
    Feature(
        "prepared",
        "statements prepared in SQL",
        hints.PREPARED,
        _START + r"prepare\s+(?!transaction\b)\w",
        "Each server connection given to this session has to prepare them first.",
        "prepared statements of the driver (of the extended query protocol)",
        tracked=True,
    ),
    Feature(
        "listen",
        "LISTEN",
        hints.CHANNELS,
        _START + r"listen\b",
        "A server connection of the pool is taken up by those who listen.",
        "a direct connection to the database for the process that listens",
        tracked=True,
    ),
    Feature(
        "locks",
        "session-level advisory locks",
        hints.LOCKS,
        r"\bpg_(?:try_)?advisory_lock(?:_shared)?\b",
        "This session keeps a server connection while it holds one.",
        "pg_advisory_xact_lock, which is released with its transaction",
    ),
    Feature(
        "temporary",
        "temporary objects that outlive their transaction",
        hints.TEMPORARY,
        r"\b(?:create|into)\s+(?:or\s+replace\s+)?(?:local\s+|global\s+)?temp(?:orary)?\b"
        r"(?![^;]*\bon\s+commit\s+drop\b)"
        r"|\bcreate\b[^;]*\b(?:table|view|function|procedure|type|domain|sequence)\s+"
        r"(?:if\s+not\s+exists\s+)?pg_temp\s*\.",
        "This session keeps a server connection while there are any.",
        "CREATE TEMPORARY TABLE ... ON COMMIT DROP, or a common table expression",
    ),
    Feature(
        "hold",
        "cursors WITH HOLD",
        hints.CURSORS,
        r"\bdeclare\b[^;]*\bwith\s+hold\b",
        "This session keeps a server connection while one is open.",
        "a cursor WITHOUT HOLD within a transaction, or pages by key",
    ),
    Feature(
        "load",
        "LOAD and setseed",
        hints.ENDLESS,
        _START + r"load\s|\bsetseed\s*\(",
        "This session keeps its server connection until it ends.",
        "session_preload_libraries of the role or database, and setseed in the query that needs it",
    ),
    Feature(
        "sequences",
        "currval and lastval",
        hints.SEQUENCES,
        r"\b(?:currval|lastval)\s*\(",
        "They answer in the transaction that called nextval, and may fail in a later one.",
        "INSERT ... RETURNING, or keep what nextval returned",
        tracked=True,
    ),
)
"""All kinds, in the order of the configuration; the order is also that of `_refusal`."""

BY_NAME: Final = {feature.name: feature for feature in FEATURES}


@dataclass(frozen=True, slots=True)
class Policies:
    """The policy of each feature, and when sessions are looked at."""

    settings: Policy = Policy.TRACK
    prepared: Policy = Policy.TRACK
    listen: Policy = Policy.TRACK
    locks: Policy = Policy.PIN
    temporary: Policy = Policy.PIN
    hold: Policy = Policy.PIN
    load: Policy = Policy.PIN
    sequences: Policy = Policy.TRACK
    check: Check = Check.HINTS
    check_sample: int = 1000
    """With `sampled`: one transaction of so many is looked at, on average."""
    catalog_interval: float = 600.0
    """Seconds between looks for functions that hide session state; 0.0: none."""


DEFAULTS: Final = Policies()


class Rules:
    """What follows from policies, for one pool."""

    def __init__(self, policies: Policies) -> None:
        self.policies = policies
        self.endless = hints.ENDLESS
        """Hints that pin to the end of the session."""
        self.pinning = 0
        """Hints of what pins although another server could be brought to them."""
        self.heeded = ~hints.ADVANCES
        """Those that count at all."""
        self.refuses = False
        """Whether it refuses any statement."""
        self.sample = {Check.HINTS: 0.0, Check.ALWAYS: 1.0}.get(
            policies.check, 1.0 / policies.check_sample
        )
        """Share of transactions after which a server is asked though nothing hints at anything."""
        self.sampled = policies.check is Check.SAMPLED
        self._shows: list[tuple[Feature, re.Pattern[str]]] = []
        for feature in FEATURES:
            policy = self.policy(feature)
            if policy in (Policy.WARN, Policy.ERROR):
                self._shows.append((feature, re.compile(feature.pattern, re.IGNORECASE)))
            self.refuses |= policy is Policy.ERROR
            if policy is Policy.IGNORE:
                self.heeded &= ~feature.flags
            elif policy is Policy.PIN and feature.flags == hints.SEQUENCES:
                self.heeded |= hints.ADVANCES
                self.endless |= hints.SEQUENCES | hints.ADVANCES
            elif policy is Policy.PIN and feature.tracked:
                self.pinning |= feature.flags
        self.memory = (hints.MEMORY | self.endless) & self.heeded
        """Hints that count after their transaction."""
        self.asked = self.memory & hints.ANYTHING
        """What a server can be asked about."""

    def policy(self, feature: Feature) -> Policy:
        """Return what is done about a feature."""
        policy: Policy = getattr(self.policies, feature.name)
        return policy

    def warns(self, feature: Feature) -> bool:
        """Return whether clients are told once what a feature costs."""
        return self.policy(feature) is Policy.WARN

    def shown_by(self, body: bytes) -> "Shown | None":
        """Return what a Query's or Parse's body shows that clients are warned of, or refused."""
        if not self._shows:
            return None
        text = outline.of(body)
        found = [feature for feature, pattern in self._shows if pattern.search(text)]
        refused = [f for f in found if self.policy(f) is Policy.ERROR]
        warned = tuple(feature for feature in found if feature not in refused)
        return Shown(refused[0] if refused else None, warned) if found else None


@dataclass(frozen=True, slots=True)
class Shown:
    """What a text shows, of what is not simply followed."""

    refused: Feature | None
    warned: tuple[Feature, ...]


# -- what clients are told


def notice(feature: Feature) -> bytes:
    """Return the NOTICE that says what it costs and what to write instead."""
    return build.notice(
        codes.FEATURE_NOT_SUPPORTED,
        f"{feature.label}: of limited use in a transaction pool",
        feature.cost,
        f"Use {feature.instead}.",
    )


_RAISED_BY: Final = "pg_node_tree_in"
_AT: Final = len("SELECT ") + 1


def replacement(kind: int, body: bytes, feature: Feature) -> bytes:
    """Return what is sent in place of a refused Query or Parse."""
    blanks = " " * FEATURES.index(feature)
    sql = f"SELECT {blanks}''::pg_catalog.pg_node_tree"
    if kind == codes.QUERY:
        return build.query(sql)
    return build.message(codes.PARSE, body[: body.find(b"\0") + 1] + build.cstring(sql) + b"\0\0")


def refusal(fields: dict[str, str]) -> bytes | None:
    """Return what a client is told in place of the error that a `replacement` raised.

    None where it is another error.
    """
    if fields.get("R") != _RAISED_BY or fields.get("C") != codes.FEATURE_NOT_SUPPORTED:
        return None
    position = fields.get("P", "")
    place = int(position) - _AT if position.isascii() and position.isdigit() else -1
    if not 0 <= place < len(FEATURES):
        return None
    feature = FEATURES[place]
    return build.error(
        "ERROR",
        codes.FEATURE_NOT_SUPPORTED,
        f"{feature.label}: not allowed in this pool",
        hint=f"Use {feature.instead}, or a pool whose session_state.{feature.name} is "
        f"{feature.default.value}.",
    )

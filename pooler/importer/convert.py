"""From pgbouncer.ini to our configuration: the tree that is validated, and what became of what.

The answers to single settings are in `answers`; here they are put together, with what hangs on more
than one of them. The tree knows file and line of each value, so that whatever our validation says
about it is said of the ini. Rules: reads by way of the readers passed in; shows no value.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pooler.config.authfile import AuthFile, Reader
from pooler.config.problem import Problem
from pooler.config.tree import (
    Node,
    Origin,
    Path,
    at,
    dotted,
    find,
    mapping,
    merge,
    sequence,
    without,
)
from pooler.importer import answers
from pooler.importer.answers import Answer, Outcome, Verdict, Wrong
from pooler.importer.ini import BadString, Entry, Ini, pairs

_RESERVED: Final = "pgbouncer"
"""The console's database."""

_FILES: Final = frozenset(
    {("auth", name) for name in ("file", "hba_file", "ident_file")}
    | {(side, name) for side in ("tls", "server_tls") for name in ("cert_file", "key_file")}
    | {("tls", "ca_file"), ("server_tls", "ca_file"), ("listen", "unix_socket_dir")}
)
"""Settings that name a file. PgBouncer's are relative to where it was started."""


_LISTS: Final = frozenset({"host", "users", "stats_users"})
"""Settings that are a list here, and separated by commas there."""
_SECRETS: Final = frozenset({"password", "hba"})
"""Settings whose value no error shows; an LDAP server's password is among the options of hba."""
_MAX_SHOWN: Final = 60
"""Characters of a value that an error shows."""


class Finding(NamedTuple):
    """What became of a line, or of a default."""

    verdict: Verdict
    setting: str
    """By PgBouncer's names, such as `max_client_conn` or `databases.app: pool_size`."""
    origin: Origin
    """Line 0: it was not written, but is PgBouncer's default."""
    to: tuple[str, ...]
    """Settings of ours."""
    why: str


@dataclass(slots=True)
class Imported:
    """A converted file."""

    tree: Node
    findings: list[Finding] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    """What PgBouncer would have refused, too."""


def convert(path: str, files: Reader) -> Imported:
    """Our configuration as pgbouncer.ini at `path` has it."""
    return _Conversion(path, files).run()


class _Conversion:
    """One conversion: what was put so far."""

    def __init__(self, path: str, files: Reader) -> None:
        self._path = path
        self._files = files
        self._ini = Ini(path, files.text)
        self._done = Imported(mapping({}, Origin(path)), problems=self._ini.problems)
        self._settings = {e.key: e for e in self._of("pgbouncer")}

    def run(self) -> Imported:
        """The steps, in order."""
        self._defaults()
        for entry in self._settings.values():
            self._setting(entry)
        for entry in self._of("databases"):
            self._database(entry)
        for entry in self._of("users"):
            under: Path = ("users", entry.key)
            self._done.tree = merge(self._done.tree, at(under, mapping({}, entry.origin)))
            self._string(entry, answers.USER, under, f"users.{entry.key}")
        for entry in self._of("peers"):
            self._peer(entry)
        self._rules()
        self._sizes()
        self._reserve()
        self._whole_paths()
        return self._done

    def _of(self, section: str) -> Iterable[Entry]:
        """The entries of a section; of several with one key, the last counts, as in PgBouncer."""
        found = {e.key: e for e in self._ini.entries if e.section == section}
        return found.values()

    # -- single settings

    def _defaults(self) -> None:
        origin = Origin(self._path)
        for key, text in answers.DEFAULTS.items():
            if key not in self._settings:
                outcome = answers.SETTINGS[key](text)
                self._take(outcome._replace(why="PgBouncer's default"), key, origin)
        for key, why in answers.OUR_DEFAULTS.items():
            if key not in self._settings:
                self._note(Outcome(Verdict.CHANGED, why), key, origin)

    def _setting(self, entry: Entry) -> None:
        answer = answers.SETTINGS.get(entry.key)
        try:
            if answer is None:
                raise answers.unknown(entry.key)
            outcome = answer(entry.value)
        except Wrong as wrong:
            self._complain(entry, entry.key, wrong.message, wrong.hint)
            return
        if entry.key == "autodb_idle_timeout" and not self._has_fallback():
            outcome = Outcome(Verdict.UNNEEDED, "there is no database *")
        self._take(outcome, entry.key, entry.origin)

    def _has_fallback(self) -> bool:
        return any(entry.key == "*" for entry in self._of("databases"))

    def _complain(self, entry: Entry, setting: str, message: str, hint: str = "") -> None:
        self._done.problems.append(Problem(*_place(entry), setting, message, hint))

    def _take(self, outcome: Outcome, setting: str, origin: Origin, under: Path = ()) -> None:
        for path, text in outcome.put:
            self._put((*under, *path), text, origin)
        self._note(outcome, setting, origin, under)

    def _note(self, outcome: Outcome, setting: str, origin: Origin, under: Path = ()) -> None:
        to = tuple(dotted((*under, *path)) for path, _ in outcome.put)
        self._done.findings.append(Finding(outcome.verdict, setting, origin, to, outcome.why))

    def _put(self, path: Path, text: str, origin: Origin) -> None:
        leaf = _leaf(text, origin, hidden=path[-1] in _SECRETS)
        if path[-1] in _LISTS and "," in text:
            parts = [part.strip() for part in text.split(",")]
            leaf = sequence((_leaf(part, origin) for part in parts if part), origin)
        self._done.tree = merge(self._done.tree, at(path, leaf))

    def _text(self, path: Path) -> str | None:
        """What was put there."""
        found, node = find(self._done.tree, path)
        return node.value if found == path and isinstance(node.value, str) else None

    # -- databases, users, peers

    def _string(
        self, entry: Entry, known: Mapping[str, Answer], under: Path, name: str
    ) -> dict[str, str]:
        """Take the keys of a connection string; what it holds."""
        held: dict[str, str] = {}
        try:
            held = dict(pairs(entry.value))
            for key, text in held.items():
                if key not in known:
                    raise answers.unknown_key(key, known)
                if key == "password" and "user" not in held:
                    why = "PgBouncer uses it with a user of the connection string only"
                    self._note(Outcome(Verdict.UNNEEDED, why), f"{name}: {key}", entry.origin)
                    continue
                self._take(known[key](text), f"{name}: {key}", entry.origin, under)
        except (BadString, Wrong) as wrong:
            self._complain(entry, name, wrong.message, wrong.hint)
        return held

    def _database(self, entry: Entry) -> None:
        name = f"databases.{entry.key}"
        if entry.key == _RESERVED:
            self._complain(entry, name, "is the name of the console's database")
            return
        under: Path = ("databases", entry.key)
        held = self._string(entry, answers.DATABASE, under, name)
        if "host" not in held:
            folder = self._text(("listen", "unix_socket_dir")) or "/tmp"
            self._put((*under, "host"), os.path.abspath(folder), entry.origin)
            why = "PgBouncer's default, the folder of its unix sockets"
            put = (((("host",), folder)),)
            self._note(Outcome(Verdict.KEPT, why, put), f"{name}: host", entry.origin, under)

    def _peer(self, entry: Entry) -> None:
        name = f"peers.{entry.key}"
        before = len(self._done.problems)
        held = self._string(entry, answers.PEER, (), name)
        if len(self._done.problems) > before:
            return
        host, port = held.get("host", ""), held.get("port", "")
        if not host:
            self._complain(entry, name, "has no host")
        elif host.startswith("/"):
            self._put(("peers", "members", entry.key), host, entry.origin)
            if port:
                self._put(("peers", "port"), port, entry.origin)
        else:
            address = f"[{host}]" if ":" in host else host
            address = f"{address}:{port}" if port else address
            self._put(("peers", "members", entry.key), address, entry.origin)

    # -- what hangs together

    def _rules(self) -> None:
        """How clients log in, where that is by rules or was by another method."""
        kind = self._settings.get("auth_type")
        word = kind.value.lower() if kind else ""
        if word in ("ldap", "pam") and kind is not None:
            self._one_rule(word, kind)
        elif options := self._settings.get("auth_ldap_options"):
            self._drop(("auth", "hba"), options, "is used with auth_type ldap only, there as here")
        if word != "hba":
            for key in ("auth_hba_file", "auth_ident_file"):
                if entry := self._settings.get(key):
                    path: Path = ("auth", key.removeprefix("auth_"))
                    self._drop(path, entry, "is used with auth_type hba only, there as here")
        if word == "any":
            self._whoever()

    def _one_rule(self, method: str, kind: Entry) -> None:
        """The rules that a method for everybody is: one for TCP, one for the unix socket."""
        keys = {"database": "all", "user": "all", "method": method}
        if method == "pam":
            keys["pamservice"] = "pgbouncer"
        origin = kind.origin
        if options := self._settings.get("auth_ldap_options"):
            origin = options.origin
            if method == "ldap":
                keys |= self._ldap_options(options)
        rules = []
        for where in ({"type": "host", "address": "all"}, {"type": "local"}):
            nodes = {key: Node(text, origin) for key, text in (where | keys).items()}
            rules.append(mapping(nodes, origin))
        tree = without(self._done.tree, ("auth", "hba"))
        self._done.tree = merge(tree, at(("auth", "hba"), sequence(rules, origin)))

    def _ldap_options(self, entry: Entry) -> dict[str, str]:
        """The `name=value` of pg_hba.conf's syntax, as PgBouncer has them for one method."""
        reading = AuthFile(self._files)
        found: dict[str, str] = {}
        for token in reading.field(entry.value, *_place(entry)):
            name, equals, value = token.text.partition("=")
            if equals:
                found[name] = value
            else:
                self._complain(entry, entry.key, "has an option without a value")
        self._done.problems += reading.problems
        return found

    def _whoever(self) -> None:
        for entry in self._of("databases"):
            if self._text(("databases", entry.key, "user")) is None:
                why = "with auth_type any, a database needs a user; here the client's is taken"
                self._note(
                    Outcome(Verdict.CHANGED, why), f"databases.{entry.key}: user", entry.origin
                )

    def _drop(self, path: Path, entry: Entry, why: str) -> None:
        """Take back what a setting put, since it is not used."""
        self._done.tree = without(self._done.tree, path)
        self._done.findings = [f for f in self._done.findings if f.setting != entry.key]
        self._note(Outcome(Verdict.UNNEEDED, why), entry.key, entry.origin)

    def _sizes(self) -> None:
        """PgBouncer caps a minimum at the size of the pool, we refuse it."""
        size = self._number(("defaults", "pool_size"), 20)
        least = self._number(("defaults", "min_pool_size"), 0)
        if least > size:
            self._cap(("defaults",), size, "min_pool_size", self._settings["min_pool_size"].origin)
            least = size
        for entry in self._of("databases"):
            under: Path = ("databases", entry.key)
            own = self._number((*under, "pool_size"), size)
            if self._number((*under, "min_pool_size"), least) > own:
                self._cap(under, own, f"databases.{entry.key}: min_pool_size", entry.origin)

    def _cap(self, under: Path, size: int, setting: str, origin: Origin) -> None:
        if size < 1:
            return  # is refused for itself
        why = "is more than the pool's size, at which PgBouncer caps it"
        outcome = Outcome(Verdict.CHANGED, why, ((("min_pool_size",), str(size)),))
        self._take(outcome, setting, origin, under)

    def _number(self, path: Path, default: int) -> int:
        text = self._text(path)
        return int(text) if text is not None and text.isdecimal() else default

    def _reserve(self) -> None:
        """A time of 0 turns PgBouncer's reserve off; here it would be used at once."""
        if self._text(("timeouts", "reserve_pool_timeout")) != "0":
            return
        why = "0 turns the reserve off, which here is a reserve_pool_size of 0"
        self._drop(
            ("timeouts", "reserve_pool_timeout"), self._settings["reserve_pool_timeout"], why
        )
        paths: list[Path] = [("defaults",)]
        for section in ("databases", "users"):
            paths += ((section, entry.key) for entry in self._of(section))
        for path in paths:
            self._done.tree = without(self._done.tree, (*path, "reserve_pool_size"))

    def _whole_paths(self) -> None:
        """Names of files as they are found from anywhere."""
        for path in _FILES:
            text = self._text(path)
            if (
                text
                and not os.path.isabs(text)
                and not (path[-1] == "ca_file" and text == "system")
            ):
                origin = find(self._done.tree, path)[1].origin
                self._put(path, self._whole(text), origin)

    def _whole(self, name: str) -> str:
        """Relative to where we are, as PgBouncer has it; else beside the ini."""
        beside = os.path.join(os.path.dirname(os.path.abspath(self._path)), name)
        here = os.path.abspath(name)
        return beside if not self._files.exists(here) and self._files.exists(beside) else here


def _leaf(text: str, origin: Origin, *, hidden: bool = False) -> Node:
    if hidden or len(text) > _MAX_SHOWN:
        return Node(text, origin)
    return Node(text, origin, f"'{text}'")


def _place(entry: Entry) -> tuple[str, int]:
    return entry.origin.file, entry.origin.line

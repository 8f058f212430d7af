"""Rules and user name maps of a configuration, from the files or the lists it has them in.

What `hba` and `ident` make of one line, done for all; here it is known which setting a mistake
belongs to, and what a rule needs besides itself. Rules: reads by way of the reader passed in.
"""

import importlib
import os
from dataclasses import replace

from pooler.config.authfile import AuthFile, Field, Line, Reader, Token
from pooler.config.hba import Rule, Rules, rule_of, rules_of
from pooler.config.ident import Entry, Maps, entries_of, entry_of
from pooler.config.model import Auth
from pooler.config.problem import Problem
from pooler.config.tree import Node, Origin, Path, dotted, find

Found = list[tuple[Path, Problem]]

_COLUMNS = ("type", "database", "user", "address", "mask", "method")
_EXTRAS = {"ldap": ("ldap", "python-ldap"), "pam": ("pamela", "pamela")}
"""By method of a rule: the module it needs, and the package that has it."""


def auth_rules(tree: Node, auth: Auth, source: str, reader: Reader) -> tuple[Rules, Maps, Found]:
    """The rules and the maps, and what is wrong with which setting.

    `source` is the configuration file, or what stands for it: names of files are relative to it.
    """
    loading = _Loading(tree, auth, source, reader)
    entries = loading.entries()
    # A map that seems to be missing may be among the mistakes.
    maps = None if loading.found else Maps(entries)
    rules = loading.rules()
    for path, rule in rules:
        if fault := _fault(rule, auth, maps):
            loading.complain(path, Problem(rule.file, rule.line, "", *fault))
    return Rules(rule for _, rule in rules), Maps(entries), loading.found


class _Loading:
    """What was found so far."""

    def __init__(self, tree: Node, auth: Auth, source: str, reader: Reader) -> None:
        self.found: Found = []
        self._tree = tree
        self._auth = auth
        self._source = source
        self._reader = reader

    def complain(self, path: Path, problem: Problem) -> None:
        """Add a problem with the setting at `path`."""
        self.found.append((path, problem))

    def entries(self) -> list[Entry]:
        """The lines of the maps."""
        entries: list[Entry] = []
        if self._auth.ident_file:
            path: Path = ("auth", "ident_file")
            entries, problems = entries_of(self._lines(path, self._auth.ident_file))
            self.found += ((path, problem) for problem in problems)
        for index, line in enumerate(self._auth.ident):
            path = ("auth", "ident", index)
            origin = self._origin(path)
            fields = (
                self._tokens(path, origin, (text,), plain="")
                for text in (line.map, line.system, line.user)
            )
            entry = entry_of(origin.file, origin.line, tuple(fields))
            if isinstance(entry, Entry):
                entries.append(entry)
            else:
                self.complain(path, replace(entry, path=dotted(path)))
        return entries

    def rules(self) -> list[tuple[Path, Rule]]:
        """The rules, each with the setting it comes from."""
        rules: list[tuple[Path, Rule]] = []
        if self._auth.hba_file:
            path: Path = ("auth", "hba_file")
            before = len(self.found)
            read, problems = rules_of(self._lines(path, self._auth.hba_file))
            rules = [(path, rule) for rule in read]
            self.found += ((path, problem) for problem in problems)
            if not rules and len(self.found) == before:
                origin = self._origin(path)
                message = "the file holds no rule"
                self.complain(path, Problem(origin.file, origin.line, dotted(path), message))
        for index, entry in enumerate(self._auth.hba):
            path = ("auth", "hba", index)
            origin = self._origin(path)
            parts: dict[str, Field] = {}
            for name in _COLUMNS:
                value = getattr(entry, name)
                texts = value if isinstance(value, tuple) else (value,)
                parts[name] = self._tokens(path, origin, texts)
            rule = rule_of(origin.file, origin.line, parts, entry.options)
            if isinstance(rule, Rule):
                rules.append((path, rule))
            else:
                self.complain(path, replace(rule, path=dotted(path)))
        return rules

    def _origin(self, path: Path) -> Origin:
        return find(self._tree, path)[1].origin

    def _lines(self, path: Path, file: str) -> list[Line]:
        """The lines of the file that the setting at `path` names."""
        reading = AuthFile(self._reader)
        lines = reading.read(os.path.join(os.path.dirname(self._source), file))
        for problem in reading.problems:
            if not problem.line:  # the file itself can not be read
                origin = self._origin(path)
                problem = replace(problem, file=origin.file, line=origin.line, path=dotted(path))
            self.complain(path, problem)
        return lines

    def _tokens(
        self, path: Path, origin: Origin, texts: tuple[str, ...], plain: str = "/"
    ) -> Field:
        """What values mean that are written as a field of pg_hba.conf.

        One that begins with `plain`, and not with a quote, is a single word as it stands.
        """
        reading = AuthFile(self._reader)
        found: list[Field] = []
        for text in texts:
            if text and text.startswith(plain) and not text.startswith('"'):
                found.append((Token(text),))
            else:
                found.append(reading.field(text, self._source, origin.line))
        for problem in reading.problems:
            if problem.file == self._source:
                problem = replace(problem, file=origin.file, path=dotted(path))
            self.complain(path, problem)
        return tuple(token for tokens in found for token in tokens)


def _fault(rule: Rule, auth: Auth, maps: Maps | None) -> tuple[str, str] | None:
    """Why a rule that is right by itself can not work here, and a hint."""
    if maps is not None and rule.map and rule.map not in maps.names:
        where = "auth.ident_file" if auth.ident_file else "auth.ident"
        return f"there is no user name map '{rule.map}'", f"add its lines to {where}"
    if rule.method not in _EXTRAS:
        return None
    module, package = _EXTRAS[rule.method]
    try:
        importlib.import_module(module)
    except (ImportError, OSError, AttributeError):  # the C library may be missing, too
        hint = f"pip install 'pooler[{rule.method}]'"
        return f"the method {rule.method} needs the package {package}", hint
    return None

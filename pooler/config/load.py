"""From file, environment and command line to a Config, or to everything that is wrong.

Precedence: command line > environment > file > default. Rules: all mistakes are reported at once;
nothing is changed by a load that fails; files are read here and in no other module of the package.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import NamedTuple

from pydantic import SecretStr

from pooler.config import certificates, environment
from pooler.config.authfile import Reader
from pooler.config.authrules import auth_rules
from pooler.config.checks import clashes, needs_auth_type
from pooler.config.config import Config
from pooler.config.model import AuthType, Settings
from pooler.config.problem import ConfigError, Problem
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
from pooler.config.units import parse_host_port
from pooler.config.upstream import CONNECTION, UpstreamError, parse_upstream
from pooler.config.userlist import parse_userlist
from pooler.config.validate import validate
from pooler.config.yamltext import parse
from pooler.core.settings import SslMode
from pooler.watch import look

MAX_CONFIG = 1 << 20
MAX_USERLIST = 1 << 24
MAX_PASSWORD = 1 << 16
MAX_RULES = 1 << 22
MAX_CERTIFICATES = 1 << 24
"""Bytes of each kind of file: far beyond any real one, and an end for /dev/zero."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says; None where it says nothing."""

    upstream: str | None = None
    """`--upstream postgresql://...`"""
    listen: str | None = None
    """`--listen HOST:PORT`"""
    metrics: str | None = None
    """`--metrics HOST:PORT`, "" for off"""
    settings: tuple[tuple[Path, str], ...] = ()
    """What the console's SET says, above everything else."""


class Draft(NamedTuple):
    """What a configuration in another form than ours says."""

    tree: Node
    problems: Sequence[Problem]
    notes: tuple[str, ...]
    """What of it can not be had here."""


Form = Callable[[str, Reader], Draft]
"""Reads such a file, and what it includes by way of the reader."""


def load(
    path: str | None,
    *,
    environ: Mapping[str, str],
    overrides: Overrides | None = None,
    form: Form | None = None,
) -> Config:
    """The configuration of the file at `path` (or POOLER_CONFIG, or none), or ConfigError.

    `form`: how the file is read if it is not our YAML.
    """
    loading = _Loading(environ, form)
    return loading.run(path or environ.get(environment.CONFIG), overrides or Overrides())


class _Loading:
    """One load: what was read so far and what is wrong with it."""

    def __init__(self, environ: Mapping[str, str], form: Form | None = None) -> None:
        self.environ = environ
        self.form = form
        self.base = ""
        self.files: dict[str, object] = {}
        """How each file looked before it was read."""
        self.problems: list[Problem] = []
        self.broken: list[Path] = []
        """Settings that have a problem."""
        self.used: set[str] = set()
        """Variables the file has placeholders for."""
        self.notes: tuple[str, ...] = ()

    def run(self, path: str | None, overrides: Overrides) -> Config:
        """The steps of a load, in order."""
        tree = self.file(path) if path else mapping({}, Origin("configuration"))
        for overlay in self.from_environment():
            tree = merge(tree, overlay)
        url, source = overrides.upstream, "--upstream"
        if url is None:
            url, source = self.environ.get(environment.UPSTREAM, ""), environment.UPSTREAM
        if url:
            tree = self.upstream(tree, url, source)
        tree = reduce(merge, self.from_options(overrides), tree)
        for setting, text in overrides.settings:
            tree = merge(tree, at(setting, Node(text, Origin("SET"))))
        tree = self.passwords(tree)
        settings, found = validate(tree)
        self.complain_all(found)
        stored = self.userlist(tree, settings.auth.file)
        source = environment.CONFIG if path is None else path
        rules, maps, found = auth_rules(tree, settings.auth, source, _Files(self))
        self.complain_all(found)
        pems = self.tls(tree, settings)
        self.check(tree, settings, bool(url), stored)
        if self.problems:
            raise ConfigError(sorted(self.problems, key=lambda problem: problem.line))
        if needs_auth_type(settings, bool(url)):
            auth = settings.auth.model_copy(update={"type": AuthType.TRUST})
            settings = settings.model_copy(update={"auth": auth})
        return Config(
            **{name: getattr(settings, name) for name in Settings.model_fields},
            source=path,
            notes=self.notes,
            files=tuple(self.files),
            seen=tuple(self.files.values()),
            stored={user: SecretStr(secret) for user, secret in stored.items()},
            rules=rules,
            maps=maps,
            certificates=pems,
        )

    def complain(self, problem: Problem, path: Path = ()) -> None:
        """Adds a problem with the setting at `path`."""
        self.problems.append(problem)
        self.broken.append(path)

    def complain_all(self, found: Iterable[tuple[Path, Problem]]) -> None:
        """Adds what a step found."""
        for path, problem in found:
            self.complain(problem, path)

    def read(self, file: str, limit: int) -> bytes | str:
        """The file's bytes, or why it can not be read, as a predicate."""
        self.files.setdefault(file, look(file))
        try:
            with open(file, "rb") as stream:
                data = stream.read(limit + 1)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else "") or "not a file's name"
            return f"can not be read: {reason}"
        return data if len(data) <= limit else f"is longer than {limit} bytes"

    def file(self, path: str) -> Node:
        """The tree of the configuration file. Without it, nothing else is worth reporting."""
        self.base = os.path.dirname(path)
        if self.form is not None:
            draft = self.form(path, _Files(self))
            if draft.problems:
                raise ConfigError(draft.problems)
            self.notes = draft.notes
            return draft.tree
        data = self.read(path, MAX_CONFIG)
        if isinstance(data, str):
            raise ConfigError([Problem(path, 0, "", data)])
        self.used = environment.placeholders(data.decode(errors="replace"))
        tree, found = parse(data, path, self.environ)
        self.complain_all(found)
        if tree is None:
            raise ConfigError(self.problems)
        return tree

    def from_environment(self) -> Iterable[Node]:
        """The trees of all POOLER_ variables but the URL."""
        trees, problems = environment.overlays(self.environ, self.used)
        self.problems += problems
        for name, section in environment.TREES.items():
            data = os.fsencode(self.environ.get(name, ""))
            tree, found = parse(data, name, self.environ, under=(section,), hidden=True)
            self.complain_all(found)
            if tree is not None and tree.value:
                trees.append(at((section,), tree))
        return trees

    def upstream(self, tree: Node, url: str, source: str) -> Node:
        """The tree with the database of a URL in it, in place of the one of that name."""
        try:
            entry = parse_upstream(url, source)
        except UpstreamError as error:
            self.complain(Problem(source, 0, "", error.message, error.hint), ("databases",))
            return tree
        databases = entry.child("databases")
        assert databases is not None
        assert isinstance(databases.value, dict)
        for name in databases.value:
            for key in CONNECTION:
                tree = without(tree, ("databases", name, key))
        return merge(tree, entry)

    def from_options(self, overrides: Overrides) -> Iterable[Node]:
        """The trees of --listen and --metrics."""
        if overrides.listen is not None:
            origin = Origin("--listen")
            try:
                host, port = parse_host_port(overrides.listen)
            except ValueError:
                problem = Problem(
                    origin.file, 0, "", "is not HOST:PORT", "write an address such as 0.0.0.0:6432"
                )
                self.complain(problem, ("listen",))
            else:
                yield at(("listen", "host"), sequence([Node(host, origin)], origin))
                yield at(("listen", "port"), Node(str(port), origin))
        if overrides.metrics is not None:
            origin = Origin("--metrics")
            yield at(("metrics", "listen"), Node(overrides.metrics, origin))

    def passwords(self, tree: Node) -> Node:
        """The tree with the content of each `password_file` as the `password` beside it."""
        for section in ("databases", "users"):
            entries = tree.child(section)
            for name in entries.value if entries and isinstance(entries.value, dict) else ():
                path: Path = (section, name, "password_file")
                found, node = find(tree, path)
                if found != path or not isinstance(node.value, str) or not node.value:
                    continue
                secret = self.password(tree, path, node)
                if secret is not None:
                    tree = merge(tree, at((section, name, "password"), Node(secret, node.origin)))
        return tree

    def password(self, tree: Node, path: Path, node: Node) -> str | None:
        """The password in the file a `password_file` names."""
        file, line = node.origin.file, node.origin.line
        beside = find(tree, (*path[:-1], "password"))
        if beside[0][-1] == "password" and beside[1].value is not None:
            problem = Problem(file, line, dotted(path), "password is given as well", "keep one")
            self.complain(problem, path)
            return None
        data = self.read(os.path.join(self.base, str(node.value)), MAX_PASSWORD)
        if isinstance(data, bytes):
            try:
                text = data.decode().rstrip("\r\n")
                if text and text.isprintable():
                    return text
                data = "is empty or holds more than one line"
            except UnicodeDecodeError:
                data = "is not UTF-8 text"
        self.complain(Problem(file, line, dotted(path), f"the file {data}"), path)
        return None

    def userlist(self, tree: Node, file: str) -> dict[str, str]:
        """The secrets of auth.file by user."""
        if not file:
            return {}
        path: Path = ("auth", "file")
        name = os.path.join(self.base, file)
        data = self.read(name, MAX_USERLIST)
        if isinstance(data, str):
            origin = find(tree, path)[1].origin
            self.complain(Problem(origin.file, origin.line, dotted(path), f"the file {data}"), path)
            return {}
        secrets, problems = parse_userlist(data, name)
        for problem in problems:
            self.complain(problem, path)
        return secrets

    def tls(self, tree: Node, settings: Settings) -> certificates.Certificates:
        """What the files of tls and server_tls hold."""
        found = certificates.Certificates()
        read = partial(self.pem, found)
        listen = certificates.listening(settings.tls, self.base)
        try:
            if listen is not None:
                found.clients = certificates.for_clients(listen, read)
        except certificates.TlsFault as fault:
            self.complain_about(tree, ("tls", fault.key), fault)
        for name, database in settings.databases.items():
            wanted = certificates.target(settings.server_tls, database.server_tls, self.base)
            found.targets[name] = wanted
            if wanted in found.servers or wanted.sslmode is SslMode.DISABLE:
                continue
            try:
                found.servers[wanted] = certificates.for_servers(wanted, read)
            except certificates.TlsFault as fault:
                path: Path = ("databases", name, "server_tls", fault.key)
                if find(tree, path)[0] != path:
                    path = ("server_tls", fault.key)
                self.complain_about(tree, path, fault)
        return found

    def pem(self, found: certificates.Certificates, file: str) -> bytes | str:
        """A certificate's or a key's file, to be watched from now on."""
        data = self.read(file, MAX_CERTIFICATES)
        if isinstance(data, bytes):
            found.digests[file] = hashlib.sha256(data).hexdigest()
        return data

    def complain_about(self, tree: Node, path: Path, fault: certificates.TlsFault) -> None:
        """Adds a problem with what a TLS setting names, once for all databases it is about."""
        if path in self.broken or any(_overlap(path, broken) for broken in self.broken):
            return
        origin = find(tree, path)[1].origin
        problem = Problem(origin.file, origin.line, dotted(path), fault.message, fault.hint)
        self.complain(problem, path)

    def check(
        self, tree: Node, settings: Settings, upstream: bool, stored: Mapping[str, str]
    ) -> None:
        """Adds the inconsistencies between settings that are right by themselves."""
        for clash in clashes(settings, upstream=upstream, secrets=stored):
            if any(_overlap(a, b) for a in self.broken for b in (clash.path, *clash.others)):
                continue
            origin = find(tree, clash.path)[1].origin
            problem = Problem(
                origin.file, origin.line, dotted(clash.path), clash.message, clash.hint
            )
            self.problems.append(problem)


class _Files:
    """How authfile reads: by way of a load, which notes what to watch."""

    def __init__(self, loading: _Loading) -> None:
        self._loading = loading

    def text(self, file: str) -> bytes | str:
        """A file's content, or why it can not be read."""
        return self._loading.read(file, MAX_RULES)

    def exists(self, file: str) -> bool:
        """Whether there is such a file; it may come later."""
        self._loading.files.setdefault(file, look(file))
        return os.path.exists(file)

    def folder(self, name: str) -> list[str] | str:
        """The names in a folder, which changes itself when one comes or goes."""
        self._loading.files.setdefault(name, look(name))
        try:
            return os.listdir(name)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else "") or "not a folder's name"
            return f"can not be read: {reason}"


def _overlap(a: Path, b: Path) -> bool:
    """True where one path is that of the other or leads to it; no path at all is unknown."""
    shared = min(len(a), len(b))
    return bool(shared) and a[:shared] == b[:shared]

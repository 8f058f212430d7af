"""Who may come from where and must prove what: rules in pg_hba.conf's syntax, or as YAML.

Read and matched as PostgreSQL 16 does: the first rule that fits a connection decides. What differs:
host names in the address column are refused, since a login would have to wait for a name server
that others may control; so are `samerole`, `samegroup` and `+group`, which only a database can
answer, and `hostgssenc`. Addresses are written in full, the shorthands of inet_aton (`10.1`) are
not read. An IPv6 address that is an IPv4 one in disguise (::ffff:...) counts as IPv4 on both sides.
Regular expressions are those of `regex`.

Rules: pure; each mistake has its file and line; no secret in a problem or a repr.

Source: PostgreSQL documentation, "The pg_hba.conf File"; `parse_hba_line` and `check_hba` in
`src/backend/libpq/hba.c`.
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias, cast, get_args

from pooler.config.authfile import Field, Line, Token
from pooler.config.ldapoptions import LdapOptions, OptionError, ldap_options
from pooler.config.problem import Problem, Wrong, did_you_mean, printable
from pooler.config.regex import BadPattern, Pattern

Kind: TypeAlias = Literal["local", "host", "hostssl", "hostnossl"]
RuleMethod: TypeAlias = Literal[
    "trust", "reject", "password", "md5", "scram-sha-256", "cert", "peer", "ldap", "pam"
]
Interfaces: TypeAlias = Callable[[], Iterable[ipaddress.IPv4Interface | ipaddress.IPv6Interface]]
"""The addresses of this machine, each with its network; asked where a rule wants to know."""

MAX_NAME: Final = 63
"""Bytes of a name in PostgreSQL (NAMEDATALEN - 1): a longer one fits no regular expression."""
PAM_SERVICE: Final = "postgresql"
"""PostgreSQL's own default (PGSQL_PAM_SERVICE), so that its service file serves both."""

_METHODS: Final[tuple[str, ...]] = get_args(RuleMethod)
_KINDS: Final[dict[str, Kind]] = {
    "local": "local",
    "host": "host",
    "hostssl": "hostssl",
    "hostnossl": "hostnossl",
    "hostnogssenc": "host",  # there is no GSS encryption here, so it is never in use
}
_NOT_HERE: Final = {
    "ident": "use peer on unix sockets",
    "gss": "",
    "sspi": "",
    "bsd": "",
    "radius": "pam reaches a RADIUS server through pam_radius",
    "oauth": "",
}
_DATABASES: Final = ("all", "sameuser", "replication")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a connection asks for, as far as rules are concerned."""

    address: str
    """The client's IP address, "" on a unix socket."""
    encrypted: bool
    """Whether TLS is in use."""
    user: str
    database: str
    replication: bool = False
    """Physical replication, which has no database."""

    @property
    def host(self) -> str:
        """The address as PostgreSQL writes it."""
        return self.address or "[local]"


@dataclass(frozen=True, slots=True)
class Name:
    """A database or user of a rule: a word, a keyword or a regular expression."""

    token: Token
    pattern: Pattern | None = None

    def is_keyword(self, word: str) -> bool:
        """Whether it is that keyword."""
        return self.pattern is None and self.token.is_keyword(word)

    def fits(self, name: str) -> bool:
        """Whether it is that name, or a regular expression that it fits."""
        if self.pattern is None:
            return self.token.text == name
        short = len(name.encode("utf-8", "surrogateescape")) <= MAX_NAME
        return short and self.pattern.search(name) is not None


@dataclass(frozen=True, slots=True)
class Net:
    """An address with a mask, which need not be a prefix."""

    version: int
    address: int
    mask: int

    def holds(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        """Whether an address is in it."""
        return address.version == self.version and not (int(address) ^ self.address) & self.mask


Where: TypeAlias = Literal["all", "samehost", "samenet"] | Net


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, and where it is written."""

    file: str = field(compare=False)
    line: int = field(compare=False)
    kind: Kind
    databases: tuple[Name, ...]
    users: tuple[Name, ...]
    where: Where
    """Means nothing for `local`."""
    method: RuleMethod
    map: str = ""
    """The user name map, "" where the names have to be the same."""
    clientname: Literal["CN", "DN"] = "CN"
    clientcert: Literal["", "verify-ca", "verify-full"] = ""
    """The certificate that has to be shown besides the proof that the method asks for."""
    ldap: LdapOptions | None = None
    pamservice: str = ""
    pam_use_hostname: bool = False

    def fits(self, asked: Asked, interfaces: Interfaces) -> bool:
        """Whether the rule is about this connection."""
        if not asked.address:
            if self.kind != "local":
                return False
        elif (
            self.kind == "local"
            or self.kind == ("hostnossl" if asked.encrypted else "hostssl")
            or not _is_from(asked.address, self.where, interfaces)
        ):
            return False
        return any(_is_database(name, asked) for name in self.databases) and any(
            name.is_keyword("all") or name.fits(asked.user) for name in self.users
        )


class Rules:
    """All rules, in order."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = tuple(rules)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rules) and self._rules == other._rules

    def __hash__(self) -> int:
        return hash(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules)

    def __repr__(self) -> str:
        return f"<{len(self._rules)} rules>"

    def first(self, asked: Asked, interfaces: Interfaces) -> Rule | None:
        """The rule that decides about a connection; None: nobody lets it in."""
        return next((rule for rule in self._rules if rule.fits(asked, interfaces)), None)


def _is_database(name: Name, asked: Asked) -> bool:
    if asked.replication:
        return name.is_keyword("replication")
    if name.is_keyword("all"):
        return True
    if name.is_keyword("sameuser"):
        return asked.user == asked.database
    return not name.is_keyword("replication") and name.fits(asked.database)


def _is_from(address: str, where: Where, interfaces: Interfaces) -> bool:
    if where == "all":
        return True
    client = address_of(address)
    if client is None:
        return False
    if isinstance(where, Net):
        return where.holds(client)
    if where == "samehost":
        return any(client == interface.ip for interface in interfaces())
    return any(client in interface.network for interface in interfaces())


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IP address without its zone, as IPv4 where it stands for one; None: it is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


# -- reading


@dataclass(slots=True)
class _Draft:
    """A rule whose parts are still being read, in whichever form it is written."""

    file: str
    line: int
    kind: Field
    databases: Field
    users: Field
    address: Field = ()
    mask: Field = ()
    method: Field = ()
    options: Sequence[tuple[str, str]] = ()


def rules_of(lines: Iterable[Line]) -> tuple[list[Rule], list[Problem]]:
    """The rules of a file's lines, and what is wrong with them."""
    rules: list[Rule] = []
    problems: list[Problem] = []
    for line in lines:
        try:
            rules.append(_rule(_draft(line)))
        except Wrong as wrong:
            problems.append(Problem(line.file, line.number, "", wrong.message, wrong.hint))
    return rules, problems


def rule_of(
    file: str, line: int, parts: dict[str, Field], options: Sequence[tuple[str, str]]
) -> Rule | Problem:
    """The rule that is written as YAML: its parts by column, and its options."""
    draft = _Draft(
        file,
        line,
        kind=parts.get("type", ()),
        databases=parts.get("database", ()),
        users=parts.get("user", ()),
        address=parts.get("address", ()),
        mask=parts.get("mask", ()),
        method=parts.get("method", ()),
        options=options,
    )
    try:
        return _rule(draft)
    except Wrong as wrong:
        return Problem(file, line, "", wrong.message, wrong.hint)


def _draft(line: Line) -> _Draft:
    """Sort a line's fields by their meaning, which hangs on the first and on the address."""
    kind, *rest = line.fields
    columns = iter(rest)
    draft = _Draft(line.file, line.number, kind, next(columns, ()), next(columns, ()))
    if _one(kind, "connection type") != "local":
        draft.address = next(columns, ())
        if draft.address and _needs_mask(draft.address):
            draft.mask = next(columns, ())
            if not draft.mask:
                raise Wrong(
                    "the line ends before the mask of the address",
                    "write the address as 10.0.0.0/8, or the mask in a column of its own",
                )
    draft.method = next(columns, ())
    options: list[tuple[str, str]] = []
    for option in columns:
        for token in option:
            name, equals, value = token.text.partition("=")
            if not equals:
                raise Wrong("an option is not of the form name=value")  # may hold a secret
            options.append((name, value))
    draft.options = options
    return draft


def _needs_mask(address: Field) -> bool:
    text = address[0].text
    return "/" not in text and address_of(text) is not None


def _rule(draft: _Draft) -> Rule:
    """The rule, with every part checked; Wrong."""
    kind = _kind(_one(draft.kind, "connection type"))
    databases = tuple(_database(token) for token in _some(draft.databases, "database"))
    users = tuple(_user(token) for token in _some(draft.users, "user"))
    where: Where = "all"
    if kind != "local":
        where = _where(_some(draft.address, "address"), draft.mask)
    elif draft.address or draft.mask:
        raise Wrong("a local rule has no address", "write host, hostssl or hostnossl")
    method = _method(_one(draft.method, "method"), kind)
    rule = Rule(draft.file, draft.line, kind, databases, users, where, method)
    return _with_options(rule, draft.options)


def _one(tokens: Field, what: str) -> str:
    if len(tokens) > 1:
        raise Wrong(f"there is more than one {what}", "write a rule for each")
    return _some(tokens, what)[0].text


def _some(tokens: Field, what: str) -> Field:
    if not tokens:
        raise Wrong(f"there is no {what}")
    return tokens


def _kind(word: str) -> Kind:
    if word == "hostgssenc":
        raise Wrong("hostgssenc would never fit: there is no GSSAPI encryption here")
    kind = _KINDS.get(word)
    if kind is None:
        raise Wrong(
            f"{_shown(word)} is not a connection type",
            did_you_mean(word, _KINDS) or "write local, host, hostssl or hostnossl",
        )
    return kind


def _method(word: str, kind: Kind) -> RuleMethod:
    if word in _NOT_HERE:
        raise Wrong(f"the method {word} is not supported", _NOT_HERE[word])
    if word not in _METHODS:
        raise Wrong(
            f"{_shown(word)} is not a method",
            did_you_mean(word, _METHODS) or f"write one of {', '.join(_METHODS)}",
        )
    if word == "peer" and kind != "local":
        raise Wrong("peer works on unix sockets alone", "write local in place of " + kind)
    if word == "cert" and kind != "hostssl":
        raise Wrong("cert needs TLS", "write hostssl in place of " + kind)
    return cast(RuleMethod, word)


def name_of(token: Token) -> Name:
    """The name that a token stands for; BadPattern."""
    if not token.text.startswith("/"):
        return Name(token)
    return Name(token, Pattern(token.text[1:]))


def is_group(token: Token) -> bool:
    """Whether a token means the members of a role."""
    return not token.quoted and token.text.startswith("+")


def _name(token: Token) -> Name:
    try:
        return name_of(token)
    except BadPattern as bad:
        raise Wrong(
            f"the regular expression {_shown(token.text[1:])} {bad}",
            "docs/authentication.md says what is supported",
        ) from None


def _database(token: Token) -> Name:
    if token.is_keyword("samerole") or token.is_keyword("samegroup"):
        raise Wrong(
            f"{token.text} is not supported: only a database knows who is in a role",
            "name the databases, or give a file of names as @file",
        )
    return _name(token)


def _user(token: Token) -> Name:
    if is_group(token):
        raise Wrong(
            f"{_shown(token.text)} is not supported: only a database knows who is in a role",
            "name the users, give a file of names as @file, or a regular expression as /^name_",
        )
    return _name(token)


def _where(tokens: Field, masks: Field) -> Where:
    if len(tokens) > 1:
        raise Wrong("there is more than one address", "write a rule for each")
    token = tokens[0]
    for word in ("all", "samehost", "samenet"):
        if token.is_keyword(word):
            if masks:
                raise Wrong(f"{word} takes no mask")
            return cast(Where, word)
    text, slash, bits = token.text.partition("/")
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        raise Wrong(
            f"{_shown(token.text)} is not an IP address",
            "host names are not supported, since a login would hang on a name server; write "
            "10.0.0.0/8, an address and a mask, all, samehost or samenet",
        ) from None
    if slash and masks:
        raise Wrong("there are two masks", "keep one")
    if slash:
        if not (bits.isascii() and bits.isdigit()) or int(bits) > address.max_prefixlen:
            raise Wrong(f"{_shown(token.text)} has a mask that is none")
        size = address.max_prefixlen
        mask = (1 << size) - (1 << (size - int(bits)))
    elif masks:
        mask = _mask(_one(masks, "mask"), address)
    else:
        raise Wrong("the address has no mask", f"write {text}/{address.max_prefixlen} for one host")
    return _as_ipv4(Net(address.version, int(address), mask))


def _mask(text: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    try:
        mask = ipaddress.ip_address(text)
    except ValueError:
        raise Wrong(f"{_shown(text)} is not a mask", "write one such as 255.255.255.0") from None
    if mask.version != address.version:
        raise Wrong("the address and its mask are not of the same kind")
    return int(mask)


def _as_ipv4(net: Net) -> Net:
    """The IPv4 network that a network of ::ffff:... addresses stands for."""
    high, low = (1 << 128) - (1 << 32), (1 << 32) - 1
    if net.version == 6 and net.mask & high == high and net.address >> 32 == 0xFFFF:
        return Net(4, net.address & low, net.mask & low)
    return net


# -- options


def _with_options(rule: Rule, options: Sequence[tuple[str, str]]) -> Rule:
    ldap: list[tuple[str, str]] = []
    for name, value in options:
        if name.startswith("ldap"):
            if rule.method != "ldap":
                raise Wrong(f"the option {_shown(name)} is for the method ldap alone")
            ldap.append((name, value))
        else:
            rule = _with_option(rule, name, value)
    if rule.method == "ldap":
        try:
            rule = replace(rule, ldap=ldap_options(ldap))
        except OptionError as error:
            raise Wrong(str(error), error.hint) from None
    if rule.method == "pam" and not rule.pamservice:
        rule = replace(rule, pamservice=PAM_SERVICE)
    if rule.method == "cert":
        rule = replace(rule, clientcert="verify-full")
    return rule


def _with_option(rule: Rule, name: str, value: str) -> Rule:
    match name:
        case "map":
            if rule.method not in ("cert", "peer"):
                raise Wrong("the option map is for the methods cert and peer alone")
            return replace(rule, map=value)
        case "clientname" | "clientcert" if rule.kind != "hostssl":
            raise Wrong(f"the option {name} is for hostssl rules alone")
        case "clientname":
            if value not in ("CN", "DN"):
                raise Wrong(f"clientname is {_shown(value)}", "write CN or DN")
            return replace(rule, clientname=cast(Literal["CN", "DN"], value))
        case "clientcert":
            if value not in ("verify-ca", "verify-full"):
                raise Wrong(f"clientcert is {_shown(value)}", "write verify-ca or verify-full")
            if rule.method == "cert" and value != "verify-full":
                raise Wrong("the method cert asks for a certificate as clientcert=verify-full does")
            return replace(rule, clientcert=cast(Literal["verify-ca", "verify-full"], value))
        case "pamservice" | "pam_use_hostname" if rule.method != "pam":
            raise Wrong(f"the option {name} is for the method pam alone")
        case "pamservice":
            if not value or "/" in value:
                raise Wrong("pamservice is not the name of a service")
            return replace(rule, pamservice=value)
        case "pam_use_hostname":
            if value == "1":
                raise Wrong("pam_use_hostname=1 is not supported", "PAM is given the IP address")
            return rule
    known = ("map", "clientname", "clientcert", "pamservice")
    raise Wrong(f"the option {_shown(name)} is not known", did_you_mean(name, known))


def _shown(text: str) -> str:
    return f"'{printable(text if len(text) <= 60 else text[:60] + '...')}'"

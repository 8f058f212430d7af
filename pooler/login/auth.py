"""Who may log in, and how they must prove who they are: answers a login dialogue's `Find`.

Decides by the configuration that is in force, whose rules are asked in order as PostgreSQL asks
those of pg_hba.conf; what it tells a client are PostgreSQL's words and SQLSTATEs. The proof is the
dialogue's business where a password is one, and was done before where it is a certificate or the
kernel's word for who is at a unix socket.
"""

import pwd
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from pooler.config import AuthType, Config
from pooler.config.hba import Asked, Interfaces, Rule, RuleMethod
from pooler.interfaces import interfaces
from pooler.ldapcheck import ldap_check
from pooler.login.ends import Connection
from pooler.outside import Outside
from pooler.pamcheck import pam_check
from pooler.wire import codes
from pooler.wire.logins import Account, Ask, Find, LoginFailed, Method
from pooler.wire.passwords import Kind, kind_of

LookUp = Callable[[str, str], Awaitable[str | None]]
"""Asks for what is stored of (database, user)."""


_CERTIFICATE: Final = Rule("", 0, "hostssl", (), (), "all", "cert", clientcert="verify-full")
"""What auth.type cert asks of everybody."""
_NAMES: Final[dict[RuleMethod, str]] = {
    "trust": '"trust"',
    "cert": "certificate",
    "peer": "Peer",
    "ldap": "LDAP",
    "pam": "PAM",
}
"""What PostgreSQL calls a method that failed; the others are "password"."""


class Authenticator:
    """Looks accounts up in the configuration that is in force."""

    def __init__(
        self,
        config: Callable[[], Config],
        interfaces: Interfaces = interfaces,
        lookup: LookUp | None = None,
    ) -> None:
        self._config = config
        self._lookup = lookup
        self._interfaces = interfaces
        self._outside = Outside()
        self._looked_up_kinds: Counter[Kind] = Counter()

    def find(self, connection: Connection, request: Find) -> Account | Awaitable[Account]:
        """Return the account, at once where nobody has to be asked; LoginFailed: not from there."""
        config = self._config()
        method = config.method
        if method is not None:
            return self._account(config, request, method)
        rule = self._rule(config, connection, request)
        _check_certificate(config, rule, connection, request.user)
        if rule.method == "peer":
            return self._peer(config, rule, connection, request)
        assert rule.method != "reject"
        check = self._check(rule, connection, request.user)
        if check is not None:
            return Account(rule.method, None, check)
        return self._account(config, request, rule.method)

    def _account(
        self, config: Config, request: Find, method: Method
    ) -> Account | Awaitable[Account]:
        """Return the user's account, with what is stored of the user."""
        secret = config.secret(request.user)
        lookup = self._lookup
        if secret is None and method != "trust" and lookup and config.lookup(request.database):
            return self._looked_up(lookup, method, request)
        return Account(_disguised(method, config.kinds) if secret is None else method, secret)

    async def _looked_up(self, lookup: LookUp, method: Method, request: Find) -> Account:
        """Return the account of a user who is not in the configuration."""
        secret = await lookup(request.database, request.user)
        kinds = self._looked_up_kinds
        if secret is None:
            return Account(_disguised(method, kinds), None)
        kinds[kind_of(secret)] += 1
        return Account(method, secret)

    def _rule(self, config: Config, connection: Connection, request: Find) -> Rule:
        """Return the rule that lets the connection try."""
        if config.auth.type is AuthType.CERT:
            return _CERTIFICATE
        asked = Asked(
            connection.address,
            connection.tls is not None,
            request.user,
            request.database,
            _is_physical_replication(request.parameters.get("replication", "")),
        )
        rule = config.rules.first(asked, self._interfaces)
        if rule is None:
            raise LoginFailed(codes.INVALID_AUTHORIZATION, _no_entry(asked), "no rule fits")
        if rule.method == "reject":
            raise LoginFailed(codes.INVALID_AUTHORIZATION, _rejected(asked), _place(rule))
        return rule

    def _check(self, rule: Rule, connection: Connection, user: str) -> Ask | None:
        """Return how somebody else is asked whether a password is right."""
        if rule.ldap is not None:
            return partial(self._ask, partial(ldap_check, rule.ldap, user))
        if rule.method == "pam":
            return partial(self._ask, partial(pam_check, rule.pamservice, user, connection.address))
        return None

    async def _ask(self, check: Callable[[str], str], password: str) -> str:
        try:
            return await self._outside.ask(lambda: check(password))
        except TimeoutError:
            return "no answer in time"

    async def _peer(
        self, config: Config, rule: Rule, connection: Connection, request: Find
    ) -> Account:
        """Return the account of whom the kernel says is there; LoginFailed: it is another's."""
        uid = connection.uid
        try:
            # The system's list of users may be somewhere in the network.
            name = "" if uid is None else await self._outside.ask(lambda: pwd.getpwuid(uid).pw_name)
        except (KeyError, TimeoutError):
            name = ""
        if not name or not config.maps.lets(rule.map, name, request.user):
            cause = f"system user {name}" if name else f"no name for uid {uid}"
            raise _failed(rule, request.user, cause)
        account = self._account(config, request, "peer")
        return account if isinstance(account, Account) else await account


def _disguised(method: Method, kinds: Mapping[Kind, int]) -> Method:
    """Return how an unknown user is led through a login: as most of those who are known.

    md5 asks those with a SCRAM verifier for SCRAM. While none are known, that is what PostgreSQL
    stores by default.
    """
    if method != "md5" or sum(kinds.values()) > 2 * kinds.get(Kind.SCRAM, 0):
        return method
    return "scram-sha-256"


def _check_certificate(config: Config, rule: Rule, connection: Connection, user: str) -> None:
    """LoginFailed without the certificate that a rule asks for."""
    if not rule.clientcert:
        return
    tls = connection.tls
    if tls is None or not tls.verified:
        raise LoginFailed(
            codes.INVALID_AUTHORIZATION,
            "connection requires a valid client certificate",
            _place(rule),
        )
    if rule.clientcert == "verify-full":
        name = tls.dn if rule.clientname == "DN" else tls.cn
        if not name or not config.maps.lets(rule.map, name, user):
            raise _failed(rule, user, f"the certificate is {name}" if name else "it has no name")


def _failed(rule: Rule, user: str, cause: str) -> LoginFailed:
    """Return PostgreSQL's error for a proof that was none."""
    name = _NAMES.get(rule.method, "password")
    code = codes.INVALID_PASSWORD if name == "password" else codes.INVALID_AUTHORIZATION
    text = f'{name} authentication failed for user "{user}"'
    return LoginFailed(code, text, "; ".join(part for part in (cause, _place(rule)) if part))


def _place(rule: Rule) -> str:
    return f"{rule.file}:{rule.line}" if rule.file else ""


def _is_physical_replication(value: str) -> bool:
    """Whether the startup parameter asks for it; `database` is like any other connection to one."""
    return value.lower() not in ("", "false", "off", "no", "0", "database")


def _encryption(asked: Asked) -> str:
    return "SSL encryption" if asked.encrypted else "no encryption"


def _no_entry(asked: Asked) -> str:
    end = f'host "{asked.host}", user "{asked.user}"'
    if asked.replication:
        return f"no pg_hba.conf entry for replication connection from {end}, {_encryption(asked)}"
    return f'no pg_hba.conf entry for {end}, database "{asked.database}", {_encryption(asked)}'


def _rejected(asked: Asked) -> str:
    end = f'host "{asked.host}", user "{asked.user}"'
    if asked.replication:
        return f"pg_hba.conf rejects replication connection for {end}, {_encryption(asked)}"
    end = f'{end}, database "{asked.database}"'
    return f"pg_hba.conf rejects connection for {end}, {_encryption(asked)}"

"""Checks a password by logging in to an LDAP server with it. Blocks: for a thread.

With python-ldap, which is OpenLDAP's own library underneath as in PostgreSQL: certificates, CAs and
the like are configured where everybody does, in ldap.conf. What a client sends never becomes a part
of a name or a filter without its special characters escaped, referrals are not followed, and
neither an empty name nor an empty password is ever tried, since servers take those as anonymous.

Source: RFC 4513 (5.1.2), 4514 and 4515; `CheckLDAPAuth` in PostgreSQL's `auth.c`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pooler.config.ldapoptions import LdapOptions

PATIENCE: Final = 5.0
"""Seconds for each step: connecting, and each answer."""

_PLACE: Final = "$username"


def ldap_check(options: LdapOptions, user: str, password: str) -> str:
    """Say why this is not the user's password, "" if it is."""
    import ldap  # an extra

    if not password or "\0" in password or "\0" in user:
        return "a name or password that LDAP does not take"
    try:
        name = _found(options, user) if options.basedn is not None else _composed(options, user)
        if not name:
            return "LDAP knows no such user, or several"
        with _connected(options) as server:
            server.simple_bind_s(name, password)
    except ldap.LDAPError as error:
        return f"LDAP: {_words(error)}"
    except ValueError:  # a name that is not UTF-8
        return "a name or password that LDAP does not take"
    return ""


def _words(error: Exception) -> str:
    """The library's description; what the server adds may say more than is meant for a log."""
    details = error.args[0] if error.args else None
    said = details.get("desc") if isinstance(details, dict) else None
    return str(said or type(error).__name__)


@contextmanager
def _connected(options: LdapOptions) -> Iterator[Any]:
    import ldap

    server = ldap.initialize(options.uri)
    try:
        server.set_option(ldap.OPT_PROTOCOL_VERSION, 3)
        server.set_option(ldap.OPT_NETWORK_TIMEOUT, PATIENCE)
        server.set_option(ldap.OPT_TIMEOUT, PATIENCE)
        server.set_option(ldap.OPT_REFERRALS, 0)
        if options.tls:
            server.start_tls_s()
        yield server
    finally:
        server.unbind_ext_s()


def _composed(options: LdapOptions, user: str) -> str:
    """The name to bind as; "" for a user whose name would make another of it."""
    import ldap.dn

    if "=" in options.prefix:  # a distinguished name
        return f"{options.prefix}{ldap.dn.escape_dn_chars(user)}{options.suffix}"
    # user@domain or DOMAIN\\user, as Active Directory takes them: nothing can be escaped there.
    plain = not any(char in user for char in '\\@,=+<>#;"/')
    return f"{options.prefix}{user}{options.suffix}" if plain else ""


def _found(options: LdapOptions, user: str) -> str:
    """The name of the only entry that the search finds, "" if there is not just one."""
    import ldap
    import ldap.filter

    scopes = {
        "base": ldap.SCOPE_BASE,
        "one": ldap.SCOPE_ONELEVEL,
        "sub": ldap.SCOPE_SUBTREE,
    }
    wanted = options.filter.replace(_PLACE, ldap.filter.escape_filter_chars(user))
    password = options.bindpasswd.get_secret_value() if options.bindpasswd else ""
    with _connected(options) as server:
        server.simple_bind_s(options.binddn, password)
        entries = server.search_ext_s(
            options.basedn, scopes[options.scope], wanted, ["1.1"], sizelimit=2
        )
    names = [name for name, _ in entries if name is not None]  # None: a referral
    return names[0] if len(names) == 1 else ""

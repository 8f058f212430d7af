"""The options of pg_hba.conf's method ldap.

Source: PostgreSQL documentation, "LDAP Authentication"; `parse_hba_auth_opt` in `hba.c`; RFC 4516
for URLs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from pooler.config.problem import did_you_mean, printable

Scope: TypeAlias = Literal["base", "one", "sub"]

_PORTS: Final = {"ldap": 389, "ldaps": 636}
_NAMES: Final = (
    "ldapserver",
    "ldapport",
    "ldapscheme",
    "ldaptls",
    "ldapprefix",
    "ldapsuffix",
    "ldapbasedn",
    "ldapbinddn",
    "ldapbindpasswd",
    "ldapsearchattribute",
    "ldapsearchfilter",
    "ldapurl",
)
_SEARCH: Final = (
    "ldapbasedn",
    "ldapbinddn",
    "ldapbindpasswd",
    "ldapsearchattribute",
    "ldapsearchfilter",
)


class OptionError(ValueError):
    """An option is wrong, or does not go with another."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class LdapOptions:
    """How a user's password is checked: by a bind as PREFIX user SUFFIX, or as what is found."""

    uri: str
    """Of one server or several, with blanks between."""
    tls: bool = False
    """StartTLS before anything is said."""
    prefix: str = ""
    suffix: str = ""
    basedn: str | None = None
    """Where to search; None: no search, the name is PREFIX user SUFFIX."""
    binddn: str = ""
    bindpasswd: SecretStr | None = None
    filter: str = ""
    """With `$username` where the name goes."""
    scope: Scope = "sub"


def ldap_options(given: Iterable[tuple[str, str]]) -> LdapOptions:
    """The options by their names in pg_hba.conf, the last one of a name counts; OptionError."""
    options: dict[str, str] = {}
    for name, value in given:
        if name not in _NAMES:
            raise OptionError(
                f"the option {printable(name)} is not known", did_you_mean(name, _NAMES)
            )
        if name == "ldapurl":
            options |= _from_url(value)
        else:
            options[name] = value
    _consistent(options)
    attribute = options.get("ldapsearchattribute") or "uid"
    password = options.get("ldapbindpasswd")
    return LdapOptions(
        uri=_uri(options),
        tls=options.get("ldaptls") == "1",
        prefix=options.get("ldapprefix", ""),
        suffix=options.get("ldapsuffix", ""),
        basedn=options.get("ldapbasedn"),
        binddn=options.get("ldapbinddn", ""),
        bindpasswd=SecretStr(password) if password else None,
        filter=options.get("ldapsearchfilter") or f"({attribute}=$username)",
        scope=_scope(options.get("scope", "sub")),
    )


def _consistent(options: dict[str, str]) -> None:
    simple = "ldapprefix" in options or "ldapsuffix" in options
    if simple and any(name in options for name in _SEARCH):
        raise OptionError(
            "ldapprefix and ldapsuffix do not go with the options of a search",
            f"which are {', '.join(_SEARCH)}",
        )
    if not simple and "ldapbasedn" not in options:
        raise OptionError("the method ldap needs ldapbasedn, ldapprefix or ldapsuffix")
    if options.get("ldapsearchattribute") and options.get("ldapsearchfilter"):
        raise OptionError("ldapsearchattribute does not go with ldapsearchfilter", "keep one")
    if options.get("ldaptls", "0") not in ("0", "1"):
        raise OptionError("ldaptls is neither 0 nor 1")
    if options.get("ldapscheme") == "ldaps" and options.get("ldaptls") == "1":
        raise OptionError("ldaptls does not go with ldaps, which is TLS already", "keep one")


def _uri(options: dict[str, str]) -> str:
    scheme = options.get("ldapscheme", "ldap")
    if scheme not in _PORTS:
        raise OptionError("ldapscheme is neither ldap nor ldaps")
    text = options.get("ldapport", str(_PORTS[scheme]))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise OptionError("ldapport is not a port")
    servers = options.get("ldapserver", "").split()
    if not servers:
        raise OptionError(
            "ldapserver is missing", "servers are not looked for in DNS, name one or several"
        )
    return " ".join(f"{scheme}://{_bracketed(host)}:{int(text)}" for host in servers)


def _bracketed(host: str) -> str:
    if any(char in host for char in "/?#@%"):
        raise OptionError("ldapserver is not a list of host names")
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _from_url(url: str) -> dict[str, str]:
    """ldap[s]://host[:port]/basedn[?attribute[?scope[?filter]]] as the options it stands for."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in _PORTS or parts.username is not None or parts.fragment:
        raise OptionError("ldapurl is not a URL such as ldap://host/dc=example,dc=net?uid?sub")
    found = {"ldapscheme": parts.scheme, "ldapserver": host}
    if port:
        found["ldapport"] = str(port)
    if len(parts.path) > 1:
        found["ldapbasedn"] = unquote(parts.path[1:])
    attributes, scope, filter_, *rest = [*map(unquote, parts.query.split("?")), "", ""]
    if any(rest):
        raise OptionError("ldapurl has extensions, which are not supported")
    if attributes:
        found["ldapsearchattribute"] = attributes.split(",")[0]
    # RFC 4516 has `base` for a URL without a scope, and so do PostgreSQL and libldap.
    found["scope"] = scope or "base"
    if filter_:
        found["ldapsearchfilter"] = filter_
    return found


def _scope(text: str) -> Scope:
    match text:
        case "base" | "one" | "sub":
            return text
    raise OptionError("the scope in ldapurl is not one of base, one, sub")

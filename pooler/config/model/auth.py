"""How clients log in."""

from enum import Enum
from typing import Annotated

from pydantic import BeforeValidator, SecretStr, WithJsonSchema

from pooler.config.model.base import Section, one_of
from pooler.config.units import Duration, Positive, Texts, wrong


class AuthType(Enum):
    """How clients prove who they are."""

    TRUST = "trust"
    PASSWORD = "password"
    MD5 = "md5"
    SCRAM = "scram-sha-256"
    CERT = "cert"
    HBA = "hba"


def _auth_type(value: object) -> object:
    if value == "any":
        raise wrong(
            "is not offered: it lets everybody in as anybody",
            "set auth.type: trust, and the user of each of the databases",
        )
    if value in ("peer", "ldap", "pam", "reject"):
        raise wrong("is the method of a rule", "set auth.type: hba and write rules in auth.hba")
    return "password" if value == "plain" else value


class HbaRule(Section):
    """A rule, with each text written as in its column of pg_hba.conf."""

    type: Annotated[str, one_of("local", "host", "hostssl", "hostnossl", "hostnogssenc")] = ""
    """Connections the rule is about: on the unix socket, or over TCP with or without TLS."""
    database: Texts = ()
    """Databases: names, `all`, `sameuser`, `replication`, `/regular expression`, `@file`."""
    user: Texts = ()
    """Users: names, `all`, `/regular expression`, `@file`."""
    address: str = ""
    """Clients: ADDRESS/BITS, an address (with mask), `all`, `samehost` or `samenet`."""
    mask: str = ""
    """Mask of an address without /BITS."""
    method: Annotated[
        str,
        one_of(
            *("trust", "reject", "password", "md5", "scram-sha-256", "cert", "peer", "ldap", "pam")
        ),
    ] = ""
    """What clients have to prove; `reject` keeps them out."""
    map: str = ""
    """User name map of the methods cert and peer."""
    clientname: Annotated[str, one_of("CN", "DN", "")] = ""
    """Name in a certificate that counts: CN (the default) or DN, as in RFC 2253."""
    clientcert: Annotated[str, one_of("verify-ca", "verify-full", "")] = ""
    """Certificate to show besides: of the CA, or with the user's name in it as well."""
    pamservice: str = ""
    """Service of the method pam; postgresql by default."""
    ldapserver: str = ""
    """Host names of LDAP servers, with blanks between."""
    ldapport: str = ""
    """Port of the LDAP servers."""
    ldapscheme: Annotated[str, one_of("ldap", "ldaps", "")] = ""
    """`ldaps` for LDAP over TLS."""
    ldaptls: bool | None = None
    """StartTLS before anything is said to the LDAP server."""
    ldapprefix: str = ""
    """What comes before the user in the name to bind as."""
    ldapsuffix: str = ""
    """What comes after the user in the name to bind as."""
    ldapbasedn: str = ""
    """Where to search for the user."""
    ldapbinddn: str = ""
    """Name to bind as for the search; anonymous by default."""
    ldapbindpasswd: SecretStr | None = None
    """Password to bind with for the search."""
    ldapsearchattribute: str = ""
    """Attribute that holds the user; uid by default."""
    ldapsearchfilter: str = ""
    """Filter of the search, with `$username` in it."""
    ldapurl: str = ""
    """Server, base, attribute, scope and filter as one URL."""

    @property
    def options(self) -> list[tuple[str, str]]:
        """What a line of pg_hba.conf has behind the method, as (name, value)."""
        found: list[tuple[str, str]] = []
        # A URL first, so that what is given beside it counts.
        for name in sorted(_RULE_OPTIONS, key=lambda name: name != "ldapurl"):
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            if value not in ("", None):
                found.append((name, str(int(value)) if isinstance(value, bool) else value))
        return found


_RULE_OPTIONS = tuple(HbaRule.model_fields)[6:]
"""All but the columns."""


class IdentLine(Section):
    """A line of a user name map, with each text written as in pg_ident.conf."""

    map: str = ""
    """Name of the map."""
    system: str = ""
    """Name outside, as a certificate or the operating system has it, or `/regular expression`."""
    user: str = ""
    """User it may log in as: a name, also with `\\1` in it, `all`, `/regular expression`."""


class Auth(Section):
    """How clients log in."""

    type: Annotated[
        AuthType,
        BeforeValidator(_auth_type),
        WithJsonSchema({"enum": [*(member.value for member in AuthType), "plain"]}),
    ] = AuthType.SCRAM
    """How clients prove who they are: one for all, or `hba`, by rules; `plain` is `password`."""
    file: str = ""
    """File of `"user" "secret"` lines as in userlist.txt, relative to the configuration."""
    user: str = ""
    """Server user that asks for the secrets of users who are not configured; "" for nobody."""
    query: str = (
        "SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END "
        "FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin"
    )
    """What it asks: $1 is the user, the second column the secret, NULL for none."""
    dbname: str = ""
    """Database, by the name clients use, where it asks. Default: the one the client wants."""
    query_pool_size: Positive = 2
    """Server connections of each database kept for that."""
    cache_ttl: Duration = 10.0
    """Time an answer is believed; a login that fails has it asked anew."""
    negative_cache_ttl: Duration = 1.0
    """Time it is believed that there is no such user."""
    failure_delay: Duration = 1.0
    """Time a second failed login from an address has to wait for its refusal, doubled for each
    further one up to 30 s; 0 turns it off."""
    hba_file: str = ""
    """File of rules in the syntax of pg_hba.conf, relative to the configuration."""
    hba: tuple[HbaRule, ...] = ()
    """Rules, in place of a file of them."""
    ident_file: str = ""
    """File of user name maps in the syntax of pg_ident.conf, relative to the configuration."""
    ident: tuple[IdentLine, ...] = ()
    """Lines of user name maps, in place of a file of them."""

"""Every setting, its type, its default and its description: the one place that knows them.

Errors, the JSON Schema, the environment variables and docs/settings.md all come out of these types.
Rules: names are PgBouncer's where the meaning is the same; durations are seconds and 0 turns a
limit off; a setting of a database or a user that is None is taken from its section. Checks that
need more than one setting are in `checks`, what a client's login resolves to is in `config`.
"""

import os
import re
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    WithJsonSchema,
)

from pooler.config.units import (
    Count,
    Duration,
    FileMode,
    HostPort,
    ListenHosts,
    ListenPort,
    Names,
    PeerAddress,
    PeerAddresses,
    Port,
    Positive,
    Secret,
    ServerHosts,
    SocketDir,
    Texts,
    parse_host_port,
    split_address,
    wrong,
)
from pooler.core.policy import Check, Policy
from pooler.core.settings import Host, PoolMode, SslMode


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


def _parameter_name(name: str) -> str:
    if name.lower() in ("user", "database", "replication") or name.startswith("_pq_."):
        raise wrong("is not a setting but a part of the protocol", "use the key of that name")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.$]*", name):
        raise wrong("is not the name of a server setting", "write a name such as search_path")
    return name


ParameterName = Annotated[str, AfterValidator(_parameter_name)]


class Section(BaseModel):
    """Common to all: nothing unknown, nothing changed later, no input in error texts."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )


class Listen(Section):
    """Where clients connect to."""

    host: ListenHosts = ("127.0.0.1",)
    """Addresses to listen on, one or a list; `*` is every interface, "" or [] turns TCP off."""
    port: ListenPort = 6432
    """TCP port, also part of the unix socket's name; 0 lets the system pick one."""
    backlog: Positive = 128
    """Connections the kernel keeps waiting to be accepted."""
    unix_socket_dir: SocketDir = ""
    """Directory for the unix socket; "" for none."""
    unix_socket_mode: FileMode = 0o777
    """File mode of the unix socket, in octal."""
    unix_socket_group: str = ""
    """Group that owns the unix socket; "" for the process's own."""
    reuse_port: bool = False
    """Set SO_REUSEPORT, so that a new process can take over while the old one drains."""


class Tcp(Section):
    """Options of TCP connections, of clients and of servers; 0 is the system's default."""

    keepalive: bool = True
    """Ask the kernel to probe idle connections, so that a vanished peer is noticed."""
    keepidle: Duration = 0.0
    """Idle time before the first probe."""
    keepintvl: Duration = 0.0
    """Time between probes."""
    keepcnt: Count = 0
    """Unanswered probes before the connection is dropped."""
    user_timeout: Duration = 0.0
    """Time that sent data may stay unacknowledged before the connection is dropped."""


class Tls(Section):
    """TLS on connections from clients, offered where there is a certificate."""

    sslmode: SslMode = SslMode.PREFER
    """disable; allow or prefer: as the client likes; require: refuse clients in the clear;
    verify-ca or verify-full: and those without a certificate that leads to ca_file."""
    cert_file: str = ""
    """Certificate shown to clients, followed by those of its issuers; all files in PEM format."""
    key_file: str = ""
    """The certificate's private key, unencrypted and readable by nobody else."""
    ca_file: str = ""
    """CAs of clients' certificates; "" asks for none."""
    crl_file: str = ""
    """Revocation lists for clients' certificates."""
    min_protocol_version: Literal["TLSv1.2", "TLSv1.3"] = "TLSv1.2"
    """Oldest version of TLS that is spoken."""
    ciphers: str = ""
    """Ciphers of TLS 1.2 in OpenSSL's syntax; "" for OpenSSL's secure ones."""


class ServerTls(Section):
    """TLS on connections to servers, for databases that do not set their own; as in libpq."""

    sslmode: SslMode = SslMode.PREFER
    """disable, allow, prefer, require; verify-ca: of a known CA; verify-full: and for that host."""
    sslnegotiation: Literal["postgres", "direct"] = "postgres"
    """How TLS begins: asked for, or at once (PostgreSQL 17 and newer)."""
    channel_binding: Literal["disable", "prefer", "require"] = "prefer"
    """Whether SCRAM is bound to the server's certificate (SCRAM-SHA-256-PLUS)."""
    ca_file: str = ""
    """CAs of servers' certificates, in PEM format, or `system` for those the system trusts."""
    crl_file: str = ""
    """Revocation lists for servers' certificates."""
    cert_file: str = ""
    """Certificate to show to servers that ask for one."""
    key_file: str = ""
    """Its private key, unencrypted and readable by nobody else."""
    min_protocol_version: Literal["TLSv1.2", "TLSv1.3"] = "TLSv1.2"
    """Oldest version of TLS that is spoken."""
    ciphers: str = ""
    """Ciphers of TLS 1.2 in OpenSSL's syntax; "" for OpenSSL's secure ones."""


def _one_of(*words: str) -> WithJsonSchema:
    return WithJsonSchema({"enum": [*words]})


class HbaRule(Section):
    """A rule, with each text written as in its column of pg_hba.conf."""

    type: Annotated[str, _one_of("local", "host", "hostssl", "hostnossl", "hostnogssenc")] = ""
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
        _one_of(
            *("trust", "reject", "password", "md5", "scram-sha-256", "cert", "peer", "ldap", "pam")
        ),
    ] = ""
    """What clients have to prove; `reject` keeps them out."""
    map: str = ""
    """User name map of the methods cert and peer."""
    clientname: Annotated[str, _one_of("CN", "DN", "")] = ""
    """Name in a certificate that counts: CN (the default) or DN, as in RFC 2253."""
    clientcert: Annotated[str, _one_of("verify-ca", "verify-full", "")] = ""
    """Certificate to show besides: of the CA, or with the user's name in it as well."""
    pamservice: str = ""
    """Service of the method pam; postgresql by default."""
    ldapserver: str = ""
    """Host names of LDAP servers, with blanks between."""
    ldapport: str = ""
    """Port of the LDAP servers."""
    ldapscheme: Annotated[str, _one_of("ldap", "ldaps", "")] = ""
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


class Limits(Section):
    """Upper bounds on connections, across pools; 0 is no limit."""

    max_client_connections: Count = 1000
    """Clients in all."""
    max_server_connections: Count = 0
    """Server connections in all."""
    max_db_client_connections: Count = 0
    """Clients of each database that does not set its own."""
    max_db_server_connections: Count = 0
    """Server connections of each database that does not set its own."""
    max_user_client_connections: Count = 0
    """Clients of each user that does not set its own."""
    max_user_server_connections: Count = 0
    """Server connections of each server user that does not set its own."""


class Timeouts(Section):
    """How long things may take; 0 is no limit."""

    client_login_timeout: Duration = 60.0
    """Time a client has to log in."""
    client_idle_timeout: Duration = 0.0
    """Time a client may be idle outside a transaction before it is disconnected."""
    query_wait_timeout: Duration = 120.0
    """Time a client may wait for a server connection before it is disconnected."""
    query_wait_notify: Duration = 5.0
    """Time after which a waiting client is told so by a NOTICE."""
    query_timeout: Duration = 0.0
    """Time a query may run on the server before it is cancelled."""
    transaction_timeout: Duration = 0.0
    """Time a transaction may take before it is cancelled."""
    idle_in_transaction_timeout: Duration = 0.0
    """Time a client may be idle inside a transaction before it is disconnected."""
    pin_timeout: Duration = 0.0
    """Time a client may keep a server connection for session state before it is disconnected."""
    server_connect_timeout: Duration = 15.0
    """Time connecting and logging in to a server may take."""
    server_login_retry: Duration = 0.5
    """Longest pause between attempts to connect to a server that fails."""
    server_idle_timeout: Duration = 600.0
    """Time a server connection may be idle before it is closed."""
    server_lifetime: Duration = 3600.0
    """Age after which a server connection is closed when it becomes free."""
    server_check_delay: Duration = 30.0
    """Idle time after which a server connection is checked before it is used again."""
    cancel_wait_timeout: Duration = 10.0
    """Time a cancel request may wait to reach its server."""
    pool_idle_timeout: Duration = 0.0
    """Time after which a pool without clients is dropped with its server connections."""
    reserve_pool_timeout: Duration = 5.0
    """Time a client waits before the reserve of its pool is used."""
    shutdown_timeout: Duration = 60.0
    """Time transactions have to finish after SIGTERM."""
    shutdown_delay: Duration = 0.0
    """Time between /readyz saying no and clients being sent away, for load balancers to notice."""


class Defaults(Section):
    """Settings of pools, for databases and users that do not set their own."""

    pool_mode: PoolMode = PoolMode.TRANSACTION
    """When a server connection goes back: at the end of a session, transaction or statement."""
    pool_size: Positive = 20
    """Server connections of each pool (database and server user), never exceeded."""
    min_pool_size: Count = 0
    """Server connections kept open also when nobody needs them."""
    reserve_pool_size: Count = 0
    """Further server connections a pool may open when clients waited for reserve_pool_timeout."""
    load_balance_hosts: Literal["round-robin", "disable"] = "round-robin"
    """How several hosts are used: in turn, or always the first that answers."""
    server_round_robin: bool = False
    """Use the server connection that was idle for longest, rather than the last one used."""
    server_check_query: str = ";"
    """Query of the check after server_check_delay; "" turns the check off."""
    server_reset_query: str = "DISCARD ALL"
    """Query that cleans a server connection after a session-mode client; "" for none."""
    max_prepared_statements: Count = 200
    """Named statements kept on each server connection; 0 passes clients' names on as they are."""
    max_prepared_bytes: Count = 4_194_304
    """Bytes of their texts, on each server connection."""
    statement_cache: Literal["named", "unnamed"] = "named"
    """What is prepared on servers: named statements, or unnamed ones that come again too."""


_PINNED = [policy.value for policy in Policy if policy is not Policy.TRACK]


def _not_tracked(value: object) -> object:
    if value == Policy.TRACK.value:
        raise wrong(
            "can not be had: no other server connection can be given this",
            f"write {', '.join(_PINNED[:-1])} or {_PINNED[-1]}",
        )
    return value


PinPolicy = Annotated[Policy, BeforeValidator(_not_tracked), WithJsonSchema({"enum": _PINNED})]
"""The policy of what cannot be tracked."""


class SessionState(Section):
    """What is done about the state of sessions in transaction and statement mode: track, pin (keep
    the server), warn (once, by a NOTICE), error (refuse) or ignore; see docs/session-state.md."""

    settings: Policy = Policy.TRACK
    """SET, RESET, set_config, role, session authorization."""
    prepared: Policy = Policy.TRACK
    """PREPARE in SQL; prepared statements of the protocol are no concern of this."""
    listen: Policy = Policy.TRACK
    """LISTEN, on one server connection for all clients of a pool when tracked."""
    locks: PinPolicy = Policy.PIN
    """Session-level advisory locks."""
    temporary: PinPolicy = Policy.PIN
    """Temporary tables, views, sequences and functions that outlive their transaction."""
    hold: PinPolicy = Policy.PIN
    """Cursors WITH HOLD."""
    load: PinPolicy = Policy.PIN
    """LOAD and setseed, to the end of the session."""
    sequences: Policy = Policy.TRACK
    """Sequences of currval and lastval: track gives an error rather than another session's."""
    check: Check = Check.HINTS
    """When servers are asked what a session has left: after hints, always, or sampled too."""
    check_sample: Positive = 1000
    """With sampled: one of so many transactions without a hint is looked at."""
    catalog_interval: Duration = 600.0
    """Time after which functions that hide session state are looked for again; 0 for never."""


class Migrations(Section):
    """How changes of the schema (DDL) are run that come through the pooler; see
    docs/migrations.md."""

    enabled: bool = True
    """Whether anything is done about them; off leaves them alone, and tells of none."""
    lock_timeout: Duration = 5.0
    """Time that they may wait for a lock, where nobody has set lock_timeout; 0 for no limit."""
    max_concurrent: Count = 0
    """Transactions with one at once, in each pool; others wait. 0 for no limit."""


def inherited(section: type[Section], name: str) -> Any:
    """A setting whose default, None, is that of another section, and so is its description."""
    base = section.model_fields[name]
    of = re.sub(r"\B(?=[A-Z])", "_", section.__name__).lower()
    text = f"{base.description} Default: {of}.{name}."
    return Field(default=None, description=text, examples=[base.default])


class Shared(Section):
    """What databases and users can each set; the user's value wins."""

    pool_mode: PoolMode | None = inherited(Defaults, "pool_mode")
    pool_size: Positive | None = inherited(Defaults, "pool_size")
    reserve_pool_size: Count | None = inherited(Defaults, "reserve_pool_size")
    client_login_timeout: Duration | None = inherited(Timeouts, "client_login_timeout")
    client_idle_timeout: Duration | None = inherited(Timeouts, "client_idle_timeout")
    query_wait_timeout: Duration | None = inherited(Timeouts, "query_wait_timeout")
    query_wait_notify: Duration | None = inherited(Timeouts, "query_wait_notify")
    query_timeout: Duration | None = inherited(Timeouts, "query_timeout")
    transaction_timeout: Duration | None = inherited(Timeouts, "transaction_timeout")
    idle_in_transaction_timeout: Duration | None = inherited(
        Timeouts, "idle_in_transaction_timeout"
    )
    pin_timeout: Duration | None = inherited(Timeouts, "pin_timeout")


class DatabaseTls(Section):
    """TLS on connections to this database's servers."""

    sslmode: SslMode | None = inherited(ServerTls, "sslmode")
    sslnegotiation: Literal["postgres", "direct"] | None = inherited(ServerTls, "sslnegotiation")
    channel_binding: Literal["disable", "prefer", "require"] | None = inherited(
        ServerTls, "channel_binding"
    )
    ca_file: str | None = inherited(ServerTls, "ca_file")
    crl_file: str | None = inherited(ServerTls, "crl_file")
    cert_file: str | None = inherited(ServerTls, "cert_file")
    key_file: str | None = inherited(ServerTls, "key_file")
    min_protocol_version: Literal["TLSv1.2", "TLSv1.3"] | None = inherited(
        ServerTls, "min_protocol_version"
    )
    ciphers: str | None = inherited(ServerTls, "ciphers")


class DatabaseState(Section):
    """What is done about the state of this database's sessions."""

    settings: Policy | None = inherited(SessionState, "settings")
    prepared: Policy | None = inherited(SessionState, "prepared")
    listen: Policy | None = inherited(SessionState, "listen")
    locks: PinPolicy | None = inherited(SessionState, "locks")
    temporary: PinPolicy | None = inherited(SessionState, "temporary")
    hold: PinPolicy | None = inherited(SessionState, "hold")
    load: PinPolicy | None = inherited(SessionState, "load")
    sequences: Policy | None = inherited(SessionState, "sequences")
    check: Check | None = inherited(SessionState, "check")
    check_sample: Positive | None = inherited(SessionState, "check_sample")
    catalog_interval: Duration | None = inherited(SessionState, "catalog_interval")


class DatabaseMigrations(Section):
    """How changes of this database's schema are run."""

    enabled: bool | None = inherited(Migrations, "enabled")
    lock_timeout: Duration | None = inherited(Migrations, "lock_timeout")
    max_concurrent: Count | None = inherited(Migrations, "max_concurrent")


class Database(Shared):
    """A database that clients can ask for."""

    host: ServerHosts = ("127.0.0.1",)
    """Server address, one or a list: HOST, HOST:PORT, [IPV6]:PORT or a socket's directory."""
    port: Port = 5432
    """Port of the hosts that do not name their own."""
    dbname: str = ""
    """Name of the database on the server. Default: the name clients use."""
    user: str = ""
    """User to log in to the server as, whoever the client is. Default: the client's user."""
    password: Secret | None = None
    """Password for the server. Default: that of the server's user in users or auth.file."""
    password_file: str = ""
    """File that holds the password, relative to the configuration."""
    connect_query: str = ""
    """Query to run once on each new server connection."""
    settings: dict[ParameterName, str] = Field(default={})
    """Server settings to ask for when connecting, such as search_path."""
    optional: bool = False
    """Whether /readyz says ready also while it cannot be reached."""
    server_tls: DatabaseTls = DatabaseTls()
    session_state: DatabaseState = DatabaseState()
    migrations: DatabaseMigrations = DatabaseMigrations()
    max_protocol_version: Annotated[
        Literal["3.0", "3.2"], WithJsonSchema({"enum": ["3.0", "3.2", 3.0, 3.2]})
    ] = "3.0"
    """Newest protocol version to ask the server for."""
    auth_user: str | None = inherited(Auth, "user")
    auth_query: str | None = inherited(Auth, "query")
    auth_dbname: str | None = inherited(Auth, "dbname")
    max_client_connections: Count | None = inherited(Limits, "max_db_client_connections")
    max_server_connections: Count | None = inherited(Limits, "max_db_server_connections")
    min_pool_size: Count | None = inherited(Defaults, "min_pool_size")
    load_balance_hosts: Literal["round-robin", "disable"] | None = inherited(
        Defaults, "load_balance_hosts"
    )
    server_round_robin: bool | None = inherited(Defaults, "server_round_robin")
    server_check_query: str | None = inherited(Defaults, "server_check_query")
    server_reset_query: str | None = inherited(Defaults, "server_reset_query")
    max_prepared_statements: Count | None = inherited(Defaults, "max_prepared_statements")
    max_prepared_bytes: Count | None = inherited(Defaults, "max_prepared_bytes")
    statement_cache: Literal["named", "unnamed"] | None = inherited(Defaults, "statement_cache")
    server_connect_timeout: Duration | None = inherited(Timeouts, "server_connect_timeout")
    server_login_retry: Duration | None = inherited(Timeouts, "server_login_retry")
    server_idle_timeout: Duration | None = inherited(Timeouts, "server_idle_timeout")
    server_lifetime: Duration | None = inherited(Timeouts, "server_lifetime")
    server_check_delay: Duration | None = inherited(Timeouts, "server_check_delay")
    cancel_wait_timeout: Duration | None = inherited(Timeouts, "cancel_wait_timeout")
    pool_idle_timeout: Duration | None = inherited(Timeouts, "pool_idle_timeout")
    reserve_pool_timeout: Duration | None = inherited(Timeouts, "reserve_pool_timeout")

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The addresses, each with its port."""
        split = (split_address(text) for text in self.host)
        return tuple(Host(host, port or self.port) for host, port in split)


class User(Shared):
    """A user, as a client and, for pool settings, as the user of a server connection."""

    password: Secret | None = None
    """The password, or what PostgreSQL stores of it: md5... or SCRAM-SHA-256$..."""
    password_file: str = ""
    """File that holds the password, relative to the configuration."""
    max_client_connections: Count | None = inherited(Limits, "max_user_client_connections")
    max_server_connections: Count | None = inherited(Limits, "max_user_server_connections")


class Metrics(Section):
    """The HTTP endpoint for Prometheus and probes."""

    listen: HostPort = ""
    """HOST:PORT to serve /metrics on; "" turns it off, port 0 lets the system pick one."""
    pool_limit: Positive = 500
    """Pools (database and server user) with metrics of their own; the rest is one, `other`."""
    pgbouncer_names: bool = False
    """Show them also by the names of pgbouncer_exporter, for dashboards that are there."""

    @property
    def address(self) -> tuple[str, int] | None:
        """Host (`*`: every interface) and port; None where metrics are off."""
        return parse_host_port(self.listen) if self.listen else None


class Dashboard(Section):
    """The page at / of the metrics address, and the JSON API under /api/."""

    enabled: bool = True
    """Serve it."""
    remote: bool = False
    """Serve it also where metrics.listen is no loopback address, to whoever can reach that."""
    login_to_look: bool = False
    """Ask for the password of one of admin.users also to look, not only to change something."""
    hosts: Texts = ()
    """Names under which browsers reach it, one or a list; localhost and addresses need none."""
    viewers: Positive = 20
    """Pages that are shown what happens at a time."""


class Admin(Section):
    """The console: who may operate the pooler, and what is measured for it."""

    users: Names = ()
    """Users who may give every command, one or a list."""
    stats_users: Names = ()
    """Users who may look, and change nothing."""
    socket: str = "auto"
    """Unix socket of the console, for `pooler ctl`, open to the pooler's own user and to root;
    auto is pooler-UID/PID.sock in XDG_RUNTIME_DIR or the folder for temporary files, "" is none."""
    stats_period: Duration = 60.0
    """Period of the averages."""


class Upgrade(Section):
    """The replacement of the running process by a new one that nobody notices."""

    timeout: Duration = 3600.0
    """Time that clients who cannot move (TLS, session mode, pins) may stay with the old process."""


class Peers(Section):
    """Other poolers behind the same address: cancel requests are sent on to them."""

    id: Annotated[int, Field(ge=0, le=255)] = 0
    """Number of this pooler among them, 1 to 255; 0 where they have none."""
    members: dict[Annotated[int, Field(ge=1, le=255)], PeerAddress] = Field(default={})
    """Their addresses by number: the one that issued a key is asked."""
    hosts: PeerAddresses = ()
    """Addresses without numbers, one or a list: all are asked, and all of a name's addresses."""
    port: Port = 6432
    """Port of the addresses that do not name their own."""


OffSampledOn = Annotated[
    Literal["off", "sampled", "on"],
    WithJsonSchema({"enum": ["off", "sampled", "on", False, True]}),  # YAML's words for two of them
]


class Queries(Section):
    """What is measured of queries; parameters and other values are never kept."""

    statistics: OffSampledOn = "sampled"
    """Figures by statement: of no transaction, of one of some, or of all."""
    statistics_sample: Positive = 20
    """With sampled: one of so many transactions is measured."""
    statistics_limit: Positive = 500
    """Statements of each pool that are told apart; those unused for longest become one."""
    slow_query_time: Duration = 0.0
    """Time, waiting included, from which a query is logged; 0 turns it off."""


class Traces(Section):
    """Transactions as OpenTelemetry spans, sent by OTLP over HTTP; needs the extra `otel`."""

    endpoint: str = ""
    """URL of a collector, such as http://127.0.0.1:4318/v1/traces; "" turns traces off."""
    sample: Positive = 100
    """One of so many transactions is traced, and each whose caller is (sqlcommenter)."""
    service_name: str = "pooler"
    """Name of the service in the traces."""


class Logging(Section):
    """What is logged, and how."""

    format: Literal["auto", "text", "json"] = "auto"
    """Form of a line; auto is text on a terminal and json otherwise."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged."""
    log_connections: bool = True
    """Log each client that logged in."""
    log_disconnections: bool = True
    """Log each client that left, with the reason."""
    log_pooler_errors: bool = True
    """Log each error the pooler sends to a client."""
    repeat_limit: Count = 20
    """Warnings alike but for whom they are about that are logged within 10 s; the others are
    counted. 0 logs all."""


def _workers(value: object) -> object:
    return (len(os.sched_getaffinity(0)) or 1) if value == "auto" else value


Workers = Annotated[
    int,
    BeforeValidator(_workers),
    Field(ge=1, le=64),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 64}, {"const": "auto"}]}
    ),
]


class Settings(Section):
    """Configuration of pooler, a PostgreSQL connection pooler."""

    workers: Workers = 1
    """Processes that serve clients, seen as one pooler; auto is one for each CPU."""
    listen: Listen = Listen()
    tcp: Tcp = Tcp()
    tls: Tls = Tls()
    server_tls: ServerTls = ServerTls()
    auth: Auth = Auth()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    defaults: Defaults = Defaults()
    session_state: SessionState = SessionState()
    migrations: Migrations = Migrations()
    databases: dict[str, Database] = Field(default={})
    """Databases by the name clients use; `*` is for every other name."""
    users: dict[str, User] = Field(default={})
    """Users by name."""
    metrics: Metrics = Metrics()
    dashboard: Dashboard = Dashboard()
    admin: Admin = Admin()
    upgrade: Upgrade = Upgrade()
    peers: Peers = Peers()
    queries: Queries = Queries()
    traces: Traces = Traces()
    logging: Logging = Logging()

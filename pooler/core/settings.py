"""What the core has to be told: small frozen values, made by `pooler.config`.

Every duration is in seconds, 0 means "no limit", as in PgBouncer. Names are PgBouncer's where
the meaning is the same. Nothing here knows YAML, files or the environment.
"""

from dataclasses import dataclass, field
from enum import Enum

from pooler.core.policy import DEFAULTS, Policies
from pooler.wire.logins import ChannelBinding


class PoolMode(Enum):
    """When a server goes back to its pool."""

    SESSION = "session"
    TRANSACTION = "transaction"
    STATEMENT = "statement"


@dataclass(frozen=True, slots=True)
class Host:
    """One address of a database: a host name, an IP address, or a unix socket's directory."""

    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        """True where `host` is the directory of a unix socket."""
        return self.host.startswith("/")

    def __str__(self) -> str:
        """The address as people write it."""
        if self.is_unix:
            return f"{self.host}/.s.PGSQL.{self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class SslMode(Enum):
    """How much encryption is wanted, in libpq's words."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"

    @property
    def required(self) -> bool:
        """True where nothing goes in the clear."""
        return self in (SslMode.REQUIRE, SslMode.VERIFY_CA, SslMode.VERIFY_FULL)

    @property
    def verifies(self) -> bool:
        """True where the other end needs a certificate that leads to a known CA."""
        return self in (SslMode.VERIFY_CA, SslMode.VERIFY_FULL)


@dataclass(frozen=True, slots=True)
class TargetTls:
    """How server connections are encrypted; files with their whole path, "" for none."""

    sslmode: SslMode = SslMode.DISABLE
    sslnegotiation: str = "postgres"
    """"postgres": asked for by an SSLRequest; "direct": TLS from the first byte."""
    channel_binding: ChannelBinding = "prefer"
    """SCRAM-SHA-256-PLUS, as libpq's option."""
    ca_file: str = ""
    crl_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    min_protocol_version: str = "TLSv1.2"
    ciphers: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a pool's servers are and how to log in to them; a change of it renews the servers."""

    hosts: tuple[Host, ...]
    dbname: str
    user: str
    password: str | None = field(default=None, repr=False)
    load_balance_hosts: bool = True
    """True: round-robin over `hosts`; False: always the first that answers, in order."""
    connect_query: str = ""
    """Run once on each new server connection."""
    startup: tuple[tuple[str, str], ...] = ()
    """Further startup parameters (settings of the session), sorted by name."""
    tls: TargetTls = TargetTls()
    max_protocol_version: str = "3.0"
    """"3.0" or "3.2": what the startup packet asks of the server, as libpq's option."""


@dataclass(frozen=True, slots=True)
class Migrations:
    """How changes of the schema are run; see `lane`."""

    enabled: bool = True
    lock_timeout: float = 5.0
    max_concurrent: int = 0


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured of each query, beyond counters."""

    sample: int = 0
    """Statistics are of one of so many transactions: 1 for all, 0 for none."""
    statements: int = 500
    """Of a pool, told apart by statistics."""
    slow_query: float = 0.0
    """Queries that take longer, waiting included, are reported."""
    traces: int = 0
    """One of so many transactions is traced, and those whose caller is; 0 for none."""

    @property
    def all(self) -> bool:
        """True where every query has to be looked at."""
        return self.slow_query > 0 or self.traces > 0


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How one pool, of a (database, server user), is run; a change applies while it lives."""

    pool_size: int = 20
    min_pool_size: int = 0
    reserve_pool_size: int = 0
    reserve_pool_timeout: float = 5.0
    server_round_robin: bool = False
    """True: the idle server unused for longest goes first; False: last in, first out."""
    server_idle_timeout: float = 600.0
    server_lifetime: float = 3600.0
    server_connect_timeout: float = 15.0
    server_login_retry: float = 0.5
    """Upper bound of the back-off between failed attempts to connect."""
    server_check_delay: float = 30.0
    server_check_query: str = ";"
    """Asked of a server idle for longer than `server_check_delay`; "" turns the check off."""
    server_reset_query: str = "DISCARD ALL"
    """Run when a session-mode client leaves its server; "" turns it off."""
    max_prepared_statements: int = 200
    """Kept on each server, least recently used out first; 0: names are passed on as they are."""
    max_prepared_bytes: int = 4_194_304
    """Of their texts on each server."""
    cache_unnamed: bool = False
    """Whether unnamed statements that come again are prepared, too."""
    pool_idle_timeout: float = 0.0
    cancel_wait_timeout: float = 10.0
    max_db_server_connections: int = 0
    max_user_server_connections: int = 0
    session_state: Policies = DEFAULTS
    migrations: Migrations = Migrations()
    measures: Measures | None = None
    """None: nothing is."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How one client session is treated, resolved for its (database, client user)."""

    pool_mode: PoolMode = PoolMode.TRANSACTION
    client_login_timeout: float = 60.0
    client_idle_timeout: float = 0.0
    query_wait_timeout: float = 120.0
    query_wait_notify: float = 5.0
    query_timeout: float = 0.0
    transaction_timeout: float = 0.0
    idle_in_transaction_timeout: float = 0.0
    pin_timeout: float = 0.0
    max_db_client_connections: int = 0
    max_user_client_connections: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """What (database, user) of a client's startup packet resolves to."""

    database: str
    """The name clients use; with the fallback database `*`, the name this client used."""
    user: str
    """The client's user. The server's user is `target.user`."""
    target: Target
    pool: PoolSettings
    session: SessionSettings

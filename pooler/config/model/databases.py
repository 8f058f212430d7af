"""Databases and users, with what each of them says otherwise."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from pooler.config.model.auth import Auth
from pooler.config.model.base import Section, inherited
from pooler.config.model.connections import ServerTls
from pooler.config.model.pools import (
    Defaults,
    Limits,
    Migrations,
    PinPolicy,
    SessionState,
    Timeouts,
)
from pooler.config.units import (
    Count,
    Duration,
    Port,
    Positive,
    Secret,
    ServerHosts,
    split_address,
    wrong,
)
from pooler.core.policy import Check, Policy
from pooler.core.settings import Host, PoolMode, SslMode


def _parameter_name(name: str) -> str:
    if name.lower() in ("user", "database", "replication") or name.startswith("_pq_."):
        raise wrong("is not a setting but a part of the protocol", "use the key of that name")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.$]*", name):
        raise wrong("is not the name of a server setting", "write a name such as search_path")
    return name


ParameterName = Annotated[str, AfterValidator(_parameter_name)]


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

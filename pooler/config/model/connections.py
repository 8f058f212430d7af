"""Connections of clients and to servers: addresses, TCP, TLS."""

from typing import Literal

from pooler.config.model.base import Section
from pooler.config.units import (
    Count,
    Duration,
    FileMode,
    ListenHosts,
    ListenPort,
    Positive,
    SocketDir,
)
from pooler.core.settings import SslMode


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

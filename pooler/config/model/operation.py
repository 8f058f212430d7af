"""How the pooler is watched and operated."""

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from pooler.config.model.base import Section
from pooler.config.units import (
    Count,
    Duration,
    HostPort,
    Names,
    PeerAddress,
    PeerAddresses,
    Port,
    Positive,
    Texts,
    parse_host_port,
)


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

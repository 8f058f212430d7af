"""Every metric: its name, type, meaning and labels, and which value of a snapshot it shows.

docs/metrics.md is made of these tables. Names follow Prometheus' rules: base units, `_total` for
counters. Those of pools have the labels `database` (by the name clients use) and `user` (of the
server connections).
"""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric."""

    name: str
    kind: Kind
    text: str
    key: str
    """Of the value in the snapshot; of a histogram, that of its buckets."""
    labels: tuple[str, ...] = ()
    """Of a value that is a mapping."""
    sum: str = ""
    """Of a histogram, the key of the sum of what it counted."""


SERVICE: Final = (
    Family("pooler_client_connections", "gauge", "Clients logged in", "clients"),
    Family(
        "pooler_client_connections_limit",
        "gauge",
        "Clients allowed (max_client_connections), 0 for no limit",
        "client_limit",
    ),
    Family(
        "pooler_logins_in_progress", "gauge", "Connections that have not logged in", "logging_in"
    ),
    Family("pooler_server_connections", "gauge", "Server connections of all pools", "servers"),
    Family(
        "pooler_server_connections_limit",
        "gauge",
        "Server connections allowed (max_server_connections), 0 for no limit",
        "server_limit",
    ),
    Family("pooler_draining", "gauge", "1 while the pooler is shutting down", "draining"),
    Family(
        "pooler_connections_opened_total",
        "counter",
        "Connections logged in, by side (client, server) and version of TLS or none",
        "opened",
        ("side", "tls"),
    ),
    Family(
        "pooler_refused_clients_total",
        "counter",
        "Connections that did not become clients, by reason and class of the SQLSTATE they were "
        "told",
        "refused",
        ("reason", "class"),
    ),
    Family(
        "pooler_client_disconnections_total",
        "counter",
        "Clients that have left or were sent away, by reason",
        "clients_closed",
        ("reason",),
    ),
    Family(
        "pooler_server_disconnections_total",
        "counter",
        "Server connections closed, by reason",
        "servers_closed",
        ("reason",),
    ),
    Family(
        "pooler_unknown_cancel_requests_total",
        "counter",
        "Cancel requests with a key that no client was given",
        "unknown_cancels",
    ),
    Family(
        "pooler_reloads_total", "counter", "Reloads of the configuration", "reloads", ("result",)
    ),
    Family(
        "pooler_config_last_reload_successful",
        "gauge",
        "0 while the configuration file is not the one in force: the last reload failed",
        "reload_succeeded",
    ),
    Family(
        "pooler_config_last_reload_success_timestamp_seconds",
        "gauge",
        "Time at which the configuration in force was loaded",
        "reloaded_at",
    ),
    Family(
        "pooler_tls_certificate_expiry_timestamp_seconds",
        "gauge",
        "End of the validity of the certificate shown to clients, 0 where there is none",
        "certificate_expiry",
    ),
)

PROCESS: Final = (
    Family(
        "process_cpu_seconds_total",
        "counter",
        "CPU time, user and system",
        "process_cpu_seconds_total",
    ),
    Family(
        "process_resident_memory_bytes", "gauge", "Resident memory", "process_resident_memory_bytes"
    ),
    Family(
        "process_virtual_memory_bytes", "gauge", "Virtual memory", "process_virtual_memory_bytes"
    ),
    Family("process_open_fds", "gauge", "Open files", "process_open_fds"),
    Family("process_max_fds", "gauge", "Open files allowed in each process", "process_max_fds"),
    Family(
        "process_start_time_seconds",
        "gauge",
        "When the first process was started",
        "process_start_time_seconds",
    ),
    Family(
        "python_gc_objects_collected_total",
        "counter",
        "Objects that the garbage collector has freed",
        "python_gc_objects_collected_total",
        ("generation",),
    ),
    Family(
        "python_gc_objects_uncollectable_total",
        "counter",
        "Objects that it could not free",
        "python_gc_objects_uncollectable_total",
        ("generation",),
    ),
    Family(
        "python_gc_collections_total",
        "counter",
        "How often it has run",
        "python_gc_collections_total",
        ("generation",),
    ),
    Family(
        "pooler_process_cpu_seconds_total",
        "counter",
        "CPU time of each, by number of the worker or `supervisor`",
        "cpu_by_process",
        ("process",),
    ),
    Family(
        "pooler_process_resident_memory_bytes",
        "gauge",
        "Resident memory of each",
        "memory_by_process",
        ("process",),
    ),
    Family(
        "pooler_process_open_fds", "gauge", "Open files of each", "files_by_process", ("process",)
    ),
)
"""What the processes use: prometheus-client knows, where the system tells."""

POOLS: Final = (
    Family("pooler_clients", "gauge", "Clients by state", "clients", ("state",)),
    Family("pooler_servers", "gauge", "Server connections by state", "servers", ("state",)),
    Family("pooler_pool_size", "gauge", "Server connections allowed", "pool_size"),
    Family(
        "pooler_pool_saturation_ratio",
        "gauge",
        "Share of the pool's size that is in use or being opened; above 1: the reserve, too",
        "saturation",
    ),
    Family(
        "pooler_pool_up", "gauge", "0 while every attempt to open a server connection fails", "up"
    ),
    Family(
        "pooler_oldest_wait_seconds",
        "gauge",
        "Time that the longest waiting client has waited",
        "oldest_wait",
    ),
    Family(
        "pooler_wait_seconds",
        "histogram",
        "Time that clients waited for a server connection, once per transaction",
        "waits",
        sum="wait_time",
    ),
    Family(
        "pooler_query_seconds",
        "histogram",
        "Time that servers worked on a query (a simple query, or what ends with a Sync)",
        "query_times",
        sum="query_time",
    ),
    Family(
        "pooler_transaction_seconds",
        "histogram",
        "Time from a transaction's first message to its end",
        "transaction_times",
        sum="transaction_time",
    ),
    Family(
        "pooler_connect_seconds",
        "histogram",
        "Time until a server connection was open and logged in",
        "connect_times",
        sum="connect_time",
    ),
    Family("pooler_logins_total", "counter", "Clients that have logged in", "logins"),
    Family(
        "pooler_assignments_total",
        "counter",
        "Times a client was given a server connection",
        "assignments",
    ),
    Family(
        "pooler_queries_total",
        "counter",
        "Queries answered (simple queries, Syncs and function calls)",
        "queries",
    ),
    Family("pooler_transactions_total", "counter", "Transactions ended", "transactions"),
    Family("pooler_received_bytes_total", "counter", "Bytes received from clients", "received"),
    Family("pooler_sent_bytes_total", "counter", "Bytes sent to clients", "sent"),
    Family(
        "pooler_errors_total",
        "counter",
        "Errors that clients were told, by whose doing they are (client: a request that cannot be; "
        "server: its answer, or its loss; pooler: a limit of ours) and class of SQLSTATE",
        "errors",
        ("origin", "class"),
    ),
    Family(
        "pooler_timeouts_total",
        "counter",
        "Time limits exceeded: waiting, query, transaction, pin",
        "timeouts",
    ),
    Family("pooler_connects_total", "counter", "Server connections opened", "connects"),
    Family(
        "pooler_connect_failures_total",
        "counter",
        "Attempts to open a server connection that failed",
        "connect_failures",
    ),
    Family(
        "pooler_cancel_requests_total",
        "counter",
        "Cancel requests of clients",
        "cancel_requests",
    ),
    Family("pooler_cancels_total", "counter", "Cancel requests sent to servers", "cancels"),
    Family(
        "pooler_pinned_servers",
        "gauge",
        "Server connections kept by their client, by reason",
        "pinned",
        ("reason",),
    ),
    Family(
        "pooler_oldest_pin_seconds",
        "gauge",
        "Time for which a client has kept its server connection, the longest",
        "oldest_pin",
    ),
    Family(
        "pooler_pins_total",
        "counter",
        "Times a client came to keep its server connection, by reason",
        "pins",
        ("reason",),
    ),
    Family(
        "pooler_state_questions_total",
        "counter",
        "Questions to servers about what their session holds",
        "questions",
    ),
    Family(
        "pooler_state_changes_total",
        "counter",
        "Server connections set as their next client wants",
        "changes",
    ),
    Family(
        "pooler_state_leaks_total",
        "counter",
        "Session state found that nothing had hinted at",
        "leaks",
    ),
    Family(
        "pooler_catalog_scans_total",
        "counter",
        "Looks for functions that hide session state",
        "scans",
    ),
    Family(
        "pooler_refused_statements_total",
        "counter",
        "Statements refused by a policy of session_state",
        "refusals",
    ),
    Family(
        "pooler_prepared_statements",
        "gauge",
        "Named statements prepared on server connections",
        "prepared",
    ),
    Family(
        "pooler_client_parses_total",
        "counter",
        "Named statements that clients asked to prepare",
        "client_parses",
    ),
    Family(
        "pooler_server_parses_total",
        "counter",
        "Those sent to a server, for it had not prepared them (misses)",
        "server_parses",
    ),
    Family("pooler_binds_total", "counter", "Uses of named statements", "binds"),
    Family(
        "pooler_prepared_hits_total",
        "counter",
        "Times that a server had prepared the statement wanted",
        "prepared_hits",
    ),
    Family(
        "pooler_schema_changes_total",
        "counter",
        "Schema changes seen: by their command, or by what a prepared statement gives",
        "schema_changes",
    ),
    Family(
        "pooler_migrations_total",
        "counter",
        "Changes of the schema (DDL) by clients",
        "migrations",
    ),
    Family(
        "pooler_migration_seconds_total",
        "counter",
        "What they took",
        "migration_time",
    ),
    Family(
        "pooler_migration_lock_seconds_total",
        "counter",
        "Of this, what they were seen to wait for locks",
        "lock_time",
    ),
    Family(
        "pooler_lock_timeouts_total",
        "counter",
        "Changes of the schema that the pooler's lock_timeout has ended",
        "lock_timeouts",
    ),
)

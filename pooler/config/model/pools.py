"""What pools are, for databases and users that do not say otherwise."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, WithJsonSchema

from pooler.config.model.base import Section
from pooler.config.units import Count, Duration, Positive, wrong
from pooler.core.policy import Check, Policy
from pooler.core.settings import PoolMode


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

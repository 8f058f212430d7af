"""What becomes of what the core tells: counted, noted for SHOW ERRORS, logged, traced.

A statement is logged as its outline, never with its values.
"""

import logging
import time
from typing import Any

from pooler import logs
from pooler.admin.errors import Errors
from pooler.config import Config
from pooler.core.client import Client
from pooler.core.edge import Edge
from pooler.core.errors import CloseReason, ServerFault
from pooler.core.meter import Query, Transaction
from pooler.core.pins import Pin
from pooler.core.pool import Pool
from pooler.core.server import Server
from pooler.metrics import Tally
from pooler.tls import Tls
from pooler.traces import Tracing


class Observer(Edge):
    """The half of the core's edge that only looks."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.now = time.monotonic  # type: ignore[method-assign]  # asked several times a transaction
        self.tally = Tally()
        self.errors = Errors()
        self.tracing = Tracing(self.now)

    def now(self) -> float:
        """Return a monotonic time in seconds."""
        return time.monotonic()

    def migrated(
        self, server: Server, command: str, outline: str, seconds: float, waited: float
    ) -> None:
        """Log it."""
        logs.event(
            logging.INFO,
            "schema changed",
            **_migration(server, outline, seconds, waited),
            command=command,
        )

    def migration_failed(
        self, server: Server, sqlstate: str, outline: str, seconds: float, waited: float
    ) -> None:
        """Log it."""
        logs.event(
            logging.WARNING,
            "schema change failed",
            **_migration(server, outline, seconds, waited),
            sqlstate=sqlstate,
        )

    def client_opened(self, client: Client) -> None:
        """Count and log it."""
        if not client.internal:
            self.tally.open("client", client.transport.get_extra_info("tls"))
        if self.config.logging.log_connections and not client.internal:
            tls: Tls | None = client.transport.get_extra_info("tls")
            known = {"tls": tls.version, "cipher": tls.cipher} if tls is not None else {}
            logs.event(logging.INFO, "client connected", **_client(client), **known)

    def client_closed(self, client: Client, reason: CloseReason, text: str) -> None:
        """Log it: an expected end as information, another as a warning."""
        quiet = reason in (CloseReason.TERMINATED, CloseReason.PEER_CLOSED, CloseReason.SHUTDOWN)
        settings = self.config.logging
        if client.internal:
            return
        self.tally.clients_closed[reason.value] += 1
        if not quiet:
            self.errors.note(
                self.now(), "client closed", client.database, client.user, "", text or reason.value
            )
        if settings.log_disconnections if quiet else settings.log_pooler_errors:
            logs.event(
                logging.INFO if quiet else logging.WARNING,
                "client closed",
                **_client(client),
                reason=reason.value,
                message=text,
                seconds=round(self.now() - client.opened_at, 3),
            )

    def server_opened(self, server: Server) -> None:
        """Count and log it."""
        self.tally.open("server", server.transport.get_extra_info("tls"))
        if self.config.logging.log_connections:
            logs.event(logging.INFO, "server connected", **_server(server))

    def server_closed(self, server: Server, reason: CloseReason, text: str) -> None:
        """Count and log it."""
        self.tally.servers_closed[reason.value] += 1
        if self.config.logging.log_disconnections:
            logs.event(
                logging.INFO,
                "server closed",
                **_server(server),
                reason=reason.value,
                message=text,
                seconds=round(self.now() - server.opened_at, 3),
            )

    def connect_failed(self, pool: Pool, host: str, error: ServerFault) -> None:
        """Note and log it."""
        self.errors.note(
            self.now(),
            "server connection failed",
            pool.database,
            pool.user,
            error.sqlstate,
            f"{host}: {error}",
        )
        if self.config.logging.log_pooler_errors:
            logs.event(
                logging.WARNING,
                "server connection failed",
                database=pool.database,
                user=pool.user,
                host=host,
                sqlstate=error.sqlstate,
                message=error.text,
                detail=error.detail,
            )

    def client_pinned(self, pin: Pin) -> None:
        """Log it, without what a statement may tell."""
        reasons = ", ".join(pin.reasons)
        logs.event(logging.DEBUG, "client pinned", **_pin(pin), reason=reasons)

    def client_unpinned(self, pin: Pin, seconds: float) -> None:
        """Log it."""
        reasons = ", ".join(pin.reasons)
        fields = {**_pin(pin), "reason": reasons, "seconds": round(seconds, 3)}
        logs.event(logging.DEBUG, "client unpinned", **fields)

    def leaked(self, server: Server, names: tuple[str, ...]) -> None:
        """Log what it was, without values."""
        pool = server.pool
        words = f"session state leaked: {', '.join(names)}"
        self.errors.note(self.now(), "session state leaked", pool.database, pool.user, "", words)
        logs.event(
            logging.WARNING, "session state leaked", **_server(server), names=", ".join(names)
        )

    def catalog_failed(self, pool: Pool, text: str) -> None:
        """Log it."""
        self.errors.note(self.now(), "catalog not read", pool.database, pool.user, "", text)
        logs.event(
            logging.WARNING,
            "catalog not read",
            database=pool.database,
            user=pool.user,
            message=text,
        )

    def slow_query(self, client: Client, server: Server, query: Query) -> None:
        """Log it, with its waiting apart, and why the client kept its server."""
        pin = server.pool.keeper.pins.get(server)
        logs.event(
            logging.WARNING,
            "slow query",
            **_client(client),
            server=server.ident,
            pid=server.pid,
            wait_seconds=round(query.wait, 6),
            execute_seconds=round(query.ended - query.began, 6),
            rows=query.rows,
            bytes=query.sent,
            sqlstate=query.sqlstate,
            pinned=", ".join(pin.reasons) if pin is not None else "",
            pinned_by=pin.statement if pin is not None else "",
            statement=query.statement,
        )

    def transaction_traced(self, transaction: Transaction) -> None:
        """Send it to the collector."""
        self.tracing.add(transaction)

    def bug(self, where: object, error: BaseException) -> None:
        """Log our own mistake, with its traceback."""
        self.errors.note(self.now(), "bug", "", "", "XX000", f"{where!r}: {error!r}")
        logs.LOGGER.error("bug", exc_info=error, extra={"fields": {"where": repr(where)}})

    def refused(
        self,
        name: str,
        database: str,
        user: str,
        reason: CloseReason,
        text: str,
        cause: str,
        sqlstate: str = "",
    ) -> None:
        """Count and log a connection that did not become a client, and what it was told."""
        self.tally.refuse(reason, sqlstate)
        if reason is not CloseReason.PEER_CLOSED:
            self.errors.note(self.now(), "client refused", database, user, sqlstate, text)
        if self.config.logging.log_pooler_errors:
            logs.event(
                logging.INFO if reason is CloseReason.PEER_CLOSED else logging.WARNING,
                "client refused",
                address=name,
                database=database,
                user=user,
                reason=reason.value,
                message=text,
                cause=cause,
            )


def _client(client: Client) -> dict[str, object]:
    return {
        "client": client.ident,
        "address": client.name,
        "database": client.database,
        "user": client.user,
    }


def _pin(pin: Pin) -> dict[str, object]:
    return {**_client(pin.client), "server": pin.server.ident, "pid": pin.server.pid}


def _migration(server: Server, outline: str, seconds: float, waited: float) -> dict[str, Any]:
    return {
        **(_client(server.client) if server.client is not None else {}),
        "server": server.pid,
        "statement": outline,
        "seconds": round(seconds, 3),
        "lock_seconds": round(waited, 1) if waited >= 0 else None,
    }


def _server(server: Server) -> dict[str, object]:
    return {
        "server": server.ident,
        "address": server.name,
        "database": server.pool.database,
        "user": server.pool.user,
        "pid": server.pid,
    }

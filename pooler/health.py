"""Whether the process works (`/healthz`), and whether clients should be sent to it (`/readyz`).

Ready is who listens, is not shutting down, and can reach every configured database that is not
declared `optional`. A database is reachable where a server connection is there; without one, where
its host takes a TCP connection (PostgreSQL does not log one that ends without a word) and does not
refuse the login of the user that is configured for it. What a client's own user is refused says
nothing of the database.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import pooler
from pooler.config.config import FALLBACK
from pooler.config.model import Database
from pooler.core.errors import ServerFault
from pooler.core.pool import Pool
from pooler.core.settings import Host
from pooler.sockets import open_streams

if TYPE_CHECKING:
    from pooler.service import Service

PROBE_TIMEOUT: Final = 1.0
"""Seconds that a host has to take a connection."""
PROBES_AT_ONCE: Final = 20
PROBE_AGAIN: Final = 1.0
"""Seconds for which what a probe has found is believed."""
CLOCK_LIMIT: Final = 10.0
"""Seconds without a look at time limits after which the process does not work."""

Report = dict[str, Any]
"""What a probe answers, in JSON: `status`, the `reasons` for it, and more."""


class Health:
    """Of one process."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._began = service.now()
        self._probed: dict[Host, tuple[float, str]] = {}  # when, and what was wrong
        self._probes = asyncio.Semaphore(PROBES_AT_ONCE)

    def alive(self) -> Report:
        """Return whether the process works, and why not."""
        service = self._service
        now = service.now()
        reasons = []
        if now - service.ticked_at > CLOCK_LIMIT:
            reasons.append(f"time limits were last looked at {now - service.ticked_at:.0f} s ago")
        return {
            "status": "failing" if reasons else "ok",
            "reasons": reasons,
            "version": pooler.__version__,
            "uptime_seconds": round(now - self._began, 3),
        }

    async def ready(self) -> Report:
        """Return whether clients should be sent here, and why not."""
        service = self._service
        reasons = []
        if service.stopping:
            reasons.append("the pooler is shutting down")
        elif not service.listening:
            reasons.append("the pooler does not listen")
        databases = await self._databases()
        for name, found in databases.items():
            if found["status"] != "reachable" and not found["optional"]:
                reasons.append(f"database {name} is {found['status']}: {found['error']}")
        return {
            "status": "not ready" if reasons else "ready",
            "reasons": reasons,
            "databases": databases,
        }

    async def _databases(self) -> dict[str, dict[str, Any]]:
        configured = self._service.config.databases
        pools: dict[str, list[Pool]] = {name: [] for name in configured}
        for pool in self._service.router.pools.values():
            name = pool.database if pool.database in configured else FALLBACK
            if name in pools and not pool.internal:
                pools[name].append(pool)
        found = await asyncio.gather(
            *(self._database(entry, pools[name]) for name, entry in configured.items())
        )
        return dict(zip(configured, found, strict=True))

    async def _database(self, entry: Database, pools: list[Pool]) -> dict[str, Any]:
        status, error = "reachable", ""
        if not any(pool.staying for pool in pools):
            error = await self._unreachable(entry.hosts)
            if error:
                status = "unreachable"
            elif (refused := _refusal(entry, pools)) is not None:
                status, error = "refused", str(refused)
        report = {"status": status, "optional": entry.optional}
        return {**report, "error": error} if error else report

    async def _unreachable(self, hosts: Iterable[Host]) -> str:
        """Return what is wrong with the hosts, "" if one of them is there."""
        errors = []
        for host in hosts:
            error = await self._probe(host)
            if not error:
                return ""
            errors.append(f"{host}: {error}")
        return ", ".join(errors)

    async def _probe(self, host: Host) -> str:
        async with self._probes:
            now = self._service.now()
            at, error = self._probed.get(host, (-PROBE_AGAIN, ""))
            if now - at >= PROBE_AGAIN:
                error = await _connect(host)
                self._probed = {
                    known: found
                    for known, found in self._probed.items()
                    if now - found[0] < PROBE_AGAIN
                }
                self._probed[host] = (now, error)
            return error


def _refusal(entry: Database, pools: Iterable[Pool]) -> ServerFault | None:
    """Return an error that every attempt to log in ends with, and not for its client's sake."""
    for pool in pools:
        error = pool.supply.last_error
        if error is None or not pool.supply.failing_since:
            continue
        if entry.user or not error.lasting:
            return error
    return None


async def _connect(host: Host) -> str:
    """Return why no connection can be opened, "" if it can."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            _, writer = await open_streams(host)
    except TimeoutError:
        return f"no answer in {PROBE_TIMEOUT:.0f} s"
    except (OSError, UnicodeError) as error:  # UnicodeError: an impossible host name
        code = error.errno if isinstance(error, OSError) else None
        return os.strerror(code) if code and code > 0 else str(error)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ""


def together(reports: Iterable[Report]) -> Report:
    """Return the readiness of several processes that are one pooler."""
    first, *others = reports
    for other in others:
        reasons = dict.fromkeys((*first["reasons"], *other["reasons"]))
        databases = {
            name: found if found["status"] != "reachable" else other["databases"].get(name, found)
            for name, found in first["databases"].items()
        }
        status = "not ready" if reasons else "ready"
        first = {"status": status, "reasons": list(reasons), "databases": databases}
    return first

"""HTTP on the metrics address: `/metrics`, `/healthz` (do we work), `/readyz` (can we serve).

The dashboard has the rest.
"""

import asyncio
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiohttp import web

from pooler.config import Settings
from pooler.dashboard import Dashboard
from pooler.metrics import CONTENT_TYPE, exposition, pgbouncer
from pooler.sockets import socket_address

if TYPE_CHECKING:
    from pooler.service import Service


class MetricsServer:
    """The HTTP server, listening or not."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._dashboard = Dashboard(service)
        self._runner: web.AppRunner | None = None
        self.addresses: list[str] = []
        self.sockets: list[socket.socket] = []

    async def open(self, settings: Settings, kept: Sequence[socket.socket] = ()) -> None:
        """Listen where `metrics.listen` says, if it does, or on sockets that do; OSError."""
        address = settings.metrics.address
        sockets = list(kept)
        if not sockets and address is not None:
            sockets = self._service.bind_metrics(*address)
        if not sockets:
            return
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._dashboard.add_to(app)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        for sock in sockets:
            await web.SockSite(self._runner, sock).start()
        self.addresses = [socket_address(sock) for sock in sockets]
        self.sockets = sockets

    async def suspend(self) -> list[socket.socket]:
        """Accept nobody, and answer who is connected; return sockets of the same addresses."""
        kept = [sock.dup() for sock in self.sockets]
        self.addresses = []
        if self._runner is not None:
            for site in list(self._runner.sites):
                await site.stop()
        return kept

    async def close(self) -> None:
        """Stop listening; answers under way have a moment to be finished."""
        runner, self._runner = self._runner, None
        self.addresses = []
        self._dashboard.close()
        if runner is not None:
            await asyncio.wait_for(runner.cleanup(), 5)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
        await response.prepare(request)
        found = await self._service.figures()
        async for piece in exposition(found):
            await response.write(piece)
        if self._service.config.metrics.pgbouncer_names:
            async for text in pgbouncer.pieces(self._service, found):
                await response.write(text.encode())
        await response.write_eof()
        return response

    async def _healthz(self, request: web.Request) -> web.Response:
        report = self._service.health.alive()
        return web.json_response(report, status=200 if report["status"] == "ok" else 503)

    async def _readyz(self, request: web.Request) -> web.Response:
        report = await self._service.readiness()
        return web.json_response(report, status=200 if report["status"] == "ready" else 503)

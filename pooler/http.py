"""HTTP on the metrics address: `/metrics`, `/healthz` (do we work), `/readyz` (can we serve).

The dashboard has the rest.
"""

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from pooler.config import Settings
from pooler.dashboard import Dashboard
from pooler.metrics import CONTENT_TYPE, exposition, snapshot
from pooler.sockets import socket_address, tcp_sockets

if TYPE_CHECKING:
    from pooler.service import Service


class MetricsServer:
    """The HTTP server, listening or not."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._dashboard = Dashboard(service)
        self._runner: web.AppRunner | None = None
        self.addresses: list[str] = []

    async def open(self, settings: Settings) -> None:
        """Listen where `metrics.listen` says, if it does; OSError."""
        address = settings.metrics.address
        if address is None:
            return
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._dashboard.add_to(app)
        sockets = tcp_sockets(*address, reuse_port=False)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        for sock in sockets:
            await web.SockSite(self._runner, sock).start()
        self.addresses = [socket_address(sock) for sock in sockets]

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
        found = await snapshot(self._service, self._service.config.metrics.pool_limit)
        async for piece in exposition(found):
            await response.write(piece)
        await response.write_eof()
        return response

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, request: web.Request) -> web.Response:
        why = self._service.not_ready()
        if why:
            return web.json_response({"status": "not ready", "reasons": why}, status=503)
        return web.json_response({"status": "ready"})

"""The dashboard's addresses: the page, its files, live events, views as JSON, and commands.

GET  /                      the page
GET  /static/...            its files
GET  /login                 asks for name and password, and leads back to the page
GET  /api/                  which views and commands there are, and who asks
GET  /api/events            server-sent events: `history` once, then a `frame` a second
GET  /api/VIEW              a view; see `looks.selected` for its parameters
POST /api/commands/COMMAND  does something, with a JSON object of arguments
"""

import asyncio
from collections.abc import Awaitable, Callable
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

import pooler
from pooler.admin import views
from pooler.config.model import Queries
from pooler.core.errors import PoolerError
from pooler.dashboard import actions, guard
from pooler.dashboard.access import Access, TooBusy
from pooler.dashboard.actions import ACTIONS, WrongArguments
from pooler.dashboard.assets import assets
from pooler.dashboard.feed import Feed
from pooler.dashboard.frames import Frames
from pooler.dashboard.looks import Looks, WrongQuery, selected
from pooler.rates import POINT, WINDOW

if TYPE_CHECKING:
    from pooler.service import Service

PAGE: Final = 1000
"""Rows of a view in one answer, at most."""
SLOW_WRITE: Final = 10.0
"""Seconds that a viewer may take to let something through."""
RETRY: Final = b"retry: 2000\n\n"
"""Milliseconds after which a viewer who has lost us comes back."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Dashboard:
    """The page and its API, for one HTTP server."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._looks = Looks(service.rows, service.now)
        frames = Frames(self._looks, service.now)
        self._feed = Feed(frames, lambda error: service.bug(self, error))
        self._access = Access(
            lambda: service.config, service.authenticator, service.throttle, service.now
        )

    def __repr__(self) -> str:
        """Show how many watch."""
        return f"<Dashboard viewers={self._feed.viewers}>"

    def add_to(self, app: web.Application) -> None:
        """Serve it there."""
        router = app.router
        router.add_get("/", self._guarded(self._page))
        router.add_get("/static/{path:.+}", self._guarded(self._file))
        router.add_get("/login", self._guarded(self._login))
        router.add_get("/api/", self._guarded(self._about))
        router.add_get("/api/events", self._guarded(self._events))
        router.add_get("/api/{view}", self._guarded(self._view))
        router.add_post("/api/commands/{command}", self._guarded(self._command))

    def close(self) -> None:
        """Send the viewers away."""
        self._feed.close()

    # -- what stands before all of it

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                refusal = await self._refusal(request)
                response = await handler(request) if refusal is None else refusal
            except (web.HTTPException, ConnectionError):
                raise
            except Exception as error:
                self._service.bug(request, error)
                response = web.Response(status=500, text="That went wrong; the log says why.\n")
            if not response.prepared:
                response.headers.update(guard.HEADERS)
            return response

        return guarded

    async def _refusal(self, request: web.Request) -> web.Response | None:
        """Return why the request is not for us, or not from somebody who may ask."""
        settings = self._service.config.dashboard
        text = guard.not_served(settings, _own_host(request))
        if text:
            return web.Response(status=404, text=f"{text}\n")
        text = guard.wrong_host(settings, request.headers.get("Host", ""))
        if text:
            return web.Response(status=421, text=f"{text}\n")
        if request.method == "POST":
            text = guard.wrong_origin(request.headers)
            if text:
                return web.Response(status=403, text=f"{text}\n")
        try:
            user = await self._access.user(
                request.headers.get("Authorization", ""), request.remote or ""
            )
        except TooBusy:
            return web.Response(status=429, text="Too many logins at a time.\n")
        request["user"] = user
        asks = settings.login_to_look or request.method == "POST" or request.path == "/login"
        if asks and user is None:
            return self._unauthorized()
        return None

    def _unauthorized(self) -> web.Response:
        if not self._service.config.admin.users:
            return web.Response(
                status=403, text="Nobody may: there are no administrators (admin.users).\n"
            )
        return web.Response(
            status=401,
            text="Name and password of an administrator, please.\n",
            headers={"WWW-Authenticate": 'Basic realm="pooler", charset="UTF-8"'},
        )

    # -- the page

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return _asset(request, "index.html")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        return _asset(request, request.match_info["path"])

    async def _login(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=303, headers={"Location": "/"})

    # -- the API

    async def _about(self, request: web.Request) -> web.StreamResponse:
        return _json(
            {
                "version": pooler.__version__,
                "build": pooler.build_kind(),
                "user": request["user"],
                "can_log_in": bool(self._service.config.admin.users),
                "views": {name: view.help for name, view in views.VIEWS.items()},
                "commands": {name: action.help for name, action in ACTIONS.items()},
                "sample": _sample(self._service.config.queries),
                "point": POINT,
                "window": WINDOW,
            }
        )

    async def _view(self, request: web.Request) -> web.StreamResponse:
        view = views.VIEWS.get(request.match_info["view"])
        if view is None:
            return _json({"error": "There is no such view."}, 404)
        try:
            return _json(selected(view, await self._looks.rows(view), request.query, PAGE))
        except WrongQuery as error:
            return _json({"error": str(error)}, 400)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        if self._feed.viewers >= self._service.config.dashboard.viewers:
            return web.Response(
                status=503, headers={"Retry-After": "10"}, text="Too many viewers already.\n"
            )
        response = web.StreamResponse(
            headers={
                **guard.HEADERS,
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        viewer = self._feed.join(transport.abort)
        try:
            await response.prepare(request)
            await response.write(RETRY)
            while (event := await viewer.get()) is not None:
                async with asyncio.timeout(SLOW_WRITE):
                    await response.write(event)
        except (ConnectionResetError, TimeoutError):
            transport.abort()
        finally:
            self._feed.leave(viewer)
        return response

    async def _command(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["command"]
        if name not in ACTIONS:
            return _json({"error": "There is no such command."}, 404)
        if request.content_type != "application/json":
            return _json({"error": "Arguments have to be JSON."}, 415)
        try:
            arguments: Any = await request.json()
            result = await actions.run(self._service, name, request["user"], arguments)
        except (JSONDecodeError, UnicodeDecodeError):
            return _json({"error": "Arguments have to be JSON."}, 400)
        except WrongArguments as error:
            return _json({"error": str(error)}, 400)
        except PoolerError as error:
            return _json({"error": error.text, "detail": error.detail, "hint": error.hint}, 409)
        return _json({"result": result})


def _sample(queries: Queries) -> int:
    """Return of how many transactions one has its statements recorded; 0 of none."""
    every = {"off": 0, "sampled": queries.statistics_sample, "on": 1}
    return every[queries.statistics]


def _own_host(request: web.Request) -> str:
    """Return the address of ours that the request came to."""
    return str(request.get_extra_info("sockname")[0])


def _asset(request: web.Request, path: str) -> web.Response:
    asset = assets().get(path)
    if asset is None:
        return web.Response(status=404, text="There is no such file.\n")
    headers = {"Cache-Control": "no-cache", "ETag": f'"{asset.etag}"'}
    if any(tag.value == asset.etag for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return web.Response(body=asset.body, headers={**headers, "Content-Type": asset.content_type})


def _json(data: Any, status: int = 200) -> web.Response:
    return web.json_response(data, status=status, headers={"Cache-Control": "no-store"})

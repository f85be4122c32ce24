"""The application: every interface's endpoints behind one guard, one log and one set of metrics."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...core.http_interface import Endpoint, HttpError, HttpInterface, plain_error
from ...core.messages import did_you_mean
from .answering import Answer, Answering, Request, as_json
from .engine import Engine
from .guard import Guard
from .hub import Hub
from .metrics import Metrics
from .names import Names, read_offers
from .options import ServeOptions

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request as AnyRequest
    from starlette.responses import Response

SPARE_TIME = 30.0
"""Seconds beyond a request's own time for sending what it has got: a client that does not read is left then."""


class Server:
    """Everything that runs: the engine, the hub, the interfaces; and what is known of both.

    Attributes:
        draining: whether it is ending, and only goes on with what it has begun.
        since: when it was started, by ``time.time()``.
    """

    def __init__(self, options: ServeOptions, log: Callable[[str], None] | None = None) -> None:
        self.options = options
        self.log = log or _to_stderr
        self.guard = Guard(options)
        self.metrics = Metrics()
        self.engine = Engine(self.log)
        names = Names(read_offers(options.models), any_name=options.any_name)
        self.hub = Hub(names, options, self.engine, self.metrics, self.log)
        self.interfaces = load_interfaces()
        self.draining = False
        self.since = time.time()

    @property
    def patience(self) -> float | None:
        """Seconds after which a request is given up."""
        return None if self.options.max_time is None else self.options.max_time + SPARE_TIME

    def logged(self, request: Request, endpoint: Endpoint, answer: Answer, seconds: float) -> None:
        """Write a request down, where that was asked for: a line of JSON on stdout."""
        if not self.options.access_log:
            return
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": request.request_id,
            "client": (request.scope.get("client") or [None])[0],
            "method": endpoint.method,
            "path": endpoint.path,
            "status": answer.status,
            "seconds": round(seconds, 4),
        }
        tickets = [ticket for served in request.models for ticket in served.tickets]
        if request.models:
            line["model"] = request.models[0].name
        if tickets:
            jobs = [ticket.job for ticket in tickets]
            line["prompt_tokens"] = sum(row.prompt.counted for job in jobs for row in job.rows)
            line["new_tokens"] = sum(job.stats.new_tokens for job in jobs)
            first = tickets[0].first_seconds
            line["first_token_seconds"] = None if first is None else round(first, 4)
        print(json.dumps(line), flush=True)


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def load_interfaces() -> dict[str, HttpInterface]:
    """The interfaces of all plugins by name.

    Raises:
        PluginError: one cannot be loaded, is none, or two claim one path.
    """
    from ...core.errors import PluginError
    from ...core.plugin_system.manager import plugin_manager

    found: dict[str, HttpInterface] = {}
    claimed: dict[tuple[str, str], str] = {}
    for name, offer in plugin_manager().routes().items():
        interface = offer.load()
        if not isinstance(interface, HttpInterface):
            raise PluginError(f"routes {name!r} of plugin {offer.plugin!r}: {offer.target} is no HttpInterface")
        for endpoint in interface.endpoints:
            place = endpoint.method, endpoint.path
            if place in claimed:
                text = f"routes {name!r} and {claimed[place]!r} both claim {endpoint.method} {endpoint.path}"
                raise PluginError(text, hint="block one of the plugins with the setting plugins_block")
            claimed[place] = name
        found[name] = interface
    return found


def make_app(server: Server) -> Starlette:
    """The ASGI application."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Route

    routes = []
    for interface in server.interfaces.values():
        for endpoint in interface.endpoints:
            answering = Answering(server, interface, endpoint)
            routes.append(Route(endpoint.path, answering, methods=[endpoint.method]))
    middleware = []
    if server.options.cors:
        from starlette.middleware.cors import CORSMiddleware

        how: dict[str, Any] = {"allow_methods": ["*"], "allow_headers": ["*"], "expose_headers": ["x-request-id"]}
        middleware.append(Middleware(CORSMiddleware, allow_origins=list(server.options.cors), **how))
    paths = sorted({endpoint.path for one in server.interfaces.values() for endpoint in one.endpoints})
    handlers: dict[Any, Any] = {404: _not_found(paths), 405: _wrong_method}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


def _not_found(paths: list[str]) -> Callable[[AnyRequest, Exception], Any]:
    async def answer(request: AnyRequest, error: Exception) -> Response:
        path = request.url.path[:80]
        hint = did_you_mean(path, paths, "GET /openapi.json lists what there is")
        return _plain(HttpError(f"there is nothing at {path!r}", status=404, kind="not_found", hint=hint))

    return answer


async def _wrong_method(request: AnyRequest, error: Exception) -> Response:
    text = f"{request.url.path[:80]!r} does not take {request.method}"
    return _plain(HttpError(text, status=405, kind="method_not_allowed"), getattr(error, "headers", None))


def _plain(error: HttpError, headers: Any = None) -> Response:
    from starlette.responses import Response

    content = as_json(plain_error(error))
    return Response(content, status_code=error.status, media_type="application/json", headers=headers)

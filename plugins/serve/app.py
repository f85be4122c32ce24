"""The application: every interface's endpoints, and what is answered where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...core.http_interface import HttpError, plain_error
from ...core.messages import did_you_mean
from .answering import Answering, as_json

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from .state import Server


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


def _not_found(paths: list[str]) -> Callable[[Request, Exception], Any]:
    async def answer(request: Request, error: Exception) -> Response:
        path = request.url.path[:80]
        hint = did_you_mean(path, paths, "GET /openapi.json lists what there is")
        return _plain(HttpError(f"there is nothing at {path!r}", status=404, kind="not_found", hint=hint))

    return answer


async def _wrong_method(request: Request, error: Exception) -> Response:
    text = f"{request.url.path[:80]!r} does not take {request.method}"
    return _plain(HttpError(text, status=405, kind="method_not_allowed"), getattr(error, "headers", None))


def _plain(error: HttpError, headers: Any = None) -> Response:
    from starlette.responses import Response

    content = as_json(plain_error(error))
    return Response(content, status_code=error.status, media_type="application/json", headers=headers)

"""One request from its arrival to the end of its answer: who may ask, the body, the handler, a client that leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...core.http_interface import Endpoint, HttpError, HttpInterface, Plain, Streamed
from .access_log import log_request
from .fields import read_body
from .problems import as_http_error

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from .hub import Served
    from .state import Server

LEFT = 499
"""The status of a client that has left, in the log and in metrics alone, as nginx has it."""

READ_TIME = 60.0
"""Seconds that a request's body may take to arrive."""

LAST_WORDS = 5.0
"""Seconds that saying what went wrong may take."""

_ID = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


class Request:
    """One call as a handler gets it: see :class:`~polyllama.core.http_interface.Call`."""

    def __init__(self, server: Server, scope: Scope, headers: Mapping[str, str]) -> None:
        self.server, self.headers = server, headers
        self.body: Any = None
        self.path: Mapping[str, Any] = scope.get("path_params", {})
        self.scope = scope
        self.request_id = _request_id(headers)
        self.models: list[Served] = []

    @property
    def query(self) -> Mapping[str, str]:
        from urllib.parse import parse_qsl

        return dict(parse_qsl(self.scope.get("query_string", b"").decode("latin-1")))

    async def model(self, name: str | None, *, task: str | None = None) -> Served:
        """The model that the request names, loaded if it is not."""
        served = await self.server.hub.use(name, task)
        self.models.append(served)
        return served

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a thread."""
        return await self.server.hub.run(function, *arguments)

    def close(self) -> None:
        """Let go of the models, and end what still runs for it."""
        while self.models:
            self.models.pop().release()


def _request_id(headers: Mapping[str, str]) -> str:
    """The client's own where it sent one that is safe to be written down."""
    asked = headers.get("x-request-id", "")
    return asked if 0 < len(asked) <= 64 and _ID.issuperset(asked) else uuid.uuid4().hex


class Answering:
    """The ASGI application of one endpoint."""

    def __init__(self, server: Server, interface: HttpInterface, endpoint: Endpoint) -> None:
        self.server, self.interface, self.endpoint = server, interface, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        request = Request(self.server, scope, headers)
        answer = Answer(self, request, send)
        metrics, begun = self.server.metrics, time.perf_counter()
        metrics.in_flight += 1
        try:
            await self._until_it_leaves(request, answer, receive)
        finally:
            used = list(request.models)
            request.close()
            metrics.in_flight -= 1
            seconds = time.perf_counter() - begun
            metrics.requests[self.endpoint.path, answer.status] += 1
            metrics.request_seconds.see(seconds)
            if self.server.options.access_log:
                log_request(self._said(request, answer, seconds), used)

    def _said(self, request: Request, answer: Answer, seconds: float) -> dict[str, Any]:
        """What the log says of a request itself."""
        return {
            "request_id": request.request_id,
            "client": (request.scope.get("client") or [None])[0],
            "method": self.endpoint.method,
            "path": self.endpoint.path,
            "status": answer.status,
            "seconds": round(seconds, 4),
        }

    async def _until_it_leaves(self, request: Request, answer: Answer, receive: Receive) -> None:
        """Answer, and stop as soon as the client has left."""
        try:
            self.server.guard.check(request.headers, open_to_all=self.endpoint.open)
            async with asyncio.timeout(READ_TIME):
                content = await _read(receive, request.headers, self.server.options.max_body)
        except HttpError as error:
            await answer.fail(error)
            return
        except TimeoutError:
            await answer.fail(HttpError("the request did not come to its end", status=408, kind="timeout"))
            return
        except ConnectionError:
            answer.status = LEFT
            return
        task = asyncio.current_task()
        assert task is not None
        left = False

        def leave(watch: asyncio.Task[None]) -> None:
            nonlocal left
            if not watch.cancelled():
                left = True
                task.cancel()

        watch = asyncio.create_task(_disconnected(receive))
        watch.add_done_callback(leave)
        try:
            await self._answer(request, answer, content)
        except asyncio.CancelledError:
            if not left:
                raise
            task.uncancel()
            answer.status = LEFT
        finally:
            watch.remove_done_callback(leave)
            watch.cancel()

    async def _answer(self, request: Request, answer: Answer, content: bytes) -> None:
        try:
            async with asyncio.timeout(self.server.patience):
                if self.endpoint.body is not None:
                    request.body = read_body(self.endpoint.body, content)
                await answer.send(await self.endpoint.handler(request))
        except Exception as error:
            explained = self._explained(error, request)
            with contextlib.suppress(TimeoutError):  # who does not read hears no last words either
                async with asyncio.timeout(LAST_WORDS):
                    await answer.fail(explained)

    def _explained(self, error: Exception, request: Request) -> HttpError:
        if isinstance(error, TimeoutError):
            return HttpError("the request took too long", status=504, kind="timeout", hint="see --max-time")
        known = as_http_error(error, self.interface.names)
        if known is None:
            self.server.log(f"request {request.request_id}: {''.join(traceback.format_exception(error)).rstrip()}")
            return HttpError(f"an error of the server, request {request.request_id}", status=500, kind="server_error")
        if known.status >= 500:
            self.server.log(f"request {request.request_id}: {known}")
        return known


class Answer:
    """What is sent back.

    Attributes:
        status: of HTTP, once something has been sent.
    """

    def __init__(self, answering: Answering, request: Request, send: Send) -> None:
        self._form, self._request, self._send = answering.interface.error, request, send
        self.status = 0
        self._stream: Streamed | None = None

    async def send(self, result: Any) -> None:
        """Send what a handler gave."""
        if isinstance(result, Streamed):
            await self._send_stream(result)
        elif isinstance(result, Plain):
            await self._whole(result.status, result.content, result.media_type, dict(result.headers))
        else:
            await self._whole(200, as_json(result), "application/json")

    async def fail(self, error: HttpError) -> None:
        """Send an error in the interface's form; in the middle of a stream, as the stream's form has it."""
        if self._stream is not None:
            if self._stream.failed is not None:
                await self._piece(self._stream.failed(error))
            await self._piece(b"", more=False)
            return
        if self.status:  # in the middle of an answer that has no place for it
            return
        more = {"retry-after": str(error.retry_after)} if error.retry_after is not None else {}
        if error.status == 401:
            more["www-authenticate"] = "Bearer"
        await self._whole(error.status, as_json(self._form(error)), "application/json", more)

    async def _send_stream(self, stream: Streamed) -> None:
        # The first piece comes before the head: what goes wrong until then is an error with a status of its own.
        async with contextlib.aclosing(stream.pieces) as pieces:  # type: ignore[type-var]
            first = await anext(pieces, b"")
            await self._head(200, stream.media_type, {"cache-control": "no-cache", "x-accel-buffering": "no"})
            self._stream = stream
            await self._piece(first)
            async for piece in pieces:
                await self._piece(piece)
        await self._piece(b"", more=False)

    async def _whole(
        self, status: int, content: bytes, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        await self._head(status, media_type, {**(headers or {}), "content-length": str(len(content))})
        await self._piece(content, more=False)

    async def _head(self, status: int, media_type: str, headers: Mapping[str, str]) -> None:
        self.status = status
        named = {"content-type": media_type, "x-request-id": self._request.request_id, **headers}
        raw = [(name.encode(), value.encode("latin-1")) for name, value in named.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _piece(self, content: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": content, "more_body": more})


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def as_json(value: Any) -> bytes:
    """JSON in UTF-8, never with numbers that JSON does not have.

    >>> as_json({"a": "ä"}).decode()
    '{"a":"ä"}'
    """
    return _ENCODER.encode(value).encode("utf-8", "replace")


async def _read(receive: Receive, headers: Mapping[str, str], most: int) -> bytes:
    """The body of a request.

    Raises:
        HttpError: it is too large (413).
        ConnectionError: the client has left.
    """
    error = HttpError(f"the request is larger than {most} bytes", status=413, kind="request_too_large")
    said = headers.get("content-length", "")
    if said.isdigit() and int(said) > most:
        raise error
    found = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        found += message.get("body", b"")
        if len(found) > most:
            raise error
        if not message.get("more_body", False):
            return bytes(found)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

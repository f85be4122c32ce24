"""What an HTTP interface is made of: the endpoints that ``polyllama serve`` offers, its own and those of plugins.

An interface is data: endpoints with their paths, the class that validates a body, and the form of an error. How
requests arrive, wait, are cancelled and measured is the server's (``plugins/serve/``), the same for all interfaces.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .errors import PolyllamaError
from .public import for_plugins


@for_plugins
class HttpError(PolyllamaError):
    """What a request is answered with instead of a result: one line, with a status.

    Args:
        status: of HTTP, such as 404.
        kind: a word for programs, as OpenAI's interface has them: ``"model_not_found"``.
        param: the field of the request that it is about.
        retry_after: seconds after which it may be worth trying again.

    >>> error = HttpError("there is no model 'x'", status=404, kind="model_not_found")
    >>> error.status, str(error)
    (404, "there is no model 'x'")
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str | None = None,
        param: str | None = None,
        hint: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint, field=param)
        self.status, self.kind, self.param, self.retry_after = status, kind, param, retry_after


@for_plugins
@dataclass(frozen=True)
class Streamed:
    """An answer that comes piece by piece.

    Attributes:
        pieces: bytes as they are sent; closed when the client leaves.
        media_type: of the whole.
        failed: makes the piece that tells of an error after the answer has begun.
    """

    pieces: AsyncIterator[bytes]
    media_type: str = "text/event-stream"
    failed: Callable[[HttpError], bytes] | None = None


@for_plugins
@dataclass(frozen=True)
class Plain:
    """An answer that is no JSON: its bytes, its media type and its headers."""

    content: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


@for_plugins
class Running(Protocol):
    """A request that the engine runs, as a handler sees it.

    Attributes:
        job: the scheduler's, with its rows and statistics.
    """

    @property
    def job(self) -> Any: ...
    def events(self) -> AsyncIterator[Sequence[Any]]:
        """The tokens since the last look, as a stream event of each; a slow reader gets more at a time."""
        ...

    async def results(self) -> Sequence[Any]:
        """Wait for the end: a :class:`~polyllama.Generation` for each row."""
        ...


@for_plugins
class ServedModel(Protocol):
    """A loaded model, which stays loaded until the request is over.

    Attributes:
        name: as the request has it.
        llm: the model itself, a :class:`~polyllama.Llama`.
        adapter: the name of the adapter that the request asks for; ``generate`` adds it, and whoever calls
            `llm` gives it as ``adapter=``.
    """

    @property
    def name(self) -> str: ...
    @property
    def llm(self) -> Any: ...
    @property
    def adapter(self) -> str | None: ...
    async def generate(self, prepare: Callable[[], tuple[Sequence[Sequence[int]], Any]]) -> Running:
        """Have prompts continued.

        Args:
            prepare: makes token ids and the options of ``generate``, by name or as
                :meth:`~polyllama.Llama.chat_request` has them; it runs in a thread, so it may take its time.
        """
        ...


@for_plugins
class Call(Protocol):
    """One request, as a handler gets it.

    Attributes:
        body: what the endpoint's `body` made of the request's; ``None`` where it has none.
        path, query: what the path and the query string name.
        request_id: in the log, and in the answer's header ``x-request-id``.
        server: the running server, for what concerns it as a whole.
    """

    @property
    def body(self) -> Any: ...
    @property
    def path(self) -> Mapping[str, Any]: ...
    @property
    def query(self) -> Mapping[str, str]: ...
    @property
    def request_id(self) -> str: ...
    @property
    def server(self) -> Any: ...
    async def model(self, name: str | None, *, task: str | None = None) -> ServedModel:
        """The model that a request names, loaded if it is not; the first of the command line for ``None``."""
        ...

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a thread: whatever takes longer than a millisecond."""
        ...


Handler = Callable[[Any], Awaitable[Any]]


@for_plugins
@dataclass(frozen=True)
class Endpoint:
    """A path of an interface and what answers it.

    Attributes:
        method: ``"GET"`` or ``"POST"`` ...
        path: ``"/v1/thing/{name}"``; ``{name:path}`` takes slashes too.
        handler: ``async def handler(call)``; gives what becomes JSON, a :class:`Streamed` or a :class:`Plain`.
        body: the pydantic class of the request's JSON; ``None`` where there is none.
        summary: one line for the description at ``/openapi.json``.
        open: answered without an API key.
        answer: the pydantic class of the answer, for the description.
    """

    method: str
    path: str
    handler: Handler
    body: type[Any] | None = None
    summary: str = ""
    open: bool = False
    answer: type[Any] | None = None


def plain_error(error: HttpError) -> dict[str, Any]:
    """The form of an error where an interface has none of its own.

    >>> plain_error(HttpError("no"))
    {'error': 'no'}
    """
    return {"error": str(error)}


@for_plugins
@dataclass(frozen=True)
class HttpInterface:
    """Endpoints that belong together, with one form of errors.

    Attributes:
        error: makes the JSON of an error.
        names: what the interface calls generation's options, for messages about them: Python's name -> its own.
    """

    endpoints: tuple[Endpoint, ...]
    error: Callable[[HttpError], Any] = plain_error
    names: Mapping[str, str] = field(default_factory=dict)

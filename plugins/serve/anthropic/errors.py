"""Anthropic's form of errors, in an answer and in the middle of a stream."""

from __future__ import annotations

from typing import Any

from ....core.http_interface import HttpError
from ..answering import as_json

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error(error: HttpError) -> dict[str, Any]:
    """An error as Anthropic's clients read it.

    >>> anthropic_error(HttpError("too many", status=429))["error"]["type"]
    'rate_limit_error'
    """
    kind = _KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": str(error)}}


def event(kind: str, **values: Any) -> bytes:
    """An event of a stream.

    >>> event("ping")
    b'event: ping\\ndata: {"type":"ping"}\\n\\n'
    """
    return b"event: " + kind.encode() + b"\ndata: " + as_json({"type": kind, **values}) + b"\n\n"


def stream_error(error: HttpError) -> bytes:
    """An error as an event of a stream that has begun."""
    return event("error", error=anthropic_error(error)["error"])

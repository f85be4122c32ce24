"""OpenAI's form of errors, in an answer and in the middle of a stream."""

from __future__ import annotations

from typing import Any

from ....core.http_interface import HttpError
from .usage import data

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def openai_error(error: HttpError) -> dict[str, Any]:
    """An error as OpenAI's clients read it.

    >>> openai_error(HttpError("no such model", status=404, kind="model_not_found"))["error"]["code"]
    'model_not_found'
    """
    kind = _KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.kind}}


def stream_error(error: HttpError) -> bytes:
    """An error as an event of a stream that has begun."""
    return data(openai_error(error))

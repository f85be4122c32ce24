"""What went wrong as an HTTP error: whose fault it is, and in the request's own words."""

from __future__ import annotations

from collections.abc import Mapping

from ...core.errors import PolyllamaError
from ...core.http_interface import HttpError
from ...core.messages import UNSAID, Argument, spelled


def as_http_error(error: Exception, names: Mapping[str, str]) -> HttpError | None:
    """An error of ours as the answer to a request; ``None`` where it is a bug.

    What a request brought is refused by the same checks that Python's callers meet, so such an error is the client's.

    Args:
        names: generation's options as the interface calls them.
    """
    if isinstance(error, HttpError):
        return error
    if isinstance(error, PolyllamaError):
        text = spelled(str(error), lambda mentioned: _in_request(mentioned, names))
        param = error.argument
        return HttpError(" ".join(text.split()), param=None if param is None else names.get(param, param))
    if isinstance(error, MemoryError):
        return HttpError("out of memory", status=503, kind="server_error", hint="send less, or later")
    return None


def _in_request(mentioned: Argument, names: Mapping[str, str]) -> str:
    """An argument of Python's as a field of the request.

    >>> _in_request(Argument("max_new_tokens", 0, "max_new_tokens=0", "0"), {"max_new_tokens": "max_tokens"})
    'max_tokens=0'
    """
    name = names.get(mentioned.name)
    if name is None:
        return mentioned.text
    shown = mentioned.shown
    if shown is None or mentioned.value is UNSAID:
        return name if shown is None else f"{name}={shown}"
    return f"{name}={shown}"

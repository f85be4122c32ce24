"""Who may ask: API keys, the host that a request names, pages of other sites."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ...core.errors import InputError
from ...core.http_interface import HttpError
from .options import LOOPBACK

if TYPE_CHECKING:
    from .options import ServeOptions

SHORTEST_KEY = 8
"""Letters of an API key at least."""


class Guard:
    """Refuses who may not ask.

    >>> from .options import ServeOptions
    >>> guard = Guard(ServeOptions(("tiny",), api_keys=("a-long-key",)))
    >>> guard.check({"host": "localhost:8000", "authorization": "Bearer a-long-key"}, open_to_all=False)
    """

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._keys = [_digest(key) for key in options.api_keys]
        self._hosts = {*LOOPBACK, options.host, *options.allow_host}

    def check(self, headers: Mapping[str, str], *, open_to_all: bool) -> None:
        """Let a request through, or not.

        Raises:
            HttpError: 401 for the key, 403 for the host and the origin.
        """
        self._check_host(headers.get("host", ""))
        self._check_origin(headers)
        if not open_to_all:
            self._check_key(headers)

    def _check_key(self, headers: Mapping[str, str]) -> None:
        if not self._keys:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # All keys are compared, each in constant time and as a digest of one length: time says nothing about any.
        found = _digest(key)
        if not sum([hmac.compare_digest(found, known) for known in self._keys]):
            what = "the API key is not valid" if key else "the request has no API key"
            hint = "send the header `Authorization: Bearer KEY`"
            raise HttpError(what, status=401, kind="invalid_api_key", hint=None if key else hint)

    def _check_host(self, host: str) -> None:
        """A page that has its own name point at this machine is told by the name (DNS rebinding)."""
        if not self._options.loopback and not self._options.allow_host:
            return
        if _host_name(host) not in self._hosts:
            raise HttpError(
                f"the host {host[:80]!r} is not served", status=403, kind="forbidden", hint="see --allow-host"
            )

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        """A browser sends what any page wants sent; it says which page."""
        origin = headers.get("origin")
        if origin is None or origin in self._options.cors or "*" in self._options.cors:
            return
        if origin.partition("://")[2] != headers.get("host"):
            text = f"pages of {origin[:80]!r} may not ask"
            raise HttpError(text, status=403, kind="forbidden", hint="see --cors")


def _host_name(host: str) -> str | None:
    """A host without its port.

    >>> _host_name("localhost:8000"), _host_name("[::1]:80"), _host_name("[")
    ('localhost', '::1', None)
    """
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys of a file: one a line; empty lines and those that begin with # are none.

    Raises:
        InputError: it cannot be read, holds no key, or one that is too short or no plain text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"the file of API keys {str(path)!r} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"the file of API keys {str(path)!r} is no text") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    keys = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not keys:
        raise InputError(f"the file of API keys {str(path)!r} holds no key", hint="write one a line")
    for number, key in keys:
        if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise InputError(
                f"{str(path)!r}, line {number}: this is no API key",
                hint=f"take {SHORTEST_KEY} or more letters, digits and signs, without spaces",
            )
    return tuple(key for _, key in keys)

"""The page's files, held in memory: what a request names is looked up among them and never taken for a path."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

STATIC = Path(__file__).parent / "static"

MEDIA_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".md": "text/plain; charset=utf-8",
    "": "text/plain; charset=utf-8",  # licences
}
"""By ending: Python's own table asks the system, and some answer that JavaScript is plain text."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Text becomes markup through the sanitizer alone: the browser refuses every other way.
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
"""What the browser lets the page do: it fetches nothing from elsewhere, runs no script but its files, posts no form."""

HEADERS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


@cache
def page_files() -> Mapping[str, tuple[bytes, str]]:
    """Every file by its path below ``static/``, with its media type.

    >>> content, media_type = page_files()["index.html"]
    >>> media_type
    'text/html; charset=utf-8'
    """
    found = {}
    for path in sorted(STATIC.rglob("*")):
        if path.is_file() and path.suffix in MEDIA_TYPES:
            found[path.relative_to(STATIC).as_posix()] = path.read_bytes(), MEDIA_TYPES[path.suffix]
    return found

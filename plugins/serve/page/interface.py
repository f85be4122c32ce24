"""The paths of the page: its files, and what it asks about this server beyond what other interfaces tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....core.http_interface import Endpoint, HttpError, HttpInterface, Plain
from .files import HEADERS, page_files

if TYPE_CHECKING:
    from ..answering import Request


async def show_page(call: Request) -> Any:
    """The page itself."""
    return _file("index.html")


async def show_file(call: Request) -> Any:
    """One of its files."""
    return _file(call.path["name"])


def _file(name: str) -> Plain:
    files = page_files()
    if name not in files:
        raise HttpError(f"the page has no file {name[:80]!r}", status=404, kind="not_found")
    content, media_type = files[name]
    return Plain(content, media_type, HEADERS)


async def show_server(call: Request) -> Any:
    """Which backends can run here, and which of the loaded models know how to chat."""
    return {"backends": await call.run(_backends), "loaded": [_loaded(held) for held in call.server.hub.loaded()]}


def _backends() -> list[dict[str, Any]]:
    """Every backend, and why one cannot run here; a plugin's that fails says so and leaves the others alone."""
    from ....core.backend.choice import load_backend
    from ....core.plugin_system.hookspecs import describe_exception
    from ....core.plugin_system.manager import plugin_manager

    found = []
    for name, source in plugin_manager().backends().items():
        try:
            availability = load_backend(source).availability()
            usable, reason = bool(availability.usable), availability.reason
        except Exception as error:
            usable, reason = False, f"asking it failed with {describe_exception(error)}"
        found.append({"name": name, "usable": usable, "reason": reason})
    return found


def _loaded(held: Any) -> dict[str, Any]:
    llm = held.llm
    writes = bool(llm.task_head.generates)
    return {"name": held.name, "writes": writes, "chats": writes and llm.tokenizer.chat_template is not None}


INTERFACE = HttpInterface(
    (
        Endpoint("GET", "/", show_page, summary="The page: chat, and models side by side.", open=True),
        Endpoint("GET", "/page/server.json", show_server, summary="What the page asks about this server."),
        Endpoint("GET", "/page/{name:path}", show_file, summary="A file of the page.", open=True),
    ),
)

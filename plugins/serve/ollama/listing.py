"""``/api/tags``, ``/api/show``, ``/api/ps``: what is served, what of it is loaded."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ....core.config.context_length import context_length
from ....core.http_interface import HttpError
from ....core.plugin_system.entry_points import installed_version
from ..chats import calls_tools
from .bodies import ShowBody, model_name

if TYPE_CHECKING:
    from ..answering import Request
    from ..hub import Held, Served

NEVER = "9999-12-31T23:59:59Z"
"""When a model goes that stays for ever."""


async def version(call: Request) -> Any:
    """Say the version."""
    return {"version": installed_version("polyllama") or "unknown"}


async def tags(call: Request) -> Any:
    """List the models."""
    hub = call.server.hub
    sizes = {held.key.offer: held for held in hub.loaded()}
    models = []
    for offer in hub.offers():
        held = sizes.get(offer)
        since = _time(call.server.since)
        models += [{**_named(name), "modified_at": since, **_size(held)} for name in offer.names]
    return {"models": models}


async def show(call: Request) -> Any:
    """Show one model, which is loaded for it."""
    body: ShowBody = call.body
    name = body.model or body.name
    if not name:
        raise HttpError("the request lacks the field 'model'", param="model", kind="missing_field")
    served = await call.model(model_name(name))
    llm = served.llm
    template = await call.run(_template, llm)
    return {
        "modelfile": "",
        "parameters": "",
        "template": template or "",
        "details": _details(served.held),
        "model_info": {
            "general.architecture": "llama",
            "general.parameter_count": llm.graph.num_parameters(),
            "llama.context_length": context_length(llm.config),
            "llama.embedding_length": llm.config.hidden_size,
            "llama.block_count": llm.config.num_hidden_layers,
        },
        "capabilities": await call.run(_capabilities, served, call.server.options.tool_parser),
    }


def _capabilities(served: Served, tool_parser: str | None) -> list[str]:
    if served.held.lane is None:
        return ["embedding"]
    return ["completion", "tools"] if calls_tools(served.llm, tool_parser) else ["completion"]


def _template(llm: Any) -> str | None:
    found = llm.tokenizer.chat_template
    return found if isinstance(found, str) else None


async def running(call: Request) -> Any:
    """List the models that are loaded."""
    models = []
    for held in call.server.hub.loaded():
        expires = NEVER if held.expires is None else _time(held.expires)
        on_gpu = held.nbytes if held.llm.device.startswith(("cuda", "gpu", "mps")) else 0
        models.append({**_named(held.name), **_size(held), "expires_at": expires, "size_vram": on_gpu})
    return {"models": models}


def _named(name: str) -> dict[str, Any]:
    tagged = f"{name}:latest"
    return {"name": tagged, "model": tagged, "digest": hashlib.sha256(tagged.encode()).hexdigest()}


def _size(held: Held | None) -> dict[str, Any]:
    """What is known of a model that is loaded; of another nothing, as nobody has looked yet."""
    if held is None:
        return {"size": 0, "details": {"format": "", "family": "llama", "families": ["llama"]}}
    return {"size": held.nbytes, "details": _details(held)}


def _details(held: Held) -> dict[str, Any]:
    llm = held.llm
    return {
        "parent_model": "",
        "format": llm.backend,
        "family": "llama",
        "families": ["llama"],
        "parameter_size": f"{llm.graph.num_parameters() / 1e6:.1f}M",
        "quantization_level": llm.dtype,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")

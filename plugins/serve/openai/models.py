"""``/v1/models``: what is served, what of it is loaded, where and how big."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....core.config.context_length import context_length

if TYPE_CHECKING:
    from ..answering import Request
    from ..hub import Held
    from ..names import Offer


async def list_models(call: Request) -> Any:
    """List the models."""
    offers = call.server.hub.offers()
    return {"object": "list", "data": [_shown(call, offer, name) for offer in offers for name in offer.names]}


async def show_model(call: Request) -> Any:
    """Show one model."""
    name = call.path["model"]
    key, _ = call.server.hub.names.find(name)
    return _shown(call, key.offer, name)


def _shown(call: Request, offer: Offer, name: str) -> dict[str, Any]:
    """A model under one of its names; of an adapter's it says which model it belongs to."""
    loaded = [held for held in call.server.hub.loaded() if held.key.offer == offer]
    return {
        "id": name,
        "object": "model",
        "created": int(call.server.since),
        "owned_by": "polyllama",
        "parent": None if name == offer.name else offer.name,
        "loaded": [loaded_state(held) for held in loaded],
    }


def loaded_state(held: Held) -> dict[str, Any]:
    """Where a loaded model is and what it takes."""
    llm, scheduler = held.llm, held.scheduler
    return {
        "name": held.name,
        "task": llm.task,
        "backend": llm.backend,
        "device": llm.device,
        "dtype": llm.dtype,
        "bytes": held.nbytes,
        "context": context_length(llm.config),
        "in_use": held.uses,
        "since": int(held.since),
        "expires": None if held.expires is None else int(held.expires),
        "cache_bytes": 0 if scheduler is None else scheduler.cache_bytes,
    }

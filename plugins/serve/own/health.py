"""``/health``, which asks the engine's loop itself, and ``/metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....core.http_interface import Plain
from ..answering import as_json

if TYPE_CHECKING:
    from ..answering import Request

PATIENCE = 20.0
"""Seconds that the engine may take to answer: a step over a long prompt of a large model takes some."""


async def health(call: Request) -> Any:
    """Say whether the engine turns, and what is loaded: 200 where requests are answered, else 503."""
    server = call.server
    seconds = await server.engine.ping(PATIENCE)
    loading = [key.text for key in server.hub.loading()]
    if seconds is None:
        status, state = 503, "failed" if server.engine.failure is not None else "stuck"
    elif server.draining:
        status, state = 503, "ending"
    elif loading and not server.hub.loaded():
        status, state = 503, "loading"
    else:
        status, state = 200, "ok"
    found: dict[str, Any] = {"status": state, "loaded": [held.name for held in server.hub.loaded()], "loading": loading}
    if seconds is not None:
        found["engine_seconds"] = round(seconds, 6)
    return Plain(as_json(found), "application/json", status=status)


async def show_metrics(call: Request) -> Any:
    """Counts and times in Prometheus' form."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    from ..exposition import Collector

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(call.server.metrics, call.server.hub))
    return Plain(generate_latest(registry), CONTENT_TYPE_LATEST)

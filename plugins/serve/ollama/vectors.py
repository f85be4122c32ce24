"""``/api/embed`` and ``/api/embeddings``: texts as vectors."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ....core.http_interface import HttpError
from ..vectors import embedded
from .bodies import EmbedBody, EmbeddingsBody, model_name, seconds

if TYPE_CHECKING:
    from ..answering import Request
    from ..hub import Served


async def embed(call: Request) -> Any:
    """Turn texts into vectors."""
    body: EmbedBody = call.body
    began = time.perf_counter()
    served = await _model(call, body)
    loading = time.perf_counter() - began
    vectors, count = await call.run(embedded, served, body.input, body.truncate is not False)
    if body.dimensions not in (None, vectors.shape[1]):
        text = f"dimensions is {body.dimensions}, this model's vectors have {vectors.shape[1]}"
        raise HttpError(text, param="dimensions", kind="unsupported")
    times = {"total_duration": time.perf_counter() - began, "load_duration": loading}
    found: dict[str, Any] = {"model": body.model, "embeddings": vectors.tolist(), "prompt_eval_count": count}
    return found | {name: int(value * 1e9) for name, value in times.items()}


async def embed_one(call: Request) -> Any:
    """Turn a text into a vector."""
    body: EmbeddingsBody = call.body
    served = await _model(call, body)
    vectors, _ = await call.run(embedded, served, body.prompt, True)
    return {"embedding": vectors[0].tolist()}


async def _model(call: Request, body: EmbedBody | EmbeddingsBody) -> Served:
    served = await call.model(model_name(body.model), task="embedding")
    if body.keep_alive is not None:
        served.held.keep_alive = seconds(body.keep_alive)
    return served

"""``/v1/embeddings``: texts as vectors of length 1."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ....core.http_interface import HttpError
from ..fields import Body, no_effect
from ..vectors import embedded
from .sampling import Token

if TYPE_CHECKING:
    from ..answering import Request


class EmbeddingsBody(Body):
    """Texts, or token ids, and the form of their vectors."""

    input: str | list[str] | list[Token] | list[list[Token]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate: bool | None = None
    user: Any = no_effect()


async def embed(call: Request) -> Any:
    """Turn texts into vectors."""
    body: EmbeddingsBody = call.body
    served = await call.model(body.model, task="embedding")
    vectors, count = await call.run(embedded, served, body.input, bool(body.truncate))
    if body.dimensions not in (None, vectors.shape[1]):
        text = f"dimensions is {body.dimensions}, this model's vectors have {vectors.shape[1]}"
        raise HttpError(text, param="dimensions", kind="unsupported")
    rows = [_encoded(vector) for vector in vectors] if body.encoding_format == "base64" else vectors.tolist()
    found = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    counts = {"prompt_tokens": count, "total_tokens": count}
    return {"object": "list", "model": served.name, "data": found, "usage": counts}


def _encoded(vector: Any) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()

"""How many tokens a model was made for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .schema import LlamaConfig


def context_length(config: LlamaConfig) -> int | None:
    """Return how many tokens the model was made for; ``None`` where there is no fixed limit.

    That is ``max_position_embeddings``, except: dynamic RoPE adapts to any length; with linear RoPE the field names the
    length before scaling, by its documentation; yarn and longrope reach at least original length times factor.
    """
    rope = config.rope_parameters
    length = config.max_position_embeddings
    if rope.rope_type == "dynamic":
        return None
    if rope.rope_type == "linear":
        return int(length * (rope.factor or 1.0))
    if rope.rope_type in ("yarn", "longrope"):
        return max(length, int((rope.original_max_position_embeddings or length) * (rope.factor or 1.0)))
    return length

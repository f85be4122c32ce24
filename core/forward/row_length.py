"""How long the rows of a pass become, told from its arguments before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..config.context_length import context_length
from ..errors import warn

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig
    from .arguments import ForwardArguments


class ContextWatch:
    """Says once that a row of a pass is longer than what the model was made for."""

    def __init__(self, model: str, config: LlamaConfig) -> None:
        """Take what messages call the model, and its configuration."""
        self._model, self._limit = model, context_length(config)

    def look_at(self, arguments: ForwardArguments) -> None:
        """Look at the arguments of a pass that is about to run.

        Warns:
            PolyllamaWarning: a row gets longer than the context; only the first time.
        """
        if self._limit is None or (length := longest_row(arguments, self._limit)) <= self._limit:
            return
        warn(
            f"{self._model}: a row is {length} tokens long, more than the model's context of {self._limit} "
            "(max_position_embeddings): what comes out gets worse"
        )
        self._limit = None


def longest_row(arguments: ForwardArguments, limit: int) -> int:
    """Return how many tokens the longest row has after a pass, those in the cache counted and padding not.

    Masks are looked at only where the tokens given are more than `limit`, and arrays only where they are on the host;
    what cannot be seen counts as attended, and as in no later position than its place.
    """
    length = arguments.new_tokens + int(getattr(arguments.past_key_values, "length", 0) or 0)
    positions = _on_host(arguments.position_ids)
    if positions is not None and positions.size:
        return int(positions.max()) + 1
    if length > limit and arguments.attention_mask is not None:
        mask = _on_host(arguments.attention_mask)
        if mask is not None and mask.ndim == 2 and mask.shape[1] == length:
            return int((mask != 0).sum(axis=1).max(initial=0))
    return length


def _on_host(values: Any) -> Any:
    """The values as a NumPy array, or ``None`` where that would mean to wait for a device, or they are no numbers."""
    if values is None:
        return None
    import numpy as np

    try:
        if "cpu" not in str(getattr(values, "device", "cpu")).lower():
            return None
        found = np.asarray(values)
    except Exception:  # a compiler's stand-in for an array, or ragged lists, of which the pass says what is wrong
        return None
    return found if found.dtype.kind in "iufb" else None

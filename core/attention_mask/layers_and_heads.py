"""Reading which layers and heads are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..messages import subject

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig


def layers_of(layer: int | str | None, config: LlamaConfig) -> list[int]:
    count = config.num_hidden_layers
    if layer == "all":
        return list(range(count))
    return [_number("layer", -1 if layer is None else layer, count, "'all'")]


def heads_of(head: int | str | None, config: LlamaConfig) -> list[int | str]:
    count = config.num_attention_heads
    if head is None or head == "mean":
        return ["mean"]
    return list(range(count)) if head == "all" else [_number("head", head, count, "'all', 'mean'")]


def _number(name: str, value: Any, count: int, words: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -count <= value < count:
        raise InputError(
            subject(name, value) + f" is {value!r}, and the model has {count} {name}s, 0 to {count - 1}",
            hint=f"-1 is the last; {words} can be given too",
        )
    return value % count

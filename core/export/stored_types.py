"""In which types the tensors of a checkpoint are stored."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..checkpoint.protocol import Checkpoint
    from ..config.schema import LlamaConfig


def stored_types(checkpoint: Checkpoint, config: LlamaConfig) -> dict[str, int]:
    """Type -> how many tensors have it, those that hold most values first; a packed matrix counts as one.

    A format with types of its own has ``stored_types()``, which yields type and number of values of each tensor.

    >>> from polyllama.core.checkpoint.opening import open_checkpoint
    >>> from polyllama.core.sources.locate import locate
    >>> opened = open_checkpoint(locate("tiny").path)
    >>> stored_types(opened, opened.config())
    {'bfloat16': 47}
    """
    own = getattr(checkpoint, "stored_types", None)
    found = list(_types(checkpoint, config) if own is None else own())
    values: Counter[str] = Counter()
    for kind, count in found:
        values[kind] += count
    number = Counter(kind for kind, _ in found)
    return {kind: number[kind] for kind, _ in values.most_common()}


def _types(checkpoint: Checkpoint, config: LlamaConfig) -> Iterator[tuple[str, int]]:
    tensors = checkpoint.tensors()
    for name, info in tensors.items():
        module, _, part = name.rpartition(".")
        packed = config.quantization.of(module) if config.quantization and f"{module}.scales" in tensors else None
        if packed is None:
            yield info.dtype, math.prod(info.shape)
        elif part == "weight":
            yield str(packed), math.prod(info.shape) * 32 // packed.bits

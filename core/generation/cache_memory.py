"""How much memory keys and values take, and may take."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ..dtypes import itemsize
from ..errors import GenerationError
from ..graph.nodes import Attention
from ..machine.devices import find_devices, memory_for
from ..messages import mention

if TYPE_CHECKING:
    from ..backend.protocol import Model
    from ..graph.cache import Cache
    from .job import Job

SHARE = 0.5
"""What part of the device's free memory keys and values may take, where nobody says how much."""

KEPT = 1 << 30
"""Bytes of texts that are kept for others at most, where nobody says how much."""

UNKNOWN = 4 << 30
"""Bytes that they may take where it is not known how much memory is free."""


def bytes_per_token(model: Model) -> int:
    """Bytes of keys and values that a token has in a model's cache.

    >>> from polyllama import Llama
    >>> llm = Llama.load("tiny", backend="reference", dtype="float32")
    >>> config = llm.config
    >>> bytes_per_token(llm.model) == 8 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    True
    """
    if model.graph is None:
        return 1
    element = getattr(model, "cache_element", model.dtype)
    scale = 4 if element == "int8" else 0
    heads = ((node.num_kv_heads, node.head_dim) for node in model.graph.walk() if isinstance(node, Attention))
    return sum(2 * count * (size * itemsize(element) + scale) for count, size in heads)


class CacheMemory:
    """The memory that keys and values of a model may take, and what they take.

    Args:
        limit: bytes; ``None`` for half of what is free on the model's device when it is first asked for.
    """

    def __init__(self, model: Model, limit: int | None) -> None:
        self._model, self._limit, self._given = model, limit, limit is not None

    @functools.cached_property
    def per_token(self) -> int:
        """Bytes of a token."""
        return bytes_per_token(self._model)

    @property
    def limit(self) -> int:
        """Bytes at most."""
        if self._limit is None:
            memory = memory_for(str(self._model.device), find_devices())
            self._limit = UNKNOWN if memory is None else int(memory.free * SHARE)
        return self._limit

    @property
    def kept(self) -> int:
        """Bytes at most of texts that are kept for others: all there is where somebody has said how much."""
        return self.limit if self._given else min(self.limit // 4, KEPT)

    def of(self, cache: Cache) -> int:
        """Bytes of a cache."""
        return (cache.batch or 0) * max(cache.length, cache.capacity or 0) * self.per_token

    def refuse_what_never_fits(self, job: Job) -> None:
        """Refuse what alone would need more than there may be, where somebody has said how much that is.

        Raises:
            GenerationError: a prompt and what it may get take more; of rows that run in a batch of their own, all of
                them together.
        """
        if not self._given or not job.options.use_cache:
            return
        longest = max(job.rows, key=lambda row: row.prompt.length + row.budget, default=None)
        if longest is None:
            return
        wanted, rows = (longest.prompt.length + longest.budget), 1
        if job.alone:
            wanted, rows = job.slots(), job.model_rows
        wanted *= self.per_token
        if wanted > self.limit:
            many = "" if rows == 1 else f" in {rows} rows"
            raise GenerationError(
                f"a prompt of {longest.prompt.length} tokens and {longest.budget} new ones{many} take "
                f"{wanted / 2**20:.1f} MiB of keys and values, cache_memory is {self.limit / 2**20:.1f} MiB",
                hint="lower " + mention("max_new_tokens") + ", or raise cache_memory",
            )

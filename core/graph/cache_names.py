"""What the reference documentation finds on a cache: its layers, lengths and limits, by their documented names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..dtypes import Array


class CacheLayer:
    """One layer of a cache: its keys and values ``[batch, kv heads, length, head_dim]``, read when asked for."""

    is_sliding = False

    def __init__(self, cache: CacheNames, place: int) -> None:
        self._cache, self._place = cache, place

    @property
    def keys(self) -> Array:
        """Keys of the slots in use."""
        return self._cache[self._place][0]

    @property
    def values(self) -> Array:
        """Values of the slots in use."""
        return self._cache[self._place][1]

    @property
    def is_initialized(self) -> bool:
        """Whether it holds anything."""
        return self.get_seq_length() > 0

    def get_seq_length(self) -> int:
        """Slots in use."""
        return self._cache.get_seq_length(self._place)

    def get_max_length(self) -> int:
        """Slots at most, -1 for as many as are needed."""
        return self._cache.get_max_cache_shape()

    get_max_cache_shape = get_max_length


class CacheNames:
    """Documented names that follow from a cache's layers and its length."""

    is_compileable = False
    """Whether its storage stays what it is, so that ``torch.compile`` compiles one pass for all tokens."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, layer: int) -> tuple[Array, Array]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        raise NotImplementedError

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Slots in use, padding included; every layer has as many."""
        raise NotImplementedError

    def reorder_cache(self, beam_idx: Any) -> None:
        """Become the cache of the given rows, in that order."""
        raise NotImplementedError

    @property
    def layers(self) -> list[CacheLayer]:
        """The layers, each with ``keys`` and ``values``."""
        return [CacheLayer(self, place) for place in range(len(self))]

    @property
    def key_cache(self) -> list[Array]:
        """The keys of each layer, as releases before 4.54 name them."""
        return [keys for keys, _ in self]

    @property
    def value_cache(self) -> list[Array]:
        """The values of each layer."""
        return [values for _, values in self]

    @property
    def is_initialized(self) -> bool:
        """Whether it holds anything."""
        return self.get_seq_length() > 0

    @property
    def is_sliding(self) -> list[bool]:
        """For each layer whether it forgets what lies far back: none does."""
        return [False] * len(self)

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """-1, which stands for "as many slots as are needed"."""
        return -1

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """:meth:`get_max_cache_shape` by another of the documentation's names."""
        return self.get_max_cache_shape()

    def to_legacy_cache(self) -> tuple[tuple[Array, Array], ...]:
        """``(keys, values)`` of each layer, as a tuple; given as ``past_key_values`` it goes on where this cache is."""
        return tuple(self)

    def batch_select_indices(self, indices: Any) -> None:
        """:meth:`reorder_cache` by another of the documentation's names."""
        self.reorder_cache(indices)

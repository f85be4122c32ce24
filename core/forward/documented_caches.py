"""``DynamicCache`` and ``StaticCache``, made before any model has run, as the reference documentation makes them.

Such a cache belongs to no framework. The first pass that is given it makes a cache of the model's backend for it, which
holds keys and values from then on; those that a program adds itself are kept as they came until a pass takes them over.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from ..array_kinds import as_numpy, concatenated, device_of, kind_among, kind_of, to_kind
from ..dtypes import name_of
from ..errors import InputError, UnsupportedError
from ..graph.cache import Cache, as_rows
from ..graph.cache_names import CacheNames
from ..messages import counted, subject
from ..public import public

if TYPE_CHECKING:
    from ..dtypes import Array

    Pair = tuple[Array, Array]


class DocumentedCache(CacheNames):
    """Base of both: what they hold, as a backend's cache or as arrays.

    Attributes:
        native: the backend's cache, once a pass has run.
        limit: slots at most, ``None`` for as many as are needed.
        rows: rows that it is made for, ``None`` for those of the first pass.
    """

    limit: int | None = None
    rows: int | None = None

    def __init__(self, config: Any = None) -> None:
        self.native: Cache | None = None
        self._arrays: list[Pair] = []
        self._layers = None if config is None else _layers_of(config)

    @classmethod
    def from_legacy_cache(cls, past_key_values: Any = None) -> Self:
        """A cache that holds the ``(keys, values)`` of each layer."""
        made = cls()
        for place, (keys, values) in enumerate(past_key_values or ()):
            made.update(keys, values, place)
        return made

    def update(
        self, key_states: Array, value_states: Array, layer_idx: int, cache_kwargs: Any = None, **more: Any
    ) -> Pair:
        """Add keys and values ``[batch, kv heads, new, head_dim]`` to a layer; all of the layer's come back.

        Args:
            layer_idx: layers are begun in their order.
            cache_kwargs, more: taken as documented; what they say, a Llama's cache does not need.
        """
        kind_among([key_states, value_states])
        for what, array in (("key_states", key_states), ("value_states", value_states)):
            if kind_of(array) is None or len(array.shape) != 4:
                raise InputError(f"{what} is no array [batch, kv heads, new, head_dim]")
        held = self._taken_back()
        if not 0 <= layer_idx <= len(held):
            raise InputError(
                f"layer_idx is {layer_idx}, the cache holds {counted(len(held), 'layer')}", hint="begin with layer 0"
            )
        new = key_states, value_states
        if layer_idx < len(held):
            new = tuple(concatenated([old, add], 2) for old, add in zip(held[layer_idx], new, strict=True))
        self._check_room(int(new[0].shape[2]))
        held[layer_idx : layer_idx + 1] = [new]
        return new

    def _taken_back(self) -> list[Pair]:
        """Its layers as arrays, which a program adds to."""
        if self.native is not None:
            if self.native.mask is not None:
                raise InputError(
                    "update: this cache holds rows with padding, which keys and values do not tell",
                    hint="let passes of the model write into it",
                )
            self._arrays, self.native = list(self.native), None
        return self._arrays

    # ---- what it holds

    def get_seq_length(self, layer_idx: int = 0) -> int:
        if self.native is not None:
            return self.native.get_seq_length(layer_idx)
        return int(self._arrays[layer_idx][0].shape[2]) if layer_idx < len(self._arrays) else 0

    def __len__(self) -> int:
        return len(self._arrays) if self.native is None else len(self.native)

    def __getitem__(self, layer: int) -> Pair:
        if self.native is not None:
            return self.native[layer]
        try:
            return self._arrays[operator.index(layer)]
        except IndexError:
            held = counted(len(self._arrays), "layer")
            raise IndexError(f"past_key_values holds {held}, there is no {layer}") from None

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._arrays if self.native is None else self.native)

    def __bool__(self) -> bool:
        # An empty cache is still a cache.
        return True

    @property
    def shown_as(self) -> tuple[str, Any] | None:
        """See :class:`~polyllama.extend.Cache`."""
        return None if self.native is None else self.native.shown_as

    @shown_as.setter
    def shown_as(self, value: tuple[str, Any] | None) -> None:
        if self.native is not None:
            self.native.shown_as = value

    # ---- changes

    def reset(self) -> None:
        """Forget all keys and values; a backend's storage of a fixed size stays."""
        self._arrays = []
        if self.native is not None and self.limit is not None:
            self.native.reset()
        else:
            self.native = None

    def crop(self, max_length: int) -> None:
        """Keep the first `max_length` slots of each row; a negative number is how many of the last to drop.

        Raises:
            InputError: it is no whole number.
        """
        try:
            max_length = operator.index(max_length)
        except TypeError:
            raise InputError(f"crop: max_length is {max_length!r:.40}, wanted a whole number") from None
        if self.native is not None:
            self.native.crop(max_length)
            return
        held = self.get_seq_length()
        kept = max_length if max_length >= 0 else max(0, held + max_length)
        if kept == 0:
            self._arrays = []
        elif kept < held:
            self._arrays = [(keys[:, :, :kept], values[:, :, :kept]) for keys, values in self._arrays]

    def reorder_cache(self, beam_idx: Any) -> None:
        """Become the cache of the given rows, in that order."""
        if self.native is not None:
            rows = as_rows(beam_idx, self.native.batch or 0)
            self.native = self.native.select_rows(rows)
        elif self._arrays:
            rows = as_rows(beam_idx, int(self._arrays[0][0].shape[0]))
            self._arrays = [(_rows(keys, rows), _rows(values, rows)) for keys, values in self._arrays]
        if self.rows is not None and len(self):
            self.rows = len(rows)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Become a cache that holds each row `repeats` times in a row."""
        self.reorder_cache([row for row in range(self.batch_size) for _ in range(repeats)])

    @property
    def batch_size(self) -> int:
        """Rows; -1 where there are none yet."""
        if self.native is not None and self.native.batch is not None:
            return self.native.batch
        return int(self._arrays[0][0].shape[0]) if self._arrays else self.rows or -1

    # ---- the pass's side

    @property
    def waiting(self) -> Sequence[Pair]:
        """Keys and values of each layer that no pass has taken over."""
        return self._arrays if self.native is None else ()

    def prepare(self, model: Any, rows: int, new: int) -> Cache | None:
        """The cache that a pass of `new` tokens writes to; ``None`` for one that the pass makes.

        Raises:
            InputError: it is made for other models or rows, or has no room.
        """
        if self.native is None or not self.native.counts_itself:
            self._check_room(self.get_seq_length() + new)
        return self.native

    def take(self, cache: Cache) -> None:
        """Hold what a pass has run from now on."""
        self.native, self._arrays = cache, []

    def check_layers(self, layers: int) -> None:
        """Refuse a model of another number of layers than the configuration that this was made for says."""
        if self._layers is not None and self._layers != layers:
            raise InputError(
                f"past_key_values is a {type(self).__name__} for {counted(self._layers, 'layer')}, "
                f"the model has {layers}",
                hint="make it with config=model.config",
            )

    def _check_room(self, wanted: int) -> None:
        if self.limit is not None and wanted > self.limit:
            raise InputError(
                f"past_key_values is a {type(self).__name__} for {counted(self.limit, 'token')}, "
                f"and this pass would make {wanted}",
                hint="make it with a larger max_cache_len",
            )

    def __deepcopy__(self, memo: Any) -> Self:
        made = copy.copy(self)
        made.native = copy.deepcopy(self.native, memo)
        made._arrays = [(_copied(keys), _copied(values)) for keys, values in self._arrays]
        return made

    def __copy__(self) -> Self:
        made = type(self).__new__(type(self))
        vars(made).update(vars(self))
        made._arrays = list(self._arrays)
        return made

    def __repr__(self) -> str:
        rows = self.batch_size
        limit = "" if self.limit is None else f", max_cache_len={self.limit}"
        return f"{type(self).__name__}(batch={None if rows < 0 else rows}, length={self.get_seq_length()}{limit})"


@public
class DynamicCache(DocumentedCache):
    """Keys and values of as many tokens as come: given as ``past_key_values``, passes and ``generate`` write into it.

    Args:
        ddp_cache_data: ``(keys, values)`` of each layer to begin with.
        config: of the model that it is for, which is checked.
        offloading: refused: keys and values stay where the model is.

    >>> from polyllama import DynamicCache, Llama
    >>> llm = Llama.load("tiny", backend="reference")
    >>> cache = DynamicCache()
    >>> output = llm([[1, 5, 9]], past_key_values=cache)
    >>> output.past_key_values is cache, cache.get_seq_length(), cache.layers[0].keys.shape[2]
    (True, 3, 3)
    """

    def __init__(
        self,
        ddp_cache_data: Iterable[Sequence[Any]] | None = None,
        config: Any = None,
        offloading: bool = False,
        offload_only_non_sliding: bool = False,
    ) -> None:
        super().__init__(config)
        _refuse_offloading(offloading)
        for place, layer in enumerate(ddp_cache_data or ()):
            self.update(layer[0], layer[1], place)


@public
class StaticCache(DocumentedCache):
    """Keys and values in storage of a fixed size, made at once; on torch one that ``torch.compile`` compiles once for.

    Args:
        config: of the model that it is for.
        max_cache_len: tokens of a row at most; by default as many as the model was made for.
        max_batch_size, batch_size: rows, as older releases ask for; by default those of the first pass.
        device, dtype: taken as documented, and checked against the model's, where the storage is.
        offloading: refused: keys and values stay where the model is.

    >>> from polyllama import Llama, StaticCache
    >>> llm = Llama.load("tiny", backend="reference")
    >>> cache = StaticCache(config=llm.config, max_cache_len=4)
    >>> llm([[1, 5, 9]], past_key_values=cache).past_key_values
    StaticCache(batch=1, length=3, max_cache_len=4)
    """

    is_compileable = True

    def __init__(
        self,
        config: Any = None,
        max_cache_len: int | None = None,
        offloading: bool = False,
        offload_only_non_sliding: bool = True,
        *,
        max_batch_size: int | None = None,
        batch_size: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(config)
        _refuse_offloading(offloading)
        if max_cache_len is None:
            max_cache_len = getattr(config, "max_position_embeddings", None)
        if max_cache_len is None:
            raise InputError("StaticCache wants max_cache_len, or the config that says how long texts are")
        self.limit = _count("max_cache_len", max_cache_len)
        rows = max_batch_size if batch_size is None else batch_size
        self.rows = None if rows is None else _count("max_batch_size", rows)
        self._device, self._dtype = device, dtype

    @classmethod
    def from_legacy_cache(cls, past_key_values: Any = None) -> Self:
        """Refused: a tuple says nothing of how much is to follow."""
        raise UnsupportedError(
            "from_legacy_cache: a StaticCache has a size, which a tuple does not say",
            hint="use DynamicCache.from_legacy_cache, or update() layer by layer",
        )

    @property
    def max_cache_len(self) -> int:
        """Slots of each row."""
        assert self.limit is not None
        return self.limit

    @property
    def max_batch_size(self) -> int:
        """Rows; -1 before the first pass."""
        return self.batch_size

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """Slots of each row."""
        return self.max_cache_len

    def prepare(self, model: Any, rows: int, new: int) -> Cache | None:
        held = super().prepare(model, rows, new)
        if held is not None:
            return held
        if self.rows is not None and rows != self.rows:
            raise InputError(
                f"past_key_values is a StaticCache for {counted(self.rows, 'row')}, the inputs have {rows}",
                hint="make it with the max_batch_size that is run, or leave that out",
            )
        self._check_place(model)
        make = getattr(model, "static_cache", None)
        if make is None and not self.waiting:
            make = model.new_cache
        return None if make is None else make(rows, self.max_cache_len)

    def _check_place(self, model: Any) -> None:
        """Refuse another device or element type than the model's, in which its keys and values are."""
        for name, given, told in (("device", self._device, _device_name), ("dtype", self._dtype, name_of)):
            if given is None:
                continue
            said, held = told(given), told(getattr(model, name))
            if said != held:
                raise InputError(
                    subject(name, given) + f" of the StaticCache is {said}, the model's is {held}",
                    hint=f"leave {name} out: keys and values are where the model is, as it computes them",
                )


def _device_name(device: Any) -> str:
    """A device without its number: torch's, JAX's or a name."""
    return str(getattr(device, "platform", device)).partition(":")[0]


def _layers_of(config: Any) -> int:
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(layers, int):
        raise InputError(
            f"config is a {type(config).__name__} without num_hidden_layers", hint="give config=model.config"
        )
    return layers


def _count(name: str, value: Any) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise InputError(subject(name, value) + f" is {value!r:.40}, wanted a whole number, 1 or more")
    return count


def _refuse_offloading(offloading: Any) -> None:
    if offloading:
        raise UnsupportedError(
            "offloading=True: keys and values stay on the model's device",
            hint="leave it out; on backend cpu POLYLLAMA_KV_CACHE=int8 has them take less",
        )


def _rows(array: Array, rows: Sequence[int]) -> Array:
    import numpy as np  # not above: `from polyllama import Llama` loads no arrays

    kind = kind_of(array)
    assert kind is not None
    return array[to_kind(np.asarray(rows), kind, device_of(array))]


def _copied(array: Array) -> Array:
    if kind_of(array) == "torch":
        return array.detach().clone()
    return as_numpy(array).copy() if kind_of(array) == "numpy" else array  # the others' arrays never change

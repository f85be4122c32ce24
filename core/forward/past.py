"""``past_key_values`` in the forms that the reference documentation knows: our caches, tuples of arrays, transformers'.

A cache of transformers' is written to as its own models would: what a pass adds is in it afterwards, and it comes out
as ``past_key_values``. Meanwhile a cache of ours beside it holds the same, so that nothing is converted twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from ..array_kinds import as_numpy, kind_of, to_kind
from ..errors import InputError, UnsupportedError
from ..graph.cache import Cache, filled
from ..graph.graph import nodes_of_type
from ..graph.nodes import Attention
from ..messages import counted, mention
from .documented_caches import DocumentedCache
from .forward import length_ropes

if TYPE_CHECKING:
    from ..tasks.outputs import ModelOutput
    from .arguments import ForwardArguments

    Pairs = Sequence[tuple[Any, Any]]


@dataclass
class _Twin:
    """A cache of ours beside one of transformers', as long as that holds what it held then."""

    model: ReferenceType[Any]
    cache: Cache
    length: int
    held: list[tuple[Any, int | None]]

    def stands_for(self, given: Any) -> bool:
        """Whether nobody has changed `given` since: replaced its arrays, written into them, or counted otherwise."""
        now = _held(given)
        return (
            self.length == self.cache.length == int(given.get_seq_length())
            and len(self.held) == len(now)
            and all(old is new and at == then for (old, at), (new, then) in zip(self.held, now, strict=True))
        )


_TWINS: WeakKeyDictionary[Any, _Twin] = WeakKeyDictionary()


@dataclass(frozen=True)
class Past:
    """What was given as ``past_key_values``, and the cache of ours that the pass runs on.

    Attributes:
        given: as it came in, where that is a documented cache, ours or transformers'; ``None`` otherwise.
        cache: ours; ``None`` for a new one, or for none; something else, which the pass refuses, as it came.
        asked: whether a cache was given, be it an empty one, so that one comes out.
        model: whose pass it is.
    """

    given: Any
    cache: Any
    asked: bool = False
    model: Any = None

    @classmethod
    def of(cls, model: Any, given: Any) -> Past:
        """Read ``past_key_values`` for `model`, a backend's model or torch's module.

        Raises:
            InputError: arrays that are not keys and values of this model's layers; or, where frequencies depend on how
                long a row is, any at all, as starting over takes what only our own caches keep.
            UnsupportedError: the backend takes no arrays for a cache.
        """
        if given is None or isinstance(given, Cache):
            return cls(None, given)
        if isinstance(given, DocumentedCache):
            return cls._of_documented(model, given)
        if _is_transformers(given):
            twin = _TWINS.get(given)
            if twin is not None and twin.model() is model and twin.stands_for(given):
                return cls(given, twin.cache, asked=True)
            pairs = _pairs_of(given)
            return cls(given, _filled(model, pairs) if pairs else None, asked=True)
        if isinstance(given, tuple | list):
            pairs = [_pair(layer, place) for place, layer in enumerate(given)]
            return cls(None, _filled(model, pairs) if pairs else None, asked=True)
        return cls(None, given)

    @classmethod
    def _of_documented(cls, model: Any, given: DocumentedCache) -> Past:
        if given.native is None:
            given.check_layers(len(nodes_of_type(model.graph, Attention)))
        cache = _filled(model, given.waiting) if given.waiting else given.native
        return cls(given, cache, asked=True, model=model)

    def take(self, arguments: ForwardArguments) -> ForwardArguments:
        """The arguments of the pass, with our cache; a new one is made where the given one is empty.

        Raises:
            InputError: the cache has no room for it, or was filled with other adapters.
        """
        _check_adapters(self.cache, arguments.adapter_names)
        if isinstance(self.given, DocumentedCache):
            cache = self.given.prepare(self.model, arguments.rows, arguments.new_tokens)
            if self.given.waiting:
                cache = self.cache if cache is None else _copied(self.cache, cache)
            return replace(arguments, past_key_values=cache, use_cache=True)
        return replace(arguments, past_key_values=self.cache, use_cache=arguments.use_cache or self.asked)

    def hand_back(
        self, model: Any, output: ModelOutput, device: Any = None, adapters: tuple[str | None, ...] | None = None
    ) -> None:
        """Write what the pass added into the cache that was given, and give that one out.

        Args:
            device: where its tensors are to be, while it has none.
            adapters: names of its rows' adapters, which the cache remembers.
        """
        given, cache = self.given, output.past_key_values
        if adapters is not None and isinstance(cache, Cache):
            cache.adapters = adapters
        if given is None:
            return
        if isinstance(given, DocumentedCache):
            given.take(cache)
            output.past_key_values = given
            return
        _TWINS.pop(given, None)
        before = int(given.get_seq_length())
        for place, name in enumerate(cache.names()):
            layer = next(iter(given.layers[place : place + 1]), None)
            old = getattr(layer, "keys", None)
            new = (to_kind(array, "torch", device) for array in cache.read(name, before))
            given.update(*(part if old is None else part.to(old.device, old.dtype) for part in new), place)
        held = _held(given)
        if not any(version is None and _writes_in_place(layer) for layer in given.layers for _, version in held):
            _TWINS[given] = _Twin(ref(model), cache, cache.length, held)
        output.past_key_values = given


def _check_adapters(cache: Any, names: tuple[str | None, ...] | None) -> None:
    """Refuse rows of other adapters than a cache was filled with; another number of them the pass refuses."""
    held = getattr(cache, "adapters", None)
    if names is None or held is None or held == names or len(held) != len(names) or not cache.get_seq_length():
        return
    filled_with, given = (names[0] if len(set(names)) == 1 else list(names) for names in (held, names))
    raise InputError(
        "past_key_values was filled with "
        + mention("adapter", shown=repr(filled_with))
        + ", and this call has "
        + mention("adapter", shown=repr(given)),
        hint="give the same, or begin with a new cache: keys and values are an adapter's own",
    )


def _is_transformers(given: Any) -> bool:
    """Whether it looks like a cache of transformers': layers that hold keys and values, and a way to add to them."""
    like = all(hasattr(given, name) for name in ("layers", "update", "get_seq_length"))
    return like and not isinstance(given, type)  # a class given by mistake for what it makes


def _held(given: Any) -> list[tuple[Any, int | None]]:
    """Its arrays, and how often each has been written into; ``None`` where torch does not count, in inference mode."""
    return [(array, _version(array)) for layer in given.layers for array in (layer.keys, layer.values)]


def _version(array: Any) -> int | None:
    counted = array is not None and not array.is_inference()
    return int(array._version) if counted else None


def _writes_in_place(layer: Any) -> bool:
    """Whether a layer keeps its arrays where they are, as what ``torch.compile`` reads must."""
    return bool(getattr(layer, "is_compileable", True))


def _pairs_of(given: Any) -> list[tuple[Any, Any]]:
    """Keys and values of transformers' cache, those slots that are used; none of an empty one."""
    length = int(given.get_seq_length())
    if not length:
        return []
    pairs = []
    for layer in given.layers:
        keys, values = layer.keys, layer.values
        if keys is None or keys.shape[-2] < length:
            raise InputError(
                f"past_key_values is a {type(given).__name__} whose {type(layer).__name__} does not hold all "
                f"{counted(length, 'token')}",
                hint="give a DynamicCache, or the cache of an earlier output",
            )
        pairs.append((keys[:, :, :length], values[:, :, :length]))
    return pairs


def _pair(layer: Any, place: int) -> tuple[Any, Any]:
    if (isinstance(layer, tuple | list) or kind_of(layer)) and len(layer) >= 2:
        keys, values = layer[0], layer[1]
        # transformers' caches give a third for each layer, how far a sliding window reaches: none in a Llama.
        if kind_of(keys) and kind_of(values) and all(more is None for more in layer[2:]):
            return keys, values
    raise InputError(
        f"past_key_values[{place}] is a {type(layer).__name__}{_length(layer)}, wanted keys and values, both arrays",
        hint="give (keys, values) of each layer, each [batch, kv heads, length, head_dim]",
    )


def _length(layer: Any) -> str:
    return f" of {len(layer)}" if isinstance(layer, tuple | list) else ""


def _copied(source: Cache, into: Cache) -> Cache:
    """An empty cache with the keys and values of another of its backend."""
    return filled(into, {name: source.read(name) for name in source.names()}, source.length, lambda array: array)


def _filled(model: Any, pairs: Pairs) -> Cache:
    """A new cache of `model` that holds keys and values given as arrays."""
    nodes = nodes_of_type(model.graph, Attention)
    if len(pairs) != len(nodes):
        raise InputError(f"past_key_values holds {counted(len(pairs), 'layer')}, the model has {len(nodes)}")
    batch, _, length, _ = pairs[0][0].shape if len(pairs[0][0].shape) == 4 else (0, 0, 0, 0)
    for place, (node, pair) in enumerate(zip(nodes, pairs, strict=True)):
        wanted = [batch, node.num_kv_heads, length, node.head_dim]
        for what, array in zip(("keys", "values"), pair, strict=True):
            if not batch or list(array.shape) != wanted:
                raise InputError(
                    f"past_key_values[{place}]: {what} have shape {list(array.shape)}, "
                    f"wanted [batch, {node.num_kv_heads}, length, {node.head_dim}], the same in all layers"
                )
    if ropes := length_ropes(model.graph):
        raise InputError(
            f"past_key_values as arrays cannot go on: with {ropes[0].rope_type} RoPE a row that grows is computed anew",
            hint="give the cache of an earlier output of this model",
        )
    make = getattr(model, "cache_of", None)
    if make is None:
        raise UnsupportedError(
            "this backend takes no arrays as past_key_values", hint="give the cache of an earlier output of this model"
        )
    native = getattr(model, "arrays", None)
    entries: Mapping[str, Any] = {
        node.name: tuple(array if kind_of(array) == native else as_numpy(array) for array in pair)
        for node, pair in zip(nodes, pairs, strict=True)
    }
    cache: Cache = make(entries, batch, length)
    return cache

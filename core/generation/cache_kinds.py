"""``cache_implementation`` and ``cache_config``: what of transformers' kinds of caches a model's backend has.

A kind says where keys and values are and in how many bits. Here that is the backend's and the settings' business, so a
kind is taken where it is what the model has anyway, and refused with a reason elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import GenerationError
from ..messages import mention

if TYPE_CHECKING:
    from ..backend.protocol import Model

CACHES = ("dynamic", "static")
"""Kinds that every backend has: storage of its own, which grows as needed and is allocated ahead."""

BY_MODEL = ("offloaded", "offloaded_static", "quantized")
"""Kinds that some models have."""

SLIDING = ("sliding_window", "hybrid", "hybrid_chunked", "offloaded_hybrid", "offloaded_hybrid_chunked")
"""Kinds for models whose attention reaches only so far."""

_ELSEWHERE = ("backend", "axis_key", "axis_value", "q_group_size", "residual_length", "compute_dtype", "device")
"""Fields of a ``cache_config`` that say how another library quantizes."""


def check_cache(kind: Any, model: Model | None = None, config: Any = None) -> tuple[str, ...]:
    """Refuse a kind of cache that a model has not.

    Args:
        kind: ``cache_implementation``.
        model: without one, kinds that only some models have are refused.
        config: ``cache_config``, a mapping or an object of transformers'.

    Returns:
        The fields of the config that are of no use here, which is to be said.

    Raises:
        GenerationError: there is no such cache, or it is another than the model's.

    >>> check_cache("dynamic")
    ()
    >>> check_cache("hybrid")
    Traceback (most recent call last):
    ...
    polyllama.extend.GenerationError: cache_implementation='hybrid' is not offered; a Llama attends to all tokens: \
there is no sliding window; 'dynamic' is what every backend has
    """
    if not isinstance(kind, str):  # of an array Python cannot say whether it is in a list
        raise _refused(kind, f"wanted one of {', '.join(map(repr, (*CACHES, *BY_MODEL)))}")
    if kind in CACHES:
        return ()
    if kind in BY_MODEL:
        if model is None:
            raise _refused(kind, "whether a model has it, llm.generate(...) and the pipelines know")
        return _check_quantized(model, config) if kind == "quantized" else _check_offloaded(kind, model)
    if kind in SLIDING:
        raise _refused(
            kind, "a Llama attends to all tokens: there is no sliding window; 'dynamic' is what every backend has"
        )
    raise _refused(kind, f"wanted one of {', '.join(map(repr, (*CACHES, *BY_MODEL)))}")


def taken_by_model(arguments: Mapping[str, Any], model: Model) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The arguments without a kind of cache that the model has, and the fields of its config that are of no use.

    Raises:
        GenerationError: as :func:`check_cache`.
    """
    left = dict(arguments)
    kind = left.get("cache_implementation")
    if not isinstance(kind, str) or kind not in BY_MODEL:
        return left, ()
    return left, check_cache(left.pop("cache_implementation"), model, left.pop("cache_config", None))


def _check_offloaded(kind: str, model: Model) -> tuple[str, ...]:
    """Keys and values are to be in the host's memory, where the model's own are on a CPU, and with MLX everywhere."""
    if model.device.startswith("cpu") or getattr(model, "arrays", None) == "mlx":
        return ()
    raise _refused(
        kind,
        f"keys and values stay on the model's device, {model.device}; the setting cache_memory limits what they take",
    )


def _check_quantized(model: Model, config: Any) -> tuple[str, ...]:
    held = getattr(model, "cache_element", model.dtype)
    if held != "int8":
        raise _refused(
            "quantized",
            f"this model's keys and values are {held}; load it with backend='cpu' and the setting kv_cache: int8 "
            "(POLYLLAMA_KV_CACHE=int8)",
        )
    fields = config if isinstance(config, Mapping) else {} if config is None else vars(config)
    bits = fields.get("nbits")
    if bits not in (None, 8):
        raise GenerationError(
            f"cache_config: nbits is {bits!r:.20}, this model's keys and values have 8", hint="leave nbits out"
        )
    return tuple(name for name in _ELSEWHERE if fields.get(name) is not None)


def _refused(kind: Any, hint: str) -> GenerationError:
    return GenerationError(mention("cache_implementation", kind, limit=40) + " is not offered", hint=hint)

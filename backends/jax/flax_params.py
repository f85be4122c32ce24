"""Parameters of the Flax names: made from a random key, cast, and laid out over the devices there are."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ...core.errors import InputError, UnsupportedError
from ...core.graph.graph import Graph
from ...core.graph.node import Parameter
from .arrays import DTYPES, is_traced
from .sharding import shard


def initial_params(graph: Graph, rng: Any, dtype: str, initializer_range: float, device: jax.Device) -> dict[str, Any]:
    """Random parameters: norms 1, biases 0, the rest normal with standard deviation `initializer_range`.

    Each comes from `rng` and its own name, whatever else the graph holds. JAX's transforms take it: under
    ``jax.eval_shape`` nothing is made, under ``jax.jit`` with ``out_shardings`` each device makes its part. Outside
    of them they are made on `device`.

    Raises:
        InputError: `rng` is no random key.
        UnsupportedError: the graph has packed weights.
    """
    if not hasattr(rng, "dtype"):
        raise InputError(f"rng is {rng!r:.60}, no random key", hint="pass jax.random.key(seed)")
    if not is_traced(rng):
        rng = jax.device_put(rng, device)  # what is computed from it stays there
    found = {}
    for parameter in graph.parameters():
        if parameter.bits or parameter.purpose == "quantization":
            raise UnsupportedError(
                f"{parameter.name} is packed, and packed weights do not start random", hint="leave quantize out"
            )
        value = _initial(parameter, rng, initializer_range).astype(DTYPES[dtype])
        found[parameter.name] = value if is_traced(value) else jax.device_put(value, device)
    return found


def _initial(parameter: Parameter, rng: Any, initializer_range: float) -> jax.Array:
    if parameter.purpose == "norm":
        return jnp.ones(parameter.shape, jnp.float32)
    if parameter.purpose == "bias":
        return jnp.zeros(parameter.shape, jnp.float32)
    key = jax.random.fold_in(rng, zlib.crc32(parameter.name.encode()))
    return jax.random.normal(key, parameter.shape, jnp.float32) * initializer_range


def cast(params: Mapping[str, Any], dtype: str, mask: Mapping[str, Any] | None) -> dict[str, Any]:
    """The floating-point parameters in `dtype`, those alone where `mask` is true; the given ones stay as they are.

    Raises:
        InputError: a mask that has other names than the parameters.
    """
    if mask is not None and set(mask) != set(params):
        other = sorted(set(mask) ^ set(params))[0]
        raise InputError(f"the mask does not have the names of params ({other!r} is in one of them alone)")
    return {
        name: array.astype(DTYPES[dtype])
        if jnp.issubdtype(array.dtype, jnp.floating) and (mask is None or mask[name])
        else array
        for name, array in params.items()
    }


def placed_everywhere(params: Mapping[str, Any], graph: Graph) -> dict[str, Any]:
    """The parameters split over all devices of JAX's best kind, so that each holds its part alone."""
    devices = jax.devices()
    return shard(params, graph, jax.make_mesh((len(devices),), ("model",), devices=devices))


def several_devices() -> bool:
    """Whether JAX's best kind of device is there more than once."""
    return len(jax.devices()) > 1


def seed_of(prng_key: Any) -> int:
    """The sampler's seed that a random key stands for: its 64 bits, or the last 64 of a longer one.

    >>> seed_of(jax.random.PRNGKey(7)), seed_of(jax.random.key(7))
    (7, 7)
    """
    import numpy as np

    if not hasattr(prng_key, "dtype"):
        raise InputError(f"prng_key is {prng_key!r:.60}, no random key", hint="pass jax.random.key(seed)")
    data = jax.random.key_data(prng_key) if jnp.issubdtype(prng_key.dtype, jax.dtypes.prng_key) else prng_key
    words = np.asarray(data).astype(np.uint32).reshape(-1).tolist()
    return int.from_bytes(b"".join(word.to_bytes(4, "big") for word in words)[-8:], "big")

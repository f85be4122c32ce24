"""The nodes of a quantized graph: a linear layer and an embedding whose weights stay packed.

A quantized module ``X`` has the tensors ``X.weight`` (uint32 words ``[out, in * bits / 32]``), ``X.scales`` and
``X.biases`` (``[out, in / group]``), as MLX stores them. Their definition unpacks and multiplies in array terms, so
they run on every backend; one with a kernel for it overrides them. Words must stay integers: see
:meth:`~polyllama.extend.Parameter.held_as`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..dtypes import Array
from ..errors import BackendError
from ..public import for_plugins
from ..quantization.packing import packed_length, unpack_words
from .node import Node, Parameter
from .nodes import Embedding

if TYPE_CHECKING:
    from .node import Context

TILE = 1 << 20
"""Weights that are unpacked at a time where tiles are: 4 MiB in float32, which stays in a processor's cache."""


def packed_parameters(name: str, rows: int, columns: int, group_size: int, bits: int, role: str) -> Iterator[Parameter]:
    """The three tensors of a packed matrix ``[rows, columns]``."""
    head = "head." if role.partition(".")[0] == "head" else ""
    yield Parameter(f"{name}.weight", (rows, packed_length(columns, bits)), role, bits=bits)
    for kind in ("scales", "biases"):
        yield Parameter(f"{name}.{kind}", (rows, columns // group_size), f"{head}quantization")


def values(xp: Any, words: Array, scales: Array, biases: Array, bits: int, ctx: Context) -> Array:
    """``scale * q + bias`` ``[rows, columns]``, in float32 (float64 where the scales are)."""
    if _is_float(xp, words):
        raise BackendError(
            f"a backend holds packed weights as {words.dtype}, which no longer has their bits",
            hint="hold each tensor as parameter.held_as(dtype) says: packed ones as 32-bit integers",
        )
    rows, groups = scales.shape
    wide_scales, wide_biases = ctx.widen(scales), ctx.widen(biases)
    q = xp.astype(unpack_words(xp, words, bits), wide_scales.dtype)
    columns = q.shape[-1]
    q = xp.reshape(q, (rows, groups, columns // groups))
    w = q * xp.reshape(wide_scales, (rows, groups, 1)) + xp.reshape(wide_biases, (rows, groups, 1))
    return xp.reshape(w, (rows, columns))


def _is_float(xp: Any, x: Array) -> bool:
    return any(x.dtype == getattr(xp, name, None) for name in ("float64", "float32", "float16", "bfloat16"))


@for_plugins
@dataclass(frozen=True)
class QuantizedLinear(Node):
    """``x @ (scale * q + bias).T``, then the layer's own bias. ``[..., in_features] -> [..., out_features]``.

    The weights are made in float32, the product is summed in float32 and rounded once. ``tied_to`` names a quantized
    embedding whose tensors it shares.
    """

    name: str
    in_features: int
    out_features: int
    group_size: int
    bits: int
    bias: bool = False
    partition: str | None = None
    tied_to: str | None = None
    role: str = "linear"

    @property
    def source(self) -> str:
        """The module whose tensors it reads: its own name, or the tied one's."""
        return self.tied_to or self.name

    def own_parameters(self) -> Iterator[Parameter]:
        if self.tied_to is None:
            yield from packed_parameters(
                self.name, self.out_features, self.in_features, self.group_size, self.bits, self.role
            )
        if self.bias:
            role = "bias" if self.role == "linear" else f"{self.role}.bias"
            yield Parameter(f"{self.name}.bias", (self.out_features,), role)

    @property
    def tensor_names(self) -> tuple[str, str, str]:
        """Names of words, scales and biases."""
        return f"{self.source}.weight", f"{self.source}.scales", f"{self.source}.biases"

    def tensors(self, weights: Mapping[str, Array]) -> tuple[Array, Array, Array]:
        """Words, scales and biases."""
        words, scales, biases = (weights[name] for name in self.tensor_names)
        return words, scales, biases

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        w = values(xp, *self.tensors(weights), self.bits, ctx)
        y = xp.astype(xp.matmul(ctx.widen(x), xp.permute_dims(w, (1, 0))), x.dtype)
        return y + weights[f"{self.name}.bias"] if self.bias else y

    def apply_in_tiles(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        """:meth:`apply`, unpacking :data:`TILE` weights at a time: for array libraries that compute at once."""
        words, scales, biases = self.tensors(weights)
        step, wide = max(1, TILE // self.in_features), ctx.widen(x)
        parts = []
        for start in range(0, self.out_features, step):
            rows = slice(start, start + step)
            w = values(xp, words[rows, :], scales[rows, :], biases[rows, :], self.bits, ctx)
            parts.append(xp.matmul(wide, xp.permute_dims(w, (1, 0))))
        y = xp.astype(parts[0] if len(parts) == 1 else xp.concat(parts, axis=-1), x.dtype)
        return y + weights[f"{self.name}.bias"] if self.bias else y


@for_plugins
@dataclass(frozen=True)
class QuantizedEmbedding(Embedding):
    """Rows of a packed table, unpacked as they are looked up. ``[B, S] int -> [B, S, dim]``, in the scales' dtype."""

    group_size: int = 64
    bits: int = 4

    @property
    def float_name(self) -> str:
        return f"{self.name}.scales"

    def own_parameters(self) -> Iterator[Parameter]:
        yield from packed_parameters(self.name, self.num_embeddings, self.dim, self.group_size, self.bits, "embedding")

    def apply(self, xp: Any, weights: Mapping[str, Array], x: Array, ctx: Context) -> Array:
        ids = xp.reshape(x, (-1,))
        words, scales, biases = (
            xp.take(weights[f"{self.name}.{kind}"], ids, axis=0) for kind in ("weight", "scales", "biases")
        )
        rows = xp.astype(values(xp, words, scales, biases, self.bits, ctx), scales.dtype)
        return xp.reshape(rows, (*x.shape, self.dim))

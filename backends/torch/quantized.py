"""Packed weights on torch: modules that keep them packed, and the roads by which a product is taken with them.

- **A tile at a time** (:func:`product`), for every width, device and dtype: a tile is unpacked into memory that stays
  in the processor's cache and multiplied by at once, so a pass reads the packed weights once. In float32 and float64
  the weights are as exact as the dtype; in half precision they are rounded to it once, but for a single row on a CPU,
  which is multiplied in float32.
- **torch's int4 kernel for CPUs** (:class:`Int4Kernel`), for a few rows in bfloat16, in which it is three times as
  fast as a plain product. It wants ``scale * (q - 8) + zero`` with zeros in bfloat16; ``zero = bias + 8 * scale`` need
  not be a number of bfloat16, so what rounding took away is added by a small product in float32.

torch's int8 kernel has one scale for each output, which a group-wise layout does not fit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor, nn

from ...core.graph import quantized as spec
from ...core.quantization.packing import packed_length, unpack_words

TILE = 1 << 19
"""Weights unpacked at a time on a CPU: 2 MiB in float32."""

KERNEL_ROWS = 16
"""Most rows that torch's int4 kernel is faster for than unpacking."""

_BYTES_IN_ORDER = sys.byteorder == "little"


class Packed(nn.Module):
    """A packed matrix: ``weight`` (uint32 words), ``scales`` and ``biases``, none of which is trained."""

    weight: nn.Parameter
    scales: nn.Parameter
    biases: nn.Parameter

    def __init__(self, rows: int, columns: int, group_size: int, bits: int) -> None:
        super().__init__()
        self.rows, self.columns, self.group_size, self.bits = rows, columns, group_size, bits
        words = torch.empty(rows, packed_length(columns, bits), dtype=torch.uint32)
        self.weight = nn.Parameter(words, requires_grad=False)
        for name in ("scales", "biases"):
            numbers = torch.empty(rows, columns // group_size)
            setattr(self, name, nn.Parameter(numbers, requires_grad=False))

    def __getstate__(self) -> dict[str, Any]:
        # torch pickles 32-bit words without a sign, and then cannot read them.
        words = self.weight.detach().view(torch.int32)
        return {**self.__dict__, "_parameters": {**self._parameters, "weight": words}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        words: Any = self._parameters["weight"]
        self._parameters["weight"] = nn.Parameter(words.view(torch.uint32), requires_grad=False)

    def extra_repr(self) -> str:
        return f"{self.columns}, {self.rows}, group_size={self.group_size}, bits={self.bits}"


class Embedding(Packed):
    """Rows of a packed table, unpacked as they are looked up."""

    def forward(self, ids: Tensor) -> Tensor:
        """``[B, S] -> [B, S, dim]``, in the scales' dtype."""
        flat = ids.reshape(-1)
        words, scales, biases = self.weight.view(torch.int32)[flat], self.scales[flat], self.biases[flat]
        return unpacked(words, scales, biases, self.bits).to(scales.dtype).view(*ids.shape, self.columns)


class Linear(Packed):
    """A linear layer with packed weights; the gradient goes through it to its input."""

    def __init__(self, rows: int, columns: int, group_size: int, bits: int, bias: bool) -> None:
        super().__init__(rows, columns, group_size, bits)
        self.bias = nn.Parameter(torch.empty(rows)) if bias else None
        self._kernel: Int4Kernel | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in] -> [..., out]``."""
        flat = x.reshape(-1, self.columns)
        if torch.is_grad_enabled() and x.requires_grad:
            y: Tensor = _Product.apply(flat, self.weight, self.scales, self.biases, self.bits)  # type: ignore[no-untyped-call]
        elif flat.shape[0] <= KERNEL_ROWS and Int4Kernel.fits(self, x):
            if self._kernel is None or not self._kernel.is_of(self):
                self._kernel = Int4Kernel(self)
            y = self._kernel(flat.contiguous())
        else:
            y = product(flat, self.weight, self.scales, self.biases, self.bits)
        y = y.view(*x.shape[:-1], self.rows)
        return y if self.bias is None else y + self.bias

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_kernel": None}  # made again where it is needed

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Linear:
        self._kernel = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def unpacked(words: Tensor, scales: Tensor, biases: Tensor, bits: int) -> Tensor:
    """``scale * q + bias`` ``[rows, columns]`` of int32 words, in float32 (float64 where the scales are)."""
    wide = scales.dtype if scales.dtype == torch.float64 else torch.float32
    q = unpack_words(xp, words, bits) if bits != 8 or not _BYTES_IN_ORDER else words.contiguous().view(torch.uint8)
    groups = q.view(*scales.shape, -1).to(wide)
    return groups.mul_(scales.unsqueeze(-1)).add_(biases.unsqueeze(-1)).view(q.shape)


def _planes(words: Tensor, bits: int) -> list[Tensor]:
    """The integers of int32 words as `p` planes ``[rows, columns / p]``: value ``i`` is in plane ``i % p``.

    Bytes are taken apart without being put in order again: the input can be taken apart in the same way.
    """
    if bits not in (2, 4, 8) or not _BYTES_IN_ORDER:
        return [unpack_words(xp, words, bits)]
    octets = words.view(torch.uint8)
    if bits == 8:
        return [octets]
    mask = (1 << bits) - 1
    return [(octets >> shift) & mask for shift in range(0, 8, bits)]


def product(x: Tensor, weight: Tensor, scales: Tensor, biases: Tensor, bits: int) -> Tensor:
    """``x @ (scale * q + bias).T``, ``[M, in] -> [M, out]``, a tile of outputs at a time."""
    rows, columns = weight.shape[0], x.shape[1]
    on_cpu = x.device.type == "cpu"
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    # A matrix-vector product is bound by reading weights, so there float32 costs nothing.
    dtype = wide if x.shape[0] == 1 and on_cpu else x.dtype
    planes = 8 // bits if bits in (2, 4, 8) and _BYTES_IN_ORDER else 1
    inputs = [x.to(dtype)] if planes == 1 else list(x.to(dtype).view(x.shape[0], -1, planes).unbind(-1))
    inputs = [part.contiguous() for part in inputs]
    words = weight.view(torch.int32)
    step = max(1, TILE // columns) if on_cpu else rows
    parts = []
    for start in range(0, rows, step):
        s, b = (t[start : start + step].to(wide).unsqueeze(-1) for t in (scales, biases))
        y: Tensor | None = None
        for part, q in zip(inputs, _planes(words[start : start + step], bits), strict=True):
            w = q.view(*s.shape[:2], -1).to(wide).mul_(s).add_(b).view(q.shape).to(dtype)
            z = torch.mv(w, part[0]).unsqueeze(0) if part.shape[0] == 1 else part @ w.T
            y = z if y is None else y + z
        parts.append(y)
    result = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)  # type: ignore[arg-type]
    return result.to(x.dtype)  # type: ignore[union-attr]


class _Product(torch.autograd.Function):
    """:func:`product` for training what lies below: nothing unpacked is kept for the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scales: Tensor, biases: Tensor, bits: int) -> Tensor:
        ctx.packed, ctx.bits = (weight, scales, biases), bits
        return product(x, weight, scales, biases, bits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        weight, scales, biases = ctx.packed
        step = max(1, TILE // (scales.shape[1] * 32)) if gradient.device.type == "cpu" else len(weight)
        total: Tensor | None = None
        for start in range(0, len(weight), step):
            rows = slice(start, start + step)
            w = unpacked(weight.view(torch.int32)[rows], scales[rows], biases[rows], ctx.bits).to(gradient.dtype)
            part = gradient[:, rows] @ w
            total = part if total is None else total + part
        assert total is not None  # a matrix has rows
        return total, None, None, None, None


class Int4Kernel:
    """A 4-bit matrix in the order of torch's kernel for CPUs, beside the one that is stored.

    Weights of a checkpoint that is stored quantized are mapped, so the system may drop what only this copy is read of.
    """

    def __init__(self, module: Linear) -> None:
        self._of = self._identity(module)
        step = max(1, TILE // module.columns // 64) * 64  # the kernel's order goes by blocks of 64 rows
        packed = []
        for start in range(0, module.rows, step):
            rows = slice(start, start + step)
            q = unpack_words(xp, module.weight.view(torch.int32)[rows], 4).contiguous()
            packed.append(torch.ops.aten._convert_weight_to_int4pack_for_cpu(q, 1))
        self.weight = torch.cat(packed)
        zeros = module.biases.float() + 8 * module.scales.float()
        self.scales_and_zeros = torch.stack([module.scales, zeros.bfloat16()], -1).transpose(0, 1).contiguous()
        lost = zeros - zeros.bfloat16().float()
        self.lost = lost.T.contiguous() if lost.any() else None  # [in / group, out]
        self.group_size = module.group_size

    @staticmethod
    def _identity(module: Linear) -> tuple[int, ...]:
        """Changes whenever somebody writes into the module's tensors or puts others in their place."""
        return tuple(n for t in (module.weight, module.scales, module.biases) for n in (t.data_ptr(), t._version))

    def is_of(self, module: Linear) -> bool:
        """Whether the module's tensors still are the ones this was made from."""
        return self._of == self._identity(module)

    @staticmethod
    def fits(module: Linear, x: Tensor) -> bool:
        """Whether the kernel takes this product, and is the fast road for it."""
        return (
            module.bits == 4
            and x.dtype == torch.bfloat16
            and module.scales.dtype == torch.bfloat16
            and x.device.type == "cpu"
            and module.rows % 64 == 0
            and not torch.compiler.is_compiling()
            and "AVX" in torch.backends.cpu.get_cpu_capability()  # elsewhere it is plain loops
            and hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu")
        )

    def __call__(self, x: Tensor) -> Tensor:
        """``[M, in] -> [M, out]``."""
        x = x.contiguous()  # the last tokens of several prompts lie apart, which the kernel does not take
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.weight, self.group_size, self.scales_and_zeros)
        if self.lost is not None:
            sums = x.float().view(x.shape[0], -1, self.group_size).sum(-1)
            y = torch.addmm(y.float(), sums, self.lost).bfloat16()
        return y


def linear(node: spec.QuantizedLinear) -> Linear:
    """The module of a node."""
    return Linear(node.out_features, node.in_features, node.group_size, node.bits, node.bias)


def embedding(node: spec.QuantizedEmbedding) -> Embedding:
    """The module of a node."""
    return Embedding(node.num_embeddings, node.dim, node.group_size, node.bits)

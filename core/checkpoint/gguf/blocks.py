"""GGUF's blocks of quantized values: the three types that the affine layout holds exactly, and all others as floats.

Q8_0, Q4_0 and Q4_1 are blocks of 32 values with a scale ``d`` in half precision; Q4_1 has a least value ``m`` too. As
``scale * q + bias`` with groups of 32: Q8_0 is ``d * (q + 128) - 128 d``, Q4_0 ``d * q - 8 d``, Q4_1 ``d * q + m``.
Source: ``block_q8_0``, ``block_q4_0``, ``block_q4_1`` in ggml's ``ggml-common.h``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError
from ..protocol import check_finite
from ..unpacking import row_chunks
from .file import NUMBERS, TYPES

if TYPE_CHECKING:
    from ..protocol import Array

GROUP = 32
DEQUANTIZED = "float16"
"""What values of other types become: its eleven bits are more than any of these types has."""


@dataclass(frozen=True)
class BlockType:
    """A type that is kept packed: bits of a value, and what of the scale the bias is (None: it is stored)."""

    bits: int
    bias: float | None


EXACT: Mapping[str, BlockType] = {"Q8_0": BlockType(8, -128.0), "Q4_0": BlockType(4, -8.0), "Q4_1": BlockType(4, None)}


def blocks_of(raw: Array, kind: str, shape: tuple[int, ...]) -> Array:
    """The bytes of a tensor as ``[rows, blocks, bytes]``."""
    _, values, nbytes = TYPES[NUMBERS[kind]]
    return raw.reshape(-1, shape[-1] // values, nbytes)


def packed_words(blocks: Array, kind: str, order: Array | None) -> Array:
    """The quantized values as words ``[rows, inputs * bits / 32]``, rows taken in `order`."""
    import numpy as np

    from ...quantization.packing import pack

    bits = EXACT[kind].bits
    rows, count = blocks.shape[:2]
    words = np.empty((rows, count * GROUP * bits // 32), np.uint32)
    for part in row_chunks(rows, count * GROUP):
        chunk = blocks[part] if order is None else blocks[order[part]]
        octets = chunk[..., -GROUP * bits // 8 :]
        if bits == 8:
            words[part] = pack((octets ^ 0x80).reshape(len(chunk), -1), 8)  # from signed to unsigned
        else:  # a byte holds a value of the first half of the block and one of the second
            halves = np.concatenate([octets & 15, octets >> 4], axis=-1)
            words[part] = pack(halves.reshape(len(chunk), -1), 4)
    return words


def group_parameters(blocks: Array, kind: str, order: Array | None, what: str, where: str) -> Array:
    """``scales`` or ``biases`` ``[rows, groups]`` in float16, rows taken in `order`.

    Raises:
        CheckpointError: one is NaN or infinite, or too large for the layout; `where` begins the message.
    """
    import numpy as np

    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0].astype(np.float16)
    if what == "scales":
        found = scales
    elif EXACT[kind].bias is None:
        found = np.ascontiguousarray(blocks[..., 2:4]).view("<f2")[..., 0].astype(np.float16)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            found = scales * np.float16(EXACT[kind].bias)
    check_finite(found, where, what)
    return found if order is None else found[order]


def dequantized(blocks: Array, kind: str, shape: tuple[int, ...], order: Array | None, where: str) -> Array:
    """Any type as floats of ``shape``, by the gguf package; rows taken in `order`."""
    import numpy as np

    from ...dtypes import numpy_dtype

    quants, number = _gguf_package(kind, where)
    columns = shape[-1]
    values = np.empty((blocks.shape[0], columns), numpy_dtype(DEQUANTIZED))
    for part in row_chunks(blocks.shape[0], columns):
        chunk = blocks[part] if order is None else blocks[order[part]]
        with np.errstate(all="ignore"):
            floats = quants.dequantize(np.ascontiguousarray(chunk.reshape(len(chunk), -1)), number)
            values[part] = floats
        check_finite(values[part], where, "values")
    return values.reshape(shape)


def matching_type(scales: Array, biases: Array, bits: int) -> str | None:
    """The type whose blocks say exactly what these groups say; None where there is none.

    >>> import numpy as np
    >>> scales = np.array([0.5, -0.25], np.float16)
    >>> matching_type(scales, scales * -128, 8), matching_type(scales, scales + 1, 4), matching_type(scales, scales, 8)
    ('Q8_0', 'Q4_1', None)
    """
    import numpy as np

    wide, offsets = scales.astype(np.float32), biases.astype(np.float32)
    with np.errstate(over="ignore"):
        exact = np.array_equal(wide.astype(np.float16), wide) and np.array_equal(offsets.astype(np.float16), offsets)
    for kind, said in EXACT.items():
        if said.bits != bits:
            continue
        if said.bias is None:
            return kind if exact else None
        # Only the scale is stored, so the bias need not fit into half precision.
        if np.array_equal(wide.astype(np.float16), wide) and np.array_equal(wide * np.float32(said.bias), offsets):
            return kind
    return None


def blocks_from_packed(words: Array, scales: Array, biases: Array, group: int, kind: str, order: Array | None) -> Array:
    """The blocks ``[rows, blocks, bytes]`` of packed values, rows taken in `order`; larger groups are repeated."""
    import numpy as np

    from ...quantization.packing import unpack

    bits, nbytes = EXACT[kind].bits, TYPES[NUMBERS[kind]][2]
    rows, count = words.shape[0], words.shape[1] * 32 // bits // GROUP
    blocks = np.empty((rows, count, nbytes), np.uint8)
    repeat = group // GROUP
    for part in row_chunks(rows, count * GROUP):
        chosen = part if order is None else order[part]
        values = unpack(words[chosen], bits).reshape(-1, count, GROUP)
        d = np.repeat(scales[chosen], repeat, axis=-1).astype("<f2")
        blocks[part, :, :2] = d.view(np.uint8).reshape(*d.shape, 2)
        if EXACT[kind].bias is None:
            m = np.repeat(biases[chosen], repeat, axis=-1).astype("<f2")
            blocks[part, :, 2:4] = m.view(np.uint8).reshape(*m.shape, 2)
        half = GROUP // 2
        octets = values ^ 0x80 if bits == 8 else values[..., :half] | values[..., half:] << 4
        blocks[part, :, -octets.shape[-1] :] = octets
    return blocks


def check_readable(kinds: Mapping[str, str], path: Path) -> None:
    """That the types, each with the name of a tensor that has it, can be made into floats here."""
    for kind, name in kinds.items():
        _gguf_package(kind, f"{path}: tensor {name!r}")


def _gguf_package(kind: str, where: str) -> tuple[Any, Any]:
    try:
        from gguf import quants
        from gguf.constants import GGMLQuantizationType
    except ImportError:
        raise CheckpointError(
            f"{where} is stored as {kind}, for which the gguf package is needed",
            hint="pip install 'polyllama[gguf]'",
        ) from None
    number = GGMLQuantizationType(NUMBERS[kind])
    if number not in quants._type_traits:
        raise CheckpointError(
            f"{where} is stored as {kind}, which is not read", hint="use another edition of the model"
        )
    return quants, number

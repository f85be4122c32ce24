"""Small unsigned integers packed into 32-bit words, in MLX's order: a stream of bits, little end first.

Value ``i`` of a row takes bits ``[i * bits, (i + 1) * bits)`` of it, counted from the lowest bit of the first word.
With 3, 5 and 6 bits a value may so lie across two words; 32 values always fill ``bits`` words exactly.

Source: MLX's documentation of ``mlx.core.quantize`` and ``quantized_matmul``, checked bit for bit by the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..dtypes import Array

BITS = (2, 3, 4, 5, 6, 8)
"""Widths that the layout knows."""

WORD = 32


def check_bits(bits: Any) -> None:
    """Refuse a width that the layout does not know.

    >>> check_bits(7)
    Traceback (most recent call last):
    ...
    polyllama.extend.UnsupportedError: quantizing to 7 bits is not offered; use 2, 3, 4, 5, 6 or 8 bits
    """
    if bits not in BITS or isinstance(bits, bool):
        choices = f"{', '.join(map(str, BITS[:-1]))} or {BITS[-1]}"
        raise UnsupportedError(f"quantizing to {bits} bits is not offered", hint=f"use {choices} bits")


def packed_length(n: int, bits: int) -> int:
    """Words that `n` values of `bits` bits take.

    >>> packed_length(64, 4), packed_length(32, 3)
    (8, 3)
    """
    check_bits(bits)
    if n % WORD:
        raise UnsupportedError(f"a row of {n} values cannot be packed", hint=f"rows are multiples of {WORD} long")
    return n * bits // WORD


def pack(q: np.ndarray, bits: int) -> NDArray[np.uint32]:
    """Unsigned integers below ``2**bits``, ``[..., n]``, as words ``[..., n * bits / 32]``.

    Raises:
        UnsupportedError: an unknown width, ``n`` no multiple of 32, or values that need more bits.

    >>> import numpy as np
    >>> hex(pack(np.arange(32, dtype=np.uint8) % 16, 4)[0])
    '0x76543210'
    """
    import numpy as np

    q = np.asarray(q)
    words = packed_length(q.shape[-1], bits)
    if q.size and (q.dtype.kind not in "ui" or int(q.min()) < 0 or int(q.max()) >= 1 << bits):
        raise UnsupportedError(f"values outside 0 to {(1 << bits) - 1} cannot be packed into {bits} bits each")
    if bits == 8:
        little = np.ascontiguousarray(q, np.uint8).view("<u4")
    elif bits in (2, 4):
        per_byte = 8 // bits
        parts = q.astype(np.uint8).reshape(*q.shape[:-1], -1, per_byte)
        shifts = (np.arange(per_byte, dtype=np.uint8) * bits).astype(np.uint8)
        little = np.bitwise_or.reduce(parts << shifts, axis=-1).view("<u4")
    else:
        stream = np.unpackbits(q.astype(np.uint8)[..., None], axis=-1, count=bits, bitorder="little")
        stream = stream.reshape(*q.shape[:-1], words * WORD)
        little = np.packbits(stream, axis=-1, bitorder="little").view("<u4")
    packed: NDArray[np.uint32] = little.astype(np.uint32, copy=False)
    return packed


def unpack(packed: np.ndarray, bits: int, n: int | None = None) -> NDArray[np.uint8]:
    """The values of :func:`pack`, ``[..., n]``; `n` is checked where it is given.

    >>> import numpy as np
    >>> unpack(np.array([0x76543210], np.uint32), 4)
    array([0, 1, 2, 3, 4, 5, 6, 7], dtype=uint8)
    """
    import numpy as np

    check_bits(bits)
    stored = packed.shape[-1] * WORD // bits
    if packed.dtype != np.uint32 or (n is not None and n != stored):
        raise UnsupportedError(
            f"{packed.dtype} words of shape {list(packed.shape)} do not hold "
            f"{n if n is not None else 'rows of'} values of {bits} bits"
        )
    octets = np.ascontiguousarray(packed.astype("<u4", copy=False)).view(np.uint8)
    if bits == 8:
        return octets
    if bits in (2, 4):
        shifts = (np.arange(8 // bits, dtype=np.uint8) * bits).astype(np.uint8)
        values = (octets[..., None] >> shifts) & np.uint8((1 << bits) - 1)
        return values.reshape(*packed.shape[:-1], stored)
    stream = np.unpackbits(octets, axis=-1, bitorder="little").reshape(*packed.shape[:-1], stored, bits)
    padded = np.packbits(stream, axis=-1, bitorder="little")
    return padded.reshape(*packed.shape[:-1], stored)


def unpack_words(xp: Any, words: Array, bits: int) -> Array:
    """:func:`unpack` in array-API terms, on 32-bit integers of either sign: ``[..., w] -> [..., w * 32 / bits]``.

    Shapes are static and nothing depends on the data, so it traces under ``jit``.
    """
    *leading, length = words.shape
    where: dict[str, Any] = {"dtype": words.dtype, "device": getattr(words, "device", None)}
    if WORD % bits == 0:
        shifts = xp.arange(0, WORD, bits, **where)
        # The mask takes away what an arithmetic shift of a negative word brings in.
        values = (xp.reshape(words, (*leading, length, 1)) >> shifts) & ((1 << bits) - 1)
        return xp.reshape(values, (*leading, length * (WORD // bits)))
    starts = xp.arange(0, WORD * bits, bits, **where)  # 32 values lie in `bits` words
    word, shift = starts >> 5, starts & (WORD - 1)
    crosses = (shift + (bits - 1)) >> 5
    above = crosses * (shift + bits - WORD)  # bits of a value that lie in the next word
    one = crosses * 0 + 1
    blocks = xp.reshape(words, (*leading, length // bits, bits))
    low = (xp.take(blocks, word, axis=-1) >> shift) & ((one << (bits - above)) - 1)
    high = (xp.take(blocks, word + crosses, axis=-1) & ((one << above) - 1)) << (bits - above)
    return xp.reshape(low | high, (*leading, length // bits * WORD))

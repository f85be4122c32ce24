"""The order of rotary components: pairs side by side, as Meta, GGUF and llama2.c keep them, or half a head apart.

The rotation pairs components; Meta's code pairs neighbours (0 with 1, 2 with 3 ...), Hugging Face's ``i`` with
``i + rotary_dim / 2``. The same model therefore has the rows of its query and key projections in another order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..public import for_plugins

if TYPE_CHECKING:
    from .protocol import Array


@for_plugins
def halves_from_pairs(rows: Array, head_dim: int, rotary_dim: int | None = None, out: Array | None = None) -> Array:
    """Rows ``[heads * head_dim, ...]`` with pairs side by side, as Hugging Face orders them; a copy.

    Only the first ``rotary_dim`` rows of each head are moved. ``out`` is where to write, instead of a new array.

    >>> import numpy as np
    >>> halves_from_pairs(np.arange(8), 4).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    source, target, half, end = _by_head(rows, head_dim, rotary_dim, out)
    target[:, :half], target[:, half:end], target[:, end:] = source[:, :end:2], source[:, 1:end:2], source[:, end:]
    return target.reshape(rows.shape)


@for_plugins
def pairs_from_halves(rows: Array, head_dim: int, rotary_dim: int | None = None, out: Array | None = None) -> Array:
    """The inverse of ``halves_from_pairs``.

    >>> import numpy as np
    >>> pairs_from_halves(halves_from_pairs(np.arange(16), 8, 4), 8, 4).tolist() == list(range(16))
    True
    """
    source, target, half, end = _by_head(rows, head_dim, rotary_dim, out)
    target[:, :end:2], target[:, 1:end:2], target[:, end:] = source[:, :half], source[:, half:end], source[:, end:]
    return target.reshape(rows.shape)


def _by_head(rows: Array, head_dim: int, rotary_dim: int | None, out: Array | None) -> tuple[Array, Array, int, int]:
    import numpy as np

    end = head_dim if rotary_dim is None else rotary_dim
    shape = (rows.shape[0] // head_dim, head_dim, *rows.shape[1:])
    target = np.empty(rows.shape, rows.dtype) if out is None else out
    return rows.reshape(shape), target.reshape(shape), end // 2, end

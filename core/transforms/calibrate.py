"""Quantizing by what a matrix is used for: error feedback over measured inputs (GPTQ), with searched ranges.

A linear layer's error on its inputs ``X`` is ``tr(D H D^T)`` with ``D`` the change of its weights and ``H = X^T X``.
GPTQ quantizes one input after the other and lets the inputs that are still to come make up for each error, by the
inverse of ``H``; scale and bias of a group are chosen when its first input comes, with the range that loses least where
``H`` is large.

Layers are done in order, each on what the quantized layers before it give, with one layer's weights in memory at a
time. An eighth of the text is kept apart: a matrix that does worse on it than by plain rounding is rounded instead.

Source: Frantar, Ashkboos, Hoefler and Alistarh 2023, "GPTQ" (arXiv:2210.17323).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..graph.graph import Graph
from ..graph.node import Context
from ..graph.nodes import Linear
from ..graph.quantized import QuantizedLinear
from ..graph.rope import Rope
from ..quantization.affine import Quantized, choose, dequantize, finite, nearest, quantize, row_blocks, scale_dtype
from ..quantization.packing import pack
from .quantize_weights import quantized_modules

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..checkpoint.weights import Weights

    Floats = NDArray[np.float32]

DAMPING = 0.01
"""Share of the mean squared input that is added to every input's: keeps the inverse tame."""

RANGES = tuple(1 - step / 40 for step in range(13))
"""Parts of a group's range that are tried, the whole first: cutting off the ends makes finer steps."""

HELD_OUT = 8
"""One text in so many is for judging."""


@dataclass(frozen=True)
class Calibrated:
    """How a matrix came out: its squared output error on held-out text, relative to the output, by both methods."""

    rounded: float
    calibrated: float

    @property
    def kept(self) -> bool:
        """Whether calibration won."""
        return self.calibrated < self.rounded


class Moments:
    """Sums of products of a layer's inputs ``[in, in]``, over the text to learn from and the text to judge by."""

    def __init__(self, width: int) -> None:
        import numpy as np

        self.learnt = np.zeros((width, width), np.float32)
        self.held_out = np.zeros((width, width), np.float32)

    def add(self, x: Floats, held_out: bool) -> None:
        """Take in the inputs of one text, ``[1, S, in]``."""
        rows = x.reshape(-1, x.shape[-1])
        total = self.held_out if held_out else self.learnt
        total += rows.T @ rows


class _Recording(Context):
    """Runs the spec, and takes in what each linear layer is given; layers that share an input share its moments."""

    def __init__(self, *args: Any, moments: dict[str, Moments], held_out: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.moments, self.held_out = moments, held_out
        self._last: tuple[Any, Moments | None] = (None, None)

    def run(self, node: Any, x: Any) -> Any:
        if isinstance(node, Linear):
            if self._last[0] is not x:
                found = self.moments.setdefault(node.name, Moments(node.in_features))
                found.add(x, self.held_out)
                self._last = x, found
            else:
                assert self._last[1] is not None  # it came with the input
                self.moments[node.name] = self._last[1]
        return super().run(node, x)


class Calibrator:
    """Gives the packed tensors of one module after the other, in the order of the graph.

    Args:
        source: the plain weights.
        plain: the plain graph; `graph`: the quantized one.
        texts: token ids of the calibration texts.
    """

    def __init__(self, source: Weights, plain: Graph, graph: Graph, texts: Sequence[Sequence[int]]) -> None:
        if len(texts) < 2:
            raise InputError(
                f"calibration takes at least 2 texts, {len(texts)} given",
                hint="one is kept apart for judging; give more text",
            )
        self.source, self.plain, self.graph = source, plain, graph
        self.results: dict[str, Calibrated] = {}
        self._modules = quantized_modules(graph)
        self._texts = [list(text) for text in texts]
        self._hidden: list[Floats] | None = None
        self._next = 0
        self._made: dict[str, Quantized] = {}
        self._final: Moments | None = None

    def __call__(self, name: str) -> Quantized:
        """The packed tensors of a module."""
        layer = self._layer_of(name)
        if layer is None:
            return self._outside(name)
        self._advance(layer + 1)
        return self._made.pop(name)

    def _layer_of(self, name: str) -> int | None:
        for index, layer in enumerate(self.plain.decoder.layers):
            if name.startswith(f"{layer.path}."):
                return index
        return None

    def _outside(self, name: str) -> Quantized:
        """The embedding, whose rows are all alike to the model; a head, by the trunk's outputs, which its first linear
        layer is given."""
        node = self._modules[name]
        weight = self.source[f"{name}.weight"]
        heads = [each.name for each in self.plain.walk() if isinstance(each, Linear) and each.of_head]
        if not isinstance(node, QuantizedLinear) or name != heads[0]:
            return searched(weight, node.group_size, node.bits, f"{name}.weight")
        self._advance(len(self.plain.decoder.layers))
        norm, moments = self.plain.decoder.norm, Moments(node.in_features)
        weights = self._floats(norm)
        for index, x in enumerate(self._hidden or ()):
            moments.add(Context(*self._pass(weights, x.shape[1])).run(norm, x), self._held_out(index))
        return self._best(name, node, weight, moments)

    def _floats(self, node: Any) -> dict[str, Any]:
        import numpy as np

        return {p.name: np.asarray(self.source[p.name]).astype(np.float32) for p in node.parameters()}

    def _pass(self, weights: Mapping[str, Any], length: int) -> tuple[Any, ...]:
        """What a context over one text of so many tokens is made from."""
        import numpy as np

        def frequencies(rope: Rope) -> Any:
            return rope.row_frequencies(np.array([length])).astype(np.float32)

        return np, weights, np.arange(length)[None], frequencies

    def _held_out(self, index: int) -> bool:
        """Whether a text is for judging: one in eight, and at least the last."""
        return index % HELD_OUT == HELD_OUT - 1 or (len(self._texts) < HELD_OUT and index == len(self._texts) - 1)

    def _advance(self, layers: int) -> None:
        """Go on until so many layers are done."""
        while self._next < layers:
            self._made = {}
            self._run_layer(self._next)
            self._next += 1

    def _run_layer(self, index: int) -> None:
        """Measure a layer's inputs, quantize its matrices, and go on with what the quantized layer gives."""
        import numpy as np

        layer = self.plain.decoder.layers[index]
        if self._hidden is None:
            table = self.source[f"{self.plain.decoder.embed.name}.weight"]
            self._hidden = [np.asarray(table[text]).astype(np.float32)[None] for text in self._texts]
        weights = self._floats(layer)
        moments: dict[str, Moments] = {}
        for number, x in enumerate(self._hidden):
            held_out = self._held_out(number)
            _Recording(*self._pass(weights, x.shape[1]), moments=moments, held_out=held_out).run(layer, x)
        for node in layer.walk():
            name = node.path
            if name in self._modules and name in moments:
                packed = self._modules[name]
                made = self._best(name, packed, self.source[f"{name}.weight"], moments[name])
                self._made[name] = made
                weights[f"{name}.weight"] = dequantize(*made, bits=packed.bits)
        for number, x in enumerate(self._hidden):
            self._hidden[number] = Context(*self._pass(weights, x.shape[1])).run(layer, x)

    def _best(self, name: str, node: Any, weight: np.ndarray, moments: Moments) -> Quantized:
        rounded = quantize(weight, node.group_size, node.bits, name=f"{name}.weight")
        learnt = gptq(weight, moments.learnt, node.group_size, node.bits, f"{name}.weight")
        result = Calibrated(*(output_error(weight, q, node.bits, moments.held_out) for q in (rounded, learnt)))
        self.results[name] = result
        return learnt if result.kept else rounded


def output_error(weight: np.ndarray, packed: Quantized, bits: int, moments: Floats) -> float:
    """Squared error of the outputs, relative to the outputs themselves."""
    import numpy as np

    error = whole = 0.0
    for rows in row_blocks(*weight.shape):
        exact = weight[rows].astype(np.float32)
        off = dequantize(*(part[rows] for part in packed), bits=bits) - exact
        error += float(np.sum((off @ moments) * off, dtype=np.float64))
        whole += float(np.sum((exact @ moments) * exact, dtype=np.float64))
    return error / whole if whole else error


def ranged(groups: Floats, importance: Floats | None, bits: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scale and bias of each group ``[..., group]``, in `dtype`, with the part of its range that loses least."""
    import numpy as np

    best: tuple[Any, Any, Any] | None = None
    for part in RANGES:
        scales, biases = (array.astype(dtype) for array in choose(groups * np.float32(part), bits))
        q = nearest(groups, scales, biases, bits)
        wide_scales, wide_biases = (a.astype(np.float32)[..., None] for a in (scales, biases))
        off = q * wide_scales + wide_biases - groups
        error = np.sum(off * off if importance is None else off * off * importance, axis=-1)
        if best is None:
            best = error, scales, biases
            continue
        better = error < best[0]
        best = tuple(np.where(better, new, old) for new, old in zip((error, scales, biases), best, strict=True))
    assert best is not None  # there is always the whole range
    return best[1], best[2]


def searched(weight: np.ndarray, group_size: int, bits: int, name: str) -> Quantized:
    """Rounding with searched ranges: for tables, whose error counts as it is."""
    import numpy as np

    from ..dtypes import dtype_name, numpy_dtype

    dtype = numpy_dtype(scale_dtype(dtype_name(weight.dtype)))
    parts: list[Quantized] = []
    for rows in row_blocks(*weight.shape):
        groups = finite(weight[rows], name).reshape(-1, weight.shape[1] // group_size, group_size)
        scales, biases = ranged(groups, None, bits, dtype)
        q = nearest(groups, scales, biases, bits)
        parts.append(Quantized(pack(q.reshape(len(groups), -1), bits), scales, biases))
    return Quantized(*(np.concatenate(kind) for kind in zip(*parts, strict=True)))


def gptq(weight: np.ndarray, moments: Floats, group_size: int, bits: int, name: str) -> Quantized:
    """Quantize ``[out, in]`` one input after the other, each error made up for by the inputs still to come."""
    import numpy as np

    from ..dtypes import dtype_name, numpy_dtype

    dtype = numpy_dtype(scale_dtype(dtype_name(weight.dtype)))
    w = finite(weight, name).copy()
    columns = w.shape[1]
    feedback, importance = _feedback(moments)
    q = np.empty(w.shape, np.uint8)
    kept = []
    for start in range(0, columns, group_size):
        group = slice(start, start + group_size)
        scales, biases = ranged(w[:, group], importance[group], bits, dtype)
        kept.append((scales, biases))
        s, b = scales.astype(np.float32), biases.astype(np.float32)
        errors = np.empty((len(w), group_size), np.float32)
        for column in range(start, start + group_size):
            values = w[:, column]
            q[:, column] = nearest(values[:, None], scales, biases, bits)[:, 0]
            error = (values - (q[:, column] * s + b)) / feedback[column, column]
            w[:, column + 1 : group.stop] -= np.outer(error, feedback[column, column + 1 : group.stop])
            errors[:, column - start] = error
        w[:, group.stop :] -= errors @ feedback[group, group.stop :]
    all_scales, all_biases = (np.stack(kind, axis=1) for kind in zip(*kept, strict=True))
    return Quantized(pack(q, bits), all_scales, all_biases)


def _feedback(moments: Floats) -> tuple[Floats, Floats]:
    """The upper Cholesky factor of the inverse of ``H``, and how much each input matters."""
    import numpy as np

    h = moments.astype(np.float64)
    importance = np.diag(h).copy()
    mean = float(importance.mean()) or 1.0
    h[np.diag_indices_from(h)] += DAMPING * mean + (importance == 0) * mean
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    return np.ascontiguousarray(upper, np.float32), np.maximum(importance, 1e-3 * mean).astype(np.float32)

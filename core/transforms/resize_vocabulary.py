"""Another size of the vocabulary: rows of the embedding and of the head cut off or added, one tensor at a time.

:func:`resize_vocabulary` is the transform of weights, for whoever streams them;
:func:`~polyllama.core.loading.resize.resize`, one floor up, does it to a loaded model on whatever backend runs it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..checkpoint.protocol import TensorInfo
from ..checkpoint.random_values import initial_tensor
from ..checkpoint.weights import Weights
from ..dtypes import numpy_dtype
from ..errors import InputError, UnsupportedError
from ..graph.from_config import build_graph
from ..graph.node import Parameter
from ..messages import mention

if TYPE_CHECKING:
    import numpy as np

    from ..config.schema import LlamaConfig
    from ..tasks.task import Task

    Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True)
class NewRows:
    """How rows that are added start.

    Attributes:
        mean: as the mean of the old ones, so that a new token is neither likely nor unlikely before it is trained
            (https://nlp.stanford.edu/~johnhew/vocab-expansion.html); otherwise random, as those of a new model.
        seed: of the random ones.
    """

    mean: bool = True
    seed: int = 0


def resize_vocabulary(
    weights: Weights,
    config: LlamaConfig,
    task: Task,
    vocab_size: int,
    packed: Mapping[str, tuple[int, int]] | None = None,
    new_rows: NewRows | None = None,
) -> tuple[Weights, LlamaConfig]:
    """The weights and the config of the same model with another number of tokens.

    The first rows stay as they are, bit for bit.

    Args:
        weights: under the names of the graph of `config` and `task`.
        vocab_size: rows that the embedding, and a head over the vocabulary, shall have.
        packed: module -> (group size, bits) of those whose weights are packed; new rows are quantized as they are.
        new_rows: how rows that are added start; by default as the mean of the old ones.

    Raises:
        InputError: not a positive number, or a special token would be cut off.
        UnsupportedError: the head has not one row for each token.
    """
    if type(vocab_size) is not int or vocab_size < 1:
        raise InputError(mention("vocab_size", vocab_size) + " is not a number of tokens")
    ids = {"bos_token_id": config.bos_token_id, "pad_token_id": config.pad_token_id}
    ids |= {f"eos_token_id {number}": number for number in config.eos_token_ids}
    cut = [name for name, number in ids.items() if number is not None and number >= vocab_size]
    if cut:
        raise InputError(mention("vocab_size", vocab_size) + f" would cut off {', '.join(cut)}", hint="keep more rows")
    made = config.replace(vocab_size=vocab_size)
    sizes = _Sizes(config.vocab_size, vocab_size, config, new_rows or NewRows())
    before = {parameter.name: parameter.shape for parameter in build_graph(config, task).parameters()}
    changed = {p.name: p for p in build_graph(made, task).parameters() if p.shape != before[p.name]}
    for name, parameter in changed.items():
        _check_rows(parameter, before[name], sizes, task)
    in_words = {
        module: _PackedRows(weights, changed[f"{module}.weight"], how, sizes)
        for module, how in (packed or {}).items()
        if f"{module}.weight" in changed
    }

    def entries() -> Iterator[tuple[TensorInfo, Callable[[], Array]]]:
        for name in weights:
            info, read = weights.info(name), partial(weights.__getitem__, name)
            module, _, part = name.rpartition(".")
            if module in in_words and part in _PARTS:
                shape = (sizes.after, *info.shape[1:])
                yield dataclasses.replace(info, shape=shape), partial(in_words[module].read, part)
            elif name in changed:
                parameter = changed[name]
                yield dataclasses.replace(info, shape=parameter.shape), partial(_resized, parameter, info, read, sizes)
            else:
                yield info, read

    return Weights(entries()), made


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """Rows `before` and `after`, and how new ones start."""

    before: int
    after: int
    config: LlamaConfig
    new: NewRows


def _check_rows(parameter: Parameter, shape: tuple[int, ...], sizes: _Sizes, task: Task) -> None:
    if shape != (sizes.before, *shape[1:]) or parameter.shape != (sizes.after, *shape[1:]):
        raise UnsupportedError(
            f"{parameter.name} would go from {list(shape)} to {list(parameter.shape)}, "
            f"which is not a row for each of {sizes.after} tokens",
            hint=f"task {task.name!r} does not let its vocabulary be resized",
        )


def _resized(parameter: Parameter, info: TensorInfo, read: Callable[[], Array], sizes: _Sizes) -> Array:
    """The rows that stay, and the new ones after them; a copy only where rows are added."""
    import numpy as np

    old = read()
    if sizes.after <= sizes.before:
        return old[: sizes.after]
    if sizes.new.mean:
        return _joined(old, old.mean(axis=0, dtype=np.float64).astype(numpy_dtype(info.dtype))[None], sizes)
    return _joined(old, _random(parameter, info.dtype, sizes), sizes)


def _random(parameter: Parameter, dtype: str, sizes: _Sizes) -> Array:
    """Rows that are added, named by where they begin: those added one after the other would be alike otherwise."""
    shape = (sizes.after - sizes.before, *parameter.shape[1:])
    return initial_tensor(
        Parameter(f"{parameter.name}[{sizes.before}:]", shape, parameter.role),
        seed=sizes.new.seed,
        dtype=dtype,
        initializer_range=sizes.config.initializer_range,
    )


def _joined(old: Array, new: Array, sizes: _Sizes) -> Array:
    """The old rows, and after them the new ones, or the one that all of them are."""
    import numpy as np

    found = np.empty((sizes.after, *old.shape[1:]), old.dtype)
    found[: sizes.before] = old
    found[sizes.before :] = new
    return found


_PARTS = ("weight", "scales", "biases")


class _PackedRows:
    """The three tensors of a packed matrix with another number of rows; those that stay keep every bit."""

    def __init__(self, weights: Weights, parameter: Parameter, how: tuple[int, int], sizes: _Sizes) -> None:
        self.weights, self.parameter, self.sizes = weights, parameter, sizes
        self.module = parameter.name.removesuffix(".weight")
        self.group_size, self.bits = how
        self._mean: Array | None = None

    def read(self, part: str) -> Array:
        """One of the three."""
        old, sizes = self.weights[f"{self.module}.{part}"], self.sizes
        if sizes.after <= sizes.before:
            return old[: sizes.after]
        from ..quantization.affine import quantize

        dtype = self.weights.info(f"{self.module}.scales").dtype
        new = self._mean_row(dtype) if sizes.new.mean else _random(self.parameter, dtype, sizes)
        made = quantize(new, self.group_size, self.bits, name=self.parameter.name)
        return _joined(old, getattr(made, part), sizes)

    def _mean_row(self, dtype: str) -> Array:
        import numpy as np

        if self._mean is None:
            from ..quantization.affine import dequantize, row_blocks

            words, scales, biases = (self.weights[f"{self.module}.{part}"] for part in _PARTS)
            total = np.zeros((1, self.parameter.shape[1]))
            for rows in row_blocks(self.sizes.before, self.parameter.shape[1]):
                total += dequantize(words[rows], scales[rows], biases[rows], bits=self.bits).sum(0, dtype=np.float64)
            self._mean = (total / self.sizes.before).astype(numpy_dtype(dtype))
        return self._mean

"""From one checkpoint format to another, one tensor in memory at a time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint.base import TensorInfo
from .checkpoint.weights import Weights
from .dtypes import is_float, numpy_dtype
from .errors import CheckpointError, InputError, PolyllamaWarning, TokenizerError, UnsupportedError
from .resizing import resize_vocabulary

if TYPE_CHECKING:
    import numpy as np

    from .checkpoint.writing import Progress
    from .config import LlamaConfig
    from .loading import Described

    Array = np.ndarray[Any, Any]

FLOATS = ("float32", "float16", "bfloat16")
# These decide nothing of what a model computes when it runs.
_OF_TRAINING = (
    "architectures",
    "attention_dropout",
    "classifier_dropout",
    "dtype",
    "extra",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "label2id",
    "pretraining_tp",
    "problem_type",
    "quantization",
    "rope_parameters",
    "use_cache",
)


@dataclass(frozen=True)
class Conversion:
    """What was written: where, in which format and dtype, and how many bytes it takes."""

    path: Path
    format: str
    dtype: str
    nbytes: int
    files: tuple[Path, ...]


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    to: str,
    dtype: str | None = None,
    vocab_size: int | None = None,
    task: str | None = None,
    max_shard_size: int | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    load_format: str = "auto",
    revision: str | None = None,
    offline: bool | None = None,
) -> Conversion:
    """Write a model in another format.

    Memory holds about one tensor, whatever the model. The destination appears when everything is written.

    Args:
        source: a registry name, repository, folder or file, of any format that can be read.
        destination: a folder, or for ``gguf`` a file; not there yet, unless `overwrite`.
        to: the format: ``hf``, ``mlx``, ``gguf``, ``meta``, or a plugin's.
        dtype: what to round floats to: ``"float32"``, ``"float16"`` or ``"bfloat16"``; by default they stay.
        vocab_size: rows the embedding and the head shall have, if not those they have: the first stay, new ones are the
            mean of the old.
        task: the head; by default what the checkpoint's ``architectures`` says.
        max_shard_size: the largest file of weights, where the format has several; 5GB by default.
        overwrite: replace what is at the destination.
        progress: called with a tensor's name, the bytes done before it, and all.

    Raises:
        PolyllamaError: something is wrong with the source, the format cannot say what this model needs, a value is
            too large for `dtype`, there is no space, the destination is there or being written by another process.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = convert("tiny", folder + "/tiny.gguf", to="gguf")
    ...     made.format, made.dtype, [file.name for file in made.files]
    ('gguf', 'bfloat16', ['tiny.gguf'])
    """
    from .checkpoint.writing import check_apart, check_free, placed
    from .loading import describe
    from .settings import load_settings

    if not isinstance(destination, (str, os.PathLike)) or not str(destination):
        raise InputError(f"the destination is {destination!r}", hint="name a folder or a file")
    target = Path(destination).expanduser()
    if dtype is not None and dtype not in FLOATS:
        raise InputError(f"dtype={dtype!r} is none to convert to", hint=f"use {', '.join(FLOATS)}, or leave it out")
    settings = load_settings(offline=offline)
    settings = settings.model_copy(update={"quantize": None})
    described = describe(source, task=task, revision=revision, load_format=load_format, settings=settings)
    writer, name = _writer(described, to)
    if described.checkpoint is None:
        raise InputError("dummy weights are not worth converting", hint="leave load_format out")
    if max_shard_size is not None and not writer.sharded:
        raise InputError(f"max_shard_size={max_shard_size!r}: {name} is one file of weights", hint="leave it out")
    check_apart(target, described.checkpoint.path)
    check_free(target, overwrite=overwrite, single=target.suffix == writer.suffix != "")
    model = _model(described, writer, dtype, vocab_size, progress, max_shard_size or "5GB")
    with placed(target, writer.suffix, model.weights.nbytes, overwrite=overwrite) as place:
        writer.write(model, place)
        _compare(model.config, place, writer)
    if progress is not None:
        progress("", model.weights.nbytes, model.weights.nbytes)
    files = tuple(sorted(f for f in target.rglob("*") if f.is_file())) if target.is_dir() else (target,)
    return Conversion(target, name, str(model.config.dtype), sum(f.stat().st_size for f in files), files)


def _writer(described: Described, to: str) -> tuple[Any, str]:
    from .hookspecs import CheckpointFormatDescriptor

    descriptor = described.plugins.find(CheckpointFormatDescriptor, to)
    if not descriptor.writes:
        formats = described.plugins.checkpoint_formats()
        able = sorted(n for d in formats.values() if d.writes for n in d.names())
        raise UnsupportedError(f"{to} is only read, not written", hint=f"can be written: {', '.join(able)}")
    return descriptor.load(), descriptor.name


def _model(
    described: Described,
    writer: Any,
    dtype: str | None,
    vocab_size: int | None,
    progress: Progress | None,
    max_shard_size: int | str,
) -> Any:
    """The model as the writer gets it: streamed, rounded and unpacked as need be."""
    from .checkpoint.writing import ModelToWrite

    stream = _Stream(described, progress)
    packed = stream.packed
    config = described.config
    if packed and (dtype is not None or not writer.keeps_packed):
        if dtype is None:
            dtype = stream.scale_dtype
            warnings.warn(
                f"the weights are quantized; they become {dtype}, which rounds (dtype float32 would be exact)",
                PolyllamaWarning,
                stacklevel=4,
            )
        weights, packed = Weights(stream.floats(dtype)), {}
        config = config.replace(quantization=None)
    else:
        weights = Weights(stream.entries(dtype))
    stream.total = weights.nbytes
    tokenizer = _tokenizer(described)
    if vocab_size is not None:
        weights, config = resize_vocabulary(weights, config, described.task, vocab_size, packed)
        if tokenizer is not None and len(tokenizer) > vocab_size:
            raise InputError(f"vocab_size={vocab_size}, but the tokenizer has {len(tokenizer)} tokens")
    config = config.replace(dtype=weights.dtype, architectures=[described.task.architecture])
    return ModelToWrite(
        name=_name(described),
        config=config,
        weights=weights,
        packed=packed,
        tokenizer=tokenizer,
        folder=described.folder if getattr(described.checkpoint, "tokenizer", None) is None else None,
        max_shard_size=max_shard_size,
    )


def _name(described: Described) -> str:
    """What to call the model: a file's name loses its suffix; the rest keep their dots ("llama-3.1-8b")."""
    path = Path(described.name)
    return (path.stem if described.checkpoint.path.is_file() else path.name) or described.name


def _tokenizer(described: Described) -> Any:
    from .loading import tokenizer_of

    assert described.folder is not None
    try:
        return tokenizer_of(described.folder, described.checkpoint)
    except TokenizerError as error:
        warnings.warn(f"converted without a tokenizer: {error}", PolyllamaWarning, stacklevel=5)
        return None


def streamed_weights(described: Described) -> Weights:
    """The checkpoint's tensors as stored; the memory behind each is given back when the next is read.

    Raises:
        CheckpointError: the checkpoint does not fit the graph.
    """
    return Weights(_Stream(described, None).entries(None))


class _Stream:
    """The checkpoint's tensors under the graph's names; the memory behind each is given back when the next is read."""

    def __init__(self, described: Described, progress: Progress | None) -> None:
        from .checkpoint import check
        from .quantization.weights import quantized_modules

        self.checkpoint = described.checkpoint
        parameters = described.graph.parameters()
        self.map = check(self.checkpoint, parameters, config=described.config)
        if self.map.fresh:
            raise CheckpointError(
                f"{described.name}: lacks {', '.join(self.map.fresh)}, so there is nothing to convert"
            )
        self.names = [parameter.name for parameter in parameters]
        modules = quantized_modules(described.graph)
        self.packed = {name: (node.group_size, node.bits) for name, node in modules.items()}
        self.total = 0
        self._progress = progress
        self._done = 0
        self._seen: set[str] = set()
        self._last: list[str] = []

    @property
    def scale_dtype(self) -> str:
        """The dtype of the first packed module's scales."""
        return self.info(f"{next(iter(self.packed))}.scales").dtype

    def info(self, name: str) -> TensorInfo:
        """Dtype and shape of one of the graph's tensors, as stored."""
        stored = self.checkpoint.tensors()[self.map[name]]
        return TensorInfo(name, stored.dtype, stored.shape, stored.file)

    def entries(self, dtype: str | None) -> Iterator[tuple[TensorInfo, Callable[[], Array]]]:
        """Every tensor, floats outside packed modules rounded to `dtype`."""
        for name in self.names:
            info = self.info(name)
            rounded = dtype is not None and is_float(info.dtype) and name.rpartition(".")[0] not in self.packed
            yield self._entry(name, info, dtype if rounded else None)

    def floats(self, dtype: str) -> Iterator[tuple[TensorInfo, Callable[[], Array]]]:
        """Every tensor of the plain graph, packed modules unpacked."""
        for name in self.names:
            module, _, part = name.rpartition(".")
            info = self.info(name)
            if module not in self.packed:
                yield self._entry(name, info, dtype)
            elif part == "weight":
                columns = info.shape[1] * 32 // self.packed[module][1]
                yield self._unpacked(module, TensorInfo(name, dtype, (info.shape[0], columns), info.file))

    def _entry(self, name: str, info: TensorInfo, dtype: str | None) -> tuple[TensorInfo, Callable[[], Array]]:
        if dtype is None or dtype == info.dtype:
            return info, lambda: self._read(name, info.nbytes, [name])[0]
        target = TensorInfo(name, dtype, info.shape, info.file)
        return target, lambda: rounded(self._read(name, target.nbytes, [name])[0], dtype, name)

    def _unpacked(self, module: str, info: TensorInfo) -> tuple[TensorInfo, Callable[[], Array]]:
        from .checkpoint.packed import unpacked_floats

        parts = [f"{module}.{part}" for part in ("weight", "scales", "biases")]
        bits = self.packed[module][1]

        def read() -> Array:
            words, scales, biases = self._read(info.name, info.nbytes, parts)
            return unpacked_floats(words, scales, biases, bits, info.dtype, module)

        return info, read

    def _read(self, name: str, nbytes: int, parts: list[str]) -> list[Array]:
        release = getattr(self.checkpoint, "release", None)
        if release is not None:
            for last in self._last:
                release(self.map[last])
        if self._progress is not None and name not in self._seen:
            self._progress(name, self._done, self.total)
            self._done += nbytes
            self._seen.add(name)
        self._last = parts
        return [self.checkpoint.read(self.map[part]) for part in parts]


def rounded(array: Array, dtype: str, name: str) -> Array:
    """The values in another float type, some millions at a time.

    Raises:
        CheckpointError: a finite value would become infinite; names the tensor.

    >>> import numpy as np
    >>> rounded(np.array([1.0, 70000.0], np.float32), "bfloat16", "x").astype(float).tolist()
    [1.0, 70144.0]
    """
    import numpy as np

    made = np.empty(array.shape, numpy_dtype(dtype))
    flat, out = array.reshape(-1), made.reshape(-1)
    for start in range(0, flat.size, 1 << 22):
        part = flat[start : start + (1 << 22)]
        with np.errstate(over="ignore", invalid="ignore"):
            out[start : start + (1 << 22)] = part.astype(numpy_dtype(dtype))
        if np.isinf(out[start : start + (1 << 22)]).sum() > np.isinf(part).sum():
            raise CheckpointError(f"{name}: has values too large for {dtype}", hint="use bfloat16 or float32")
    return made


def _compare(config: LlamaConfig, place: Path, writer: Any) -> None:
    """Read back what was written, and say which fields the format could not keep."""
    from .rope import build_rope

    checkpoint = writer.open(place)
    found: LlamaConfig = checkpoint.config()
    lost = [
        f"{name} ({getattr(config, name)} is read back as {getattr(found, name)})"
        for name in type(config).model_fields
        if name not in _OF_TRAINING and getattr(found, name) != getattr(config, name)
    ]
    if not found.tie_word_embeddings:  # written out as a matrix of its own, which computes the same
        lost = [text for text in lost if not text.startswith("tie_word_embeddings")]
    ours, theirs = build_rope(config), build_rope(found)
    if not _same_rotation(ours, theirs):
        lost.append("rope_parameters")
    if lost:
        warnings.warn(f"the format cannot say, or says otherwise: {'; '.join(lost)}", PolyllamaWarning, stacklevel=4)


def _same_rotation(one: Any, other: Any) -> bool:
    import numpy as np

    def close(a: Any, b: Any) -> bool:
        return len(a) == len(b) and bool(np.allclose(a, b, rtol=1e-6, atol=0))

    long = (one.long_inv_freq or one.inv_freq, other.long_inv_freq or other.inv_freq)
    factors = ((one.attention_factor,), (other.attention_factor,))
    return close(one.inv_freq, other.inv_freq) and close(*long) and close(*factors)

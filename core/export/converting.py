"""From one checkpoint format to another, one tensor in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import checked
from ..checkpoint.guarded import blaming, format_label
from ..dtypes import meant_dtype
from ..errors import InputError, PluginError, TokenizerError, UnsupportedError, about_model, warn
from ..messages import counted, few, mention
from ..public import public
from .changes import Changes
from .stored_types import stored_types
from .tensor_stream import TensorStream

if TYPE_CHECKING:
    from ..checkpoint.protocol import Checkpoint
    from ..checkpoint.writing import ModelToWrite, Progress
    from ..config.schema import LlamaConfig
    from ..loading.describe import Described
    from ..plugin_system.hookspecs import CheckpointFormatDescriptor

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
    """What was written: where, in which format and dtype, and how many bytes it takes.

    ``types``: in which types tensors are stored, and how many in each, those that hold most values first: ``Q8_0``,
    ``F32`` (GGUF), ``int4-g64``, ``bfloat16``. A packed matrix counts as one.
    """

    path: Path
    format: str
    dtype: str
    nbytes: int
    files: tuple[Path, ...]
    types: Mapping[str, int] = field(default_factory=dict)


@public
@checked
def convert(
    source: str | Path,
    destination: str | Path,
    *,
    to: str,
    dtype: str | None = None,
    adapter: str | Path | None = None,
    num_key_value_heads: int | None = None,
    vocab_size: int | None = None,
    quantize: str | None = None,
    task: str | None = None,
    max_shard_size: int | str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    load_format: str = "auto",
    revision: str | None = None,
    offline: bool | None = None,
    ignore: str | Sequence[str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Conversion:
    """Write a model in another format.

    Memory holds about one tensor, whatever the model. The destination appears when everything is written.

    Args:
        source: a registry name, repository, folder or file, of any format that can be read.
        destination: a folder, or for ``gguf`` a file; not there yet, unless `overwrite`.
        to: the format: ``hf``, ``mlx``, ``gguf``, ``meta``, or a plugin's.
        dtype: what to round floats to: ``"float32"``, ``"float16"`` or ``"bfloat16"``; by default they stay.
        adapter: the folder of a LoRA adapter (PEFT's or mlx-lm's) to merge into the weights.
        num_key_value_heads: key/value heads the model shall have, a divisor of those it has: each is the mean of a
            group (multi-head to grouped-query attention; train it a little further).
        vocab_size: rows the embedding and the head shall have, if not those they have: the first stay, new ones are the
            mean of the old.
        quantize: round matrices to ``"int4"``, ``"int8-g32"`` ... in the end, where the format holds packed weights
            (``polyllama quantize`` has more settings and reports the errors). In GGUF ``"int8"`` is Q8_0 and ``"int4"``
            Q4_1, both in groups of 32; what a format has no type for is an error.
        task: the head; by default what the checkpoint's ``architectures`` says.
        max_shard_size: the largest file of weights, where the format has several; 5GB by default.
        overwrite: replace what is at the destination.
        ignore: names of stored tensors to leave out, as for :meth:`polyllama.Llama.load`.
        config: fields of the configuration to change, e.g. ``{"max_position_embeddings": 2048}``.
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
    from ..checkpoint.writing import placed
    from ..loading.describe import describe
    from ..settings.schema import load_settings

    _check_arguments(destination, dtype)
    target = Path(destination).expanduser()
    settings = load_settings(offline=offline).model_copy(update={"quantize": None})
    named: dict[str, Any] = {"task": task, "revision": revision, "load_format": load_format, "ignore": ignore}
    named["config_overrides"] = config
    described = describe(source, settings=settings, **named)
    writer, descriptor = _writer(described, to)
    if max_shard_size is not None and not writer.sharded:
        what = mention("max_shard_size", max_shard_size) + f": {descriptor.name} is one file of weights"
        raise InputError(what, hint="leave it out")
    _check_places(described, target, writer, adapter, overwrite=overwrite)
    changes = Changes(dtype, adapter, num_key_value_heads, vocab_size, quantize)
    stream = TensorStream(described, progress)
    with about_model(described.name):
        model = _model(described, writer, stream, changes, max_shard_size or "5GB")
        with placed(target, writer.suffix, model.weights.nbytes, overwrite=overwrite) as place:
            types = _written(model, place, writer, descriptor)
    if progress is not None:
        progress("", stream.total, stream.total)
    files = tuple(sorted(f for f in target.rglob("*") if f.is_file())) if target.is_dir() else (target,)
    return Conversion(
        target, descriptor.name, str(model.config.dtype), sum(f.stat().st_size for f in files), files, types
    )


def _check_places(
    described: Described, target: Path, writer: Any, adapter: str | Path | None, *, overwrite: bool
) -> None:
    """Refuse a destination that is taken, or that the source is in."""
    from ..checkpoint.writing import check_apart, check_free

    if described.checkpoint is None:
        raise InputError("dummy weights are not worth converting", hint="leave " + mention("load_format") + " out")
    check_apart(target, described.checkpoint.path)
    if adapter is not None:
        from ..transforms.adapters.adapter_file import folder_of

        check_apart(target, folder_of(adapter))
    check_free(target, overwrite=overwrite, single=target.suffix == writer.suffix != "")


def _check_arguments(destination: object, dtype: str | None) -> None:
    if not isinstance(destination, (str, os.PathLike)) or not str(destination):
        raise InputError(f"the destination is {destination!r}", hint="name a folder or a file")
    if dtype is not None and dtype not in FLOATS:
        hint = meant_dtype(dtype, FLOATS, f"use {', '.join(FLOATS)}, or leave it out")
        raise InputError(mention("dtype", dtype) + " is none to convert to", hint=hint)


def _writer(described: Described, to: str) -> tuple[Any, CheckpointFormatDescriptor]:
    from ..plugin_system.hookspecs import CheckpointFormatDescriptor

    descriptor = described.plugins.find(CheckpointFormatDescriptor, to)
    if not descriptor.writes:
        formats = described.plugins.checkpoint_formats()
        able = sorted(n for d in formats.values() if d.writes for n in d.names())
        raise UnsupportedError(f"{to} is only read, not written", hint=f"can be written: {', '.join(able)}")
    writer = descriptor.load()
    if lacking := [
        name for name in ("write", "open", "suffix", "keeps_packed", "sharded") if not hasattr(writer, name)
    ]:
        raise PluginError(
            f"{format_label(descriptor)} says that it writes, but has no {few(lacking)}",
            hint="see polyllama.extend.FormatWriter",
        )
    return writer, descriptor


def _model(
    described: Described, writer: Any, stream: TensorStream, changes: Changes, max_shard_size: int | str
) -> ModelToWrite:
    """The model as the writer gets it: streamed, changed and unpacked as need be."""
    from ..checkpoint.writing import ModelToWrite
    from .changes import transform

    if changes.quantize is not None and not writer.keeps_packed:
        raise UnsupportedError(
            mention("quantize", changes.quantize) + ": the format has no packed weights", hint="use mlx or gguf"
        )
    weights, config, packed = transform(described, stream, changes, writer)
    tokenizer = _tokenizer(described, changes, config)
    if tokenizer is not None and changes.vocab_size is not None and len(tokenizer) > changes.vocab_size:
        raise InputError(
            mention("vocab_size", changes.vocab_size) + f", but the tokenizer has {counted(len(tokenizer), 'token')}"
        )
    config = config.describing(dtype=weights.dtype, architectures=[described.task.architecture])
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


def _tokenizer(described: Described, changes: Changes, config: LlamaConfig) -> Any:
    from ..loading.adapter import tokenizer_folder
    from ..loading.describe import tokenizer_of

    assert described.folder is not None
    if changes.adapter is not None and changes.vocab_size is None and config.vocab_size != described.config.vocab_size:
        other = tokenizer_folder(changes.adapter, config.vocab_size)
        if other is not None:
            return tokenizer_of(other)
    try:
        return tokenizer_of(described.folder, described.checkpoint)
    except TokenizerError as error:
        warn(f"converted without a tokenizer: {error}")
        return None


def _written(model: ModelToWrite, place: Path, writer: Any, descriptor: CheckpointFormatDescriptor) -> dict[str, int]:
    """Write the model, read back what was written, and return its types. What fails in here is the format's fault."""
    with blaming(descriptor, f"writing {model.name}", but=(OSError,)):
        writer.write(model, place)
        return stored_types(*_compare(model.config, place, writer))


def _compare(config: LlamaConfig, place: Path, writer: Any) -> tuple[Checkpoint, LlamaConfig]:
    """Read back what was written, say which fields the format could not keep, and return what was read."""
    from ..graph.rope import build_rope

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
        warn(f"the format cannot say, or says otherwise: {'; '.join(lost)}")
    return checkpoint, found


def _same_rotation(one: Any, other: Any) -> bool:
    import numpy as np

    def close(a: Any, b: Any) -> bool:
        return len(a) == len(b) and bool(np.allclose(a, b, rtol=1e-6, atol=0))

    long = (one.long_inv_freq or one.inv_freq, other.long_inv_freq or other.inv_freq)
    factors = ((one.attention_factor,), (other.attention_factor,))
    return close(one.inv_freq, other.inv_freq) and close(*long) and close(*factors)

"""Quantizing a checkpoint into another folder, one matrix in memory at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, InputError, UnsupportedError, about_model, warn
from ..graph.graph import Graph
from ..graph.nodes import Linear
from ..quantization.affine import Quantized, quantize
from ..quantization.scheme import DEFAULT_GROUP, ModuleQuantization, Quantization, checked_setting, parse_quantize
from ..transforms.quantize_graph import plan, quantizable, quantize_graph
from ..transforms.quantize_weights import quantized_modules, quantized_weights
from .quantize_report import ModuleReport, Report, errors

if TYPE_CHECKING:
    from ..checkpoint.protocol import TensorInfo
    from ..checkpoint.weights import Weights
    from ..loading.describe import Described
    from ..tokenizer.tokenizer import Tokenizer
    from ..transforms.calibrate import Calibrator

METHODS = ("round", "calibrated")
CALIBRATION_TOKENS = 32_768
ROW_TOKENS = 512

Progress = Callable[[str, int, int], None]
"""Called with a tensor's name, the bytes written before it and the bytes of all."""


def quantize_checkpoint(
    source: str | Path,
    target: str | Path,
    *,
    bits: int = 4,
    group_size: int | None = None,
    modules: Mapping[str, str] | None = None,
    embeddings: str | None = None,
    head: str | None = None,
    method: str = "round",
    calibration: str | Path | None = None,
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Quantize a model's linear layers and embedding into a new folder, in MLX's layout.

    Args:
        source: a registry name, repository or folder, of weights that are not quantized yet.
        target: a folder that does not exist yet, or is empty; it appears when everything is written, under a lock.
        bits: 2, 3, 4, 5, 6 or 8.
        group_size: 32, 64 or 128; by default 64, and 32 for modules that 64 does not divide, which a warning says.
        modules: patterns of module names (``*.down_proj``) -> ``"int8"``, ``"int4-g32"`` ... or ``"none"``; the last
            that matches counts.
        embeddings, head: the same for the embedding and for the head.
        method: ``"round"``, or ``"calibrated"`` by the text of `calibration`: a ``.jsonl`` with a ``text`` in each
            line, or plain text.
        overwrite: replace the model that is in `target`.
        options: ``revision``, ``offline``, ``ignore``.

    Returns:
        The error of each matrix.

    Raises:
        PolyllamaError: groups that do not divide a module's inputs, patterns that match nothing, a target that is
            there, weights that cannot be quantized.
    """
    from ..checkpoint.writing import check_apart, check_free, placed
    from ..loading.describe import describe
    from ..settings.schema import load_settings
    from .tensor_stream import streamed_weights

    _check_arguments(method, calibration, target)
    folder = Path(target).expanduser()
    check_free(folder, overwrite=overwrite, single=False)
    settings = load_settings(offline=options.pop("offline", None)).model_copy(update={"quantize": None})
    described = describe(source, settings=settings, **options)
    check_apart(folder, None if described.checkpoint is None else described.checkpoint.path)
    _check_plain(described, source)
    general = checked_setting(bits, DEFAULT_GROUP if group_size is None else group_size)
    wanted = _wanted(described.graph, general, modules or {}, embeddings, head)
    with about_model(described.name):
        chosen = plan(described.graph, wanted, group_is_asked_for=group_size is not None)
    graph = quantize_graph(described.graph, chosen)
    if not quantized_modules(graph):
        raise InputError("every module is left out: there is nothing to quantize")
    plain = streamed_weights(described)
    calibrator = _calibrator(described, plain, graph, calibration) if calibration is not None else None
    found: dict[str, ModuleReport] = {}
    weights = quantized_weights(plain, graph, _measuring(plain, graph, calibrator, found))
    with about_model(described.name), placed(folder, "", weights.nbytes, overwrite=overwrite) as staging:
        _write(described, chosen, weights, staging, max_shard_size, progress)
    return Report(
        str(source),
        folder,
        tuple(found.values()),
        plain.nbytes,
        weights.nbytes,
        graph.num_parameters(),
        tuple(name for name in quantizable(described.graph) if name not in found),
    )


def _check_arguments(method: str, calibration: object, target: object) -> None:
    if method not in METHODS:
        raise UnsupportedError(f"method {method!r} is not known", hint=f"use {' or '.join(METHODS)}")
    if (method == "calibrated") != (calibration is not None):
        raise InputError("method 'calibrated' goes with a file of text", hint="give both --method and --calibration")
    if not isinstance(target, (str, os.PathLike)) or not str(target):
        raise InputError(f"the target is {target!r}", hint="name a folder")


def _check_plain(described: Described, source: str | Path) -> None:
    if described.checkpoint is None or described.config.quantization is not None:
        why = "has no weights" if described.checkpoint is None else "is quantized already"
        raise CheckpointError(f"{source} {why}", hint="quantize the original checkpoint")


def _wanted(
    graph: Graph,
    general: ModuleQuantization,
    patterns: Mapping[str, str],
    embeddings: str | None,
    head: str | None,
) -> Quantization:
    """Settings that name each module which a pattern sets apart."""
    names = quantizable(graph)
    heads = [n.name for n in graph.walk() if isinstance(n, Linear) and n.of_head and n.name in names]
    apart: dict[str, ModuleQuantization | None] = {}

    def set_apart(matching: Sequence[str], text: str, argument: str) -> None:
        how = None if text == "none" else parse_quantize(text, argument)
        apart.update(dict.fromkeys(matching, how))

    if embeddings is not None:
        set_apart([graph.decoder.embed.name], embeddings, "--embeddings")
    if head is not None:
        if not heads:
            raise InputError("the model has no head of its own: it is tied to the embedding", hint="use --embeddings")
        set_apart(heads, head, "--head")
    for pattern, text in patterns.items():
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            example = next(iter(names))
            raise InputError(f"--module {pattern}: no module is called so", hint=f"names are such as {example}")
        set_apart(matching, text, f"--module {pattern}")
    return Quantization(group_size=general.group_size, bits=general.bits, modules=apart)


def _measuring(
    plain: Weights, graph: Graph, calibrator: Calibrator | None, found: dict[str, ModuleReport]
) -> Callable[[str], Quantized]:
    """Quantizes a module and puts its error down."""
    modules = quantized_modules(graph)

    def run(name: str) -> Quantized:
        node, weight = modules[name], plain[f"{name}.weight"]
        how = ModuleQuantization(group_size=node.group_size, bits=node.bits)
        if calibrator is not None:
            made = calibrator(name)
        else:
            made = quantize(weight, node.group_size, node.bits, name=f"{name}.weight")
        rms, largest = errors(weight, made, node.bits)
        result = calibrator.results.get(name) if calibrator is not None else None
        method = "round" if calibrator is None or (result is not None and not result.kept) else "calibrated"
        found[name] = ModuleReport(
            name,
            weight.shape,
            how,
            rms,
            largest,
            method,
            None if result is None else min(result.calibrated, result.rounded),
            None if result is None else result.rounded,
        )
        return made

    return run


def _calibrator(described: Described, plain: Weights, graph: Graph, file: str | Path) -> Calibrator:
    from ..loading.describe import tokenizer_of
    from ..transforms.calibrate import Calibrator

    assert described.folder is not None  # it holds the weights
    tokenizer = tokenizer_of(described.folder, described.checkpoint)
    longest = min(ROW_TOKENS, described.config.max_position_embeddings)
    texts = read_calibration(Path(file), tokenizer, longest)
    return Calibrator(plain, described.graph, graph, texts)


def read_calibration(file: Path, tokenizer: Tokenizer, longest: int) -> list[list[int]]:
    """Token ids of calibration texts: each line's ``text`` of a ``.jsonl``, or a plain text cut into rows.

    Raises:
        InputError: a file that cannot be read, or that has too little text.
    """
    try:
        content = file.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", error)
        raise InputError(f"{file}: cannot be read as calibration text ({reason})") from None
    if file.suffix == ".jsonl":
        end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        rows = [(list(tokenizer.encode(text)) + end)[:longest] for text in _texts_of_lines(file, content)]
    else:
        ids = list(tokenizer.encode(content, add_special_tokens=False))
        begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        step = longest - len(begin)
        rows = [begin + ids[start : start + step] for start in range(0, len(ids), step)]
    kept: list[list[int]] = []
    count = 0
    for row in rows:
        if len(row) > 1 and count < CALIBRATION_TOKENS:
            kept.append(row)
            count += len(row)
    if len(kept) < 2:
        raise InputError(
            f"{file}: is too short to calibrate by", hint=f"give some {CALIBRATION_TOKENS:,} tokens of text"
        )
    return kept


def _texts_of_lines(file: Path, content: str) -> Iterator[str]:
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            text = None
        if not isinstance(text, str):
            raise InputError(
                f"{file}, line {number}: has no text to calibrate by", hint='each line must be like {"text": "..."}'
            )
        yield text


def _write(
    described: Described,
    settings: Quantization,
    weights: Weights,
    staging: Path,
    max_shard_size: int | str,
    progress: Progress | None,
) -> None:
    from ..checkpoint.huggingface.save_safetensors import save_safetensors
    from .saving import write_generation_config

    written = 0

    def reporting(info: TensorInfo, name: str) -> Callable[[], Any]:
        def read() -> Any:
            nonlocal written
            if progress is not None:
                progress(name, written, weights.nbytes)
            written += info.nbytes
            return weights[name]

        return read

    pairs = [(weights.info(name), reporting(weights.info(name), name)) for name in weights]
    save_safetensors(staging, pairs, max_shard_size=max_shard_size)
    if progress is not None:
        progress("", weights.nbytes, weights.nbytes)
    config = described.config.replace(
        quantization=settings, dtype=weights.dtype, architectures=[described.task.architecture]
    )
    config.save_pretrained(staging)
    write_generation_config(described.folder, described.config, staging)
    _copy_tokenizer(described, staging)


def _copy_tokenizer(described: Described, staging: Path) -> None:
    """The tokenizer, where there is one; a broken one must not keep weights from being quantized, but it is said."""
    from ..errors import TokenizerError
    from ..loading.describe import tokenizer_of

    assert described.folder is not None  # it holds the weights
    try:
        tokenizer_of(described.folder, described.checkpoint).save_pretrained(staging)
    except TokenizerError as error:
        warn(f"quantized without a tokenizer: {error}")

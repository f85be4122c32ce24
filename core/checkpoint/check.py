"""Checking a checkpoint against a graph's parameters, before a backend sees a byte of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..dtypes import is_float
from ..errors import CheckpointError, PolyllamaWarning
from .base import Checkpoint, ParameterLike, TensorInfo
from .causes import Findings, likely_causes
from .tensor_names import HEADS, Renaming, find_renaming, head_of
from .tensor_summary import grouped

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig

HARMLESS = ("*.rotary_emb.inv_freq",)
"""Stored by old versions of transformers; computed from the config instead."""

P = TypeVar("P", bound=ParameterLike)
_COMPARED_BYTES = 1 << 22


@dataclass(frozen=True)
class WeightMap(Mapping[str, str]):
    """Parameter name -> stored tensor name, in graph order.

    ``fresh``: the parameters that nothing is stored for. ``unused``: stored tensors of other tasks' heads.
    """

    stored: Mapping[str, str]
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = field(default=(), compare=False)

    def __getitem__(self, name: str) -> str:
        return self.stored[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def check(
    checkpoint: Checkpoint | Mapping[str, TensorInfo],
    parameters: Sequence[P],
    *,
    config: LlamaConfig | None = None,
    tied: bool | None = None,
    ignore: Iterable[str] = (),
    fresh: Iterable[str] | Callable[[P], bool] = (),
    path: Path | None = None,
    model_type: str | None = None,
) -> WeightMap:
    """Match stored tensors to a graph's parameters, or raise one ``CheckpointError`` that lists all that is wrong.

    A trunk stored without the graph's prefix or with another one ("model.", "transformer.", none) is matched, as
    transformers does between a base model and a model with a head. A task head that the checkpoint lacks altogether
    starts fresh, and heads of other tasks stay unused; both are said in one ``PolyllamaWarning``. A missing causal-LM
    head is an error, as such a model could not speak; so are integers where floats are wanted.

    Args:
        checkpoint: an open checkpoint, or its tensors alone.
        parameters: ``graph.parameters()``: name, shape and role of each; the role of a task head starts with "head".
        config: tells the causes apart more precisely, and whether embeddings are tied.
        tied: whether the causal-LM head is the embedding; by default ``config.tie_word_embeddings``.
        ignore: patterns (``*`` and ``?``) of stored names to leave out silently.
        fresh: further parameters that may start fresh: names, or a function of a parameter.
        path: what to call the checkpoint in messages; by default its own path.
        model_type: the architecture that the checkpoint's config.json names.

    >>> from polyllama.core.graph.node import Parameter
    >>> stored = {"norm.weight": TensorInfo("norm.weight", "bfloat16", (8,))}
    >>> dict(check(stored, [Parameter("model.norm.weight", (8,), "norm")]))
    {'model.norm.weight': 'norm.weight'}
    """
    opened = None if isinstance(checkpoint, Mapping) else checkpoint
    stored = checkpoint if isinstance(checkpoint, Mapping) else checkpoint.tensors()
    path = path or (opened.path if opened else None)
    if tied is None:
        tied = config is not None and config.tie_word_embeddings

    comparison = compare(
        stored, parameters, config=config, tied=tied, ignore=ignore, fresh=fresh, model_type=model_type, opened=opened
    )
    if comparison.serious.any():  # a head of another task explains what is missing, if anything is
        shown = comparison.all if comparison.all.missing else comparison.serious
        raise CheckpointError(_report(shown, path, len(parameters)))
    _warn(comparison.fresh, stored, comparison.unused, path)
    if comparison.tied_copy is not None:
        _check_tied_copy(opened, comparison.tied_copy, comparison.all, comparison.matched, path)
    return WeightMap(comparison.matched, tuple(p.name for p in comparison.fresh), tuple(comparison.unused))


@dataclass(frozen=True)
class Comparison:
    """Stored tensors beside a graph's parameters.

    Attributes:
        matched: parameter name -> stored name.
        fresh: parameters that may start from random values; `unused`: stored tensors of other tasks' heads.
        all: everything that does not fit; `serious`: without what is merely unused.
        tied_copy: a stored head that is tied to the embedding.
    """

    matched: Mapping[str, str]
    fresh: Sequence[ParameterLike]
    unused: Sequence[str]
    all: Findings
    serious: Findings
    tied_copy: TensorInfo | None


def compare(
    stored: Mapping[str, TensorInfo],
    parameters: Sequence[P],
    *,
    config: LlamaConfig | None,
    tied: bool,
    ignore: Iterable[str] = (),
    fresh: Iterable[str] | Callable[[P], bool] = (),
    model_type: str | None = None,
    opened: Checkpoint | None = None,
) -> Comparison:
    """What fits and what does not, by names, shapes and dtypes alone; arguments as for :func:`check`."""
    patterns = (*HARMLESS, *ignore)
    left = {name: info for name, info in stored.items() if not any(fnmatchcase(name, p) for p in patterns)}
    renaming = find_renaming(parameters, left)
    matched, missing = _match(parameters, left, renaming)
    fresh_parameters = _may_start_fresh(missing, left, fresh)
    missing = [p for p in missing if p not in fresh_parameters]

    findings = Findings(
        parameters=parameters,
        stored=left,
        renaming=renaming,
        missing=missing,
        unexpected=[left[name] for name in left if name not in matched.values()],
        misshaped=[
            (p, left[matched[p.name]]) for p in parameters if p.name in matched and _misshaped(p, left, matched)
        ],
        not_floats=[
            left[matched[p.name]]
            for p in parameters
            if p.name in matched and p.bits is None and not is_float(left[matched[p.name]].dtype)
        ],
        not_packed=[
            left[matched[p.name]]
            for p in parameters
            if p.name in matched and p.bits is not None and left[matched[p.name]].dtype != "uint32"
        ],
        config=config,
        model_type=model_type or getattr(opened, "model_type", None),
    )
    tied_copy = _tied_copy(findings, parameters, matched) if tied else None
    if tied_copy is not None:
        findings = findings.without({tied_copy.name})
    unused = _heads_of_other_tasks(findings, tied)
    serious = findings.without(unused)
    return Comparison(matched, fresh_parameters, unused, findings, serious, tied_copy)


def _match(
    parameters: Sequence[P], stored: Mapping[str, TensorInfo], renaming: Renaming
) -> tuple[dict[str, str], list[P]]:
    matched: dict[str, str] = {}
    missing: list[P] = []
    for parameter in parameters:
        name = renaming.stored_name(parameter)
        if name in stored:
            matched[parameter.name] = name
        else:
            missing.append(parameter)
    return matched, missing


def _misshaped(parameter: ParameterLike, stored: Mapping[str, TensorInfo], matched: Mapping[str, str]) -> bool:
    return stored[matched[parameter.name]].shape != tuple(parameter.shape)


def _may_start_fresh(
    missing: Sequence[P], stored: Mapping[str, TensorInfo], fresh: Iterable[str] | Callable[[P], bool]
) -> list[P]:
    """Of the missing: whole task heads that nothing is stored of, and what the caller allows."""
    allowed: Callable[[P], bool]
    if callable(fresh):
        allowed = fresh
    else:
        names = frozenset(fresh)

        def allowed(parameter: P) -> bool:
            return parameter.name in names

    stored_heads = {name.partition(".")[0] for name in stored}
    return [
        p
        for p in missing
        if allowed(p) or (p.of_head and head_of(p.name) != "lm_head" and p.name.partition(".")[0] not in stored_heads)
    ]


def _tied_copy(
    findings: Findings, parameters: Sequence[ParameterLike], matched: Mapping[str, str]
) -> TensorInfo | None:
    """The lm_head.weight that some tools store although it is the embedding, when it has the embedding's shape."""
    embedding = next((p for p in parameters if p.role == "embedding"), None)
    if embedding is None or embedding.name not in matched:
        return None
    return next(
        (i for i in findings.unexpected if i.name == "lm_head.weight" and i.shape == tuple(embedding.shape)), None
    )


def _heads_of_other_tasks(findings: Findings, tied: bool) -> list[str]:
    wanted = {p.name.partition(".")[0] for p in findings.parameters}
    if tied:
        wanted.add("lm_head")  # the graph has one, in the shape of its embedding
    return [i.name for i in findings.unexpected if (head := head_of(i.name)) is not None and head not in wanted]


def _report(findings: Findings, path: Path | None, total: int) -> str:
    def listed(kind: str, entries: Iterable[tuple[str, str]]) -> list[str]:
        return [f"  {kind:<11} {line}" for line in grouped(entries)]

    def sizes(shape: Sequence[int]) -> str:
        return f"[{', '.join(map(str, shape))}]"

    counts = [
        f"{len(items)} {what}"
        for items, what in (
            (findings.missing, "missing"),
            (findings.unexpected, "unexpected"),
            (findings.misshaped, "of the wrong shape"),
            (findings.not_floats, "not floating-point"),
            (findings.not_packed, "not packed"),
        )
        if items
    ]
    transposed = ", stored transposed"
    causes = likely_causes(findings)
    lines = [f"{path or 'the checkpoint'}: does not fit this model of {total} tensors: {', '.join(counts)}"]
    lines += [f"  likely cause: {cause}" for cause in causes]
    lines += listed("missing", ((p.name, f" {sizes(p.shape)}") for p in findings.missing))
    lines += listed("unexpected", ((i.name, f" {i.dtype} {sizes(i.shape)}") for i in findings.unexpected))
    lines += listed(
        "wrong shape",
        (
            (p.name, f": stored {sizes(i.shape)}, expected {sizes(p.shape)}{transposed if _turned(p, i) else ''}")
            for p, i in findings.misshaped
        ),
    )
    lines += listed("wrong dtype", ((i.name, f": stored {i.dtype}, expected floats") for i in findings.not_floats))
    lines += listed("wrong dtype", ((i.name, f": stored {i.dtype}, expected uint32") for i in findings.not_packed))
    return "\n".join(lines)


def _turned(parameter: ParameterLike, info: TensorInfo) -> bool:
    return len(info.shape) == 2 and info.shape[::-1] == tuple(parameter.shape)


def _warn(fresh: Sequence[ParameterLike], stored: Collection[str], unused: Sequence[str], path: Path | None) -> None:
    said = []
    for names, why in (
        ([p.name for p in fresh if p.name not in stored], "not stored"),
        ([p.name for p in fresh if p.name in stored], "left aside as asked"),
    ):
        if names:
            said.append(f"{', '.join(names)} {why}, starting from random values: train before use")
    if unused:
        tasks = sorted({HEADS[head] for name in unused if (head := head_of(name))})
        said.append(f"{', '.join(unused)} not used: a head of another task ({' or '.join(tasks)})")
    if said:
        warnings.warn(f"{path or 'the checkpoint'}: {'; '.join(said)}", PolyllamaWarning, stacklevel=3)


def _check_tied_copy(
    opened: Checkpoint | None, copy: TensorInfo, findings: Findings, matched: Mapping[str, str], path: Path | None
) -> None:
    """Say so when a head that is stored is not the embedding it is tied to, as the embedding is what gets used."""
    embedding = matched[next(p.name for p in findings.parameters if p.role == "embedding")]
    if opened is not None and not _same_bytes(opened, copy.name, embedding):
        warnings.warn(
            f"{path or 'the checkpoint'}: {copy.name} not used, though it differs from {embedding}: "
            "the config ties them; to use the stored head, override tie_word_embeddings=False",
            PolyllamaWarning,
            stacklevel=3,
        )


def _same_bytes(checkpoint: Checkpoint, first: str, second: str) -> bool:
    import numpy as np

    one, other = checkpoint.read(first), checkpoint.read(second)
    if one.dtype != other.dtype:
        return False
    one_bytes, other_bytes = (a.reshape(-1).view(np.uint8) for a in (one, other))
    return all(
        np.array_equal(one_bytes[start : start + _COMPARED_BYTES], other_bytes[start : start + _COMPARED_BYTES])
        for start in range(0, one_bytes.size, _COMPARED_BYTES)
    )

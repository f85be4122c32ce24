"""Checking a checkpoint against a graph's parameters, before a backend sees a byte of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..dtypes import is_float
from ..errors import CheckpointError, warn
from ..messages import counted, few
from .causes import Findings, likely_causes
from .protocol import Checkpoint, ParameterLike, TensorInfo, same_bytes
from .tensor_names import HEADS, find_renaming, head_of, is_buffer, plain_names, without_wrappers
from .tensor_summary import grouped

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig

P = TypeVar("P", bound=ParameterLike)


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

    Names are taken as a bare model has them (``plain_names``), rotary tables are left out, and a tied embedding may be
    stored as the head. A trunk stored without the graph's prefix or with another one ("model.", "transformer.", none)
    is matched, as transformers does between a base model and one with a head. A task head that the checkpoint lacks
    altogether starts fresh, and heads of other tasks stay unused; both are said in one ``PolyllamaWarning``. A
    missing causal-LM head is an error, as such a model could not speak; so are integers where floats are wanted.

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
    _warn(comparison, stored, path)
    if comparison.tied_copy is not None:
        _check_tied_copy(opened, comparison, path)
    return WeightMap(comparison.matched, tuple(p.name for p in comparison.fresh), tuple(comparison.unused))


@dataclass(frozen=True)
class Comparison:
    """Stored tensors beside a graph's parameters.

    Attributes:
        matched: parameter name -> stored name.
        fresh: parameters that may start from random values; `unused`: stored tensors of other tasks' heads;
            `unused_heads`: which heads these are.
        all: everything that does not fit; `serious`: without what is merely unused.
        tied_copy: the stored name of a head that is tied to the embedding.
        unlisted: stored tensors that the index omits and that nothing needs; `found_unlisted`: those that are used.
        misplaced: tensors that are used -> the file in which the index places them, though another holds them.
        lost: tensors that the index names, no file holds and nothing needs.
    """

    matched: Mapping[str, str]
    fresh: Sequence[ParameterLike]
    unused: Sequence[str]
    all: Findings
    serious: Findings
    tied_copy: str | None
    unlisted: Sequence[str] = ()
    found_unlisted: Sequence[str] = ()
    unused_heads: Sequence[str] = ()
    misplaced: Mapping[str, str] = field(default_factory=dict)
    lost: Sequence[str] = ()


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
    names, aliases = _plain(parameters, stored, getattr(opened, "aliases", {}))
    plain = {name: replace(stored[there], name=name) for name, there in names.items()}
    left = _to_match(plain, names, parameters, tuple(ignore))
    matched, missing = _match(parameters, left, aliases)
    heads = {p.name: head for p in missing if tied and (head := _tied_head(p, parameters, plain))}  # set aside, maybe
    matched, left = {**matched, **heads}, {**left, **{head: plain[head] for head in heads.values()}}
    missing = [p for p in missing if p.name not in heads]
    lost: Mapping[str, str] = getattr(opened, "lost", {})
    fresh_parameters = _may_start_fresh(missing, (*left, *lost), fresh)
    findings = _findings(
        parameters,
        left,
        matched,
        missing=[p for p in missing if p not in fresh_parameters],
        config=config,
        model_type=model_type or getattr(opened, "model_type", None),
        ignored=getattr(opened, "ignored", ()),
        lost=lost,
    )
    tied_copy = _tied_copy(findings, parameters, matched) if tied else None
    findings = findings.without(() if tied_copy is None else {tied_copy.name})
    unlisted: Collection[str] = getattr(opened, "unlisted", ())
    findings = findings.without(aside := [i.name for i in findings.unexpected if names[i.name] in unlisted])
    unused = _heads_of_other_tasks(findings, tied)
    misplaced: Mapping[str, str] = getattr(opened, "misplaced", {})
    used = [names[name] for name in matched.values()]
    return Comparison(
        matched={p.name: names[matched[p.name]] for p in parameters if p.name in matched},
        fresh=fresh_parameters,
        unused=[names[name] for name in unused],
        unused_heads=sorted({head for name in unused if (head := head_of(name))}),
        all=findings,
        serious=findings.without(unused),
        tied_copy=None if tied_copy is None else names[tied_copy.name],
        unlisted=[names[name] for name in aside],
        found_unlisted=[name for name in used if name in unlisted],
        misplaced={name: misplaced[name] for name in used if name in misplaced},
        lost=tuple(lost),
    )


def _plain(
    parameters: Sequence[P], stored: Collection[str], aliases: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Names as a bare model has them: of what is stored -> its stored name; of an alias -> of what is stored for it."""
    bare = {without_wrappers(name) for name in stored}
    fitting = [name for name in aliases if without_wrappers(name) not in bare]
    names = plain_names(parameters, [*stored, *fitting])
    held = {name: there for name, there in names.items() if there in stored}
    plain_of = {there: name for name, there in held.items()}
    shared = {name: aliases[there] for name, there in names.items() if there not in stored}
    return held, {name: plain_of[kept] for name, kept in shared.items() if kept in plain_of}


def _to_match(
    plain: Mapping[str, TensorInfo], names: Mapping[str, str], parameters: Sequence[P], ignore: Sequence[str]
) -> dict[str, TensorInfo]:
    """The tensors that a parameter may be found among, by the names that a bare model has for them."""
    wanted = {p.name for p in parameters}
    return {
        name: info
        for name, info in plain.items()
        if not any(fnmatchcase(one, pattern) for one in (name, names[name]) for pattern in ignore)
        and (name in wanted or not is_buffer(info))
    }


def _match(
    parameters: Sequence[P], stored: Mapping[str, TensorInfo], aliases: Mapping[str, str]
) -> tuple[dict[str, str], list[P]]:
    """Parameter name -> name of what is stored for it, and the parameters that nothing is stored for."""
    renaming = find_renaming(parameters, stored)
    matched: dict[str, str] = {}
    missing: list[P] = []
    for parameter in parameters:
        name = renaming.stored_name(parameter)
        shared = aliases.get(name)
        if name in stored:
            matched[parameter.name] = name
        elif shared is not None and shared in stored:
            matched[parameter.name] = shared
        else:
            missing.append(parameter)
    return matched, missing


def _tied_head(
    parameter: ParameterLike, parameters: Sequence[ParameterLike], stored: Mapping[str, TensorInfo]
) -> str | None:
    """Where a tied embedding is stored that is not there by its own name: some tools keep the head of the two."""
    module, _, part = parameter.name.rpartition(".")
    head = stored.get(f"lm_head.{part}")
    embedding = next((p.name.rpartition(".")[0] for p in parameters if p.role == "embedding"), None)
    return head.name if module == embedding and head is not None and head.shape == tuple(parameter.shape) else None


def _findings(
    parameters: Sequence[P], stored: Mapping[str, TensorInfo], matched: Mapping[str, str], **more: Any
) -> Findings:
    found = [(p, stored[matched[p.name]]) for p in parameters if p.name in matched]
    used = set(matched.values())
    return Findings(
        parameters=parameters,
        stored=stored,
        unexpected=[info for name, info in stored.items() if name not in used],
        misshaped=[(p, info) for p, info in found if info.shape != tuple(p.shape)],
        not_floats=[info for p, info in found if p.bits is None and not is_float(info.dtype)],
        not_packed=[info for p, info in found if p.bits is not None and info.dtype != "uint32"],
        **more,
    )


def _may_start_fresh(
    missing: Sequence[P], stored: Iterable[str], fresh: Iterable[str] | Callable[[P], bool]
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
    lines = [f"{path or 'the checkpoint'}: does not fit this model of {counted(total, 'tensor')}: {', '.join(counts)}"]
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


def _warn(found: Comparison, stored: Collection[str], path: Path | None) -> None:
    said = []
    for names, why in (
        ([p.name for p in found.fresh if p.name not in stored], "not stored"),
        ([p.name for p in found.fresh if p.name in stored], "left aside as asked"),
    ):
        if names:
            said.append(f"{', '.join(names)} {why}, starting from random values: train before use")
    if found.unused:
        tasks = sorted(HEADS[head] for head in found.unused_heads)
        said.append(f"{', '.join(found.unused)} not used: a head of another task ({' or '.join(tasks)})")
    if found.unlisted:
        said.append(f"{few(found.unlisted, 4)} not used: the model needs no such tensor, and the index omits it")
    if found.found_unlisted:
        said.append(f"{few(found.found_unlisted, 4)} used, though the index omits it")
    if found.misplaced:
        places = few([f"{name} (in {file})" for name, file in found.misplaced.items()], 4)
        said.append(f"{places} found in another file than the index says, and used")
    if found.lost:
        said.append(f"the index names {few(found.lost, 4)}, which no file holds and the model does not need")
    if said:
        warn(f"{path or 'the checkpoint'}: {'; '.join(said)}")


def _check_tied_copy(opened: Checkpoint | None, found: Comparison, path: Path | None) -> None:
    """Say so when a head that is stored is not the embedding it is tied to, as the embedding is what gets used."""
    embedding = found.matched[next(p.name for p in found.all.parameters if p.role == "embedding")]
    assert found.tied_copy is not None
    if opened is not None and not same_bytes(opened.read(found.tied_copy), opened.read(embedding)):
        warn(
            f"{path or 'the checkpoint'}: {found.tied_copy} not used, though it differs from {embedding}: "
            "the config ties them; to use the stored head, override tie_word_embeddings=False"
        )

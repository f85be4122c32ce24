"""Bug or rounding? Two backends on one model: the first node whose output its own inputs and dtype do not explain.

Each backend's run is recorded node by node (the ``observe`` callback of ``model.forward``). Then the float64 spec runs
every node again on *what that backend itself gave the node*, and the node's output is held to the bound of
:mod:`polyllama.testing.rounding`. Errors of earlier nodes so never count against later ones, the verdict does not
depend on how far rounding had already driven the two apart, and it says which of the two is off. A node that a backend
fused into another is judged with it. Watching may keep a backend from its fastest kernels, so layers are judged once
more by the hidden states of a pass that nobody watches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.dtypes import meant_dtype
from ..core.errors import InputError, warn
from ..core.forward.arguments import ForwardArguments
from ..core.forward.forward import Engine
from ..core.forward.spec_model import SpecModel
from ..core.graph.graph import Graph
from ..core.graph.node import Node
from ..core.graph.nodes import Attention
from ..core.graph.rope import Rope
from ..core.messages import mention
from .candidate import as_float64
from .measure import Measurement, compare
from .oracle import RUNS, as_is
from .rounding import Precision, RoundingContext, expected

if TYPE_CHECKING:
    from ..core.backend.protocol import Backend, Model
    from ..core.loading.describe import Described

DEFAULT_PROMPT = "Once upon a time"
EQUAL, ROUNDING, DIFFERS = "equal", "rounding", "differs"


class Recorder:
    """Collects what each node gave, as copies: a backend may go on to work in the same memory."""

    def __init__(self, graph: Graph, read: Callable[[Any], Any]) -> None:
        self.values: dict[str, Any] = {}
        self._read = read
        self._attention = {
            part.name: node.name
            for node in graph.walk()
            if isinstance(node, Attention)
            for part in (node.q, node.k, node.v)
            if hasattr(part, "name")
        }
        self._current = ""

    def __call__(self, node: Node, y: Any) -> None:
        if isinstance(node, Rope):
            name = f"{self._current}.rope.{'k' if f'{self._current}.rope.q' in self.values else 'q'}"
        else:
            name = _name_of(node)
            self._current = self._attention.get(name, self._current)
        self.values[name] = self._read(y)


def _name_of(node: Node) -> str:
    """A node's name; one that holds nothing (pooling, dropout) has none, and is called what it is."""
    return node.path or f"({type(node).__name__})"


@dataclass(frozen=True)
class NodeReport:
    """One node of one backend's run. ``distance``: how far the two backends' outputs lie apart, relative."""

    node: str
    kind: str
    backend: str
    measured: Measurement
    distance: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        m = self.measured
        finite = bool(np.isfinite(m.error))
        return {
            "node": self.node,
            "kind": self.kind,
            "backend": self.backend,
            "error": m.error if finite else None,
            "bound": m.bound,
            "detail": m.detail,
            "distance": self.distance,
        }


class ReplayContext(RoundingContext):
    """Runs each node on what the recorded backend gave its children, and judges what it made of that."""

    def __init__(self, *args: Any, recorded: Mapping[str, Any], judged: list[Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recorded, self.judged = recorded, judged
        self._attention = ""
        self._ropes = 0

    def run(self, node: Node, x: Any) -> Any:
        x = self._rounded_input(node, x)
        self._enter(node, x)
        if isinstance(node, Attention):
            self._attention, self._ropes = node.name, 0
        y = node.apply(self.xp, self.weights, x, self)
        y = self.disturb(y, self.local(node, x, y))
        name = self._name(node)
        found = self.recorded.get(name)
        if found is not None and found.shape == (self.exact, *y.shape[1:]):
            runs = np.reshape(y, (1 + RUNS, self.exact, *y.shape[1:]))
            wanted = expected(runs[0], runs[1:], self.precision)
            self.judged.append((name, type(node).__name__, compare(found, wanted)))
            y = np.concatenate([found] * (1 + RUNS))
        return self._leave(node, y)

    def _name(self, node: Node) -> str:
        if not isinstance(node, Rope):
            return _name_of(node)
        self._ropes += 1
        return f"{self._attention}.rope.{'q' if self._ropes == 1 else 'k'}"


class RoundedWeights(Mapping[str, Any]):
    """A checkpoint's weights as a dtype holds them, in float64; the last one stays at hand."""

    def __init__(self, weights: Mapping[str, Any], dtype: str) -> None:
        self._weights, self._dtype = weights, dtype
        self._last: tuple[str, Any] = ("", None)

    def __getitem__(self, name: str) -> Any:
        from ..core.dtypes import numpy_dtype

        if self._last[0] != name:
            array = np.asarray(self._weights[name])
            if array.dtype != np.uint32:  # packed words stay what they are
                array = array.astype(numpy_dtype(self._dtype)).astype(np.float64)
            self._last = name, array
        return self._last[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


@dataclass(frozen=True)
class Run:
    """One backend's recorded run, judged."""

    name: str
    device: str
    dtype: str
    seen: str
    observed: bool
    values: Mapping[str, Any]
    nodes: tuple[NodeReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        worst = max(self.nodes, key=lambda n: n.measured.ratio, default=None)
        return {
            "name": self.name,
            "device": self.device,
            "dtype": self.dtype,
            "bounds_of": self.seen,
            "every_node_seen": self.observed,
            "nodes": len(self.nodes),
            "closest_to_its_bound": None if worst is None else worst.to_dict(),
        }


@dataclass(frozen=True)
class Comparison:
    """What comparing two backends found.

    Attributes:
        verdict: ``"equal"`` (every output the same), ``"rounding"`` or ``"differs"``.
        first: the first node that rounding does not explain.
        distances: per node that both show, how far apart their outputs are, relative to the largest value.
    """

    model: str
    token_ids: tuple[int, ...]
    runs: tuple[Run, Run]
    verdict: str
    first: NodeReport | None
    distances: Mapping[str, float] = field(default_factory=dict)

    @property
    def last_distance(self) -> float:
        """How far apart the last outputs that both show are."""
        return list(self.distances.values())[-1] if self.distances else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "model": self.model,
            "verdict": self.verdict,
            "token_ids": list(self.token_ids),
            "backends": [run.to_dict() for run in self.runs],
            "first": None if self.first is None else self.first.to_dict(),
            "distances": {n: d if np.isfinite(d) else None for n, d in self.distances.items()},
        }


def compare_backends(
    model: str | Path,
    backends: Sequence[str],
    *,
    prompt: str | None = None,
    token_ids: Sequence[int] | None = None,
    dtype: str = "auto",
    **options: Any,
) -> Comparison:
    """Run a model on two backends and find the first node that differs by more than its dtype explains.

    Args:
        model: a name, repository or folder.
        backends: two of them, each with a device if wanted.
        prompt: text; or `token_ids` instead.
        dtype: for each backend that computes in it; the others run in their default, with a warning.
        options: ``task``, ``revision``, ``load_format``, ``config_overrides`` as for loading.

    Raises:
        PolyllamaError: as loading does; `backends` that are not two.
    """
    from ..core.loading.describe import describe
    from ..core.settings.schema import load_settings

    if len(backends) != 2:
        raise InputError(f"two backends are compared, {len(backends)} given", hint="write --backends torch,reference")
    if not all(backends):
        raise InputError("backends holds an empty name", hint="write --backends torch,reference")
    described = describe(model, settings=load_settings(), **options)
    _check_dtype(described, backends, dtype)
    ids = np.asarray([_ids(described, prompt, token_ids)])
    first, second = (_record(described, name, dtype, ids) for name in backends)
    distances = {
        name: _distance(first.values[name], second.values[name])
        for name in first.values
        if name in second.values and first.values[name].shape == second.values[name].shape
    }
    failing = [(index, n) for run in (first, second) for index, n in enumerate(run.nodes) if not n.measured.passed]
    offender = min(failing, key=lambda item: item[0], default=(0, None))[1]
    if offender is not None:
        verdict = DIFFERS
        offender = NodeReport(
            offender.node, offender.kind, offender.backend, offender.measured, distances.get(offender.node)
        )
    else:
        verdict = EQUAL if distances and not any(distances.values()) else ROUNDING
    return Comparison(str(model), tuple(ids[0].tolist()), (first, second), verdict, offender, distances)


def _distance(a: Any, b: Any) -> float:
    scale = float(np.max(np.abs(a), initial=0.0)) or 1.0
    return float(np.max(np.abs(a - b), initial=0.0)) / scale


def _ids(described: Described, prompt: str | None, token_ids: Sequence[int] | None) -> list[int]:
    if token_ids is not None:
        if prompt is not None:
            raise InputError(mention("prompt") + " and token_ids are both given", hint="give one of them")
        return list(token_ids)
    from ..core.loading.describe import tokenizer_of

    if described.folder is None:
        raise InputError("a model made from a config alone has no tokenizer", hint="give token_ids")
    ids = tokenizer_of(described.folder, described.checkpoint).encode(DEFAULT_PROMPT if prompt is None else prompt)
    if not ids:
        raise InputError("the prompt is empty", hint="give some text")
    return list(ids)


def _record(described: Described, name: str, dtype: str, ids: Any) -> Run:
    from ..core.backend.choice import choose_backend
    from ..core.backend.protocol import RealizeOptions
    from ..core.loading.read_weights import weights_for

    choice = choose_backend(name, described.plugins.backends())
    weights = weights_for(described, described.settings)
    model = choice.backend.realize(
        described.graph,
        weights,
        RealizeOptions(_dtype_for(choice.backend, dtype), choice.device),
        config=described.config,
        task=described.task,
    )
    Precision.of(model.dtype)
    reader = _Reader(model)
    watched, unwatched = _watched(model, reader, ids), _unwatched(model, reader, ids)
    if not watched and not unwatched:
        raise InputError(f"backend {name!r} shows neither nodes nor hidden states", hint="it cannot be compared")
    rounded, seen = RoundedWeights(weights, model.dtype), reader.seen
    nodes = tuple(
        NodeReport(node, kind, name, measured)
        for values in (watched, unwatched)
        for node, kind, measured in (_replay(described, rounded, values, seen, ids) if values else ())
    )
    return Run(name, model.device, model.dtype, seen, bool(watched), watched or unwatched, nodes)


def _check_dtype(described: Described, backends: Sequence[str], dtype: str) -> None:
    """Refuse a dtype that none of the backends computes in: a misspelt one, as a rule."""
    from ..core.backend.choice import choose_backend

    known = [
        getattr(choose_backend(name, described.plugins.backends()).backend, "dtypes", (dtype,)) for name in backends
    ]
    if dtype != "auto" and not any(dtype in names for names in known):
        every = list(dict.fromkeys(name for names in known for name in names))
        hint = meant_dtype(dtype, every, f"they have {', '.join(every)}")
        raise InputError(f"neither backend computes in {dtype!r}", hint=hint)


def _dtype_for(backend: Backend, dtype: str) -> str:
    declared = getattr(backend, "dtypes", None)
    if dtype == "auto" or declared is None or dtype in declared:
        return dtype
    warn(f"backend {backend.name!r} does not compute in {dtype}: it runs in its default dtype")
    return "auto"


class _Reader:
    """Native arrays as float64; ``seen`` is the dtype whose bounds hold for what came out."""

    def __init__(self, model: Model) -> None:
        self.model, self.seen = model, model.dtype

    def __call__(self, array: Any) -> Any:
        if self.model.dtype == "float64":
            wide = as_float64(array)
            if wide is not None:
                return wide
            self.seen = "float32"  # to_numpy gives no more
        return np.array(self.model.to_numpy(array), np.float64)


def _watched(model: Model, read: _Reader, ids: Any) -> dict[str, Any]:
    """What each node gave; nothing where the backend does not show its nodes."""
    recorder = Recorder(model.graph, read)
    try:
        model.forward(ForwardArguments(input_ids=ids, observe=recorder))
    except InputError:  # it does not let its nodes be watched
        return {}
    return recorder.values


def _unwatched(model: Model, read: _Reader, ids: Any) -> dict[str, Any]:
    """What can be seen of a pass without watching its nodes: hidden states and logits."""
    output: Any = model.forward(ForwardArguments(input_ids=ids, output_hidden_states=True))
    decoder = model.graph.decoder
    names = [node.path for node in (decoder.embed, *decoder.layers[:-1], decoder.norm)]
    values = {name: read(state) for name, state in zip(names, output.hidden_states or (), strict=False)}
    head = model.graph.head
    if head is not None and head.path and "logits" in output:
        values[head.path] = read(output.logits)
    return values


def _replay(
    described: Described, weights: Mapping[str, Any], values: Mapping[str, Any], seen: str, ids: Any
) -> list[tuple[str, str, Measurement]]:
    import numpy as xp

    judged: list[tuple[str, str, Measurement]] = []
    context = functools.partial(
        ReplayContext, precision=Precision.of(seen), exact=len(ids), recorded=values, judged=judged
    )
    engine = Engine(xp, weights, as_frequencies=lambda f: f.astype(np.float64), to_host=as_is, context=context)
    spec = SpecModel(
        described.graph,
        described.config,
        described.task,
        engine,
        dtype="float64",
        stored_dtype="float64",
        device="cpu",
        as_array=as_is,
        to_numpy=as_is,
    )
    rows = np.concatenate([ids] * (1 + RUNS))
    # All text: without a mask a head of whole rows could not know, with one nothing else changes.
    spec.forward(ForwardArguments(input_ids=rows, attention_mask=np.ones_like(rows)))
    return judged

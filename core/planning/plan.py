"""What a model would take, and whether it would load, before anything is loaded: ``Llama.plan``.

From headers and metadata only: no weights are read, no framework is imported.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..backend import Backend, Considered, choose_backend, load_backend
from ..devices import DeviceMemory, find_devices, memory_for
from ..errors import BackendUnavailableError, InputError, PolyllamaError, PolyllamaWarning
from ..graph import Graph, Parameter
from ..messages import mention, subject
from .memory import MemoryEstimate, Workload, estimate, tensor_bytes
from .source import Facts, find_facts

if TYPE_CHECKING:
    from pathlib import Path

    from ..config import LlamaConfig
    from ..settings import Settings

DEFAULT_CONTEXT = 4096
QUANTIZATIONS = (None, "int8", "int4")
DTYPES = ("float32", "bfloat16")
"""What is shown beside a backend's own choice."""

SPARE = 0.9
"""How much of a memory a model may fill to count as fitting: frameworks take some themselves."""


@dataclass(frozen=True)
class Asked:
    """What a plan is for; see :meth:`polyllama.core.model.Llama.plan`."""

    backend: str | None
    device: str | None
    dtype: str
    quantize: str | None
    batch: int
    context: int
    prompt: int
    prefill_chunk_size: int | None
    kv_cache: str = "auto"


@dataclass(frozen=True)
class Fit:
    """A checkpoint beside its configuration.

    Attributes:
        problems: one line each: missing, unexpected, of the wrong shape or dtype.
        causes: what most likely explains them.
    """

    ok: bool
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong_shape: tuple[str, ...] = ()
    wrong_dtype: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    started_fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """One way to run the model.

    Attributes:
        quantize: what weights are quantized to while loading; ``None`` as they are stored.
        memory: what it takes; ``None`` where the backend does not do this, for which `reason` says why.
        fits: whether the device has that much; ``None`` where its memory is not known.
    """

    backend: str
    device: str
    dtype: str
    quantize: str | None
    memory: MemoryEstimate | None
    available: int | None
    fits: bool | None
    reason: str | None = None


@dataclass(frozen=True)
class Plan:
    """The answer of ``Llama.plan``; ``print(plan)`` shows it, ``to_dict()`` is for programs.

    Attributes:
        known_from: ``"files"``, ``"headers"`` (of the Hub), ``"config"`` or ``"registry"``.
        fit: whether the stored tensors are what the configuration asks for; ``None`` where they are not known.
        options: every backend, dtype and quantization that was looked at.
        chosen: the one that ``Llama.load`` would take; ``None`` where no backend can run.
        considered: why each backend was or was not taken.
        suggestion: arguments under which it fits, where what was asked for does not; ``None`` where nothing is needed
            or nothing helps, which `advice` says.
    """

    model: str
    known_from: str
    task: str
    parameters: int
    stored_bytes: int | None
    stored_dtype: str
    asked: Asked
    fit: Fit | None
    devices: tuple[DeviceMemory, ...]
    options: tuple[Option, ...]
    chosen: Option | None
    considered: tuple[Considered, ...]
    suggestion: Mapping[str, Any] | None
    advice: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; each option's memory with its sums."""
        data = dataclasses.asdict(self)
        for option, made in zip((*self.options, self.chosen), (*data["options"], data["chosen"]), strict=True):
            if option is not None and option.memory is not None:
                made["memory"] |= {"running": option.memory.running, "peak": option.memory.peak}
        return data

    def __str__(self) -> str:
        from .text import plan_text

        return plan_text(self)


def plan(
    source: str | Path | LlamaConfig,
    *,
    backend: str | None = None,
    device: str | None = None,
    dtype: str = "auto",
    quantize: str | None = None,
    batch: int = 1,
    context: int | None = None,
    prompt: int | None = None,
    prefill_chunk_size: int | None = None,
    task: str | None = None,
    revision: str | None = None,
    offline: bool | None = None,
    config_overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """See :meth:`polyllama.core.model.Llama.plan`."""
    from ..settings import settings_of_call
    from .advice import advise

    settings = settings_of_call(backend=backend, device=device, dtype=dtype, quantize=quantize, offline=offline)
    facts = find_facts(source, task=task, revision=revision, overrides=dict(config_overrides or {}), settings=settings)
    asked = _asked(facts, settings, batch, context, prompt, prefill_chunk_size)
    devices = find_devices()
    planner = Planner(facts, asked, devices)
    chosen, considered = planner.chosen()
    options = planner.options(None if backend is None else backend.partition(":")[0])
    suggestion, advice = advise(planner, chosen)
    tensors = facts.tensors
    return Plan(
        model=facts.name,
        known_from=facts.known_from,
        task=facts.task.name,
        parameters=facts.graph.num_parameters(),
        stored_bytes=None if tensors is None else sum(info.nbytes for info in tensors.values()),
        stored_dtype=facts.stored_dtype,
        asked=asked,
        fit=compare_with_graph(facts),
        devices=devices,
        options=options,
        chosen=chosen,
        considered=considered,
        suggestion=suggestion,
        advice=advice,
        notes=tuple(dict.fromkeys([*facts.notes, *planner.notes])),
    )


def _asked(
    facts: Facts, settings: Settings, batch: int, context: int | None, prompt: int | None, chunk: int | None
) -> Asked:
    longest = facts.config.max_position_embeddings
    wanted = min(longest, DEFAULT_CONTEXT) if context is None else context
    given = {"batch": batch, "context": wanted, "prompt": wanted if prompt is None else prompt}
    if chunk is not None:
        given["prefill_chunk_size"] = chunk
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(subject(name, value) + f" is {value!r}, wanted a positive whole number")
    if given["prompt"] > wanted:
        raise InputError(
            mention("prompt", given["prompt"]) + " is longer than " + mention("context", wanted),
            hint="context counts both",
        )
    if context is None and wanted < longest:
        facts.notes.append(f"context {wanted} is planned for, the model goes to {longest}: say context=... for more")
    elif wanted > longest:
        facts.notes.append(f"context {wanted} is more than the model was made for ({longest})")
    return Asked(
        settings.backend,
        settings.device,
        settings.dtype,
        settings.quantize,
        batch,
        wanted,
        given["prompt"],
        chunk,
        settings.kv_cache,
    )


def compare_with_graph(facts: Facts) -> Fit | None:
    """Whether the stored tensors are the graph's; ``None`` where what is stored is not known."""
    if facts.tensors is None:
        return None
    from ..checkpoint.causes import likely_causes
    from ..checkpoint.check import compare

    comparison = compare(
        facts.tensors,
        facts.graph.parameters(),
        config=facts.config,
        tied=facts.config.tie_word_embeddings,
        model_type=facts.model_type,
    )
    found = comparison.serious
    if not found.any():
        return Fit(True, started_fresh=tuple(p.name for p in comparison.fresh), unused=tuple(comparison.unused))
    shown = comparison.all if comparison.all.missing else found
    return Fit(
        ok=False,
        missing=tuple(p.name for p in shown.missing),
        unexpected=tuple(info.name for info in shown.unexpected),
        wrong_shape=tuple(
            f"{p.name}: stored {list(info.shape)}, expected {list(p.shape)}" for p, info in shown.misshaped
        ),
        wrong_dtype=tuple(f"{info.name}: stored {info.dtype}" for info in (*shown.not_floats, *shown.not_packed)),
        causes=tuple(likely_causes(shown)),
    )


class Planner:
    """Works out options for one model."""

    def __init__(self, facts: Facts, asked: Asked, devices: tuple[DeviceMemory, ...]) -> None:
        self.facts, self.asked, self.devices = facts, asked, devices
        self.notes: list[str] = []
        self.refusal = ""
        self._graphs: dict[str | None, Graph | str] = {None: facts.graph}
        self._parameters: dict[str | None, tuple[Parameter, ...]] = {None: facts.graph.parameters()}
        self._stored = self._stored_bytes()

    def chosen(self) -> tuple[Option | None, tuple[Considered, ...]]:
        """What loading would take, with every reason."""
        try:
            choice = choose_backend(self.asked.backend, self.facts.plugins.backends(), self.asked.device)
        except BackendUnavailableError as error:  # a name that nobody has is a mistake, and raised
            self.refusal = str(error)
            return None, ()
        device = choice.device or _first(choice.backend)
        return self.option(choice.backend, device, self.asked.dtype, self.asked.quantize), choice.considered

    def options(self, only: str | None) -> tuple[Option, ...]:
        """Every usable backend (or one) on its devices, with its own dtype and others, plain and quantized."""
        found: list[Option] = []
        for name, source in self.facts.plugins.backends().items():
            if only not in (None, "auto", "cuda", name) or (only == "cuda" and name != "torch"):
                continue
            try:
                backend = load_backend(source)
                availability = backend.availability()
            except Exception as error:  # a broken plugin is not an option, and is named
                self.notes.append(f"backend {name!r} is left out: {error}")
                continue
            if not availability.usable:
                continue
            for device in availability.devices or ("cpu",):
                found += self._on(backend, device)
        return tuple(found)

    def _on(self, backend: Backend, device: str) -> list[Option]:
        asked, found, seen = self.asked, [], set()
        dtypes = (asked.dtype,) if asked.dtype != "auto" else ("auto", *DTYPES)
        quantizations: tuple[str | None, ...] = (asked.quantize,) if asked.quantize is not None else QUANTIZATIONS
        if self.facts.config.quantization is not None:
            quantizations = (None,)
        for dtype in dtypes:
            for quantize in quantizations:
                option = self.option(backend, device, dtype, quantize)
                if (option.dtype, quantize) in seen or (option.memory is None and asked.dtype == "auto"):
                    continue
                seen.add((option.dtype, quantize))
                found.append(option)
        return found

    def option(self, backend: Backend, device: str, dtype: str, quantize: str | None, **changes: Any) -> Option:
        """One way to run it; `changes` are fields of :class:`Asked`."""
        asked = dataclasses.replace(self.asked, **changes)
        memory = memory_for(device, self.devices)
        available = None if memory is None else memory.free
        graph = self.graph(quantize)
        if isinstance(graph, str):
            return Option(backend.name, device, dtype, quantize, None, available, None, graph)
        workload = Workload(
            graph=graph,
            config=self.facts.config,
            task=self.facts.task,
            batch=asked.batch,
            context=asked.context,
            prompt=min(asked.prompt, asked.context),
            chunk=asked.prefill_chunk_size,
            dtype=dtype,
            stored_dtype=self.facts.stored_dtype,
            device=device,
            stored=self._stored_as(dtype),
            mapped=self.facts.mapped,
            quantized_while_loading=quantize is not None,
            kv_cache=asked.kv_cache if asked.kv_cache in getattr(backend, "kv_caches", ()) else "auto",
            parameters=self._parameters[quantize],
        )
        try:
            needed = estimate(backend, workload)
        except PolyllamaError as error:
            return Option(backend.name, device, dtype, quantize, None, available, None, error.message)
        fits = None if available is None else needed.peak <= available * SPARE
        return Option(backend.name, device, needed.dtype, quantize, needed, available, fits)

    def graph(self, quantize: str | None) -> Graph | str:
        """The graph, quantized; a sentence where it cannot be."""
        if quantize not in self._graphs:
            found = self._graphs[quantize] = self._quantized(str(quantize))
            self._parameters[quantize] = () if isinstance(found, str) else found.parameters()
        return self._graphs[quantize]

    def _quantized(self, text: str) -> Graph | str:
        from ..quantization.settings import Quantization, asks_for_group, parse_quantize
        from ..quantization.transform import plan as plan_quantization
        from ..quantization.transform import quantize_graph

        wanted = parse_quantize(text)
        if self.facts.config.quantization is not None:
            return f"the weights are quantized already ({self.facts.config.quantization})"
        settings = Quantization(group_size=wanted.group_size, bits=wanted.bits)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PolyllamaWarning)  # loading says it
                group = asks_for_group(text)
                return quantize_graph(
                    self.facts.graph, plan_quantization(self.facts.graph, settings, group_is_asked_for=group)
                )
        except PolyllamaError as error:
            return error.message

    def _stored_as(self, dtype: str) -> dict[str, int]:
        """Bytes of what a backend is handed; random weights are made in the dtype that is asked for."""
        if self.facts.mapped or dtype == "auto":
            return self._stored
        return {p.name: tensor_bytes(p, dtype) for p in self._parameters[None]}

    def _stored_bytes(self) -> dict[str, int]:
        """Parameter name -> bytes as it is stored, as far as the stored shapes are right."""
        facts = self.facts
        assumed = {p.name: tensor_bytes(p, facts.stored_dtype) for p in facts.graph.parameters()}
        if facts.tensors is None:
            return assumed
        from ..checkpoint.names import find_renaming

        renaming = find_renaming(facts.graph.parameters(), facts.tensors)
        for parameter in facts.graph.parameters():
            info = facts.tensors.get(renaming.stored_name(parameter))
            if info is not None:
                assumed[parameter.name] = info.nbytes
        return assumed


def _first(backend: Backend) -> str:
    devices: Sequence[str] = backend.availability().devices
    return devices[0] if devices else "cpu"

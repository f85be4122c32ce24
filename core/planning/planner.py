"""Trying dtypes, quantizations and backends for what fits."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

from ..backend.choice import Considered, choose_backend, load_backend
from ..backend.protocol import Backend
from ..errors import BackendUnavailableError, PolyllamaError, PolyllamaWarning
from ..graph.graph import Graph
from ..graph.node import Parameter
from ..machine.devices import DeviceMemory, memory_for
from ..memory.estimate import Workload, estimate, tensor_bytes
from .facts import Facts
from .result import Asked, Option

QUANTIZATIONS = (None, "int8", "int4")


DTYPES = ("float32", "bfloat16")
"""What is shown beside a backend's own choice."""


SPARE = 0.9
"""How much of a memory a model may fill to count as fitting: frameworks take some themselves."""


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
        from ..quantization.scheme import Quantization, asks_for_group, parse_quantize
        from ..transforms.quantize_graph import plan as plan_quantization
        from ..transforms.quantize_graph import quantize_graph

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
        from ..checkpoint.check import compare

        tied = facts.config.tie_word_embeddings
        found = compare(facts.tensors, facts.graph.parameters(), config=facts.config, tied=tied, opened=facts.opened)
        return assumed | {name: facts.tensors[there].nbytes for name, there in found.matched.items()}


def _first(backend: Backend) -> str:
    devices: Sequence[str] = backend.availability().devices
    return devices[0] if devices else "cpu"

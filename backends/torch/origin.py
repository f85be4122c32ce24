"""The facade behind a module, which neither keeps alive: what it knows stays with the module, itself it comes and goes.

A facade holds its model, and so the module. If the module held the facade too, deleting either would free no memory
until Python looks for cycles. So the module holds what the facade knows (the very dictionary of its attributes), and
makes a facade around itself when one is asked for and nobody has one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

from ...core.api.scheduling import SharedScheduler

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...core.api.llama import Llama
    from ...core.loading.load import Loaded
    from .model import TorchModel


@dataclass(frozen=True)
class Origin:
    """What of its loading a module's copies keep.

    Attributes:
        generation: how the model generates where a call says nothing, as its facade holds it.
    """

    name: str = "config"
    folder: Path | None = None
    tokenizer_folder: Path | None = None
    generation: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Behind:
    """What a facade is made of again.

    Attributes:
        kind: its class.
        loaded: what loading gave, without the model.
        known: the facade's attributes, shared with the one that is alive.
        alive: the facade, while somebody holds it.
    """

    kind: type[Llama]
    loaded: Loaded
    known: dict[str, Any]
    alive: ReferenceType[Llama]

    @classmethod
    def of(cls, llama: Llama) -> Behind:
        without: Any = None
        return cls(type(llama), replace(llama._loaded, model=without), llama.__dict__, ref(llama))

    def again(self, model: TorchModel) -> Llama:
        """A facade around `model` that knows what the one before knew."""
        module = model.module
        llama = self.kind.__new__(self.kind)
        llama.__dict__, llama._shared = self.known, SharedScheduler()
        llama._loaded = replace(
            self.loaded, model=model, config=module.config, graph=module.graph, task=module.task_head
        )
        return llama

    def origin(self) -> Origin:
        loaded, kind = self.loaded, self.kind
        generation = kind._generation_kept(self.known)
        return Origin(loaded.name, loaded.folder, loaded.tokenizer_folder, generation)

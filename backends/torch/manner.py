"""How a module's passes are run beside what its graph says: one object, which a module and the trunk in it share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType

from ...core.errors import BackendError

if TYPE_CHECKING:
    from ...core.forward.forward import Engine


@dataclass(frozen=True)
class Checkpoints:
    """Which layers are computed anew, and how.

    Attributes:
        options: arguments of ``torch.utils.checkpoint.checkpoint``.
        every: one layer in so many, beginning with the first.
    """

    options: Mapping[str, Any]
    every: int = 1

    def covers(self, index: int) -> bool:
        """Whether the layer of this number is one of them."""
        return index % self.every == 0


@dataclass
class Seat:
    """The module that an engine runs, weakly, so that neither keeps the other."""

    module: ReferenceType[Any] | None = None

    def taken_by(self) -> Any:
        """The module, which whoever called it holds."""
        found = None if self.module is None else self.module()
        if found is None:
            raise BackendError("the engine of a module outlived it", hint="hold the module as long as it runs")
        return found


@dataclass
class Manner:
    """What somebody may change about a module's passes, and what it is.

    Attributes:
        attention: ``"sdpa"`` or ``"eager"``.
        checkpoints: of which layers the gradients compute the inside anew; ``None`` where they keep it.
        config: the model's own configuration.
        seat: whose passes they are now; a module with a head, or what runs a trunk that outlived it.
        engine: what runs them; caches go with it.
    """

    attention: str = "sdpa"
    checkpoints: Checkpoints | None = None
    config: Any = None
    seat: Seat = field(default_factory=Seat)
    engine: Engine | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy is of another module's passes.
        return {**vars(self), "seat": Seat(), "engine": None}

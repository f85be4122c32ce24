"""Arrays of one framework in, arrays of the same framework on the same device out, whatever the backend computes with.

Nested lists decide nothing: the backend's own arrays come out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from ..array_kinds import as_numpy, device_of, kind_among, kind_of, to_kind
from ..errors import InputError
from ..graph.cache import Cache
from ..tasks.outputs import as_float32
from .documented_caches import DocumentedCache

if TYPE_CHECKING:
    from ..tasks.outputs import ModelOutput
    from .arguments import ForwardArguments

_ARRAYS = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "logits_to_keep")


@dataclass(frozen=True)
class InKind:
    """The kind of array that a pass was given, and where the first of them is.

    Attributes:
        kind: as :func:`~polyllama.core.array_kinds.kind_of` names it; ``None`` where the backend's own come out.
        native: the kind that the backend computes with; ``None`` for one that does not say.
    """

    kind: str | None
    device: Any
    native: str | None

    @classmethod
    def of(cls, arguments: ForwardArguments, native: str | None, *others: Any, training: bool) -> Self:
        """Look at what a pass was given.

        Args:
            others: further arguments of the call that may be arrays.
            training: whether it trains; then the backend's own arrays come out, which alone can be differentiated.

        Raises:
            InputError: arrays of several frameworks.
        """
        if training:
            return cls(None, None, native)
        given = [*(getattr(arguments, name) for name in _ARRAYS), *arguments.labels.values(), *others]
        arrays = [value for value in given if getattr(value, "ndim", 0)]  # a number of NumPy's is a number
        kind = kind_among(arrays)
        return cls(kind, None if kind is None else device_of(arrays[0]), native)

    def take(self, arguments: ForwardArguments) -> ForwardArguments:
        """The arguments with arrays that the backend reads: its own kind as they are, others as NumPy.

        Raises:
            InputError: one that records gradients, which are lost on the way.
        """

        def taken(name: str, value: Any) -> Any:
            if self.native is None or kind_of(value) in (None, "numpy", self.native):
                return value
            if getattr(value, "requires_grad", False):
                raise InputError(
                    f"{name} records gradients, which do not reach through a backend that computes with {self.native}",
                    hint="give it detached, or load with backend='torch'",
                )
            return as_numpy(value, name)

        arrays = {name: taken(name, getattr(arguments, name)) for name in _ARRAYS}
        labels = {name: taken(name, value) for name, value in arguments.labels.items()}
        options = {name: taken(name, value) for name, value in arguments.loss_options.items()}
        return replace(arguments, labels=labels, loss_options=options, **arrays)

    def give(self, output: ModelOutput) -> ModelOutput:
        """The output with every array of this kind; a cache is the backend's own, and hands its layers out so."""
        cache = output.past_key_values
        if isinstance(cache, Cache | DocumentedCache):
            cache.shown_as = self.shown_as
        if self.kind is None or (self.kind == self.native and self.kind != "torch"):
            return output
        for name, value in list(output.items()):
            if name != "past_key_values":
                output[name] = self._given(value)
        if self.kind != self.native:
            output.to_numpy = as_float32
        return output

    @property
    def shown_as(self) -> tuple[str, Any] | None:
        """As :class:`~polyllama.extend.Cache` has it."""
        return None if self.kind is None else (self.kind, self.device)

    def _given(self, value: Any) -> Any:
        assert self.kind is not None
        if type(value) in (tuple, list):
            return type(value)(map(self._given, value))
        return value if kind_of(value) is None else to_kind(value, self.kind, self.device)

"""What a backend that trains adds to the protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..errors import InputError
from ..public import for_plugins

if TYPE_CHECKING:
    from ..dtypes import Array
    from ..forward.arguments import ForwardArguments
    from ..tasks.outputs import ModelOutput


Measure = Callable[[Any, "ModelOutput"], Any]
"""A scalar of a pass: from the array namespace and the output, e.g. ``lambda xp, output: output.loss``."""


@for_plugins
@runtime_checkable
class Trains(Protocol):
    """What a :class:`~polyllama.extend.Model` has more where its backend declares ``trains = True``."""

    def value_and_gradients(self, measure: Measure, arguments: ForwardArguments) -> tuple[Array, Mapping[str, Array]]:
        """A scalar of one pass, and its gradient with respect to every parameter that is trained.

        It takes the framework's own way of differentiating, the one that users train by, and so is what
        ``polyllama certify`` holds to the slopes of the float64 spec.

        Args:
            measure: namespace and output of the pass -> a scalar in native form.
            arguments: as of :meth:`polyllama.extend.Model.forward`.

        Returns:
            The scalar, and native arrays by parameter name.
        """
        ...


def read_checkpointing(options: Mapping[str, Any] | None, known: Sequence[str], backend: str) -> dict[str, Any]:
    """The arguments of gradient checkpointing that were given; ``use_reentrant`` may be given as what it is, false.

    Raises:
        InputError: one that `backend` does not take.

    >>> read_checkpointing({"use_reentrant": False}, ("policy",), "jax")
    {}
    """
    found = dict(options or {})
    if found.pop("use_reentrant", False):
        raise InputError(
            "gradient checkpointing with use_reentrant=True would lose the gradients of what is not an input",
            hint="leave it out",
        )
    unknown = [name for name in found if name not in known]
    if unknown:
        hint = f"it takes {', '.join(known)}" if known else "leave it out"
        raise InputError(f"gradient checkpointing on {backend} has no argument {', '.join(unknown)}", hint=hint)
    return found


def refuse_cache(cache: Any, checkpointing: bool) -> None:
    """A layer that runs twice would write its keys and values twice."""
    if cache is not None and checkpointing:
        raise InputError(
            "a cache and gradient checkpointing do not go together while training",
            hint="leave use_cache and past_key_values out, or call gradient_checkpointing_disable()",
        )

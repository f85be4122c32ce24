"""The part of :class:`~polyllama.Llama` that copies and pickles it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from ..loading.load import Loaded
    from .scheduling import SharedScheduler


class Copying:
    """``copy.deepcopy(llm)`` and pickles: a model of its own, with its weights as they are now, on the same backend."""

    _loaded: Loaded
    _shared: SharedScheduler

    if TYPE_CHECKING:

        def __init__(self, loaded: Loaded) -> None: ...
        def _tokenizer_or_none(self) -> Any: ...

    def __copy__(self) -> Self:
        made = type(self).__new__(type(self))
        made._loaded, made._shared = self._loaded, self._shared
        vars(made).update(vars(self))
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        from ..loading.taken_apart import take_apart

        more = {name: value for name, value in vars(self).items() if name != "_context"}
        if hasattr(self._loaded.checkpoint, "tokenizer"):  # in the one file of the model, which stays behind
            more["_tokenizer"] = self._tokenizer_or_none()
        return _put_together, (self._kind(), take_apart(self._loaded), more)

    def _kind(self) -> Callable[[Loaded], Copying]:
        """What makes a model of this class of a loaded one, and can be pickled."""
        return type(self)


def _put_together(kind: Callable[[Loaded], Copying], parts: dict[str, Any], more: dict[str, Any]) -> Copying:
    from ..loading.taken_apart import put_together

    made = kind(put_together(parts))
    vars(made).update(more)
    return made

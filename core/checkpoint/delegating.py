"""A checkpoint around another one, which it passes on to for all that it does not do itself."""

from __future__ import annotations

from typing import Any

from .protocol import Checkpoint


class DelegatingCheckpoint:
    """Base of checkpoints that change one thing of another: what they do not have is the other's.

    Special methods (``__deepcopy__``) are never the other's: a copy of this is one of this.
    """

    def __init__(self, inner: Checkpoint) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        """What a reader may have beside the protocol: ``tokenizer``, ``release`` ..."""
        if name.startswith("__") or "_inner" not in self.__dict__:  # copied: there is nothing to ask yet
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return self._of_inner(name)

    def _of_inner(self, name: str) -> Any:
        """The other's attribute."""
        return getattr(self._inner, name)

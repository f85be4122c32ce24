"""What a trunk that somebody calls by itself asks of the module that it is a part of, or was."""

from __future__ import annotations

from typing import Any, Protocol


class WholeModule(Protocol):
    """What the trunk is the trunk of."""

    def forward_trunk(self, *more: Any, **named: Any) -> Any: ...


class TrunkAlone(Protocol):
    """Makes a module without a head around a trunk whose own is gone."""

    def __call__(self, trunk: Any) -> WholeModule: ...

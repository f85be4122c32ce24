"""Which models were made from a configuration: they have a copy of their own, which a later change does not reach."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from weakref import ReferenceType, ref

from ..errors import warn
from ..messages import few


class ModelsMade:
    """The configurations of the models that were made from one, as long as they live; a copy of it made none."""

    def __init__(self) -> None:
        self._theirs: list[ReferenceType[Any]] = []

    def __deepcopy__(self, memo: Any) -> ModelsMade:
        return ModelsMade()

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelsMade, ()

    def add(self, config: Any) -> None:
        """Note a model's own configuration."""
        self._theirs = [held for held in self._theirs if held() is not None]
        self._theirs.append(ref(config))

    def say_unchanged(self, changed: Any, names: Collection[str]) -> None:
        """Say which fields of `changed` have just become others than those of a model that was made from it."""
        living = [config for held in self._theirs if (config := held()) is not None]
        other = [name for name in names if any(_field(config, name) != _field(changed, name) for config in living)]
        if other:
            warn(
                f"{few(other, 4)} set on a config that a model was made from: the model has a config of its own and "
                f"stays as it is; set model.config.{other[0]}, or make the model anew"
            )


def _field(config: Any, name: str) -> Any:
    return getattr(config, name, None)

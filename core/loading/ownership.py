"""A built model's own configuration: what may be set follows at once, and what the graph cannot follow is refused."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..graph.from_config import build_graph
from ..messages import few

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig
    from ..tasks.task import Task


class BuiltModel:
    """Speaks for the model that a configuration belongs to (``LlamaConfig.owned``).

    What a graph follows is not listed anywhere: it is what gives another graph.

    It knows the model by its task, which the model holds and this does not. So it speaks as long as the model lives;
    and of a configuration that is copied or pickled, for the copied model where that came along, else for nobody.
    """

    def __init__(self, task: Task | None) -> None:
        self._task = _nobody if task is None else weakref.ref(task)

    def __deepcopy__(self, memo: dict[int, Any]) -> BuiltModel:
        return BuiltModel(copy.deepcopy(self._task(), memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return BuiltModel, (self._task(),)

    def check(self, before: LlamaConfig, after: LlamaConfig, changes: Mapping[str, Any]) -> None:
        """Refuse changes after which the model would have to be another.

        Raises:
            ConfigError: names the fields that were set, and says to load with them.
        """
        task = self._task()
        if task is None or (before.quantization == after.quantization and _same_graph(before, after, task)):
            return
        changed = [name for name in changes if getattr(before, name, None) != getattr(after, name, None)]
        names = changed or list(changes)
        given = ", ".join(f"{name}={changes[name]!r:.60}" for name in names)
        raise ConfigError(
            f"{few(names, 4)} cannot be set: the model is built by what the config said before",
            hint=f"load it with the change: from_pretrained(..., {given})",
            field=names[0],
        )


def _same_graph(before: LlamaConfig, after: LlamaConfig, task: Task) -> bool:
    """Whether both configs build one graph, whichever id is padding: a pass reads that anew where there is one."""
    if after.pad_token_id is not None:
        before = before.replace(pad_token_id=None)
        after = after.replace(pad_token_id=None)
    return build_graph(before, task) == build_graph(after, task)


def _nobody() -> None:
    """The task of a model that is none."""

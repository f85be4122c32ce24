"""What a batch has run so far: keys and values that are kept, or the tokens themselves, which run again every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..forward.arguments import ForwardArguments
from ..graph.cache import CachedRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..backend.protocol import Model
    from ..graph.cache import Cache
    from ..tasks.outputs import ModelOutput


@dataclass(frozen=True)
class Wanted:
    """What a pass is to give beside logits."""

    attentions: bool = False
    hidden_states: bool = False


NOTHING = Wanted()


class CachedPast:
    """The keys and values of what was run, in the backend's cache."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.cache: Cache

    @property
    def joins(self) -> bool:
        """Whether rows can move between caches."""
        return self.cache.joins

    def start(self, rows: int, capacity: int) -> None:
        """Begin with nothing; `capacity` places of a row are planned for."""
        self.cache = self.model.new_cache(rows, capacity)

    def go_on(self, prefix: CachedRows, capacity: int) -> None:
        """Begin with what a row of another cache holds."""
        self.assemble([prefix], len(prefix.slots), capacity)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows."""
        self.cache = self.cache.select_rows(rows)

    def follow(self, rows: Sequence[int], shared: Sequence[int]) -> None:
        """Let each row go on from the text of one of `rows`, with which its first `shared` slots are the same."""
        self.cache = self.cache.follow(rows, shared)

    def rows(self, rows: Sequence[int], slots: NDArray[np.int64]) -> CachedRows:
        """Some rows' keys and values, for a cache that is assembled."""
        return CachedRows(self.cache, rows, slots)

    def assemble(self, parts: Sequence[CachedRows], length: int, capacity: int) -> None:
        """Go on with rows of several caches, right-aligned."""
        self.cache = type(parts[0].cache).assembled(parts, length, capacity)

    def crop(self, length: int) -> None:
        """Forget what was run after the first `length` places."""
        self.cache.crop(length)

    def run(
        self,
        inputs: NDArray[Any],
        mask: NDArray[np.int64],
        wanted: Wanted = NOTHING,
        every: bool = False,
        adapters: NDArray[np.int64] | None = None,
    ) -> ModelOutput:
        """Run ids ``[rows, new]``, or embeddings; the mask covers what was run before too.

        Args:
            every: logits are wanted of each new place, not of the last alone.
            adapters: of each row the place of its adapter, as :class:`~polyllama.extend.ForwardArguments` has them.
        """
        output = pass_alone(self.model)(
            ForwardArguments(
                input_ids=inputs if inputs.ndim == 2 else None,
                inputs_embeds=inputs if inputs.ndim == 3 else None,
                attention_mask=mask,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=0 if every else 1,
                output_attentions=wanted.attentions,
                output_hidden_states=wanted.hidden_states,
                adapter_rows=adapters,
            )
        )
        self.cache = output.past_key_values
        return output


class UncachedPast:
    """The ids of what was run; each step runs all of them."""

    cache = None
    joins = False

    def __init__(self, model: Model) -> None:
        self.model = model
        self._ids: NDArray[np.int64]

    def start(self, rows: int, capacity: int) -> None:
        """Begin with nothing."""
        self._ids = np.zeros((rows, 0), np.int64)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows."""
        self._ids = self._ids[rows]

    def follow(self, rows: Sequence[int], shared: Sequence[int]) -> None:
        """Let each row go on from the text of one of `rows`."""
        self._ids = self._ids[rows]

    def run(
        self,
        inputs: NDArray[np.int64],
        mask: NDArray[np.int64],
        wanted: Wanted = NOTHING,
        every: bool = False,
        adapters: NDArray[np.int64] | None = None,
    ) -> ModelOutput:
        """Run all ids so far and the new ones ``[rows, new]``."""
        assert not every  # what runs again every step proposes nothing
        self._ids = np.concatenate([self._ids, inputs], axis=1)
        return pass_alone(self.model)(
            ForwardArguments(
                input_ids=self._ids,
                attention_mask=mask,
                use_cache=False,
                logits_to_keep=1,
                output_attentions=wanted.attentions,
                output_hidden_states=wanted.hidden_states,
                adapter_rows=adapters,
            )
        )


def pass_alone(model: Model) -> Callable[[ForwardArguments], ModelOutput]:
    """A model's pass that nothing is trained by: ``forward_alone`` where it has one, which records no gradients."""
    found: Callable[[ForwardArguments], ModelOutput] = getattr(model, "forward_alone", model.forward)
    return found


def depends_on_length(model: Model) -> bool:
    """Whether keys depend on how long a row has become, by a RoPE that follows the length."""
    from ..forward.forward import length_ropes

    return model.graph is not None and bool(length_ropes(model.graph))

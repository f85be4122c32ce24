"""What a model has run for one prompt, kept for others that begin like it, as long as its weights stay the same."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from .out_of_memory import is_out_of_memory
from .past import depends_on_length
from .prefixes import Prefixes, common

if TYPE_CHECKING:
    from ..backend.protocol import Model
    from ..graph.cache import CachedRows
    from .batch import Batch
    from .cache_memory import CacheMemory
    from .request_plan import Prompt
    from .sequence import GeneratedSequence

SHARED = 64
"""Tokens that two waiting prompts must have in common for the second to wait until the first has run them."""

WHILE_IT_RUNS = "while it runs"
"""The state of weights that somebody may change between requests: nobody does between two steps of rows that run."""


class KeptTexts:
    """Texts of one model with their keys and values, in the memory that running rows leave.

    Tokens that were run in other company have keys and values that are the same up to rounding. In float32 that never
    parts two texts; in half precision it may where two tokens are as good as equally likely, and then a call that is
    made twice would not give the same twice. So there a text is gone on from only where the new prompt holds what was
    generated, as the next turn of a conversation does, and where prompts wait together.

    Args:
        lasting: ``None`` for that; or whether every text is gone on from in every dtype, or none at all.
    """

    def __init__(self, model: Model, memory: CacheMemory, lasting: bool | None = None) -> None:
        self._model, self._memory = model, memory
        self._off = lasting is False
        self._lasting = model.dtype in ("float32", "float64") if lasting is None else lasting
        self._prefixes = Prefixes(memory.of)
        self._by_length: bool | None = None

    @property
    def by_length(self) -> bool:
        """Whether keys depend on how long a row has become, so that none is another's."""
        if self._by_length is None:
            self._by_length = depends_on_length(self._model)
        return self._by_length

    def find(self, prompt: Prompt) -> CachedRows | None:
        """Keys and values of the longest beginning of a prompt that there are."""
        state = self._state()
        if state is None or prompt.embeds is not None:
            return None
        return self._prefixes.find(prompt.ids, state, prompt.adapter)

    def waits(self, prompt: Prompt, first: Prompt) -> bool:
        """Whether a prompt begins with so much of the `first`, or of what was run, that it comes after it."""
        if not self._keeps or prompt.embeds is not None:
            return False
        return _begins_like(prompt, first) or self.find(prompt) is not None

    def keep(self, batch: Batch, rows: Sequence[GeneratedSequence], *, copied: bool) -> None:
        """Keep what rows that have ended have run.

        Args:
            copied: the batch goes on, so that its storage is not to be kept.
        """
        state = self._state() if rows and batch.joins and not batch.filling else None
        for place, row in enumerate(batch.rows if state is not None else ()):
            if any(row is other for other in rows) and row.error is None:
                self._try_keeping(batch, place, state, copied=copied)

    def keep_prompts(self, batch: Batch, waiting: Sequence[Prompt]) -> None:
        """Keep what prompts gave as soon as they are run, where one waits that begins like one of them."""
        state = self._state() if batch.joins else None
        for place, row in enumerate(batch.rows if state is not None else ()):
            if any(_begins_like(prompt, row.prompt) for prompt in waiting):
                self._try_keeping(batch, place, state, copied=True, passing=not self._lasting)

    def submitted(self) -> None:
        """Another request comes: who has submitted it may have changed the weights before."""
        if self._state() == WHILE_IT_RUNS:
            self._prefixes.rest(all_of_them=True)

    def rest(self) -> None:
        """Nothing runs any more: forget what is right only as long as something does."""
        self._prefixes.rest(all_of_them=self._state() == WHILE_IT_RUNS)

    def forget(self) -> None:
        """Give all of it back."""
        self._prefixes.rest(all_of_them=True)

    def shrink(self, nbytes: int) -> None:
        """Leave so many bytes to it at most."""
        self._prefixes.shrink(min(nbytes, self._memory.kept))

    @property
    def _keeps(self) -> bool:
        return not self._off and not self.by_length

    def _state(self) -> Hashable | None:
        """What tells the model's weights from others; ``None`` where nothing can be kept."""
        if not self._keeps:
            return None
        state = getattr(self._model, "weights_state", None)
        found: Hashable | None = None if state is None else state()
        return WHILE_IT_RUNS if found is None else found

    def _try_keeping(self, batch: Batch, place: int, state: Hashable | None, **how: bool) -> None:
        """Keep a row where there is memory for it: who runs just now has nothing to do with it."""
        try:
            self._keep_row(batch, place, state, **how)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.forget()

    def _keep_row(
        self, batch: Batch, place: int, state: Hashable | None, *, copied: bool, passing: bool = False
    ) -> None:
        row, part = batch.rows[place], batch.cached(place)
        if row.prompt.embeds is not None or not len(part.slots):
            return
        ids = [*row.prompt.ids, *row.token_ids][: len(part.slots)]
        least = 0 if self._lasting or passing else row.prompt.length + 1
        if len(ids) < least:
            return
        part = part.copied() if copied else part
        self._prefixes.keep(ids, part, state, row.prompt.adapter, least=least, passing=passing)


def _begins_like(prompt: Prompt, other: Prompt) -> bool:
    """Whether what a prompt has in common with another is worth waiting for: keys and values are an adapter's own."""
    return prompt.adapter == other.adapter and common(other.ids, prompt.ids[:-1]) >= SHARED

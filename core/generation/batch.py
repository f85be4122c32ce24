"""Rows that go through the model together: their prompts first, then what each of them adds a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import GenerationError
from ..forward.adapters import NONE, place_of
from ..graph.cache import CachedRows
from ..messages import mention
from .past import NOTHING, CachedPast, UncachedPast, depends_on_length

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..backend.protocol import Model
    from ..tasks.outputs import ModelOutput
    from .outputs import StreamEvent
    from .request_plan import Prompt
    from .sequence import GeneratedSequence

    Floats = NDArray[np.floating[Any]]

FIRST_CAPACITY = 1024
"""Generated tokens per row that storage is made for at first."""

LEAST_ROOM = 64
"""Slots that a batch which others have joined has at least for what its rows add."""

ALIGNED = 16
"""Slots by whose multiples a row moves when rows of a longer text join: caches that hold blocks copy whole ones."""


class _Spare:
    """A row of no request, which is run where a number of rows is wanted that there are not."""

    ended = True
    remaining = 0

    def next_inputs(self, most: int) -> list[int]:
        """Any token."""
        return [0]

    def prepare(self) -> None:
        """Nothing follows it."""


SPARE: Any = _Spare()


class _Kept(NamedTuple):
    """Rows that have not ended, and the first slot that any of them has a token in."""

    places: list[int]
    rows: list[GeneratedSequence]
    first: int


class Batch:
    """Rows that go through the model together, left-padded.

    A batch begins by :meth:`prefill`, a chunk at a time; then every :meth:`decode` runs what each row has added and
    every :meth:`take` chooses what follows. Between steps it may :meth:`join` another that is as far.

    Attributes:
        rows: in the order of the model's rows; those that have ended ride along until they are half of the batch.
        mask: ``[rows, capacity]``, 1 where a slot holds a token of the row's text.
        adapters: ``[rows]``, the place of each row's adapter among the model's, -1 for none.
        used: slots so far.
        alone: no other rows join these, nor they others; `reserved` slots are kept for them.
        guided: ``[rows, vocab]`` that the next tokens are chosen from in the place of the logits, if anything.
        cached_tokens: tokens of the prompt whose keys and values were there.
    """

    def __init__(
        self,
        model: Model,
        sequences: Sequence[GeneratedSequence],
        *,
        cached: bool = True,
        prefix: CachedRows | None = None,
        first_capacity: int = FIRST_CAPACITY,
    ) -> None:
        self.model = model
        self._first_capacity = first_capacity
        self.rows = list(sequences)
        self.alone = not cached
        self.reserved = 0
        self.guided: Floats | None = None
        self.past: CachedPast | UncachedPast = (CachedPast if cached else UncachedPast)(model)
        self.wanted = NOTHING
        self.mask: NDArray[np.int64]
        self.used = 0
        self._begun: ModelOutput | None = None
        self._fed: list[list[int]] = []
        prompts, self._places = self._distinct()
        known = getattr(model.graph, "adapters", ())
        self.adapters = np.array([place_of(known, prompt.adapter) for prompt in prompts], np.int64)
        self._inputs: NDArray[Any] | None = _block(prompts, self._width(prompts))
        self._shortest = min(prompt.length for prompt in prompts)
        self.cached_tokens = 0 if prefix is None else len(prefix.slots)
        self._start_past(prompts, prefix)

    @property
    def live(self) -> list[int]:
        """Places of the rows that have not finished."""
        return [place for place, row in enumerate(self.rows) if not row.ended]

    @property
    def filling(self) -> bool:
        """Whether there is something of the prompts still to run."""
        return self._inputs is not None

    @property
    def model_rows(self) -> int:
        """Rows that go through the model, or will when the prompts have run."""
        return len(self._places) if self.filling else len(self.mask)

    @property
    def capacity(self) -> int:
        """Slots of each row that there is storage for."""
        return int(self.mask.shape[1])

    # ---- prompts

    def _distinct(self) -> tuple[list[Prompt], list[int]]:
        """The distinct prompts, each run once, and which of them each row has."""
        place_of: dict[Any, int] = {}
        prompts: list[Prompt] = []
        for row in self.rows:
            prompt = row.to_run
            if _key(prompt) not in place_of:
                place_of[_key(prompt)] = len(prompts)
                prompts.append(prompt)
        return prompts, [place_of[_key(row.to_run)] for row in self.rows]

    def _width(self, prompts: Sequence[Prompt]) -> int:
        return max(prompt.length for prompt in prompts)

    def _start_past(self, prompts: Sequence[Prompt], prefix: CachedRows | None) -> None:
        width = self._width(prompts)
        # A budget is a limit, not a plan: most texts end long before a large one, so storage grows as they do.
        capacity = width + min(max(row.remaining for row in self.rows), self._first_capacity)
        self.mask = np.zeros((len(prompts), capacity), np.int64)
        for place, prompt in enumerate(prompts):
            self.mask[place, width - prompt.length : width] = 1
        if prefix is None:
            self.past.start(*self.mask.shape)
        else:
            self._kept_past.go_on(prefix, capacity)
            self.used = len(prefix.slots)

    def prefill(self, most: int | None = None) -> Floats | None:
        """Run the next chunk of the prompts; the last one gives the next tokens' logits ``[rows, 1, vocab]``.

        Args:
            most: places of each row to run; ``None`` for all that are left.
        """
        assert self._inputs is not None
        width, start = self._inputs.shape[1], self.used
        most = most if self.wanted == NOTHING else None  # attentions and hidden states are of the whole prompt
        end = min(start + (most or width), width)
        # No row may consist of padding alone: of one that begins later, a slot stands for a token as long as this runs.
        later = np.flatnonzero(~self.mask[:, :end].any(axis=1))
        if len(later) and depends_on_length(self.model):  # which may run all of it again, as far as it has come
            end, later = width - self._shortest + 1, later[:0]
        self.mask[later, end - 1] = 1
        logits = self._logits(self._forward(self._inputs[:, start:end]))
        self.mask[later, end - 1] = 0
        if end < width:
            return None
        self._inputs = None
        if self._places != list(range(len(self.mask))):
            self.past.select(self._places)
            self.mask, logits = self.mask[self._places], logits[self._places]
            self.adapters = self.adapters[self._places]
        return logits

    # ---- steps

    def decode(self) -> Floats:
        """Run what each row has added; returns the next ones' logits ``[rows, tokens, vocab]``."""
        output = self.begin() if self._begun is None else self._begun
        self._begun = None
        return self._logits(output)

    def begin(self) -> ModelOutput:
        """Start the pass that :meth:`decode` then reads; it runs on by itself where the model is asynchronous."""
        live = self.live
        # Finished rows ride along until they are half of the batch: taking rows out copies the whole cache.
        if 2 * len(live) <= len(self.rows):
            self._select(live)
        spare = self.capacity - self.used - 1  # guesses are no reason to grow
        return self._step([row.next_inputs(spare) for row in self.rows])

    def first_read(self) -> list[int]:
        """Of each row, the place in the newest logits that its first token is chosen by."""
        width = max(map(len, self._fed), default=1)
        return [width - len(ids) for ids in self._fed] or [0] * len(self.rows)

    def take(self, logits: Floats, events: list[tuple[GeneratedSequence, StreamEvent]]) -> None:
        """Choose the next token of each live row; several, where what it proposed is what it would have chosen.

        An error that a row's choice gives is the row's alone: it ends with it.

        Args:
            events: what is chosen goes there, so that nothing is lost to an interrupt.
        """
        unread = []  # of each row, the tokens at its end that were run and are no part of its text
        firsts = self.first_read()
        for place, row in enumerate(self.rows):
            fed = self._fed[place] if self._fed else [0]
            if row.ended:
                unread.append(0)
                continue
            first, taken = firsts[place], 0
            try:
                for taken in range(len(fed)):
                    event = row.take(logits[place, first + taken], None if self.guided is None else self.guided[place])
                    events.append((row, event))
                    if row.ended or fed[taken + 1 : taken + 2] != [event.token_id]:
                        break
                row.proposals_were(len(fed) - 1, taken)
            except Exception as error:
                row.fail(error)
            unread.append(len(fed) - 1 - taken)
        self._fed = []
        if any(unread):
            self._unread(unread)

    def _unread(self, counts: Sequence[int]) -> None:
        """Leave the last tokens of rows out of their texts: cut off where all rows have some, else masked."""
        live = self.live
        common = min((counts[place] for place in live), default=0)
        for place, count in enumerate(counts):
            self.mask[place, self.used - count : self.used] = 0
        if common:
            self.mask[:, self.used - common : self.used] = 0
            self.used -= common
            self._kept_past.crop(self.used)

    # ---- rows come and go

    def join(self, other: Batch) -> None:
        """Take over the rows of a batch that is as far: each has run all but its newest token."""
        mine, theirs = self._kept(ALIGNED), other._kept(1)
        ahead = max(0, (other.used - theirs.first) - (self.used - mine.first))
        length = self.used - mine.first + -(-ahead // ALIGNED) * ALIGNED
        rows = [*mine.rows, *theirs.rows]
        theirs.places.extend([theirs.places[-1]] * self._spares(len(rows)))
        rows.extend([SPARE] * (len(mine.places) + len(theirs.places) - len(rows)))
        # Others may join soon, which copies all of it again: so little more than what is used, and it grows later.
        room = min(max(row.remaining for row in rows), self._first_capacity, max(length, LEAST_ROOM))
        mask = np.zeros((len(rows), length + room), np.int64)
        parts, place = [], 0
        for batch, kept in ((self, mine), (other, theirs)):
            slots = np.arange(kept.first, batch.used)
            mask[place : place + len(kept.places), length - len(slots) : length] = batch.mask[kept.places][:, slots]
            parts.append(batch._kept_past.rows(kept.places, slots))
            place += len(kept.places)
        self._kept_past.assemble(parts, length, length + room)
        self.adapters = np.concatenate([self.adapters[mine.places], other.adapters[theirs.places]])
        self.rows, self.mask, self.used = rows, mask, length
        self._fed = []

    @property
    def joins(self) -> bool:
        """Whether rows can move between this batch and others."""
        return self.past.joins

    def cached(self, place: int) -> CachedRows:
        """A row's keys and values, of all its tokens but the newest."""
        return self._kept_past.rows([place], np.flatnonzero(self.mask[place, : self.used]))

    @property
    def _kept_past(self) -> CachedPast:
        assert isinstance(self.past, CachedPast)
        return self.past

    def fail(self, error: Exception) -> None:
        """Let all rows end here."""
        for place in self.live:
            self.rows[place].fail(error)

    def leave(self, place: int) -> None:
        """Take a row out, which goes on elsewhere."""
        self._select([other for other in self.live if other != place])

    @property
    def grows(self) -> bool:
        """Whether the next step needs more storage than there is."""
        return self._begun is None and self.used + 1 > self.capacity

    @property
    def grown(self) -> int:
        """What the capacity becomes when it grows: twice as much, or what is left to get."""
        return min(2 * self.capacity, self.used + max(row.remaining for row in self.rows))

    def counted_for(self, rows: Sequence[GeneratedSequence]) -> dict[str, int]:
        """The tokens of rows' prompts that were run, each distinct prompt once, and those that were there."""
        # A row that has come back was counted when it began.
        own = [row for row in self.rows if any(row is other for other in rows) and len(row.token_ids) <= 1]
        lengths = {_key(row.prompt): row.prompt.length for row in own}
        cached = min(self.cached_tokens, sum(lengths.values()))
        return {"prompt_tokens": sum(lengths.values()) - cached, "cached_tokens": cached}

    def _kept(self, aligned: int) -> _Kept:
        live = self.live
        first = int(self.mask[live].any(axis=0).argmax())
        return _Kept(live, [self.rows[place] for place in live], first // aligned * aligned)

    def _select(self, places: Sequence[int]) -> None:
        spares = self._spares(len(places)) if any(row is SPARE for row in self.rows) else 0
        rows = [self.rows[place] for place in places]
        places = [*places, *[places[-1]] * spares]
        self.past.select(places)
        self.mask, self.rows = self.mask[places], [*rows, *[SPARE] * spares]
        self.adapters = self.adapters[places]

    def _spares(self, count: int) -> int:
        """Rows to add to so many, where passes are compiled for each number of rows: up to the next power of two."""
        return (1 << (count - 1).bit_length()) - count if getattr(self.model, "compiles_rows", False) else 0

    # ---- passes

    def _step(self, fed: Sequence[list[int]]) -> ModelOutput:
        width = max(map(len, fed))
        if self.used + width > self.mask.shape[1]:
            more = max(self.grown, self.used + width) - self.capacity
            self.mask = np.concatenate([self.mask, np.zeros((len(self.mask), more), np.int64)], axis=1)
        inputs = np.zeros((len(fed), width), np.int64)
        for place, ids in enumerate(fed):
            inputs[place, width - len(ids) :] = ids
            self.mask[place, self.used + width - len(ids) : self.used + width] = 1
        self._fed = list(fed)
        self._begun = self._forward(inputs)
        for row in self.rows:
            row.prepare()  # meanwhile, where the model is asynchronous
        return self._begun

    def _forward(self, inputs: NDArray[Any]) -> ModelOutput:
        """Run ids ``[rows, new]`` or embeddings ``[rows, new, hidden_size]`` behind what was run so far."""
        used = self.used + inputs.shape[1]
        every = bool(self._fed) and inputs.shape[1] > 1
        adapters = None if (self.adapters == NONE).all() else self.adapters
        output = self.past.run(inputs, self.mask[:, :used], self.wanted, every, adapters)
        self.used = used
        return output

    def _logits(self, output: ModelOutput) -> Floats:
        """The logits as NumPy, which waits for them to be computed."""
        count = max(map(len, self._fed)) if self._fed else 1
        shape = (len(self.mask), count, self.model.config.vocab_size)
        logits = self.model.to_numpy(output["logits"]) if "logits" in output else np.zeros(0)
        if logits.shape != shape:
            raise GenerationError(
                f"this model gives logits of shape {list(logits.shape)}, generation needs {list(shape)}",
                hint="load it as a causal language model: "
                + mention("task", None)
                + " or "
                + mention("task", "causal-lm"),
            )
        return logits


def _key(prompt: Prompt) -> Any:
    """What equal prompts have in common: they are run once."""
    return (prompt.adapter, *prompt.ids) if prompt.embeds is None else id(prompt)


def _block(prompts: Sequence[Prompt], width: int) -> NDArray[Any]:
    """Prompts as one array, padded on the left: ids ``[prompts, width]`` or embeddings with one axis more."""
    embeds = prompts[0].embeds
    if embeds is None:
        block: NDArray[Any] = np.zeros((len(prompts), width), np.int64)
    else:
        block = np.zeros((len(prompts), width, embeds.shape[1]), embeds.dtype)
    for place, prompt in enumerate(prompts):
        block[place, width - prompt.length :] = prompt.ids if prompt.embeds is None else prompt.embeds
    return block

"""Guessing what follows by asking a smaller model of the same vocabulary.

Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding". What the small model
guesses the large one checks in one pass; a guess holds where it is the very token that the large one chooses, so the
text is the large one's, drawn tokens included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from .guessing import Pace
from .past import CachedPast

if TYPE_CHECKING:
    from ..backend.protocol import Model

MOST = 8
"""Tokens that are guessed at a time at most, where nobody says how many."""

WORTH = 0.5
"""The share of guesses that must hold, lately, for asking the small model to pay."""


def check_draft(model: Model, vocabulary: Any, draft: Model, draft_vocabulary: Any) -> None:
    """Refuse a small model whose ids mean other tokens than the large one's.

    Args:
        vocabulary, draft_vocabulary: tokens with their ids, where they are known.

    Raises:
        InputError: the vocabularies differ, or it is no language model.
    """
    ours, theirs = model.config.vocab_size, draft.config.vocab_size
    if getattr(draft, "task", None) is not None and not draft.task.generates:  # type: ignore[attr-defined]
        raise InputError("the draft model does not generate", hint="load it as a causal language model")
    if ours != theirs:
        raise InputError(
            f"the draft model has {theirs} ids, the model {ours}", hint="a draft is a smaller model of one vocabulary"
        )
    if vocabulary is not None and draft_vocabulary is not None and vocabulary != draft_vocabulary:
        tokens = (*vocabulary, *draft_vocabulary)
        other = next(token for token in tokens if vocabulary.get(token) != draft_vocabulary.get(token))
        here, there = vocabulary.get(other, "none"), draft_vocabulary.get(other, "none")
        raise InputError(
            f"the draft model has other ids: {other!r} is {there} there, {here} here",
            hint="a draft is a smaller model of one vocabulary",
        )


class DraftGuesses:
    """Guesses of a small model for one row: it keeps keys and values of its own.

    Args:
        ids: the prompt's.
        most: tokens that are guessed at a time, at most.
    """

    def __init__(self, draft: Model, ids: Sequence[int], most: int) -> None:
        self._draft = draft
        self._ids = list(ids)
        self._pace = Pace(most, WORTH)
        self._past: CachedPast | None = None
        self._generated = 0

    def propose(self, most: int) -> list[int]:
        """Up to so many tokens that the small model finds likeliest, one after the other."""
        count = min(most, self._pace.length())
        found: list[int] = []
        while len(found) < count:
            found.append(self._next([*self._ids, *found]))
        return found

    def learn(self, proposed: int, accepted: int, token_ids: Sequence[int]) -> None:
        """Forget what was run of guesses that did not hold."""
        known = len(self._ids) + accepted
        self._ids += token_ids[self._generated :]
        self._generated = len(token_ids)
        if self._past is not None and self._past.cache.length > known:
            self._past.crop(known)
        self._pace.learn(proposed, accepted)

    def _next(self, ids: Sequence[int]) -> int:
        """The likeliest token after `ids`, of which those are run that were not yet."""
        if self._past is None:
            self._past = CachedPast(self._draft)
            self._past.start(1, len(ids) + 256)
        new = np.array([ids[self._past.cache.length :]], np.int64)
        output = self._past.run(new, np.ones((1, len(ids)), np.int64))
        return int(np.argmax(self._draft.to_numpy(output["logits"])[0, -1]))

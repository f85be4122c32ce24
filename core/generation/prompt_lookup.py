"""Guessing what follows by looking it up: where the last few tokens stood before, and what came after them there.

Source: Saxena 2023, "Prompt Lookup Decoding"; the check of several guessed tokens in one pass is Leviathan et al. 2023,
"Fast Inference from Transformers via Speculative Decoding". A token's choice depends on its logits and its place alone
here, drawn ones too, so guesses change how fast a text comes and never what it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from .guessing import Pace

LONGEST = 3
"""Tokens in a row that are looked up at most."""

SHORTEST = 2
"""Tokens in a row that must be alike; one alone stands in too many places to tell what follows."""

WORTH = 0.3
"""The share of guesses that must hold, lately, for guessing to pay."""


class PromptLookup:
    """Guesses from the text so far: the prompt and what was generated.

    Args:
        ids: the prompt's.
        most: tokens that are guessed at a time, at most.
        longest: tokens in a row that are looked up at most.

    >>> lookup = PromptLookup([5, 6, 7, 8, 9, 5, 6], most=3)
    >>> lookup.propose(8)
    [7, 8, 9]
    """

    def __init__(self, ids: Sequence[int], most: int, longest: int = LONGEST) -> None:
        self._ids: list[int] = []
        self._sizes = range(max(longest, SHORTEST), SHORTEST - 1, -1)
        self._ends: dict[tuple[int, ...], int] = {}  # of rows of tokens, where the last of each but the newest ended
        self._pace = Pace(most, WORTH)
        self._generated = 0
        for token_id in ids:
            self._add(token_id)

    def propose(self, most: int) -> list[int]:
        """Up to so many tokens that are likely to follow."""
        count = min(most, self._pace.length())
        for size in self._sizes if count else ():
            end = self._ends.get(tuple(self._ids[-size:])) if len(self._ids) > size else None
            if end is not None:
                return self._copied(end, count)
        return []

    def _copied(self, start: int, count: int) -> list[int]:
        """So many tokens from a place on; where that runs into the end of the text, what is copied goes on itself."""
        found = self._ids[start : start + count]
        while len(found) < count:
            found.append(found[len(found) - (len(self._ids) - start)])
        return found

    def learn(self, proposed: int, accepted: int, token_ids: Sequence[int]) -> None:
        """Take in what was generated, and how many guesses of it held."""
        for token_id in token_ids[self._generated :]:
            self._add(token_id)
        self._generated = len(token_ids)
        self._pace.learn(proposed, accepted)

    def _add(self, token_id: int) -> None:
        """Take a token in: what ended with the one before it is to be found from now on."""
        for size in self._sizes:
            if len(self._ids) >= size:
                self._ends[tuple(self._ids[-size:])] = len(self._ids)
        self._ids.append(token_id)

"""How many tokens to guess at a time, by how many of the guesses held."""

from __future__ import annotations

AT_FIRST = 4
"""Tokens that are guessed at first; more where all of them hold."""

SHORTEST_REST = 8
"""Tokens without a guess after too many that did not hold; twice as many each time that this happens in a row."""

LONGEST_REST = 256


class Pace:
    """Guess more where all guesses held, fewer where they did not, and rest where they seldom do.

    Args:
        most: tokens at a time, at most.
        worth: the share of guesses that must hold, lately, for guessing to pay.

    >>> pace = Pace(8, 0.3)
    >>> pace.learn(4, 4); pace.length()
    8
    >>> pace.learn(8, 1); pace.length()
    2
    """

    def __init__(self, most: int, worth: float) -> None:
        self._most, self._worth = most, worth
        self._length = min(most, AT_FIRST)
        self._holding = 1.0
        self._rest, self._next_rest = 0, SHORTEST_REST

    def length(self) -> int:
        """Tokens to guess now; asked for once a step."""
        if self._rest > 0:
            self._rest -= 1
            return 0
        return self._length

    def learn(self, proposed: int, accepted: int) -> None:
        """So many guesses held of those that were made."""
        if not proposed:
            return
        self._length = min(self._most, 2 * self._length) if accepted == proposed else max(1, accepted + 1)
        self._holding += 0.25 * (accepted / proposed - self._holding)
        if accepted:
            self._next_rest = SHORTEST_REST
        if self._holding < self._worth:
            self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, LONGEST_REST)
            self._holding = (1 + self._worth) / 2

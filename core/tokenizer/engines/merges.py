"""Pair merges for an ordered BPE engine, from a vocabulary that only ranks whole tokens.

SentencePiece and tiktoken join, at every step, the neighbouring pair whose *result* ranks best, the leftmost of equals.
The tokenizers library instead walks a list of pairs, no two of equal rank. Pairs that rank equal there (the ways of
splitting one token, or different tokens of one score) must therefore be listed such that the leftmost still wins.
Two equal pairs only compete where they overlap: (x, y) against (y, z). There (x, y) lies left, so it must come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import groupby
from typing import TypeVar

from ...errors import TokenizerError

Token = TypeVar("Token", str, bytes)


def pair_merges(ranks: Mapping[Token, float], *, source: str) -> list[tuple[Token, Token]]:
    """The pairs to merge, best first, such that the tokenizers library segments as the ranks do.

    ``ranks`` gives every token that may be joined or result from joining; the smallest rank is joined first.

    Errors: TokenizerError where equal ranks make an order impossible.

    >>> pair_merges({"a": 0, "b": 0, "ab": 1, "aba": 2}, source="example")
    [('a', 'b'), ('ab', 'a')]
    """
    splits: list[tuple[float, Token, Token]] = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left = token[:cut]
            if left in ranks and (right := token[cut:]) in ranks:
                splits.append((rank, left, right))
    splits.sort(key=lambda split: split[0])
    merges: list[tuple[Token, Token]] = []
    for _, group in groupby(splits, key=lambda split: split[0]):
        pairs = [(left, right) for _, left, right in group]
        merges.extend(_leftmost_first(pairs, source) if len(pairs) > 1 else pairs)
    return merges


def _leftmost_first(pairs: list[tuple[Token, Token]], source: str) -> Iterable[tuple[Token, Token]]:
    starting: dict[Token, list[tuple[Token, Token]]] = {}
    for pair in pairs:
        starting.setdefault(pair[0], []).append(pair)
    order: TopologicalSorter[tuple[Token, Token]] = TopologicalSorter()
    for left, right in pairs:
        order.add((left, right))
        for rival in starting.get(right, ()):
            # A run of one unit (x + y == y + x) is always cut greedily from its left end, so the longer part comes
            # first and the opposite arrangement never arises.
            commuting = rival == (right, left) and left + right == right + left
            if rival == (left, right) or (commuting and len(right) > len(left)):
                continue
            order.add(rival, (left, right))
    try:
        return list(order.static_order())
    except CycleError as error:
        first, second = error.args[1][0], error.args[1][1]
        raise TokenizerError(
            f"{source}: {first[0] + first[1]!r} and {second[0] + second[1]!r} have the same score, so the leftmost "
            "of them wins, which the tokenizers engine cannot express",
            hint="use the SentencePiece engine (LlamaTokenizer)",
        ) from None

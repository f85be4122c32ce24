"""Pair merges for an ordered BPE engine, from a vocabulary that only ranks whole tokens.

SentencePiece and tiktoken join, at every step, the neighbouring pair whose *result* ranks best, the leftmost of equals.
The tokenizers library instead walks a list of pairs, no two of equal rank. For tokens of different ranks the ranks are
that list: merges inside a token's text come in the same order wherever the text stands, so a token is always put
together from the same two parts, and the other ways of splitting it never meet. Tokens of one rank need an order of
their own, see ``tie_groups``.
"""

from __future__ import annotations

from collections.abc import Mapping

from .tie_groups import TieGroups, Token


def pair_merges(ranks: Mapping[Token, float], *, source: str) -> list[tuple[Token, Token]]:
    """Return the pairs to merge, best first, such that the tokenizers library segments as the ranks do.

    ``ranks`` gives every token that may be joined or result from joining; the smallest rank, a finite
    number, is joined first.

    Errors: NotExpressible where no order was found that keeps the leftmost of equal ranks first.

    >>> pair_merges({"a": 0, "b": 0, "ab": 1, "aba": 2}, source="example")
    [('a', 'b'), ('ab', 'a')]
    """
    splits: dict[Token, list[tuple[Token, Token]]] = {}
    for token in ranks:
        found = [
            (left, token[cut:])
            for cut in range(1, len(token))
            if (left := token[:cut]) in ranks and token[cut:] in ranks
        ]
        if found:
            splits[token] = found
    groups = TieGroups(ranks, splits)
    places = groups.order(source)
    merges: list[tuple[Token, Token]] = []
    for token in sorted(splits, key=lambda token: (ranks[token], places.get(token, 0))):
        if token not in groups.tied:
            merges.extend(splits[token])
        elif (pair := groups.pairs.get(token)) is not None:
            merges.append(pair)
    return merges

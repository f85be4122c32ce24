"""An order for tokens of equal rank that joins what "the leftmost of equals first" joins.

Words used here. A *tie group* are the tokens of one rank that are put together from others. Every token has one *pair*:
the two parts that it is put together from whenever it is (see ``merges``), and so one *tree*, whose nodes are the
tokens joined on the way. A *round* of a group begins where no pair of its rank or better is left to join, and a worse
one is; the first round begins with the single characters.

The leftmost strategy works like a stack: characters are pushed, and the two topmost symbols are joined while they can
be. An order joins the same if the first pair it picks is one that the stack joins too. That fails only where three
symbols ``l r v`` stand in a row such that the stack joins ``l r``, and the order picks ``r v`` before that. Hence
the constraints, for each two pairs (l, r) and (r, v):

- In a later round everything grows from the one symbol that opened it. So only where ``r`` is what grew do both pairs
  become possible at once: (l, r) comes before (r, v).
- In the first round ``l`` and ``r`` may still be in parts. Whatever of this group is to be joined on the way to ``l r``
  comes before (r, v); or before something that must be joined to make ``v`` at all, so that ``l r`` is always
  made before ``v`` is there; or, for the parts of ``l``, before something that makes ``r``.
- Where (r, v) is of a better rank than the group and ``v`` is made in the group, everything on the way to ``l r`` comes
  before everything on the way to ``v``.

"Before" includes "the same": of one pair, both engines join the leftmost. An order that keeps all constraints gives the
ids of the leftmost strategy for every text. That some order exists although none is found here is possible, and rare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import chain, pairwise
from math import inf
from typing import Generic, TypeVar

from ...errors import TokenizerError

Token = TypeVar("Token", str, bytes)

# Bounds on the work: pairs that overlap; and constraints with alternatives, times pairs. Llama 2's 15 runs of spaces
# are far below them; a vocabulary of thousands of words of one score is far beyond, and contradicts itself anyway.
_MAX_COMPARISONS = 50_000
_MAX_CHOICES = 10_000


class NotExpressible(TokenizerError):
    """A vocabulary that the tokenizers library cannot run with the same ids."""


class TieGroups(Generic[Token]):
    """The tokens of equal rank in a vocabulary, the pair each is put together from, and an order for them.

    Args:
        ranks: token -> rank, a finite number, the smallest joined first.
        splits: for each token that can be put together, the ways of splitting it into two tokens.
    """

    def __init__(self, ranks: Mapping[Token, float], splits: Mapping[Token, list[tuple[Token, Token]]]) -> None:
        self._ranks: Mapping[Token, float] = ranks
        self._splits: Mapping[Token, list[tuple[Token, Token]]] = splits
        sizes = Counter(ranks[token] for token in splits)
        self.tied: set[Token] = {token for token in splits if sizes[ranks[token]] > 1}
        self.pairs: dict[Token, tuple[Token, Token]] = {}
        self._nodes: dict[Token, dict[float, frozenset[Token]]] = {}
        self._worst: dict[Token, float] = {}

    def order(self, source: str) -> dict[Token, int]:
        """Return each tied token's place among those of its rank.

        Errors: NotExpressible where the constraints contradict each other.
        """
        if not self.tied:
            return {}
        self._refuse_circles_of_characters(source)
        self._read_trees()
        constraints = list(self._constraints(source))
        found = _sorted(self.pairs, [options[0] for options in constraints])
        if found is None:
            found = self._chosen(constraints)
        if found is None:
            raise self._contradiction(source)
        return {token: place for place, token in enumerate(found)}

    def _contradiction(self, source: str) -> NotExpressible:
        size, rank = max((size, rank) for rank, size in Counter(self._ranks[token] for token in self.tied).items())
        examples = sorted(token for token in self.tied if self._ranks[token] == rank)
        return NotExpressible(
            f"{source}: pieces share a score ({size} of them {-rank:g}: {', '.join(map(repr, examples[:3]))} ...), "
            "and no order of merges was found that always joins the leftmost first, as SentencePiece does"
        )

    def _refuse_circles_of_characters(self, source: str) -> None:
        """See at once what is common in vocabularies of words of one score: "ab", "bc", "ca" each ask to come first."""
        following: dict[tuple[float, Token], set[tuple[float, Token]]] = {}
        for token in self.tied:
            if len(token) == 2 and token[:1] != token[1:]:
                rank = self._ranks[token]
                following.setdefault((rank, token[:1]), set()).add((rank, token[1:]))
        try:
            TopologicalSorter(following).prepare()
        except CycleError:
            raise self._contradiction(source) from None

    def _read_trees(self) -> None:
        """Find pairs, tied nodes and worst ranks of all tied tokens, of what they are in, and of what is in those."""
        splits = self._splits
        related: set[Token] = set()
        shortest_first = sorted(splits, key=len)
        tied = self.tied
        for token in shortest_first:
            if token in tied:
                related.add(token)
                continue
            for left, right in splits[token]:
                if left in related or right in related:
                    related.add(token)
                    break
        needed = set(related)
        for token in reversed(shortest_first):
            if token in needed and (pair := last_pair(self._ranks, token)) is not None:
                self.pairs[token] = pair
                needed.update(part for part in pair if part in splits)
        for token in shortest_first:
            if token not in self.pairs:
                continue
            rank, parts = self._ranks[token], self.pairs[token]
            nodes: dict[float, frozenset[Token]] = {rank: frozenset([token])} if token in self.tied else {}
            for part in parts:
                for tied_rank, below in self._nodes.get(part, {}).items():
                    nodes[tied_rank] = nodes.get(tied_rank, frozenset()) | below
            self._nodes[token] = nodes
            self._worst[token] = max(rank, *(self._worst_of(part) for part in parts))

    def _worst_of(self, token: Token) -> float:
        """The worst rank in a token's tree; characters are there from the beginning, whatever their rank."""
        return self._worst.get(token, -inf)

    def _on_the_way(self, token: Token, rank: float) -> frozenset[Token]:
        return self._nodes.get(token, {}).get(rank, frozenset())

    def _constraints(self, source: str) -> Iterator[_Options[Token]]:
        ending: dict[tuple[Token, float], list[Token]] = {}  # by last part and by rank of a node on the way
        for token, (_, right) in self.pairs.items():
            for rank in self._nodes[token]:
                ending.setdefault((right, rank), []).append(token)
        meetings: list[tuple[Token, float, list[Token]]] = []
        for token, (left, right) in self.pairs.items():
            rank = self._ranks[token]
            ranks = {other for other in self._nodes.get(right, ()) if other > rank}
            if token in self.tied:
                ranks.add(rank)
            meetings += [(token, rank, ending[left, rank]) for rank in ranks if (left, rank) in ending]
        if sum(len(firsts) for _, _, firsts in meetings) > _MAX_COMPARISONS:
            raise NotExpressible(
                f"{source}: {len(self.tied)} pieces share scores with others, too many to look for an order of merges "
                "that always joins the leftmost first, as SentencePiece does"
            )
        for second, rank, firsts in meetings:
            for first in firsts:
                options = self._between(first, second, rank)
                if options and all(options):
                    yield options

    def _between(self, first: Token, second: Token, rank: float) -> _Options[Token]:
        """Return what a group asks for where ``first`` = l + r overlaps ``second`` = r + v; nothing if they never do.

        Each option is a set of (earlier, later).
        """
        (left, middle), right = self.pairs[first], self.pairs[second][1]
        rank_first = self._ranks[first]
        worst = max(self._worst_of(left), self._worst_of(middle), self._worst_of(right))
        on_the_way = self._on_the_way(first, rank)
        if self._ranks[second] < rank:
            if max(worst, rank_first) > rank:
                return []
            return [frozenset(edge for node in self._on_the_way(right, rank) for edge in _before(on_the_way, node))]
        itself = frozenset([first]) if rank_first == rank else frozenset()
        if self._worst_of(middle) > rank:
            return [_before(itself, second)]
        if max(worst, rank_first) > rank:
            return []
        to_left, directly = self._on_the_way(left, rank), _before(itself, second)
        options = [_before(to_left | itself, second)]
        options += [_before(on_the_way, node) for node in self._on_the_way(right, rank)]
        options += [directly | _before(to_left, node) for node in self._on_the_way(middle, rank)]
        return _weakest(options)

    def _chosen(self, constraints: list[_Options[Token]]) -> list[Token] | None:
        """Take of each constraint's alternatives one that contradicts nothing taken so far."""
        taken = [edges for options in constraints if len(options) == 1 for edges in options]
        open_ones = [options for options in constraints if len(options) > 1]
        if len(open_ones) * len(self.pairs) > _MAX_CHOICES or _sorted(self.pairs, taken) is None:
            return None
        after: dict[Token, set[Token]] = {}
        while True:
            for earlier, later in chain.from_iterable(taken):
                after.setdefault(earlier, set()).add(later)
            open_ones = [[edges for edges in options if _agrees(after, edges)] for options in open_ones]
            if not all(open_ones):
                return None
            if not open_ones:
                return _sorted(self.pairs, [_before([one], other) for one, others in after.items() for other in others])
            # What has one way left is taken first; of real choices one at a time.
            taken = [options[0] for options in open_ones if len(options) == 1][:1] or [open_ones[0][0]]
            open_ones = [options for options in open_ones if taken[0] not in options]


_Edges = frozenset[tuple[Token, Token]]  # (earlier, later)
_Options = list[_Edges[Token]]  # of which one must be kept


def _before(tokens: Iterable[Token], later: Token) -> _Edges[Token]:
    return frozenset((token, later) for token in tokens if token != later)


def _weakest(options: _Options[Token]) -> _Options[Token]:
    """Leave out what asks for all that another option asks for."""
    return [
        edges
        for index, edges in enumerate(options)
        if not any(other < edges or (other == edges and place < index) for place, other in enumerate(options))
    ]


def last_pair(ranks: Mapping[Token, float], token: Token) -> tuple[Token, Token] | None:
    """Return the two parts that joining by rank puts a token together from; None if it never gets there."""
    parts = [token[index : index + 1] for index in range(len(token))]
    joined = [ranks.get(left + right, inf) for left, right in pairwise(parts)]
    while len(parts) > 2:
        best = min(joined)
        if best == inf:
            return None
        place = joined.index(best)
        parts[place] += parts.pop(place + 1)
        joined.pop(place)
        if place:
            joined[place - 1] = ranks.get(parts[place - 1] + parts[place], inf)
        if place < len(joined):
            joined[place] = ranks.get(parts[place] + parts[place + 1], inf)
    return parts[0], parts[1]


def _sorted(tokens: Iterable[Token], chosen: Iterable[_Edges[Token]]) -> list[Token] | None:
    order: TopologicalSorter[Token] = TopologicalSorter({token: () for token in tokens})
    for edges in chosen:
        for earlier, later in edges:
            order.add(later, earlier)
    try:
        return list(order.static_order())
    except CycleError:
        return None


def _agrees(after: Mapping[Token, set[Token]], edges: _Edges[Token]) -> bool:
    """Whether the edges can be added to those of ``after``, which have no circle, without making one."""
    following: dict[Token, set[Token]] = {}
    for earlier, later in edges:
        following.setdefault(earlier, set()).add(later)
    for earlier, start in edges:
        waiting, seen = [start], {start}
        while waiting:
            token = waiting.pop()
            if token == earlier:
                return False
            further = (after.get(token, set()) | following.get(token, set())) - seen
            waiting.extend(further)
            seen |= further
    return True

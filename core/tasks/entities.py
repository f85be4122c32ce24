"""Scores of tokens into entities of a text.

A tag says by its first letters how it joins: ``B-PER`` begins an entity, ``I-PER`` or a plain ``PER`` goes on with the
one before where that is a ``PER`` too, and begins one where it is not (the IOB2 scheme, Ratnaparkhi 1998, as models are
trained on CoNLL-2003). Words are what white space separates, without the punctuation around them: a vocabulary of
subwords does not know better.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..public import for_plugins
from .results import Entity

if TYPE_CHECKING:
    from .windows import Window

STRATEGIES = ("none", "simple", "first", "average", "max")


@dataclass(frozen=True)
class Piece:
    """A token, or the tokens of a word, with characters as the tokenizer counts them, a space before it included."""

    label: str
    score: float
    start: int
    end: int
    index: int


@for_plugins
@dataclass(frozen=True)
class ScoredTokens:
    """The tokens of one row that are text.

    Attributes:
        offsets: start and end of each in the text.
        scores: ``[T, labels]`` probabilities.
        indices: number of each in the model's row.
    """

    offsets: Sequence[tuple[int, int]]
    scores: np.ndarray
    indices: Sequence[int]


@for_plugins
def put_together(windows: Sequence[Window], scores: Sequence[np.ndarray]) -> ScoredTokens:
    """The tokens of a text that was read in windows, as if it had been read in one row.

    A token that several windows share counts as the first of them scored it, where it has the most text before it: a
    causal model sees nothing else. So an entity is whole, however the windows cut it.

    Args:
        scores: ``[S, labels]`` of each window.
    """
    offsets: list[tuple[int, int]] = []
    rows: list[np.ndarray] = []
    indices: list[int] = []
    for window, found in zip(windows, scores, strict=True):
        new = window.places()[len(rows) - window.first :]
        offsets += [window.offsets[place] for place in new]
        rows += [found[place] for place in new]
        indices += [place + window.first for place in new]
    return ScoredTokens(offsets, np.stack(rows), indices)


def check_strategy(strategy: object) -> None:
    """Refuse an aggregation strategy that there is none of."""
    if strategy not in STRATEGIES:
        raise InputError(f"aggregation_strategy is {strategy!r:.80}", hint=f"one of {', '.join(STRATEGIES)}")


@for_plugins
def check_ignored(ignore: object, labels: Sequence[str], strategy: object) -> None:
    """Refuse labels to be ignored that no entity could have; ``"O"``, the customary one, a model need not know."""
    check_strategy(strategy)
    if isinstance(ignore, str) or not isinstance(ignore, Iterable):
        raise InputError(f"ignore_labels is {ignore!r:.80}, wanted a list of labels")
    known = list(labels) if strategy == "none" else list(dict.fromkeys(split_tag(label)[1] for label in labels))
    for label in ignore:
        if label != "O" and label not in known:
            raise InputError(f"ignore_labels has {label!r:.80}", hint=f"entities are {', '.join(known)}")


@for_plugins
def find_entities(
    text: str, tokens: ScoredTokens, labels: Sequence[str], strategy: str, ignore: Iterable[str] = ("O",)
) -> list[Entity]:
    """Entities in the order of the text; spaces around them are still there, see :func:`trimmed`.

    Tokens without a visible character (a lone space before a word) are left out: what they are labelled says nothing.

    Args:
        strategy: ``"none"`` gives each token; ``"simple"`` joins tokens of one tag; with the others a word is of one
            tag as a whole: that of its first token, of its tokens' mean scores, or of the token with the highest score.
        ignore: labels that are no entities.

    >>> tokens = ScoredTokens([(0, 3), (3, 5), (5, 11)], np.array([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1]]), [1, 2, 3])
    >>> [str(entity) for entity in find_entities("Sarah sings", tokens, ["O", "PER"], "simple")]
    ['Sarah: PER (0.850)']
    """
    check_strategy(strategy)
    visible = [place for place, (start, end) in enumerate(tokens.offsets) if text[start:end].strip()]
    if strategy in ("none", "simple"):
        pieces = _tokens_as_pieces(tokens, visible, labels, joined=strategy == "simple")
    else:
        pieces = [_word(tokens, places, labels, strategy) for places in _words(text, tokens.offsets, visible)]
    ignored = frozenset(ignore)
    if strategy == "none":
        found = [Entity(p.label, p.score, text[p.start : p.end], p.start, p.end, p.index) for p in pieces]
    else:
        found = [_joined(text, group) for group in _groups(pieces)]
    return [entity for entity in found if entity.label not in ignored]


def _tokens_as_pieces(
    tokens: ScoredTokens, visible: Sequence[int], labels: Sequence[str], *, joined: bool
) -> list[Piece]:
    """Each token with its likeliest label; where they get joined, tokens of one character agree with the first."""
    pieces: list[Piece] = []
    number = reach = 0
    for place in visible:
        start, end = tokens.offsets[place]
        within = joined and bool(pieces) and start < reach
        if not within:
            number = int(tokens.scores[place].argmax())
        label = _goes_on(labels[number]) if within else labels[number]
        pieces.append(Piece(label, float(tokens.scores[place, number]), start, end, tokens.indices[place]))
        reach = max(reach, end)
    return pieces


def _words(text: str, offsets: Sequence[tuple[int, int]], visible: Sequence[int]) -> Iterator[list[int]]:
    """Tokens by words. Punctuation before and after a word does not belong to it, that within it does (``O'Hara``)."""
    for run in _unspaced(text, offsets, visible):
        marks = [_is_punctuation(text[slice(*offsets[place])]) for place in run]
        if all(marks):
            yield run
            continue
        start, end = marks.index(False), len(run) - marks[::-1].index(False)
        yield from (part for part in (run[:start], run[start:end], run[end:]) if part)


def _is_punctuation(text: str) -> bool:
    return all(unicodedata.category(character).startswith("P") for character in text.strip())


def _unspaced(text: str, offsets: Sequence[tuple[int, int]], visible: Sequence[int]) -> Iterator[list[int]]:
    """Tokens by runs: one goes on with the run before it where no space lies between or at its start."""
    word: list[int] = []
    reach = 0
    for place in visible:
        start, end = offsets[place]
        # A character of several tokens (byte fallback) is never torn apart.
        goes_on = start < reach or (start > 0 and not _has_space(text[start - 1 : start + 1]))
        if word and not goes_on:
            yield word
            word = []
        word.append(place)
        reach = max(reach, end)
    if word:
        yield word


def _has_space(text: str) -> bool:
    return any(character.isspace() for character in text)


def _word(tokens: ScoredTokens, places: Sequence[int], labels: Sequence[str], strategy: str) -> Piece:
    scores = tokens.scores[list(places)]
    if strategy == "first":
        chosen = scores[0]
    elif strategy == "max":
        chosen = scores[scores.max(axis=-1).argmax()]
    else:
        chosen = scores.mean(axis=0)
    number = int(chosen.argmax())
    start, end = tokens.offsets[places[0]][0], max(tokens.offsets[place][1] for place in places)
    return Piece(labels[number], float(chosen[number]), start, end, tokens.indices[places[0]])


def split_tag(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and of what.

    >>> split_tag("B-PER"), split_tag("I-PER"), split_tag("PER")
    ((True, 'PER'), (False, 'PER'), (False, 'PER'))
    """
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _goes_on(label: str) -> str:
    begins, tag = split_tag(label)
    return f"I-{tag}" if begins else label


def _groups(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    for piece in pieces:
        begins, tag = split_tag(piece.label)
        if group and (begins or tag != split_tag(group[-1].label)[1]):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _joined(text: str, group: Sequence[Piece]) -> Entity:
    start, end = group[0].start, max(piece.end for piece in group)
    score = sum(piece.score for piece in group) / len(group)
    return Entity(split_tag(group[0].label)[1], score, text[start:end], start, end)


@for_plugins
def trimmed(text: str, entity: Entity) -> Entity:
    """The same without the spaces around it.

    >>> trimmed("Ask Sarah", Entity("PER", 0.9, " Sarah", 3, 9))
    Entity(label='PER', score=0.9, word='Sarah', start=4, end=9, index=None)
    """
    start, end = visible_part(text, entity.start, entity.end)
    return replace(entity, word=text[start:end], start=start, end=end)


def visible_part(text: str, start: int, end: int) -> tuple[int, int]:
    """Start and end without the spaces at either side."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end

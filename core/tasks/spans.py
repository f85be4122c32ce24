"""Where an answer starts and ends: the likeliest pair of two tokens, as characters of the context."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..public import for_plugins
from .entities import visible_part
from .results import Answer
from .scores import softmax

NULL_POSITION = 0
"""Models that know "no answer" point at the first token of the row (Rajpurkar et al. 2018, SQuAD 2.0)."""

SPACELESS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x9FFF),  # Han
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
"""Scripts that put no spaces between words, so that no word's end can be seen."""


@for_plugins
@dataclass(frozen=True)
class Span:
    """A candidate: first and last token, and the product of their probabilities."""

    score: float
    first: int
    last: int


@for_plugins
def best_spans(
    start_logits: np.ndarray, end_logits: np.ndarray, allowed: np.ndarray, max_answer_len: int, *, may_be_none: bool
) -> tuple[Iterator[Span], float]:
    """Spans of one row from the likeliest down, and the probability that there is none (0 where that cannot be).

    Probabilities are over the allowed tokens, and the first token of the row too where there may be no answer.

    Args:
        start_logits, end_logits: ``[S]``.
        allowed: ``[S]`` booleans: the tokens of the context.
        max_answer_len: most tokens of a span.

    >>> spans, none = best_spans(np.array([0, 3, 0]), np.array([0, 0, 3]), np.array([False, True, True]), 5,
    ...                          may_be_none=False)
    >>> next(spans), none
    (Span(score=0.907..., first=1, last=2), 0.0)
    """
    considered = allowed.copy()
    considered[NULL_POSITION] |= may_be_none
    start, end = (softmax(np.where(considered, logits, -np.inf)) for logits in (start_logits, end_logits))
    none = float(start[NULL_POSITION] * end[NULL_POSITION]) if may_be_none else 0.0
    return _descending(np.where(allowed, start, 0), np.where(allowed, end, 0), allowed, max_answer_len), none


def _descending(start: np.ndarray, end: np.ndarray, allowed: np.ndarray, max_answer_len: int) -> Iterator[Span]:
    size = len(start)
    band = np.full((size, min(max_answer_len, size)), -1.0)  # [first, last - first]
    for more in range(band.shape[1]):
        scores = start[: size - more] * end[more:]
        band[: size - more, more] = np.where(allowed[: size - more] & allowed[more:], scores, -1.0)
    flat = band.reshape(-1)
    for place in np.argsort(-flat, kind="stable"):
        if flat[place] < 0:
            return
        first, more = divmod(int(place), band.shape[1])
        yield Span(float(flat[place]), first, first + more)


@for_plugins
def as_answers(
    context: str, offsets: list[tuple[int, int]], spans: Iterable[Span], count: int, *, align_to_words: bool
) -> list[Answer]:
    """The first `count` spans that are different pieces of the context."""
    found: dict[tuple[int, int], Answer] = {}
    for span in spans:
        start, end = visible_part(context, offsets[span.first][0], offsets[span.last][1])
        if start == end:
            continue
        if align_to_words:
            start, end = whole_words(context, start, end)
        found.setdefault((start, end), Answer(context[start:end], span.score, start, end))
        if len(found) == count:
            break
    return list(found.values())


def whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Start and end moved outwards to where words begin and end.

    >>> text = "They met in Paris."
    >>> start, end = whole_words(text, 13, 15)
    >>> text[start:end]
    'Paris'
    """
    while start > 0 and _within_a_word(text[start - 1], text[start]):
        start -= 1
    while end < len(text) and _within_a_word(text[end - 1], text[end]):
        end += 1
    return start, end


def _within_a_word(before: str, after: str) -> bool:
    return _of_a_word(before) and _of_a_word(after)


def _of_a_word(character: str) -> bool:
    """A letter, a digit, an underscore, or a mark on a letter; not of a script without spaces."""
    if any(low <= ord(character) <= high for low, high in SPACELESS):
        return False
    return character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")


@for_plugins
def best_answers(answers: Iterable[Answer], count: int) -> list[Answer]:
    """The best `count` of the answers of several windows, each piece of the context once."""
    best: dict[tuple[int, int], Answer] = {}
    for answer in answers:
        place = (answer.start, answer.end)
        if place not in best or answer.score > best[place].score:
            best[place] = answer
    return sorted(best.values(), key=lambda a: (-a.score, a.start, a.end))[:count]

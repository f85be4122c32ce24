"""The bundled heads: how texts become rows of tokens with labels, and outputs become results that can be scored."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from entity_data import KINDS, Entity, Tagged, tagged_texts
from question_data import Question, questions
from question_passages import SLOTS
from sentiment_data import LABELS, Opinion, opinions

IGNORED = -100
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Row:
    """One example as tokens.

    Attributes:
        ids: the tokens, special ones included.
        offsets: where each token stands in its text, in characters.
        labels: what the loss is against; what it is depends on the head.
        example: what the row was made from.
        hints: for each of the head's ``hint_layers`` what it is told to see at each token while training.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]
    labels: Any
    example: Any
    hints: tuple[list[int], ...] = ()


class Head:
    """One bundled model: its names, its data, its scores."""

    name: ClassVar[str]
    task: ClassVar[str]
    architecture: ClassVar[str]
    labels: ClassVar[tuple[str, ...]] = ()
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    hints: ClassVar[int] = 0
    """How many kinds of hints the rows have."""
    hint_layers: ClassVar[tuple[int, ...]] = ()

    @property
    def folder(self) -> str:
        return f"tiny-{self.name}"

    def examples(self, split: str, how_many: int, first: int = 0) -> Iterator[Any]:
        """The first examples of a split."""
        raise NotImplementedError

    def rows(self, tokenizer: Any, examples: Sequence[Any]) -> list[Row]:
        """Examples as tokens and labels."""
        raise NotImplementedError

    def collate(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        """The labels of a batch, by the names that forward has for them."""
        raise NotImplementedError

    def decode(self, row: Row, outputs: Mapping[str, np.ndarray]) -> Any:
        """What one row's outputs say, in the form that `scores` compares."""
        raise NotImplementedError

    def scores(self, examples: Sequence[Any], found: Sequence[Any]) -> dict[str, float]:
        """How right that is, by the names that the model card gives the figures."""
        raise NotImplementedError

    def baseline(self, training: Sequence[Any]) -> Callable[[Any], Any]:
        """What needs no model: looking words up, as counted in training texts."""
        raise NotImplementedError


def _encode(tokenizer: Any, texts: list[str], pairs: list[str] | None = None) -> Iterator[tuple[list[int], list[Any]]]:
    given = tokenizer(texts, pairs, return_offsets_mapping=True)
    return zip(given["input_ids"], given["offset_mapping"], strict=True)


class Sentiments(Head):
    """Which side a text takes: one label for the whole of it, read at its last token."""

    name = "sentiment"
    task = "sequence-classification"
    architecture = "LlamaForSequenceClassification"
    labels = LABELS

    def examples(self, split: str, how_many: int, first: int = 0) -> Iterator[Opinion]:
        return opinions(split, how_many, first)

    def rows(self, tokenizer: Any, examples: Sequence[Opinion]) -> list[Row]:
        encoded = _encode(tokenizer, [example.text for example in examples])
        return [
            Row(ids, offsets, LABELS.index(example.label), example)
            for example, (ids, offsets) in zip(examples, encoded, strict=True)
        ]

    def collate(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        return {"labels": np.array([row.labels for row in rows], np.int64)}

    def decode(self, row: Row, outputs: Mapping[str, np.ndarray]) -> str:
        """The label with the highest score."""
        return LABELS[int(outputs["logits"].argmax())]

    def scores(self, examples: Sequence[Opinion], found: Sequence[str]) -> dict[str, float]:
        right = [example.label == label for example, label in zip(examples, found, strict=True)]
        contrast = [r for r, example in zip(right, examples, strict=True) if example.kind == "contrast"]
        return {"accuracy": float(np.mean(right)), "accuracy where both sides are told": float(np.mean(contrast))}

    def baseline(self, training: Sequence[Opinion]) -> Callable[[Opinion], str]:
        """Naive Bayes: how often each word is in texts of each label, whatever its place (add-one smoothing)."""
        counts = {label: Counter[str]() for label in LABELS}
        for example in training:
            counts[example.label].update(_words(example.text))
        vocabulary = len(set().union(*counts.values()))
        totals = {label: sum(count.values()) + vocabulary for label, count in counts.items()}

        def classify(example: Opinion) -> str:
            def likelihood(label: str) -> float:
                return float(sum(np.log((counts[label][w] + 1) / totals[label]) for w in _words(example.text)))

            return max(LABELS, key=likelihood)

        return classify


class Entities(Head):
    """People, places and things: a label for each token, which counts by the word."""

    name = "entities"
    task = "token-classification"
    architecture = "LlamaForTokenClassification"
    labels = ("O", *KINDS)

    def examples(self, split: str, how_many: int, first: int = 0) -> Iterator[Tagged]:
        return tagged_texts(split, how_many, first)

    def rows(self, tokenizer: Any, examples: Sequence[Tagged]) -> list[Row]:
        encoded = _encode(tokenizer, [example.text for example in examples])
        rows = []
        for example, (ids, offsets) in zip(examples, encoded, strict=True):
            labels = [IGNORED] * len(ids)
            for place, (start, end) in enumerate(offsets):
                if example.text[start:end].strip():  # neither a special token nor a lone space
                    inside = [e.kind for e in example.entities if e.start < end and start < e.end]
                    labels[place] = self.labels.index(inside[0]) if inside else 0
            rows.append(Row(ids, offsets, labels, example))
        return rows

    def collate(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        labels = np.full((len(rows), max(len(row.labels) for row in rows)), IGNORED, np.int64)
        for index, row in enumerate(rows):
            labels[index, : len(row.labels)] = row.labels
        return {"labels": labels}

    def decode(self, row: Row, outputs: Mapping[str, np.ndarray]) -> tuple[Entity, ...]:
        """A word has the label with the highest mean probability over its tokens; neighbours of one label are one."""
        text = row.example.text
        scores = np.exp(outputs["logits"] - outputs["logits"].max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        found: list[Entity] = []
        for word in _WORD.finditer(text):
            tokens = [i for i, (start, end) in enumerate(row.offsets) if _overlap(text, start, end, word)]
            label = self.labels[int(scores[tokens].mean(0).argmax())]
            if found and found[-1].kind == label and text[found[-1].end : word.start()] == " ":
                found[-1] = Entity(label, found[-1].start, word.end())
            elif label != "O":
                found.append(Entity(label, word.start(), word.end()))
        return tuple(found)

    def scores(self, examples: Sequence[Tagged], found: Sequence[tuple[Entity, ...]]) -> dict[str, float]:
        """F1 of entities that are right in kind, start and end, of all kinds together and of each."""
        scores = {}
        for name, kinds in {"F1": KINDS, **{f"F1 of {kind}": (kind,) for kind in KINDS}}.items():
            wanted = {(i, e) for i, example in enumerate(examples) for e in example.entities if e.kind in kinds}
            given = {(i, e) for i, entities in enumerate(found) for e in entities if e.kind in kinds}
            scores[name] = 2 * len(wanted & given) / max(1, len(wanted) + len(given))
        return scores

    def baseline(self, training: Sequence[Tagged]) -> Callable[[Tagged], tuple[Entity, ...]]:
        """Each word is what it was most often in training; one never seen is a person where it has a capital letter."""
        seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for example in training:
            for word in _WORD.finditer(example.text):
                kinds = [e.kind for e in example.entities if e.start <= word.start() < e.end]
                seen[word[0]][kinds[0] if kinds else "O"] += 1

        def tag(example: Tagged) -> tuple[Entity, ...]:
            found: list[Entity] = []
            for word in _WORD.finditer(example.text):
                unknown = "PERSON" if word[0][0].isupper() else "O"
                kind = seen[word[0]].most_common(1)[0][0] if word[0] in seen else unknown
                if found and found[-1].kind == kind and example.text[found[-1].end : word.start()] == " ":
                    found[-1] = Entity(kind, found[-1].start, word.end())
                elif kind != "O":
                    found.append(Entity(kind, word.start(), word.end()))
            return tuple(found)

        return tag


class Questions(Head):
    """Where in a passage the answer to a question is: the places of its first and last token, 0 where there is none.

    One answer in a passage is little to learn from. So while training, two layers are also asked what each token is:
    who, what, where or when, and whether the question has the same, or, later on, is for this fact.
    """

    name = "questions"
    task = "question-answering"
    architecture = "LlamaForQuestionAnswering"
    outputs = ("start_logits", "end_logits")
    longest: ClassVar[int] = 16
    hints = 1 + 3 * len(SLOTS)
    hint_layers = (2, 4)

    def examples(self, split: str, how_many: int, first: int = 0) -> Iterator[Question]:
        return questions(split, how_many, first)

    def rows(self, tokenizer: Any, examples: Sequence[Question]) -> list[Row]:
        encoded = _encode(tokenizer, [e.question for e in examples], [e.context for e in examples])
        rows = []
        for example, (ids, offsets) in zip(examples, encoded, strict=True):
            labels = (0, 0)
            if example.end:
                context = range(_context_start(ids), len(ids))
                first = next(i for i in context if offsets[i][1] > example.start)
                last = next(i for i in context if offsets[i][1] >= example.end)
                labels = (first, last)
            rows.append(Row(ids, offsets, labels, example, self._hints(example, ids, offsets)))
        return rows

    @staticmethod
    def _hints(example: Question, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> tuple[list[int], ...]:
        """What is asked for, at the last token of the question; in the passage what each token is, and if asked for."""
        begin = _context_start(ids)
        hints = tuple([IGNORED] * begin + [0] * (len(ids) - begin) for _ in range(2))
        for layer in hints:
            layer[begin - 2] = 1 + 2 * len(SLOTS) + SLOTS.index(example.asked)
        for slot, start, end, *alike in example.told:
            for place in range(begin, len(ids)):
                if offsets[place][0] < end and start < offsets[place][1]:
                    for layer, same in zip(hints, alike, strict=True):
                        layer[place] = 1 + SLOTS.index(slot) + len(SLOTS) * same
        return hints

    def collate(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        places = np.array([row.labels for row in rows], np.int64)
        return {"start_positions": places[:, 0].copy(), "end_positions": places[:, 1].copy()}

    def decode(self, row: Row, outputs: Mapping[str, np.ndarray]) -> str:
        """The text of the best span in the passage; none where pointing at the first token is better."""
        begin, length = _context_start(row.ids), len(row.ids)
        start, end = outputs["start_logits"][:length], outputs["end_logits"][:length]
        scores = start[begin:, None] + end[None, begin:]
        distance = np.arange(length - begin)[None, :] - np.arange(length - begin)[:, None]
        scores = np.where((distance >= 0) & (distance < self.longest), scores, -np.inf)
        first, last = np.unravel_index(int(scores.argmax()), scores.shape)
        if start[0] + end[0] >= scores[first, last]:
            return ""
        return _whole_words(row.example.context, row.offsets[begin + first][0], row.offsets[begin + last][1])

    def scores(self, examples: Sequence[Question], found: Sequence[str]) -> dict[str, float]:
        exact = [example.answer == answer for example, answer in zip(examples, found, strict=True)]
        overlap = [_word_f1(example.answer, answer) for example, answer in zip(examples, found, strict=True)]
        none = [not answer for answer in found]
        has = [bool(example.answer) for example in examples]
        return {
            "exact match": float(np.mean(exact)),
            "F1": float(np.mean(overlap)),
            "exact match where there is an answer": float(np.mean([e for e, h in zip(exact, has, strict=True) if h])),
            "no answer where there is none": float(np.mean([n for n, h in zip(none, has, strict=True) if not h])),
        }

    def baseline(self, training: Sequence[Question]) -> Callable[[Question], str]:
        """Of all answers known from training to questions with this first word, the first one in the passage."""
        known: defaultdict[str, set[str]] = defaultdict(set)
        for example in training:
            known[example.question.split()[0]].add(example.answer)

        def answer(example: Question) -> str:
            first = example.question.split()[0]
            places = {
                example.context.find(text): text for text in known[first] if text and text not in example.question
            }
            places.pop(-1, None)
            return places[min(places)] if places else ""

        return answer


def _words(text: str) -> list[str]:
    return [word[0].lower() for word in _WORD.finditer(text)]


def _overlap(text: str, start: int, end: int, word: re.Match[str]) -> bool:
    """Whether a token shows something of a word; a space at its start is not of the word before."""
    return start < word.end() and word.start() < end and bool(text[start:end].strip())


def _context_start(ids: Sequence[int]) -> int:
    """Where the passage's tokens begin: after the second of the tokens that begin a text."""
    return ids.index(ids[0], 1) + 1


def _whole_words(text: str, start: int, end: int) -> str:
    """What stands there, with the rest of a word that it begins or ends in, as ``Llama.predict`` gives it."""
    words = [word for word in _WORD.finditer(text) if word.start() < end and start < word.end()]
    return text[words[0].start() : words[-1].end()] if words else text[start:end].strip()


def _word_f1(one: str, other: str) -> float:
    if not one or not other:
        return float(one == other)
    common = sum((Counter(one.split()) & Counter(other.split())).values())
    return 2 * common / (len(one.split()) + len(other.split()))


HEADS: dict[str, Head] = {head.name: head for head in (Sentiments(), Entities(), Questions())}

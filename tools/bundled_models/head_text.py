"""What the texts for the bundled heads share: the splits, the words, and marks that say where a slot's words stand.

Texts come from templates (see ``story_templates.py``) whose slots are filled with marked words; when the marks are
taken out, the places they were at are known. So labels are right by construction, and nothing is searched for in a
text.

What is held out from training is held out twice:

- by seed ("heldout"): texts of the same making that are not among the training texts. A text belongs to one split only,
  by its checksum, so not even a short one can be in both;
- by construction ("unseen"): the names, things, places and sentence frames are never used in any training text.
"""

from __future__ import annotations

import argparse
import random
import re
import tomllib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from stories import Grammar, stories
from story_templates import expand, parse, pick

T = TypeVar("T")
GRAMMAR = Path(__file__).parent / "head_grammar"
SPLITS = ("train", "heldout", "unseen")
HELD_OUT_SHARE = 16
"""One text in this many is never trained on."""

ONSETS = (
    *[
        "b",
        "bl",
        "br",
        "c",
        "ch",
        "d",
        "dr",
        "f",
        "fl",
        "g",
        "gr",
        "h",
        "j",
        "k",
        "l",
        "m",
        "n",
        "p",
        "pl",
        "qu",
        "r",
        "s",
        "sh",
        "sn",
        "st",
        "t",
        "th",
        "tr",
        "v",
        "w",
        "y",
        "z",
    ],
    "",
    "",
)
VOWELS = tuple(["a", "e", "i", "o", "u", "a", "e", "i", "o", "ee", "oo", "ai", "ie", "ia", "y"])
CODAS = ("", "", "", *["b", "d", "ck", "l", "ll", "m", "n", "p", "r", "s", "t", "x", "nd", "st", "rk", "ng", "tte"])

_SENTENCE = re.compile(r"(?<![^\n.!?] )(?<!\S)[A-Z][^.!?\"\n]*[.!?](?=\s|$)")
_FIRST_MARK, _END = 0xE001, "\ue000"  # characters of Unicode's private use area, which no text has
_MARKS = "[\ue000-\uf8ff]"
_CAPITAL = re.compile(rf'(?:^|(?<=[.!?] )|(?<=[.!?]" )(?!said |asked ))((?:{_MARKS}|")*)([a-z])')
_ARTICLE = re.compile(rf"\b([Aa]) (?={_MARKS}*(?:(?!one\b|uni|use|eu)[aeiouAEIOU]|hour|honest))")


class Span(NamedTuple):
    """Where in a text the words of a slot stand, in characters."""

    slot: str
    start: int
    end: int


def marked(slot: str, text: str, slots: Sequence[str]) -> str:
    """The text with marks around it that say which of `slots` it fills."""
    return chr(_FIRST_MARK + slots.index(slot)) + text + _END


def unmarked(text: str, slots: Sequence[str]) -> tuple[str, list[Span]]:
    """The text without its marks, in good English (capitals, "an"), and where the slots stand in it.

    >>> unmarked("it was a " + marked("t", "umbrella", "lt") + ".", "lt")
    ('It was an umbrella.', [Span(slot='t', start=10, end=18)])
    """
    text = _ARTICLE.sub(r"\1n ", text)
    text = _CAPITAL.sub(lambda match: match[1] + match[2].upper(), text)
    plain: list[str] = []
    opened: list[tuple[str, int]] = []
    spans = []
    for character in text:
        if character == _END:
            slot, start = opened.pop()
            spans.append(Span(slot, start, len(plain)))
        elif _FIRST_MARK <= ord(character) < _FIRST_MARK + len(slots):
            opened.append((slots[ord(character) - _FIRST_MARK], len(plain)))
        else:
            plain.append(character)
    return "".join(plain), sorted(spans, key=lambda span: span[1:])


def fill(template: str, lookup: Callable[[str], str], rng: random.Random) -> str:
    """A template's text, marks and all."""
    return expand(parse(template), lookup, rng)


def generator_of(task: str, split: str, index: int) -> random.Random:
    """The random stream of one example."""
    return random.Random(f"{task}/{split}/{index}")


def belongs(text: str, split: str) -> bool:
    """Whether a text may be in this split.

    >>> belongs("The soup was cold.", "train") != belongs("The soup was cold.", "heldout")
    True
    """
    if split == "unseen":
        return True
    return (zlib.crc32(text.encode()) % HELD_OUT_SHARE == 0) == (split == "heldout")


def examples(
    task: str, split: str, how_many: int, make: Callable[[random.Random], T | None], first: int = 0
) -> Iterator[T]:
    """`how_many` examples, each from a random stream of its own.

    Args:
        make: gives ``None`` where an attempt is not of this split.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    for index in range(first, first + how_many):
        rng = generator_of(task, split, index)
        while (made := make(rng)) is None:
            pass
        yield made


def preview(description: str, what: str, make: Callable[[str, int], Iterator[T]], show: Callable[[T], str]) -> None:
    """The command of a module that makes examples: some of a split, printed.

    Args:
        what: what the examples are called in ``--help``.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--count", type=int, default=5, help=f"how many {what} (default 5)")
    parser.add_argument("--split", choices=SPLITS, default="train", help="train, heldout or unseen (default train)")
    arguments = parser.parse_args()
    for example in make(arguments.split, arguments.count):
        print(show(example))


def read(name: str) -> dict[str, Any]:
    """One of the files in ``head_grammar/``."""
    return tomllib.loads((GRAMMAR / f"{name}.toml").read_text("utf-8"))


def made_up_word(rng: random.Random, syllables: int) -> str:
    """A word that nobody has heard before, so that what is learned is where a word stands and not which it is."""
    parts = [pick(rng, ONSETS) + pick(rng, VOWELS) for _ in range(syllables)]
    return "".join(parts) + pick(rng, CODAS)


@lru_cache
def story_sentences(without: str, how_many_stories: int = 1500) -> tuple[str, ...]:
    """Sentences of the stories that `tiny` learned from, outside of quotes, that have none of the words of a list.

    Args:
        without: "concrete" or "concrete feelings": lists of words in ``head_grammar/words.toml``.
    """
    lists = read("words")["stories"]
    banned = {word for name in without.split() for word in lists[name]}
    found: dict[str, None] = {}
    for story in stories("train", how_many_stories):
        for sentence in _SENTENCE.findall(re.sub(r'"[^"]*"', "\n", story.text)):
            if 2 < len(sentence.split()) < 16 and not banned.intersection(re.findall(r"[a-z']+", sentence.lower())):
                found[sentence] = None
    return tuple(found)


class Person(NamedTuple):
    """A name and the pronoun that goes with it."""

    name: str
    pronoun: str


class Words:
    """The words of one split; the held-out ones by construction are only in "unseen", and there they are the only ones.

    Args:
        made_up: share of names, things and places that are made up while training.
    """

    def __init__(self, split: str, made_up: float = 0.25) -> None:
        self.key = "unseen" if split == "unseen" else "train"
        self.prefix = "unseen_" if split == "unseen" else ""
        self.made_up = made_up if split != "unseen" else 0.0
        self.data: Mapping[str, Any] = read("words")

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """Names by pronoun."""
        names = {pronoun: list(group) for pronoun, group in self.data["names"][self.key].items()}
        if self.key == "train":
            for pronoun, group in Grammar().names.items():
                names[pronoun] += sorted(group)
        return names

    @cached_property
    def of_stories(self) -> set[str]:
        """The names of the stories."""
        return {name for group in Grammar().names.values() for name in group}

    @cached_property
    def reserved(self) -> set[str]:
        """Lower-case words that are never made up, since they are held out."""
        kept = {name.lower() for group in self.data["names"]["unseen"].values() for name in group}
        return kept.union(*(self.data[kind]["unseen"] for kind in ("things", "places", "animals")))

    def _invent(self, rng: random.Random, syllables: Sequence[int]) -> str:
        while True:
            word = made_up_word(rng, pick(rng, syllables))
            if 3 <= len(word) <= 10 and word not in self.reserved:
                return word

    def person(self, rng: random.Random) -> Person:
        """Somebody's name."""
        pronoun = pick(rng, ("he", "she"))
        if rng.random() < self.made_up:
            return Person(self._invent(rng, (1, 2, 2, 3)).capitalize(), pronoun)
        return Person(pick(rng, self.names[pronoun]), pronoun)

    def noun(self, rng: random.Random, kind: str) -> str:
        """A "things" or "places" noun."""
        if rng.random() < self.made_up / 2:
            return self._invent(rng, (1, 2, 2, 3))
        return pick(rng, self.data[kind][self.key])

    def adjective(self, rng: random.Random, kind: str) -> str:
        """An adjective for "things" or "places"."""
        return pick(rng, self.data[kind]["adjectives"] if rng.random() < 0.5 else self.data["adjectives"]["both"])

    def preposition(self, rng: random.Random) -> str:
        """What comes before a place."""
        return pick(rng, self.data["places"]["prepositions"])

    def town(self, rng: random.Random) -> str:
        """The name of a town."""
        towns = self.data["towns"]
        if rng.random() < self.made_up:
            return self._invent(rng, (1, 2)).capitalize() + (pick(rng, towns["end"]) if rng.random() < 0.5 else "")
        return pick(rng, towns[f"{self.prefix}begin"]) + pick(rng, towns[f"{self.prefix}end"])

    def one_of(self, rng: random.Random, kind: str) -> str:
        """One of "animals", "foods", "times" or "colours"."""
        return pick(rng, self.data[kind][self.key])

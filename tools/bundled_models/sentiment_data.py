"""Short opinions and reports for the bundled model `tiny-sentiment`: positive, negative or neutral.

    python tools/bundled_models/sentiment_data.py --count 5 --split unseen

No word gives the label away: what is denied counts for the other side ("was not happy"), and where a text says both,
the main clause or what is said last decides ("at first sad, but then ..."). Every frame is used for both sides.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from entity_data import Tagger
from head_text import Words, belongs, examples, fill, preview, read, story_sentences, unmarked
from story_templates import pick

LABELS = ("negative", "neutral", "positive")
OTHER = {"positive": "negative", "negative": "positive"}
VERY = ("very", "really", "so", "quite", "truly", "rather")
SAID_BEFORE = {"yes": ("yes", "well", "oh", "in short"), "also": ("also", "and", "again", "really")}
SMALL_WORDS = frozenset(
    re.findall(
        r"\w+", "the a an one then but and in on at it he she they we you all both there that this my his her for"
    )
) | {"after", "from", "when", "with"}
"""Words that have a capital letter at the beginning of a sentence only."""
PRONOUN_SHARE, CASUAL_SHARE = 0.25, 0.08


@dataclass(frozen=True)
class Opinion:
    """A text and one of ``LABELS``; `kind` is how it was made ("single", "double", "contrast", "neutral")."""

    text: str
    label: str
    kind: str


class Critic:
    """Makes opinions for one split."""

    def __init__(self, split: str) -> None:
        self.split, self.words = split, Words(split)
        self.grammar: dict[str, Any] = read("sentiment")
        self.key, self.prefix = self.words.key, self.words.prefix
        lists = [self.grammar[side][name] for side in OTHER for name in ("good", "glad", "loved", "fun")]
        words = {word for group in lists for phrase in group for word in phrase.split() if len(word) > 2}
        self.feelings = words | set(read("words")["stories"]["feelings"])
        self.tagger = Tagger("train")

    def attempt(self, rng: random.Random) -> Opinion | None:
        """An opinion, or ``None`` where this one belongs to another split."""
        label = pick(rng, LABELS)
        if label == "neutral":
            kind, text = "neutral", self._joined(rng, self.grammar["neutral"][f"{self.prefix}join"], label)
        else:
            kind = pick(rng, ("single", "single", "double", "contrast", "contrast"))
            text = self._joined(rng, self.grammar["texts"][self.prefix + kind], label)
            if rng.random() < 0.2:  # what says nothing either way changes nothing
                aside = self._neutral(rng)
                ended = text if text[-1] in ".!" else f"{text}."
                text = f"{aside}. {text}" if rng.random() < 0.5 else f"{ended} {aside}."
        text = text.replace(" i ", " I ").replace(" i'", " I'")
        text, _ = unmarked(text, ())
        if rng.random() < CASUAL_SHARE:
            text = text.lower().rstrip(".")
        return Opinion(text, label, kind) if belongs(text, self.split) else None

    def _joined(self, rng: random.Random, ways: list[str], label: str) -> str:
        def lookup(slot: str) -> str:
            if slot in ("n1", "n2"):
                return self._neutral(rng)
            if slot in SAID_BEFORE:
                return pick(rng, SAID_BEFORE[slot])
            return self.clause(rng, OTHER[label] if slot == "b1" else label)

        return fill(pick(rng, ways), lookup, rng)

    def clause(self, rng: random.Random, side: str) -> str:
        """A clause of one side, "positive" or "negative", in small letters and without a full stop."""
        own, other = self.grammar[side], self.grammar[OTHER[side]]
        names = (self.words.person(rng).name, self.words.person(rng).name, f"the {self.words.one_of(rng, 'animals')}")
        person = pick(rng, ("I", "I", "I", "we", "my friend", *names))
        about = pick(rng, self.grammar["about"][self.key])

        def lookup(slot: str) -> str:
            good = slot.startswith("good")
            if slot in ("good", "goodword", "bad", "badword"):
                words = own["good"] if good else other["can_be_denied"]
                if slot.endswith("word"):  # one that can stand before a noun
                    words = [word for word in words if " " not in word]
                return pick(rng, words)
            if slot in ("glad", "loved", "love", "fun"):
                return pick(rng, own[slot]) if slot != "love" or person in ("I", "we") else pick(rng, own["loved"])
            if slot == "disliked":
                return pick(rng, other["plain"])
            if slot == "sad":
                return pick(rng, other["glad_denied"])
            if slot == "i":
                return person
            if slot == "me":
                return {"I": "me", "we": "us"}.get(person, person)
            return self._common(rng, slot, about)

        ways = self.grammar["clauses"] if rng.random() < 0.75 else self.grammar["clauses_of"][side]
        text = fill(pick(rng, ways[self.key]), lookup, rng)
        if self.split != "unseen":
            if rng.random() < 0.3:
                text = self.tagger.filled(rng, pick(rng, self.grammar["texts"]["before"])) + text
            if rng.random() < 0.2:
                text += self.tagger.filled(rng, pick(rng, self.grammar["texts"]["after"]))
        return text.replace("we was", "we were").replace("we wasn't", "we weren't")

    def _neutral(self, rng: random.Random) -> str:
        if self.split != "unseen" and rng.random() < 0.5:
            return self._plain(rng)
        about = pick(rng, self.grammar["about"][self.key])
        return fill(pick(rng, self.grammar["neutral"][self.key]), lambda slot: self._common(rng, slot, about), rng)

    def _plain(self, rng: random.Random) -> str:
        """A sentence from elsewhere, in which no word takes a side."""
        while True:
            text = pick(rng, story_sentences("concrete feelings"))
            if rng.random() < 0.7:
                text = self.tagger.sentence(rng)
            if text.endswith(".") and '"' not in text and not self.feelings.intersection(_words(text)):
                first, _, rest = text[:-1].partition(" ")
                return f"{first.lower() if first.lower() in SMALL_WORDS else first} {rest}"

    def _common(self, rng: random.Random, slot: str, about: str) -> str:
        """Slots that take no side."""
        if slot == "it":
            if rng.random() < PRONOUN_SHARE:
                return pick(rng, ("it", "this", "that"))
            return f"{pick(rng, ('the', 'the', 'the', 'this', 'my', 'your', 'our'))} {about}"
        if slot == "name":
            return self.words.person(rng).name
        if slot in ("to", "at"):
            return f"{slot} {pick(rng, self.grammar['about']['places'])}"
        groups = {"color": "colors", "size": "sizes"}
        if slot in groups:
            return pick(rng, self.grammar["about"][groups[slot]])
        return {"thing": about, "a": "a", "the": "the", "very": pick(rng, VERY)}[slot]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def opinions(split: str, how_many: int, first: int = 0) -> Iterator[Opinion]:
    """The examples of a split, one after the other, each from its own seed."""
    return examples("sentiment", split, how_many, Critic(split).attempt, first)


if __name__ == "__main__":
    preview(__doc__ or "", "texts", opinions, lambda opinion: f"{opinion.label:9} {opinion.text}")

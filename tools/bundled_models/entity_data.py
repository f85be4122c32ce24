"""Sentences with people, places and things for the bundled model `tiny-entities`.

    python tools/bundled_models/entity_data.py --count 5 --split unseen

A person is a name, a place a town or what one can be in or at, a thing what one can carry, make or eat. The noun alone
is the entity, without its article and adjectives: a Llama reads from left to right, and at "red" it cannot know
whether a kite or a house follows.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from head_text import Words, belongs, examples, fill, marked, preview, read, story_sentences, unmarked
from story_templates import pick

KINDS = ("PERSON", "PLACE", "THING")
SMALL_WORDS = {
    "they": (
        "they",
        "we",
        "she",
        "he",
        "I",
        "you",
        "all",
        "both",
        "everybody",
        "nobody",
        "someone",
        "some of them",
        "the others",
    ),
    "called": ("called", "named", "by the name of", "whose name was"),
}


class Entity(NamedTuple):
    """What it is and where it stands, in characters."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class Tagged:
    """A text and its entities, in their order."""

    text: str
    entities: tuple[Entity, ...]


class Tagger:
    """Makes tagged texts for one split."""

    def __init__(self, split: str) -> None:
        self.split, self.words = split, Words(split, made_up=0.5)
        own, shared = read("entities"), read("questions")
        self.frames: list[str] = own[self.words.key]
        self.others: dict[str, list[str]] = own["words"]
        self.nothing: list[str] = own[f"{self.words.prefix}nothing"]
        told = [line for fact in shared["facts"] for line in fact["unseen" if self.words.prefix else "tell"]]
        # there a place comes with its preposition
        told = [line.replace("*", "").replace("{l}", "{where}") for line in told]
        self.facts: list[str] = told + shared["mentions"][self.words.key]

    def attempt(self, rng: random.Random) -> Tagged | None:
        """A text, or ``None`` where this one belongs to another split."""
        text, spans = unmarked(" ".join(self._sentence(rng) for _ in range(pick(rng, (1, 1, 1, 2, 2, 3)))), KINDS)
        return Tagged(text, tuple(Entity(*span) for span in spans)) if belongs(text, self.split) else None

    def sentence(self, rng: random.Random) -> str:
        """One sentence without its tags."""
        return unmarked(self._sentence(rng), KINDS)[0]

    def filled(self, rng: random.Random, frame: str) -> str:
        """A frame with words in its slots, without tags, for the middle of a sentence."""
        text, _ = unmarked("x " + fill(frame, lambda slot: self._slot(rng, slot), rng), KINDS)
        return text[2:] if frame.startswith("{p}") else text[2].lower() + text[3:]

    def _sentence(self, rng: random.Random) -> str:
        drawn = rng.random()
        if drawn < 0.2 and self.split != "unseen":
            return self._of_a_story(rng)
        frame = pick(rng, self.frames if drawn < 0.7 else self.facts if drawn < 0.9 else self.nothing)
        chosen: dict[str, str] = {}

        def lookup(slot: str) -> str:
            if slot not in chosen:
                chosen[slot] = self._slot(rng, slot)
            return chosen[slot]

        return fill(frame, lookup, rng)

    def _of_a_story(self, rng: random.Random) -> str:
        """A sentence of the stories that `tiny` learned from; its names may be other ones here."""
        given: dict[str, str] = {}

        def named(match: re.Match[str]) -> str:
            if match[0] not in self.words.of_stories:
                return match[0]
            if match[0] not in given:
                given[match[0]] = self.words.person(rng).name if rng.random() < 0.7 else match[0]
            return marked("PERSON", given[match[0]], KINDS)

        return re.sub(r"\b[A-Z]\w+", named, pick(rng, story_sentences("concrete")))

    def _slot(self, rng: random.Random, slot: str) -> str:
        words = self.words
        if slot.rstrip("2") in self.others:
            return pick(rng, self.others[slot.rstrip("2")])
        if slot in SMALL_WORDS:
            return pick(rng, SMALL_WORDS[slot])
        if slot in ("p", "q", "r"):
            return marked("PERSON", words.person(rng).name, KINDS)
        if slot in ("town", "town2"):
            return self._town(rng)
        if slot in ("l", "m") and rng.random() < 0.12:
            return self._town(rng) if slot == "l" else f"to {self._town(rng)}"
        if slot == "where":
            town = rng.random() < 0.12
            return f"in {self._town(rng)}" if town else f"{words.preposition(rng)} {self._place(rng)}"
        if slot in ("l", "k"):
            return self._place(rng)
        if slot == "m":
            return f"to {self._place(rng)}"
        if slot in ("t", "u"):
            return f"{pick(rng, ('a', 'a', 'the', 'the', 'the', 'his', 'her', 'my'))} {self._thing(rng)}"
        if slot in ("bare", "bare2"):
            return self._thing(rng)
        if slot == "things":
            return self._thing(rng, plural=True)
        if slot in ("food", "f"):
            article, food = re.fullmatch(r"(an? )?(.+)", words.one_of(rng, "foods")).groups("")  # type: ignore[union-attr]
            return article + marked("THING", food, KINDS)
        return words.one_of(rng, {"a": "animals", "w": "times", "c": "colours"}[slot])

    def _town(self, rng: random.Random) -> str:
        return marked("PLACE", self.words.town(rng), KINDS)

    def _place(self, rng: random.Random) -> str:
        adjective = f"{self.words.adjective(rng, 'places')} " if rng.random() < 0.4 else ""
        return f"the {adjective}" + marked("PLACE", self.words.noun(rng, "places"), KINDS)

    def _thing(self, rng: random.Random, *, plural: bool = False) -> str:
        adjective = f"{self.words.adjective(rng, 'things')} " if rng.random() < 0.4 else ""
        noun = self.words.noun(rng, "things")
        if plural and noun[-1] not in "sxyhfe":
            noun += "s"
        return adjective + marked("THING", noun, KINDS)


def tagged_texts(split: str, how_many: int, first: int = 0) -> Iterator[Tagged]:
    """The examples of a split, one after the other, each from its own seed."""
    return examples("entities", split, how_many, Tagger(split).attempt, first)


def _shown(example: Tagged) -> str:
    entities = (f"{example.text[entity.start : entity.end]}: {entity.kind}" for entity in example.entities)
    return f"{example.text}\n  {', '.join(entities)}"


if __name__ == "__main__":
    preview(__doc__ or "", "texts", tagged_texts, _shown)

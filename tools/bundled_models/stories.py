"""Tells short stories: the text that the bundled model `tiny` learns from.

    python tools/bundled_models/stories.py --count 5 --seed 1

A story is a function of its seed and of nothing else. The words and plots are in ``story_grammar/`` and were written
for this project. What is held out from training is held out twice:

- by seed: seeds below 100,000,000 are for training, seeds from there to 200,000,000 are held out;
- by construction: some pairs of a hero's name and a place, or a name and a thing, never occur in any training or
  held-out story; seeds from 200,000,000 on tell only stories in which both pairs are of this kind ("unseen").
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import tomllib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from story_templates import GrammarError, articles, count, expand, parse, pick, slots

GRAMMAR = Path(__file__).parent / "story_grammar"
SPLIT_SIZE = 100_000_000
SPLITS = ("train", "heldout", "unseen")
WORDS = range(80, 201)  # how many words a story may have
HELD_OUT_SHARE = 12  # one pair in this many is kept from training
MADE_UP_SHARE = 0.08  # stories whose hero has a made-up name
PRONOUNS = {"he": ("he", "him", "his", "himself"), "she": ("she", "her", "her", "herself")}


def split_of(seed: int) -> str:
    """The split that a seed belongs to: "train", "heldout" or "unseen".

    >>> split_of(5), split_of(100_000_005), split_of(200_000_005)
    ('train', 'heldout', 'unseen')
    """
    if not 0 <= seed < len(SPLITS) * SPLIT_SIZE:
        raise ValueError(f"seed is {seed}; it must be from 0 to {len(SPLITS) * SPLIT_SIZE - 1}")
    return SPLITS[seed // SPLIT_SIZE]


def seeds(split: str, how_many: int, first: int = 0) -> range:
    """The seeds of ``how_many`` stories of a split, from its ``first`` on."""
    start = SPLITS.index(split) * SPLIT_SIZE + first
    return range(start, start + how_many)


def is_held_out(name: str, word: str) -> bool:
    """Whether this hero's name and this place or thing are kept apart in every training story."""
    return zlib.crc32(f"{name}|{word}".encode()) % HELD_OUT_SHARE == 0


@dataclass(frozen=True)
class Character:
    """Somebody in a story: what they are called and what they are."""

    name: str
    kind: str
    pronoun: str
    look: str


@dataclass(frozen=True)
class Line:
    """One way to tell a part: may need, forbid or set tags, so that later parts agree with earlier ones."""

    text: str
    sets: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    forbids: frozenset[str] = frozenset()

    @classmethod
    def read(cls, text: str) -> Line:
        marks: dict[str, set[str]] = {"+": set(), "?": set(), "!": set()}
        while match := re.match(r"([+?!])(\w+) ", text):
            marks[match[1]].add(match[2])
            text = text[match.end() :]
        return cls(text, frozenset(marks["+"]), frozenset(marks["?"]), frozenset(marks["!"]))

    def fits(self, tags: set[str]) -> bool:
        return self.needs <= tags and not self.forbids & tags


@dataclass
class Part:
    """One step of a plot, in as many ways as it has lines."""

    new_paragraph: bool
    lines: list[Line] = field(default_factory=list)


@dataclass
class Plot:
    """What happens in a story, part by part."""

    name: str
    weather: str
    flags: frozenset[str]
    parts: list[Part]


@dataclass(frozen=True)
class Cast:
    """Who, where and what a story is to be about."""

    plot: Plot
    hero: Character
    friend: Character
    place: dict[str, Any]
    thing: dict[str, Any]


@dataclass(frozen=True)
class Story:
    """A told story and what it is about."""

    text: str
    seed: int
    plot: str
    hero: Character
    friend: Character
    place: str
    thing: str


class Grammar:
    """The words, phrases, openings and plots of ``story_grammar/``."""

    def __init__(self, folder: Path = GRAMMAR) -> None:
        self.words: dict[str, Any] = tomllib.loads((folder / "words.toml").read_text("utf-8"))
        self.phrases = _read_phrases(folder / "phrases.txt")
        self.openings = {name: part.lines for name, (part,) in _read_sections(folder / "openings.txt").items()}
        self.plots = [_plot(title, parts) for title, parts in _read_sections(folder / "plots.txt").items()]

    @cached_property
    def names(self) -> dict[str, set[str]]:
        """All names by the pronoun that goes with them."""
        names = self.words["names"]
        return {"she": {*names["girl"], *names["she"]}, "he": {*names["boy"], *names["he"]}}

    def estimate(self) -> int:
        """A lower bound on how many stories there are: ways to tell the plots, times heroes, friends and places."""
        names, kinds = self.words["names"], len(self.words["kinds"]) - 2
        characters = (len(names["she"]) + len(names["he"])) * kinds + len(names["girl"]) + len(names["boy"])
        plots = 0
        for plot in self.plots:
            openings = self.openings["pair" if "pair" in plot.flags else "background"]
            ways = sum(count(parse(line.text)) for line in openings)
            for part in plot.parts:
                ways *= sum(count(parse(line.text)) for line in part.lines if not line.needs and not line.forbids)
            plots += ways * (1 if "solo" in plot.flags else characters)
        return plots * characters * len(self.words["places"])


def _read_sections(path: Path) -> dict[str, list[Part]]:
    sections: dict[str, list[Part]] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line.startswith("= "):
            parts = sections[line[2:]] = [Part(new_paragraph=True)]
        elif line in ("~", "~~"):
            parts.append(Part(new_paragraph=line == "~~"))
        elif line.startswith("- "):
            parts[-1].lines.append(Line.read(line[2:].strip()))
        elif line and not line.startswith("#"):
            raise GrammarError(f"{path.name}, line {number}: expected '= ', '- ', '~' or '# ', found: {line}")
    return sections


def _plot(title: str, parts: list[Part]) -> Plot:
    name, _, rest = title.partition(": ")
    weather, *flags = rest.split(", ")
    return Plot(name, weather, frozenset(flags), parts)


def _read_phrases(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split(" = ", 1) for line in lines)


class Storyteller:
    """Tells the story of a seed.

    >>> teller = Storyteller()
    >>> teller.tell(1).text == teller.tell(1).text
    True
    """

    def __init__(self, grammar: Grammar | None = None) -> None:
        self.grammar = grammar or Grammar()

    def tell(self, seed: int) -> Story:
        """The story of this seed: 80 to 200 words in a few paragraphs."""
        rng = random.Random(seed)
        split = split_of(seed)
        while True:
            story = self._attempt(rng, seed, split)
            if story is not None and len(story.text.split()) in WORDS:
                return story

    def _attempt(self, rng: random.Random, seed: int, split: str) -> Story | None:
        cast = self._cast(rng)
        pairs = [is_held_out(cast.hero.name, cast.place["the"]), is_held_out(cast.hero.name, cast.thing["noun"])]
        in_split = all(pairs) if split == "unseen" else not any(pairs)
        if not in_split or cast.friend.kind == cast.hero.kind or cast.friend.name == cast.hero.name:
            return None
        text = self._text(rng, cast.plot, self._facts(rng, cast))
        return Story(text, seed, cast.plot.name, cast.hero, cast.friend, cast.place["the"], cast.thing["noun"])

    def _cast(self, rng: random.Random) -> Cast:
        words = self.grammar.words
        plot = pick(rng, self.grammar.plots)
        hero = self._character(rng, made_up=rng.random() < MADE_UP_SHARE)
        friend = self._character(rng)
        places = [place for place in words["places"] if plot.weather != "cold" or place.get("winter", True)]
        things = [thing for thing in words["things"] if "mend" not in plot.flags or thing.get("mend")]
        return Cast(plot, hero, friend, pick(rng, places), pick(rng, things))

    def _character(self, rng: random.Random, *, made_up: bool = False) -> Character:
        words = self.grammar.words
        pronoun = pick(rng, ("he", "she"))
        child = rng.random() < 0.4
        if child:
            kind = {"he": "boy", "she": "girl"}[pronoun]
        else:
            kind = pick(rng, [kind for kind in words["kinds"] if kind not in ("girl", "boy")])
        names = words["names"]
        if made_up:
            name = pick(rng, names["first"]) + pick(rng, names["middle"]) + pick(rng, names[f"last_{pronoun}"])
        else:
            name = pick(rng, names[kind if child else pronoun])
        return Character(name, kind, pronoun, pick(rng, words["looks"]["child" if child else "animal"]))

    def _facts(self, rng: random.Random, cast: Cast) -> dict[str, str]:
        """What stays the same throughout one story, by slot."""
        place, thing, weather = cast.place, cast.thing, cast.plot.weather
        lists = self.grammar.words["words"]
        elders = _shuffled(rng, lists["elders"])
        paths, spots = _shuffled(rng, place["path"]), _shuffled(rng, place["spots"])
        evening = weather == "evening"
        return {
            **self._people(rng, cast.hero, cast.friend),
            "elder": elders[0],
            "elder2": elders[1],
            "place": pick(rng, place["intro"]),
            "theplace": place["the"],
            "atplace": place["at"],
            "air": pick(rng, self.grammar.words["air"].get(weather, place["air"])),
            "sound": pick(rng, place["sound"]),
            **{f"path{index}": path for index, path in enumerate(paths)},
            **{f"spot{index}": spot for index, spot in enumerate(spots)},
            "thing": f"{pick(rng, thing['adjectives'])} {thing['noun']}",
            "noun": thing["noun"],
            "made": pick(rng, thing["made"]),
            "use": thing["use"],
            "joy": thing["joy"],
            "sign": pick(rng, thing["sign"]),
            "food": pick(rng, lists["foods"]),
            "fruit": pick(rng, lists["fruits"]),
            "critter": pick(rng, lists["critters"]),
            "bird": pick(rng, lists["birds"]),
            "seed": pick(rng, lists["seeds"]),
            "skill": pick(rng, lists["skills"]),
            "day": pick(rng, lists["fair" if evening else weather]),
            "time": "evening" if evening else pick(rng, ("morning", "afternoon")),
        }

    def _people(self, rng: random.Random, hero: Character, friend: Character) -> dict[str, str]:
        he, him, his, himself = PRONOUNS[hero.pronoun]
        fhe, fhim, fhis, _ = PRONOUNS[friend.pronoun]
        # two who go by the same pronoun: the friend is called by name where "he" would mean the hero
        same = hero.pronoun == friend.pronoun
        trait = pick(rng, list(self.grammar.words["traits"]))
        return {
            "hero": hero.name,
            "kind": hero.kind,
            "adj": hero.look,
            "he": he,
            "him": him,
            "his": his,
            "himself": himself,
            "trait": trait,
            "traitline": pick(rng, self.grammar.words["traits"][trait]),
            **self.grammar.words["kinds"][hero.kind],
            "friend": friend.name,
            "fkind": friend.kind,
            "fadj": friend.look,
            "fhe": fhe,
            "fhis": fhis,
            "thatone": friend.name if same else fhe,
            "fhim": friend.name if same else fhim,
        }

    def _text(self, rng: random.Random, plot: Plot, facts: dict[str, str]) -> str:
        def lookup(slot: str) -> str:
            if slot in facts:
                return facts[slot]
            if slot in self.grammar.phrases:
                return self.grammar.phrases[slot]
            raise GrammarError(f"nothing fills the slot {{{slot}}}")

        opening, at_once = self._opening(rng, plot)
        facts["lead"] = (
            "[That {time},|That {time},|A little later,|Soon,|After a while,]"
            if at_once
            else "[One day,|One {day} {time},|One {day} {time},|Then one {day} {time},]"
        )
        text = expand(parse(opening), lookup, rng)
        tags: set[str] = set()
        for index, part in enumerate(plot.parts):
            line = pick(rng, [line for line in part.lines if line.fits(tags)])
            tags |= line.sets
            new_paragraph = rng.random() < 0.5 if index == 0 else part.new_paragraph
            told = expand(parse(line.text), lookup, rng)
            # another speaker begins a new paragraph
            new_paragraph = new_paragraph or (text.endswith('"') and told.startswith('"'))
            text += ("\n\n" if new_paragraph else " ") + told
        if rng.random() < 0.2:
            text += "\n\nThe end."
        return articles(text)

    def _opening(self, rng: random.Random, plot: Plot) -> tuple[str, bool]:
        """A beginning that suits the plot, and whether it is already that one day."""
        openings = self.grammar.openings
        if "pair" in plot.flags and rng.random() < 0.5:
            return pick(rng, openings["pair"]).text, False
        at_once = "home" not in plot.flags and rng.random() < 0.4
        opening = pick(rng, openings["at once" if at_once else "background"]).text
        return opening + (" {Knownfriend}" if "pair" in plot.flags else ""), at_once


def _shuffled(rng: random.Random, items: list[str]) -> list[str]:
    return [item for _, item in sorted((rng.random(), item) for item in items)]


def stories(split: str, how_many: int, first: int = 0) -> Iterator[Story]:
    """The stories of a split, one after the other, each from its own seed."""
    teller = Storyteller()
    return (teller.tell(seed) for seed in seeds(split, how_many, first))


def unknown_slots(grammar: Grammar) -> set[str]:
    """Slots that some line names and nothing fills: empty for a sound grammar."""
    teller, rng = Storyteller(grammar), random.Random(0)
    known = teller._facts(rng, teller._cast(rng)).keys() | grammar.phrases | {"lead"}
    texts = [line.text for plot in grammar.plots for part in plot.parts for line in part.lines]
    texts += [line.text for group in grammar.openings.values() for line in group]
    texts += [*grammar.phrases.values(), *(text for group in grammar.words["traits"].values() for text in group)]
    return set().union(*(slots(parse(text)) for text in texts)) - known


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1, help="how many stories (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="the first story's seed within the split (default 0)")
    parser.add_argument("--split", choices=SPLITS, default="train", help="train, heldout or unseen (default train)")
    parser.add_argument("--json", action="store_true", help="one JSON object per line, with what the story is about")
    arguments = parser.parse_args()
    if arguments.seed < 0 or arguments.count < 0 or arguments.seed + arguments.count > SPLIT_SIZE:
        parser.error(f"--seed and --count must not be negative, nor together exceed {SPLIT_SIZE:,}")
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so that `| head` ends this quietly
    for number, story in enumerate(stories(arguments.split, arguments.count, arguments.seed)):
        if arguments.json:
            about = {"seed": story.seed, "plot": story.plot, "hero": vars(story.hero), "friend": vars(story.friend)}
            print(json.dumps({**about, "place": story.place, "thing": story.thing, "text": story.text}))
        else:
            print(("\n* * *\n\n" if number else "") + story.text)


if __name__ == "__main__":
    main()

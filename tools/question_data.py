"""Short passages with a question each, for the bundled model `tiny-questions`; some questions have no answer in them.

    python tools/question_data.py --count 5 --split unseen

Several people do similar things in one passage, so that the answer depends on who, what, where and when together. A
Llama reads from left to right: at an answer it knows the question and what came before, and nothing of what follows.
So the answer is the first mention that what comes before it has settled. In "Pip found a kite. Pip laughed.", asked
who found the kite, that is the second "Pip"; questions that no mention settles are not asked.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from head_text import SPLITS, Person, Span, Words, belongs, examples, fill, marked, read, unmarked
from story_templates import parse, pick, slots

SLOTS = ("p", "q", "t", "l", "m", "w", "a", "f", "c", "happened")
UNANSWERABLE_SHARE = 0.4
_HAPPENED = re.compile(r"\*([^*]+)\*")


@dataclass(frozen=True)
class Question:
    """A question about a text; the answer is ``context[start:end]``, and there is none where both are 0."""

    question: str
    context: str
    start: int
    end: int
    about: str
    asked: str

    @property
    def answer(self) -> str:
        return self.context[self.start : self.end]


@dataclass(frozen=True)
class Thing:
    """A thing; the adjective may be empty."""

    adjective: str
    noun: str

    @property
    def name(self) -> str:
        return f"{self.adjective} {self.noun}".strip()


@dataclass
class Fact:
    """Something that a passage tells."""

    kind: Mapping[str, Any]
    tell: str
    values: dict[str, Any]
    spans: list[Span] = field(default_factory=list)

    @property
    def told(self) -> set[str]:
        return slots(parse(self.tell))


@dataclass
class Passage:
    """A text, the facts in it, and where each person is named."""

    text: str
    facts: list[Fact]
    named: list[tuple[str, int, int]]


class Questioner:
    """Makes passages and questions for one split."""

    def __init__(self, split: str) -> None:
        grammar = read("questions")
        self.split, self.words = split, Words(split, made_up=0.25)
        self.kinds: list[dict[str, Any]] = grammar["facts"]
        self.mentions: list[str] = grammar["mentions"][self.words.key]
        self.fillers: list[str] = grammar["fillers"][self.words.key]

    def attempt(self, rng: random.Random) -> Question | None:
        """A question, or ``None`` where this attempt gives none or it belongs to another split."""
        passage = self.passage(rng)
        unanswerable = rng.random() < UNANSWERABLE_SHARE
        for _ in range(8):
            question = self.unanswerable(rng, passage) if unanswerable else self.answerable(rng, passage)
            if question is not None:
                return question if belongs(f"{question.question} {question.context}", self.split) else None
        return None

    # passages

    def passage(self, rng: random.Random) -> Passage:
        """One to three facts about one to three people, with something said in between."""
        people: dict[str, Person] = {}
        while len(people) < pick(rng, (1, 2, 2, 3)):
            person = self.words.person(rng)
            people[person.name] = person
        facts: list[Fact] = []
        sentences: list[tuple[str, Fact | None]] = []
        before: Person | None = None
        for _ in range(pick(rng, (1, 1, 2, 2, 3))):
            fact = self.fact(rng, list(people.values()), facts, before)
            facts.append(fact)
            sentences.append((self.sentence(rng, fact, before), fact))
            before = fact.values["p"] if fact.tell.startswith(("{p}", "{w}, {p}", "Then {p}")) else None
            if rng.random() < 0.4:
                # whoever was told about is named again more often than not: then the text settles who it was
                who = pick(rng, [*people.values(), fact.values["p"], fact.values["p"]])
                line = fill(pick(rng, self.mentions), {"p": marked("p", who.name, SLOTS)}.__getitem__, rng)
                sentences.append((line, None))
                before = who
            elif rng.random() < 0.15:
                sentences.append((pick(rng, self.fillers), None))
        return _passage(sentences, facts)

    def fact(self, rng: random.Random, people: list[Person], facts: list[Fact], before: Person | None) -> Fact:
        """Something new, often of a kind that was told before or about somebody or something told about before."""
        alike = facts and rng.random() < 0.5
        kind = pick(rng, facts).kind if alike else pick(rng, self.kinds)
        who = before if before is not None and rng.random() < 0.4 else pick(rng, people)
        others = [person for person in people if person != who] or [self.words.person(rng)]
        words = self.words
        things = [fact.values["t"] for fact in facts if fact.kind is not kind]
        values = {
            "p": who,
            "q": pick(rng, others),
            "t": pick(rng, things) if things and rng.random() < 0.35 else self.thing(rng),
            "l": self.where(rng),
            "m": self.where(rng, to=True),
            **{slot: words.one_of(rng, group) for slot, group in GROUPS.items()},
        }
        return Fact(kind, pick(rng, kind["unseen" if self.split == "unseen" else "tell"]), values)

    def thing(self, rng: random.Random) -> Thing:
        adjective = self.words.adjective(rng, "things") if rng.random() < 0.6 else ""
        return Thing(adjective, self.words.noun(rng, "things"))

    def where(self, rng: random.Random, *, to: bool = False) -> str:
        """A place with what comes before it."""
        if rng.random() < 0.12:
            return f"{'to' if to else 'in'} {self.words.town(rng)}"
        adjective = f"{self.words.adjective(rng, 'places')} " if rng.random() < 0.4 else ""
        return f"{'to' if to else self.words.preposition(rng)} the {adjective}{self.words.noun(rng, 'places')}"

    def sentence(self, rng: random.Random, fact: Fact, before: Person | None) -> str:
        """A fact as marked text; somebody who has just been told about may be "he" or "she"."""
        who, thing = fact.values["p"], fact.values["t"]
        tell = fact.tell
        if who == before and tell.startswith("{p} ") and rng.random() < 0.5:
            tell = f"{who.pronoun}{tell[3:]}"
        if fact.kind.get("plain"):
            thing = fact.values["t"] = Thing("", thing.noun)
        owner = {"he": "his", "she": "her"}[who.pronoun]
        article = pick(rng, ("a", "a", "the", "the", owner if tell.find("{t}") > tell.find("{p}") >= 0 else "the"))

        def lookup(slot: str) -> str:
            value = fact.values[slot]
            if slot in ("p", "q"):
                return marked(slot, value.name, SLOTS)
            if slot == "t":
                return f"{article} " + marked(slot, thing.name, SLOTS)
            return marked(slot, value, SLOTS)

        return _HAPPENED.sub(lambda match: marked("happened", match[1], SLOTS), fill(tell, lookup, rng))

    # questions

    def ask(
        self, rng: random.Random, kind: Mapping[str, Any], asked: str, values: Mapping[str, Any]
    ) -> tuple[str, set[str]]:
        """The question for one slot, and which others it names."""
        ways = kind.get(f"{self.words.prefix}ask", kind["ask"]).get(asked) or kind["ask"][asked]
        template = pick(rng, ways)
        thing: Thing = values["t"]
        name = thing.name if rng.random() < 0.4 else thing.noun
        texts = {slot: value.name if isinstance(value, Person) else value for slot, value in values.items()}
        text, _ = unmarked(fill(template, {**texts, "t": f"the {name}"}.__getitem__, rng), SLOTS)
        return text, slots(parse(template))

    def answerable(self, rng: random.Random, passage: Passage) -> Question | None:
        """A question about one of the facts that has one answer, and a mention that settles it."""
        fact = pick(rng, passage.facts)
        choices = sorted(fact.told & set(fact.kind["ask"]))
        asked = pick(rng, choices)
        text, named = self.ask(rng, fact.kind, asked, fact.values)
        if not named <= fact.told or len(self.answers(passage, fact.kind, asked, named, fact.values)) != 1:
            return None
        given = [span.end for span in fact.spans if span.slot in named or span.slot == "happened"]
        settled = max(given, default=0)
        places = [(s.start, s.end) for s in fact.spans if s.slot == asked and s.start >= settled]
        if asked in ("p", "q"):
            who = fact.values[asked].name
            places = [(start, end) for name, start, end in passage.named if name == who and start >= settled]
        if not places:
            return None
        return Question(text, passage.text, *places[0], fact.kind["name"], asked)

    def unanswerable(self, rng: random.Random, passage: Passage) -> Question | None:
        """A question that is like one about this passage, to which it has no answer."""
        fact = pick(rng, passage.facts)
        kind = fact.kind if rng.random() < 0.7 else pick(rng, self.kinds)
        values = dict(fact.values)
        other = pick(rng, passage.facts).values
        new = self.fact(rng, [self.words.person(rng)], passage.facts, None).values
        asked = pick(rng, sorted(kind["ask"]))
        for slot in rng.sample(sorted(values), len(values)):  # until something that the question names is another
            if slot in ("p", "q"):
                values[slot] = other[pick(rng, ("p", "q"))] if rng.random() < 0.6 else new[slot]
            else:
                values[slot] = other[slot] if rng.random() < 0.5 else new[slot]
            text, named = self.ask(rng, kind, asked, values)
            if slot in named or rng.random() < 0.1:
                break
        told_of_kind = any(told.kind is kind for told in passage.facts)
        if kind["name"] in NOT_SAID_ELSEWHERE and not told_of_kind:
            return None
        if self.answers(passage, kind, asked, named, values, ways_around=True):
            return None
        return Question(text, passage.text, 0, 0, kind["name"], asked)

    @staticmethod
    def answers(
        passage: Passage,
        kind: Mapping[str, Any],
        asked: str,
        named: set[str],
        values: Mapping[str, Any],
        *,
        ways_around: bool = False,
    ) -> list[Fact]:
        """The facts that answer a question; with `ways_around` also those that might, by what their kind means."""
        found = []
        for fact in passage.facts:
            if fact.kind is not kind:
                continue
            same = all(slot in fact.told and _same(fact.values[slot], values[slot]) for slot in named)
            if ways_around and kind["name"] in MUTUAL and asked in "pq":
                same = same or {fact.values["p"], fact.values["q"]} & {values["p"], values["q"]} != set()
            if same and asked in fact.told:
                found.append(fact)
        return found


GROUPS = {"w": "times", "a": "animals", "f": "foods", "c": "colours"}
NOT_SAID_ELSEWHERE = ("owned", "colour")
"""What other kinds of facts may say too: somebody bought it, or it was red when it was lost."""
MUTUAL = ("met",)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Thing) and isinstance(other, Thing):
        return one.noun == other.noun
    return bool(one == other)


def _passage(sentences: list[tuple[str, Fact | None]], facts: list[Fact]) -> Passage:
    """The sentences in a row, and where everything stands."""
    texts: list[str] = []
    named, length = [], 0
    for sentence, fact in sentences:
        text, spans = unmarked(sentence, SLOTS)
        spans = [Span(span.slot, span.start + length, span.end + length) for span in spans]
        if fact is not None:
            fact.spans = spans
        for span in spans:
            if span.slot in ("p", "q"):
                named.append((text[span.start - length : span.end - length], span.start, span.end))
        texts.append(text)
        length += len(text) + 1
    return Passage(" ".join(texts), facts, named)


def questions(split: str, how_many: int, first: int = 0) -> Iterator[Question]:
    """The examples of a split, one after the other, each from its own seed."""
    return examples("questions", split, how_many, Questioner(split).attempt, first)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=5, help="how many questions (default 5)")
    parser.add_argument("--split", choices=SPLITS, default="train", help="train, heldout or unseen (default train)")
    arguments = parser.parse_args()
    for example in questions(arguments.split, arguments.count):
        print(f"{example.context}\n  {example.question} {example.answer or '(no answer)'}")


if __name__ == "__main__":
    main()

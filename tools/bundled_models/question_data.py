"""Short passages with a question each, for the bundled model `tiny-questions`; some questions have no answer in them.

    python tools/bundled_models/question_data.py --count 5 --split unseen

Several people do similar things in one passage, so that the answer depends on who, what, where and when together. A
Llama reads from left to right: at an answer it knows the question and what came before, and nothing of what follows.
So the answer is the first mention that what comes before it has settled: in "Pip found a kite. Pip laughed.", asked
who found the kite, that is the second "Pip". Where no mention is settled, it is the one in the sentence that tells it:
a reader may guess at a name, and at the next one knows whether the guess was wrong. What cannot be seen in this way is
that none of the names is the answer, so most questions without one ask for what is told after the deed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from head_text import Person, Words, belongs, examples, fill, marked, preview, read, unmarked
from question_passages import HAPPENED, SLOTS, Fact, Passage, Thing, kinds_of_deeds, passage_of, plain, same
from story_templates import parse, pick, slots

UNANSWERABLE_SHARE = 0.36
MADE_UP_SHARE = 0.35
GUESSED_SHARE = 0.7
"""Of the questions that no mention settles, how many are asked."""
WHO_UNANSWERABLE_SHARE = 0.35
"""Of the questions for who did something that have no answer, how many are asked."""
NAMELESS_SHARE = 0.1


@dataclass(frozen=True)
class Question:
    """A question about a text; the answer is ``context[start:end]``, and there is none where both are 0."""

    question: str
    context: str
    start: int
    end: int
    about: str
    asked: str
    told: tuple[tuple[str, int, int, bool, bool], ...] = ()
    """What stands where in the context: slot, start, end, whether the question has the same, and is for this fact."""

    @property
    def answer(self) -> str:
        return self.context[self.start : self.end]


class Questioner:
    """Makes passages and questions for one split."""

    def __init__(self, split: str) -> None:
        grammar, deeds = read("questions"), read("deeds")
        self.split, self.words = split, Words(split, made_up=MADE_UP_SHARE)
        self.kinds: list[dict[str, Any]] = grammar["facts"] * 4 + kinds_of_deeds(deeds)
        self.alike: list[list[str]] = deeds["alike"]["groups"]
        self.feelings: list[str] = deeds["feelings"][self.words.key]
        self.somebody: dict[str, list[str]] = deeds["somebody"][self.words.key]
        self.openers: dict[str, list[str]] = deeds["openers"]
        self.mentions: list[str] = (grammar["mentions"] if split == "unseen" else deeds["remarks"])[self.words.key]
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
        """One to four facts about one to three people, with something said in between."""
        people: dict[str, Person] = {}
        while len(people) < pick(rng, (1, 2, 2, 3)):
            person = self.person(rng)
            people[person.name] = person
        facts: list[Fact] = []
        sentences: list[tuple[str, Fact | None]] = []
        before: Person | None = None
        for _ in range(pick(rng, (1, 1, 2, 2, 2, 3, 3, 4))):
            fact = self.fact(rng, list(people.values()), facts, before)
            last = facts[-1] if facts and sentences[-1][1] is not None else None
            facts.append(fact)
            sentences.append((self.sentence(rng, fact, before, last), fact))
            before = fact.values["p"] if fact.tell.startswith(("{p}", "{w}, {p}", "Then {p}")) else None
            if rng.random() < 0.3:
                # whoever was told about is named again more often than not: then the text settles who it was
                who = pick(rng, [*people.values(), fact.values["p"], fact.values["p"]])
                line = fill(pick(rng, self.mentions), {"p": marked("p", who.name, SLOTS)}.__getitem__, rng)
                sentences.append((line, None))
                before = who
            elif rng.random() < 0.15:
                sentences.append((pick(rng, self.fillers), None))
        return passage_of(rng, sentences, facts)

    def fact(self, rng: random.Random, people: list[Person], facts: list[Fact], before: Person | None) -> Fact:
        """Something new, often of a kind that was told before or about somebody or something told about before."""
        alike = facts and rng.random() < 0.5
        kind = pick(rng, facts).kind if alike else pick(rng, self.kinds)
        who = before if before is not None and rng.random() < 0.4 else pick(rng, people)
        others = [person for person in people if person != who] or [self.person(rng)]
        words = self.words
        things = [fact.values["t"] for fact in facts if fact.kind is not kind]
        values = {
            "p": who,
            "q": pick(rng, others),
            "t": pick(rng, things) if things and rng.random() < 0.35 else self.thing(rng),
            "l": self.where(rng),
            "m": self.where(rng, to=True),
            **{slot: words.one_of(rng, group) for slot, group in GROUPS.items()},
            "e": pick(rng, self.feelings),
        }
        if kind["name"] == "kind":  # which tells the name
            values["p"] = self.words.person(rng) if who.name.startswith("the ") else who
        return Fact(kind, pick(rng, kind["unseen" if self.split == "unseen" else "tell"]), values)

    def person(self, rng: random.Random) -> Person:
        """Somebody, who mostly has a name."""
        person = self.words.person(rng)
        return (
            Person(f"the {pick(rng, self.somebody[person.pronoun])}", person.pronoun)
            if rng.random() < NAMELESS_SHARE
            else person
        )

    def thing(self, rng: random.Random) -> Thing:
        adjective = self.words.adjective(rng, "things") if rng.random() < 0.6 else ""
        return Thing(adjective, self.words.noun(rng, "things"))

    def where(self, rng: random.Random, *, to: bool = False) -> str:
        """A place with what comes before it."""
        if rng.random() < 0.12:
            return f"{'to' if to else 'in'} {self.words.town(rng)}"
        adjective = f"{self.words.adjective(rng, 'places')} " if rng.random() < 0.4 else ""
        article = pick(rng, ("the", "the", "the", "the", "the", "a"))
        return f"{'to' if to else self.words.preposition(rng)} {article} {adjective}{self.words.noun(rng, 'places')}"

    def sentence(self, rng: random.Random, fact: Fact, before: Person | None, last: Fact | None) -> str:
        """A fact as marked text; who and what has just been told about may be "he", "she" and "it"."""
        who, thing = fact.values["p"], fact.values["t"]
        tell = fact.tell
        if tell.startswith("{p} "):
            name = who.pronoun.capitalize() if who == before and rng.random() < 0.5 else "{p}"
            after = f" {pick(rng, self.openers['after'])}" if rng.random() < 0.1 and tell.startswith("{p} *") else ""
            tell = f"{name}{after}{tell[3:]}"
            if rng.random() < 0.1:
                tell = (
                    f"{pick(rng, self.openers['before'])} {name if name == '{p}' else who.pronoun}{tell[len(name) :]}"
                )
        if fact.kind.get("plain"):
            thing = fact.values["t"] = Thing("", thing.noun)
        owner = {"he": "his", "she": "her"}[who.pronoun]
        article = pick(rng, ("a", "a", "the", "the", owner if tell.find("{t}") > tell.find("{p}") >= 0 else "the"))
        known = last is not None and "t" in last.told and last.values["t"] == thing and last.kind is not fact.kind
        if known and rng.random() < 0.5:
            tell = tell.replace("{t}", "it")

        def lookup(slot: str) -> str:
            value = fact.values[slot]
            if slot in ("p", "q"):
                return marked(slot, value.name, SLOTS)
            if slot == "t":
                return f"{article} " + marked(slot, thing.name, SLOTS)
            return marked(slot, value, SLOTS)

        return HAPPENED.sub(lambda match: marked("happened", match[1], SLOTS), fill(tell, lookup, rng))

    # questions

    def ask(
        self, rng: random.Random, kind: Mapping[str, Any], asked: str, values: Mapping[str, Any]
    ) -> tuple[str, set[str]]:
        """The question for one slot, and which others it names."""
        ways = kind.get(f"{self.words.prefix}ask", kind["ask"]).get(asked) or kind["ask"][asked]
        template = pick(rng, ways)
        thing: Thing = values["t"]
        name = thing.name if rng.random() < 0.4 else thing.noun
        article = "a" if template.startswith("Who ") and rng.random() < 0.2 else "the"
        texts = {slot: value.name if isinstance(value, Person) else value for slot, value in values.items()}
        texts |= {"t": f"{article} {name}", "e": plain(values["e"]) if rng.random() < 0.5 else values["e"]}
        text, _ = unmarked(fill(template, texts.__getitem__, rng), SLOTS)
        return text, slots(parse(template))

    def answerable(self, rng: random.Random, passage: Passage) -> Question | None:
        """A question about one of the facts that has one answer."""
        fact = pick(rng, passage.facts)
        if rng.random() < COLOUR_SHARE:
            return self.colour(rng, passage, fact)
        others = {other.kind["name"] for other in passage.facts} - {fact.kind["name"]}
        if any(fact.kind["name"] in group and "went" in group and others & {*group} for group in self.alike):
            return None  # "where did she go" may be any of them
        choices = sorted(fact.told & set(fact.kind["ask"]))
        asked = pick(rng, choices)
        if asked == "p" and rng.random() < 0.3:  # which every kind of fact can be asked for
            asked = pick(rng, choices)
        text, named = self.ask(rng, fact.kind, asked, fact.values)
        if not named <= fact.told or len(self.answers(passage, fact.kind, asked, named, fact.values)) != 1:
            return None
        given = [span.end for span in fact.spans if span.slot in named or span.slot == "happened"]
        settled = max(given, default=0)
        places = [(s.start, s.end) for s in fact.spans if s.slot == asked]
        if asked in ("p", "q"):
            # also where somebody is named again; and the other way around, before a "she" or where nobody is named
            name = fact.values[asked].name
            everywhere = [(start, end) for said, start, end in passage.named if said.lower() == name.lower()]
            earlier = [place for place in everywhere if place[0] < settled][-1:]
            places = [place for place in everywhere if place[0] >= settled] or places or earlier
        if not places:
            return None
        later = [place for place in places if place[0] >= settled]
        if not later and rng.random() > GUESSED_SHARE:
            return None
        return _question(text, passage, (later or places)[0], fact, asked)

    def colour(self, rng: random.Random, passage: Passage, fact: Fact) -> Question | None:
        """A question for the colour of a thing that is told with it ("a red kite")."""
        thing: Thing = fact.values["t"]
        names = {
            other.values["t"].name for other in passage.facts if "t" in other.told and same(other.values["t"], thing)
        }
        place = next((span for span in fact.spans if span.slot == "t"), None)
        if place is None or len(names) != 1 or thing.adjective not in COLOURS or fact.kind["name"] == "colour":
            return None
        text = fill(pick(rng, COLOUR_QUESTIONS), {"t": f"the {thing.noun}"}.__getitem__, rng)
        return _question(text, passage, (place.start, place.start + len(thing.adjective)), fact, "c")

    def unanswerable(self, rng: random.Random, passage: Passage) -> Question | None:
        """A question that is like one about this passage, to which it has no answer."""
        fact = pick(rng, passage.facts)
        kind = fact.kind if rng.random() < 0.7 else pick(rng, self.kinds)
        values = dict(fact.values)
        other = pick(rng, passage.facts).values
        new = self.fact(rng, [self.person(rng)], passage.facts, None).values
        asked = pick(rng, sorted(kind["ask"]))
        if asked == "p" and rng.random() > WHO_UNANSWERABLE_SHARE:
            return None
        for slot in rng.sample(sorted(values), len(values)):  # until something that the question names is another
            if slot in ("p", "q"):
                values[slot] = other[pick(rng, ("p", "q"))] if rng.random() < 0.6 else new[slot]
            else:
                values[slot] = other[slot] if rng.random() < 0.5 else new[slot]
            text, named = self.ask(rng, kind, asked, values)
            if slot in named or rng.random() < 0.1:
                break
        told = {fact.kind["name"] for fact in passage.facts}
        if kind["name"] in NOT_SAID_ELSEWHERE and kind["name"] not in told:
            return None
        if kind["name"] == "colour" and any(same(fact.values["t"], values["t"]) for fact in passage.facts):
            return None
        if any(kind["name"] in group and told & {*group} - {kind["name"]} for group in self.alike):
            return None
        if {"p", "q"} <= named | {asked} and values["p"] == values["q"]:
            return None
        if self.answers(passage, kind, asked, named, values, ways_around=True):
            return None
        return _question(text, passage, (0, 0), None, asked, kind)

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
            alike = all(slot in fact.told and same(fact.values[slot], values[slot]) for slot in named)
            if ways_around and kind["name"] in MUTUAL and asked in "pq":
                alike = alike or {fact.values["p"], fact.values["q"]} & {values["p"], values["q"]} != set()
            if alike and asked in fact.told:
                found.append(fact)
        return found


GROUPS = {"w": "times", "a": "animals", "f": "foods", "c": "colours"}
COLOURS = frozenset(
    (
        "red",
        "blue",
        "yellow",
        "green",
        "white",
        "brown",
        "black",
        "golden",
        "silver",
        "pink",
        "purple",
        "orange",
        "gray",
    )
)
COLOUR_SHARE, COLOUR_QUESTIONS = 0.08, ("What [colour|color] was {t}?", "What was the [colour|color] of {t}?")
NOT_SAID_ELSEWHERE = ("owned", "colour")
"""What other kinds of facts may say too: somebody bought it, or it was red when it was lost."""
MUTUAL = ("met",)


def _question(
    text: str,
    passage: Passage,
    place: tuple[int, int],
    fact: Fact | None,
    asked: str,
    kind: Mapping[str, Any] | None = None,
) -> Question:
    """A question about a fact of a passage, or about none of them."""
    name = (fact.kind if fact is not None else kind or {})["name"]
    told = []
    for other in passage.facts:
        for span in other.spans:
            said = passage.text[span.start : span.end].lower()
            if span.slot == "t":
                said = said.split()[-1]  # the question may leave out the adjective
            alike = other.kind["name"] == name if span.slot == "happened" else said in text.lower()
            told.append((*span, alike, other is fact))
    return Question(text, passage.text, *place, name, asked, tuple(told))


def questions(split: str, how_many: int, first: int = 0) -> Iterator[Question]:
    """The examples of a split, one after the other, each from its own seed."""
    return examples("questions", split, how_many, Questioner(split).attempt, first)


if __name__ == "__main__":
    preview(__doc__ or "", "questions", questions, lambda q: f"{q.context}\n  {q.question} {q.answer or '(no answer)'}")

"""What the passages of ``question_data.py`` are made of: facts of many kinds, things, and sentences in a row."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from head_text import Span, unmarked
from story_templates import parse, pick, slots

SLOTS = ("p", "q", "t", "l", "m", "w", "a", "f", "c", "e", "happened")
JOINED_SHARE = 0.15
"""Of the sentences that can be joined to the one before, how many are."""
JOINTS = (" and ", " and ", ", and ", ", but ", " and then ")
HAPPENED = re.compile(r"\*([^*]+)\*")


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


def kinds_of_deeds(grammar: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A kind of fact for each verb of ``deeds.toml``."""
    kinds = []
    for group in grammar["groups"]:
        for deed in group["deeds"]:
            base, past, done = (form.replace("~", " ") for form in deed.split())
            kind = _replaced(group, {"<base>": base, "<past>": past, "<done>": done})
            kinds += [{**kind, "name": base}] * group.get("weight", 1)
    return kinds


def _replaced(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for placeholder, word in words.items():
            value = value.replace(placeholder, word)
        return value
    if isinstance(value, dict):
        return {name: _replaced(item, words) for name, item in value.items()}
    return [_replaced(item, words) for item in value] if isinstance(value, list) else value


def plain(feeling: str) -> str:
    """How somebody feels, but not how much."""
    return feeling.removeprefix("very ").removeprefix("so ").removeprefix("quite ")


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Thing) and isinstance(other, Thing):
        return one.noun == other.noun
    if isinstance(one, str) and isinstance(other, str):
        return plain(one) == plain(other)
    return bool(one == other)


def passage_of(rng: random.Random, sentences: list[tuple[str, Fact | None]], facts: list[Fact]) -> Passage:
    """The sentences in a row, two of them sometimes as one, and where everything stands."""
    whole, before = "", None
    named = []
    for sentence, fact in sentences:
        text, spans = unmarked(sentence, SLOTS)
        pronoun = text.split()[0] in ("He", "She")
        is_name = bool(spans) and spans[0].slot == "p" and spans[0].start == 0
        start = 0
        if fact is not None and before is not None and (pronoun or is_name) and rng.random() < JOINED_SHARE:
            whole = whole[:-1] + pick(rng, JOINTS)
            if pronoun and rng.random() < 0.6:
                start = text.index(" ") + 1  # "found it and gave it away"
            elif pronoun or text.startswith("The "):
                text = text[0].lower() + text[1:]
        elif whole:
            whole += " "
        shift = len(whole) - start
        moved = [Span(span.slot, span.start + shift, span.end + shift) for span in spans]
        whole += text[start:]
        before = fact
        if fact is not None:
            fact.spans = moved
        named += [(whole[span.start : span.end], span.start, span.end) for span in moved if span.slot in ("p", "q")]
    return Passage(whole, facts, named)

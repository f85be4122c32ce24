"""Text templates of the story grammar: ``[this|that]`` picks one, ``{slot}`` is filled in, ``{Slot}`` with a capital.

A template is parsed once into nested tuples and expanded as often as wanted; the same random stream gives the same
text.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Slot:
    name: str


@dataclass(frozen=True)
class Choice:
    options: tuple[Template, ...]


Template = tuple["str | Slot | Choice", ...]

_TOKEN = re.compile(r"[\[\]|]|\{[A-Za-z_0-9]+\}|[^\[\]|{}]+|[{}]")


class GrammarError(Exception):
    """A template or grammar file that is malformed: says which text and what is wrong."""


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of the options, all equally likely; built on ``random()`` alone, whose stream Python guarantees to keep."""
    return options[int(rng.random() * len(options))]


@cache
def parse(text: str) -> Template:
    """The template that a text describes.

    >>> parse("a [red|blue] {noun}")
    ('a ', Choice(options=(('red',), ('blue',))), ' ', Slot(name='noun'))
    """
    tokens = _TOKEN.findall(text)
    template, position = _parse_sequence(tokens, 0, text, nested=False)
    if position != len(tokens):
        raise GrammarError(f"a ']' without its '[' in: {text}")
    return template


def _parse_sequence(tokens: list[str], position: int, text: str, *, nested: bool) -> tuple[Template, int]:
    parts: list[str | Slot | Choice] = []
    while position < len(tokens):
        token = tokens[position]
        if token in ("]", "|") and nested:
            break
        if token in ("]", "|", "{", "}"):
            raise GrammarError(f"a stray {token!r} in: {text}")
        position += 1
        if token == "[":
            choice, position = _parse_choice(tokens, position, text)
            parts.append(choice)
        elif token.startswith("{"):
            parts.append(Slot(token[1:-1]))
        else:
            parts.append(token)
    return tuple(parts), position


def _parse_choice(tokens: list[str], position: int, text: str) -> tuple[Choice, int]:
    options = []
    while True:
        option, position = _parse_sequence(tokens, position, text, nested=True)
        options.append(option)
        if position == len(tokens):
            raise GrammarError(f"a '[' without its ']' in: {text}")
        position += 1
        if tokens[position - 1] == "]":
            return Choice(tuple(options)), position


def expand(template: Template, lookup: Callable[[str], str], rng: random.Random) -> str:
    """The text of a template: ``lookup`` gives the (unparsed) text of a slot, whose own slots are expanded in turn."""
    pieces = []
    for part in template:
        if isinstance(part, str):
            pieces.append(part)
        elif isinstance(part, Choice):
            pieces.append(expand(pick(rng, part.options), lookup, rng))
        else:
            value = expand(parse(lookup(part.name[0].lower() + part.name[1:])), lookup, rng)
            pieces.append(value[0].upper() + value[1:] if part.name[0].isupper() else value)
    return "".join(pieces)


def count(template: Template) -> int:
    """How many texts the choices of a template make, each slot counted once.

    >>> count(parse("[a|b [c|d]] {slot}"))
    3
    """
    return math.prod(sum(count(option) for option in part.options) for part in template if isinstance(part, Choice))


def slots(template: Template) -> set[str]:
    """The slots that a template names, in lower case.

    >>> sorted(slots(parse("{Hero} [sat|ran to {place}]")))
    ['hero', 'place']
    """
    found = set()
    for part in template:
        if isinstance(part, Slot):
            found.add(part.name[0].lower() + part.name[1:])
        elif isinstance(part, Choice):
            found.update(*(slots(option) for option in part.options))
    return found


def articles(text: str) -> str:
    """The text with "a" turned into "an" where the next word begins with a vowel's sound.

    >>> articles("A old owl ate a apple and a one-eyed fish")
    'An old owl ate an apple and a one-eyed fish'
    """
    return re.sub(r"\b([Aa]) (?=(?!one\b|uni|use|eu)[aeiouAEIOU]|hour|honest)", r"\1n ", text)

"""The words of messages: where they mention arguments, what was probably meant, and long values in short.

A message for a Python user says ``max_new_tokens=8``; on the command line the same is typed ``--max-new-tokens 8``. So
a message that mentions an argument keeps the place: it is a :class:`Message`, a string that knows its parts, and who
shows it elsewhere spells the arguments in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .public import for_plugins


class _Unsaid:
    """Stands for a value that a message does not say; ``None`` is a value like any other."""

    def __repr__(self) -> str:
        return "UNSAID"

    def __reduce__(self) -> str:  # the same object out of a pickle
        return "UNSAID"


UNSAID: Final = _Unsaid()


@dataclass(frozen=True)
class Argument:
    """An argument where a message mentions it.

    Attributes:
        name: as Python calls it.
        value: what was given, or what is advised; ``UNSAID`` where the message is about none.
        text: the mention as Python spells it: ``top_k``, ``top_k=3``, ``'top_k'``.
        shown: the value as the mention spells it; ``None`` where it gives the name alone.
    """

    name: str
    value: Any
    text: str
    shown: str | None = None


class Message(str):
    """A string that knows which of its parts are arguments. Joined by ``+`` it still does; an f-string forgets.

    Attributes:
        parts: the pieces of text and the arguments, in order.

    >>> message = "give " + mention("top_k", 3) + " or less"
    >>> message, [part.name for part in message.arguments]
    ('give top_k=3 or less', ['top_k'])
    >>> message.spelled(lambda mentioned: f"--{mentioned.name} {mentioned.value}")
    'give --top_k 3 or less'
    """

    parts: tuple[str | Argument, ...]

    def __new__(cls, *parts: str | Argument) -> Message:
        flat: list[str | Argument] = []
        for part in parts:
            flat += part.parts if isinstance(part, Message) else [part]
        self = super().__new__(cls, "".join(part.text if isinstance(part, Argument) else part for part in flat))
        self.parts = tuple(flat)
        return self

    def __add__(self, other: str) -> Message:
        return Message(self, other) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> Message:
        return Message(other, self) if isinstance(other, str) else NotImplemented

    def __str__(self) -> str:  # str's own would forget the parts
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.parts

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The arguments mentioned, in order."""
        return tuple(part for part in self.parts if isinstance(part, Argument))

    def spelled(self, spell: Callable[[Argument], str]) -> str:
        """The message with each argument as `spell` writes it."""
        return "".join(spell(part) if isinstance(part, Argument) else part for part in self.parts)


@for_plugins
def mention(name: str, value: Any = UNSAID, *, shown: str | None = None, limit: int | None = None) -> Message:
    """Mention an argument with a value, ``name=value``; or its name alone.

    Args:
        value: what was given, or is advised.
        shown: how the value is spelled, where that is not its ``repr``.
        limit: most characters of it.

    >>> mention("seed"), mention("seed", 3), mention("adapter", shown="folder")
    ('seed', 'seed=3', 'adapter=folder')
    >>> mention("model", shown="Sequential(\\n  (0): Linear()\\n)")
    'model=Sequential( (0): Linear() )'
    """
    if shown is None and value is not UNSAID:
        shown = repr(value)
    if shown is None:
        return Message(Argument(name, value, name))
    shown = (shown if "\n" not in shown else " ".join(shown.split()))[:limit]  # a message is one line
    return Message(Argument(name, value, f"{name}={shown}", shown))


@for_plugins
def subject(name: str, value: Any, *, before: str = "") -> Message:
    """Mention an argument by its name, where the message goes on to say what is wrong with its value.

    Args:
        before: what Python says before the name, such as where the value is from.

    >>> message = subject("top_k", -1) + " is -1"
    >>> message, message.arguments[0].value
    ('top_k is -1', -1)
    """
    return Message(Argument(name, value, f"{before}{name}"))


def in_quotes(name: str) -> Message:
    """Mention an argument by its name in quotes, as one of several names.

    >>> in_quotes("seed")
    "'seed'"
    """
    return Message(Argument(name, UNSAID, repr(name)))


def joined(separator: str, messages: Iterable[str]) -> Message:
    """Messages in a row, as ``separator.join`` would have them, which forgets their parts.

    >>> joined("; ", [subject("seed", -1) + " is -1", "stop"]).arguments[0].name
    'seed'
    """
    parts = [part for message in messages for part in (separator, message)]
    return Message(*parts[1:])


def spelled(message: str, spell: Callable[[Argument], str]) -> str:
    """A message with each argument as `spell` writes it; one that mentions none stays as it is."""
    return message.spelled(spell) if isinstance(message, Message) else message


def closest(name: object, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that one which is none was probably meant to be; ``None`` where nothing comes close.

    >>> closest("temprature", ["temperature", "top_k"]), closest("zebra", ["temperature"]), closest(3, ["a"])
    ('temperature', None, None)
    """
    return next(iter(closest_few(name, known, 1, cutoff=cutoff)), None)


def closest_few(name: object, known: Iterable[str], count: int, *, cutoff: float = 0.6) -> list[str]:
    """At most `count` known names that come close, the closest first."""
    from difflib import get_close_matches  # here, as most runs make no mistake

    return get_close_matches(name, list(known), n=count, cutoff=cutoff) if isinstance(name, str) else []


def did_you_mean(
    name: object,
    known: Iterable[str],
    otherwise: str | None = None,
    *,
    cutoff: float = 0.6,
    spellings: Mapping[str, str] | None = None,
) -> str | None:
    """``did you mean 'temperature'?``, or `otherwise` where nothing comes close.

    Args:
        spellings: other words for known names, which a reader may have learned elsewhere.

    >>> did_you_mean("half", ["float16", "float32"], spellings={"half": "float16"})
    "did you mean 'float16'?"
    >>> did_you_mean("temprature", ["temperature"]), did_you_mean("zebra", ["a", "b"], "known: a, b")
    ("did you mean 'temperature'?", 'known: a, b')
    """
    known = list(known)
    others = {word.lower(): word for word in known}
    others |= {word: meant for word, meant in (spellings or {}).items() if meant in known}
    close = others.get(name.lower()) if isinstance(name, str) else None
    if close is None:
        close = closest(name, [*known, *others], cutoff=cutoff)
        close = close if close is None else others.get(close, close)
    return otherwise if close is None else f"did you mean {close!r}?"


def shortened(text: str, limit: int = 80, end: str = "...") -> str:
    """At most `limit` characters of a text, which says by its `end` that it goes on.

    >>> shortened("a" * 9, 8), shortened("a" * 8, 8)
    ('aaaaa...', 'aaaaaaaa')
    """
    return text if len(text) <= limit else text[: limit - len(end)] + end


def few(items: Sequence[str], limit: int = 8) -> str:
    """Items joined by commas, the rest counted.

    >>> few(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest} more" if rest > 0 else "")


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    Args:
        one: what one of them is called; and what is said of it, where a verb follows.
        many: the same of several; by default `one` with an s.

    >>> counted(1, "token"), counted(2500, "token"), counted(1, "part is missing", "parts are missing")
    ('1 token', '2,500 tokens', '1 part is missing')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def visible(text: str, *, in_line: bool = False) -> str:
    r"""A text with control characters as escapes, so that what a model writes cannot steer the terminal.

    Args:
        in_line: escape everything that has no shape of its own, such as line breaks and marks of direction: for a name
            from a file. Otherwise tabs and line feeds stay, and so do the joiners and spaces of any script.

    >>> visible("a\tb\x1b[2J"), visible("a\nb\u202e", in_line=True)
    ('a\tb\\x1b[2J', 'a\\x0ab\\u202e')
    """
    if text.isprintable():
        return text
    return "".join(_escape(c) if (not c.isprintable() if in_line else _is_control(c)) else c for c in text)


def _is_control(character: str) -> bool:
    return character not in "\t\n" and (character < " " or "\x7f" <= character <= "\x9f")


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

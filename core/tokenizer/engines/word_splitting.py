"""How a byte-level BPE cuts text into words before it joins bytes: the patterns, and the steps that run them.

A ``WordSplitting`` is a list of patterns, applied one after the other: each cuts the pieces that the one before left,
and what a pattern matches and what lies between its matches are pieces both. Each piece is looked at by itself, so
``(?!\\S)`` also holds at its end. Patterns are Oniguruma's, which the tokenizers library runs; in it ``\\d``, ``\\s``
and ``\\b`` go by Unicode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tokenizers

_SUFFIXES = "'s|'t|'re|'ve|'m|'ll|'d"
ANY_CASE = f"(?i:{_SUFFIXES})"
"""English contractions, in upper and lower case."""
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
LINES = r"\s*[\r\n]+"
GAPS = r"\s+(?!\S)|\s+"

DIGIT = r"\p{N}"
NUMBER = r"\p{N}+"
UP_TO_THREE = r"\p{N}{1,3}"
GPT2_PATTERN = rf"{_SUFFIXES}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{GAPS}"
"""https://github.com/openai/gpt-2/blob/master/src/encoder.py; the tokenizers library has it built in."""
LLAMA3_PATTERN = f"{ANY_CASE}|{WORD}|{UP_TO_THREE}|{SIGNS}|{LINES}|{GAPS}"
"""https://github.com/meta-llama/llama3/blob/main/llama/tokenizer.py"""
QWEN2_PATTERN = f"{ANY_CASE}|{WORD}|{DIGIT}|{SIGNS}|{LINES}|{GAPS}"
"""Llama 3's with digits one by one."""


@dataclass(frozen=True)
class WordSplitting:
    """What happens to a text before its bytes are joined.

    Attributes:
        patterns: applied one after the other.
        whole_words: a word that is a token is that token, even where no merges lead to it.
        adds_bos: whether a text begins with the BOS token where nothing says so.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    adds_bos: bool = False

    def pre_tokenizer(self) -> tokenizers.pre_tokenizers.PreTokenizer:
        """The step of the tokenizers library that does this, bytes spelled as characters at its end."""
        from tokenizers import Regex, pre_tokenizers

        patterns = self.patterns
        built_in = patterns[-1:] == (GPT2_PATTERN,)
        steps: list[Any] = [
            pre_tokenizers.Digits(individual_digits=True)
            if pattern == DIGIT
            else pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
            for pattern in (patterns[:-1] if built_in else patterns)
        ]
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=built_in))
        return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)


LLAMA3 = WordSplitting((LLAMA3_PATTERN,), whole_words=True, adds_bos=True)
GPT2 = WordSplitting((GPT2_PATTERN,))


def patterns_of(step: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """The patterns that a ``pre_tokenizer`` of a `tokenizer.json` applies; None where it does anything else.

    >>> patterns_of({"type": "Sequence", "pretokenizers": [
    ...     {"type": "Digits", "individual_digits": True},
    ...     {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]})
    ('\\\\p{N}',)
    """
    *before, last = _flat(step)
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    found = [_pattern(one) for one in before]
    if last.get("use_regex", True):
        found.append(GPT2_PATTERN)
    return None if None in found else tuple(pattern for pattern in found if pattern is not None)


def kinds_of(step: Mapping[str, Any] | None) -> list[str]:
    """The kinds of the steps of a ``pre_tokenizer``, for messages."""
    return [str(one.get("type", "nothing")) for one in _flat(step)]


def _flat(step: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    if step is None:
        return [{}]
    if step.get("type") != "Sequence":
        return [step]
    return [inner for one in step["pretokenizers"] for inner in _flat(one)] or [{}]


def _pattern(step: Mapping[str, Any]) -> str | None:
    """The pattern that does what one step before the last does."""
    if step.get("type") == "Digits":
        return DIGIT if step.get("individual_digits") else NUMBER
    pattern = step.get("pattern", {}).get("Regex")
    isolated = step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert")
    return pattern if isolated and isinstance(pattern, str) else None

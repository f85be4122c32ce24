"""Patterns of module names in an adapter's settings, refused where matching them could take forever.

PEFT takes them for regular expressions. Those of a strange file are run only where the number of ways in which they can
be tried is bounded: no repeated groups, no references back, and few wildcards and alternatives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ...errors import CheckpointError, UnsupportedError

_PARTS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?:|.", re.DOTALL)
_NAME_LENGTH = 60
"""About the length of the longest names of modules: in so many places a repeated character can end."""
_MOST_WAYS = 40_000
"""Three wildcards, or ten choices of two: some milliseconds for each module."""
_MOST_WAYS_OF_FILE = 200_000


def matches(pattern: str, module: str) -> bool:
    """Whether a pattern is the end of a module's name, from a dot on.

    >>> matches("q_proj", "layers.0.self_attn.q_proj"), matches("proj", "layers.0.self_attn.q_proj")
    (True, False)
    """
    return re.match(_from_a_dot(pattern), module) is not None


def check_patterns(file: Path, field: str, patterns: Iterable[str]) -> None:
    """Refuse what is no pattern, and what is a costly one.

    Raises:
        CheckpointError: no regular expression.
        UnsupportedError: one that can take very long; named.
    """
    total = 0.0
    for pattern in patterns:
        where = f"{file}: {field}: {pattern!r:.200}"
        try:
            re.compile(pattern)  # by itself: a bracket must not close one of ours
            re.compile(_from_a_dot(pattern))
        except (re.error, OverflowError, RecursionError) as error:
            raise CheckpointError(f"{where} is no regular expression ({error})") from None
        total += _ways(where, pattern)
    if total > _MOST_WAYS_OF_FILE:
        raise _refused(f"{file}: {field} has too many wildcards and alternatives")


def _from_a_dot(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def _ways(where: str, pattern: str) -> float:
    """In about how many ways a pattern can be laid over a name before it is known that none fits."""
    ways, repeats, previous = 1.0, 0, ""
    branches = [1]
    for part in _PARTS.findall(pattern):
        if part in ("*", "+", "{"):
            if previous == ")":
                raise _refused(f"{where} repeats a group")
            repeats += 1
            ways *= _NAME_LENGTH / repeats
        elif part == "?":
            if previous == "(":
                raise _refused(f"{where} has a group of a special kind")
            ways *= 2
        elif re.fullmatch(r"\\[1-9]", part):
            raise _refused(f"{where} refers back to a group")
        elif part in ("(", "(?:"):
            branches.append(1)
        elif part == "|":
            branches[-1] += 1
        elif part == ")":
            ways *= branches.pop()
        previous = part
    ways *= branches[0]
    if ways > _MOST_WAYS:
        raise _refused(f"{where} has too many wildcards and alternatives")
    return ways


def _refused(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{what}, so that matching it could take very long",
        hint="write the names of modules out, or merge the adapter with peft",
    )

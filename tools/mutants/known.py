"""Survivors that were judged: known.toml says of each why no test need catch it, or that one is still missing."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KNOWN = Path(__file__).with_name("known.toml")
VERDICTS = ("equivalent", "defensive")
Key = tuple[str, str, str, str, int]


@dataclass(frozen=True)
class Known:
    """A judged mutation: by file, function and statement before and after, never by line."""

    key: Key
    verdict: str
    reason: str


def read_known(path: Path = KNOWN) -> dict[Key, Known]:
    """Judged mutations by key."""
    found: dict[Key, Known] = {}
    for place, entry in enumerate(tomllib.loads(path.read_text()).get("known", ()), 1):
        try:
            key = (entry["file"], entry["function"], entry["original"], entry["mutated"], entry.get("occurrence", 1))
            known = Known(key, entry["verdict"], entry["reason"].strip())
        except KeyError as missing:
            raise SystemExit(f"{path.name}: entry {place} has no {missing}") from None
        if known.verdict not in VERDICTS or not known.reason:
            raise SystemExit(f"{path.name}: entry {place}: a verdict is one of {', '.join(VERDICTS)}, with a reason")
        if key in found:
            raise SystemExit(f"{path.name}: entry {place} is there twice: {entry['original']}")
        found[key] = known
    return found


def stale(known: dict[Key, Known], mutations: list[Any]) -> list[Known]:
    """Judged mutations that the sources no longer have."""
    there = {mutation.key for mutation in mutations}
    return [entry for key, entry in known.items() if key not in there]


def as_toml(mutation: Any) -> str:
    """An entry to fill in for a survivor."""
    import json

    lines = ["[[known]]"]
    for name in ("file", "function", "original", "mutated"):
        value = getattr(mutation, name)
        lines.append(f"{name} = {_text(value)}" if "'" not in value else f"{name} = {json.dumps(value)}")
    if mutation.occurrence > 1:
        lines.append(f"occurrence = {mutation.occurrence}")
    return "\n".join([*lines, 'verdict = ""', 'reason = ""', ""])


def _text(value: str) -> str:
    return f"'{value}'"

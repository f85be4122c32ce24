"""Constraints: what masks cost of a step on SmolLM2-135M-Instruct, how long schemas compile, whether texts hold.

python benchmarks/constraints.py [--backend cpu] [--rounds 3] [--tokens 128] [--samples 50]

The share of a step is measured inside the loop that runs: seconds in masks beside seconds in all. The speed of rows
with and without a constraint stands beside it. With --samples each of 20 schemas is sampled so often, and jsonschema
judges.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import alternate, ratio, report, seconds
from polyllama import Llama
from polyllama.core.constraints.asked import Asked
from polyllama.core.constraints.compiling import compiled
from polyllama.core.generation.constrained import Constrained

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "email": {"type": "string", "pattern": "^[a-z.]{3,12}@[a-z]{3,8}\\.(com|org)$"},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}},
    },
    "required": ["name", "age", "email", "tags"],
    "additionalProperties": False,
}
PEOPLE = {"type": "array", "items": PERSON, "minItems": 100}
ASKED = [{"role": "user", "content": "List some people as JSON, with name, age, email and tags."}]


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--samples", type=int, default=50, help="of each schema; 0 for none")
    asked = parser.parse_args()
    llm = Llama.load("smollm2-135m-instruct", backend=asked.backend)
    measured = {"steps": steps(llm, asked.tokens, asked.rounds), "compiling": compiling(llm)}
    if asked.samples:
        measured["valid"] = samples(llm, asked.samples)
    rows = [
        (name, *(f"{found[which]:.4f}" for which in ("min", "median", "max")))
        for name, found in measured["steps"]["ratios"].items()
    ]
    report("constraints", {"backend": asked.backend, **measured}, rows, ("ratio", "min", "median", "max"))
    print(f"compiling: {measured['compiling']}")
    if asked.samples:
        print(f"texts that their schema's judge accepts: {measured['valid']}")


class Clock:
    """Adds up the seconds that methods of the row's constraint take."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        for name in ("allowed", "apply", "append"):
            setattr(Constrained, name, self._timed(getattr(Constrained, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began, self._depth = time.perf_counter(), self._depth + 1
            try:
                return method(*arguments)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - began

        return call


def steps(llm: Llama, tokens: int, rounds: int) -> dict[str, Any]:
    """Tokens per second with and without, of one row and of eight; and the masks' share of the time."""
    clock = Clock()
    figures: dict[str, list[float]] = {}
    options: dict[str, Any] = {"max_new_tokens": tokens, "eos_token_id": []}
    sampled = options | {"temperature": 1.0, "seed": 1}

    def run(**more: Any) -> Callable[[], float]:
        def once() -> float:
            stats = llm.chat(ASKED, **more)
            stats = (stats[0] if isinstance(stats, list) else stats).stats
            return float(stats.tokens_per_second)

        return once

    def share(**more: Any) -> Callable[[], float]:
        def once() -> float:
            before = clock.seconds
            whole = seconds(lambda: llm.chat(ASKED, json_schema=PEOPLE, **more))
            return (clock.seconds - before) / whole

        return once

    figures = alternate(
        {
            "free": run(**options),
            "held": run(**options, json_schema=PEOPLE),
            "free, 8 sampled": run(**sampled, num_return_sequences=8),
            "held, 8 sampled": run(**sampled, num_return_sequences=8, json_schema=PEOPLE),
            "share": share(**options),
            "share, 8 sampled": share(**sampled, num_return_sequences=8),
        },
        rounds,
    )
    shares = {
        f"masks' share of the time, {what}": {
            "min": min(figures[name]),
            "median": statistics.median(figures[name]),
            "max": max(figures[name]),
        }
        for name, what in (("share", "one greedy row"), ("share, 8 sampled", "8 sampled rows"))
    }
    return {
        "figures": figures,
        "ratios": {
            "tokens per second held / free, one greedy row": ratio(figures, "held", "free"),
            "tokens per second held / free, 8 sampled rows": ratio(figures, "held, 8 sampled", "free, 8 sampled"),
            **shares,
        },
    }


def compiling(llm: Llama) -> dict[str, float]:
    """Milliseconds to make a vocabulary ready, which the first constraint pays, and to compile a schema after it."""
    fresh = Llama.load("smollm2-135m-instruct", backend=llm.backend).tokenizer
    size = llm.config.vocab_size

    def compile_one(number: int) -> float:
        source = json.dumps({**PEOPLE, "minItems": number})
        return 1000 * seconds(lambda: compiled(Asked("json_schema", source), fresh, size))

    first = compile_one(0)
    return {"first": first, "then": statistics.median(compile_one(number) for number in range(1, 21))}


def samples(llm: Llama, count: int) -> str:
    """Of so many sampled texts of each schema, how many their judge accepts."""
    import jsonschema
    from schemas import SCHEMAS

    good = 0
    for schema in SCHEMAS.values():
        options: dict[str, Any] = {"temperature": 1.0, "seed": 7, "max_new_tokens": 300, "num_return_sequences": count}
        for one in llm.chat(ASKED, json_schema=schema, batch_size=min(count, 25), **options):
            jsonschema.validate(json.loads(one.text), schema)
            good += 1
    return f"{good} of {count * len(SCHEMAS)}"


if __name__ == "__main__":
    main()

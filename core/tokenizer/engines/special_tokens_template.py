"""Which special tokens surround the ids of a text or of a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import TokenizerError

# (part, type id): part 0 is the first text, 1 the second, and a tuple holds ids of special tokens
Step = tuple[int | tuple[int, ...], int]


@dataclass(frozen=True, slots=True)
class SpecialTokensTemplate:
    """The steps for one text and for a pair."""

    single: tuple[Step, ...]
    pair: tuple[Step, ...]

    @classmethod
    def around(cls, before: Sequence[int], after: Sequence[int]) -> SpecialTokensTemplate:
        """The same ids before and after each text.

        >>> SpecialTokensTemplate.around([1], []).build([5], [6])
        [1, 5, 1, 6]
        """

        def one(part: int) -> tuple[Step, ...]:
            steps: list[Step] = [(tuple(before), part), (part, part), (tuple(after), part)]
            return tuple(step for step in steps if step[0] != ())

        return cls(one(0), one(0) + one(1))

    def steps(self, pair: bool) -> tuple[Step, ...]:
        return self.pair if pair else self.single

    def num_added(self, pair: bool) -> int:
        """How many special tokens it adds."""
        return sum(len(part) for part, _ in self.steps(pair) if isinstance(part, tuple))

    def build(self, first: Sequence[int], second: Sequence[int] | None = None) -> list[int]:
        """The ids with their special tokens."""
        built: list[int] = []
        for part, _ in self.steps(second is not None):
            built.extend(part if isinstance(part, tuple) else first if part == 0 else second or ())
        return built

    @classmethod
    def parse(cls, processor: Any, source: str) -> SpecialTokensTemplate | None:
        """From the post_processor of a tokenizer.json; None where it adds nothing.

        Errors: TokenizerError for a kind that Llama checkpoints do not use.
        """
        kind = processor.get("type") if isinstance(processor, Mapping) else None
        if processor is None or kind == "ByteLevel":
            return None
        if kind == "Sequence":
            found = [cls.parse(step, source) for step in processor["processors"]]
            templates = [template for template in found if template is not None]
            if len(templates) > 1:
                raise TokenizerError(
                    f"{source}: post_processor adds special tokens in {len(templates)} steps, expected one"
                )
            return templates[0] if templates else None
        if kind != "TemplateProcessing":
            raise TokenizerError(
                f"{source}: post_processor {kind} is none that a Llama uses",
                hint="expected TemplateProcessing or ByteLevel",
            )
        ids = {name: tuple(token["ids"]) for name, token in processor["special_tokens"].items()}

        def steps(items: list[dict[str, Any]]) -> tuple[Step, ...]:
            parsed: list[Step] = []
            for item in items:
                if "SpecialToken" in item:
                    parsed.append((ids[item["SpecialToken"]["id"]], item["SpecialToken"]["type_id"]))
                else:
                    parsed.append(("AB".index(item["Sequence"]["id"]), item["Sequence"]["type_id"]))
            return tuple(parsed)

        return cls(steps(processor["single"]), steps(processor["pair"]))

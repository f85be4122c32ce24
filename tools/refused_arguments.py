"""The tables of refused arguments in docs/coming-from-transformers.md, made from the code that refuses them.

Run this after every change of what is refused; a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from polyllama.core.api.pipelines.options import INSTEAD
from polyllama.core.config.loader_arguments import LOADER_ARGUMENTS, REFUSED
from polyllama.core.generation.not_offered import NOT_OFFERED

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "coming-from-transformers.md"
BEGIN, END = "<!-- refused arguments: python tools/refused_arguments.py -->", "<!-- end of refused arguments -->"
_OF_CONFIGS = {name: advice for name, advice in LOADER_ARGUMENTS.items() if name not in REFUSED}


def tables() -> str:
    """What stands between the marks."""
    generation = {name: refused.reason for name, refused in NOT_OFFERED.items()}
    parts = [
        ("`from_pretrained`, where it is neither `None` nor a value that asks for nothing", REFUSED),
        ("`Llama.load(...)` and `LlamaConfig(...)`, where it is no field", _OF_CONFIGS),
        ("`generate`, where it is neither `None` nor a value that does nothing", generation),
        ("`pipeline`", INSTEAD),
    ]
    return "\n\n".join(_table(of, advice) for of, advice in parts)


def _table(of: str, advice: Mapping[str, str]) -> str:
    names: dict[str, list[str]] = {}
    for name, instead in advice.items():
        names.setdefault(str(instead), []).append(f"`{name}`")
    rows = [f"| {', '.join(same)} | {_cell(instead)} |" for instead, same in names.items()]
    return "\n".join([f"Of {of}:", "", "| argument | instead |", "|---|---|", *rows])


def _cell(text: str) -> str:
    """Advice as Markdown: calls and values as code."""
    text = text.replace("|", r"\|")
    return re.sub(r"(?<![`\w./])((?:\w+(?:\.\w+)*)(?:=(?:'[^']*'|\[\]|[\w.]+)|\(\.\.\.\)))", r"`\1`", text)


def written(guide: str) -> str:
    """The guide with the tables as they must be."""
    before, rest = guide.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    GUIDE.write_text(written(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")

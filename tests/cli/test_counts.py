"""Counts agree with their nouns: 1 token, 2 tokens."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import polyllama
import pytest
from command_line import REFERENCE, Outcome
from polyllama.core.messages import counted

ROOT = Path(polyllama.__file__).parent
ONE_OF_SEVERAL = re.compile(r"(?<![\w.,])1 (?!as\b|is\b|has\b|does\b)[a-z]+s\b(?!/)")


ALWAYS_SEVERAL = {
    *("core/checkpoint/gguf/parts.py: len(files)", "core/checkpoint/gguf/writer.py: len(config.eos_token_ids)"),
    *("core/checkpoint/huggingface/save_safetensors.py: len(text)", "core/checkpoint/llama2c.py: len(found)"),
    *("core/checkpoint/pytorch/pickle_reader.py: len(content)", "core/config/problems.py: len(self.problems)"),
    *("core/generation/request.py: len(ids)", "core/plugin_system/info.py: len(claims)"),
    *("core/plugin_system/info.py: len(labels)", "core/prediction/predict.py: len(examples)"),
    *("core/attention_mask/drawing.py: tokens", "plugins/chat/conversation.py: len(prompts[start])"),
    "plugins/chat/conversation.py: len(ids)",
    "core/tokenizer/engines/special_tokens_template.py: len(templates)",
    "core/tokenizer/engines/tie_groups.py: len(self.tied)",
    # Too many, or none at all.
    *("core/constraints/compiling.py: len(asked.source)", "plugins/serve/openai/completions.py: len(body.prompts)"),
    *("plugins/serve/own/predicting.py: len(inputs)", "plugins/serve/vectors.py: len(inputs)"),
    # Vocabularies: one token alone is no language.
    *("core/tokenizer/engines/sentencepiece_engine.py: len(model)", "core/tokenizer/formats/gguf.py: len(scores)"),
    *("core/tokenizer/formats/gguf.py: len(tokens)", "core/tokenizer/formats/gguf_writer.py: len(tokenizer)"),
    *("core/tokenizer/formats/llama2c.py: len(pieces)", "core/tokenizer/vocabulary.py: tokens"),
}
"""Where what is counted before a plural is never one."""


@pytest.mark.parametrize(
    "arguments",
    [
        ("tokenize", "tiny", ""),
        ("run", "tiny", "", "--max-new-tokens", "1", *REFERENCE),
        ("run", "tiny", "", "--max-new-tokens", "2", *REFERENCE),
        ("download", "tiny/config.json"),
        ("convert", "tiny", "tiny.gguf", "--to", "gguf"),
        ("evaluate", "tiny", "text.txt", *REFERENCE),
        ("mask", "tiny", ""),
        ("compare", "tiny", "--backends", "reference,cpu", "--prompt", "", "--dtype", "float32"),
        ("embed", "tiny", "Once", *REFERENCE),
        ("list",),
        ("quantize", "tiny", "packed"),
        ("run", "tiny", "Once", "--max-new-tokens", "0", *REFERENCE),
        ("run", "tiny-sentiment", "Once upon", "--option", "max_length=1", *REFERENCE),
        ("run", "tiny-sentiment", "Once upon", "--option", "max_length=1", "--option", "truncation=true", *REFERENCE),
    ],
    ids=" ".join,
)
def test_nobody_says_1_tokens(
    call: Callable[..., Outcome], arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLYLLAMA_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("a")
    _, out, err = call(*arguments)
    assert (out + err) and ONE_OF_SEVERAL.findall(out + err) == []


def _counts_before_plurals() -> set[str]:
    """Lengths before a plural in f-strings: file and what is counted."""
    found = set()
    for path in sorted(
        path for folder in ("cli", "core", "plugins", "backends") for path in (ROOT / folder).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            for value, text in zip(node.values, node.values[1:], strict=False):
                if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                    continue
                what = ast.unparse(value.value)
                length = what.startswith("len(") or what.endswith("tokens")
                if length and re.match(r" [a-z]+s\b(?!/)", str(text.value)):
                    found.add(f"{path.relative_to(ROOT).as_posix()}: {what}")
    return found


def test_what_people_read_counts_with_counted() -> None:
    """A length before a plural in an f-string is right for every number but one."""
    assert _counts_before_plurals() <= ALWAYS_SEVERAL


def test_plurals_are_made_in_one_place() -> None:
    made = re.compile(r"""['"]s['"] (?:if|\*)|else ['"]s['"]""")
    files = (path for folder in ("cli", "core", "plugins", "backends") for path in (ROOT / folder).rglob("*.py"))
    assert [path.name for path in files if made.search(path.read_text(encoding="utf-8"))] == []


def test_counted() -> None:
    assert [counted(n, "file") for n in (0, 1, 2, 1234567)] == ["0 files", "1 file", "2 files", "1,234,567 files"]
    assert [counted(n, "matrix", "matrices") for n in (1, 3)] == ["1 matrix", "3 matrices"]

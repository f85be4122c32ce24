"""Warnings: at the line of whoever called polyllama, with the name of the model that they are about."""

from __future__ import annotations

import ast
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polyllama
import pytest
from polyllama import Llama, PolyllamaWarning, convert
from polyllama.core.errors import about_model, model_at_hand, warn
from prediction_models import TINY

ROOT = Path(polyllama.__file__).parent
PACKAGE = ("core", "cli", "plugins", "backends", "testing")


def said(call: Callable[[], Any]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", PolyllamaWarning)
        call()
    return [warning for warning in found if issubclass(warning.category, PolyllamaWarning)]


def warning_calls(path: Path) -> Iterator[int]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
            yield node.lineno


def test_every_warning_goes_through_one_door() -> None:
    """Elsewhere nobody counts the frames between a warning and the user's line; they change with every refactoring."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: use warn() of core/errors.py"
        for folder in PACKAGE
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != ROOT / "core" / "errors.py"
        for line in warning_calls(path)
    ]
    assert found == []


def test_loading_points_at_the_caller_and_names_the_model() -> None:
    (found,) = said(lambda: Llama.load("tiny", backend="reference", task="base", classifier_dropout=0.1))
    assert found.filename == __file__
    assert str(found.message) == (
        "classifier_dropout does nothing: the head of task 'base' has no dropout (model tiny)"
    )


def test_predicting_and_generating_do_too(tmp_path: Path) -> None:
    llm = Llama.load("tiny-sentiment", backend="reference")
    (cut,) = said(lambda: llm.predict("good " * 600, truncation=True))
    assert cut.filename == __file__ and str(cut.message) == (
        "the text was cut to 512 tokens (the longest had 602) (model tiny-sentiment)"
    )
    short = Llama.load("tiny", backend="reference", max_position_embeddings=8)
    calls: list[Callable[[], Any]] = [
        lambda: short.generate("Once upon a time", max_new_tokens=6, min_new_tokens=6),
        lambda: list(short.stream("Once upon a time", max_new_tokens=6, min_new_tokens=6)),
        lambda: list(short.generate_each(["Once upon a time"], max_new_tokens=6, min_new_tokens=6)),
    ]
    for call in calls:
        (longer,) = said(call)
        assert longer.filename == __file__ and str(longer.message).startswith("row 0 is 9 tokens long now")
        assert str(longer.message).endswith("(model tiny)")


def test_what_names_the_model_already_is_left_as_it_is(tmp_path: Path) -> None:
    with about_model("my-model"):
        assert [str(w.message) for w in said(lambda: warn("my-model: cut"))] == ["my-model: cut"]
        assert [str(w.message) for w in said(lambda: warn("cut"))] == ["cut (model my-model)"]
        assert [str(w.message) for w in said(lambda: warn("a variable", general=True))] == ["a variable"]
        assert model_at_hand() == "my-model"
    assert model_at_hand() is None and [str(w.message) for w in said(lambda: warn("cut"))] == ["cut"]


@pytest.mark.parametrize(
    ("name", "message", "named"),
    [
        ("a", "the text was cut to 5 tokens", False),
        ("a", "a prompt begins with a token", False),
        (".", "the text was cut; pass truncation=False.", False),
        ("7b", "llama-7b has no tokenizer", False),
        ("tiny", "tiny-sentiment: cut", False),
        ("tiny", "a tiny model", False),
        ("a", "a: cut", True),
        ("tiny", "the model tiny has no tokenizer", True),
        ("tiny", "the model tiny-chat has no tokenizer", False),
        ("tiny", "cut for 'tiny'", True),
        ("/x/m", "/x/m/config.json: cut", True),
        ("/x/m", "/x/m2/config.json: cut", False),
        ("org/m-1", "the text of org/m-1 was cut", True),
        ("org/m-1", "cut (org/m-1)", True),
    ],
)
def test_a_name_is_whole(name: str, message: str, named: bool) -> None:
    with about_model(name):
        (found,) = said(lambda: warn(message))
    assert str(found.message) == message + ("" if named else f" (model {name})")


def test_the_model_is_forgotten_after_an_error_and_unknown_to_other_threads() -> None:
    seen: list[str | None] = []
    with pytest.raises(ZeroDivisionError), about_model("my-model"):
        thread = threading.Thread(target=lambda: seen.append(model_at_hand()))
        thread.start()
        thread.join(timeout=60)
        raise ZeroDivisionError
    assert seen == [None] and model_at_hand() is None


def test_converting_names_the_source(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(TINY, folder)
    for name in ("tokenizer.model", "tokenizer.json"):
        (folder / name).unlink()
    found = said(lambda: convert(folder, tmp_path / "out", to="hf"))
    assert found and all(w.filename == __file__ and str(w.message).count(str(folder)) >= 1 for w in found)

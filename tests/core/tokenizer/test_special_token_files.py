"""Special tokens that several files name: transformers' order of precedence, empty strings, pointers of Git LFS."""

from __future__ import annotations

import json
import shutil
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import transformers
from polyllama import Llama
from polyllama.core.errors import PolyllamaWarning, TokenizerError
from polyllama.core.tokenizer.llama_tokenizer import load_tokenizer

TINY = Path(__file__).parents[3] / "models" / "tiny"
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
UNSET = object()
DECODER = {
    str(index): {"content": name, "special": True, "lstrip": False, "rstrip": False, "normalized": False}
    for index, name in enumerate(("<unk>", "<s>", "</s>"))
}


def folder_of(folder: Path, config: dict[str, Any] | None, tokens: dict[str, Any] | None, *files: str) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in files:
        shutil.copy(TINY / name, folder / name)
    if config is not None:
        stated = {"tokenizer_class": "LlamaTokenizer", **config}
        (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    if tokens is not None:
        (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    return folder


@pytest.mark.parametrize("files", [("tokenizer.json",), ("tokenizer.model",), ("tokenizer.model", "tokenizer.json")])
@pytest.mark.parametrize("decoder", [UNSET, {}, DECODER])
def test_the_order_of_precedence_is_that_of_transformers(tmp_path: Path, files: tuple[str, ...], decoder: Any) -> None:
    marked = {"content": "<unk>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    values = (UNSET, None, "<s>", marked)
    cases = [("eos_token", *pair) for pair in product(values, values)]
    for role, in_config, in_map in [*cases, ("pad_token", UNSET, "<s>"), ("pad_token", "</s>", "<s>")]:
        if isinstance(in_config, dict) and decoder is not UNSET:
            in_config = {"__type": "AddedToken", **in_config, "special": True}
        if isinstance(in_config, dict) and "__type" not in in_config:
            continue  # transformers itself refuses it
        config = {} if in_config is UNSET else {role: in_config}
        config |= {} if decoder is UNSET else {"added_tokens_decoder": decoder}
        tokens = None if in_map is UNSET else {role: in_map}
        folder = folder_of(tmp_path / "model", config, tokens, *files)
        theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            ours = load_tokenizer(folder)
        for name in ROLES:
            assert getattr(ours, name) == getattr(theirs, name), (name, config, tokens)
            assert getattr(ours, f"{name}_id") == getattr(theirs, f"{name}_id")
        stated = {str(value.get("content") if isinstance(value, dict) else value) for value in (in_config, in_map)}
        both = UNSET not in (in_config, in_map)
        assert len(said) == (len(stated) == 2 and both) or not both, [str(warning.message) for warning in said]


@pytest.mark.parametrize("place", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("empty", ["", {"content": "", "special": True}])
def test_an_empty_string_is_no_token_and_is_said(tmp_path: Path, place: str, empty: Any) -> None:
    stated = {"pad_token": empty, "additional_special_tokens": ["<a>", empty]}
    config, tokens = (stated, None) if place == "tokenizer_config.json" else ({}, stated)
    folder = folder_of(tmp_path / "model", config, tokens, "tokenizer.json")
    with pytest.warns(PolyllamaWarning, match=f"{place}: .* is the empty string, which is no token") as said:
        tokenizer = load_tokenizer(folder)
    assert len(said) == 2 and "pad_token" in str(said[0].message)
    assert tokenizer.pad_token is None and tokenizer.additional_special_tokens == ["<a>"]
    tokenizer.save_pretrained(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").additional_special_tokens == ["<a>"]


def test_empty_added_tokens_are_left_out(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "model",
        {"eos_token": "", "added_tokens_decoder": {"1795": {"content": ""}}},
        None,
        "tokenizer.model",
    )
    (folder / "added_tokens.json").write_text('{"": 1793}')
    with pytest.warns(PolyllamaWarning, match="is the empty string") as said:
        tokenizer = load_tokenizer(folder)
    assert len(said) == 3
    assert tokenizer.eos_token is None and len(tokenizer) == 1792
    assert tokenizer.decode(tokenizer.encode("Once upon a time"), skip_special_tokens=True) == "Once upon a time"


@pytest.mark.parametrize(
    "name",
    ["tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"],
)
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path / "model", {}, {}, "tokenizer.model", "tokenizer.json")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 499723\n"
    (folder / name).write_text(pointer)
    with pytest.raises(TokenizerError, match=f"{name} is a Git LFS pointer.*git lfs pull"):
        load_tokenizer(folder)
    if name.startswith("tokenizer."):
        (folder / ({"tokenizer.model", "tokenizer.json"} - {name}).pop()).unlink()
        with pytest.raises(TokenizerError, match=f"{name} is a Git LFS pointer.*git lfs pull"):
            load_tokenizer(folder)
        with pytest.raises(TokenizerError, match=f"{name} is a Git LFS pointer.*git lfs pull"):
            load_tokenizer(folder / name)


def test_two_beginnings_of_a_prompt_are_said_once() -> None:
    llm = Llama.load("tiny", backend="reference")
    with pytest.warns(PolyllamaWarning, match="begins with '<s>', .*given two") as said:
        found = llm.generate("<s> Once", max_new_tokens=1)
        llm.generate(["<s> Once", "Once"], max_new_tokens=1)
        list(llm.stream("<s> Once", max_new_tokens=1))
    assert len(said) == 1 and said[0].filename == __file__
    assert found.prompt_token_ids[:2] == [1, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = Llama.load("tiny", backend="reference")
        other.generate(["Once <s>", "", [1, 1, 5]], max_new_tokens=1)


def test_a_token_with_a_role_is_no_additional_one_of_the_map(tmp_path: Path) -> None:
    config = {"bos_token": "<s>", "eos_token": "</s>", "extra_special_tokens": ["<s>", "</s>", "<more>"]}
    tokenizer = load_tokenizer(folder_of(tmp_path / "a", config, None, "tokenizer.json"))
    mapped = tokenizer.special_tokens_map
    assert (mapped["bos_token"], mapped["eos_token"]) == ("<s>", "</s>")
    assert mapped["additional_special_tokens"] == ["<more>"]

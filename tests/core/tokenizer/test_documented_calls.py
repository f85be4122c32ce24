"""Methods and arguments as transformers documents them: lengths, collators, names of earlier editions."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polyllama import AutoTokenizer, LlamaTokenizer, LlamaTokenizerFast
from polyllama.core.errors import DownloadError, PolyllamaWarning, TokenizerError
from tokenizer_models import WORDS, Models

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(params=[LlamaTokenizer, LlamaTokenizerFast])
def tokenizer(models: Models, request: pytest.FixtureRequest) -> Any:
    return request.param(models.model("plain"), pad_token="</s>", legacy=True)


@pytest.fixture(scope="session")
def pair(models: Models, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Ours and transformers' for one `tokenizer.json`."""
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("saved")
    ours = LlamaTokenizerFast(models.model("plain"), legacy=True, pad_token="</s>")
    ours.save_pretrained(folder)
    return ours, PreTrainedTokenizerFast.from_pretrained(folder)


texts = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)


# lengths -------------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.lists(texts, min_size=1, max_size=3),
    st.sampled_from([False, True, "longest", "max_length", "do_not_pad"]),
    st.sampled_from([None, False, True, "longest_first", "do_not_truncate"]),
    st.one_of(st.none(), st.integers(2, 12)),
    st.one_of(st.none(), st.integers(2, 12)),
)
def test_padding_truncation_and_max_length_together(
    pair: tuple[Any, Any], several: list[str], padding: Any, truncation: Any, length: int | None, most: int | None
) -> None:
    ours, theirs = pair
    ours.model_max_length = theirs.model_max_length = int(1e30) if most is None else most
    options: dict[str, Any] = {"padding": padding, "truncation": truncation, "max_length": length}
    if padding == "do_not_pad" and truncation is None and length is not None:
        return  # deliberate difference: as with padding=False the length cuts, which transformers does not do
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, found = theirs(several, **options), ours(several, **options)
        assert found == dict(expected)
        encoded = [{"input_ids": row} for row in theirs(several)["input_ids"]]
        if any(row["input_ids"] for row in encoded):
            padded = {"padding": padding, "max_length": length}
            assert ours.pad(encoded, **padded) == dict(theirs.pad(encoded, **padded))


def test_what_lengths_do_not_do_is_said_once(models: Models) -> None:
    tokenizer = LlamaTokenizer(models.model("plain"), pad_token="</s>")
    assert tokenizer.model_max_length == int(1e30) and tokenizer.max_len_single_sentence == int(1e30) - 1
    for options, message in (
        ({"max_length": 3}, "given alone: longer texts are cut"),
        ({"truncation": True}, r"states none, so texts are not cut \(pass max_length"),
        ({"padding": "max_length"}, "so texts are not padded"),
        ({"padding": "max_length", "truncation": True}, "so texts are not cut or padded"),
        ({"max_length": 3, "truncation": False}, "max_length=3 has no effect without truncation=True"),
        ({"max_length": 3, "padding": True}, "max_length=3 has no effect without padding='max_length'"),
    ):
        with pytest.warns(PolyllamaWarning, match=message) as said:
            tokenizer("hello world is this", **options)
        assert len(said) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tokenizer("hello world is this", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LlamaTokenizer(models.model("plain"))("hello world is this", max_length=3, verbose=False)


# collators and the Trainer -------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(texts.filter(bool), min_size=1, max_size=4), st.sampled_from([None, 8]), st.booleans())
def test_padding_what_a_collator_hands_over(
    pair: tuple[Any, Any], several: list[str], multiple: int | None, as_tensors: bool
) -> None:
    import torch

    ours, theirs = pair
    options: dict[str, Any] = {"return_special_tokens_mask": True, "return_token_type_ids": True}
    rows = [{**theirs(text, **options), "labels": index} for index, text in enumerate(several)]
    if as_tensors:
        rows = [{name: torch.tensor(values) for name, values in row.items()} for row in rows]
    else:
        rows = [ours(text, **options) | {"labels": index} for index, text in enumerate(several)]
    asked = {"pad_to_multiple_of": multiple, "return_tensors": "pt"}
    found, expected = ours.pad(rows, **asked), theirs.pad(rows, **asked)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(torch.is_tensor(column) for column in ours.pad(rows).values()) == as_tensors


def test_one_row_is_padded_alone(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    row = {"input_ids": [1, 5], "labels": [3, 4]}
    options = {"padding": "max_length", "max_length": 4}
    assert ours.pad(dict(row), **options) == dict(theirs.pad(dict(row), **options))
    assert "attention_mask" not in ours.pad(row, return_attention_mask=False)
    with pytest.raises(TokenizerError, match="rows of labels have different lengths"):
        ours.pad([{"input_ids": [1], "labels": [1]}, {"input_ids": [1, 2], "labels": [1, 2]}], return_tensors="pt")


def test_collators_of_transformers_take_it(pair: tuple[Any, Any]) -> None:
    import torch
    from transformers import DataCollatorForLanguageModeling, DataCollatorForSeq2Seq, DataCollatorWithPadding

    ours, theirs = pair
    rows = [theirs("hello world"), theirs("the")]
    with_labels = [{**row, "labels": list(row["input_ids"])} for row in rows]
    for kind, features in (
        (lambda tokenizer: DataCollatorForLanguageModeling(tokenizer, mlm=False), rows),
        (DataCollatorWithPadding, rows),
        (DataCollatorForSeq2Seq, with_labels),
    ):
        found, expected = (kind(tokenizer)([dict(row) for row in features]) for tokenizer in (ours, theirs))
        assert set(found) == set(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (ours.mask_token, ours.cls_token_id, ours.pad_token_type_id) == (None, None, 0)


def test_a_trainer_of_transformers_saves_it(tmp_path: Path) -> None:
    from transformers import DataCollatorForLanguageModeling, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "tiny", pad_token="</s>")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    arguments = TrainingArguments(str(tmp_path), max_steps=1, save_steps=1, report_to=[], use_cpu=True)
    Trainer(
        model,
        arguments,
        DataCollatorForLanguageModeling(tokenizer, mlm=False),
        [tokenizer(text) for text in ("Once upon a time", "there was")],
        processing_class=tokenizer,
    ).train()
    found = AutoTokenizer.from_pretrained(tmp_path / "checkpoint-1")
    assert found.encode("Once upon") == tokenizer.encode("Once upon") and found.pad_token == "</s>"


# names of earlier editions -------------------------------------------------------------------------------------------


def test_encode_plus_and_its_kin(tokenizer: Any) -> None:
    options = {"truncation": True, "max_length": 4}
    assert tokenizer.encode_plus("hello world is", "the", **options) == tokenizer("hello world is", "the", **options)
    assert tokenizer.encode_plus(["hello", "world"], is_split_into_words=True) == tokenizer("hello world")
    assert tokenizer.encode_plus([5, 6]) == tokenizer.prepare_for_model([5, 6])
    assert tokenizer.batch_encode_plus(["hello", "the"]) == tokenizer(["hello", "the"])
    pairs = tokenizer.batch_encode_plus([("hello", "the"), ["a", "is"]])
    assert pairs == tokenizer(["hello", "a"], ["the", "is"])
    assert tokenizer.encode(["hello", "the"]) == tokenizer.batch_encode(["hello", "the"])
    assert tokenizer.tokenize("hello", "the") == ["▁hello", "▁the"]
    targets = tokenizer("hello", text_target="the world is", max_target_length=3, truncation=True, max_length=9)
    assert targets.labels == tokenizer.encode("the world") and targets.input_ids == tokenizer.encode("hello")
    assert tokenizer(text_target="the") == tokenizer("the")


ids = st.lists(st.integers(3, 400), max_size=9)


@settings(max_examples=200, deadline=None)
@given(
    ids,
    st.one_of(st.none(), ids),
    st.sampled_from([False, True, "only_first", "only_second"]),
    st.integers(3, 12),
    st.integers(0, 3),
    st.sampled_from(["left", "right"]),
)
@example(first=[3, 3], second=[], truncation=True, length=3, stride=0, side="left")
def test_preparing_ids_as_transformers_does(
    models: Models, first: list[int], second: list[int] | None, truncation: Any, length: int, stride: int, side: str
) -> None:
    from transformers.tokenization_python import PythonBackend

    ours = LlamaTokenizer(models.model("plain"), pad_token="</s>", truncation_side=side)
    theirs = _Bare(PythonBackend, side)
    too_much = truncation is True and second is not None
    options: dict[str, Any] = {"truncation": truncation, "max_length": length if truncation else None}
    options |= {"stride": stride, "return_overflowing_tokens": not too_much, "return_special_tokens_mask": True}
    try:
        found = ours.prepare_for_model(first, second, **options)
    except TokenizerError as error:
        assert re.search("no room|needs a text_pair", str(error))
        return
    expected = dict(theirs.prepare_for_model(list(first), None if second is None else list(second), **options))
    if too_much:  # deliberate difference: as calls, which cut both of a pair evenly
        # Theirs cuts one id more than it must beside a pair that is empty.
        assert len(found.input_ids) == (len(expected["input_ids"]) if second else min(length, len(first) + 2))
        return
    assert found == {**expected, "attention_mask": [1] * len(found.input_ids)}


class _Bare:
    """The part of transformers' Python tokenizers that prepares ids, with a Llama's special tokens."""

    model_input_names = ("input_ids",)

    def __init__(self, backend: Any, side: str) -> None:
        self.backend, self.truncation_side = backend, side
        self.pad_token, self.pad_token_id, self.model_max_length = "</s>", 2, int(1e30)

    def prepare_for_model(self, *given: Any, **options: Any) -> Any:
        return self.backend.prepare_for_model(self, *given, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name).__get__(self)

    def num_special_tokens_to_add(self, pair: bool) -> int:
        return 2 if pair else 1

    def build_inputs_with_special_tokens(self, first: list[int], second: list[int] | None) -> list[int]:
        return [1, *first] if second is None else [1, *first, 1, *second]

    def create_token_type_ids_from_sequences(self, first: list[int], second: list[int] | None) -> list[int]:
        return []

    def get_special_tokens_mask(self, first: list[int], second: list[int] | None) -> list[int]:
        return [1, *[0] * len(first), *([] if second is None else [1, *[0] * len(second)])]


# decoding several ----------------------------------------------------------------------------------------------------


def test_decoding_several_rows(pair: tuple[Any, Any]) -> None:
    import numpy as np
    import torch

    ours, theirs = pair
    rows = [ours.encode("hello world"), ours.encode("the is")]
    for several in (rows, np.array(rows), torch.tensor(rows), [torch.tensor(row) for row in rows], tuple(rows)):
        assert ours.decode(several) == ours.batch_decode(several) == theirs.decode(rows)
    assert ours.decode([[5], []], skip_special_tokens=True) == theirs.decode([[5], []], skip_special_tokens=True)
    assert ours.batch_decode(rows[0]) == theirs.batch_decode(rows[0]) == [ours.decode(torch.tensor(rows[0]))]
    assert ours.decode(ours("hello world")) == ours.decode(rows[0]) and ours.decode([]) == ""
    with pytest.raises(TokenizerError, match="rows of token ids, got 5"):
        ours.batch_decode(5)


# attributes and the Hub ----------------------------------------------------------------------------------------------


def test_attributes(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    ours.model_max_length = theirs.model_max_length = int(1e30)
    for name in (
        *("all_special_ids", "all_special_tokens", "special_tokens_map", "model_max_length", "is_fast", "vocab"),
        *(
            "max_len_single_sentence",
            "max_len_sentences_pair",
            "pad_token_type_id",
            "padding_side",
            "extra_special_tokens",
        ),
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert list(ours.model_input_names) == theirs.model_input_names
    ours.additional_special_tokens = ["<more>"]
    assert ours.extra_special_tokens == ["<more>"] and ours.convert_tokens_to_ids("<more>") == len(ours) - 1


def test_pushing_without_a_network_is_one_line(tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POLYLLAMA_OFFLINE", "1")
    for call in (
        lambda: tokenizer.push_to_hub("somebody/something"),
        lambda: tokenizer.save_pretrained(tmp_path, push_to_hub=True, repo_id="somebody/something"),
    ):
        with pytest.raises(DownloadError, match=r"^somebody/something .*offline[^\n]*$"):
            call()
    with pytest.raises(TokenizerError, match="repo_id has no effect without push_to_hub=True"):
        tokenizer.save_pretrained(tmp_path, repo_id="a/b")

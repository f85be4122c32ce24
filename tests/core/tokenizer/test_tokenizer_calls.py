"""Rows for a model, special tokens, and the names the reference documentation has."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama.core.errors import InputError, PolyllamaWarning, TokenizerError
from polyllama.core.tokenizer.batch_encoding import BatchEncoding
from polyllama.core.tokenizer.engines.added_tokens import AddedToken
from polyllama.core.tokenizer.llama_tokenizer import LlamaTokenizer, LlamaTokenizerFast, load_tokenizer
from polyllama.core.tokenizer.tokenizer import Tokenizer
from tokenizer_models import WORDS, Models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(params=[LlamaTokenizer, LlamaTokenizerFast])
def tokenizer(models: Models, request: pytest.FixtureRequest) -> Any:
    return request.param(models.model("plain"), pad_token="</s>")


@pytest.fixture(scope="session")
def pair_of_tokenizers(models: Models) -> tuple[Tokenizer, Any]:
    """Ours and transformers' for one tokenizer.json, with left and right padding alike."""
    from transformers import PreTrainedTokenizerFast

    folder = models.llama3()
    theirs = PreTrainedTokenizerFast.from_pretrained(folder, pad_token="<|end_of_text|>")
    return load_tokenizer(folder, pad_token="<|end_of_text|>"), theirs


texts = st.lists(st.sampled_from([*WORDS, " ", " "]), max_size=8).map("".join)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(texts, texts), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from(["left", "right"]),
    st.sampled_from(["left", "right"]),
    st.sampled_from([False, True, "max_length"]),
    st.sampled_from([False, True, "only_first", "only_second"]),
    st.integers(2, 14),
    st.booleans(),
    st.sampled_from([None, 4]),
    st.booleans(),
)
def test_rows_are_those_of_transformers(
    pair_of_tokenizers: tuple[Tokenizer, Any],
    samples: list[tuple[str, str]],
    paired: bool,
    pad_side: str,
    cut_side: str,
    padding: bool | str,
    truncation: bool | str,
    length: int,
    special: bool,
    multiple: int | None,
    single: bool,
) -> None:
    ours, theirs = pair_of_tokenizers
    if single and paired and not samples[0][1]:
        return  # Deliberate difference: transformers forgets a second text that is empty, only when not in a list.
    if (truncation == "only_second" and not paired) or (truncation and padding and multiple and length % multiple):
        return
    first: Any = [a for a, _ in samples]
    second: Any = [b for _, b in samples] if paired else None
    if single:
        first, second = first[0], second[0] if paired else None
    options: dict[str, Any] = {
        "add_special_tokens": special,
        "padding": padding,
        "truncation": truncation,
        "return_token_type_ids": True,
        "return_special_tokens_mask": True,
        "return_offsets_mapping": True,
    }
    if truncation or padding == "max_length":
        options["max_length"] = length
    if padding:
        options |= {"pad_to_multiple_of": multiple, "padding_side": pad_side}
    theirs.truncation_side = ours.truncation_side = cut_side
    try:
        mine = ours(first, second, **options)
    except TokenizerError as error:
        # Deliberate difference: where one text alone exceeds the length, transformers returns rows that are too long or
        # fails inside its library.
        assert "no room" in str(error)
        return
    expected = theirs(first, second, **options)
    assert set(mine) == set(expected)
    for key in expected:
        value = expected[key]
        rows = [value] if single else value
        assert [[tuple(v) if isinstance(v, (list, tuple)) else v for v in row] for row in rows] == (
            [mine[key]] if single else mine[key]
        ), key


@settings(max_examples=100, deadline=None)
@given(texts, st.integers(3, 9), st.integers(0, 1), st.sampled_from(["right", "left"]))
def test_windows_of_long_texts_are_those_of_transformers(
    pair_of_tokenizers: tuple[Tokenizer, Any], text: str, length: int, stride: int, side: str
) -> None:
    ours, theirs = pair_of_tokenizers
    theirs.truncation_side = side
    options = {
        "max_length": length,
        "stride": stride,
        "return_overflowing_tokens": True,
        "return_offsets_mapping": True,
    }
    expected = theirs([text], truncation=True, **options)
    mine = ours([text], truncation=True, truncation_side=side, **options)
    if side == "right":
        assert mine.input_ids == expected["input_ids"]
        assert mine.overflow_to_sample_mapping == expected["overflow_to_sample_mapping"]
        assert mine.offset_mapping == [[tuple(pair) for pair in row] for row in expected["offset_mapping"]]
    assert len(mine.input_ids) == len(expected["input_ids"])
    seen = {pair for row in mine.offset_mapping for pair in row}
    assert {pair for pair in ours(text, return_offsets_mapping=True).offset_mapping} <= seen


def test_calls_return_rows_with_attributes(tokenizer: Tokenizer) -> None:
    one = tokenizer("hello world")
    assert one.input_ids == one["input_ids"] == tokenizer.encode("hello world") and one.attention_mask == [1] * len(
        one.input_ids
    )
    assert isinstance(one, BatchEncoding) and isinstance(one, dict)
    with pytest.raises(AttributeError, match="there are input_ids, attention_mask"):
        _ = one.nothing
    rows = tokenizer(["hello", "hello world is"], padding=True, return_tensors="np")
    assert rows.input_ids.dtype == numpy.int64 and rows.input_ids.shape == (2, 4)
    assert rows.input_ids[0].tolist() == [2, 2, *tokenizer.encode("hello")]
    assert rows.attention_mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert tokenizer([]) == {"input_ids": [], "attention_mask": []}
    assert tokenizer("hello", return_tensors="np").input_ids.shape == (1, 2)
    assert tokenizer("", add_special_tokens=False).input_ids == []
    assert tokenizer.batch_encode(["hello", ""]) == [tokenizer.encode("hello"), [1]]
    assert tokenizer.encode("hello world is", truncation=True, max_length=2) == tokenizer.encode("hello")
    padded = tokenizer.pad([{"input_ids": [5]}, {"input_ids": [6, 7]}], padding_side="right")
    assert padded == {"input_ids": [[5, 2], [6, 7]], "attention_mask": [[1, 0], [1, 1]]}


def test_padding_without_a_pad_token_is_an_error_with_the_remedy(models: Models) -> None:
    tokenizer = LlamaTokenizer(models.model("plain"))
    assert tokenizer.pad_token is None and tokenizer.pad_token_id is None
    with pytest.raises(TokenizerError, match=r"no pad token.*pass pad_token="):
        tokenizer(["a", "b c"], padding=True)
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer(["a", "b c"], padding=True).input_ids[0][0] == 2
    with pytest.warns(
        PolyllamaWarning, match=r"pad_token '<pad>' is not in the vocabulary; it becomes id 900, for wh.*row"
    ):
        tokenizer.pad_token = "<pad>"
    assert (tokenizer.pad_token_id, len(tokenizer), tokenizer.vocab_size) == (
        len(tokenizer) - 1,
        len(tokenizer),
        len(tokenizer) - 1,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": 5}, "must be a str"),
        ({"text": b"x"}, "must be a str"),
        ({"text": ["a", 5]}, "must be a str"),
        ({"text": ["a"], "text_pair": "b"}, "list of as many"),
        ({"text": "a", "text_pair": ["b"]}, "must be one too"),
        ({"text": "a", "padding": "longst"}, "padding='longst'"),
        ({"text": "a", "truncation": 7}, "truncation=7"),
        ({"text": "a", "truncation": True, "max_length": 0}, "positive integer"),
        ({"text": "a", "truncation": True, "max_length": "4"}, "positive integer"),
        ({"text": "a", "return_tensors": "tf"}, "names no framework; there are 'pt', 'np', 'jax' and 'mlx'"),
        ({}, "needs a text"),
        ({"text": [["a", "b", "c"]]}, "is_split_into_words=True"),
        ({"text": "a", "is_split_into_words": True}, "leave out is_split_into_words"),
        ({"text": ["a", "a b c"], "return_tensors": "np"}, "pass padding=True"),
        ({"text": "a", "padding": True, "padding_side": "top"}, "'left' or 'right'"),
        ({"text": "a b c d", "truncation": "only_second", "max_length": 2}, "needs a text_pair"),
        (
            {"text": "a b c d", "truncation": True, "max_length": 3, "stride": 2, "return_overflowing_tokens": True},
            "stride 2",
        ),
    ],
)
def test_wrong_arguments_are_errors_with_a_remedy(
    tokenizer: Tokenizer, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises((InputError, TokenizerError), match=message):
        tokenizer(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.convert_ids_to_tokens("ab"), "token ids must be integers, got 'ab'"),
        (lambda t: t.convert_ids_to_tokens(1.5), "token ids must be integers, got 1.5"),
        (lambda t: t.convert_ids_to_tokens([1.5]), "token ids must be integers, got 1.5"),
        (lambda t: t.convert_ids_to_tokens(None), "token ids must be integers, got None"),
        (lambda t: t.convert_tokens_to_ids(None), "tokens must be a str or a list of them, got None"),
        (lambda t: t.convert_tokens_to_ids(["a", 3]), "tokens must be a str or a list of them, got 3"),
        (lambda t: t.convert_tokens_to_ids(b"a"), "tokens must be a str or a list of them"),
        (lambda t: t.pad([{"input_ids": [1], "attention_mask": [1]}, {"input_ids": [1]}]), "row 1 has input_ids, the"),
        (lambda t: t.pad([{"attention_mask": [1]}]), "pad takes input_ids"),
        (lambda t: t.pad({"input_ids": [[1, [2]]]}), r"row 0 of input_ids must be a list of ids"),
        (lambda t: t.pad({"input_ids": 3}), "must be a list of rows of ids"),
        (lambda t: t.pad({"input_ids": [[1]], "attention_mask": []}), "differ in length"),
        (lambda t: t.pad({"input_ids": [[1]], "attention_mask": [[1, 1]]}), "differ in length"),
        (lambda t: t.pad([[1, 2]]), "pad takes a mapping of rows or a list of mappings"),
        (lambda t: t.pad(None), "pad takes a mapping of rows or a list of mappings"),
        (lambda t: t("a b c", truncation=True, max_length=3, stride=-1), "stride must be 0 or a positive integer"),
        (lambda t: t("a b c", stride=1.5), "stride must be 0 or a positive integer"),
    ],
)
def test_mistakes_are_never_raw_exceptions(tokenizer: Tokenizer, call: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        call(tokenizer)


def test_special_tokens_around_sequences(models: Models, tokenizer: Tokenizer) -> None:
    assert tokenizer.build_inputs_with_special_tokens([5, 6], [7]) == [1, 5, 6, 1, 7]
    tokenizer.add_eos_token = True
    assert tokenizer.build_inputs_with_special_tokens([5, 6], [7]) == [1, 5, 6, 2, 1, 7, 2]
    assert tokenizer.get_special_tokens_mask([5, 6], [7]) == [1, 0, 0, 1, 1, 0, 1]
    assert tokenizer.get_special_tokens_mask([1, 6, 2], already_has_special_tokens=True) == [1, 0, 1]
    assert tokenizer.create_token_type_ids_from_sequences([5, 6], [7]) == [0, 0, 0, 0, 1, 1, 1]
    assert tokenizer.create_token_type_ids_from_sequences([5]) == [0, 0, 0]
    assert (tokenizer.num_special_tokens_to_add(), tokenizer.num_special_tokens_to_add(pair=True)) == (2, 4)
    tokenizer.add_bos_token = False
    assert tokenizer.encode("hello") == [*tokenizer.encode("hello", add_special_tokens=False), 2]
    tokenizer.add_bos_token = True
    tokenizer.bos_token = "</s>"
    tokenizer.update_post_processor()
    assert tokenizer.encode("hello")[0] == 2
    tokenizer.bos_token = None
    assert tokenizer.encode("") == [2] and not tokenizer.add_bos_token
    with pytest.raises(TokenizerError, match="there is no bos_token"):
        tokenizer.add_bos_token = True


def test_changing_bos_replaces_the_template_of_a_tokenizer_json(models: Models) -> None:
    tokenizer = load_tokenizer(models.llama3())
    assert tokenizer.add_bos_token and not tokenizer.add_eos_token
    assert tokenizer.build_inputs_with_special_tokens([5], [6]) == [
        tokenizer.bos_token_id,
        5,
        tokenizer.bos_token_id,
        6,
    ]
    tokenizer.bos_token = "<|eot_id|>"
    assert tokenizer.encode("hello")[0] == tokenizer.eos_token_id
    tokenizer = load_tokenizer(models.llama3(), add_eos_token=True)
    ids = tokenizer.encode("hello")
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert load_tokenizer(models.llama3(), add_bos_token=False).encode("hello") == ids[1:-1]


def test_tokens_and_ids(models: Models, tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.get_vocab()
    assert len(vocabulary) == len(tokenizer) == tokenizer.vocab_size == len(models.processor("plain"))
    assert tokenizer.convert_ids_to_tokens([1, 2, 5]) == ["<s>", "</s>", "<0x02>"]
    assert tokenizer.convert_ids_to_tokens([1, 2, 5], skip_special_tokens=True) == ["<0x02>"]
    assert tokenizer.convert_tokens_to_ids(["<s>", "no such token"]) == [1, tokenizer.unk_token_id] == [1, 0]
    tokens = tokenizer.tokenize("hello world")
    assert tokens == ["▁hello", "▁world"] and tokenizer.convert_tokens_to_string(tokens) == "hello world"
    assert [vocabulary[token] for token in tokens] == tokenizer.convert_tokens_to_ids(tokens)
    with pytest.raises(TokenizerError, match="'nope' is not in the vocabulary"):
        tokenizer.convert_tokens_to_string(["nope"])
    assert tokenizer.all_special_ids == [1, 2, 0] and tokenizer.all_special_tokens == ["<s>", "</s>", "<unk>"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id) == (
        1,
        2,
        0,
        2,
    )


def test_adding_tokens(tokenizer: Tokenizer) -> None:
    size = len(tokenizer)
    assert tokenizer.add_tokens(["<new>", "▁hello", "<s>"]) == 1
    assert tokenizer.add_tokens("<new>") == 0
    assert (
        tokenizer.add_special_tokens(
            {"pad_token": "<pad>", "additional_special_tokens": ["<a>", AddedToken("<b>", lstrip=True)]}
        )
        == 3
    )
    assert (tokenizer.pad_token_id, len(tokenizer), tokenizer.vocab_size) == (size + 1, size + 4, size)
    assert tokenizer.tokenize("x <new>y  <b>") == ["▁", "x", "▁", "<new>", "y", "<b>"]
    assert tokenizer.additional_special_tokens == ["<a>", "<b>"]
    ids = tokenizer.encode("x<new><a>", add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "x<new>"
    assert tokenizer.get_added_vocab()["<b>"] == size + 3 and tokenizer.get_vocab()["<a>"] == size + 2
    tokenizer.eos_token_id = size + 2
    assert tokenizer.eos_token == "<a>"
    for wrong, message in (
        ({"bos": "x"}, "no special token role"),
        ({"pad_token": 5}, "string"),
        ({"pad_token": ""}, "empty"),
    ):
        with pytest.raises(TokenizerError, match=message):
            tokenizer.add_special_tokens(wrong)


@pytest.mark.parametrize("cls", [LlamaTokenizer, LlamaTokenizerFast])
def test_constructor_arguments(models: Models, cls: Any) -> None:
    path = models.model("plain")
    tokenizer = cls(
        path,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        sp_model_kwargs={},
        add_bos_token=False,
        add_eos_token=True,
        clean_up_tokenization_spaces=True,
        use_default_system_prompt=True,
        spaces_between_special_tokens=True,
        legacy=True,
        add_prefix_space=False,
        model_max_length=int(1e30),
        padding_side="right",
    )
    assert tokenizer.encode("hello .") == [*models_bare(models, "hello ."), 2]
    assert tokenizer.decode(tokenizer.encode("hello .")) == "hello. </s>"
    assert (tokenizer.legacy, tokenizer.add_prefix_space, tokenizer.model_max_length, tokenizer.padding_side) == (
        True,
        False,
        int(1e30),
        "right",
    )
    with pytest.raises(TokenizerError, match=r"unknown argument ad_bos_token=False; did you mean 'add_bos_token'"):
        cls(path, ad_bos_token=False)
    with pytest.raises(TokenizerError, match="padding_side must be 'left' or 'right'"):
        cls(path, padding_side="middle")
    with pytest.raises(TokenizerError, match="add_bos_token must be true"):
        cls(path, add_bos_token="yes")
    with pytest.warns(PolyllamaWarning, match=r"eos_token '<\|im_end\|>' is not in the vocabulary"):
        assert cls(path, eos_token="<|im_end|>").eos_token_id == len(models.processor("plain"))
    with pytest.raises(TokenizerError, match=r"text_pair is False, which is no text; pass add_special_tokens=False"):
        cls(path).encode("a", False)
    with pytest.raises(TokenizerError, match=r"add_special_tokens must be true or false.*text_pair"):
        cls(path).encode("a", add_special_tokens="b")


def models_bare(models: Models, text: str) -> list[int]:
    """Ids without a prefix: those of the text after a newline, which is always a byte of its own."""
    ids = models.processor("plain").encode("\n" + text)
    return ids[2:]


def test_own_special_tokens_of_a_model_are_taken_where_llamas_are_missing(tmp_path: Any) -> None:
    from tokenizer_models import train

    path = train(tmp_path / "own.model", bos_piece="<begin>", eos_piece="<end>", vocab_size=400)
    for cls in (LlamaTokenizer, LlamaTokenizerFast):
        tokenizer = cls(path)
        assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.bos_token_id) == ("<begin>", "<end>", 1)
    path = train(tmp_path / "none.model", bos_id=-1, eos_id=-1, vocab_size=400)
    for cls in (LlamaTokenizer, LlamaTokenizerFast):
        tokenizer = cls(path)
        assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.add_bos_token) == (None, None, False)
        assert tokenizer.encode("hello") == tokenizer.encode("hello", add_special_tokens=False)

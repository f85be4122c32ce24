"""What a tokenizer is given that it cannot take: one line that names the argument, whatever the value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from polyllama import AddedToken, AutoTokenizer, LlamaForCausalLM, LlamaTokenizer, LlamaTokenizerFast
from polyllama.core.errors import InputError, PolyllamaError, PolyllamaWarning, TokenizerError
from polyllama.core.tokenizer.behaviour import KNOWN_ARGUMENTS
from tiny_models import BACKENDS

WRONG = [5, 1.5, b"", b"x", object(), [5], [None], {"a": 5}, {5: "a"}, Path("README.md"), "\ud800", -1, float("nan")]
TAKEN = {
    "model_max_length": [5],
    "name_or_path": ["\ud800"],
    "chat_template": ["\ud800"],
    "vocab_file": [{"a": 5}],
}


@pytest.mark.parametrize("load", [LlamaTokenizer, LlamaTokenizerFast, AutoTokenizer])
@pytest.mark.parametrize("name", [*KNOWN_ARGUMENTS, "use_fast", "subfolder", "revision", "local_files_only"])
@pytest.mark.filterwarnings("ignore::polyllama.PolyllamaWarning")
def test_every_argument_says_what_it_cannot_be(load: Any, name: str) -> None:
    if name == "use_fast" and load is not AutoTokenizer:
        pytest.skip("of AutoTokenizer alone")
    for value in WRONG:
        if any(value is taken or value == taken for taken in TAKEN.get(name, ())):
            load.from_pretrained("tiny", **{name: value})
            continue
        with pytest.raises(PolyllamaError) as caught:
            load.from_pretrained("tiny", **{name: value})
        assert "\n" not in str(caught.value), (value, str(caught.value))


@pytest.mark.parametrize("made", [LlamaTokenizer, LlamaTokenizerFast])
@pytest.mark.parametrize("name", [name for name in KNOWN_ARGUMENTS if name not in (*TAKEN, "vocab")])
def test_so_do_constructors(made: Any, name: str) -> None:
    for value in WRONG:
        with pytest.raises(PolyllamaError) as caught:
            made(**{name: value})
        assert "\n" not in str(caught.value), (value, str(caught.value))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"additional_special_tokens": 5}, "additional_special_tokens must be a list of tokens, got 5"),
        ({"additional_special_tokens": "<a>"}, "additional_special_tokens must be a list of tokens, got '<a>'"),
        ({"extra_special_tokens": {"image_token": "<image>"}}, "extra_special_tokens is a dict, .*list of its values"),
        ({"added_tokens_decoder": {"a": "<x>"}}, "added_tokens_decoder: a token id must be a whole number"),
        ({"legacy": 5}, "legacy must be true, false or None, got 5"),
        ({"sp_model_kwargs": 5}, "sp_model_kwargs must be a mapping, got 5"),
        ({"model_max_length": 1.5}, "model_max_length must be a whole number, got 1.5"),
        ({"pad_token": "\ud800"}, "pad_token holds the lone surrogate"),
    ],
)
def test_the_message_names_it(options: dict[str, Any], message: str) -> None:
    for load in (LlamaTokenizer, LlamaTokenizerFast, AutoTokenizer):
        with pytest.raises(TokenizerError, match=message):
            load.from_pretrained("tiny", **options)


def test_what_asks_for_nothing_is_taken() -> None:
    plain = AutoTokenizer.from_pretrained("tiny")
    for options in ({"extra_special_tokens": {}}, {"additional_special_tokens": []}, {"added_tokens_decoder": None}):
        assert len(AutoTokenizer.from_pretrained("tiny", **options)) == len(plain)
    more = AutoTokenizer.from_pretrained("tiny", added_tokens_decoder={str(len(plain)): AddedToken("<x>")})
    assert more.encode("<x>", add_special_tokens=False) == [len(plain)]


def test_no_name_of_ours_is_an_argument() -> None:
    for name in ("kept", "clean_up_unheeded"):
        with pytest.warns(PolyllamaWarning, match=f"{name}=5 is no argument of a tokenizer"):
            assert LlamaTokenizer.from_pretrained("tiny", **{name: 5}).init_kwargs[name] == 5


@pytest.mark.parametrize("load", [LlamaTokenizer, LlamaTokenizerFast, AutoTokenizer])
def test_a_role_beyond_the_vocabulary_is_said_once(load: Any) -> None:
    rows = len(load.from_pretrained("tiny"))
    wanted = f"pad_token '\\[PAD\\]' is not in the vocabulary; it becomes id {rows}, .*resize_token_embeddings"
    with pytest.warns(PolyllamaWarning, match=wanted) as said:
        tokenizer = load.from_pretrained("tiny", pad_token="[PAD]")
    assert len(said) == 1 and tokenizer.pad_token_id == rows
    with pytest.warns(PolyllamaWarning, match=f"'<a>', sep_token '<b>' are .* ids {rows}, {rows + 1}, "):
        load.from_pretrained("tiny", pad_token="<a>", sep_token="<b>")
    assert load.from_pretrained("tiny", pad_token="</s>").pad_token_id == 2  # nothing is said, as in what follows
    tokenizer.pad_token = "[PAD]"
    assert tokenizer.add_special_tokens({"pad_token": "<c>"}) == 1  # which says itself how many rows are missing


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_id_is_refused_until_the_embedding_has_its_row(backend: str) -> None:
    model = LlamaForCausalLM.from_pretrained("tiny", backend=backend)
    with pytest.warns(PolyllamaWarning, match="pad_token"):
        tokenizer = AutoTokenizer.from_pretrained("tiny", pad_token="[PAD]")
    ids = tokenizer(["Once", "Once upon a time"], padding=True, return_tensors="pt" if backend == "torch" else "np")
    with pytest.raises(InputError, match=r"^input_ids\[0, 0\] is 1792, outside the vocabulary of 1792 \(0 to 1791\)$"):
        model(**ids)
    with pytest.raises(InputError, match=r"^input_ids\[0, 0\] is 1792, outside the vocabulary"):
        model.generate(**ids, max_new_tokens=1)
    model.resize_token_embeddings(len(tokenizer))
    assert model(**ids).logits.shape == (2, 5, 1793)

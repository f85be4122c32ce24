"""What a tokenizer returns: arrays of every framework, and the way from ids to tokens, characters and words."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama import AddedToken, BatchEncoding, LlamaTokenizer, LlamaTokenizerFast
from polyllama.core.errors import InputError, PolyllamaWarning, TokenizerError
from support_processes import run_process
from tokenizer_models import WORDS, Models, any_text

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="session")
def theirs(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the tokenizers library makes of the `plain` model, read by transformers."""
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("saved")
    LlamaTokenizerFast(models.model("plain"), legacy=True, pad_token="</s>").save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.fixture(params=[LlamaTokenizer, LlamaTokenizerFast])
def tokenizer(models: Models, request: pytest.FixtureRequest) -> Any:
    return request.param(models.model("plain"), pad_token="</s>", legacy=True)


@pytest.fixture(scope="session")
def both(models: Models) -> tuple[Any, Any]:
    path = models.model("plain")
    options: dict[str, Any] = {"pad_token": "</s>", "legacy": True}
    return LlamaTokenizer(path, **options), LlamaTokenizerFast(path, **options)


# from ids to texts ---------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(any_text, st.one_of(st.none(), any_text.filter(bool)), st.integers(0, 30), st.sampled_from(["left", "right"]))
def test_tokens_characters_and_words_are_those_of_transformers(
    both: tuple[Any, Any], theirs: Any, text: str, pair: str | None, index: int, side: str
) -> None:
    options: dict[str, Any] = {"padding": "max_length", "max_length": 40, "truncation": True, "padding_side": side}
    expected = theirs([text], None if pair is None else [pair], **options)
    for ours in both:
        found = ours([text], None if pair is None else [pair], **options)
        assert found.input_ids == expected["input_ids"]
        assert (found.tokens(), found.sequence_ids(), found.word_ids()) == (
            expected.tokens(),
            expected.sequence_ids(),
            expected.word_ids(),
        )
        assert found.n_sequences == expected.n_sequences
        for ask in ("token_to_word", "token_to_sequence"):
            assert getattr(found, ask)(0, index) == getattr(expected, ask)(0, index), ask
        texts = range(1 if pair is None else 2)
        assert [found.word_to_tokens(0, index, text) for text in texts] == [
            expected.word_to_tokens(0, index, text) for text in texts
        ]
        # Deliberate difference: a space that is put before a text stands for none of its characters, and where it is a
        # token of its own transformers gives it the first.
        alone = [i for i, (start, end) in enumerate(found[0].offsets) if start == end]
        same = [pair for i, pair in enumerate(expected[0].offsets) if i not in alone]
        assert [pair for i, pair in enumerate(found[0].offsets) if i not in alone] == same
        assert all(found.tokens()[i] == "▁" or found.sequence_ids()[i] is None for i in alone)
        if not any(found.tokens()[i] == "▁" for i in alone):
            assert found.token_to_chars(0, index) == expected.token_to_chars(0, index)
            for ask in ("char_to_token", "char_to_word"):
                assert [getattr(found, ask)(0, index, text) for text in texts] == [
                    getattr(expected, ask)(0, index, text) for text in texts
                ]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6), st.booleans())
def test_texts_in_words(both: tuple[Any, Any], theirs: Any, words: list[str], paired: bool) -> None:
    options: dict[str, Any] = {"is_split_into_words": True, "return_offsets_mapping": True}
    pair = ["hello", "world"] if paired else None
    expected = theirs(words, pair, **options)
    for ours in both:
        found = ours(words, pair, **options)
        assert found.input_ids == expected["input_ids"] and found.word_ids() == expected.word_ids()
        assert all(
            mine == other or (mine == (0, 0) and token == "▁")  # as above
            for mine, other, token in zip(found.offset_mapping, expected["offset_mapping"], found.tokens(), strict=True)
        )
        assert found.word_to_chars(0) == expected.word_to_chars(0)
        assert ours([words], [pair] if pair else None, **options).input_ids == [found.input_ids]


def test_indices_and_slices(tokenizer: Any) -> None:
    batch = tokenizer(["hello world", "the"])
    assert batch[1].ids == batch.input_ids[1] and batch[-1].tokens == batch.tokens(1)
    assert batch[1:] == {"input_ids": batch.input_ids[1:], "attention_mask": batch.attention_mask[1:]}
    assert batch.word_to_chars(0, 9) is batch.token_to_chars(99) is batch.char_to_word(99) is None
    assert batch.token_to_chars(0) is None and batch.token_to_chars(-1) == batch.token_to_chars(0, 2) == (5, 11)
    assert batch.is_fast and tokenizer.is_fast and len(batch.encodings) == 2
    with pytest.raises(TokenizerError, match="no row 2: the batch has 2 rows"):
        batch.tokens(2)
    bare = BatchEncoding({"input_ids": [[1]]})
    assert not bare.is_fast and bare.encodings is None and bare.n_sequences is None
    with pytest.raises(TokenizerError, match="put together from columns"):
        bare.tokens()
    with pytest.raises(AttributeError, match="no 'labels' here; there are input_ids"):
        _ = bare.labels


def test_a_model_that_normalizes_has_words_and_tokens_but_no_characters(models: Models) -> None:
    batch = LlamaTokenizer(models.model("nfkc"))("hello world")
    assert batch.word_ids()[1:] == [0] * (len(batch.input_ids) - 1) and batch.tokens()[0] == "<s>"
    for one in (batch, pickle.loads(pickle.dumps(batch))):
        assert one.tokens() == batch.tokens()
        with pytest.raises(TokenizerError, match="its tokens have no offsets"):
            one.char_to_token(0)


def test_copies(tokenizer: Any) -> None:
    batch = tokenizer("hello <s>world 🦙", "x")
    for one in (copy.copy(batch), copy.deepcopy(batch), pickle.loads(pickle.dumps(batch)), batch.copy()):
        assert type(one) is BatchEncoding and one == batch and one.tokens() == batch.tokens()
        assert one[0].offsets == batch[0].offsets and one.word_ids() == batch.word_ids() and one.n_sequences == 2
    assert isinstance(batch, Mapping) and {**batch} == dict(batch) == batch.data
    batch.data = {"a": 1}
    assert batch == {"a": 1} and BatchEncoding(a=1) == batch


# arrays --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "module", "dtype"),
    [("pt", "torch", "int64"), ("np", "numpy", "int64"), ("jax", "jax", "int32"), ("mlx", "mlx", "int32")],
)
def test_arrays_of_every_framework(tokenizer: Any, kind: str, module: str, dtype: str) -> None:
    rows = tokenizer(["hello", "hello world is"], padding=True)
    found = tokenizer(["hello", "hello world is"], padding=True, return_tensors=kind)
    for name, values in rows.items():
        array = found[name]
        assert type(array).__module__.startswith(module) and str(array.dtype).endswith(dtype)
        assert np.asarray(array).tolist() == values
    one = tokenizer.encode("hello", return_tensors=kind)
    assert tuple(one.shape) == (1, len(tokenizer.encode("hello"))) and type(one) is type(found.input_ids)
    assert type(tokenizer.pad([{"input_ids": [1]}, {"input_ids": [1, 5]}], return_tensors=kind).input_ids) is type(one)
    assert type(tokenizer.prepare_for_model([5, 6], return_tensors=kind).input_ids) is type(one)
    assert (
        tokenizer.decode(found.input_ids) == tokenizer.batch_decode(found.input_ids) == tokenizer.decode(rows.input_ids)
    )
    chat = {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}", "return_tensors": kind}
    assert type(tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], **chat)) is type(one)
    with pytest.raises(TokenizerError, match="rows of input_ids have different lengths"):
        tokenizer(["hello", "hello world is"], return_tensors=kind)


def test_transformers_own_names_of_frameworks(tokenizer: Any) -> None:
    from transformers.tokenization_utils_base import TruncationStrategy
    from transformers.utils import PaddingStrategy, TensorType

    found = tokenizer(
        ["hello world", "the"],
        padding=PaddingStrategy.MAX_LENGTH,
        truncation=TruncationStrategy.LONGEST_FIRST,
        max_length=2,
        return_tensors=TensorType.PYTORCH,
    )
    assert found.input_ids.tolist() == tokenizer(["hello", "the"]).input_ids


def test_moving_arrays(tokenizer: Any) -> None:
    import jax
    import torch

    batch = tokenizer("hello", return_tensors="pt")
    assert batch.to("meta") is batch and batch.input_ids.device == torch.device("meta")
    batch = tokenizer("hello", return_tensors="pt").to(torch.device("cpu"))
    batch["text"] = "hello"
    assert batch.to(device="cpu", non_blocking=True)["text"] == "hello" and batch.input_ids.device.type == "cpu"
    there = tokenizer("hello", return_tensors="jax")
    assert there.to(jax.devices()[0]).to("cpu").input_ids.devices() == {jax.devices("cpu")[0]}
    assert tokenizer("hello", return_tensors="mlx").to("gpu") and tokenizer("hello", return_tensors="np").to("cpu")
    for wrong, device, message in (
        (tokenizer("hello"), "cuda", "holds lists.*return_tensors='pt'"),
        (tokenizer("hello", return_tensors="np"), "cuda", "holds NumPy arrays"),
        (batch, torch.float16, "that is a type"),
        (there, "tpu", "JAX has no device 'tpu' here; it has cpu"),
    ):
        with pytest.raises(InputError, match=message):
            wrong.to(device)


def test_converting_columns() -> None:
    import torch

    batch = BatchEncoding({"input_ids": [1, 2], "labels": 0.5}, tensor_type="pt", prepend_batch_axis=True)
    assert batch.input_ids.tolist() == [[1, 2]] and batch.labels.dtype == torch.float32
    mixed = BatchEncoding({"input_ids": [np.array([1, 2]), torch.tensor([3, 4])]}).convert_to_tensors("pt")
    assert torch.equal(mixed.input_ids, torch.tensor([[1, 2], [3, 4]]))
    assert BatchEncoding({"input_ids": []}, tensor_type="np").input_ids.dtype == np.int64
    with pytest.raises(TokenizerError, match=r"names holds .*makes no array"):
        BatchEncoding({"names": ["a", "b"]}, tensor_type="np")


def test_a_text_without_arrays_loads_no_framework() -> None:
    code = (
        "import sys\nfrom polyllama import AutoTokenizer\nAutoTokenizer.from_pretrained('tiny')('Once').tokens()\n"
        "print([name for name in ('torch', 'jax', 'mlx', 'transformers') if name in sys.modules])"
    )
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_added_tokens_of_every_library_are_taken(models: Models) -> None:
    import tokenizers
    import transformers

    for kind in (AddedToken, tokenizers.AddedToken, transformers.AddedToken):
        with pytest.warns(PolyllamaWarning, match="pad_token '<pad>' is not in the vocabulary; it becomes id 900"):
            tokenizer = LlamaTokenizer(models.model("plain"), pad_token=kind("<pad>", lstrip=True))
        found = tokenizer.added_tokens_decoder[tokenizer.pad_token_id]
        assert (found.content, found.lstrip, found.rstrip, found.special) == ("<pad>", True, False, True)


def test_made_of_what_is_no_batch() -> None:
    for data in (5, "abc", [1], 3.5):
        with pytest.raises(InputError, match=r"BatchEncoding\(.*\) is made of no columns by name"):
            BatchEncoding(data)  # type: ignore[arg-type]
    assert BatchEncoding([("input_ids", [1])]) == {"input_ids": [1]}  # type: ignore[arg-type]


def test_moving_to_a_device_of_another_framework() -> None:
    """``inputs.to(model.device)`` where it is on MLX's or JAX's: the model fetches the tensors where they are."""
    torch = pytest.importorskip("torch")
    for device in ("gpu", "gpu:1", "tpu"):
        batch = BatchEncoding({"input_ids": torch.tensor([[1]])})
        assert batch.to(device) is batch and batch["input_ids"].device.type == "cpu"
        held = np.array([[1]])
        assert BatchEncoding({"input_ids": held}).to(device)["input_ids"] is held

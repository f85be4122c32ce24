"""Arrays of prompts in, one array out: against transformers' generate, token for token, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from generation_twins import EOS, PAD, VOCAB, wanted
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama import GenerateDecoderOnlyOutput, GenerationConfig, Llama, PolyllamaWarning
from polyllama.core.array_kinds import kind_of, to_kind
from polyllama.core.errors import GenerationError, InputError
from tiny_models import ALL_BACKENDS

pytestmark = pytest.mark.usefixtures("unsaid", "one_thread")
IDS = torch.tensor([[0, 0, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14], [0, 0, 0, 0, 3, 4]])
MASK = (IDS != PAD).long()


@pytest.fixture(scope="module", params=ALL_BACKENDS)
def ours(request, twin_folder):
    return Llama.load(twin_folder, backend=request.param, dtype="float32")


# ---------------------------------------------------------------------------------------------- the same tokens


def options_of(draw: st.DrawFn) -> dict[str, Any]:
    """Any options of greedy decoding that both have."""
    ids = st.integers(0, VOCAB - 1)
    asked: dict[str, Any] = {"max_new_tokens": draw(st.integers(1, 10))}
    if draw(st.booleans()):
        asked = {"max_length": IDS.shape[1] + asked["max_new_tokens"]}
    most = asked.get("max_new_tokens", 0) or asked["max_length"] - IDS.shape[1]
    lists = st.lists(ids, max_size=12)
    for name, values in {
        "repetition_penalty": st.sampled_from([0.7, 1.0, 1.3, 4.0]),
        "bad_words_ids": st.lists(st.lists(ids, min_size=1, max_size=3), min_size=1, max_size=20),
        "suppress_tokens": lists,
        "begin_suppress_tokens": lists,
        "min_new_tokens": st.integers(1, most),
        "min_length": st.integers(0, IDS.shape[1] + most),
        "eos_token_id": st.lists(ids, min_size=1, max_size=12),
        "pad_token_id": st.sampled_from([PAD, 60]),
        "use_cache": st.booleans(),
        "renormalize_logits": st.booleans(),
    }.items():
        if draw(st.booleans()):
            asked[name] = draw(values)
    if "min_new_tokens" in asked:
        asked.pop("min_length", None)
    return asked


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_options_give_transformers_tokens(reference, theirs, data):
    asked = options_of(data.draw)
    mask = data.draw(st.sampled_from([None, MASK]))
    found = reference.generate(IDS, attention_mask=mask, **asked)
    assert found.tolist() == wanted(theirs, IDS, attention_mask=mask, **asked).tolist(), asked


@pytest.mark.parametrize(
    "asked",
    [
        {"max_length": 14},
        {"max_new_tokens": 8, "repetition_penalty": 1.4},
        {"max_new_tokens": 8, "eos_token_id": [4, 8, 16, 24, 32, 40, 48, 56], "pad_token_id": 60},
        {"max_new_tokens": 6, "use_cache": False},
        {"max_new_tokens": 8, "bad_words_ids": [[5], [30, 31]], "suppress_tokens": list(range(20, 40))},
        {"min_length": 12, "max_length": 14, "eos_token_id": list(range(30))},
    ],
    ids=lambda asked: " ".join(asked),
)
def test_every_backend_gives_transformers_tokens(ours, theirs, asked):
    assert ours.generate(IDS, **asked).tolist() == wanted(theirs, IDS, **asked).tolist()


def test_no_ngram_is_repeated_as_in_each_row_alone(reference, theirs):
    """Transformers counts padding among the n-grams of a padded row; here a row gets what it gets alone."""
    asked = {"max_new_tokens": 10, "no_repeat_ngram_size": 2, "eos_token_id": 59}
    found = reference.generate(IDS, attention_mask=MASK, **asked)
    for row, mask, new in zip(IDS, MASK, found[:, IDS.shape[1] :], strict=True):
        assert wanted(theirs, row[mask.bool()][None], **asked)[0, int(mask.sum()) :].tolist() == new.tolist()


def test_padding_on_the_right_stays_and_the_text_goes_on_from_the_prompt(ours, theirs):
    right = torch.tensor([[5, 6, 7, 8, 0, 0], [9, 10, 11, 12, 13, 14]])
    found = ours.generate(right, attention_mask=(right != 0).long(), max_new_tokens=5)
    alone = wanted(theirs, right[:1, :4], max_new_tokens=5)[0, 4:]
    assert found[:, :6].tolist() == right.tolist()
    assert found[0, 6 : 6 + len(alone)].tolist() == alone.tolist()


# ---------------------------------------------------------------------------------------- what comes in goes out


@pytest.mark.parametrize("kind", ["torch", "numpy", "jax", "mlx"])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_kind_and_element_type_go_out_as_they_came(reference, kind, dtype):
    if (kind, dtype) == ("jax", "int64"):
        pytest.skip("JAX has 64 bits only where it was told so")
    array = to_kind(IDS.numpy().astype(dtype), kind)
    found = reference.generate(array, max_new_tokens=4)
    assert kind_of(found) == kind and found.dtype == array.dtype and tuple(found.shape) == (3, 10)
    assert np.array_equal(np.asarray(found), reference.generate(IDS, max_new_tokens=4).numpy())


@pytest.mark.parametrize("name", ["inputs", "input_ids"])
def test_the_array_by_its_documented_names(reference, name):
    found = reference.generate(**{name: IDS}, attention_mask=MASK, max_new_tokens=3)
    assert torch.equal(found, reference.generate(IDS, max_new_tokens=3))
    with pytest.raises(InputError, match="prompts and input_ids are both given"):
        reference.generate(IDS, input_ids=IDS)


@pytest.mark.filterwarnings("ignore:generated texts stay empty")
def test_lists_and_arrays_give_the_same_tokens(reference):
    rows = [row[mask.bool()].tolist() for row, mask in zip(IDS, MASK, strict=True)]
    listed = reference.generate(rows, max_new_tokens=5)
    found = reference.generate(IDS, max_new_tokens=5)[:, IDS.shape[1] :].tolist()
    for result, row in zip(listed, found, strict=True):
        assert row == result.token_ids + [PAD] * (len(row) - len(result.token_ids))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 4), np.int64), r"input_ids is empty \(shape \[0, 4\]\)"),
        (np.zeros((2, 0), np.int64), r"input_ids is empty \(shape \[2, 0\]\)"),
        (np.ones((2, 3), bool), "input_ids holds bool, wanted whole numbers"),
        (np.ones((2, 3)), "input_ids holds float64, wanted whole numbers"),
        (np.array([3, 4]), r"shape \[2\], wanted \[rows, tokens\]"),
        (np.array(3), r"shape \[\]"),
        (np.ones((1, 2, 3), np.int64), r"shape \[1, 2, 3\]"),
        (np.array([[3, VOCAB]]), rf"input_ids\[0, 1\] is {VOCAB}, outside"),
        (np.array([[3, 4], [PAD, PAD]]), "row 1 of the prompts is padding alone"),
    ],
)
def test_arrays_that_are_no_prompts(reference, array, message):
    with pytest.raises(InputError, match=message) as error:
        reference.generate(array, max_new_tokens=2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_mask": torch.zeros(3, 6)}, "attention_mask holds floats"),
        ({"attention_mask": torch.ones(3, 5, dtype=torch.long)}, r"shape \[3, 5\], wanted \[3, 6\]"),
        ({"attention_mask": MASK * 2}, "something other than 0 and 1"),
        ({"attention_mask": MASK.numpy()}, "arrays of torch and of numpy are given together"),
        ({"pad_token_id": VOCAB}, f"pad_token_id={VOCAB} is outside the vocabulary of {VOCAB}"),
        ({"logprobs": 2}, "logprobs=2 goes with texts and lists"),
        ({"return_dict_in_generate": True, "batch_size": 2}, "batch_size=2 and return_dict_in_generate"),
        ({"streamer": 3}, "streamer is 3, which has no put and no end"),
        ({"generation_config": 3}, "generation_config is 3; wanted a GenerationConfig"),
    ],
)
def test_options_that_do_not_fit_an_array(reference, options, message):
    with pytest.raises((InputError, GenerationError), match=message) as error:
        reference.generate(IDS, max_new_tokens=2, **options)
    assert "\n" not in str(error.value)


def test_the_mask_is_inferred_from_padding_that_ends_no_text(reference, theirs):
    for asked in ({}, {"pad_token_id": 5}, {"pad_token_id": EOS}, {"eos_token_id": [PAD, EOS]}):
        found = reference.generate(IDS, max_new_tokens=4, **asked)
        assert found.tolist() == wanted(theirs, IDS, max_new_tokens=4, **asked).tolist(), asked


def test_several_sequences_of_each_row(reference):
    found = reference.generate(IDS, do_sample=True, num_return_sequences=2, max_new_tokens=5, seed=3)
    assert found.shape == (6, 11) and found[:, :6].tolist() == IDS.repeat_interleave(2, 0).tolist()
    assert found[0].tolist() != found[1].tolist()


# ------------------------------------------------------------------------------------------ embeddings, outputs


@pytest.mark.parametrize("limit", [{"max_new_tokens": 5}, {"max_length": 20}, {"min_length": 9, "max_length": 20}])
@pytest.mark.parametrize("known", [None, 6, 3], ids=["alone", "with ids", "with fewer ids"])
def test_embeddings_in_the_place_of_ids(ours, theirs, limit, known):
    embeds = theirs.get_input_embeddings()(IDS)
    ids = {} if known is None else {"input_ids": IDS[:, :known]}
    found = ours.generate(inputs_embeds=embeds, attention_mask=MASK, **ids, **limit)
    assert found.tolist() == wanted(theirs, inputs_embeds=embeds, attention_mask=MASK, **ids, **limit).tolist()


def test_what_cannot_see_embeddings_is_said(reference, theirs):
    embeds = theirs.get_input_embeddings()(IDS).detach()
    with pytest.warns(PolyllamaWarning, match="repetition_penalty see new tokens alone"):
        found = reference.generate(inputs_embeds=embeds, max_new_tokens=6, repetition_penalty=3.0)
    assert found.tolist() == wanted(theirs, inputs_embeds=embeds, max_new_tokens=6, repetition_penalty=3.0).tolist()
    with pytest.warns(PolyllamaWarning, match="use_cache=False without effect"):
        reference.generate(inputs_embeds=embeds, max_new_tokens=2, use_cache=False)
    with pytest.raises(InputError, match=r"inputs_embeds has shape \[3, 6\]"):
        reference.generate(inputs_embeds=embeds[..., 0], max_new_tokens=2)


@pytest.mark.parametrize("use_cache", [True, False])
def test_every_step_as_transformers_gives_it(ours, theirs, use_cache):
    asked = {
        "max_new_tokens": 6, "eos_token_id": [4, 8, 16, 24, 32, 40, 48, 56, *range(10, 16)], "pad_token_id": 60,
        "repetition_penalty": 1.2, "renormalize_logits": True, "return_dict_in_generate": True, "output_scores": True,
        "output_logits": True, "output_attentions": True, "output_hidden_states": True, "use_cache": use_cache,
    }  # fmt: skip
    found = ours.generate(IDS, attention_mask=MASK, **asked)
    want = wanted(theirs, IDS, attention_mask=MASK, **asked)
    assert isinstance(found, GenerateDecoderOnlyOutput) and list(found) == list(want)
    assert torch.equal(found.sequences, want.sequences) and found[0] is found["sequences"]
    assert 1 < len(found.scores) < 7, "a row is to end before another"
    for name in ("scores", "logits"):
        for step, other in zip(found[name], want[name], strict=True):
            assert step.dtype == torch.float32
            torch.testing.assert_close(step, other, atol=2e-3, rtol=1e-3)
    for name in ("attentions", "hidden_states"):
        for step, others in zip(found[name], want[name], strict=True):
            for layer, other in zip(step, others, strict=True):
                assert layer.shape == other.shape
                torch.testing.assert_close(layer[1].float(), other[1], atol=2e-3, rtol=1e-3)  # the row without padding
    if use_cache:
        assert found.past_key_values.get_seq_length() == found.sequences.shape[1] - 1


def test_scores_of_drawn_tokens_leave_out_what_filters_do(reference, theirs):
    asked = {"max_new_tokens": 1, "do_sample": True, "temperature": 0.7, "top_k": 9, "top_p": 0.9}
    outputs = {"return_dict_in_generate": True, "output_scores": True}
    found = reference.generate(IDS, seed=1, **asked, **outputs)
    want = wanted(theirs, IDS, **asked, **outputs)
    torch.testing.assert_close(found.scores[0], want.scores[0], atol=1e-3, rtol=1e-3)


def test_outputs_that_are_asked_for_in_vain(reference):
    with pytest.warns(PolyllamaWarning, match="output_scores without effect: return_dict_in_generate is not True"):
        assert kind_of(reference.generate(IDS, max_new_tokens=2, output_scores=True)) == "torch"
    with pytest.raises(GenerationError, match="return_dict_in_generate=True goes with an array of prompts"):
        reference.generate([[3, 4]], max_new_tokens=2, return_dict_in_generate=True)


# ----------------------------------------------------------------------------------------------- configurations


@pytest.mark.filterwarnings("ignore:generated texts stay empty")
def test_precedence_of_call_config_and_model(twin_folder, theirs):
    from transformers import GenerationConfig as Theirs

    llm = Llama.load(twin_folder, backend="reference", dtype="float32")
    llm.generation_config.max_new_tokens = 7
    llm.generation_config.repetition_penalty = 1.4
    assert llm.generate(IDS).shape[1] == 6 + 7
    for config in (GenerationConfig(max_new_tokens=4), Theirs(max_new_tokens=4), {"max_new_tokens": 4}):
        found = llm.generate(IDS, config)
        assert found.tolist() == wanted(theirs, IDS, max_new_tokens=4, repetition_penalty=1.4).tolist()
    assert llm.generate(IDS, GenerationConfig(max_new_tokens=4), max_new_tokens=2).shape[1] == 6 + 2
    assert len(llm.generate([[3, 4]], generation_config=GenerationConfig(max_new_tokens=3))[0].token_ids) == 3
    with pytest.warns(PolyllamaWarning, match=r"^temperature=0\.5 without effect: do_sample is not True"):
        llm.generate([[3, 4]], generation_config=GenerationConfig(max_new_tokens=3, temperature=0.5))
    llm.generation_config = Theirs(max_new_tokens=2)
    assert llm.generate(IDS).shape[1] == 6 + 2


def test_a_changed_generation_config_is_saved(twin_folder, tmp_path):
    from transformers import LlamaForCausalLM

    llm = Llama.load(twin_folder, backend="reference")
    assert llm.generation_config.eos_token_id == EOS and llm.generation_config.pad_token_id == PAD
    llm.generation_config.repetition_penalty = 1.4
    llm.save_pretrained(tmp_path)
    assert LlamaForCausalLM.from_pretrained(tmp_path).generation_config.repetition_penalty == 1.4
    assert Llama.load(tmp_path, backend="reference").generation_config == llm.generation_config
    llm.generation_config.temperature = 0.5
    with pytest.raises(GenerationError, match=r"options without effect: temperature=0\.5"):
        llm.save_pretrained(tmp_path)


@pytest.mark.filterwarnings("ignore:generated texts stay empty")
def test_time_is_a_limit(reference):
    found = reference.generate(IDS, max_new_tokens=60, max_time=1e-9)
    assert found.shape[1] == 6 + 1
    [result] = reference.generate([[3, 4]], max_new_tokens=60, max_time=1e-9)
    assert (len(result.token_ids), result.finish_reason) == (1, "length")

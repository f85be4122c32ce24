"""Options that transformers' generate has: the same tokens as its, whatever is combined, wherever it is said."""

from __future__ import annotations

import json
import shutil
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from generation_twins import EOS, PAD, VOCAB
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from polyllama import GenerationConfig, Llama, PolyllamaWarning
from polyllama.core.errors import GenerationError, InputError
from polyllama.core.generation.logit_processing import LogitProcessor, Processing
from polyllama.core.generation.sampling import Filters, filter_logits

pytestmark = [
    pytest.mark.filterwarnings("ignore:generated texts stay empty"),
    pytest.mark.usefixtures("unsaid", "one_thread"),
]

PROMPTS = [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14], [3]]
IDS = torch.tensor([[0, 0, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14], [0, 0, 0, 0, 3, 4]])
MASK = (IDS != PAD).long()


@pytest.fixture(scope="module", params=["reference", "torch"])
def ours(request, twin_folder):
    return Llama.load(twin_folder, backend=request.param, dtype="float32")


def wanted(model: Any, *arguments: Any, **options: Any) -> Any:
    """What transformers gives, without what it says beside it; what it refuses is no example."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return model.generate(*arguments, **options)
        except ValueError as error:
            assume("is also in `" not in str(error))
            raise


def found_by(model: Any, *arguments: Any, **options: Any) -> Any:
    """What we give. Where nothing is possible any more that is an error here, and token 0 in transformers."""
    try:
        return model.generate(*arguments, **options)
    except GenerationError as error:
        assume("no token is possible" not in str(error))
        raise


# ------------------------------------------------------------------------------------------- the same tokens, greedily

TOKEN = st.integers(3, VOCAB - 1)


def allowed(row: int, ids: Any) -> list[int]:
    """Tokens by the row and by what stands before."""
    return [2, *range(3 + (int(ids[-1]) + row) % 3, VOCAB, 3)]


ASKED = st.fixed_dictionaries(
    {"max_new_tokens": st.integers(1, 9)},
    optional={
        "sequence_bias": st.dictionaries(
            st.lists(TOKEN, min_size=1, max_size=3).map(tuple), st.floats(-30, 30), min_size=1, max_size=12
        ),
        "exponential_decay_length_penalty": st.tuples(st.integers(0, 5), st.sampled_from([0.5, 1.1, 1.5, 3.0])),
        "forced_bos_token_id": TOKEN,
        "forced_eos_token_id": st.one_of(TOKEN, st.lists(TOKEN, min_size=1, max_size=3)),
        "remove_invalid_values": st.booleans(),
        "repetition_penalty": st.sampled_from([0.7, 1.3]),
        "no_repeat_ngram_size": st.integers(1, 3),
        "bad_words_ids": st.lists(st.lists(TOKEN, min_size=1, max_size=2), min_size=1, max_size=5),
        "suppress_tokens": st.lists(TOKEN, min_size=1, max_size=5),
        "begin_suppress_tokens": st.lists(TOKEN, min_size=1, max_size=20),
        "prefix_allowed_tokens_fn": st.just(allowed),
        "guidance_scale": st.sampled_from([0.0, 0.5, 1.0, 1.5, 3.0]),
        "use_cache": st.booleans(),
        "eos_token_id": st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8),
    },
)


@settings(max_examples=40, deadline=None)
@given(ASKED, st.integers(0, 2))
def test_lists_get_transformers_tokens(reference, theirs, asked, row):
    asked = {name: value for name, value in asked.items() if name != "prefix_allowed_tokens_fn" or row == 0}
    found = found_by(reference, PROMPTS[row], **asked)
    expected = wanted(theirs, torch.tensor([PROMPTS[row]]), **asked)[0, len(PROMPTS[row]) :].tolist()
    assert found.token_ids == expected, asked


@settings(max_examples=25, deadline=None)
@given(ASKED, st.booleans())
def test_arrays_get_transformers_tokens(reference, theirs, asked, masked):
    mask = MASK if masked else torch.ones_like(IDS)
    asked.pop("no_repeat_ngram_size", None)  # of which padding is a part there, and not here
    found = found_by(reference, IDS, attention_mask=mask, **asked)
    assert found.tolist() == wanted(theirs, IDS, attention_mask=mask, **asked).tolist(), asked


@pytest.mark.parametrize(
    "asked",
    [
        {"sequence_bias": {(5, 6): 9.0, (8,): -2.0, (7, 8, 11): 30.0}},
        {"exponential_decay_length_penalty": (2, 1.6)},
        {"forced_eos_token_id": [40, 41]},
        {"prefix_allowed_tokens_fn": allowed},
        {"guidance_scale": 2.5},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_each_option_changes_something_on_every_backend(ours, theirs, asked):
    plain = wanted(theirs, IDS, attention_mask=MASK, max_new_tokens=8)
    expected = wanted(theirs, IDS, attention_mask=MASK, max_new_tokens=8, **asked)
    assert expected.tolist() != plain.tolist()
    assert ours.generate(IDS, attention_mask=MASK, max_new_tokens=8, **asked).tolist() == expected.tolist()


def test_a_first_token_is_forced_behind_one_token_alone(reference, theirs):
    asked = {"forced_bos_token_id": 33, "begin_suppress_tokens": list(range(3, 30)), "max_new_tokens": 5}
    found = [reference.generate(ids, **asked).token_ids for ids in ([3], [3, 4])]
    assert found[0][0] == 33 != found[1][0]
    for ids, tokens in zip(([3], [3, 4]), found, strict=True):
        assert tokens == wanted(theirs, torch.tensor([ids]), **asked)[0, len(ids) :].tolist()
    embeds = theirs.get_input_embeddings()(torch.tensor([[3, 4]])).detach()
    again = reference.generate(inputs_embeds=embeds, **asked)
    assert again.tolist() == wanted(theirs, inputs_embeds=embeds, **asked).tolist()
    assert again[0, 1] == 33  # as transformers counts ids, of which embeddings are none


# ----------------------------------------------------------------------------------------- the same scores and filters


@settings(max_examples=15, deadline=None)
@given(ASKED, st.sampled_from([None, 0.3, 0.8]), st.sampled_from([0.0, 0.01, 0.2]), st.sampled_from([0.0, 0.01, 0.3]))
def test_recorded_scores_are_transformers(reference, theirs, asked, top_h, epsilon, eta):
    recorded = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    # The latter two make equals, of which filters keep the lower id here, and any there.
    for name in ("no_repeat_ngram_size", "remove_invalid_values", "forced_eos_token_id"):
        asked.pop(name, None)
    asked |= {"attention_mask": MASK, **recorded}
    # One token that is drawn is the same if one alone is left: so the first step's scores are compared.
    drawn = {"do_sample": True, "top_k": 5, "top_h": top_h, "epsilon_cutoff": epsilon, "eta_cutoff": eta}
    for more in ({}, drawn | {"max_new_tokens": 1}):
        found = found_by(reference, IDS, **{**asked, **more})
        expected = wanted(theirs, IDS, **{**asked, **more})
        for ours, others in zip((*found.scores, *found.logits), (*expected.scores, *expected.logits), strict=True):
            assert torch.equal(torch.isinf(ours), torch.isinf(others))
            both = torch.isfinite(ours) & (others.abs() < 1e30)
            torch.testing.assert_close(ours[both], others[both], rtol=1e-4, atol=1e-4)


LOGITS = st.lists(st.integers(-8000, 8000).map(lambda n: n / 1024), min_size=2, max_size=150)


@settings(max_examples=200, deadline=None)
@given(LOGITS, st.floats(0.01, 0.99))
def test_cutoffs_keep_what_transformers_keep(logits, value):
    from transformers.generation import logits_process as hf

    scores = torch.tensor(logits, dtype=torch.float64)[None]
    for ours, warper in (
        (Filters(epsilon_cutoff=value), hf.EpsilonLogitsWarper(value)),
        (Filters(eta_cutoff=value), hf.EtaLogitsWarper(value)),
        (Filters(top_h=value), hf.TopHLogitsWarper(value)),
    ):
        if hasattr(warper, "min_tokens_to_keep") and hasattr(warper.epsilon, "double"):
            warper.epsilon = torch.tensor(value, dtype=torch.float64)
        kept = np.flatnonzero(np.isfinite(warper(None, scores)[0].numpy()))
        found = filter_logits(np.array(logits), ours).token_ids
        # Of equals the lowest id is kept here, and any there: values decide.
        assert sorted(np.array(logits)[found].tolist()) == sorted(np.array(logits)[kept].tolist())


def test_of_equals_top_h_keeps_the_lower_id_and_is_off_without():
    logits = np.zeros(120)
    assert filter_logits(logits, Filters(top_h=0.505)).token_ids.tolist() == list(range(50))
    assert filter_logits(logits, Filters()).token_ids.size == 120
    assert filter_logits(logits, Filters(top_h=1.0, top_k=7)).token_ids.tolist() == list(range(7))


def test_a_cutoff_means_sampling_and_the_same_seed_the_same_tokens(reference):
    first, second = (reference.generate(PROMPTS[0], max_new_tokens=6, epsilon_cutoff=0.01, seed=5) for _ in range(2))
    assert first.token_ids == second.token_ids and first.seed == 5
    with pytest.warns(PolyllamaWarning, match="eta_cutoff=0.1, top_h=0.5 without effect: do_sample is not True"):
        reference.generate(IDS, max_new_tokens=1, eta_cutoff=0.1, top_h=0.5)


# --------------------------------------------------------------------------------------------- what is no number


def test_invalid_values_are_an_error_or_removed():
    from transformers.generation.logits_process import InfNanRemoveLogitsProcessor

    logits = np.array([np.nan, np.inf, -np.inf, 1.5], np.float32)
    expected = InfNanRemoveLogitsProcessor()(None, torch.tensor(logits)[None])[0].numpy()
    found = LogitProcessor(Processing(only_finite=True), 4, [1])(logits)
    assert np.array_equal(found.astype(np.float32), expected)


def test_a_broken_model_generates_where_invalid_values_are_removed(twin_folder, tmp_path):
    from safetensors.numpy import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(twin_folder, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["lm_head.weight"][7] = np.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    llm = Llama.load(broken, backend="reference", dtype="float32")
    with pytest.raises(GenerationError, match="logits hold NaN"):
        llm.generate(PROMPTS[0], max_new_tokens=2)
    assert len(llm.generate(PROMPTS[0], max_new_tokens=2, remove_invalid_values=True).token_ids) == 2


def test_an_end_that_nothing_is_is_said(reference):
    with pytest.warns(PolyllamaWarning, match="exponential_decay_length_penalty without effect: no id ends a text"):
        reference.generate([3], max_new_tokens=2, eos_token_id=[], exponential_decay_length_penalty=(1, 2.0))
    with pytest.raises(GenerationError, match="sequence_bias: id 99 is outside the vocabulary"):
        reference.generate([3], sequence_bias={(5, 99): 1.0})


# ------------------------------------------------------------------------------------- said in a config, in a file

SAID = {
    "sequence_bias": [[[8], 9.0], [[8, 8], -50.0]], "exponential_decay_length_penalty": [3, 2.5],
    "forced_eos_token_id": 40, "guidance_scale": 1.5, "max_new_tokens": 9,
}  # fmt: skip


def test_a_generation_config_and_a_checkpoints_file_say_it_too(twin_folder, theirs, reference, tmp_path):
    from transformers import GenerationConfig as Theirs

    expected = wanted(theirs, IDS, attention_mask=MASK, **SAID).tolist()
    assert expected != wanted(theirs, IDS, attention_mask=MASK, max_new_tokens=9).tolist()
    for config in (GenerationConfig(**SAID), Theirs(**SAID, eos_token_id=EOS, pad_token_id=PAD)):
        assert reference.generate(IDS, attention_mask=MASK, generation_config=config).tolist() == expected
    said = tmp_path / "said"
    shutil.copytree(twin_folder, said)
    (said / "generation_config.json").write_text(json.dumps({**SAID, "eos_token_id": EOS, "pad_token_id": PAD}))
    llm = Llama.load(said, backend="reference", dtype="float32")
    assert llm.generate(IDS, attention_mask=MASK).tolist() == expected
    llm.generation_config.sequence_bias = {(8,): 9.0, (8, 8): -50.0}
    llm.generation_config.save_pretrained(tmp_path / "saved")
    again = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert again.sequence_bias == SAID["sequence_bias"]
    assert Theirs.from_pretrained(tmp_path / "saved").sequence_bias == SAID["sequence_bias"]


def test_what_is_of_calls_is_no_option_of_a_config():
    for name in ("logits_processor", "prefix_allowed_tokens_fn", "negative_prompt", "negative_prompt_ids"):
        with pytest.raises(GenerationError, match=f"{name} is an argument of generate, no option"):
            GenerationConfig(**{name: [print]})


# ------------------------------------------------------------------------------------------------------- guidance

NEGATIVE = torch.tensor([[0, 20, 21], [22, 23, 24], [0, 0, 25]])
NEGATIVE_MASK = (NEGATIVE != PAD).long()


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([-0.5, 0.0, 0.5, 1.5, 4.0]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([{}, {"repetition_penalty": 1.3}, {"eos_token_id": list(range(30, 45))}]),
    st.booleans(),
)
def test_a_negative_prompt_gives_transformers_tokens(reference, theirs, scale, cached, masked, more, recorded):
    asked = {"guidance_scale": scale, "max_new_tokens": 8, "negative_prompt_ids": NEGATIVE, **more}
    asked |= {"attention_mask": MASK, "return_dict_in_generate": recorded, "output_scores": recorded}
    asked |= {"negative_prompt_attention_mask": NEGATIVE_MASK} if masked else {}
    # Without a cache transformers runs the second prompt's whole text again, but for its first pass's keys.
    expected = wanted(theirs, IDS, **asked)
    found = reference.generate(IDS, use_cache=cached, **asked)
    if not recorded:
        assert found.tolist() == expected.tolist()
        return
    assert found.sequences.tolist() == expected.sequences.tolist()
    assert found.past_key_values is None or found.past_key_values.get_seq_length() == found.sequences.shape[1] - 1
    for ours, others in zip(found.scores, expected.scores, strict=True):
        torch.testing.assert_close(ours, others, rtol=1e-4, atol=1e-3)


def test_guidance_on_every_backend(ours, theirs):
    asked = {"guidance_scale": 2.0, "negative_prompt_ids": NEGATIVE, "max_new_tokens": 8, "attention_mask": MASK}
    assert ours.generate(IDS, **asked).tolist() == wanted(theirs, IDS, **asked).tolist()
    lists = ours.generate(PROMPTS, guidance_scale=2.0, negative_prompt_ids=[20, 21], max_new_tokens=8)
    for prompt, found in zip(PROMPTS, lists, strict=True):
        alone = wanted(
            theirs,
            torch.tensor([prompt]),
            guidance_scale=2.0,
            negative_prompt_ids=torch.tensor([[20, 21]]),
            max_new_tokens=8,
        )
        assert found.token_ids == alone[0, len(prompt) :].tolist()


def test_guided_rows_end_one_by_one_and_are_as_alone(reference):
    asked = {"guidance_scale": 1.7, "max_new_tokens": 20, "eos_token_id": list(range(20, 32)), "logprobs": 0}
    together = reference.generate(PROMPTS, negative_prompt_ids=[[20], [21, 22], [23]], **asked)
    assert len({len(result.token_ids) for result in together}) > 1
    for prompt, negative, result in zip(PROMPTS, [[20], [21, 22], [23]], together, strict=True):
        alone = reference.generate(prompt, negative_prompt_ids=negative, **asked)
        assert alone.token_ids == result.token_ids
        assert [one.logprob for one in alone.logprobs] == pytest.approx(
            [one.logprob for one in result.logprobs], abs=1e-5
        )
    # ... which are those of the model, without guidance
    ids = torch.tensor([[*PROMPTS[0], *together[0].token_ids]])
    logits = torch.log_softmax(reference(ids).logits[0].double(), -1)
    places = range(len(PROMPTS[0]) - 1, ids.shape[1] - 1)
    expected = [float(logits[place, ids[0, place + 1]]) for place in places]
    assert [one.logprob for one in together[0].logprobs] == pytest.approx(expected, abs=1e-5)


def test_guided_rows_run_beside_others_and_are_sampled_by_their_seed(reference):
    scheduler = reference.scheduler
    options = {"guidance_scale": 2.0, "negative_prompt_ids": [[20, 21]], "max_new_tokens": 8, "seed": 4, "top_k": 5}
    alone = [reference.generate(PROMPTS[0], **options), reference.generate(PROMPTS[1], max_new_tokens=8)]
    jobs = [scheduler.submit(PROMPTS[0], **options), scheduler.submit(PROMPTS[1], max_new_tokens=8)]
    assert [job.result().token_ids for job in jobs] == [result.token_ids for result in alone]


def test_a_negative_prompt_as_text():
    llm = Llama.load("tiny", backend="reference")
    asked = {"guidance_scale": 8.0, "max_new_tokens": 8}
    ids = llm.tokenizer.encode("One day")
    text = llm.generate("Once", negative_prompt="One day", **asked)
    assert text.token_ids == llm.generate("Once", negative_prompt_ids=ids, **asked).token_ids
    assert text.token_ids != llm.generate("Once", **asked).token_ids
    assert "".join(llm.stream("Once", negative_prompt="One day", **asked)) == text.text
    both = llm.generate(["Once", "Once"], negative_prompt=["One day", "The"], **asked)
    assert both[0].token_ids == text.token_ids != both[1].token_ids
    with pytest.raises(GenerationError, match="negative_prompt and negative_prompt_ids are given together"):
        llm.generate("Once", negative_prompt="One", negative_prompt_ids=ids, **asked)
    with pytest.raises(GenerationError, match="negative_prompt is 3; wanted a text"):
        llm.generate("Once", negative_prompt=3, **asked)


def test_what_does_not_go_with_guidance_is_said(reference):
    with pytest.warns(PolyllamaWarning, match="negative_prompt_ids without effect: guidance_scale is 1"):
        reference.generate([3], max_new_tokens=1, negative_prompt_ids=[4])
    with pytest.warns(PolyllamaWarning, match="prompt_lookup_num_tokens without effect: a second prompt runs beside"):
        reference.generate([3], max_new_tokens=2, guidance_scale=2.0, prompt_lookup_num_tokens=3)
    for asked, kind, message in (
        ({"negative_prompt_ids": [[3], [4]]}, InputError, "negative_prompt_ids has 2 rows for 1 prompt"),
        ({"negative_prompt_ids": [99]}, InputError, "negative_prompt_ids, row 0: id 99 is outside"),
        ({"negative_prompt_attention_mask": [[1]]}, GenerationError, "without negative_prompt_ids"),
        ({"negative_prompt_ids": [3], "negative_prompt_attention_mask": [1, 1]}, InputError, "not the shape"),
        ({"negative_prompt_ids": [3], "negative_prompt_attention_mask": [0]}, InputError, "padding alone"),
    ):
        with pytest.raises(kind, match=message):
            reference.generate([3], guidance_scale=2.0, **asked)
    with pytest.raises(GenerationError, match=r"guidance_scale=2.0 and inputs_embeds do not go together"):
        reference.generate(inputs_embeds=torch.zeros(1, 2, 32), guidance_scale=2.0)

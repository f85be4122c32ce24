"""The generation loop: batching, stopping, streaming, options, on a small NumPy model and on real tiny Llamas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama.core.config.schema import LlamaConfig
from polyllama.core.errors import GenerationError
from polyllama.core.forward.arguments import ForwardArguments
from polyllama.core.generation.calls import generate, stream
from polyllama.core.generation.options import GenerationOptions
from polyllama.core.tasks.outputs import CausalLMOutput
from scripted_models import (
    BOS,
    MODEL,
    PROMPTS,
    SMALL,
    VOCAB,
    RecurrentModel,
    Scripted,
    brute_force,
    options,
    run,
    tokens,
)
from tiny_models import BACKENDS, ROPE_TYPES

# A busy machine is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


# ------------------------------------------------------------------------------------------------- batches


# --------------------------------------------------------------------------------------------- seeds and sampling


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others():
    first = run(temperature=1.0, seed=7)
    assert tokens(first) == tokens(run(temperature=1.0, seed=7))
    assert tokens(first) != tokens(run(temperature=1.0, seed=8))
    assert first[0].token_ids != first[3].token_ids, "equal prompts of one request draw on their own"


def test_without_a_seed_a_fresh_one_is_drawn_and_reported():
    first, second = run(temperature=1.0), run(temperature=1.0)
    assert first[0].seed != second[0].seed and tokens(first) != tokens(second)
    assert tokens(run(temperature=1.0, seed=first[0].seed)) == tokens(first)
    assert run()[0].seed is None


def test_every_step_of_a_row_draws_anew():
    flat = RecurrentModel(0, sharpness=0.0)
    result = run([[BOS]], flat, temperature=1.0, seed=1, max_new_tokens=30)[0]
    assert len(set(result.token_ids)) > 20


def test_filters_reach_the_sampler():
    greedy = tokens(run())
    assert tokens(run(top_k=1)) == greedy == tokens(run(temperature=0, top_p=0.9))
    assert tokens(run(temperature=1.0, top_p=1e-6, seed=1)) == greedy
    assert tokens(run(temperature=1.0, min_p=1.0, seed=1)) == greedy
    assert tokens(run(temperature=5.0, seed=1)) != greedy


# ----------------------------------------------------------------------------------------------------- processors


def test_logit_bias_forces_and_forbids():
    assert set(tokens(run(logit_bias={33: 1e4}))[0]) == {33}
    drawn = {"temperature": 3.0, "seed": 1, "max_new_tokens": 60}
    first = tokens(run(**drawn))[0][0]  # which comes up without a bias
    assert all(first not in ids for ids in tokens(run(logit_bias={first: float("-inf")}, **drawn)))


def test_min_new_tokens_holds_every_ending_back():
    ending = brute_force(PROMPTS[0], 1)[0]
    for name in ("eos_token_id", "stop_token_ids"):
        assert len(run(PROMPTS[:1], **{name: [ending]})[0].token_ids) == 1
        for minimum in (1, 4):
            result = run(PROMPTS[:1], **{name: [ending]}, min_new_tokens=minimum)[0]
            assert len(result.token_ids) >= minimum and ending not in result.token_ids[:minimum]


@pytest.mark.parametrize("minimum", [0, 1, 4])
def test_an_ending_is_held_back_for_exactly_so_many_tokens(minimum):
    always = Scripted([77] * 12)
    [result] = run([[BOS]], always, eos_token_id=[77], min_new_tokens=minimum)
    assert result.token_ids.index(77) == minimum == len(result.token_ids) - 1
    assert result.finish_reason == "stop" and result.stop_reason == 77


@given(st.integers(1, 3), st.integers(0, 20))
@settings(max_examples=20)
def test_no_ngram_repeats(size, seed):
    model = RecurrentModel(seed, sharpness=0.3)
    prompt = [BOS, 9, 9, 8, 9]
    result = run([prompt], model, no_repeat_ngram_size=size, max_new_tokens=40)[0]
    ids = prompt + result.token_ids
    for start in range(len(prompt) - size + 1, len(ids) - size + 1):
        ngram = ids[start : start + size]
        assert all(ids[i : i + size] != ngram for i in range(start)), "an n-gram that ends in a new token is new"


def test_penalties_keep_tokens_from_repeating():
    model = RecurrentModel(2, sharpness=0.01)
    model.position[:, 77] += 1  # says 77 for ever
    assert set(run([[BOS]], model)[0].token_ids) == {77}
    for name, value in (("repetition_penalty", 1e6), ("presence_penalty", 1e3), ("frequency_penalty", 1e3)):
        ids = run([[BOS]], model, **{name: value}, max_new_tokens=6)[0].token_ids
        assert len(set(ids)) == 6, name
    # the prompt counts for one kind, and not for the other
    assert run([[BOS, 77]], model, repetition_penalty=1e6)[0].token_ids[0] != 77
    assert run([[BOS, 77]], model, presence_penalty=1e3)[0].token_ids[0] == 77


def test_when_every_token_is_forbidden_the_row_and_step_are_named():
    bias = {token_id: float("-inf") for token_id in range(VOCAB)}
    with pytest.raises(GenerationError, match=r"row 0, step 0: no token is possible.*logit_bias"):
        run(logit_bias=bias)


def test_logits_that_are_not_finite_name_the_row_and_step():
    model = RecurrentModel()
    model.position[len(PROMPTS[2]) + 1, 5] = np.nan  # row 2, being the longest, gets there first: at its step 2
    with pytest.raises(GenerationError, match=r"row 2, step 2: .*NaN"):
        run(model=model)


def test_a_model_without_a_vocabulary_is_refused():
    class Classifier(RecurrentModel):
        def forward(self, arguments):
            out = super().forward(arguments)
            return CausalLMOutput(logits=out.logits[:, 0, :2], past_key_values=out.past_key_values)

    with pytest.raises(GenerationError, match=r"logits of shape \[1, 2\].*causal"):
        run([[BOS]], Classifier())


# -------------------------------------------------------------------------------------------------------- logprobs


def test_logprobs_are_the_raw_ones_of_the_model():
    prompt = PROMPTS[0]
    result = run([prompt], logprobs=3, temperature=2.0, seed=4, repetition_penalty=1.5, logit_bias={9: 5.0})[0]
    assert [entry.token_id for entry in result.logprobs] == result.token_ids
    for step, entry in enumerate(result.logprobs):
        ids = prompt + result.token_ids[:step]
        out = MODEL.forward(
            ForwardArguments(
                input_ids=[ids],
                attention_mask=np.ones((1, len(ids)), int),
                past_key_values=MODEL.new_cache(1, 99),
                use_cache=True,
                logits_to_keep=1,
            )
        )
        raw = out.logits[0, -1].astype(np.float64)
        expected = raw - raw.max() - np.log(np.exp(raw - raw.max()).sum())
        assert entry.logprob == pytest.approx(expected[entry.token_id], abs=1e-4)
        assert [i for i, _ in entry.top] == np.argsort(-raw, kind="stable")[:3].tolist()
    assert run([prompt])[0].logprobs is None
    assert [entry.top for entry in run([prompt], logprobs=0)[0].logprobs] == [()] * 12


# ----------------------------------------------------------------------------------------------- stopping and text


# -------------------------------------------------------------------------------------------------------- prompts


# ------------------------------------------------------------------------------------------------ length and context


# --------------------------------------------------------------------------------------------------------- options


# ------------------------------------------------------------------------------------------ generation_config.json


# ----------------------------------------------------------------------------------------- real Llamas, real backends

RAGGED = [[1, 5, 9, 17, 30, 41, 8], [1], [1, 60, 61], [1, 5, 9, 17, 30, 41, 8, 2, 77, 3, 12, 50]]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Models this small gain nothing from threads, and lose a lot when the machine is busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(tiny_models, backend, rope="default", **fields):
    from polyllama.core.api.llama import Llama

    hf, folder = tiny_models(rope, **fields)
    return hf, Llama.load(folder, backend=backend, dtype="float32").model


def hf_greedy(hf, prompt, count, **asked):
    import torch
    from transformers import GenerationConfig

    hf.generation_config.eos_token_id = None  # it fills what the config of the call leaves out
    config = GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=None, **asked)
    return hf.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rope", sorted(ROPE_TYPES))
def test_a_batch_of_unequal_prompts_is_what_transformers_gives_each_alone(tiny_models, backend, rope):
    hf, model = load(tiny_models, backend, rope)
    asked = options(max_new_tokens=10)
    expected = [generate(model, None, [prompt], asked)[0].token_ids for prompt in RAGGED]
    if rope not in ("dynamic", "longrope"):  # transformers scales a growing text by its final length, and caches that
        assert expected == [hf_greedy(hf, prompt, 10) for prompt in RAGGED]
    assert len({tuple(ids) for ids in expected}) == 4
    for chunk, size in ((None, None), (4, None), (5, 2)):
        asked = options(max_new_tokens=10, prefill_chunk_size=chunk, batch_size=size)
        assert tokens(generate(model, None, RAGGED, asked)) == expected, (chunk, size)


@pytest.mark.parametrize(
    "asked",
    [{"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 2}, {"repetition_penalty": 0.8, "min_new_tokens": 4}],
)
def test_processed_greedy_is_what_transformers_gives(tiny_models, asked):
    hf, model = load(tiny_models, "reference")
    results = generate(model, None, RAGGED, options(max_new_tokens=16, **asked))
    assert tokens(results) == [hf_greedy(hf, prompt, 16, **asked) for prompt in RAGGED]


def test_the_same_seed_gives_the_same_tokens_on_every_backend(tiny_models):
    asked = options(max_new_tokens=20, temperature=1.3, top_p=0.95, min_p=0.01, seed=11, num_return_sequences=3)
    drawn = [tokens(generate(load(tiny_models, backend)[1], None, RAGGED, asked)) for backend in BACKENDS]
    assert drawn[0] == drawn[1]
    assert len({tuple(ids) for ids in drawn[0]}) == 12


def test_logprobs_are_those_of_transformers(tiny_models):
    import torch

    hf, model = load(tiny_models, "reference")
    for result in generate(model, None, RAGGED, options(max_new_tokens=8, temperature=1.0, seed=2, logprobs=4)):
        ids = result.prompt_token_ids + result.token_ids
        with torch.no_grad():
            raw = hf(torch.tensor([ids])).logits[0, len(result.prompt_token_ids) - 1 : -1].double().log_softmax(-1)
        for entry, row in zip(result.logprobs, raw, strict=True):
            assert entry.logprob == pytest.approx(row[entry.token_id].item(), abs=1e-4)
            best = row.topk(4)
            assert [i for i, _ in entry.top] == best.indices.tolist()


@pytest.fixture(scope="module")
def sentencepiece_tokenizer(tmp_path_factory):
    import sentencepiece
    from polyllama.core.tokenizer.llama_tokenizer import load_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    text = ["Once upon a time there was a llama. It liked naïve 世界 🦙 stories!"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_prefix=str(folder / "tokenizer"), vocab_size=320, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return load_tokenizer(folder)


@settings(max_examples=40)
@given(
    st.sampled_from(["Once upon", "", "a 世界", " two  spaces "]),
    st.integers(0, 50),
    st.sampled_from([None, ["e", " l"]]),
)
def test_prompt_and_text_are_the_decoded_ids_of_a_real_tokenizer(sentencepiece_tokenizer, prompt, seed, stop):
    tokenizer = sentencepiece_tokenizer
    config = LlamaConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=512, **SMALL)
    model = RecurrentModel(seed, config)
    ids = tokenizer.encode(prompt)
    asked = GenerationOptions.resolve(
        {"max_new_tokens": 25, "temperature": 2.0, "seed": seed, "stop": stop}, config=config, tokenizer=tokenizer
    )
    result = generate(model, tokenizer, [ids], asked)[0]
    whole = tokenizer.decode(ids + result.token_ids, skip_special_tokens=True)
    start = tokenizer.stream_decoder(ids).prompt_text
    if isinstance(result.stop_reason, str):
        assert (start + result.text + result.stop_reason) in whole
        assert "e" not in result.text and " l" not in result.text
    else:
        assert start + result.text == whole
        assert start == tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(stream(model, tokenizer, ids, asked)) == result.text

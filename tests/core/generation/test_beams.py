"""Beam search: against transformers', token for token, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from generation_twins import PAD, VOCAB, wanted
from generation_twins import SIZES as SIZES_OF_TWINS
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from polyllama import GenerateBeamDecoderOnlyOutput, GenerationConfig, Llama, PolyllamaWarning
from polyllama.core.errors import GenerationError, InputError
from polyllama.core.generation.past import CachedPast
from tiny_models import ALL_BACKENDS

SIZES = SIZES_OF_TWINS | {"initializer_range": 0.4}
pytestmark = pytest.mark.usefixtures("unsaid", "one_thread")
IDS = torch.tensor([[0, 0, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14], [0, 0, 0, 0, 3, 4]])
MASK = (IDS != PAD).long()
PROMPTS = [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14], [3, 4]]
MANY_ENDS = [4, 8, 16, 24, 32, 40, 48, 56, *range(10, 16)]
OUTPUTS = {
    "return_dict_in_generate": True, "output_scores": True, "output_logits": True, "output_attentions": True,
    "output_hidden_states": True,
}  # fmt: skip

EMPTY = pytest.mark.filterwarnings("ignore:generated texts stay empty")
"""The models are random, and have no tokenizer."""


def made(seed: int, **fields: Any) -> Any:
    """A random model of transformers'."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**SIZES | fields)
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    made(3).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.fixture(scope="module", params=ALL_BACKENDS)
def ours(request, folder):
    return Llama.load(folder, backend=request.param, dtype="float32")


@pytest.fixture(scope="module")
def reference(folder):
    return Llama.load(folder, backend="reference", dtype="float32")


# ---------------------------------------------------------------------------------------------- the same tokens


def options_of(draw: st.DrawFn) -> dict[str, Any]:
    """Any options of beam search that both have."""
    ids = st.integers(0, VOCAB - 1)
    beams, most = draw(st.integers(2, 6)), draw(st.integers(1, 12))
    asked: dict[str, Any] = {"num_beams": beams, "num_return_sequences": draw(st.integers(1, beams))}
    asked |= {"max_new_tokens": most} if draw(st.booleans()) else {"max_length": IDS.shape[1] + most}
    lists = st.lists(ids, max_size=12)
    for name, values in {
        "length_penalty": st.sampled_from([-2.0, -0.5, 0.0, 0.3, 1.0, 2.0]),
        "early_stopping": st.sampled_from([True, False, "never"]),
        "repetition_penalty": st.sampled_from([0.7, 1.3, 4.0]),
        "bad_words_ids": st.lists(st.lists(ids, min_size=1, max_size=3), min_size=1, max_size=20),
        "suppress_tokens": lists,
        "begin_suppress_tokens": lists,
        "min_new_tokens": st.integers(1, most),
        "min_length": st.integers(0, IDS.shape[1] + most),
        "eos_token_id": st.lists(ids, min_size=1, max_size=12, unique=True),
        "pad_token_id": st.sampled_from([PAD, 60]),
        "use_cache": st.booleans(),
        "renormalize_logits": st.booleans(),
    }.items():
        if draw(st.booleans()):
            asked[name] = draw(values)
    if "min_new_tokens" in asked:
        asked.pop("min_length", None)
    return asked


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31), spread=st.sampled_from([0.1, 0.4, 0.8]))
def test_any_options_of_any_model_give_transformers_tokens(tmp_path_factory, data, seed, spread):
    model = made(seed, initializer_range=spread)
    folder = tmp_path_factory.mktemp("any")
    model.save_pretrained(folder)
    asked = options_of(data.draw)
    ids = data.draw(st.sampled_from([IDS, IDS[1:2], IDS[1:].flip(0)]))
    asked |= {"attention_mask": (ids != PAD).long()}
    want = wanted(model, ids, **asked)
    # Where rounding decides, their own tokens depend on the dtype.
    assume(wanted(model.double(), ids, **asked).tolist() == want.tolist())
    found = Llama.load(folder, backend="reference", dtype="float32").generate(ids, **asked)
    assert found.tolist() == want.tolist(), asked


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"length_penalty": 2.0, "max_new_tokens": 40, "num_beams": 5},
        {"length_penalty": -1.0, "early_stopping": "never", "eos_token_id": MANY_ENDS},
        {"early_stopping": True, "eos_token_id": MANY_ENDS, "num_return_sequences": 4, "pad_token_id": 60},
        {"repetition_penalty": 1.4, "bad_words_ids": [[5], [30, 31]], "suppress_tokens": list(range(20, 40))},
        {"min_length": 12, "max_length": 14, "max_new_tokens": None, "eos_token_id": list(range(30))},
        {"use_cache": False, "num_return_sequences": 2},
        {"renormalize_logits": True, "suppress_tokens": list(range(10, 30)), "eos_token_id": [5, 6]},
    ],
    ids=lambda asked: " ".join(asked) or "plain",
)
def test_every_backend_gives_transformers_tokens(ours, theirs, asked):
    asked = {"max_new_tokens": 10, "num_beams": 4} | asked
    want = wanted(theirs, IDS, attention_mask=MASK, **asked)
    assert ours.generate(IDS, attention_mask=MASK, **asked).tolist() == want.tolist()
    assert ours.generate(IDS, attention_mask=MASK, **asked, prefill_chunk_size=2).tolist() == want.tolist()


@EMPTY
def test_texts_and_lists(ours, theirs):
    """Each prompt gets what it gets alone, the best text first, with its score."""
    asked = {"max_new_tokens": 9, "num_beams": 4, "num_return_sequences": 3, "eos_token_id": MANY_ENDS}
    found = ours.generate(PROMPTS, **asked, logprobs=1)
    for prompt, results in zip(PROMPTS, found, strict=True):
        want = wanted(theirs, torch.tensor([prompt]), **asked, return_dict_in_generate=True, output_scores=True)
        scores = want.sequences_scores.tolist()
        new = want.sequences[:, len(prompt) :].tolist()
        assert [result.token_ids for result in results] == [
            ids[: len(r.token_ids)] for ids, r in zip(new, results, strict=True)
        ]
        assert [result.score for result in results] == pytest.approx(scores, rel=1e-4) == sorted(scores, reverse=True)
        for result in results:
            assert result.finish_reason == ("stop" if result.token_ids[-1] in MANY_ENDS else "length")
            total = sum(token.logprob for token in result.logprobs)
            assert total / len(result.token_ids) == pytest.approx(result.score, rel=1e-4)
        assert results[0].stats.new_tokens == sum(len(r.token_ids) for group in found for r in group)
    single = ours.generate(PROMPTS[0], **asked | {"num_return_sequences": 1})
    assert single.token_ids == found[0][0].token_ids and single.score == pytest.approx(found[0][0].score)
    for size in (1, 2):
        again = ours.generate(PROMPTS, **asked, batch_size=size)
        assert [[r.token_ids for r in group] for group in again] == [[r.token_ids for r in group] for group in found]


@EMPTY
def test_a_text_without_its_cache_in_order_is_another(ours, monkeypatch):
    """Beams change places in the cache: what follows from the wrong rows is another text."""
    asked = {"max_new_tokens": 30, "num_beams": 5, "eos_token_id": []}
    want = [result.token_ids for result in ours.generate(PROMPTS, **asked)]
    assert want == [result.token_ids for result in ours.generate(PROMPTS, **asked, use_cache=False)]
    ours.scheduler.forget()
    monkeypatch.setattr(CachedPast, "follow", lambda self, rows, shared: None)
    assert want != [result.token_ids for result in ours.generate(PROMPTS, **asked)]


@EMPTY
def test_a_long_search_in_half_precision_keeps_its_cache_right(folder):
    """Blocks of 16 slots, pairs of values, scales of their own: as without a cache, in every storage of cpu."""
    if "cpu" not in ALL_BACKENDS:
        pytest.skip("the kernels are not built")
    for dtype in ("bfloat16", "float16", "float32"):
        llm = Llama.load(folder, backend="cpu", dtype=dtype)
        asked = {"max_new_tokens": 45, "num_beams": 4, "num_return_sequences": 4, "eos_token_id": []}
        ids = np.array([PROMPTS[1]])
        found = llm.generate(ids, **asked, return_dict_in_generate=True, output_scores=True)
        plain = llm.forward(input_ids=found.sequences)["logits"]
        normal = plain.astype(np.float64)
        normal -= np.log(np.exp(normal - normal.max(-1, keepdims=True)).sum(-1, keepdims=True)) + normal.max(
            -1, keepdims=True
        )
        each = np.take_along_axis(normal[:, 5:-1], found.sequences[:, 6:, None], axis=2)[..., 0].sum(axis=1)
        scores = each / found.sequences[:, 6:].shape[1]
        bound = 1e-4 if dtype == "float32" else 0.1
        assert np.abs(scores - found.sequences_scores).max() < bound, dtype


@EMPTY
def test_an_ngram_is_not_repeated_and_prompts_of_one_text_are_run_once(ours, theirs):
    asked = {"max_new_tokens": 12, "num_beams": 3, "no_repeat_ngram_size": 2, "eos_token_id": 59}
    ids = torch.tensor([PROMPTS[1]] * 2)
    want = wanted(theirs, ids, **asked)[:, 6:].tolist()
    found = ours.generate(ids.tolist(), **asked)
    assert [result.token_ids for result in found] == want
    assert found[0].stats.prompt_tokens + found[0].stats.cached_tokens == 6


@pytest.mark.parametrize("known", [None, 6], ids=["alone", "with ids"])
def test_embeddings_in_the_place_of_ids(ours, theirs, known):
    embeds = theirs.get_input_embeddings()(IDS).detach()
    ids = {} if known is None else {"input_ids": IDS}
    asked = {"max_new_tokens": 7, "num_beams": 3, "num_return_sequences": 2, **ids}
    found = ours.generate(inputs_embeds=embeds, attention_mask=MASK, **asked)
    assert found.tolist() == wanted(theirs, inputs_embeds=embeds, attention_mask=MASK, **asked).tolist()


@EMPTY
@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_frequencies_that_depend_on_the_length(tiny_models, backend, rope):
    """There a pass may run everything again, from inputs that follow their beams as keys do."""
    llm = Llama.load(tiny_models(rope)[1], backend=backend, dtype="float32")
    asked = {"max_new_tokens": 24, "num_beams": 4, "num_return_sequences": 2, "eos_token_id": []}
    found, want = (llm.generate(PROMPTS, **asked, use_cache=cached) for cached in (True, False))
    for group, other in zip(found, want, strict=True):
        assert [result.token_ids for result in group] == [result.token_ids for result in other]


# -------------------------------------------------------------------------------------------------- every step


@pytest.mark.parametrize("use_cache", [True, False])
def test_every_step_as_transformers_gives_it(ours, theirs, use_cache):
    asked = OUTPUTS | {
        "max_new_tokens": 30, "num_beams": 3, "num_return_sequences": 2, "eos_token_id": MANY_ENDS, "pad_token_id": 60,
        "repetition_penalty": 1.2, "use_cache": use_cache, "early_stopping": True,
    }  # fmt: skip
    found = ours.generate(IDS, attention_mask=MASK, **asked)
    want = wanted(theirs, IDS, attention_mask=MASK, **asked)
    assert isinstance(found, GenerateBeamDecoderOnlyOutput) and list(found) == list(want)
    for name in ("sequences", "beam_indices"):
        assert torch.equal(found[name], want[name]) and found[name].dtype == want[name].dtype
    assert 3 < len(found.scores) < 30, "at the limit all beams end, and theirs are in no order any more"
    torch.testing.assert_close(found.sequences_scores, want.sequences_scores, atol=1e-3, rtol=1e-4)
    for name in ("scores", "logits"):
        for step, other in zip(found[name], want[name], strict=True):
            assert step.dtype == torch.float32
            torch.testing.assert_close(step, other, atol=2e-3, rtol=1e-3)
    for name in ("attentions", "hidden_states"):
        for step, others in zip(found[name], want[name], strict=True):
            for layer, other in zip(step, others, strict=True):
                assert layer.shape == other.shape
                torch.testing.assert_close(layer[3:6].float(), other[3:6], atol=2e-3, rtol=1e-3)  # without padding
    if use_cache:
        keys, others = found.past_key_values[1][0][3:6], want.past_key_values.layers[1].keys[3:6]
        torch.testing.assert_close(keys.float(), others, atol=1e-3, rtol=1e-3)
    for normal in (False, True):
        scores = ours.compute_transition_scores(found.sequences, found.scores, found.beam_indices, normal)
        other = theirs.compute_transition_scores(want.sequences, want.scores, want.beam_indices, normal)
        torch.testing.assert_close(scores, other, atol=2e-3, rtol=1e-3)


def test_beam_indices_of_another_output_are_refused(reference):
    found = reference.generate(IDS, max_new_tokens=4, num_beams=3, **OUTPUTS)
    compute = reference.compute_transition_scores
    for beams, message in (
        (found.beam_indices[:2], r"beam_indices has shape \[2, 4\]"),
        (found.beam_indices + 9, r"and numbers up to \d+, sequences"),
        (torch.zeros(3, 5, dtype=torch.int32), "beam_indices is of 5 steps, scores of 4"),
    ):
        with pytest.raises(InputError, match=message):
            compute(found.sequences, found.scores, beams)


# ------------------------------------------------------------------------------------------------ where they go


@EMPTY
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0; wanted a whole number from 1 to 65,536"),
        ({"early_stopping": "soon"}, "early_stopping is 'soon'; wanted True, False or 'never'"),
        ({"length_penalty": float("nan")}, "length_penalty is nan; wanted a finite number"),
        ({"num_return_sequences": 3}, "num_return_sequences=3 is more than num_beams=2; give num_beams at least"),
        ({"num_beam_groups": 2}, "num_beam_groups=2 is not offered; transformers has moved it"),
        ({"force_words_ids": [[3]]}, "force_words_ids=.* is not offered; transformers has moved it"),
        ({"streamer": type("S", (), {"put": print, "end": print})()}, "num_beams=2 and a streamer do not go together"),
    ],
)
def test_what_is_refused(reference, options, message):
    for prompts in (IDS, PROMPTS):
        with pytest.raises(GenerationError, match=message) as error:
            reference.generate(prompts, **{"max_new_tokens": 2, "num_beams": 2} | options)
        assert "\n" not in str(error.value)


def test_a_stream_has_no_beams():
    llm = Llama.load("tiny", backend="reference")
    with pytest.raises(GenerationError, match="num_beams=2 and a stream do not go together: a beam has no text before"):
        llm.stream("Once", num_beams=2)
    llm.generation_config.num_beams = 3
    with pytest.raises(GenerationError, match=r"num_beams=3 \(from generation_config\) and a .*give num_beams=1"):
        llm.stream("Once")
    assert "".join(llm.stream("Once", num_beams=1, max_new_tokens=4))


@EMPTY
def test_what_beams_leave_out_is_said(reference):
    with pytest.warns(PolyllamaWarning, match="length_penalty=2.0, early_stopping=True without effect: num_beams is 1"):
        reference.generate(PROMPTS, max_new_tokens=2, length_penalty=2.0, early_stopping=True)
    with pytest.warns(PolyllamaWarning, match="prompt_lookup_num_tokens without effect: beams are ranked at"):
        reference.generate(PROMPTS, max_new_tokens=2, num_beams=2, prompt_lookup_num_tokens=4)


@EMPTY
def test_more_texts_than_there_can_be_are_an_error(reference):
    few = [i for i in range(VOCAB) if i not in (7, 9)]
    asked = {"max_new_tokens": 1, "num_beams": 4, "suppress_tokens": few}
    assert len(reference.generate(PROMPTS[0], **asked, num_return_sequences=2)) == 2
    with pytest.raises(GenerationError, match="no more than 2 texts can be found, num_return_sequences asks for 3"):
        reference.generate(PROMPTS[0], **asked, num_return_sequences=3)
    with pytest.raises(GenerationError, match="step 0: no token is possible in any of 4 beams"):
        reference.generate(PROMPTS[0], max_new_tokens=3, num_beams=4, suppress_tokens=list(range(VOCAB)))


@EMPTY
def test_files_and_configs(folder, theirs, tmp_path):
    llm = Llama.load(folder, backend="reference", dtype="float32")
    want = wanted(theirs, IDS, num_beams=4, length_penalty=2.0, early_stopping="never", max_new_tokens=6).tolist()
    config = GenerationConfig(num_beams=4, length_penalty=2.0, early_stopping="never", max_new_tokens=6)
    assert llm.generate(IDS, config).tolist() == want
    for name, value in config.to_diff_dict().items():
        setattr(llm.generation_config, name, value)
    assert llm.generate(IDS).tolist() == want
    llm.save_pretrained(tmp_path)
    assert Llama.load(tmp_path, backend="reference", dtype="float32").generate(IDS).tolist() == want
    with pytest.raises(GenerationError, match="num_return_sequences=3 is more than num_beams=2"):
        GenerationConfig(num_beams=2, num_return_sequences=3)


def test_stop_strings_and_ids(theirs):
    """A beam ends where its text holds a stop string, as in transformers."""
    llm = Llama.load("tiny", backend="reference", dtype="float32")
    model = transformers.LlamaForCausalLM.from_pretrained(llm._loaded.folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(llm._loaded.folder))
    for prompt in ("Once upon a time", "The dog was"):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        for stop in (["."], ["the", " and"], ["t"]):
            for early in (False, True):
                asked = {"max_new_tokens": 20, "num_beams": 3, "num_return_sequences": 2, "early_stopping": early}
                want = wanted(model, ids, stop_strings=stop, tokenizer=tokenizer, **asked)
                found = llm.generate(prompt, stop=stop, **asked)
                for result, row in zip(found, want[:, ids.shape[1] :].tolist(), strict=True):
                    assert result.token_ids == row[: len(result.token_ids)], (stop, early)
                    assert (result.stop_reason in stop) == (result.finish_reason == "stop")
                    assert not any(text in result.text for text in stop)
    ended = llm.generate("Once", num_beams=3, stop_token_ids=[13, 290, 278], max_new_tokens=20)
    assert ended.finish_reason == "length" or ended.stop_reason in (13, 290, 278)

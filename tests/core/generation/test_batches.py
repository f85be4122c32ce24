"""Batches: each row gets what it gets alone, whatever it is batched with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama.core.errors import GenerationError, InputError
from polyllama.core.generation.calls import generate
from polyllama.core.generation.outputs import by_prompt
from scripted_models import BOS, MODEL, PROMPTS, VOCAB, ByteTokenizer, RecurrentModel, brute_force, options, run, tokens

# A busy machine is no failure.
settings.register_profile("no deadline", deadline=None)


settings.load_profile("no deadline")


def test_greedy_is_the_argmax_of_the_whole_text_run_again():
    assert tokens(run()) == [brute_force(prompt, 12) for prompt in PROMPTS]


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9), min_size=1, max_size=5),
    st.integers(0, 5),
    st.sampled_from([None, 1, 2, 5]),
    st.sampled_from([None, 1, 2, 3]),
)
def test_a_batch_gives_each_row_what_it_gets_alone(prompts, seed, chunk, size):
    model = RecurrentModel(seed)
    batched = run(prompts, model, prefill_chunk_size=chunk, batch_size=size)
    assert tokens(batched) == [brute_force(prompt, 12, model) for prompt in prompts]
    assert [str(r) for r in batched] == [run([prompt], model)[0].text for prompt in prompts]


@pytest.mark.parametrize("size", [None, 1, 2, 3, 5])
@pytest.mark.parametrize("chunk", [None, 3])
def test_sampling_does_not_depend_on_how_rows_are_batched(size, chunk):
    asked = {"temperature": 1.5, "top_p": 0.95, "seed": 3, "num_return_sequences": 3}
    assert tokens(run(**asked, batch_size=size, prefill_chunk_size=chunk)) == tokens(run(**asked))


def test_the_first_prompt_of_a_batch_is_sampled_as_alone():
    assert tokens(run(temperature=1.5, seed=3))[0] == tokens(run(PROMPTS[:1], temperature=1.5, seed=3))[0]


def test_rows_that_end_leave_the_batch_without_disturbing_the_others():
    stop_ids = [brute_force(PROMPTS[0], 3)[-1], brute_force(PROMPTS[1], 5)[-1]]
    model = RecurrentModel()
    results = run(model=model, eos_token_id=stop_ids, max_new_tokens=30)
    expected = []
    for prompt in PROMPTS:
        alone = brute_force(prompt, 30)
        ends = [i + 1 for i, token_id in enumerate(alone) if token_id in stop_ids]
        expected.append(alone[: ends[0]] if ends else alone)
    assert tokens(results) == expected
    widths = [shape[0] for shape in model.calls]
    assert widths[0] == 3 and widths[1] == 4 and widths[-1] <= 2  # three distinct prompts, four rows, then fewer


def test_a_prompt_is_prefilled_once_however_many_sequences_it_has():
    model = RecurrentModel()
    results = run([PROMPTS[0]] * 2, model, temperature=2.0, num_return_sequences=3, seed=5)
    assert model.calls[0] == (1, 4) and model.calls[1] == (6, 1)
    assert results[0].stats.prompt_tokens == 4
    assert len({tuple(ids) for ids in tokens(results)}) == 6
    assert [r.row for r in results] == list(range(6))
    assert [[r.row for r in group] for group in by_prompt(results, 3)] == [[0, 1, 2], [3, 4, 5]]
    assert by_prompt(results, 1) == results


def test_prefill_chunks_of_prompts_of_unequal_length_are_no_longer_than_asked():
    model = RecurrentModel()
    run([[BOS] * 9, [BOS] * 5], model, prefill_chunk_size=2, max_new_tokens=2)
    assert model.calls == [(2, 2), (2, 2), (2, 2), (2, 2), (2, 1), (2, 1)]


def test_no_prompts_give_no_results():
    assert run([]) == []


def test_an_empty_prompt_is_the_beginning_of_sequence_token():
    assert run([[]]) == run([[BOS]])
    assert run([[]])[0].prompt_token_ids == [BOS]

    class Without(ByteTokenizer):
        bos_token_id = None

    model = RecurrentModel(config=MODEL.config.model_copy(update={"bos_token_id": None}))
    with pytest.raises(InputError, match=r"prompt 1 is empty.*no beginning-of-sequence"):
        generate(model, Without(), [[5], []])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([1, VOCAB], f"prompt 0, token 1: id {VOCAB} is outside the vocabulary of {VOCAB}"),
        ([-1], "prompt 0, token 0: id -1 is outside"),
        ([[1, 2]], "prompt 0 is not a list of token ids"),
        ([0.5], "prompt 0 is not a list of token ids"),
        ([True], "prompt 0 is not a list of token ids"),
        ([[1], [1, 2]], "prompt 0 is not a list of token ids"),
        (5, "prompt 0 is not a list of token ids"),
        ("text", "prompt 0 is text"),
    ],
)
def test_prompts_that_are_not_ids_of_the_vocabulary(prompt, message):
    with pytest.raises(InputError, match=message):
        run([prompt])


def test_prompts_may_be_arrays():
    assert run([np.array([1, 5, 9])]) == run([[1, 5, 9]])


def test_without_a_tokenizer_ids_come_out_and_stop_strings_are_refused():
    result = generate(MODEL, None, [[BOS, 9]], options(max_new_tokens=4))[0]
    assert result.text == "" and result.token_ids == run([[BOS, 9]], max_new_tokens=4)[0].token_ids
    with pytest.raises(GenerationError, match="stop strings need a tokenizer"):
        generate(MODEL, None, [[BOS]], options(stop="x"))


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Models this small gain nothing from threads, and lose a lot when the machine is busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

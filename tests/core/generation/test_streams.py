"""Streams and events: they add up to the results, and end cleanly."""

from __future__ import annotations

import gc

import pytest
from hypothesis import settings
from polyllama.core.errors import GenerationError, InputError
from polyllama.core.generation.calls import generate, stream
from polyllama.core.generation.loop import GenerationRun
from scripted_models import BOS, MODEL, PROMPTS, TOKENIZER, RecurrentModel, options, run

# A busy machine is no failure.
settings.register_profile("no deadline", deadline=None)


settings.load_profile("no deadline")


@pytest.mark.parametrize("arguments", [{}, {"temperature": 1.0, "seed": 2}, {"stop": ["a", "\n"], "logprobs": 2}])
def test_streams_and_events_add_up_to_the_results(arguments):
    asked = options(max_new_tokens=40, **arguments)
    events_run = GenerationRun(MODEL, TOKENIZER, PROMPTS, asked)
    events = list(events_run)
    for result in events_run.results():
        own = [event for event in events if event.row == result.row]
        assert "".join(event.text for event in own) == result.text
        assert [event.token_id for event in own] == result.token_ids
        assert [event.finish_reason for event in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1].finish_reason == result.finish_reason
        if result.logprobs is not None:
            assert [event.logprob for event in own] == result.logprobs
    assert events_run.results() == generate(MODEL, TOKENIZER, PROMPTS, asked)
    for row in (1, 2):
        pieces = list(stream(MODEL, TOKENIZER, PROMPTS[row], asked))
        assert all(pieces) and "".join(pieces) == generate(MODEL, TOKENIZER, [PROMPTS[row]], asked)[0].text


def test_prompt_and_text_are_the_decoded_ids():
    for result in run(max_new_tokens=50, temperature=1.0, seed=1):
        prompt = TOKENIZER.decode(result.prompt_token_ids, True)
        assert prompt + result.text == TOKENIZER.decode(result.prompt_token_ids + result.token_ids, True)


def test_closing_a_stream_early_frees_the_cache():
    model = RecurrentModel()
    with stream(model, TOKENIZER, PROMPTS[0], options(max_new_tokens=100)) as pieces:
        next(pieces)
        gc.collect()
        assert [ref() is not None for ref in model.caches] == [True]
    assert [ref() for ref in model.caches] == [None], "freed at once, not when a collector comes by"
    assert pieces.result is None and 0 < pieces.stats.new_tokens < 100
    assert list(pieces) == []


def test_a_run_is_for_one_iteration():
    events_run = GenerationRun(MODEL, TOKENIZER, PROMPTS, options(max_new_tokens=2))
    with pytest.raises(GenerationError, match="has not finished"):
        events_run.results()
    list(events_run)
    with pytest.raises(GenerationError, match="already"):
        iter(events_run)


def test_statistics_count_tokens_and_leave_out_the_consumers_time():
    events_run = GenerationRun(MODEL, TOKENIZER, PROMPTS, options(max_new_tokens=5))
    import time

    began = time.perf_counter()
    for _ in events_run:
        time.sleep(0.005)
    stats, elapsed = events_run.stats, time.perf_counter() - began
    assert (stats.prompt_tokens, stats.new_tokens, stats.first_tokens) == (4 + 1 + 7, 20, 4)
    assert min(stats.prefill_seconds, stats.decode_seconds) > 0
    assert stats.prefill_seconds + stats.decode_seconds < elapsed - 20 * 0.005 + 1e-3
    assert stats.tokens_per_second == pytest.approx(16 / stats.decode_seconds)
    assert stats.prompt_tokens_per_second == pytest.approx(12 / stats.prefill_seconds)
    assert run([[BOS]], max_new_tokens=1)[0].stats.tokens_per_second is None


def test_a_stream_shows_one_sequence_and_fails_at_once():
    with pytest.raises(GenerationError, match="one sequence, num_return_sequences is 2"):
        stream(MODEL, TOKENIZER, [BOS], options(temperature=1, num_return_sequences=2))
    with pytest.raises(InputError, match="outside the vocabulary"):
        stream(MODEL, TOKENIZER, [10**6])
    with pytest.raises(GenerationError, match="stop_token_ids: id 999999 is outside"):
        stream(MODEL, TOKENIZER, [BOS], options(stop_token_ids=999_999))
    with pytest.raises(GenerationError, match="logit_bias: id 999999 is outside"):
        stream(MODEL, TOKENIZER, [BOS], options(logit_bias={999_999: 1}))


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Models this small gain nothing from threads, and lose a lot when the machine is busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

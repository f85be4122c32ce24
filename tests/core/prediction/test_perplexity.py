"""Perplexity in overlapping windows, against transformers computed window by window."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polyllama
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polyllama import Llama, PolyllamaWarning
from polyllama.core.prediction.perplexity import windows_of
from polyllama.extend import InputError, UnsupportedError
from prediction_models import TINY

STORY = (
    "Once upon a time there was a little dog named Max. He loved to play in the park with his friends. One day he saw "
    "a big red ball. He ran to the ball and picked it up. His friends were happy and they played all day."
)


@pytest.fixture(scope="module")
def llm() -> Llama:
    return Llama.load("tiny", backend="reference")


@pytest.fixture(scope="module")
def peer() -> Any:
    import transformers

    return transformers.LlamaForCausalLM.from_pretrained(TINY, dtype="float32").eval()


def by_the_document(peer: Any, ids: list[int], context: int, stride: int) -> tuple[float, float]:
    """The perplexity by transformers' own loss of each window: weighted by its labels, and as the document counts."""
    import torch

    total = documented = 0.0
    counted = counted_there = before = 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        row = torch.tensor([ids[begin:end]])
        labels = row.clone()
        labels[:, : -(end - before)] = -100
        with torch.no_grad():
            loss = peer(row, labels=labels).loss.item()
        predicted = int((labels[:, 1:] != -100).sum())  # transformers moves labels by one
        if predicted:
            total, counted = total + loss * predicted, counted + predicted
            there = end - before - 1
            documented, counted_there = documented + loss * there, counted_there + there
        before = end
        if end == len(ids):
            break
    return math.exp(total / counted), math.exp(documented / counted_there)


@pytest.mark.parametrize(("context", "stride"), [(64, 64), (32, 16), (24, 7), (16, 1), (10, 10), (512, 256)])
def test_equals_transformers_window_by_window(llm: Llama, peer: Any, context: int, stride: int) -> None:
    found = llm.perplexity(STORY, context=context, stride=stride)
    exact, _ = by_the_document(peer, llm.tokenizer.encode(STORY), context, stride)
    assert found.perplexity == pytest.approx(exact, rel=1e-5)
    assert found.loss == pytest.approx(math.log(exact), rel=1e-5)


def test_the_documents_own_count_follows_from_the_windows(llm: Llama, peer: Any) -> None:
    """Its code counts one token less in every window after the first; who wants that number can have it."""
    found = llm.perplexity(STORY, context=32, stride=16)
    exact, documented = by_the_document(peer, llm.tokenizer.encode(STORY), 32, 16)
    assert documented != pytest.approx(exact, rel=1e-2)
    counts = [window.predicted - (number > 0) for number, window in enumerate(found.windows)]
    losses = [window.loss for window in found.windows]
    assert math.exp(np.average(losses, weights=counts)) == pytest.approx(documented, rel=1e-5)


def test_a_text_within_the_context_is_one_pass(llm: Llama) -> None:
    ids = llm.tokenizer.encode(STORY)
    logits = np.asarray(llm.forward([ids]).logits[0], np.float64)
    log_probs = (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )
    wanted = -np.mean([log_probs[place, after] for place, after in enumerate(ids[1:])])
    found = llm.perplexity(STORY)
    assert found.loss == pytest.approx(wanted, rel=1e-7)  # logits come as float32
    assert (found.tokens, found.predicted) == (len(ids), len(ids) - 1)
    assert [(window.begin, window.end) for window in found.windows] == [(0, len(ids))]


@given(st.integers(2, 200), st.integers(2, 60), st.data())
def test_windows_predict_each_token_once(tokens: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    seen: list[int] = []
    for begin, end, predicted in windows_of(tokens, context, stride):
        assert 0 <= begin < end <= tokens and end - begin <= context
        assert begin < end - predicted  # the first of them has something before it
        seen += range(end - predicted, end)
    assert seen == sorted(set(seen))
    missing = sorted(set(range(tokens)) - set(seen))
    assert missing == ([0] if stride < context else list(range(0, tokens, stride)))


def test_token_ids_and_sizes_by_default(llm: Llama) -> None:
    ids = llm.tokenizer.encode(STORY)
    by_ids = llm.perplexity(np.array(ids))
    assert by_ids.perplexity == llm.perplexity(STORY).perplexity == llm.perplexity(ids).perplexity
    assert (by_ids.context, by_ids.stride) == (512, 256)
    config = llm.config.model_copy(update={"max_position_embeddings": 131072})
    big = Llama.load(config, load_format="dummy", backend="reference")
    assert big.perplexity(ids[:4]).context == 2048


def test_how_far_it_is_and_how_fast(llm: Llama) -> None:
    told: list[tuple[int, int]] = []
    found = llm.perplexity(STORY, context=32, stride=16, progress=lambda done, total: told.append((done, total)))
    count = len(found.windows)
    assert told == [(number, count) for number in range(1, count + 1)] and count > 2
    assert found.processed == sum(window.end - window.begin for window in found.windows) > found.tokens
    assert found.tokens_per_second == found.processed / found.seconds > 0


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, "the text has 1 token, and the first one is not predicted"),
        ([], {}, "the text has 0 tokens"),
        ([5], {}, "the text has 1 token"),
        (b"Once upon", {}, "text is a bytes, wanted a text or a list of token ids"),
        (3.5, {}, "text is a float, wanted a text or a list of token ids"),
        ([1, True], {}, "wanted a text or a list of token ids"),
        (STORY, {"context": 1}, "context is 1, wanted a whole number from 2 up"),
        (STORY, {"context": 600}, "context is 600, the model's is 512"),
        (STORY, {"context": 2.5}, "context is 2.5, wanted"),
        (STORY, {"stride": 0}, "stride is 0, wanted a whole number from 1 to the context, 512"),
        (STORY, {"context": 8, "stride": 9}, "stride is 9, wanted .* 8; a larger one would leave tokens out"),
        ([1, 99999], {}, "99999"),
    ],
)
def test_what_is_refused(llm: Llama, text: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        llm.perplexity(text, **options)


def test_only_a_language_model_has_one() -> None:
    llm = Llama.load("tiny-sentiment", backend="reference")
    with pytest.raises(UnsupportedError, match=r"does not predict the next token.*task='causal-lm'"):
        llm.perplexity(STORY)


def test_logits_that_are_no_numbers_are_named(llm: Llama) -> None:
    config = llm.config.model_copy(update={"num_hidden_layers": 1})
    broken = Llama.load(config, load_format="dummy", backend="torch", dtype="float32")
    broken.module.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(polyllama.extend.BackendError, match="NaN on torch in float32"):
        broken.perplexity([1, 2, 3])


def test_a_text_with_a_bos_token_of_its_own_is_said() -> None:
    llm = Llama.load("tiny", backend="reference")
    with pytest.warns(PolyllamaWarning, match="the text begins with '<s>', .*the model is given two"):
        llm.perplexity("<s>Once upon a time")

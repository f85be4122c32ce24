"""Sampling beams: continuations drawn without replacement, by the exact probabilities, the same ones everywhere."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from polyllama import Llama
from polyllama.core.generation.beams import Beam, BeamRules, BeamSearch
from polyllama.core.generation.logit_processing import LogitProcessor, Processing
from polyllama.core.generation.sampling import Filters, filter_logits
from tiny_models import ALL_BACKENDS

SIZES = {
    "vocab_size": 7, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "initializer_range": 0.3, "eos_token_id": 2,
    "bos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
PROMPTS = [[5, 6, 3, 4], [3, 1, 6, 5, 3, 3], [3, 4]]
EMPTY = pytest.mark.filterwarnings("ignore:generated texts stay empty")


def search(seed: int | None, vocab: int, **rules: Any) -> BeamSearch:
    first = Beam(LogitProcessor(Processing(), vocab, []))
    return BeamSearch(first, BeamRules(seed=seed, **rules), lambda beam: False)


def outlier(seen: Counter[Any], wanted: dict[Any, float]) -> float:
    """How unlikely the counts are by Pearson's statistic, in standard deviations of it; rare ones taken together."""
    total = sum(seen.values())
    assert set(seen) <= {key for key, share in wanted.items() if share > 0}
    often = [key for key, share in wanted.items() if share * total >= 5]
    pairs = [(seen[key], wanted[key] * total) for key in often]
    rest = total - sum(want for _, want in pairs)
    if rest >= 5:
        pairs.append((total - sum(count for count, _ in pairs), rest))
    free = len(pairs) - 1
    statistic = sum((count - want) ** 2 / want for count, want in pairs)
    return (statistic - free) / (2 * free) ** 0.5


def test_draws_are_without_replacement_by_the_exact_probabilities() -> None:
    """Two beams of unequal scores over three ids: every ordered draw of four continuations out of six."""
    first = np.log(np.array([[0.6, 0.3, 0.1]] * 2))
    second = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]))
    totals = (second + np.array([[-0.4], [-1.3]])).reshape(-1)
    shares = np.exp(totals) / np.exp(totals).sum()
    wanted: dict[Any, float] = {}
    for order in itertools.permutations(range(6), 4):
        left, share = 1.0, 1.0
        for place in order:
            share *= shares[place] / left
            left -= shares[place]
        wanted[order] = share
    assert sum(wanted.values()) == pytest.approx(1)
    seen: Counter[Any] = Counter()
    for seed in range(10_000):
        beams = search(seed, 3, beams=2, longest=5)
        beams.step(first)
        beams.running[0].score, beams.running[1].score = np.float32(-0.4), np.float32(-1.3)
        values, places = beams._continuations(np.float32(second + np.array([[-0.4], [-1.3]])))
        assert values.tolist() == pytest.approx(totals[places].tolist(), abs=1e-6)
        seen[tuple(places.tolist())] += 1
    assert abs(outlier(seen, wanted)) < 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("model")
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    "asked",
    [
        {"temperature": 1.5, "eos_token_id": []},
        {"top_k": 3, "temperature": 0.8},
        {"top_p": 0.85, "length_penalty": 2.0, "early_stopping": True},
        {"min_p": 0.3, "renormalize_logits": True, "temperature": 2.0},
        {"typical_p": 0.8, "repetition_penalty": 1.5},
    ],
    ids=" ".join,
)
@EMPTY
def test_texts_come_as_often_as_transformers(folder, asked):
    """Thousands of texts of two or three tokens, of theirs and ours: as often up to chance."""
    count, many = 1500, {"do_sample": True, "num_beams": 2, "max_new_tokens": 3, "top_k": 0} | asked
    model = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    llm = Llama.load(folder, backend="reference", dtype="float32")
    if not many.get("eos_token_id", True):
        many["eos_token_id"] = None
    torch.manual_seed(11)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.generation_config.eos_token_id = many.get("eos_token_id", 2)
        want = model.generate(torch.tensor([PROMPTS[0]] * count), **many)[:, 4:].tolist()
    many["eos_token_id"] = asked.get("eos_token_id", 2)
    found = llm.generate([PROMPTS[0]] * count, **many, seed=4)
    cut = [tuple(ids[: ids.index(2) + 1] if 2 in ids and many["eos_token_id"] == 2 else ids) for ids in want]
    theirs, ours = Counter(cut), Counter(tuple(result.token_ids) for result in found)
    # Of two samples of one size, the difference of a count has twice its variance.
    keys = [key for key in {*theirs, *ours} if theirs[key] + ours[key] >= 20]
    statistic = sum((theirs[key] - ours[key]) ** 2 / (theirs[key] + ours[key]) for key in keys)
    assert len(keys) >= 3
    assert abs(statistic - len(keys)) / (2 * len(keys)) ** 0.5 < 5, (theirs.most_common(5), ours.most_common(5))


@EMPTY
def test_the_same_draws_on_every_backend_and_in_every_company(folder):
    asked = {"do_sample": True, "num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 12, "seed": 9, "top_k": 6}

    def ids(results: Any) -> Any:
        return [[result.token_ids for result in group] for group in results]

    found = [Llama.load(folder, backend=backend, dtype="float32") for backend in ALL_BACKENDS]
    want = ids(found[0].generate(PROMPTS, **asked))
    assert want != ids(found[0].generate(PROMPTS, **asked | {"seed": 10}))
    for llm in found:
        assert ids(llm.generate(PROMPTS, **asked)) == want
        assert ids(llm.generate(PROMPTS, **asked, batch_size=1)) == want
        assert ids([llm.generate(PROMPTS[0], **asked)]) == want[:1]


@pytest.mark.parametrize("filters", [{"top_k": 1}, {"top_p": 0.01}, {"min_p": 1.0}, {"typical_p": 0.01}])
def test_filters_keep_enough_for_beams_to_go_on(filters: dict[str, Any]) -> None:
    from transformers import LogitsProcessorList
    from transformers.generation import logits_process as theirs

    names = {"top_k": "TopK", "top_p": "TopP", "min_p": "MinP", "typical_p": "Typical"}
    [(name, value)] = filters.items()
    warper = getattr(theirs, f"{names[name]}LogitsWarper")(value, min_tokens_to_keep=4)
    logits = np.random.default_rng(2).normal(size=40)
    want = LogitsProcessorList([warper])(None, torch.tensor(logits[None]))[0]
    found = filter_logits(logits, Filters(**filters, least=4)).token_ids
    assert len(found) == 4 and found.tolist() == np.flatnonzero(np.isfinite(want.numpy())).tolist()

"""The deterministic sampler and the logit processors, against transformers, plain Python and statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from polyllama.core.errors import GenerationError
from polyllama.core.generation.logit_processing import LogitProcessor, Processing
from polyllama.core.generation.sampling import (
    Candidates,
    Filters,
    filter_logits,
    greedy,
    gumbel_noise,
    keep_top_p,
    noise_key,
    sample,
    splitmix64,
    splitmix64_array,
    token_logprob,
    uniforms,
)

MASK = (1 << 64) - 1

# The first example that imports torch takes seconds, and a busy machine is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


# ---------------------------------------------------------------------------------------------- the random stream


def test_splitmix64_gives_the_published_values():
    # Published outputs of the reference implementation for seeds 1234567 and 0.
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [splitmix64(1234567, i) for i in range(5)] == expected
    zero = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]
    assert [splitmix64(0, i) for i in range(5)] == zero


@given(st.integers(0, MASK), st.lists(st.integers(0, 200_000), min_size=1, max_size=20))
def test_the_array_form_is_the_scalar_form(seed, indices):
    assert splitmix64_array(seed, np.array(indices)).tolist() == [splitmix64(seed, i) for i in indices]


def test_uniforms_never_reach_the_ends():
    # The extreme outputs of the generator, through the same arithmetic.
    for bits in (0, MASK):
        u = ((bits >> 12) + 0.5) * 2.0**-52
        assert 0 < u < 1 and math.isfinite(-math.log(-math.log(u)))
    ids = np.arange(300_000)
    u = uniforms(noise_key(3, 1, 2), ids)
    assert u.tolist()[:50] == [((splitmix64(noise_key(3, 1, 2), i) >> 12) + 0.5) * 2.0**-52 for i in range(50)]
    assert 0 < u.min() < 1e-4 and 1 - 1e-4 < u.max() < 1


def z_of_chi_square(counts: np.ndarray) -> float:
    """How many standard deviations chi-square is from what equally likely cells give."""
    expected = counts.sum() / counts.size
    chi_square = ((counts - expected) ** 2 / expected).sum()
    return float((chi_square - (counts.size - 1)) / math.sqrt(2 * (counts.size - 1)))


def test_noise_is_uniform_along_every_coordinate():
    n = 20_000
    along_tokens = uniforms(noise_key(7, 0, 0), np.arange(n))
    one = np.array([17])
    along_steps = np.array([uniforms(noise_key(7, 0, step), one)[0] for step in range(n)])
    along_rows = np.array([uniforms(noise_key(7, row, 0), one)[0] for row in range(n)])
    along_seeds = np.array([uniforms(noise_key(seed, 0, 0), one)[0] for seed in range(n)])
    for u in (along_tokens, along_steps, along_rows, along_seeds):
        assert abs(z_of_chi_square(np.bincount((u * 100).astype(int), minlength=100))) < 4
        # neighbours along the coordinate are independent: pairs fill a 20 by 20 grid evenly
        pairs = (u[:-1:2] * 20).astype(int) * 20 + (u[1::2] * 20).astype(int)
        assert abs(z_of_chi_square(np.bincount(pairs, minlength=400))) < 4


def test_streams_of_neighbouring_keys_are_independent():
    ids = np.arange(20_000)
    base = uniforms(noise_key(7, 0, 0), ids)
    for other in (noise_key(7, 0, 1), noise_key(7, 1, 0), noise_key(8, 0, 0), noise_key(0, 0, 7)):
        u = uniforms(other, ids)
        cells = (base * 20).astype(int) * 20 + (u * 20).astype(int)
        assert abs(z_of_chi_square(np.bincount(cells, minlength=400))) < 4
        assert abs(np.corrcoef(base, u)[0, 1]) < 0.03


def test_gumbel_noise_has_its_mean_and_variance():
    noise = gumbel_noise(noise_key(5, 0, 0), np.arange(200_000))
    assert abs(noise.mean() - np.euler_gamma) < 0.015
    assert abs(noise.var() - math.pi**2 / 6) < 0.03


def plain_python_sample(logits: list[float], temperature: float, seed: int, row: int, step: int) -> int:
    """The documented algorithm once more, one token at a time, with Python integers and floats."""

    def output(state: int, index: int) -> int:
        z = (state + (index + 1) * 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    key = output(output(seed, row), step)
    best, winner = -math.inf, -1
    for token_id, logit in enumerate(logits):
        u = ((output(key, token_id) >> 12) + 0.5) / 2**52
        score = (logit - max(logits)) / temperature - math.log(-math.log(u))
        if score > best:
            best, winner = score, token_id
    return winner


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=40),
    st.floats(0.1, 3),
    st.integers(0, MASK),
    st.integers(0, 1000),
    st.integers(0, 100_000),
)
def test_sampling_is_the_documented_algorithm(logits, temperature, seed, row, step):
    got = sample(np.array(logits, np.float32), Filters(temperature), seed=seed, row=row, step=step)
    assert got == plain_python_sample(logits, temperature, seed, row, step)


def test_tokens_are_pinned_across_versions():
    # These may never change: users' seeds depend on them. (Computed once by plain_python_sample.)
    logits = np.log(np.arange(1, 33, dtype=np.float64))
    drawn = [sample(logits, Filters(0.9), seed=7, row=row, step=step) for row in range(2) for step in range(8)]
    assert drawn == [plain_python_sample(logits.tolist(), 0.9, 7, row, step) for row in range(2) for step in range(8)]
    assert drawn == [16, 25, 31, 24, 1, 30, 16, 26, 11, 16, 25, 24, 31, 31, 14, 17]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability(temperature):
    logits = np.array([0.3, -1.0, 1.2, 0.0, 2.0, -2.5], np.float32)
    probabilities = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    n = 20_000
    drawn = [sample(logits, Filters(temperature), seed=11, row=0, step=step) for step in range(n)]
    counts = np.bincount(drawn, minlength=6)
    chi_square = ((counts - n * probabilities) ** 2 / (n * probabilities)).sum()
    assert chi_square < 25  # 5 degrees of freedom: exceeded by chance once in 7000


def test_rounding_differences_between_backends_hardly_ever_flip_a_token():
    random = np.random.default_rng(0)
    flips = 0
    for step in range(2000):
        logits = random.normal(size=512).astype(np.float32) * 3
        nudged = logits * (1 + random.uniform(-1e-6, 1e-6, 512)).astype(np.float32)
        for filters in (Filters(0.8), Filters(0.8, top_k=40, top_p=0.9), Filters(1.0, min_p=0.05)):
            before, after = (sample(row, filters, seed=step, row=0, step=0) for row in (logits, nudged))
            flips += before != after
    assert flips <= 1
    # ... and the check would notice: nudging by a percent flips plenty
    coarse = logits * (1 + random.uniform(-0.05, 0.05, 512)).astype(np.float32)
    keys = [{"seed": s, "row": 0, "step": 0} for s in range(300)]
    assert sum(sample(logits, Filters(), **k) != sample(coarse, Filters(), **k) for k in keys) > 5


def test_row_and_step_and_seed_each_change_the_token():
    flat = np.zeros(1000)
    base = [sample(flat, Filters(), seed=1, row=0, step=step) for step in range(20)]
    assert len(set(base)) > 15
    assert base != [sample(flat, Filters(), seed=1, row=1, step=step) for step in range(20)]
    assert base != [sample(flat, Filters(), seed=2, row=0, step=step) for step in range(20)]


# ------------------------------------------------------------------------------------- filters, against transformers

# Few distinct values, so that ties are the rule; and wide ones, on a grid: what differs only in the last bit of a
# float64 may tie in one formula and not in another.
TIED = st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=60)
WIDE = st.lists(st.integers(-30_000, 30_000).map(lambda n: n / 1024), min_size=2, max_size=60)
LOGITS = st.one_of(TIED, WIDE)


def kept_by(warper, logits) -> np.ndarray:
    import torch

    scores = warper(None, torch.tensor(np.asarray(logits, np.float64))[None])
    return np.flatnonzero(np.isfinite(scores[0].numpy()))


def same_values(ids: np.ndarray, other: np.ndarray, logits) -> bool:
    values = np.asarray(logits)
    return sorted(values[ids].tolist()) == sorted(values[other].tolist())


def lowest_ids_win(ids: np.ndarray, logits) -> bool:
    """Among tokens of one value, those that were kept have the lowest ids."""
    values, kept = np.asarray(logits), set(ids.tolist())
    return all(
        kept & set(tied) == set(tied[: len(kept & set(tied))])
        for value in set(values.tolist())
        if (tied := np.flatnonzero(values == value).tolist())
    )


@given(LOGITS, st.integers(1, 70))
def test_top_k(logits, k):
    from transformers.generation.logits_process import TopKLogitsWarper

    ours = filter_logits(np.array(logits, np.float32), Filters(top_k=k)).token_ids
    theirs = kept_by(TopKLogitsWarper(k), logits)
    # transformers keeps everything that ties with the k-th; here exactly k are kept, so that top_k=1 is greedy
    assert len(ours) == min(k, len(logits))
    assert set(ours) <= set(theirs) and lowest_ids_win(ours, logits)
    surplus = np.setdiff1d(theirs, ours)
    assert all(logits[i] == min(logits[j] for j in ours) for i in surplus)


def far_from_boundary(logits, top_p) -> bool:
    p = np.sort(np.exp(np.asarray(logits) - max(logits)))[::-1]
    return bool(np.min(np.abs(np.cumsum(p / p.sum()) - top_p)) > 1e-9)


@given(LOGITS, st.floats(0.01, 0.999))
def test_top_p(logits, top_p):
    from transformers.generation.logits_process import TopPLogitsWarper

    assume(far_from_boundary(logits, top_p))
    ours = filter_logits(np.array(logits), Filters(top_p=top_p)).token_ids
    assert same_values(ours, kept_by(TopPLogitsWarper(top_p), logits), logits)
    assert lowest_ids_win(ours, logits)


@pytest.mark.parametrize("scale", [0.5, 2.0, 6.0])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_of_a_large_vocabulary(scale, top_p):
    from transformers.generation.logits_process import TopPLogitsWarper

    logits = np.random.default_rng(3).normal(size=20_000) * scale
    ours = filter_logits(logits, Filters(top_p=top_p)).token_ids
    assert np.array_equal(ours, kept_by(TopPLogitsWarper(top_p), logits))


@given(LOGITS, st.floats(0.001, 1))
def test_min_p(logits, min_p):
    from transformers.generation.logits_process import MinPLogitsWarper

    gaps = np.asarray(logits) - max(logits) - math.log(min_p)
    assume(min_p == 1 or np.min(np.abs(gaps)) > 1e-9)
    ours = filter_logits(np.array(logits), Filters(min_p=min_p)).token_ids
    assert np.array_equal(ours, kept_by(MinPLogitsWarper(min_p), logits))


@given(LOGITS, st.floats(0.01, 0.99))
def test_typical_p(logits, mass):
    from transformers.generation.logits_process import TypicalLogitsWarper

    p = np.exp(np.asarray(logits) - max(logits))
    p /= p.sum()
    distance = np.abs(-np.log(p) + (p * np.log(p)).sum())
    order = np.argsort(distance, kind="stable")
    sums, gaps = np.cumsum(p[order]), np.diff(distance[order])
    # Rounding decides where a sum hits the mass, or where different tokens are equally typical but for the last bit.
    assume(np.min(np.abs(sums - mass)) > 1e-9 and not np.any((gaps > 0) & (gaps < 1e-9)))
    same = np.abs(np.subtract.outer(distance, distance)) < 1e-9
    assume(np.array_equal(same, np.equal.outer(np.asarray(logits), np.asarray(logits))))
    ours = filter_logits(np.array(logits), Filters(typical_p=mass)).token_ids
    assert np.array_equal(ours, kept_by(TypicalLogitsWarper(mass), logits))


def test_typical_p_passes_over_forbidden_tokens():
    kept = filter_logits(np.array([-np.inf, 1.0, 0.0, -np.inf, -3.0]), Filters(typical_p=0.9))
    alone = filter_logits(np.array([1.0, 0.0, -3.0]), Filters(typical_p=0.9))
    assert kept.token_ids.tolist() == [[1, 2, 4][i] for i in alone.token_ids]


@given(LOGITS)
@example([-1e-19, 0.0])  # equally likely in float64, but not equal
def test_top_k_of_one_and_a_tiny_top_p_are_greedy(logits):
    row = np.array(logits, np.float32)
    best = greedy(row, row=0, step=0)
    assert best == int(np.flatnonzero(row == row.max())[0])
    for filters in (Filters(top_k=1), Filters(top_p=1e-9), Filters(temperature=1e-300, top_k=1)):
        assert sample(row, filters, seed=5, row=2, step=9) == best


def test_a_temperature_near_zero_does_not_overflow():
    assert sample(np.array([1e4, 1e4 + 1, -1e4]), Filters(1e-308), seed=1, row=0, step=0) == 1


def test_the_prefilter_of_top_p_keeps_ties_by_id():
    logits = np.zeros(5000)
    logits[[4000, 10, 2500]] = 12.0
    kept = keep_top_p(Candidates(np.arange(5000), logits - 12.0), 0.6)
    assert kept.token_ids.tolist() == [10, 2500]


@settings(max_examples=60)
@given(
    st.integers(0, 10_000),
    st.floats(0.2, 2),
    st.sampled_from([0, 1, 5, 30]),
    st.sampled_from([1.0, 0.9, 0.5]),
    st.sampled_from([0.0, 0.02, 0.3]),
    st.sampled_from([1.0, 0.8, 0.4]),
    st.sampled_from([1.0, 1.3, 0.8]),
    st.sampled_from([0, 1, 2, 3]),
)
def test_everything_together_in_the_order_of_transformers(
    case, temperature, top_k, top_p, min_p, typical_p, penalty, ngram
):
    import torch

    random = np.random.default_rng(case)
    vocab, prompt_length = 64, 6
    logits = random.normal(size=vocab) * 4
    ids = random.integers(0, 8, 12).tolist()
    bias = {(3,): 4.0, (9,): -2.5, (12,): 1.0}
    eos = [12, 40]

    scores = hf_processors(
        {
            "do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p or None,
            "typical_p": typical_p, "repetition_penalty": penalty, "no_repeat_ngram_size": ngram,
            "min_new_tokens": 7, "sequence_bias": bias, "eos_token_id": eos,
        },
        prompt_length,
    )(torch.tensor([ids]), torch.tensor(logits)[None])[0].numpy()  # fmt: skip

    processing = Processing(
        logit_bias=tuple((key[0], value) for key, value in bias.items()),
        repetition_penalty=penalty,
        no_repeat_ngram_size=ngram,
        min_new_tokens=7,
        ending=tuple(eos),
    )
    processor = LogitProcessor(processing, vocab, ids[:prompt_length])
    for token_id in ids[prompt_length:]:
        processor.append(token_id)
    ours = filter_logits(processor(logits), Filters(temperature, top_k, top_p, min_p, typical_p))
    possible = np.isfinite(ours.logits)
    assert ours.token_ids[possible].tolist() == np.flatnonzero(np.isfinite(scores)).tolist()
    expected = scores[ours.token_ids[possible]]
    kept = ours.logits[possible]
    np.testing.assert_allclose(kept - kept.max(), expected - expected.max(), rtol=1e-6, atol=1e-6)


def hf_processors(options, prompt_length):
    """transformers' own list of processors, in its own order."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    if not hasattr(hf_processors, "model"):
        shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        hf_processors.model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape))
    config = GenerationConfig(**options)
    config._eos_token_tensor = torch.tensor(options["eos_token_id"])
    return hf_processors.model._get_logits_processor(config, input_ids_seq_length=prompt_length, device="cpu")


# ---------------------------------------------------------------------------------- processors, against transformers

IDS = st.lists(st.integers(0, 9), min_size=1, max_size=30)


def processed(logits, prompt, generated, **processing) -> np.ndarray:
    processor = LogitProcessor(Processing(**processing), len(logits), prompt)
    for token_id in generated:
        processor.append(token_id)
    return processor(np.asarray(logits, np.float64))


@given(IDS, IDS, st.floats(0.1, 3), st.integers(0, 1000))
def test_repetition_penalty(prompt, generated, penalty, case):
    import torch
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    logits = np.random.default_rng(case).normal(size=12)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([prompt + generated]), torch.tensor(logits)[None])
    ours = processed(logits, prompt, generated, repetition_penalty=penalty)
    np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=1e-12)


@given(IDS, IDS, st.integers(1, 5))
def test_no_repeat_ngram_size(prompt, generated, size):
    import torch
    from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

    theirs = NoRepeatNGramLogitsProcessor(size)(torch.tensor([prompt + generated]), torch.zeros(1, 12))
    ours = processed(np.zeros(12), prompt, generated, no_repeat_ngram_size=size)
    assert np.array_equal(ours, theirs[0].numpy())


@given(IDS, IDS, st.integers(0, 12))
def test_min_new_tokens(prompt, generated, minimum):
    import torch
    from transformers.generation.logits_process import MinNewTokensLengthLogitsProcessor

    theirs = MinNewTokensLengthLogitsProcessor(len(prompt), minimum, [2, 5])(
        torch.tensor([prompt + generated]), torch.zeros(1, 12)
    )
    ours = processed(np.zeros(12), prompt, generated, min_new_tokens=minimum, ending=(2, 5))
    assert np.array_equal(ours, theirs[0].numpy())


@given(st.dictionaries(st.integers(0, 11), st.floats(-50, 50), min_size=1), st.integers(0, 1000))
def test_logit_bias(bias, case):
    import torch
    from transformers.generation.logits_process import SequenceBiasLogitsProcessor

    logits = np.random.default_rng(case).normal(size=12)
    pairs = [[[token_id], float(value)] for token_id, value in bias.items()]
    theirs = SequenceBiasLogitsProcessor(pairs)(torch.tensor([[1]]), torch.tensor(logits)[None])[0].numpy()
    ours = processed(logits, [1], [], logit_bias=tuple(bias.items()))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-5)


@given(IDS, IDS, st.floats(-2, 2), st.floats(-2, 2))
def test_presence_and_frequency_penalties_count_generated_tokens_only(prompt, generated, presence, frequency):
    logits = np.linspace(-1, 1, 12)
    # OpenAI's formula, token by token: mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence
    expected = [
        mu - generated.count(j) * frequency - float(generated.count(j) > 0) * presence for j, mu in enumerate(logits)
    ]
    ours = processed(logits, prompt, generated, presence_penalty=presence, frequency_penalty=frequency)
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


def test_with_nothing_to_do_the_logits_are_not_copied():
    logits = np.zeros(5, np.float32)
    assert LogitProcessor(Processing(min_new_tokens=1, ending=()), 5, [1])(logits) is logits
    held = LogitProcessor(Processing(min_new_tokens=1, ending=(2,)), 5, [1])
    assert held(logits)[2] == -np.inf and logits[2] == 0
    held.append(0)
    assert held(logits) is logits


# ------------------------------------------------------------------------------------------- bad logits, logprobs


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ([0.0, float("nan"), 1.0], "NaN"),
        ([0.0, float("inf")], "infinity"),
        ([float("-inf")] * 3, "every logit is -inf"),
    ],
)
def test_logits_that_no_token_can_be_drawn_from(values, what):
    logits = np.array(values, np.float32)
    with pytest.raises(GenerationError, match=f"row 4, step 9: .*{what}"):
        greedy(logits, row=4, step=9)
    for filters in (Filters(), Filters(top_k=1), Filters(0.5, 2, 0.9, 0.1, 0.9)):
        with pytest.raises(GenerationError, match=f"row 4, step 9: .*{what}"):
            sample(logits, filters, seed=1, row=4, step=9)


def test_forbidden_tokens_are_never_drawn():
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0])
    for filters in (Filters(), Filters(top_k=4), Filters(top_p=0.999), Filters(min_p=0.01), Filters(typical_p=0.99)):
        assert {sample(logits, filters, seed=1, row=0, step=step) for step in range(50)} == {1, 3}


@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=50), st.integers(0, 60), st.data())
def test_logprobs(logits, top, data):
    import torch

    token_id = data.draw(st.integers(0, len(logits) - 1))
    expected = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), 0).numpy()
    got = token_logprob(np.array(logits, np.float32), token_id, top)
    assert got.token_id == token_id and got.logprob == pytest.approx(expected[token_id], abs=1e-12)
    ranked = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:top]
    assert [i for i, _ in got.top] == ranked
    np.testing.assert_allclose([p for _, p in got.top], expected[ranked], atol=1e-12)

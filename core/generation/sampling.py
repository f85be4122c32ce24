"""Turning one row of logits into one token: filters, and the deterministic sampler.

Sampling is one algorithm on every backend. Its noise does not come from a stateful generator but from a counter: the
noise of a token is a pure function of ``(seed, row, step, token id)``, so it depends neither on the backend nor on how
rows are batched, and the same logits and seed give the same token. The token is chosen with the Gumbel-max trick
(Yellott 1977; Maddison et al. 2014): ``argmax(logit / temperature + gumbel)`` over the kept candidates is distributed
as the softmax over them. Adding noise to logits, rather than walking a cumulative sum, makes the choice insensitive to
rounding: a difference of 1e-6 in the logits flips a token only where two candidates are that close.

Everything here is float64, and every tie goes to the lower token id.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GenerationError
from ..messages import mention

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    TokenIds = NDArray[np.int64]

_MASK64 = (1 << 64) - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
# Below this many candidates a plain sort is cheaper than looking for a smaller set to sort.
_SMALL = 1024
_MOST_OF_TOP_H = 100  # of so many likeliest tokens top_h chooses, as its authors' code and transformers have it


def splitmix64(seed: int, index: int) -> int:
    """Return output ``index`` of the SplitMix64 stream of ``seed``, as an integer below 2**64.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (the finalizer is
    Stafford's variant 13, as in Vigna's public-domain splitmix64.c).

    >>> splitmix64(1234567, 0)
    6457827717110365317
    """
    z = (seed + (index + 1) * _GOLDEN_GAMMA) & _MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)


def splitmix64_array(seed: int, indices: TokenIds) -> NDArray[np.uint64]:
    """Return the outputs at ``indices`` of the SplitMix64 stream of ``seed``: `splitmix64` on a whole array.

    >>> splitmix64_array(1234567, np.array([0, 1])).tolist()
    [6457827717110365317, 3203168211198807973]
    """
    z = indices.astype(np.uint64)
    z *= np.uint64(_GOLDEN_GAMMA)
    z += np.uint64((seed + _GOLDEN_GAMMA) & _MASK64)
    shifted = z >> np.uint64(30)
    z ^= shifted
    z *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(z, np.uint64(27), out=shifted)
    z ^= shifted
    z *= np.uint64(0x94D049BB133111EB)
    np.right_shift(z, np.uint64(31), out=shifted)
    z ^= shifted
    return z


def noise_key(seed: int, row: int, step: int) -> int:
    """Return the seed of the noise of one step of one row.

    The streams nest: the request's seed gives each row a seed, the row's gives each step one, and the step's stream,
    indexed by token id, is the noise. For one row no two steps share a key, as SplitMix64 does not repeat.

    >>> noise_key(7, row=0, step=0) == splitmix64(splitmix64(7, 0), 0)
    True
    """
    return splitmix64(splitmix64(seed, row), step)


def uniforms(key: int, token_ids: TokenIds) -> NDArray[np.float64]:
    """Return one number per token id, uniform on the open interval (0, 1).

    The top 52 bits, centred in their cell: with 53 the last cell would round to 1.0, whose Gumbel noise is infinite.

    >>> float(uniforms(splitmix64(7, 0), np.array([3]))[0]) < 1.0
    True
    """
    cells = (splitmix64_array(key, token_ids) >> np.uint64(12)).astype(np.float64)
    cells += 0.5
    cells *= 2.0**-52
    return cells


def gumbel_noise(key: int, token_ids: TokenIds) -> NDArray[np.float64]:
    """Return standard Gumbel noise, ``-log(-log(u))``, for each token id.

    >>> bool(np.all(np.isfinite(gumbel_noise(1, np.arange(1000)))))
    True
    """
    noise = uniforms(key, token_ids)
    np.log(noise, out=noise)
    np.negative(noise, out=noise)
    np.log(noise, out=noise)
    return np.negative(noise, out=noise)


@dataclass(frozen=True)
class Filters:
    """Which tokens may be drawn, and how sharply: applied in this order, each on what the one before it kept.

    Temperature divides the logits; ``top_k`` (0 is off) keeps the k likeliest; ``top_p`` the likeliest that together
    reach that probability (Holtzman et al. 2020); ``min_p`` those at least that fraction as likely as the likeliest
    (Nguyen et al. 2024); ``typical_p`` those whose surprise is closest to the entropy (Meister et al. 2023);
    ``epsilon_cutoff`` those at least that likely, ``eta_cutoff`` those at least as likely as a limit which falls with
    the entropy (Hewitt et al. 2022). ``top_h``, which comes before ``top_k``, keeps the likeliest of a hundred whose
    share of the entropy stays below that fraction (Potraghloo et al. 2025). Each but ``top_h`` keeps ``least`` tokens,
    where there are so many: beams need several to go on by.

    >>> Filters(temperature=0.8, top_k=40).top_p
    1.0
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    top_h: float | None = None
    least: int = 1


@dataclass(frozen=True)
class Candidates:
    """The tokens still in play: ids in ascending order and their logits, float64, up to a constant; none above 0."""

    token_ids: TokenIds
    logits: NDArray[np.float64]

    def keep(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Candidates:
        return Candidates(self.token_ids[which], self.logits[which])

    def probabilities(self) -> NDArray[np.float64]:
        weights = np.exp(self.logits)
        weights /= weights.sum()
        return weights


def _largest(values: Floats, count: int) -> NDArray[np.intp]:
    """Return the ascending indices of the ``count`` largest values, the lower index winning a tie."""
    if count >= values.size:
        return np.arange(values.size)
    smallest_kept = np.partition(values, values.size - count)[values.size - count]
    at_least = np.flatnonzero(values >= smallest_kept)
    if at_least.size == count:
        return at_least
    tied = values[at_least] == smallest_kept
    surplus = at_least.size - count
    return np.delete(at_least, np.flatnonzero(tied)[-surplus:])


def best(values: Floats, count: int) -> NDArray[np.int64]:
    """Return the places of the ``count`` largest of ``[n]`` values, the largest first, the lower place among equals.

    >>> best(np.array([1.0, 3.0, 3.0, 2.0]), 3).tolist()
    [1, 2, 3]
    """
    found = _largest(values, count)
    ordered: NDArray[np.int64] = found[np.argsort(-values[found], kind="stable")]
    return ordered


def keep_top_p(candidates: Candidates, top_p: float, least: int = 1) -> Candidates:
    """Keep the fewest likeliest tokens whose probabilities reach ``top_p``: at least one, ties to the lower id.

    Args:
        least: so many are kept at least.

    >>> five = Candidates(np.arange(5), np.log(np.array([0.4, 0.3, 0.1, 0.1, 0.1]) / 0.4))
    >>> keep_top_p(five, 0.75).token_ids.tolist()
    [0, 1, 2]
    """
    probabilities = candidates.probabilities()
    contenders = probabilities
    if contenders.size > _SMALL:
        # Tokens below (1 - top_p) / n sum to less than 1 - top_p, so none of them can be in the nucleus: not sorted.
        contenders = contenders[contenders >= (1.0 - top_p) / contenders.size]
    descending = np.sort(contenders)[::-1]
    mass_before = np.cumsum(descending) - descending
    count = max(least, int(np.count_nonzero(mass_before < top_p)))
    return candidates.keep(_largest(candidates.logits, count))


def keep_min_p(candidates: Candidates, min_p: float, least: int = 1) -> Candidates:
    """Keep the tokens at least ``min_p`` times as likely as the likeliest one, and `least` tokens at least.

    >>> keep_min_p(Candidates(np.arange(3), np.log(np.array([1.0, 0.5, 0.1]))), 0.2).token_ids.tolist()
    [0, 1]
    """
    enough = candidates.logits >= candidates.logits.max() + math.log(min_p)
    if least > 1:
        enough[_largest(candidates.logits, least)] = True
    return candidates.keep(enough)


def keep_typical(candidates: Candidates, typical_p: float, least: int = 1) -> Candidates:
    """Keep the tokens whose surprise is closest to the entropy, until they reach ``typical_p``; ties are all kept.

    Args:
        least: so many are kept at least.

    >>> keep_typical(Candidates(np.arange(3), np.log(np.array([0.9, 0.08, 0.02]) / 0.9)), 0.5).token_ids.tolist()
    [0]
    """
    possible = candidates.keep(np.isfinite(candidates.logits))
    probabilities = possible.probabilities()
    surprise = math.log(float(np.exp(possible.logits).sum())) - possible.logits
    distance = np.abs(surprise - float(probabilities @ surprise))
    order = np.argsort(distance)  # not stable, which is faster: the order among equals cannot move the threshold
    below = int(np.count_nonzero(np.cumsum(probabilities[order]) < typical_p))
    threshold = distance[order[min(max(below, least - 1), order.size - 1)]]
    return possible.keep(distance <= threshold)


def keep_epsilon(candidates: Candidates, epsilon: float, least: int = 1) -> Candidates:
    """Keep the tokens that are at least `epsilon` likely, and the `least` likeliest.

    >>> keep_epsilon(Candidates(np.arange(3), np.log(np.array([0.6, 0.3, 0.1]) / 0.6)), 0.2).token_ids.tolist()
    [0, 1]
    """
    likely = candidates.probabilities() >= epsilon
    if least > 1:
        likely[_largest(candidates.logits, least)] = True
    return candidates.keep(likely | (candidates.logits >= candidates.logits.max()))


def keep_eta(candidates: Candidates, eta: float, least: int = 1) -> Candidates:
    """Keep the tokens that are at least ``min(eta, sqrt(eta) * exp(-entropy))`` likely, and the `least` likeliest.

    >>> keep_eta(Candidates(np.arange(3), np.log(np.array([0.6, 0.3, 0.1]) / 0.6)), 0.2).token_ids.tolist()
    [0, 1]
    """
    possible = candidates.keep(np.isfinite(candidates.logits))
    probabilities = possible.probabilities()
    surprise = math.log(float(np.exp(possible.logits).sum())) - possible.logits
    limit = min(eta, math.sqrt(eta) * math.exp(-float(probabilities @ surprise)))
    return keep_epsilon(possible, limit, least)


def keep_top_h(candidates: Candidates, top_h: float) -> Candidates:
    """Keep the likeliest tokens whose terms of the entropy together stay within ``top_h`` of it; at least one.

    >>> keep_top_h(Candidates(np.arange(3), np.log(np.array([0.6, 0.3, 0.1]) / 0.6)), 0.5).token_ids.tolist()
    [0]
    """
    possible = candidates.keep(np.isfinite(candidates.logits))
    probabilities = possible.probabilities()
    order = np.argsort(-possible.logits, kind="stable")
    terms = probabilities * (math.log(float(np.exp(possible.logits).sum())) - possible.logits)
    share = np.cumsum(terms[order])
    return possible.keep(np.sort(order[: max(1, int(np.count_nonzero(share <= share[-1] * top_h)))]))


def filter_logits(logits: Floats, filters: Filters) -> Candidates:
    """Return what ``filters`` keep of one row of logits ``[vocab]``, which must have a finite maximum.

    >>> filter_logits(np.array([1.0, 3.0, 2.0]), Filters(temperature=0.5, top_k=2)).logits.tolist()
    [0.0, -2.0]
    """
    # Dividing keeps the order, so top_k can look at the row as it came: the narrow dtype, and far fewer logs and exps.
    least = filters.least
    most = (filters.top_k and max(filters.top_k, least)) if filters.top_h is None else _MOST_OF_TOP_H
    token_ids = _largest(logits, most) if most else np.arange(logits.size)
    scaled = logits[token_ids].astype(np.float64) if most else logits.astype(np.float64)
    scaled -= scaled.max()  # before dividing: a tiny temperature then cannot overflow the largest one
    if filters.temperature != 1.0:
        with np.errstate(over="ignore"):
            scaled /= filters.temperature
    candidates = Candidates(token_ids, scaled)
    if filters.top_h is not None:
        candidates = keep_top_h(candidates, filters.top_h)
        if filters.top_k:
            candidates = candidates.keep(_largest(candidates.logits, max(filters.top_k, least)))
    if filters.top_p < 1.0:
        candidates = keep_top_p(candidates, filters.top_p, least)
    if filters.min_p > 0.0:
        candidates = keep_min_p(candidates, filters.min_p, least)
    if filters.typical_p < 1.0:
        candidates = keep_typical(candidates, filters.typical_p, least)
    if filters.epsilon_cutoff > 0.0:
        candidates = keep_epsilon(candidates, filters.epsilon_cutoff, least)
    if filters.eta_cutoff > 0.0:
        candidates = keep_eta(candidates, filters.eta_cutoff, least)
    return candidates


def sample(logits: Floats, filters: Filters, *, seed: int, row: int, step: int) -> int:
    """Draw one token from one row of logits ``[vocab]``, the same one for the same ``(seed, row, step)`` everywhere.

    >>> sample(np.array([0.0, 5.0, 4.0]), Filters(), seed=7, row=0, step=0)
    2
    """
    _check_largest(float(logits.max()), row, step)
    candidates = filter_logits(logits, filters)
    noise = gumbel_noise(noise_key(seed, row, step), candidates.token_ids)
    noise += candidates.logits
    return int(candidates.token_ids[int(np.argmax(noise))])


def greedy(logits: Floats, *, row: int, step: int) -> int:
    """Return the likeliest token of one row of logits ``[vocab]``, the lowest id among equals.

    >>> greedy(np.array([1.0, 2.0, 2.0]), row=0, step=0)
    1
    """
    best = int(np.argmax(logits))  # the first NaN, if there is one
    _check_largest(float(logits[best]), row, step)
    return best


def check_processed(raw: float, processed: float, *, row: int, step: int) -> None:
    """Tell a broken model from options that overflow: the largest logit as the model gave it, and after processing.

    >>> check_processed(3.0, 2.5, row=0, step=0)
    """
    if raw == -math.inf:
        text = f"row {row}, step {step}: the model's logits are all -inf"
        raise GenerationError(text, hint="the weights are damaged")
    _check_largest(raw, row, step)
    if math.isnan(processed) or processed == math.inf:
        what = "NaN" if math.isnan(processed) else "inf"
        raise GenerationError(
            f"row {row}, step {step}: the penalties make logits overflow to {what}",
            hint="take less extreme values for "
            + mention("repetition_penalty")
            + ", "
            + mention("presence_penalty")
            + ", "
            + mention("frequency_penalty")
            + " or logit_bias",
        )


def _check_largest(largest: float, row: int, step: int) -> None:
    """Refuse a row that no token can be drawn from. NaN and infinity show in the maximum, so nothing else is read."""
    if math.isfinite(largest):
        return
    if largest == -math.inf:
        raise GenerationError(
            f"row {row}, step {step}: no token is possible, every logit is -inf",
            hint="loosen logit_bias, logits_processor, penalties, "
            + mention("no_repeat_ngram_size")
            + " or "
            + mention("min_new_tokens")
            + "; else the model is broken",
        )
    raise GenerationError(
        f"row {row}, step {step}: the model's logits hold {'NaN' if math.isnan(largest) else 'infinity'}",
        hint="the weights are damaged, or the dtype overflows: try " + mention("dtype", "float32"),
    )


@dataclass(frozen=True)
class TokenLogprob:
    """How likely the model thought one generated token, before any processing: natural logarithms of probabilities.

    ``top`` lists the likeliest tokens with theirs, best first and the lower id first among equals; the generated token
    is among them only if it was that likely.

    >>> TokenLogprob(5, -0.1, ((5, -0.1), (2, -3.0))).top[1][0]
    2
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprob(logits: Floats, token_id: int, top: int) -> TokenLogprob:
    """Return the log-probability of ``token_id`` and the ``top`` likeliest tokens under raw logits ``[vocab]``.

    >>> round(token_logprob(np.zeros(4), 2, top=1).logprob, 4)
    -1.3863
    """
    wide = logits.astype(np.float64)
    wide -= wide.max()
    wide -= math.log(float(np.exp(wide).sum()))
    best = _largest(logits, top) if top else np.arange(0)
    ranked: Sequence[int] = best[np.argsort(-logits[best], kind="stable")].tolist()
    return TokenLogprob(token_id, float(wide[token_id]), tuple((index, float(wide[index])) for index in ranked))

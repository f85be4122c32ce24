"""What is not arithmetic: weights in and out, the sampler, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..core.dtypes import numpy_dtype
from ..core.errors import InputError
from ..core.forward.arguments import ForwardArguments
from ..core.generation.calls import generate
from ..core.generation.options import GenerationOptions
from ..core.generation.sampling import Filters, filter_logits, gumbel_noise, noise_key
from ..core.messages import counted
from ..core.plugin_system.hookspecs import describe_exception
from .candidate import Candidate
from .checks import check
from .checks_models import ROWS
from .measure import Measurement, compare, equal, failure
from .oracle import spec_model
from .probes import HIDDEN, IDS, VOCABULARY, probe

PROMPTS = [IDS[0][:5].tolist(), IDS[1][:9].tolist()]
SAMPLED = GenerationOptions(max_new_tokens=16, do_sample=True, temperature=0.8, seed=7)


@check("weights.dtype", "the model computes in the dtype that was asked for, and says so")
def weights_dtype(candidate: Candidate) -> Measurement:
    found = candidate.model(probe("plain")).dtype
    return equal(0, 0) if found == candidate.dtype else failure(f"dtype is {found!r}, wanted {candidate.dtype!r}")


@check("weights.state", "state() gives every parameter back as it came, to the last bit")
def weights_state(candidate: Candidate) -> Iterator[Measurement]:
    for name in ("plain", "weights.tied"):
        p = probe(name)
        state = {info.name: (info, read) for info, read in candidate.model(p).state()}
        if list(state) != list(p.weights):
            yield failure(f"names {sorted(set(state) ^ set(p.weights)) or 'in another order'} of {name!r}")
            continue
        for parameter, (info, read) in state.items():
            array = np.asarray(read())
            if array.dtype != numpy_dtype(info.dtype):
                yield failure(f"{parameter} is said to be {info.dtype}, and is {array.dtype}")
            yield equal(array.astype(np.float64), p.weights[parameter], parameter)


@check("weights.conversion", "weights stored in another dtype give the same results")
def weights_conversion(candidate: Candidate) -> Measurement:
    p = probe("plain")
    stored = "bfloat16" if candidate.dtype == "float32" else "float32"
    model = candidate.realize(p, stored)
    if model.dtype != candidate.dtype:
        return failure(f"stored as {stored}, {candidate.dtype} asked for, {model.dtype} made")
    found = candidate.read(p, model.forward(ForwardArguments(input_ids=ROWS)))["logits"]
    return compare(found, candidate.oracle(p, ROWS)["logits"], f"stored as {stored}: logits")


@check("sampler.repeats", "the same seed gives the same tokens again, and greedy does too")
def sampler_repeats(candidate: Candidate) -> Iterator[Measurement]:
    model = candidate.model(probe("plain"))
    for options in (SAMPLED, GenerationOptions(max_new_tokens=16)):
        first, second = ([g.token_ids for g in generate(model, None, PROMPTS, options)] for _ in range(2))
        yield equal(second, first, "tokens of the second run")


@check("sampler.tokens", "a seed gives the reference's tokens, but where two are closer than rounding")
def sampler_tokens(candidate: Candidate) -> Iterator[Measurement]:
    p = probe("plain")
    for options in (SAMPLED, GenerationOptions(max_new_tokens=16)):
        found = generate(candidate.model(p), None, PROMPTS, options)
        wanted = generate(spec_model(p), None, PROMPTS, options)
        for row, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
            yield _divergence(candidate, options, row, ours.token_ids, theirs.token_ids)


def _divergence(candidate: Candidate, options: GenerationOptions, row: int, found: Any, wanted: Any) -> Measurement:
    """How far apart the two tokens were, in the reference's eyes, where the texts part; later ones have other pasts."""
    if len(found) != len(wanted):
        return failure(f"row {row}: {counted(len(found), 'token')}, wanted {len(wanted)}")
    step = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b), None)
    if step is None:
        return equal(found, wanted, f"tokens[{row}]")
    expected = candidate.oracle.logits(probe("plain"), [*PROMPTS[row], *wanted[:step]])[-1]
    scores, temperature = expected.wanted, 1.0
    if options.do_sample:
        temperature = options.temperature
        kept = filter_logits(scores, Filters(temperature=temperature))
        assert options.seed is not None
        scores = kept.logits + gumbel_noise(noise_key(options.seed, row, step), kept.token_ids)
    margin = float(scores[wanted[step]] - scores[found[step]])
    allowed = float(expected.bound[wanted[step]] + expected.bound[found[step]]) / temperature
    scale = float(np.max(np.abs(expected.wanted)))
    detail = f"row {row}, step {step}: token {found[step]}, wanted {wanted[step]}"
    return Measurement(margin / scale, allowed / scale, detail)


WRONG: Mapping[str, Mapping[str, Any]] = {
    "id_too_large": {"input_ids": [[1, VOCABULARY]]},
    "id_negative": {"input_ids": [[-1, 2]]},
    "one_dimension": {"input_ids": [1, 2]},
    "ragged": {"input_ids": [[1, 2], [3]]},
    "empty": {"input_ids": [[]]},
    "not_integers": {"input_ids": [[1.5, 2.0]]},
    "no_input": {},
    "two_inputs": {"input_ids": [[1]], "inputs_embeds": np.zeros((1, 1, HIDDEN))},
    "embeds_size": {"inputs_embeds": np.zeros((1, 2, HIDDEN - 1))},
    "mask_shape": {"input_ids": [[1, 2]], "attention_mask": [[1, 1, 1]]},
    "mask_values": {"input_ids": [[1, 2]], "attention_mask": [[2, 1]]},
    "mask_of_nothing": {"input_ids": [[1, 2]], "attention_mask": [[0, 0]]},
    "positions_shape": {"input_ids": [[1, 2]], "position_ids": [[0]]},
    "positions_negative": {"input_ids": [[1, 2]], "position_ids": [[-1, 0]]},
    "keep_negative": {"input_ids": [[1, 2]], "logits_to_keep": -2},
    "keep_range": {"input_ids": [[1, 2]], "logits_to_keep": [2]},
    "num_items": {"input_ids": [[1, 2]], "labels": [[1, 2]], "num_items_in_batch": 0},
    "labels_range": {"input_ids": [[1, 2]], "labels": [[1, VOCABULARY]]},
    "labels_shape": {"input_ids": [[1, 2]], "labels": [[1]]},
    "foreign_cache": {"input_ids": [[1, 2]], "past_key_values": object()},
}


def _refuses(arguments: Mapping[str, Any]) -> Callable[[Candidate], Measurement]:
    def run(candidate: Candidate) -> Measurement:
        return _refused(lambda: candidate.forward(probe("plain"), **arguments))

    return run


def _refused(call: Callable[[], Any]) -> Measurement:
    """Whether a call raises InputError with a message of one line."""
    try:
        call()
    except InputError as error:
        return equal(0, 0) if "\n" not in str(error) else failure(f"more than one line: {error}")
    except Exception as error:  # the wrong error is what this looks for
        return failure(f"raised {describe_exception(error)}, wanted an InputError")
    return failure("was accepted, wanted an InputError")


for _name, _arguments in WRONG.items():
    check(f"errors.{_name}", f"refused as an InputError of one line: {_name}", each_dtype=False)(_refuses(_arguments))


@check("errors.cache_batch", "refused as an InputError of one line: a cache of another batch size", each_dtype=False)
def cache_batch(candidate: Candidate) -> Measurement:
    cache = candidate.forward(probe("plain"), ROWS, use_cache=True).past_key_values
    return _refused(lambda: candidate.forward(probe("plain"), ROWS[:1], past_key_values=cache))


@check("errors.select_rows", "refused as an InputError of one line: rows that a cache does not have", each_dtype=False)
def select_rows(candidate: Candidate) -> Measurement:
    cache: Any = candidate.forward(probe("plain"), ROWS, use_cache=True).past_key_values
    return _refused(lambda: cache.select_rows([0, 2]))

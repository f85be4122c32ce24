"""The rule of each generation option: what values it takes, and what to do instead."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..errors import GenerationError
from ..messages import closest, subject

_MAX_SEED = (1 << 64) - 1


@dataclass(frozen=True)
class _Rule:
    """How a value is read, and the sentence that says what is wanted; `read` gives ``None`` for a wrong value."""

    read: Callable[[Any], Any]
    wanted: str


def _integer(low: int, high: int | None = None) -> Callable[[Any], int | None]:
    def read(value: Any) -> int | None:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            return None
        number = int(value)
        return number if number >= low and (high is None or number <= high) else None

    return read


def _real(fits: Callable[[float], bool]) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return None
        number = float(value)
        return number if math.isfinite(number) and fits(number) else None

    return read


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _ids(value: Any) -> tuple[int, ...] | None:
    read = _integer(0)
    value = value.tolist() if hasattr(value, "tolist") else value
    one = read(value)
    if one is not None:
        return (one,)
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)  # any fixed order
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        return None
    ids = tuple(read(item) for item in value)
    return None if None in ids else tuple(dict.fromkeys(item for item in ids if item is not None))


def _strings(value: Any) -> tuple[str, ...] | None:
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, Sequence) or not all(isinstance(item, str) and item for item in strings):
        return None
    return tuple(dict.fromkeys(strings))


def _biases(value: Any) -> Mapping[int, float] | None:
    if not isinstance(value, Mapping):
        return None
    read_id, biases = _integer(0), {}
    for key, bias in value.items():
        token_id = read_id(key)
        if token_id is None or isinstance(bias, bool) or not isinstance(bias, numbers.Real):
            return None
        if math.isnan(float(bias)) or float(bias) == math.inf:
            return None
        biases[token_id] = float(bias)
    return MappingProxyType(biases)


_COUNT = _Rule(_integer(1), "a whole number, 1 or more")


_FROM_ZERO = _Rule(_integer(0), "a whole number, 0 or more (0 is off)")


_FLAG = _Rule(_flag, "True or False")


_SHARE = _Rule(_real(lambda x: 0 < x <= 1), "a number above 0 and at most 1 (1 is off)")


_PENALTY = _Rule(_real(lambda x: True), "a finite number (0 is off)")


_IDS = _Rule(_ids, "a token id, 0 or more, or a list of them")


_RULES: Mapping[str, _Rule] = {
    "max_new_tokens": _COUNT,
    "max_length": _COUNT,
    "min_new_tokens": _FROM_ZERO,
    "do_sample": _FLAG,
    "temperature": _Rule(_real(lambda x: x >= 0), "a finite number, 0 or more (0 is greedy)"),
    "top_k": _FROM_ZERO,
    "top_p": _SHARE,
    "min_p": _Rule(_real(lambda x: 0 <= x <= 1), "a number from 0 to 1 (0 is off)"),
    "typical_p": _SHARE,
    "repetition_penalty": _Rule(_real(lambda x: x > 0), "a finite number above 0 (1 is off)"),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "no_repeat_ngram_size": _FROM_ZERO,
    "logit_bias": _Rule(_biases, "a mapping of token ids (whole numbers) to numbers, finite or -inf"),
    "stop": _Rule(_strings, "a string or a list of strings, none of them empty"),
    "stop_token_ids": _IDS,
    "eos_token_id": _IDS,
    "num_return_sequences": _COUNT,
    "seed": _Rule(_integer(0, _MAX_SEED), "a whole number from 0 to 2**64 - 1"),
    "logprobs": _Rule(_integer(0), "a whole number, 0 or more: how many alternatives to report"),
    "skip_special_tokens": _FLAG,
    "prefill_chunk_size": _COUNT,
    "batch_size": _COUNT,
}


_OTHER_NAMES = {
    "stop_strings": "stop",
    "stop_sequences": "stop",
    "stop_words": "stop",
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "n": "num_return_sequences",
    "num_samples": "num_return_sequences",
    "eos_token_ids": "eos_token_id",
    "top_logprobs": "logprobs",
    "random_seed": "seed",
}


_NOT_OFFERED = {
    "num_beams": "there is no beam search; generation is greedy or sampled",
    "ignore_eos": "eos_token_id=[] does that",
    "cache_implementation": "each backend has its own cache, allocated to fit",
    "use_cache": "generation always uses the cache",
    "early_stopping": "it belongs to beam search, which is not offered",
    "pad_token_id": "padding is masked, so its id does not matter",
}


def check_option(name: str, value: Any, where: str = "") -> Any:
    """Return the value of the option called `name` in its normal form, or say what is wrong with it.

    Args:
        where: put before the message, such as the file the value is from.

    >>> check_option("stop", "END")
    ('END',)
    """
    rule = _RULES[name]
    checked = rule.read(value)
    if checked is None:
        raise GenerationError(
            (f"{where}{name}" if where else subject(name, value)) + f" is {value!r}", hint=f"wanted {rule.wanted}"
        )
    return checked


def _remedy(name: str) -> str:
    if name in _NOT_OFFERED:
        return _NOT_OFFERED[name]
    meant = _OTHER_NAMES.get(name) or closest(name, _RULES)
    return f"did you mean {meant!r}?" if meant else f"there are: {', '.join(_RULES)}"

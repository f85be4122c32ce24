"""The rule of each generation option: what values it takes, and what to do instead."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..constraints.asked import read_choices, read_schema, read_text
from ..errors import GenerationError
from ..messages import closest, subject
from .not_offered import NOT_OFFERED, WITHOUT_EFFECT

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


def _sequences(value: Any) -> tuple[tuple[int, ...], ...] | None:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        return None
    read, found = _integer(0), []
    for item in value:
        item = item.tolist() if hasattr(item, "tolist") else item
        if isinstance(item, str | bytes) or not isinstance(item, Sequence) or not item:
            return None
        ids = tuple(read(token_id) for token_id in item)
        if None in ids:
            return None
        found.append(ids)
    return tuple(dict.fromkeys(found))  # type: ignore[arg-type]


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


_ID = _Rule(_integer(0), "a token id, 0 or more")


OPTION_RULES: Mapping[str, _Rule] = {
    "max_new_tokens": _COUNT,
    "max_length": _COUNT,
    "min_new_tokens": _FROM_ZERO,
    "min_length": _FROM_ZERO,
    "max_time": _Rule(_real(lambda x: x > 0), "a number of seconds above 0"),
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
    "bad_words_ids": _Rule(_sequences, "a list of lists of token ids, none of them empty"),
    "suppress_tokens": _IDS,
    "begin_suppress_tokens": _IDS,
    "renormalize_logits": _FLAG,
    "logit_bias": _Rule(_biases, "a mapping of token ids (whole numbers) to numbers, finite or -inf"),
    "stop": _Rule(_strings, "a string or a list of strings, none of them empty"),
    "stop_token_ids": _IDS,
    "eos_token_id": _IDS,
    "pad_token_id": _ID,
    "bos_token_id": _ID,
    "num_return_sequences": _COUNT,
    "seed": _Rule(_integer(0, _MAX_SEED), "a whole number from 0 to 2**64 - 1"),
    "logprobs": _Rule(_integer(0), "a whole number, 0 or more: how many alternatives to report"),
    "skip_special_tokens": _FLAG,
    "prefill_chunk_size": _COUNT,
    "batch_size": _COUNT,
    "use_cache": _FLAG,
    "prompt_lookup_num_tokens": _COUNT,
    "max_matching_ngram_size": _COUNT,
    "num_assistant_tokens": _COUNT,
    "json_schema": _Rule(read_schema, "a JSON schema as a dictionary or its text, or a pydantic model class"),
    "regex": _Rule(read_text, "the text of a regular expression"),
    "grammar": _Rule(read_text, "the text of a Lark grammar"),
    "choices": _Rule(read_choices, "a list of strings, none of them empty"),
    "return_dict_in_generate": _FLAG,
    "output_scores": _FLAG,
    "output_logits": _FLAG,
    "output_attentions": _FLAG,
    "output_hidden_states": _FLAG,
}


ALIASES: Mapping[str, str] = {"stop_strings": "stop"}
"""Documented names of options that have another one here too."""


CALL_ARGUMENTS = ("generation_config", "tokenizer", "streamer", "assistant_model")
"""What goes with the options of a call and is none of them."""


_OTHER_NAMES = {
    "stop_sequences": "stop",
    "stop_words": "stop",
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "n": "num_return_sequences",
    "num_samples": "num_return_sequences",
    "eos_token_ids": "eos_token_id",
    "top_logprobs": "logprobs",
    "random_seed": "seed",
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "guided_choice": "choices",
    "guided_grammar": "grammar",
    "response_format": "json_schema",
}


def is_option(name: str) -> bool:
    """Whether generation knows an argument of this name, be it to refuse it with a reason.

    >>> is_option("top_k"), is_option("stop_strings"), is_option("num_beams"), is_option("temprature")
    (True, True, True, False)
    """
    if name in OPTION_RULES or name in ALIASES or name in CALL_ARGUMENTS:
        return True
    return name in NOT_OFFERED or name in WITHOUT_EFFECT or name == "cache_implementation"


def check_option(name: str, value: Any, where: str = "") -> Any:
    """Return the value of the option called `name` in its normal form, or say what is wrong with it.

    Args:
        where: put before the message, such as the file the value is from.

    >>> check_option("stop", "END")
    ('END',)
    """
    rule = OPTION_RULES[name]
    checked = rule.read(value)
    if checked is None:
        raise GenerationError(
            (f"{where}{name}" if where else subject(name, value)) + f" is {value!r}", hint=f"wanted {rule.wanted}"
        )
    return checked


def unknown_option_hint(name: str, others: Sequence[str] = ()) -> str:
    """Say what an unknown option probably is; `others` are known where it was given, beside those of generation."""
    known = [*OPTION_RULES, *others]
    meant = _OTHER_NAMES.get(name) or closest(name, known)
    return f"did you mean {meant!r}?" if meant else f"there are: {', '.join(known)}"

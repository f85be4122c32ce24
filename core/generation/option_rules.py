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

MOST_ROWS_OF_PROMPT = 1 << 16
"""Texts of one prompt at most: each is made before the first step, so a slip of the finger would never come to it."""


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


def _early(value: Any) -> bool | str | None:
    return value if isinstance(value, bool) or (isinstance(value, str) and value == "never") else None


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


def _sequence_bias(value: Any) -> tuple[tuple[tuple[int, ...], float], ...] | None:
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Sequence):
        return None
    found: dict[tuple[int, ...], float] = {}
    for pair in pairs:
        if isinstance(pair, str | bytes) or not isinstance(pair, Sequence) or len(pair) != 2:
            return None
        ids, bias = _sequences([pair[0]]), pair[1]
        if ids is None or isinstance(bias, bool) or not isinstance(bias, numbers.Real):
            return None
        if math.isnan(float(bias)) or float(bias) == math.inf:
            return None
        found[ids[0]] = float(bias)
    return tuple(found.items())


def _decay(value: Any) -> tuple[int, float] | None:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or len(value) != 2:
        return None
    start, factor = _integer(0)(value[0]), _real(lambda x: x > 0)(value[1])
    return None if start is None or factor is None else (start, factor)


def _callables(value: Any) -> tuple[Any, ...] | None:
    listed = [value] if callable(value) and not isinstance(value, list) else value
    if not isinstance(listed, list | tuple) or not all(callable(item) for item in listed):
        return None
    found: list[Any] = []
    for item in listed:  # one that is given twice is called once, as transformers has it
        if not any(item is other for other in found):
            found.append(item)
    return tuple(found)


def _rows(read: Callable[[Any], int | None]) -> Callable[[Any], tuple[tuple[int, ...], ...] | None]:
    """Numbers of one text, or of several."""

    def read_rows(value: Any) -> tuple[tuple[int, ...], ...] | None:
        value = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence) or not len(value):
            return None
        rows = [value] if read(value[0]) is not None else value
        found = []
        for row in rows:
            row = row.tolist() if hasattr(row, "tolist") else row
            if isinstance(row, str | bytes) or not isinstance(row, Sequence):
                return None
            numbers_read = tuple(read(item) for item in row)
            if not numbers_read or None in numbers_read:
                return None
            found.append(numbers_read)
        return tuple(found)  # type: ignore[arg-type]

    return read_rows


def _adapter(value: Any) -> str | tuple[str | None, ...] | None:
    if isinstance(value, str):
        return value or None
    listed = isinstance(value, Sequence) and not isinstance(value, bytes) and len(value) > 0
    return tuple(value) if listed and all(item is None or isinstance(item, str) for item in value) else None


_COUNT = _Rule(_integer(1), "a whole number, 1 or more")
_ROWS = _Rule(_integer(1, MOST_ROWS_OF_PROMPT), f"a whole number from 1 to {MOST_ROWS_OF_PROMPT:,}")


_FROM_ZERO = _Rule(_integer(0), "a whole number, 0 or more (0 is off)")


_FLAG = _Rule(_flag, "True or False")


_SHARE = _Rule(_real(lambda x: 0 < x <= 1), "a number above 0 and at most 1 (1 is off)")


_PENALTY = _Rule(_real(lambda x: True), "a finite number (0 is off)")


_IDS = _Rule(_ids, "a token id, 0 or more, or a list of them")


_ID = _Rule(_integer(0), "a token id, 0 or more")


_CUTOFF = _Rule(_real(lambda x: 0 <= x < 1), "a number from 0 (0 is off) to below 1")


CALLABLES = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn")
"""Options that are a caller's own code, run at every step."""


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
    "epsilon_cutoff": _CUTOFF,
    "eta_cutoff": _CUTOFF,
    "top_h": _Rule(_real(lambda x: 0 < x <= 1), "a number above 0 and at most 1"),
    "repetition_penalty": _Rule(_real(lambda x: x > 0), "a finite number above 0 (1 is off)"),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "no_repeat_ngram_size": _FROM_ZERO,
    "bad_words_ids": _Rule(_sequences, "a list of lists of token ids, none of them empty"),
    "suppress_tokens": _IDS,
    "begin_suppress_tokens": _IDS,
    "sequence_bias": _Rule(_sequence_bias, "a dictionary of tuples of ids to numbers, or a list of [ids, number]"),
    "forced_bos_token_id": _ID,
    "forced_eos_token_id": _IDS,
    "exponential_decay_length_penalty": _Rule(_decay, "a number of tokens, and a factor above 0: (10, 1.2)"),
    "remove_invalid_values": _FLAG,
    "logits_processor": _Rule(_callables, "a list of functions or objects f(input_ids, scores) that return scores"),
    "stopping_criteria": _Rule(_callables, "a list of functions or objects f(input_ids, scores) that say when to stop"),
    "prefix_allowed_tokens_fn": _Rule(lambda x: x if callable(x) else None, "a function f(row, input_ids) -> ids"),
    "guidance_scale": _Rule(_real(lambda x: True), "a finite number (1 is off)"),
    "negative_prompt_ids": _Rule(
        _rows(_integer(0)), "token ids of one prompt, or a list or array of them, none of them empty"
    ),
    "negative_prompt_attention_mask": _Rule(
        _rows(lambda x: int(x) if x in (0, 1) else None), "zeros and ones in the shape of negative_prompt_ids"
    ),
    "renormalize_logits": _FLAG,
    "logit_bias": _Rule(_biases, "a mapping of token ids (whole numbers) to numbers, finite or -inf"),
    "stop": _Rule(_strings, "a string or a list of strings, none of them empty"),
    "stop_token_ids": _IDS,
    "eos_token_id": _IDS,
    "pad_token_id": _ID,
    "bos_token_id": _ID,
    "num_return_sequences": _ROWS,
    "num_beams": _ROWS,
    "length_penalty": _Rule(_real(lambda x: True), "a finite number (0 ranks by the log probability alone)"),
    "early_stopping": _Rule(_early, "True, False or 'never'"),
    "seed": _Rule(_integer(0, _MAX_SEED), "a whole number from 0 to 2**64 - 1"),
    "logprobs": _Rule(_integer(0), "a whole number, 0 or more: how many alternatives to report"),
    "skip_special_tokens": _FLAG,
    "prefill_chunk_size": _COUNT,
    "batch_size": _COUNT,
    "use_cache": _FLAG,
    "adapter": _Rule(_adapter, "the name of a loaded adapter, or a list with one, or None, for each prompt"),
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


CALL_ARGUMENTS = ("generation_config", "tokenizer", "streamer", "assistant_model", "negative_prompt")
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

    >>> is_option("top_k"), is_option("stop_strings"), is_option("num_beam_groups"), is_option("temprature")
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

"""A GGUF file's metadata as a configuration.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md ("Standardized key-value pairs") and llama.cpp's
``gguf-py/gguf/constants.py``. Reals are stored in 32 bits; the shortest decimal that means the same is taken, so that
1e-5 stays 1e-05.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .problems import ConfigProblems, Problem, is_count, show
from .reading import Reading, Source

ARCHITECTURE = "general.architecture"
_FIELDS = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_REQUIRED = (
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)
_TOKENS = {"bos_token_id": "bos_token_id", "pad_token_id": "padding_token_id"}
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_ROPE = {
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
_HANDLED = {
    "attention.value_length",
    "expert_count",
    "expert_used_count",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    *(f"rope.scaling.{n}" for n in (*_ROPE, "type", "factor", "attn_factor", "finetuned", "yarn_attn_factor")),
}
PREFIX = "llama."


def read_gguf(raw: Mapping[str, Any], source: Source) -> Reading:
    """Read GGUF metadata."""
    kind = raw.get(ARCHITECTURE)
    if kind != "llama":
        raise ConfigProblems(source.where, [f"not a Llama: {ARCHITECTURE} is {show(kind)}; only llama is read"])
    if raw.get(f"{PREFIX}expert_count"):
        raise ConfigProblems(source.where, [f"not a Llama: llama.expert_count={show(raw[f'{PREFIX}expert_count'])}"])
    reading = Reading(source.where)
    for key in _REQUIRED:
        if raw.get(PREFIX + key) is None:
            reading.problems.append(Problem(PREFIX + key, " is missing; every GGUF file of a Llama states it"))
    for key, name in _FIELDS.items():
        value = raw.get(PREFIX + key)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]  # one number for each layer, all alike
        if value is not None:
            reading.put(name, shortest(value), source.origin(PREFIX + key, name), PREFIX + key)
    _read_tokens(raw, source, reading)
    _read_rope(raw, source, reading)
    _check_rest(raw, source, reading)
    return reading


def shortest(value: Any) -> Any:
    """A float with the fewest digits that means the same in 32 bits.

    >>> shortest(9.999999747378752e-06)
    1e-05
    """
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    import numpy as np

    single = np.float32(value)
    return float(str(single)) if float(single) == value else value


def _read_tokens(raw: Mapping[str, Any], source: Source, reading: Reading) -> None:
    for name, key in _TOKENS.items():
        value = raw.get(f"tokenizer.ggml.{key}")
        if value is not None:
            reading.put(name, value, source.origin(f"tokenizer.ggml.{key}", name), f"tokenizer.ggml.{key}")
    ends = [raw[f"tokenizer.ggml.{key}"] for key in _ENDS if raw.get(f"tokenizer.ggml.{key}") is not None]
    ends = list(dict.fromkeys(ends))
    if ends:
        key = "tokenizer.ggml.eos_token_id"
        reading.put("eos_token_id", ends[0] if len(ends) == 1 else ends, source.origin(key, "eos_token_id"), key)


def _read_rope(raw: Mapping[str, Any], source: Source, reading: Reading) -> None:
    def put(name: str, value: Any, key: str) -> None:
        spelled = f"{PREFIX}rope.{key}"
        reading.put_rope(name, shortest(value), source.origin(spelled, f"rope_parameters.{name}"), spelled)

    def given(key: str) -> Any:
        return raw.get(f"{PREFIX}rope.{key}")

    if given("freq_base") is not None:
        put("rope_theta", given("freq_base"), "freq_base")
        reading.loose.add("rope_theta")
    _read_rotary_dim(raw, given("dimension_count"), put)
    kind, factor = given("scaling.type"), given("scaling.factor")
    older = given("scale_linear")
    if older is not None and kind is None and factor is None:
        kind, factor = ("none", None) if older == 1 else ("linear", older)
    if kind in (None, "none"):
        return
    reading.scaling_given = True
    put("rope_type", kind, "scaling.type")
    if kind == "linear":
        put("factor", factor, "scaling.factor")
        return
    for key, name in _ROPE.items():
        if given(f"scaling.{key}") is not None and not (kind == "longrope" and name.startswith("beta")):
            put(name, given(f"scaling.{key}"), f"scaling.{key}")
    if factor is not None:
        put("factor", factor, "scaling.factor")
    attention = given("scaling.attn_factor")
    if attention is not None and kind == "longrope":
        put("attention_factor", attention, "scaling.attn_factor")
    elif attention is not None and attention != 1.0 and isinstance(factor, float) and factor > 1:
        # llama.cpp multiplies YaRN's own temperature by it; the schema states the product.
        put("attention_factor", attention * (0.1 * math.log(factor) + 1.0), "scaling.attn_factor")


def _read_rotary_dim(raw: Mapping[str, Any], rotary: Any, put: Any) -> None:
    heads, width = raw.get(f"{PREFIX}attention.head_count"), raw.get(f"{PREFIX}embedding_length")
    head_dim = raw.get(f"{PREFIX}attention.key_length")
    if head_dim is None and is_count(heads) and is_count(width):
        head_dim = width // heads
    if is_count(rotary) and is_count(head_dim) and rotary != head_dim:
        put("partial_rotary_factor", rotary / head_dim, "dimension_count")


def _check_rest(raw: Mapping[str, Any], source: Source, reading: Reading) -> None:
    keys, values = raw.get(f"{PREFIX}attention.key_length"), raw.get(f"{PREFIX}attention.value_length")
    if keys is not None and values is not None and keys != values:
        text = f"={show(values)} differs from llama.attention.key_length={show(keys)}; a Llama has one head size"
        reading.problems.append(Problem(f"{PREFIX}attention.value_length", text))
    known = {PREFIX + key for key in (*_FIELDS, *_HANDLED)}
    strange = [key for key in raw if key.startswith(PREFIX) and key not in known]
    if strange:
        text = f"{source.where}: not used, as a Llama has no such thing: {', '.join(sorted(strange)[:8])}"
        reading.notes.append(("", text))

"""Meta's own ``params.json``, as it comes with the original weights.

It leaves out what Meta's code takes from elsewhere: the vocabulary from the tokenizer, the context length from the
caller. Where the file says too little, the values of the published models it can only belong to are taken, and
provenance says so.

Source: ``ModelArgs`` in meta-llama/llama and meta-llama/llama-models; context lengths and token ids: the model cards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..messages import closest
from .keys import FOREIGN_KEYS
from .problems import ConfigProblems, Problem, is_count, show
from .reading import Reading, Source, lookalike

RENAMED = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "hidden_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps",
}
CONSUMED = (
    "vocab_size",
    "multiple_of",
    "ffn_dim_multiplier",
    "rope_theta",
    "use_scaled_rope",
    "rope_scaling_factor",
    "max_seq_len",
)
KEPT = ("max_batch_size", "model_parallel_size", "lora_args", "quantization_args", "use_biases", "repo_id")
OTHER_MODELS = {
    "vision_chunk_size": "a Llama 3.2 Vision model",
    "vision_num_cross_attention_layers": "a Llama 3.2 Vision model",
    "moe_args": "a Llama 4 model",
    "moe": "a mixture of experts",
    "num_experts": "a mixture of experts",
    "sliding_window": "a Mistral model",
}
LLAMA3_VOCABULARY = 128256
# The published configs of Llama 3.2 1B and 3B, whose params.json does not state the factor: (dim, n_layers).
SCALED_BY_32 = ((2048, 16), (3072, 28))


def read_meta(raw: Mapping[str, Any], source: Source) -> Reading:
    """Read ``params.json``."""
    for name, model in OTHER_MODELS.items():
        if raw.get(name) is not None:
            raise ConfigProblems(source.where, [f"not a text Llama: {name} says this is {model}"])
    reading = Reading(source.where)
    for spelled, name in RENAMED.items():
        if raw.get(spelled) is not None:
            reading.put(name, raw[spelled], source.origin(spelled, name), spelled)
    for name in ("dim", "n_layers", "n_heads"):
        if raw.get(name) is None:
            reading.problems.append(Problem(name, " is missing; params.json always states it"))
    if "rms_norm_eps" not in reading.values:
        reading.put("rms_norm_eps", 1e-5, "derived: the default of Meta's code")
    _read_intermediate_size(raw, source, reading)
    _read_vocabulary(raw, source, reading)
    _read_rope(raw, source, reading)
    _read_context(raw, source, reading)
    for name, value in raw.items():
        if name in RENAMED or name in CONSUMED:
            continue
        problem = None if name in KEPT or name in FOREIGN_KEYS else _lookalike(name, value, raw)
        if problem is not None:
            reading.problems.append(problem)
        else:
            reading.extra[name] = value
            reading.origins[name] = source.origin(name, name)
    return reading


def _lookalike(name: Any, value: Any, raw: Mapping[str, Any]) -> Problem | None:
    close = closest(name, [*RENAMED, *CONSUMED], cutoff=0.85)
    if close:
        return Problem(name, f'={show(value)} is not a field (did you mean "{close}"?); rename or remove it')
    return lookalike(name, value, raw)


def _read_intermediate_size(raw: Mapping[str, Any], source: Source, reading: Reading) -> None:
    """Two thirds of four times the width, times the multiplier, rounded up to a multiple."""
    if "intermediate_size" in reading.values:
        return
    dim, multiple, multiplier = raw.get("dim"), raw.get("multiple_of"), raw.get("ffn_dim_multiplier")
    multiple = 256 if multiple is None else multiple
    if not is_count(multiple):
        reading.problems.append(Problem("multiple_of", f"={show(multiple)} must be an integer of at least 1"))
    good = multiplier is None or (isinstance(multiplier, int | float) and not isinstance(multiplier, bool))
    if multiplier is not None and not (good and math.isfinite(multiplier) and 0 < multiplier < 1e6):
        text = f"={show(multiplier)} must be a positive number, or left out"
        reading.problems.append(Problem("ffn_dim_multiplier", text))
        good = False
    if not (is_count(dim) and is_count(multiple) and good) or dim > 2**31 or multiple > 2**31:
        return
    size = int(2 * (4 * dim) / 3)
    if multiplier is not None:
        size = int(multiplier * size)
    used = "dim, multiple_of" + (", ffn_dim_multiplier" if multiplier is not None else "")
    size = multiple * math.ceil(size / multiple)
    reading.put("intermediate_size", size, f"derived: {source.label}: {used}")


def _read_vocabulary(raw: Mapping[str, Any], source: Source, reading: Reading) -> None:
    size = raw.get("vocab_size")
    if size is not None and size != -1:
        reading.put("vocab_size", size, source.origin("vocab_size", "vocab_size"))
        if size == LLAMA3_VOCABULARY:
            why = f"derived: the Llama 3 vocabulary of {LLAMA3_VOCABULARY}"
            reading.put("bos_token_id", 128000, why)
            # end of text, of a message, of a turn: a base model never emits the last two
            reading.put("eos_token_id", [128001, 128008, 128009], why)
        return
    tokenizer = source.folder / "tokenizer.model" if source.folder is not None else None
    pieces = count_sentencepieces(tokenizer) if tokenizer is not None else None
    if pieces is not None:
        reading.put("vocab_size", pieces, f"derived: tokenizer.model beside {source.label} has {pieces} pieces")
    elif raw.get("rope_theta") is None:
        why = f"derived: {source.label} leaves it to the tokenizer; 32000 as in Llama 1 and 2"
        reading.put("vocab_size", 32000, why)
    else:
        text = "=-1" if size == -1 else " is missing"
        text += " and there is no tokenizer.model beside the file to count; pass vocab_size"
        text += " (Code Llama has 32016 or 32000)"
        reading.unless_given["vocab_size"] = Problem("vocab_size", text)


def count_sentencepieces(path: Path) -> int | None:
    """Number of pieces in a SentencePiece model file, or ``None`` where there is no such file.

    The file is a protocol buffer whose field 1 repeats, once for each piece; counting them needs no library.
    """
    try:
        if not path.is_file() or path.stat().st_size > 64 * 1024 * 1024:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    position, pieces = 0, 0
    try:
        while position < len(content):
            tag, position = _varint(content, position)
            if tag & 7 != 2:  # in this format every field of the outermost message is length-delimited
                return None
            length, position = _varint(content, position)
            position += length
            pieces += tag >> 3 == 1
    except IndexError:
        return None
    return pieces if pieces and position == len(content) else None


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise IndexError("no varint is that long")


def _read_rope(raw: Mapping[str, Any], source: Source, reading: Reading) -> None:
    if raw.get("rope_theta") is not None:
        reading.put_rope("rope_theta", raw["rope_theta"], source.origin("rope_theta", "rope_theta"), "rope_theta")
        reading.loose.add("rope_theta")
    scaled, factor = raw.get("use_scaled_rope"), raw.get("rope_scaling_factor")
    if scaled is not None and not isinstance(scaled, bool):
        reading.problems.append(Problem("use_scaled_rope", f"={show(scaled)} must be true or false"))
        return
    if not scaled:
        if factor is not None:
            text = f"={show(factor)} has no effect without use_scaled_rope; remove it, or set use_scaled_rope to true"
            reading.problems.append(Problem("rope_scaling_factor", text))
        return
    reading.scaling_given = True
    why = f"derived: {source.label}: use_scaled_rope, with the constants of Meta's code"
    constants = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    for name, value in {"rope_type": "llama3", **constants}.items():
        reading.put_rope(name, value, why, "use_scaled_rope")
    if factor is not None:
        origin = source.origin("rope_scaling_factor", "factor")
        reading.put_rope("factor", factor, origin, "rope_scaling_factor")
        return
    reading.put_rope("factor", 8.0, why, "use_scaled_rope")
    if (raw.get("dim"), raw.get("n_layers")) in SCALED_BY_32:
        text = (
            f"{source.where}: use_scaled_rope without rope_scaling_factor is read as factor 8, as Meta's code does; "
            "the published config.json of Llama 3.2 1B and 3B says 32: for those models add "
            '"rope_scaling_factor": 32 to the file'
        )
        reading.notes.append(("rope_parameters", text))


def _read_context(raw: Mapping[str, Any], source: Source, reading: Reading) -> None:
    """Meta's code is told the context length by its caller; each generation of models was trained with its own."""
    name = "max_position_embeddings"
    if raw.get("max_seq_len") is not None:
        reading.put(name, raw["max_seq_len"], source.origin("max_seq_len", name), "max_seq_len")
        return
    theta = raw.get("rope_theta")
    first = raw.get("norm_eps") == 1e-6 or (raw.get("dim") == 8192 and raw.get("n_kv_heads") is None)
    if raw.get("use_scaled_rope"):
        length, model = 131072, "Llama 3.1 and later (use_scaled_rope)"
    elif theta == 500000:
        length, model = 8192, "Llama 3 (rope_theta 500000)"
    elif theta == 1000000:
        length, model = 16384, "Code Llama (rope_theta 1000000)"
    elif first:
        length, model = 2048, "Llama 1"
    else:
        length, model = 4096, "Llama 2"
    reading.put(name, length, f"derived: {source.label} does not say; {length} as in {model}")

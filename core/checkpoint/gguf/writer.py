"""Writing GGUF, version 3: metadata, tokenizer and weights in one file, under llama.cpp's names and in its order.

Floats keep their type (norms and biases become F32, which llama.cpp computes them in). Packed modules become Q8_0, Q4_0
or Q4_1 where one of these says exactly the same, else they are refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ...config.gguf import ARCHITECTURE, PREFIX
from ...dtypes import numpy_dtype
from ...errors import CheckpointError, TokenizerError, UnsupportedError, warn
from ...messages import few, mention
from ..rotary_order import pairs_from_halves
from ..writing import without_place
from .blocks import blocks_from_packed, matching_type
from .file import NUMBERS, TYPES
from .quantizing import gguf_quantizing, nearest_types
from .reader import FLOATS, GgufFormat, gguf_name
from .rope import divisors_of

if TYPE_CHECKING:
    from ...config.rope import RopeParameters
    from ...config.schema import LlamaConfig
    from ..protocol import Array
    from ..writing import ModelToWrite

_ALIGNMENT = 32
_CHUNK = 1 << 24
_FORMAT = "GGUF"
_TYPE_OF = {dtype: kind for kind, dtype in FLOATS.items() if kind != "F64"}
_BETAS = (32.0, 1.0)  # what llama.cpp computes every Llama's YaRN with
_FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "BF16": 32}


@dataclass(frozen=True)
class _Entry:
    """One tensor to write: name, type and shape as GGUF has them, and what makes its bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    make: Callable[[], Array]

    @property
    def nbytes(self) -> int:
        _, values, nbytes = TYPES[NUMBERS[self.type]]
        return math.prod(self.shape) // values * nbytes


class GgufWriter(GgufFormat):
    """Reader and writer of GGUF."""

    suffix = ".gguf"
    keeps_packed = True
    sharded = False
    quantizing = staticmethod(gguf_quantizing)

    @staticmethod
    def write(model: ModelToWrite, target: Path) -> None:
        """See ``FormatWriter.write``."""
        entries = list(_rope_entries(model.config)) + list(_entries(model))
        metadata = _metadata(model) | {"general.file_type": _file_type(entries)} | _tokenizer(model)
        with target.open("xb") as file:
            _write_header(file, metadata, entries)
            for entry in entries:
                _write_tensor(file, entry)


# ---- metadata


def _metadata(model: ModelToWrite) -> dict[str, Any]:
    config = model.config
    refused = {
        f"hidden_act={config.hidden_act!r}": config.hidden_act not in ("silu", "swish"),
        f"rope_type={config.rope_parameters.rope_type!r}": config.rope_parameters.rope_type == "dynamic",
        # llama.cpp opens no Llama whose rope.dimension_count is not its head size.
        f"partial_rotary_factor={config.rope_parameters.partial_rotary_factor}": config.rotary_dim != config.head_dim,
    }
    for what, is_so in refused.items():
        if is_so:
            raise without_place(what, _FORMAT, hint="convert to hf")
    found: dict[str, Any] = {
        ARCHITECTURE: "llama",
        "general.type": "model",
        "general.name": model.name,
        "general.alignment": _ALIGNMENT,
        "general.quantization_version": 2,
        f"{PREFIX}vocab_size": config.vocab_size,
        f"{PREFIX}context_length": config.max_position_embeddings,
        f"{PREFIX}embedding_length": config.hidden_size,
        f"{PREFIX}block_count": config.num_hidden_layers,
        f"{PREFIX}feed_forward_length": config.intermediate_size,
        f"{PREFIX}attention.head_count": config.num_attention_heads,
        f"{PREFIX}attention.head_count_kv": config.num_key_value_heads,
        f"{PREFIX}attention.key_length": config.head_dim,
        f"{PREFIX}attention.value_length": config.head_dim,
        f"{PREFIX}attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{PREFIX}rope.dimension_count": config.rotary_dim,
        f"{PREFIX}rope.freq_base": config.rope_theta,
    }
    found |= {f"{PREFIX}rope.scaling.{key}": value for key, value in _rope(config).items()}
    ids = {"bos_token_id": config.bos_token_id, "padding_token_id": config.pad_token_id}
    ids |= dict(zip(("eos_token_id", "eot_token_id", "eom_token_id"), config.eos_token_ids, strict=False))
    if len(config.eos_token_ids) > 3:
        raise without_place(f"{len(config.eos_token_ids)} ids that end a text", _FORMAT)
    return found | {f"tokenizer.ggml.{key}": value for key, value in ids.items() if value is not None}


def _rope(config: LlamaConfig) -> dict[str, Any]:
    rope = config.rope_parameters
    original = rope.original_max_position_embeddings
    if rope.rope_type == "linear":
        return {"type": "linear", "factor": rope.factor}
    if rope.rope_type == "llama3":  # its divisors are a tensor; the context helps to find the rule again
        return {"original_context_length": original}
    if rope.rope_type == "longrope":
        from ...graph.rope import build_rope

        # No "factor": llama.cpp would divide all positions by it, beside what the two tensors say.
        return {
            "type": "longrope",
            "original_context_length": original or config.max_position_embeddings,
            "attn_factor": build_rope(config).attention_factor,
        }
    return _yarn(rope, config) if rope.rope_type == "yarn" else {}


def _yarn(rope: RopeParameters, config: LlamaConfig) -> dict[str, Any]:
    if rope.truncate is False:
        raise without_place("YaRN with truncate=False", _FORMAT, hint="convert to hf")
    from ...graph.rope import build_rope

    original = rope.original_max_position_embeddings or config.max_position_embeddings
    factor = rope.factor or config.max_position_embeddings / original
    found: dict[str, Any] = {
        "type": "yarn",
        "factor": factor,
        "original_context_length": original,
        "yarn_beta_fast": rope.beta_fast,
        "yarn_beta_slow": rope.beta_slow,
    }
    if (rope.beta_fast, rope.beta_slow) != _BETAS:
        warn(
            f"llama.cpp takes YaRN's betas from a Llama's file only if it is told: run it with --yarn-beta-fast "
            f"{rope.beta_fast} --yarn-beta-slow {rope.beta_slow} (polyllama reads them from the file)"
        )
    usual = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    attention = build_rope(config).attention_factor
    return found if math.isclose(attention, usual) else found | {"attn_factor": attention / usual}


def _tokenizer(model: ModelToWrite) -> dict[str, Any]:
    from ...tokenizer.formats.gguf import NO_TOKENIZER

    # llama.cpp opens no file that says nothing of a tokenizer.
    none = {"tokenizer.ggml.model": NO_TOKENIZER[0]}
    if model.tokenizer is None:
        return none
    from ...tokenizer.formats.gguf_writer import gguf_from_tokenizer

    try:
        return gguf_from_tokenizer(model.tokenizer, model.config.vocab_size)
    except TokenizerError as error:
        warn(f"the tokenizer is not written: {error}")
        return none


# ---- tensors


def _rope_entries(config: LlamaConfig) -> Iterator[_Entry]:
    import numpy as np

    rope = config.rope_parameters
    tables = {"rope_freqs.weight": divisors_of(config)}
    if rope.rope_type == "longrope":
        tables["rope_factors_long.weight"] = np.asarray(rope.long_factor, np.float32)
        tables["rope_factors_short.weight"] = np.asarray(rope.short_factor, np.float32)
    for name, table in tables.items():
        if table is not None:
            yield _Entry(name, "F32", table.shape, lambda table=table: table)  # type: ignore[misc]


def _entries(model: ModelToWrite) -> Iterator[_Entry]:
    weights = model.weights
    strangers = [name for name in weights if gguf_name(name) is None and not _is_part(name, model.packed)]
    if strangers:
        raise without_place(few(strangers, 5), _FORMAT)
    for name in weights:
        module, _, part = name.rpartition(".")
        if module in model.packed:
            if part == "weight":
                yield _packed_entry(model, module)
            continue
        info = weights.info(name)
        kind = "F32" if len(info.shape) == 1 and info.dtype in _TYPE_OF else _TYPE_OF.get(info.dtype)
        if kind is None:
            raise without_place(f"{name} as {info.dtype}", _FORMAT, hint="give a dtype: float32, float16 or bfloat16")
        yield _Entry(str(gguf_name(name)), kind, info.shape, _float_maker(model, name, kind))


def _is_part(name: str, packed: Mapping[str, tuple[int, int]]) -> bool:
    module, _, part = name.rpartition(".")
    return module in packed and part in ("weight", "scales", "biases")


def _is_rotary(name: str) -> bool:
    return ".q_proj" in name or ".k_proj" in name


def _float_maker(model: ModelToWrite, name: str, kind: str) -> Callable[[], Array]:
    config = model.config

    def make() -> Array:
        array = model.weights[name].astype(numpy_dtype(FLOATS[kind]), copy=False)
        return pairs_from_halves(array, config.head_dim, config.rotary_dim) if _is_rotary(name) else array

    return make


def _packed_entry(model: ModelToWrite, module: str) -> _Entry:
    """Scales and biases decide the type, so they are read before the header is written; they are a small part.

    Raises:
        UnsupportedError: no type says the same.
    """
    import numpy as np

    group, bits = model.packed[module]
    weights, config = model.weights, model.config
    words = weights.info(f"{module}.weight")
    shape = (words.shape[0], words.shape[1] * 32 // bits)
    kind = matching_type(weights[f"{module}.scales"], weights[f"{module}.biases"], bits)
    if kind is None:
        nearest = nearest_types(bits)[0]
        raise UnsupportedError(
            f"{module}: no type of GGUF holds its groups of int{bits}-g{group} exactly",
            hint="give a dtype, which unpacks them, or convert the original with " + mention("quantize", nearest),
        )
    order = pairs_from_halves(np.arange(shape[0]), config.head_dim, config.rotary_dim) if _is_rotary(module) else None

    def blocks() -> Array:
        scales, biases = np.array(weights[f"{module}.scales"]), np.array(weights[f"{module}.biases"])
        return blocks_from_packed(weights[f"{module}.weight"], scales, biases, group, kind, order)

    return _Entry(str(gguf_name(f"{module}.weight")), kind, shape, blocks)


def _file_type(entries: list[_Entry]) -> int:
    """What most of the values are."""
    sizes: dict[str, int] = {}
    for entry in entries:
        sizes[entry.type] = sizes.get(entry.type, 0) + math.prod(entry.shape)
    return _FILE_TYPES[max(sizes, key=lambda kind: sizes[kind])]


# ---- bytes


def _write_header(file: BinaryIO, metadata: Mapping[str, Any], entries: list[_Entry]) -> None:
    file.write(b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(metadata)))
    for key, value in metadata.items():
        file.write(_string(key) + _value(value))
    position = 0
    for entry in entries:
        shape = entry.shape[::-1]
        file.write(_string(entry.name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        file.write(struct.pack("<IQ", NUMBERS[entry.type], position))
        position += entry.nbytes + -entry.nbytes % _ALIGNMENT
    _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(b"\0" * (-file.tell() % _ALIGNMENT))


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    """A value with its type: whole numbers in 32 bits, as llama.cpp expects them."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if all(isinstance(item, str) for item in value):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
    kind, code = (6, "f") if any(isinstance(item, float) for item in value) else (5, "i")
    return struct.pack("<IIQ", 9, kind, len(value)) + struct.pack(f"<{len(value)}{code}", *value)


def _write_tensor(file: BinaryIO, entry: _Entry) -> None:
    import numpy as np

    array = entry.make()
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if data.size != entry.nbytes:
        raise CheckpointError(f"tensor {entry.name!r} was announced with {entry.nbytes} bytes, it has {data.size}")
    for start in range(0, data.size, _CHUNK):
        file.write(data[start : start + _CHUNK].data)
    _pad(file)

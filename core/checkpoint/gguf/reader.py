"""GGUF: one file, or its numbered parts, with weights, configuration and tokenizer.

Tensors come out under Hugging Face's names and in its rotary order, which llama.cpp's converter takes them out of.
F32, F16 and BF16 are mapped as they are. Q8_0, Q4_0 and Q4_1 come out packed, exactly: the config's ``quantization``
says how. Other types become float16, which a warning says. Names: llama.cpp's ``gguf-py/gguf/constants.py``.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError, PolyllamaWarning, warn
from ..protocol import TensorInfo, own_config
from ..rotary_order import halves_from_pairs
from .blocks import DEQUANTIZED, EXACT, GROUP, blocks_of, check_readable, dequantized, group_parameters, packed_words
from .file import GgufFile, GgufTensor
from .parts import open_model
from .rope import rope_from_divisors

if TYPE_CHECKING:
    from ...config.schema import LlamaConfig
    from ...tokenizer.tokenizer import Tokenizer
    from ..protocol import Array

NAMES: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.{}.attn_norm": "model.layers.{}.input_layernorm",
    "blk.{}.attn_q": "model.layers.{}.self_attn.q_proj",
    "blk.{}.attn_k": "model.layers.{}.self_attn.k_proj",
    "blk.{}.attn_v": "model.layers.{}.self_attn.v_proj",
    "blk.{}.attn_output": "model.layers.{}.self_attn.o_proj",
    "blk.{}.ffn_norm": "model.layers.{}.post_attention_layernorm",
    "blk.{}.ffn_gate": "model.layers.{}.mlp.gate_proj",
    "blk.{}.ffn_up": "model.layers.{}.mlp.up_proj",
    "blk.{}.ffn_down": "model.layers.{}.mlp.down_proj",
}
ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
FLOATS: Mapping[str, str] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_INTEGERS = {"I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"}
_NUMBER = re.compile(r"(?<=^blk\.)\d+(?=\.)|(?<=^model\.layers\.)\d+(?=\.)")
_AGAIN = "download the model again"


def huggingface_name(name: str) -> str:
    """What Hugging Face calls a tensor; one that is no Llama's keeps its name, and the check reports it.

    >>> huggingface_name("blk.3.attn_q.weight"), huggingface_name("blk.0.ssm_a")
    ('model.layers.3.self_attn.q_proj.weight', 'blk.0.ssm_a')
    """
    stem, _, kind = name.rpartition(".")
    found = NAMES.get(_NUMBER.sub("{}", stem))
    return name if found is None or kind not in ("weight", "bias") else f"{found}.{kind}".format(*_NUMBER.findall(stem))


def gguf_name(name: str) -> str | None:
    """The inverse of ``huggingface_name``; None for a tensor that GGUF has no name for.

    >>> gguf_name("model.layers.3.self_attn.q_proj.weight"), gguf_name("score.weight")
    ('blk.3.attn_q.weight', None)
    """
    stem, _, kind = name.rpartition(".")
    pattern = _NUMBER.sub("{}", stem)
    found = next((ours for ours, theirs in NAMES.items() if theirs == pattern), None)
    return None if found is None else f"{found}.{kind}".format(*_NUMBER.findall(stem))


@dataclass(frozen=True)
class _Source:
    """Where a tensor comes from, and which part of it: values, or words, scales and biases of packed ones."""

    file: GgufFile
    tensor: GgufTensor
    part: str


class GgufCheckpoint:
    """One GGUF model behind the ``Checkpoint`` interface. ``path`` is a file, or a folder with one model.

    Attributes:
        metadata: all pairs of the (first) file.
        quantization: how its packed modules are quantized, as MLX's config.json says it; None where none is.
    """

    format = "gguf"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files = open_model(self.path)
        self.metadata = self._files[0].metadata
        self._rope = {n: (f, f.tensors[n]) for f in self._files for n in ROPE_TENSORS if n in f.tensors}
        self._sources: dict[str, _Source] = {}
        self._tensors: dict[str, TensorInfo] = {}
        others: dict[str, str] = {}
        packed: dict[str, int] = {}
        for file in self._files:
            for name, tensor in file.tensors.items():
                if name not in ROPE_TENSORS:
                    self._add(file, tensor, huggingface_name(name), packed, others)
        if not self._tensors:
            raise CheckpointError(f"{self.path}: holds no tensors at all", hint=_AGAIN)
        check_readable(others, self.path)
        self.quantization = _quantization(packed, self._tensors)
        with warnings.catch_warnings():  # whoever loads asks for the config again, and hears what it has to say
            warnings.simplefilter("ignore", PolyllamaWarning)
            self._config = self.config()
        if others:
            warn(f"{self.path}: stored as {', '.join(sorted(others))}, which become {DEQUANTIZED} when read")

    def config(self, **overrides: Any) -> LlamaConfig:
        """What the metadata and the tensors say of the model, with fields overridden."""
        from ...config.gguf import ARCHITECTURE
        from ...config.reading import Source
        from ...config.schema import LlamaConfig

        where, label = str(self._files[0].path), self._files[0].path.name
        # The vocabulary is long, and no business of the config's.
        short = {k: v for k, v in self.metadata.items() if not isinstance(v, list) or not k.startswith("tokenizer.")}
        short.setdefault(ARCHITECTURE, None)
        layers = [(short, Source(where, label)), (self._from_tensors(), Source(where, label))]
        with own_config():
            return LlamaConfig.from_sources(layers, **overrides)

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by Hugging Face's name; packed modules have weight, scales and biases."""
        return self._tensors

    def read(self, name: str) -> Array:
        """One tensor: mapped where it is stored as floats in Hugging Face's order, else a copy."""
        source = self._sources.get(name)
        if source is None:
            raise CheckpointError(f"{self.path}: there is no tensor {name!r}")
        tensor, where = source.tensor, f"{source.file.path}: tensor {source.tensor.name!r}"
        rotary = (".q_proj." in name or ".k_proj." in name) and self._config.rotary_dim > 1
        dtype = FLOATS.get(tensor.type) or _INTEGERS.get(tensor.type)
        if dtype is not None:
            array = source.file.file.array(dtype, tensor.shape, tensor.offset)
            return halves_from_pairs(array, self._config.head_dim, self._config.rotary_dim) if rotary else array
        raw = source.file.file.array("uint8", (tensor.nbytes,), tensor.offset)
        blocks = blocks_of(raw, tensor.type, tensor.shape)
        order = self._row_order(blocks.shape[0]) if rotary else None
        if source.part == "values":
            return dequantized(blocks, tensor.type, tensor.shape, order, where)
        if source.part == "weight":
            return packed_words(blocks, tensor.type, order)
        return group_parameters(blocks, tensor.type, order, source.part, where)

    def stored_types(self) -> Iterator[tuple[str, int]]:
        """GGUF's type of each tensor, and how many values it holds."""
        for file in self._files:
            for tensor in file.tensors.values():
                yield tensor.type, math.prod(tensor.shape)

    def release(self, name: str) -> None:
        """Give back the memory that reading a tensor brought in; see ``MappedFile.release``."""
        source = self._sources[name]
        source.file.file.release(source.tensor.offset, source.tensor.nbytes)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer in the metadata."""
        from ...tokenizer.formats.gguf import tokenizer_from_gguf

        return tokenizer_from_gguf(self.metadata, str(self._files[0].path))

    def _add(
        self, file: GgufFile, tensor: GgufTensor, name: str, packed: dict[str, int], others: dict[str, str]
    ) -> None:
        def put(part: str, dtype: str, shape: tuple[int, ...], target: str) -> None:
            if target in self._tensors:
                raise CheckpointError(f"{file.path}: the tensor {tensor.name!r} is there twice", hint=_AGAIN)
            self._sources[target] = _Source(file, tensor, part)
            self._tensors[target] = TensorInfo(target, dtype, shape, file.path)

        module = name.removesuffix(".weight")
        if tensor.type in EXACT and len(tensor.shape) == 2 and module != name:
            bits, (rows, columns) = EXACT[tensor.type].bits, tensor.shape
            packed[module] = bits
            put("weight", "uint32", (rows, columns * bits // 32), name)
            for part in ("scales", "biases"):
                put(part, "float16", (rows, columns // GROUP), f"{module}.{part}")
        elif dtype := FLOATS.get(tensor.type) or _INTEGERS.get(tensor.type):
            put("values", dtype, tensor.shape, name)
        else:
            others.setdefault(tensor.type, tensor.name)
            put("values", DEQUANTIZED, tensor.shape, name)

    def _from_tensors(self) -> dict[str, Any]:
        found: dict[str, Any] = {"tie_word_embeddings": "lm_head.weight" not in self._tensors}
        embedding = self._tensors.get("model.embed_tokens.weight")
        if embedding is not None and len(embedding.shape) == 2 and "llama.vocab_size" not in self.metadata:
            found["vocab_size"] = embedding.shape[0]
        if any(name.endswith("_proj.bias") and ".self_attn." in name for name in self._tensors):
            found["attention_bias"] = True
        if any(name.endswith("_proj.bias") and ".mlp." in name for name in self._tensors):
            found["mlp_bias"] = True
        sizes: Counter[str] = Counter()
        for info in self._tensors.values():
            if info.dtype in FLOATS.values():
                sizes[info.dtype] += info.nbytes
        found["dtype"] = sizes.most_common(1)[0][0] if sizes else None
        if self.quantization is not None:
            found["quantization"] = self.quantization
        return found | self._rope_parameters()

    def _rope_parameters(self) -> dict[str, Any]:
        """The rotary parameters that lie in tensors of their own."""
        from ...config.gguf import shortest

        divisors = {n: file.file.array("float32", t.shape, t.offset) for n, (file, t) in self._rope.items()}
        for name, (file, tensor) in self._rope.items():
            if tensor.type != "F32" or len(tensor.shape) != 1 or not (divisors[name] > 0).all():
                raise CheckpointError(f"{file.path}: the tensor {name!r} holds no factors of frequencies", hint=_AGAIN)
        theta = shortest(self.metadata.get("llama.rope.freq_base", 10000.0))
        original = self.metadata.get("llama.rope.scaling.original_context_length")
        if "rope_freqs.weight" in divisors and type(theta) is float and theta > 0:
            found = rope_from_divisors(
                divisors["rope_freqs.weight"], theta, original if type(original) is int else None
            )
            return {"rope_parameters": found | {"rope_theta": theta}} if found else {}
        if len(divisors) == 2:
            factors = {n.removesuffix(".weight").removeprefix("rope_factors_"): v for n, v in divisors.items()}
            attention = self.metadata.get("llama.rope.scaling.attn_factor")
            found = {"rope_type": "longrope", "rope_theta": theta, "attention_factor": shortest(attention)}
            found |= {f"{kind}_factor": [shortest(float(v)) for v in values] for kind, values in factors.items()}
            found["original_max_position_embeddings"] = original
            return {"rope_parameters": {k: v for k, v in found.items() if v is not None}}
        return {}

    def _row_order(self, rows: int) -> Array:
        import numpy as np

        return halves_from_pairs(np.arange(rows), self._config.head_dim, self._config.rotary_dim)


class GgufFormat:
    """The reader of GGUF."""

    name = "gguf"

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether the path is a GGUF file, or a folder whose only weights are GGUF."""
        if path.is_dir():
            others = (*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin"), *path.glob("consolidated.*.pth"))
            return not others and any(path.glob("*.gguf"))
        if path.suffix == ".gguf":
            return True
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"

    @staticmethod
    def open(path: Path) -> GgufCheckpoint:
        """Open it; ``CheckpointError`` names the file that is wrong."""
        return GgufCheckpoint(path)


def _quantization(packed: Mapping[str, int], tensors: Mapping[str, TensorInfo]) -> dict[str, Any] | None:
    """What MLX's config.json would say of these modules."""
    if not packed:
        return None
    bits = Counter(packed.values()).most_common(1)[0][0]
    found: dict[str, Any] = {"group_size": GROUP, "bits": bits, "mode": "affine"}
    found |= {module: {"group_size": GROUP, "bits": own} for module, own in packed.items() if own != bits}
    plain = [name.removesuffix(".weight") for name, info in tensors.items() if len(info.shape) == 2]
    return found | {
        module: False for module in plain if module not in packed and not module.endswith((".scales", ".biases"))
    }

"""Random models of a given shape on disk: as checkpoints, packed or not, and as GGUF."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.checkpoint.huggingface.save_safetensors import save_safetensors
from ...core.checkpoint.protocol import TensorInfo
from ...core.checkpoint.weights import dummy_weights
from ...core.config.schema import LlamaConfig
from ...core.errors import UnsupportedError
from ...core.graph.from_config import build_graph
from ...core.graph.graph import Graph
from ...core.graph.node import Parameter
from ...core.quantization.scheme import Quantization, parse_quantize
from ...core.transforms.quantize_graph import plan, quantize_graph
from ..tasks.causal_lm import CausalLM

if TYPE_CHECKING:
    import numpy as np

TINYLLAMA = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
}
"""The shape of TinyLlama-1.1B."""

GGUF_TYPES = {"int4": "Q4_0", "int8": "Q8_0", "bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""What llama.cpp has for each kind of weights."""

SCALE = 0.004


def write_checkpoint(folder: Path, config: LlamaConfig, kind: str, *, pack: bool) -> None:
    """A random checkpoint of `config` with weights of `kind` ("int4", "int8-g32", "bfloat16" ...).

    Args:
        pack: also as backend cpu reads it.
    """
    config = config.replace(dtype="bfloat16" if kind.startswith("int") else kind, architectures=["LlamaForCausalLM"])
    graph = build_graph(config, CausalLM())
    if kind.startswith("int"):
        wanted = parse_quantize(kind)
        settings = plan(graph, Quantization(group_size=wanted.group_size, bits=wanted.bits), group_is_asked_for=False)
        graph, config = quantize_graph(graph, settings), config.replace(quantization=settings)
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    bits = wanted.bits if kind.startswith("int") else 0
    save_safetensors(folder, list(_tensors(graph, config.dtype or "bfloat16", bits)))
    if pack:
        from ...backends.cpu.backend import CpuBackend

        CpuBackend().pack(folder)


def _tensors(graph: Graph, dtype: str, bits: int) -> Iterator[tuple[TensorInfo, Any]]:
    plain = dummy_weights([p for p in graph.parameters() if p.bits is None], dtype=dtype)
    for parameter in graph.parameters():
        info = TensorInfo(parameter.name, parameter.held_as(dtype), parameter.shape)
        if parameter.bits:
            yield info, partial(_words, parameter)
        elif parameter.purpose == "quantization":
            yield info, partial(_group_values, parameter, dtype, bits)
        else:
            yield info, partial(plain.__getitem__, parameter.name)


def _words(parameter: Parameter) -> np.ndarray:
    import numpy as np

    block = np.random.default_rng(zlib.crc32(parameter.name.encode())).integers(0, 2**32, 1 << 18, dtype=np.uint32)
    return np.resize(block, parameter.shape)


def _group_values(parameter: Parameter, dtype: str, bits: int) -> np.ndarray:
    """Scales of an ordinary size, or the biases that make the weights symmetric: then every contender can have them.

    Scales differ from matrix to matrix, because what is equal a library may keep, and read, once.
    """
    import numpy as np

    from ...core.dtypes import numpy_dtype

    module, _, what = parameter.name.rpartition(".")
    block = np.random.default_rng(zlib.crc32(module.encode())).uniform(0.5, 1.5, 1 << 14) * SCALE * 2.0 ** (4 - bits)
    scales = np.resize(block.astype(numpy_dtype(dtype)), parameter.shape)
    return scales if what == "scales" else -scales * scales.dtype.type(2 ** (bits - 1))


def write_gguf(path: Path, config: LlamaConfig, kind: str) -> None:
    """The same shape as GGUF without a vocabulary, every matrix in the type that matches `kind`.

    Raises:
        UnsupportedError: the gguf package is missing, or a kind that GGUF has no type for.
    """
    try:
        import gguf
    except ImportError:
        raise UnsupportedError(
            "llama.cpp's models need the gguf package", hint="pip install 'polyllama[bench]'"
        ) from None
    if kind not in GGUF_TYPES:
        raise UnsupportedError(f"GGUF has no type for {kind}", hint=f"use one of {', '.join(GGUF_TYPES)}")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads or config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, shape in _gguf_shapes(config):
        if len(shape) == 1:
            writer.add_tensor(name, _ones(shape))
        else:
            quantization = gguf.GGMLQuantizationType[GGUF_TYPES[kind]]
            data = _gguf_matrix(name, shape, GGUF_TYPES[kind], gguf.GGML_QUANT_SIZES[quantization])
            writer.add_tensor(name, data, raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_shapes(config: LlamaConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * dim, (config.num_key_value_heads or 1) * dim
    yield "token_embd.weight", (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        name = f"blk.{layer}"
        yield f"{name}.attn_norm.weight", (hidden,)
        yield f"{name}.attn_q.weight", (queries, hidden)
        yield f"{name}.attn_k.weight", (keys, hidden)
        yield f"{name}.attn_v.weight", (keys, hidden)
        yield f"{name}.attn_output.weight", (hidden, queries)
        yield f"{name}.ffn_norm.weight", (hidden,)
        yield f"{name}.ffn_gate.weight", (inner, hidden)
        yield f"{name}.ffn_up.weight", (inner, hidden)
        yield f"{name}.ffn_down.weight", (hidden, inner)
    yield "output_norm.weight", (hidden,)
    yield "output.weight", (config.vocab_size, hidden)


def _ones(shape: tuple[int, ...]) -> np.ndarray:
    import numpy as np

    return np.ones(shape, np.float32)


def _gguf_matrix(name: str, shape: tuple[int, ...], kind: str, block: tuple[int, int]) -> np.ndarray:
    """Random blocks: half-precision scales of an ordinary size, then random values."""
    import numpy as np

    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values, size = block
    if kind in ("F32", "F16", "BF16"):
        floats = np.resize(rng.standard_normal(1 << 18).astype(np.float32) * 0.02, shape)
        if kind == "BF16":
            return (floats.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return floats.astype(np.float16 if kind == "F16" else np.float32)
    blocks = np.resize(rng.integers(0, 256, 1 << 20, dtype=np.uint8), (shape[0], shape[1] // values, size))
    blocks[:, :, :2] = np.array([SCALE if kind == "Q4_0" else SCALE / 16], np.float16).view(np.uint8)
    return blocks.reshape(shape[0], -1)

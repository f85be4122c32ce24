"""A checkpoint as OpenVINO's own kind of model (IR), in the patterns that its CPU plugin fuses.

Written with OpenVINO's operations alone. The plugin recognizes the norm, the rotation, attention over a cache that is
the model's state, and packed weights that are unpacked in front of a product; what it does not recognize it computes
operation by operation. Source: the plugin's transformations ``StatefulSDPAFusion``, ``RoPEFusion``, ``RMSFusion`` and
``ConvertFullyConnectedToFullyConnectedCompressed``.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from ...core.errors import UnsupportedError
from ...core.graph.quantized import QuantizedEmbedding, QuantizedLinear
from ...core.graph.rope import build_rope

if TYPE_CHECKING:
    import numpy as np

    from ...core.config.schema import LlamaConfig
    from ...core.graph.graph import Graph
    from ...core.graph.nodes import Attention, DecoderLayer, GatedMLP, Linear, RMSNorm
    from ...core.graph.rope import Rope

WIDTHS = (4, 8)
"""Bits that packed weights can have."""

ACTIVATIONS = {
    "silu": ("swish",),
    "swish": ("swish",),
    "relu": ("relu",),
    "gelu": ("gelu", "erf"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
}
"""OpenVINO's operation for each activation, and its mode."""

END = 2**31 - 1
"""Behind every position."""

_OPTIONS = ["polyllama", "options"]
"""Where a model keeps what the plugin is to be told, as JSON."""


def check_openvino(config: LlamaConfig) -> None:
    """Refuse a model that :func:`write_openvino` does not write.

    Raises:
        UnsupportedError: names the field.
    """
    hint = "leave openvino out for this model"
    if build_rope(config).depends_on_length:
        kind = config.rope_parameters.rope_type
        raise UnsupportedError(f"rope_type={kind!r} is not written for OpenVINO", hint=hint)
    if config.hidden_act not in ACTIVATIONS:
        raise UnsupportedError(f"hidden_act={config.hidden_act!r} is not written for OpenVINO", hint=hint)


def write_openvino(checkpoint: Path, path: Path) -> None:
    """Write ``path`` (``.xml``) and its weights (``.bin`` beside it) for the causal language model in a folder.

    Inputs are ``input_ids`` and ``position_ids`` ``[B, S]`` and ``beam_idx`` ``[B]``, which row of the cache each row
    goes on from; the output is ``logits`` ``[B, 1, vocab]`` of the last position. The cache is the model's state.

    Raises:
        UnsupportedError: a model that this does not write; names what it has.
    """
    from ...core.loading.read_weights import described_weights

    described, weights = described_weights(checkpoint)
    check_openvino(described.config)
    openvino: Any = importlib.import_module("openvino")  # an extra, which type checking does without
    writer = _Writer(openvino, weights)  # it keeps what the model only points at, until that is written
    model = writer.model(described.graph)
    told = {}
    if described.config.dtype == "float32":
        told["INFERENCE_PRECISION_HINT"] = "f32"  # else bfloat16 where the processor has it
    if writer.groups:
        # With its own 32 it sums, and rounds inputs, twice in a group of 64; with more than a group it rounds none.
        told["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(min(writer.groups))
    model.set_rt_info(json.dumps(told), _OPTIONS)
    openvino.save_model(model, str(path), compress_to_fp16=False)
    _mark(path, writer.widened)


def options(model: Any) -> dict[str, str]:
    """What the plugin must be told to compute a written model as it is meant, and at its best."""
    found: dict[str, str] = json.loads(model.get_rt_info(_OPTIONS).astype(str))
    return found


def _mark(path: Path, widened: set[str]) -> None:
    """Mark the operations that widen half-precision weights, as OpenVINO's own converter does; Python cannot.

    Unmarked they are done while loading, which then takes some ten times as long and half as much memory again.
    """
    tree = ElementTree.parse(path)
    for layer in tree.iter("layer"):
        if layer.get("name") in widened:
            info = ElementTree.Element("rt_info")
            ElementTree.SubElement(info, "attribute", name="decompression", version="0")
            layer.insert(1, info)  # behind <data>
    tree.write(path)


class _Writer:
    """Builds operations; each method returns the last that it has made."""

    def __init__(self, openvino: Any, weights: Mapping[str, np.ndarray]) -> None:
        self.openvino, self.weights = openvino, weights
        self.ops: Any = importlib.import_module("openvino.opset13")
        self.sinks: list[Any] = []
        self.kept: list[np.ndarray] = []
        self.widened: set[str] = set()
        self.groups: set[int] = set()

    def model(self, graph: Graph) -> Any:
        import numpy as np

        ops, decoder = self.ops, graph.decoder
        self.ids = ops.parameter([-1, -1], np.int64)
        self.positions = ops.parameter([-1, -1], np.int64)
        self.beams = ops.parameter([-1], np.int32)
        self.batch = ops.gather(ops.shape_of(self.ids), self.integers([0]), self.integers(0))
        layers: Any = decoder.layers
        self.rotation = self.angles(layers[0].attention.rope)
        x = self.embedding(decoder.embed)
        for index, layer in enumerate(layers):
            x = self.layer(layer, index, x)
        logits = self.linear(graph.head, self.norm(decoder.norm, self.part(x, -1, END, axis=1)))
        result = ops.result(logits)
        inputs = {"input_ids": self.ids, "position_ids": self.positions, "beam_idx": self.beams}
        for name, node in (inputs | {"logits": result}).items():
            node.output(0).set_names({name})
        return self.openvino.Model([result], self.sinks, list(inputs.values()), "llama")

    def layer(self, layer: DecoderLayer, index: int, x: Any) -> Any:
        x = self.ops.add(x, self.attention(layer.attention, index, self.norm(layer.attention_norm, x)))
        return self.ops.add(x, self.mlp(layer.mlp, self.norm(layer.mlp_norm, x)))

    def mlp(self, node: GatedMLP | Any, x: Any) -> Any:
        operation, *mode = ACTIVATIONS[node.activation]
        gate = getattr(self.ops, operation)(self.linear(node.gate, x), *mode)
        return self.linear(node.down, self.ops.multiply(gate, self.linear(node.up, x)))

    def attention(self, node: Attention | Any, index: int, x: Any) -> Any:
        ops, swapped = self.ops, self.integers([0, 2, 1, 3])

        def heads(linear: Any, count: int) -> Any:
            split = ops.reshape(self.linear(linear, x), self.integers([0, 0, count, node.head_dim]), True)
            return ops.transpose(split, swapped)

        query = self.rotate(heads(node.q, node.num_heads), node.rope)
        key = self.remembered(f"key.{index}", self.rotate(heads(node.k, node.num_kv_heads), node.rope), node)
        value = self.remembered(f"value.{index}", heads(node.v, node.num_kv_heads), node)
        mixed = ops.transpose(ops.scaled_dot_product_attention(query, key, value, causal=True), swapped)
        return self.linear(node.o, ops.reshape(mixed, self.integers([0, 0, node.num_heads * node.head_dim]), True))

    def remembered(self, name: str, new: Any, node: Attention) -> Any:
        """A state with `new` behind it, each head as often as queries share it."""
        import numpy as np

        ops, heads, dim = self.ops, node.num_kv_heads, node.head_dim
        shape = ops.concat([self.batch, self.integers([heads]), self.integers([0]), self.integers([dim])], 0)
        past = ops.read_value(ops.broadcast(self.number(0.0), shape), name, np.float32, [-1, heads, -1, dim])
        present = ops.concat([ops.gather(past, self.beams, self.integers(0)), new], -2)
        self.sinks.append(ops.assign(present, name))
        if heads == node.num_heads:
            return present
        shared = self.integers([1, 1, node.num_heads // heads, 1, 1])
        repeated = ops.broadcast(ops.unsqueeze(present, self.integers([2])), shared, broadcast_spec="BIDIRECTIONAL")
        return ops.reshape(repeated, self.integers([0, node.num_heads, -1, dim]), True)

    def angles(self, rope: Rope) -> tuple[Any, ...]:
        """Cosines and sines ``[B, 1, S, rotary_dim]``."""
        ops = self.ops
        places = ops.convert(ops.unsqueeze(self.positions, self.integers([1])), "f32")
        frequencies = self.tensor(rope.row_frequencies()[:, :, None])
        turns = ops.transpose(ops.matmul(frequencies, places, False, False), self.integers([0, 2, 1]))
        turns = ops.concat([turns, turns], -1)
        tables = [ops.cos(turns), ops.sin(turns)]
        if rope.attention_factor != 1.0:
            tables = [ops.multiply(table, self.number(rope.attention_factor)) for table in tables]
        return tuple(ops.unsqueeze(table, self.integers([1])) for table in tables)

    def rotate(self, x: Any, rope: Rope) -> Any:
        ops, half = self.ops, rope.rotary_dim // 2
        cos, sin = self.rotation
        whole = rope.rotary_dim == rope.head_dim
        turning = x if whole else self.part(x, 0, rope.rotary_dim)
        second = ops.multiply(self.part(turning, half, END), self.number(-1.0))
        turned = ops.concat([second, self.part(turning, 0, half)], -1)
        turned = ops.add(ops.multiply(turning, cos), ops.multiply(turned, sin))
        return turned if whole else ops.concat([turned, self.part(x, rope.rotary_dim, END)], -1)

    def norm(self, node: RMSNorm | Any, x: Any) -> Any:
        ops = self.ops
        square = ops.reduce_mean(ops.power(x, self.number(2.0)), self.integers([-1]), True)
        scale = ops.divide(self.number(1.0), ops.sqrt(ops.add(square, self.number(node.eps))))
        return ops.multiply(ops.multiply(x, scale), self.floats(f"{node.name}.weight"))

    def linear(self, node: Linear | QuantizedLinear | Any, x: Any) -> Any:
        if isinstance(node, QuantizedLinear):
            weight = self.packed(node.source, (node.out_features, node.in_features), node.group_size, node.bits)
        else:
            weight = self.floats(f"{node.tied_to or node.name}.weight")
        y = self.ops.matmul(x, weight, False, True)
        return self.ops.add(y, self.floats(f"{node.name}.bias")) if node.bias else y

    def embedding(self, node: Any) -> Any:
        if isinstance(node, QuantizedEmbedding):
            table = self.packed(node.name, (node.num_embeddings, node.dim), node.group_size, node.bits)
        else:
            table = self.floats(f"{node.name}.weight")
        return self.ops.gather(table, self.ops.convert(self.ids, "i32"), self.integers(0))

    def packed(self, name: str, shape: tuple[int, int], group_size: int, bits: int) -> Any:
        """Signed integers of 4 or 8 bits and a half-precision scale for each group, as a float32 matrix."""
        import numpy as np

        scales, biases = (np.asarray(self.weights[f"{name}.{kind}"], np.float32) for kind in ("scales", "biases"))
        if bits not in WIDTHS or not np.array_equal(biases, -scales * 2 ** (bits - 1)):
            raise UnsupportedError(
                f"{name}: OpenVINO's models are written with symmetric weights of 4 or 8 bits alone",
                hint=f"these have {bits} bits" if bits not in WIDTHS else "these have biases of their own",
            )
        halves = scales.astype(np.float16)
        if not np.array_equal(halves, scales):
            raise UnsupportedError(
                f"{name}: its scales are not those of half precision, which OpenVINO's models are written with",
                hint="leave openvino out for this model",
            )
        # Unsigned integers become signed ones when their highest bit turns round: that takes 2^(bits - 1) away.
        highest = np.uint8(0x88 if bits == 4 else 0x80)
        words = np.ascontiguousarray(self.weights[f"{name}.weight"]).view(np.uint8) ^ highest
        self.groups.add(group_size)
        values = self.tensor(words, (shape[0], shape[1] // group_size, group_size), f"i{bits}")
        matrix = self.ops.multiply(self.ops.convert(values, "f16"), self.tensor(halves[:, :, None]))
        return self.ops.convert(self.ops.reshape(matrix, self.integers(shape), False), "f32")

    def floats(self, name: str) -> Any:
        """A weight of any floating dtype, as float32."""
        import numpy as np

        value = np.ascontiguousarray(self.weights[name])
        if value.dtype == np.float32:
            return self.tensor(value)
        kind = "bf16" if value.dtype.name == "bfloat16" else "f16"
        wide = self.ops.convert(self.tensor(value.view(np.uint16), value.shape, kind), "f32")
        wide.set_friendly_name(f"{name}, widened")
        self.widened.add(wide.get_friendly_name())
        return wide

    def part(self, x: Any, start: int, stop: int, *, axis: int = 3) -> Any:
        """``x[..., start:stop]`` of one axis."""
        return self.ops.slice(x, *(self.integers([number]) for number in (start, stop, 1, axis)))

    def tensor(self, array: np.ndarray, shape: tuple[int, ...] = (), kind: str = "") -> Any:
        """A constant that shares the array's memory; with a `kind` of OpenVINO's, the array has its bits."""
        self.kept.append(array)
        if not kind:
            return self.ops.constant(self.openvino.Tensor(array, shared_memory=True))
        return self.ops.constant(
            self.openvino.Tensor(array, self.openvino.Shape(shape), getattr(self.openvino.Type, kind))
        )

    def integers(self, values: Any) -> Any:
        import numpy as np

        return self.ops.constant(np.asarray(values, np.int64))

    def number(self, value: float) -> Any:
        import numpy as np

        return self.ops.constant(np.asarray(value, np.float32))

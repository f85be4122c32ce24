"""The tiny models that backends are tried on: weights that every dtype holds exactly, parts neutralised by zeros."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.checkpoint.protocol import TensorInfo
from ..core.checkpoint.weights import Weights
from ..core.config.keys import ACTIVATION_NAMES
from ..core.config.schema import LlamaConfig
from ..core.dtypes import numpy_dtype
from ..core.graph.adapted import LoraEmbedding, LoraLinear
from ..core.graph.from_config import build_graph
from ..core.graph.graph import Graph
from ..core.graph.node import Node, Parameter
from ..core.graph.nodes import Attention, DecoderLayer, Embedding, GatedMLP, Linear
from ..core.loading.tasks import find_task
from ..core.plugin_system.manager import plugin_manager
from ..core.quantization.affine import choose, nearest
from ..core.quantization.packing import pack
from ..core.quantization.scheme import ModuleQuantization, Quantization
from ..core.tasks.outputs import CausalLMOutput
from ..core.tasks.task import Task
from ..core.transforms.adapters.graph_changes import map_nodes
from ..core.transforms.quantize_graph import quantize_graph
from ..core.transforms.quantize_weights import quantized_modules

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..core.graph.node import Context

    Floats = NDArray[np.float64]

VOCABULARY, HIDDEN, LENGTH = 97, 48, 30

SIZES: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}

ROPES: Mapping[str, Mapping[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 2.5, 3.0, 4.0],
        "original_max_position_embeddings": 20,
    },
    "partial": {"rope_type": "default", "partial_rotary_factor": 0.5},
}
"""For heads of 8 and rows of 30 tokens, within which dynamic (at 18) and longrope (at 20) change."""

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "attention.mha": {},
    "attention.gqa": {"num_key_value_heads": 2},
    "attention.mqa": {"num_key_value_heads": 1},
    "attention.biases": {"attention_bias": True},
    "attention.dropout": {"attention_dropout": 0.5},
    "attention.head_dim": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
    "mlp.biases": {"mlp_bias": True},
    "weights.tied": {"tie_word_embeddings": True},
}
"""Models that differ from the plain one in one field each, so that a failing check says which."""

IDS = np.random.default_rng(20).integers(1, VOCABULARY, (3, LENGTH))
"""``[3, 30]`` token ids, none of them the padding token 0."""
IDS.flags.writeable = False


def on_grid(values: Any) -> Floats:
    """Rounded to numbers that bfloat16 and float16 both hold exactly, and so do the wider dtypes.

    Eight significant bits, and nothing outside float16's normal range: below it becomes 0.
    """
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)).view(
        np.float32
    )
    grid = rounded.astype(np.float64)
    grid[np.abs(grid) < 2.0**-14] = 0.0
    return np.clip(grid, -61440.0, 61440.0)


@dataclass(frozen=True, eq=False)
class Probe:
    """A tiny model: its graph, task and weights (float64 values that every dtype holds exactly, and packed words)."""

    name: str
    config: LlamaConfig
    graph: Graph
    task: Task
    weights: Mapping[str, Floats]

    @property
    def by_length(self) -> bool:
        """Whether a row's length changes its frequencies."""
        return self.config.rope_parameters.rope_type in ("dynamic", "longrope")

    def stored(self, dtype: str) -> Weights:
        """The weights as a checkpoint of `dtype` holds them."""

        def entry(parameter: Parameter) -> tuple[TensorInfo, Callable[[], Any]]:
            values, held = self.weights[parameter.name], parameter.held_as(dtype)
            return TensorInfo(parameter.name, held, values.shape), lambda: values.astype(numpy_dtype(held))

        return Weights(entry(parameter) for parameter in self.graph.parameters())


def make(
    name: str,
    task: Task | str = "causal-lm",
    *,
    zero: tuple[str, ...] = (),
    gains: Mapping[str, float] | None = None,
    unit_norms: bool = False,
    edit: Callable[[Graph], Graph] | None = None,
    **fields: Any,
) -> Probe:
    """Build a probe.

    Args:
        zero: endings of the names of nodes whose tensors are all 0, which turns them off.
        gains: endings of node names -> factor on the standard deviation ``1 / sqrt(in_features)``.
        unit_norms: all norm weights 1 instead of random.
        edit: graph -> graph.
        fields: of the config.
    """
    config = LlamaConfig(**{**SIZES, **fields})
    task = find_task(plugin_manager(), task, config) if isinstance(task, str) else task
    graph = build_graph(config, task)
    graph = edit(graph) if edit is not None else graph
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    weights = {}
    for parameter in graph.parameters():
        values = values_of(parameter, rng, gains or {}, unit_norms)
        off = any(parameter.name.rpartition(".")[0].endswith(ending) for ending in zero)
        weights[parameter.name] = values * 0.0 if off else values
    return Probe(name, config, graph, task, weights)


def make_quantized(
    name: str, bits: int, group_size: int = 32, modules: Mapping[str, Any] | None = None, **fields: Any
) -> Probe:
    """A probe whose weights are packed; in sizes that groups divide and that backends have kernels for.

    Args:
        modules: modules that are quantized in another way, or not (``None``).
        fields: of :func:`make`.
    """
    sizes = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    plain = make(name, **{**sizes, "num_key_value_heads": 2, **fields})
    settings = Quantization(group_size=group_size, bits=bits, modules=dict(modules or {}))
    graph = quantize_graph(plain.graph, settings)
    weights = dict(plain.weights)
    for module, node in quantized_modules(graph).items():
        values = weights[f"{module}.weight"]
        groups = values.astype(np.float32).reshape(len(values), -1, node.group_size)
        scales, biases = (on_grid(part) for part in choose(groups, node.bits))
        q = nearest(groups, scales, biases, node.bits).reshape(values.shape)
        words: Any = pack(q, node.bits)
        weights |= {f"{module}.weight": words, f"{module}.scales": scales, f"{module}.biases": biases}
    return Probe(name, plain.config.replace(quantization=settings), graph, plain.task, weights)


def values_of(
    parameter: Parameter,
    rng: np.random.Generator,
    gains: Mapping[str, float] = MappingProxyType({}),
    unit_norms: bool = False,
) -> Floats:
    """Random values of a parameter, large enough to matter, that every dtype holds exactly."""
    node = parameter.name.rpartition(".")[0]
    if parameter.role == "norm":
        return np.ones(parameter.shape) if unit_norms else on_grid(rng.uniform(0.5, 1.5, parameter.shape))
    values = rng.standard_normal(parameter.shape)
    if parameter.role == "embedding":
        return on_grid(values)
    if len(parameter.shape) == 1:
        return on_grid(0.5 * values)
    # Queries and keys larger than the rest, so that attention is far from uniform and a wrong mask or position shows.
    gain = 1.5 if node.endswith(("q_proj", "k_proj")) else 1.0
    gain = next((g for ending, g in gains.items() if node.endswith(ending)), gain)
    return on_grid(gain / np.sqrt(parameter.shape[-1]) * values)


@dataclass(frozen=True)
class ProbeSoftCap(Node):
    """``scale * cap * tanh(inner(x) / cap)``: a node that no backend has heard of, with a tensor and a child."""

    name: str
    inner: Node
    dim: int
    cap: float

    def own_parameters(self) -> Iterator[Parameter]:
        yield Parameter(f"{self.name}.scale", (self.dim,), "scale")

    def apply(self, xp: Any, weights: Mapping[str, Any], x: Any, ctx: Context) -> Any:
        y = ctx.run(self.inner, x)
        return weights[f"{self.name}.scale"] * (xp.tanh(y * (1.0 / self.cap)) * self.cap)


class ForeignHead(Task):
    """A task head made of a node that no backend has heard of, as a plugin's may be."""

    name = "polyllama-testing-foreign"
    architecture = "LlamaForForeign"
    output_type = CausalLMOutput

    def head(self, config: LlamaConfig, decoder: Any) -> Node:
        inner = Linear("foreign.inner", config.hidden_size, 5, True, role="head")
        return ProbeSoftCap("foreign", inner, 5, 2.0)

    def outputs(self, ctx: Context, raw: Any, hidden: Any) -> dict[str, Any]:
        return {"logits": ctx.widen(raw)}


def _foreign_in_the_trunk(graph: Graph) -> Graph:
    """The first layer's MLP, inside a node that no backend has heard of."""
    layer: Any = graph.decoder.layers[0]
    mlp = layer.mlp

    def below(node: Any) -> Any:
        return dataclasses.replace(node, name=node.name.replace(mlp.name, f"{mlp.name}.inner"))

    inner = dataclasses.replace(below(mlp), gate=below(mlp.gate), up=below(mlp.up), down=below(mlp.down))
    wrapped = dataclasses.replace(layer, mlp=ProbeSoftCap(mlp.name, inner, HIDDEN, 2.0))
    decoder = dataclasses.replace(graph.decoder, layers=(wrapped, *graph.decoder.layers[1:]))
    return dataclasses.replace(graph, decoder=decoder)


def adapted(plain: Probe, name: str) -> Probe:
    """A probe with adapters: LoRA beside the embedding, a projection and the head, DoRA in the last layer's MLP."""
    last = len(plain.graph.decoder.layers) - 1
    modules = {"model.embed_tokens", "model.layers.0.self_attn.q_proj", "lm_head"}
    dora = f"model.layers.{last}.mlp.down_proj"

    def beside(node: Any) -> Any:
        if node.path not in modules | {dora}:
            return node
        path = f"{node.path}_adapter"
        if isinstance(node, Embedding):
            table = Embedding(f"{path}.lora_A", node.num_embeddings, 4)
            return LoraEmbedding(path, node, table, Linear(f"{path}.lora_B", 4, node.dim, role="adapter"), 0.5)
        down = Linear(f"{path}.lora_A", node.in_features, 4, role="adapter")
        up = Linear(f"{path}.lora_B", 4, node.out_features, role="adapter")
        return LoraLinear(path, node, down, up, 1.5, magnitude=node.path == dora)

    graph = map_nodes(plain.graph, beside)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    weights = dict(plain.weights)
    for parameter in graph.parameters():
        if parameter.name not in weights:
            weights[parameter.name] = values_of(
                parameter,
                rng,
            )
    return Probe(name, plain.config, graph, plain.task, weights)


def _one_activation_per_layer(graph: Graph) -> Graph:
    layers = []
    for layer, activation in zip(graph.decoder.layers, [*ACTIVATION_NAMES, "silu"], strict=True):
        assert isinstance(layer, DecoderLayer)
        assert isinstance(layer.mlp, GatedMLP) and isinstance(layer.attention, Attention)
        layers.append(dataclasses.replace(layer, mlp=dataclasses.replace(layer.mlp, activation=activation)))
    return dataclasses.replace(graph, decoder=dataclasses.replace(graph.decoder, layers=tuple(layers)))


_ONE_LAYER: Mapping[str, Any] = {
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
"""Where a check is about many tokens or large sizes, one layer is enough to show them."""

WIDE = 2176
"""17 * 128: inputs of packed weights that backends divide into tiles of some thousand bytes, in whole groups."""

ODD: Mapping[str, Any] = {"vocab_size": 331, "hidden_size": 301, "intermediate_size": 433, "num_attention_heads": 20}
"""No multiples of the sizes of tiles, but several of them."""

FAR_ROPES: Mapping[str, Mapping[str, Any]] = {
    **{name: ROPES[name] for name in ("default", "linear", "partial")},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096},
    "llama3": {**ROPES["llama3"], "original_max_position_embeddings": 4096},
}
"""For heads of 64 and positions of some ten thousand."""

NEUTRAL = ("o_proj", "down_proj")
"""With these at 0 a layer adds nothing, so what goes in comes out."""


@functools.cache
def probe(name: str) -> Probe:
    """The probe called `name`; made once per process."""
    if name in SHAPES:
        return make(name, **SHAPES[name])
    if name.startswith("rope."):
        rope = name.removeprefix("rope.")
        length = 18 if rope == "dynamic" else SIZES["max_position_embeddings"]
        return make(name, zero=("down_proj",), rope_parameters=dict(ROPES[rope]), max_position_embeddings=length)
    if name.startswith("far."):
        far = dict(FAR_ROPES[name.removeprefix("far.")])
        return make(name, zero=("down_proj",), rope_parameters=far, **{**_ONE_LAYER, "head_dim": 64})
    if name.startswith("heads."):
        heads = int(name.removeprefix("heads."))
        return make(name, zero=("down_proj",), **{**_ONE_LAYER, "num_attention_heads": heads})
    if name.startswith("head_dim."):
        size = {"head_dim": int(name.removeprefix("head_dim."))}
        return make(name, zero=("down_proj",), **{**_ONE_LAYER, **size})
    if name.startswith("quantized.lengths.int"):
        return make_quantized(name, int(name.rpartition("int")[2]), zero=("o_proj",), **{**_ONE_LAYER, "head_dim": 16})
    if name.startswith("quantized.wide.int"):
        sizes = {"hidden_size": WIDE, "vocab_size": VOCABULARY, "intermediate_size": 32, "head_dim": 16}
        return make_quantized(name, int(name.rpartition("int")[2]), zero=NEUTRAL, **{**_ONE_LAYER, **sizes})
    if name.startswith("quantized.neutral.int"):
        return make_quantized(name, int(name.rpartition("int")[2]), zero=NEUTRAL, num_hidden_layers=1)
    return _SPECIAL[name]()


_SPECIAL: Mapping[str, Callable[[], Probe]] = {
    "plain": lambda: make("plain"),
    "long": lambda: make(
        "long", zero=("down_proj",), num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=8
    ),
    "lengths": lambda: make("lengths", **_ONE_LAYER),
    "odd": lambda: make("odd", **{**_ONE_LAYER, **ODD}),
    "odd.vocabulary": lambda: make("odd.vocabulary", **{**_ONE_LAYER, **ODD, "vocab_size": 14001}),
    "stored": lambda: make("stored", zero=("down_proj",), **{**_ONE_LAYER, "num_key_value_heads": 2, "head_dim": 64}),
    "neutral": lambda: make("neutral", zero=NEUTRAL, num_hidden_layers=1),
    "neutral.unit": lambda: make("neutral.unit", "base", zero=NEUTRAL, num_hidden_layers=1, unit_norms=True),
    "attention": lambda: make("attention", zero=("mlp.down_proj", "layers.1.self_attn.o_proj")),
    "softmax": lambda: make("softmax", zero=("down_proj",), gains={"q_proj": 0.01}, num_hidden_layers=1),
    "activations": lambda: make(
        "activations", zero=("o_proj",), num_hidden_layers=len(ACTIVATION_NAMES) + 1, edit=_one_activation_per_layer
    ),
    "quantized.int4": lambda: make_quantized("quantized.int4", 4),
    "quantized.int8": lambda: make_quantized("quantized.int8", 8, 64),
    "quantized.tied": lambda: make_quantized("quantized.tied", 4, tie_word_embeddings=True),
    "quantized.mixed": lambda: make_quantized(
        "quantized.mixed",
        4,
        modules={
            "lm_head": ModuleQuantization(group_size=64, bits=8),
            "model.embed_tokens": None,
            "model.layers.1.mlp.down_proj": ModuleQuantization(group_size=128, bits=6),
            "model.layers.0.self_attn.v_proj": None,
        },
        attention_bias=True,
    ),
    "adapted": lambda: adapted(make("adapted"), "adapted"),
    "quantized.adapted": lambda: adapted(make_quantized("quantized.adapted", 8), "quantized.adapted"),
    "foreign.head": lambda: make("foreign.head", ForeignHead()),
    "foreign.trunk": lambda: make("foreign.trunk", edit=_foreign_in_the_trunk),
}

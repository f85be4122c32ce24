"""From a config to the graph of a Llama: the one place that says which node carries which checkpoint name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..public import for_plugins
from .graph import Graph
from .node import Node
from .nodes import Attention, Decoder, DecoderLayer, Embedding, GatedMLP, Linear, RMSNorm
from .rope import Rope, build_rope

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig


class HeadSource(Protocol):
    """What a graph asks of a task; see :class:`~polyllama.extend.Task`, whose attributes these are."""

    @property
    def name(self) -> str: ...

    @property
    def trunk_prefix(self) -> str: ...

    def head(self, config: LlamaConfig, decoder: Decoder) -> Node | None:
        """The node that turns the trunk's states into the task's raw output."""
        ...


@for_plugins
def build_graph(config: LlamaConfig, task: HeadSource | None = None) -> Graph:
    """The graph of a Llama with the head that `task` attaches (the bare trunk without one).

    Names are those of the Hugging Face checkpoints; ``task.trunk_prefix`` is the trunk's (``"model"``; ``""`` for the
    trunk alone).

    >>> from polyllama import LlamaConfig
    >>> config = LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
    ...                      num_attention_heads=2)
    >>> [p.name for p in build_graph(config).parameters()][:2]
    ['embed_tokens.weight', 'layers.0.input_layernorm.weight']
    """
    prefix = task.trunk_prefix if task is not None else ""
    decoder = build_decoder(config, f"{prefix}." if prefix else "")
    head = task.head(config, decoder) if task is not None else None
    return Graph(decoder, head, task.name if task is not None else "base")


def build_decoder(config: LlamaConfig, prefix: str) -> Decoder:
    """The trunk alone, every name under `prefix` (``"model."`` or empty)."""
    rope = build_rope(config)
    embed = Embedding(f"{prefix}embed_tokens", config.vocab_size, config.hidden_size)
    layers = tuple(_layer(config, f"{prefix}layers.{index}", rope) for index in range(config.num_hidden_layers))
    norm = RMSNorm(f"{prefix}norm", config.hidden_size, config.rms_norm_eps)
    return Decoder(prefix.removesuffix("."), embed, layers, norm)


def _layer(config: LlamaConfig, name: str, rope: Rope) -> DecoderLayer:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    bias, mlp_bias = config.attention_bias, config.mlp_bias
    attention = Attention(
        name=f"{name}.self_attn",
        q=Linear(f"{name}.self_attn.q_proj", hidden, queries, bias, "column"),
        k=Linear(f"{name}.self_attn.k_proj", hidden, keys, bias, "column"),
        v=Linear(f"{name}.self_attn.v_proj", hidden, keys, bias, "column"),
        o=Linear(f"{name}.self_attn.o_proj", queries, hidden, bias, "row"),
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        rope=rope,
        dropout=config.attention_dropout,
    )
    mlp = GatedMLP(
        name=f"{name}.mlp",
        gate=Linear(f"{name}.mlp.gate_proj", hidden, inner, mlp_bias, "column"),
        up=Linear(f"{name}.mlp.up_proj", hidden, inner, mlp_bias, "column"),
        down=Linear(f"{name}.mlp.down_proj", inner, hidden, mlp_bias, "row"),
        activation=config.hidden_act,
    )
    return DecoderLayer(
        name=name,
        attention_norm=RMSNorm(f"{name}.input_layernorm", hidden, config.rms_norm_eps),
        attention=attention,
        mlp_norm=RMSNorm(f"{name}.post_attention_layernorm", hidden, config.rms_norm_eps),
        mlp=mlp,
    )

"""The spec: what it names, how it serializes, what it draws, and that new nodes run everywhere."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama import Llama, LlamaConfig
from polyllama.core.errors import ConfigError
from polyllama.core.graph.from_config import build_graph
from polyllama.core.graph.graph import Graph, nodes_of_type
from polyllama.core.graph.node import Node, Parameter
from polyllama.core.graph.nodes import Chain, Dropout, Linear
from polyllama.core.graph.rope import Rope
from polyllama.plugins.tasks.base import Base
from polyllama.plugins.tasks.causal_lm import CausalLM
from tiny_models import BACKENDS, ROPE_TYPES, SIZES, forward, relative_error


def sizes(**changes: Any) -> LlamaConfig:
    return LlamaConfig(**(SIZES | changes))


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention_bias": True}, {"mlp_bias": True}, {"tie_word_embeddings": True}, {"head_dim": 6}],
    ids=repr,
)
def test_parameters_are_the_checkpoint_of_transformers(changes: dict[str, Any]) -> None:
    import torch
    import transformers

    with torch.device("meta"):
        oracle = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(SIZES | changes)))
    tied = {"lm_head.weight"} if changes.get("tie_word_embeddings") else set()
    wanted = {name: tuple(p.shape) for name, p in oracle.state_dict().items() if name not in tied}
    graph = build_graph(sizes(**changes), CausalLM())
    assert {p.name: p.shape for p in graph.parameters()} == wanted
    assert graph.num_parameters() == oracle.num_parameters()


def test_the_trunk_alone_has_no_prefix() -> None:
    names = [p.name for p in build_graph(sizes(), Base()).parameters()]
    assert names[0] == "embed_tokens.weight" and names[-1] == "norm.weight"
    assert not any(name.startswith(("model.", "lm_head")) for name in names)


configs = st.builds(
    lambda heads, group, width, layers, rope, **flags: LlamaConfig(
        vocab_size=19,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=heads * group,
        num_key_value_heads=heads,
        head_dim=8 * width,
        max_position_embeddings=64,
        rope_parameters=ROPE_TYPES[rope] if rope != "longrope" or width == 1 else ROPE_TYPES["default"],
        **flags,
    ),
    heads=st.integers(1, 3),
    group=st.integers(1, 3),
    width=st.integers(1, 3),
    layers=st.integers(1, 3),
    rope=st.sampled_from(sorted(ROPE_TYPES)),
    attention_bias=st.booleans(),
    mlp_bias=st.booleans(),
    tie_word_embeddings=st.booleans(),
    hidden_act=st.sampled_from(["silu", "gelu", "relu"]),
)


@settings(max_examples=60, deadline=None)
@given(configs)
def test_graphs_survive_json(config: LlamaConfig) -> None:
    graph = build_graph(config, CausalLM())
    again = Graph.from_json(graph.to_json())
    assert again == graph and hash(again) == hash(graph)
    ropes = nodes_of_type(again, Rope)
    assert all(rope is ropes[0] for rope in ropes)


def test_bad_json_is_an_error_that_says_what_is_wrong() -> None:
    data = build_graph(sizes(), CausalLM()).to_dict()
    for text, message in [
        ("{", "not JSON"),
        ("[]", "version 'list'"),
        (json.dumps(data | {"version": 2}), "version 2 is not known"),
        (json.dumps(data | {"decoder": {"kind": "Decodr"}}), "unknown node kind 'Decodr'"),
        (json.dumps(data | {"decoder": {"kind": "Decoder", "nam": "x"}}), "the fields of Decoder do not fit"),
        (
            json.dumps(data | {"decoder": {"kind": "Linear", "name": "x", "in_features": 1, "out_features": 1}}),
            "must be",
        ),
        (json.dumps(data | {"decoder": None}), "must be a Decoder"),
    ]:
        with pytest.raises(ConfigError, match=message):
            Graph.from_json(text)


def test_the_tree_draws_equal_layers_once() -> None:
    tree = build_graph(sizes(tie_word_embeddings=True), CausalLM()).tree()
    assert "layers.0-2: DecoderLayer()  model.layers.0" in tree
    assert "head: Linear(" in tree and tree.count("q_proj") == 1
    assert tree.splitlines()[0] == "Graph(task=causal-lm, parameters=57,984)"


def changed(node: Any, path: str, **fields: Any) -> Any:
    """`node` with these fields changed in the node at `path` below it, the rest as it was."""
    first, _, rest = path.partition(".")
    if not first:
        return dataclasses.replace(node, **fields)
    return dataclasses.replace(node, **{first: changed(getattr(node, first), rest, **fields)})


def rows_of_layers(*layers: Any) -> list[str]:
    """What the tree's rows of a decoder with these layers are called."""
    graph = build_graph(sizes(), CausalLM())
    tree = dataclasses.replace(graph, decoder=dataclasses.replace(graph.decoder, layers=layers)).tree()
    return [line.partition("layers.")[2] for line in tree.splitlines() if "─ layers." in line]


LAYERS = build_graph(sizes(num_hidden_layers=12), CausalLM()).decoder.layers


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("mlp", {"activation": "relu"}),
        ("attention", {"num_kv_heads": 1}),
        ("attention", {"dropout": 0.1}),
        ("attention_norm", {"eps": 1e-3}),
        ("attention.q", {"bias": True}),
        ("mlp.down", {"in_features": 81}),
        ("attention.rope", {"attention_factor": 1.5}),
        ("mlp", {"down": Chain((LAYERS[0].mlp.down, Dropout(0.1)))}),  # type: ignore[attr-defined]
    ],
    ids=str,
)
def test_a_layer_that_differs_in_one_field_is_drawn_by_itself(path: str, fields: dict[str, Any]) -> None:
    def drawn(*numbers: int) -> list[str]:
        return rows_of_layers(*(changed(layer, path, **fields) if n in numbers else layer for n, layer in five))

    five = list(enumerate(LAYERS[:5]))
    labels = {number: f"DecoderLayer()  model.layers.{number}" for number in range(5)}
    assert drawn() == drawn(0, 1, 2, 3, 4) == [f"0-4: {labels[0]}"]
    assert drawn(2) == [f"0-1: {labels[0]}", f"2: {labels[2]}", f"3-4: {labels[3]}"]
    assert drawn(0) == [f"0: {labels[0]}", f"1-4: {labels[1]}"]
    assert drawn(4) == [f"0-3: {labels[0]}", f"4: {labels[4]}"]
    assert drawn(0, 2, 4) == [f"{number}: {labels[number]}" for number in range(5)]


def test_layers_that_differ_in_names_alone_are_drawn_once() -> None:
    assert rows_of_layers(*LAYERS) == ["0-11: DecoderLayer()  model.layers.0"]
    assert rows_of_layers(LAYERS[3]) == ["0: DecoderLayer()  model.layers.3"]
    tied = [changed(layer, "mlp.up", tied_to=f"{layer.name}.mlp.gate_proj") for layer in LAYERS]  # type: ignore[attr-defined]
    assert rows_of_layers(*tied) == ["0-11: DecoderLayer()  model.layers.0"]
    held = [changed(layer, "mlp", down=Chain((layer.mlp.down, Dropout(0.1)))) for layer in LAYERS]  # type: ignore[attr-defined]
    assert rows_of_layers(*held) == ["0-11: DecoderLayer()  model.layers.0"]


def test_fields_that_are_no_list_are_never_joined() -> None:
    """Keys and values are made by matrices of one shape, one after the other."""
    rows = [line.split("─ ")[1].partition(":")[0] for line in build_graph(sizes(), CausalLM()).tree().splitlines()[1:]]
    attention = ["attention_norm", "attention", "q", "k", "v", "o", "rope"]
    layer = ["layers.0-2", *attention, "mlp_norm", "mlp", "gate", "up", "down"]
    assert rows == ["decoder", "embed", *layer, "norm", "head"]


def test_frequencies_are_those_of_transformers() -> None:
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    for rope_type, parameters in ROPE_TYPES.items():
        fields = SIZES | ({"max_position_embeddings": 18} if rope_type == "dynamic" else {})
        theirs = LlamaRotaryEmbedding(transformers.LlamaConfig(**fields, rope_parameters=dict(parameters)))
        config = LlamaConfig(**fields, rope_parameters=parameters)
        rope = nodes_of_type(build_graph(config), Rope)[0]
        assert relative_error(rope.row_frequencies(np.array([1])), theirs.inv_freq[None]) < 3e-7
        assert rope.attention_factor == pytest.approx(theirs.attention_scaling, rel=1e-9), rope_type


def test_partial_rotary_turns_only_the_first_components() -> None:
    """transformers' Llama cannot do this, so the definition itself is the oracle."""
    from polyllama.core.graph.node import Context

    config = sizes(head_dim=8, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5})
    rope = nodes_of_type(build_graph(config), Rope)[0]
    assert rope.rotary_dim == 4 and len(rope.inv_freq) == 2
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 8))
    ctx = Context(np, {}, np.array([[0, 1, 2]]), lambda r: r.row_frequencies().astype(np.float64))
    y = rope.apply(np, {}, x, ctx)
    assert np.array_equal(y[..., 4:], x[..., 4:]) and np.array_equal(y[:, :, 0], x[:, :, 0])
    for position in range(3):
        for pair in range(2):
            turn = np.exp(1j * np.float32(position) * np.float32(rope.inv_freq[pair]))
            wanted = (x[..., position, pair] + 1j * x[..., position, pair + 2]) * turn
            assert np.allclose(y[..., position, pair] + 1j * y[..., position, pair + 2], wanted, atol=1e-7)


@dataclass(frozen=True)
class Scale(Node):
    """A node no backend has heard of: scales by a weight, then runs a child."""

    name: str
    dim: int
    inner: Node

    def own_parameters(self) -> Iterator[Parameter]:
        yield Parameter(f"{self.name}.scale", (self.dim,), "head")

    def apply(self, xp: Any, weights: Mapping[str, Any], x: Any, ctx: Any) -> Any:
        return ctx.run(self.inner, x * weights[f"{self.name}.scale"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_node_that_no_backend_knows_runs_everywhere(backend: str) -> None:
    from polyllama.core.backend.choice import load_backend
    from polyllama.core.backend.protocol import RealizeOptions
    from polyllama.core.checkpoint.weights import dummy_weights
    from polyllama.core.plugin_system.manager import plugin_manager

    class Scaled(CausalLM):
        def head(self, config: LlamaConfig, decoder: Any) -> Node:
            return Scale("scaled", config.hidden_size, Linear("scaled.out", config.hidden_size, 5, role="head"))

    config, task = sizes(), Scaled()
    graph = build_graph(config, task)
    weights = dummy_weights(graph.parameters(), dtype="float32", initializer_range=0.2)
    realized = load_backend(plugin_manager().backends()[backend])
    model = realized.realize(graph, weights, RealizeOptions(), config=config, task=task)
    y = forward(model, [[1, 2, 3]], output_hidden_states=True).numpy()
    hidden = y["hidden_states"][-1].astype(np.float64)
    wanted = (hidden * weights["scaled.scale"]) @ weights["scaled.out.weight"].T.astype(np.float64)
    assert relative_error(y["logits"], wanted) < 1e-5


def test_two_node_types_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two node types are called 'Linear'"):
        type("Linear", (Node,), {"__module__": "elsewhere"})


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_what_is_observed_of_a_pass_that_begins_anew_is_of_its_new_tokens(backend: str) -> None:
    """A length-dependent RoPE computes all tokens again once they are more than it was trained with."""
    rope = {"rope_type": "dynamic", "factor": 2.0}
    config = LlamaConfig(
        vocab_size=29, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8, rope_parameters=rope,
    )  # fmt: skip
    llm = Llama.load(config, load_format="dummy", backend=backend, dtype="float64")
    ids = np.arange(11)[None] % 29
    observed = {"output_attentions": True, "output_hidden_states": True}
    whole = llm.forward(ids, **observed).numpy()
    cache = llm.forward(ids[:, :6], use_cache=True).past_key_values
    step = llm.forward(ids[:, 6:], past_key_values=cache, **observed).numpy()
    for name, axis in (("attentions", 2), ("hidden_states", 1)):
        for found, wanted in zip(step[name], whole[name], strict=True):
            right = np.take(wanted, range(6, 11), axis=axis)
            assert found.shape == right.shape, name
            # Fewer than 500 sums on the way, each rounded to 1.1e-16 of values of about 1.
            assert np.abs(found - right).max() < 1e-12, name

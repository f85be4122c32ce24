"""Node types are known by whoever brings them: ours and plugins' through one door, imported when a graph names them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from polyllama import LlamaConfig, hookimpl
from polyllama.core.graph.serialize import node_from_dict
from polyllama.core.plugin_system.manager import Plugins, reset_plugins
from polyllama.core.public import defined_in
from polyllama.core.quantization.scheme import Quantization
from polyllama.core.transforms.quantize_graph import quantize_graph
from polyllama.extend import (
    Chain,
    ConfigError,
    Graph,
    Linear,
    LoraLinear,
    Node,
    NodeDescriptor,
    PluginError,
    Pool,
    build_graph,
    node_type,
    plugin_manager,
)
from support_processes import run_process

MODULE = """
from dataclasses import dataclass
from polyllama.extend import Node

@dataclass(frozen=True)
class Squash(Node):
    name: str
    cap: float

    def apply(self, xp, weights, x, ctx):
        return xp.tanh(x / self.cap) * self.cap

not_a_node = 3
class Plain: ...
"""


@dataclass(frozen=True)
class Claims:
    """A plugin that offers node types under these targets."""

    targets: tuple[str, ...]

    @hookimpl
    def polyllama_nodes(self) -> list[NodeDescriptor]:
        return [NodeDescriptor(target.rpartition(":")[2], target) for target in self.targets]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that nobody has imported yet, with a node type ``Squash``."""
    (tmp_path / "somebodys_nodes.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    reset_plugins()
    yield "somebodys_nodes"
    reset_plugins()
    sys.modules.pop("somebodys_nodes", None)
    Node.kinds.pop("Squash", None)


def graph_of_every_kind() -> Graph:
    config = LlamaConfig(
        vocab_size=32, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    graph = quantize_graph(build_graph(config), Quantization(group_size=64, bits=4))
    down, up = (Linear(f"score_adapter.lora_{part}", 64, 64, role="adapter") for part in "AB")
    lora = LoraLinear("score_adapter", Linear("score", 64, 64, role="head"), down, up, 0.5)
    return Graph(graph.decoder, Chain((Pool("mean"), lora)), "somebodys")


def test_a_graph_is_read_where_nothing_but_the_graph_module_is_imported() -> None:
    text = graph_of_every_kind().to_json()
    kinds = {type(node).__name__ for node in graph_of_every_kind().walk()}
    assert {"Rope", "QuantizedLinear", "QuantizedEmbedding", "LoraLinear"} <= kinds
    code = (
        "import sys; from polyllama.core.graph.graph import Graph; from polyllama.core.graph.node import Node; "
        "before = set(Node.kinds); "
        "graph = Graph.from_json(sys.stdin.read()); print(graph.to_json()); "
        "print(sorted({type(node).__name__ for node in graph.walk()} - before)); "
        "print([name for name in ('torch', 'mlx', 'jax', 'pydantic') if name in sys.modules])"
    )
    result = run_process([sys.executable, "-c", code], input=text, capture_output=True, text=True, check=True)
    again, late, heavy = result.stdout.splitlines()
    assert again == text
    assert late == "['LoraLinear', 'QuantizedEmbedding', 'QuantizedLinear', 'Rope']"
    assert heavy == "[]"


def test_every_node_type_of_ours_is_offered() -> None:
    offered = plugin_manager().nodes()
    for kind, descriptor in offered.items():
        assert node_type(kind) is descriptor.load()
    ours = {kind for kind, cls in Node.kinds.items() if defined_in(cls).startswith("polyllama.core.")}
    assert ours == set(offered)


def test_a_plugins_node_is_imported_when_a_graph_names_it(package: str) -> None:
    plugin_manager().register(Claims((f"{package}:Squash",)), "squashing")
    assert package not in sys.modules
    node: Any = node_from_dict({"kind": "Squash", "name": "squash", "cap": 2.0})
    assert (type(node).__module__, node.path, node.cap) == (package, "squash", 2.0)
    assert node_from_dict(json.loads(json.dumps(node.to_dict()))) == node


def test_two_plugins_that_bring_one_kind_are_both_named(package: str) -> None:
    claims: dict[str, object] = {"first": Claims((f"{package}:Squash",)), "second": Claims(("elsewhere:Squash",))}
    with pytest.warns(match="node 'Squash' is claimed by 2 plugins: 'first' and 'second'"):
        both = Plugins([], runtime=claims)
    with pytest.raises(PluginError, match="node 'Squash' is claimed by 2 plugins: 'first' and 'second'"):
        both.nodes()["Squash"].load()
    with pytest.raises(PluginError, match=r"node 'Linear' is claimed by 2 plugins: 'polyllama-builtin'.* and 'third'"):
        plugin_manager().register(Claims((f"{package}:Linear",)), "third")


def test_a_kind_that_nobody_brings_says_what_there_is_and_what_to_do() -> None:
    with pytest.raises(ConfigError, match="unknown node kind 'QuantisedLinear'") as caught:
        node_from_dict({"kind": "QuantisedLinear"})
    hint = str(caught.value.hint)
    assert hint.startswith("did you mean 'QuantizedLinear'? install the plugin that brings it; known kinds: ")
    assert "LoraLinear" in hint and "Rope" in hint
    with pytest.raises(ConfigError, match=r"a node's kind is \['Linear'\], wanted the name of a node type"):
        node_from_dict({"kind": ["Linear"]})


def test_a_descriptor_of_another_name_or_of_no_node_is_refused(package: str) -> None:
    with pytest.raises(PluginError, match="the target 'm:Squash' is a class of another name"):
        NodeDescriptor("Squish", "m:Squash")
    with pytest.raises(PluginError, match="'squash-it' is no name for a node"):
        NodeDescriptor("squash-it", "m:Squash")
    for wrong in ("Plain", "not_a_node"):
        plugin_manager().register(Claims((f"{package}:{wrong}",)), wrong)
        with pytest.raises(PluginError, match=f"node '{wrong}' of plugin '{wrong}': .* is no node type of that name"):
            node_type(wrong)


def test_children_are_mapped_and_what_does_not_change_stays_the_same_object() -> None:
    graph = graph_of_every_kind()
    layer: Any = graph.decoder.layers[0]
    assert layer.map_children(lambda child: child) is layer
    other = layer.map_children(lambda child: Pool() if child is layer.mlp else child)
    assert other.mlp == Pool() and other.attention is layer.attention
    assert graph.decoder.map_children(lambda child: child) is graph.decoder
    assert len(graph.decoder.map_children(lambda child: Pool() if child is layer else child).layers) == 1

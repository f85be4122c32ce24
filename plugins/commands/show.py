"""``polyllama show``: a model before it is loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ...cli.console import examples, json_option, print_json, print_pairs, print_table, with_unit
from ...cli.options import PluginName, model_argument, overrides_option, parse_overrides, source_options
from ...core.messages import visible

if TYPE_CHECKING:
    from ...core.config.schema import LlamaConfig
    from ...core.graph.graph import Graph

BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "int8": 8, "int4": 4}


@click.command(
    "show",
    epilog=examples(
        "polyllama show tiny",
        "polyllama show llama-3.1-8b --provenance",
        "polyllama show tiny --graph --parameters",
        "polyllama show ./my-model --json | jq .num_parameters",
    ),
)
@model_argument
@click.option("--provenance", is_flag=True, help="Say where each value of the configuration came from.")
@click.option("--graph", "show_graph", is_flag=True, help="Draw the graph as a tree.")
@click.option("--parameters", "show_parameters", is_flag=True, help="List every tensor: name, shape, role.")
@click.option("--task", type=PluginName("task"), help="The task head; the checkpoint's own by default.")
@source_options
@overrides_option
@json_option
def show(
    model: str,
    provenance: bool,
    show_graph: bool,
    show_parameters: bool,
    task: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Show MODEL's configuration, its number of parameters and the memory it takes, from its configuration alone.

    No weights are read or downloaded.
    """
    from ...core.loading.describe import DUMMY, describe
    from ...core.settings.schema import load_settings

    described = describe(
        model,
        task=task,
        revision=options["revision"],
        load_format=DUMMY,  # the only one that reads no weights
        config_overrides=parse_overrides(overrides),
        settings=load_settings(offline=options["offline"]),
    )
    config, graph = described.config, described.graph
    if as_json:
        print_json(_as_data(model, described.folder, config, graph, show_graph, show_parameters))
        return
    click.echo(f"{model}  {described.folder}\n")
    _print_config(config, provenance)
    click.echo()
    print_pairs(_sizes(config, graph))
    if show_graph:
        click.echo(f"\n{visible(graph.tree())}")
    if show_parameters:
        click.echo()
        rows = [(p.name, "x".join(map(str, p.shape)), p.role, f"{p.size:,}") for p in graph.parameters()]
        print_table(["parameter", "shape", "role", "size"], rows)


def _print_config(config: LlamaConfig, provenance: bool) -> None:
    headers = ["field", "value", "from"] if provenance else ["field", "value"]
    rows: list[tuple[object, ...]] = []
    for name, value in _fields(config).items():
        row = (name, _show(value))
        rows.append((*row, config.provenance.get(name, "default")) if provenance else row)
    print_table(headers, rows)


def _fields(config: LlamaConfig) -> dict[str, Any]:
    """Every field of the schema as plain data, and what else the file held."""
    values: dict[str, Any] = config.model_dump(mode="json")
    return values


def _show(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if item is not None}
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _sizes(config: LlamaConfig, graph: Graph) -> list[tuple[str, str]]:
    count = graph.num_parameters()
    per_token = _cache_bytes_per_token(config)
    context = config.max_position_embeddings
    return [
        ("parameters", f"{count:,} ({with_unit(count)})"),
        ("weights", ", ".join(f"{name} {with_unit(count * bits / 8, 'B')}" for name, bits in BITS.items())),
        (
            "key-value cache",
            f"{with_unit(per_token, 'B')} per token, {with_unit(per_token * context, 'B')} at {context} (16 bits)",
        ),
    ]


def _cache_bytes_per_token(config: LlamaConfig) -> int:
    count: int = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return 2 * count  # two bytes each


def _as_data(
    model: str, path: object, config: LlamaConfig, graph: Graph, with_graph: bool, with_parameters: bool
) -> dict[str, Any]:
    count = graph.num_parameters()
    data: dict[str, Any] = {
        "model": model,
        "path": path,
        "task": graph.task,
        "num_parameters": count,
        "weight_bytes": {name: count * bits // 8 for name, bits in BITS.items()},
        "cache_bytes_per_token": _cache_bytes_per_token(config),
        "config": config.to_dict(),
        "provenance": dict(config.provenance),
    }
    if with_graph:
        data["graph"] = graph.to_dict()
    if with_parameters:
        data["parameters"] = [{"name": p.name, "shape": list(p.shape), "role": p.role} for p in graph.parameters()]
    return data

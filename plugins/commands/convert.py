"""``polyllama convert``: a checkpoint of one format in, of another out."""

from __future__ import annotations

from typing import Any

import click

from ...cli.console import examples, json_option, print_json, progress_bar, with_unit
from ...cli.options import ModelName, PluginName, source_options
from ...core.messages import visible


class _Written(PluginName):
    """A format that can be written, completed from the plugins' offers."""

    def __init__(self) -> None:
        super().__init__("checkpoint format")

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        from ...core.plugin_system.manager import plugin_manager

        offers = plugin_manager().checkpoint_formats().values()
        names = [(name, offer.summary) for offer in offers if offer.writes for name in offer.names()]
        return [CompletionItem(name, help=summary) for name, summary in names if name.startswith(incomplete)]


@click.command(
    "convert",
    epilog=examples(
        "polyllama convert ./llama-2-7b ./llama-2-7b-hf --to hf        # Meta's originals in",
        "polyllama convert tiny tiny.gguf --to gguf --dtype float16",
        "polyllama convert model-Q8_0.gguf ./model-mlx --to mlx        # packed weights stay as they are",
        "polyllama convert ./base ./merged --to hf --adapter ./my-lora # with an adapter in the weights",
    ),
)
@click.argument("source", type=ModelName())
@click.argument("destination", type=click.Path())
@click.option("--to", required=True, type=_Written(), help="hf, mlx, gguf, meta, or a plugin's format.")
@click.option("--dtype", metavar="DTYPE", help="Round floats to float32, float16 or bfloat16; else they stay.")
@click.option("--adapter", metavar="FOLDER", help="Merge this LoRA adapter (PEFT's) into the weights.")
@click.option(
    "--kv-heads",
    "num_key_value_heads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Average key/value heads to N (multi-head to grouped-query attention).",
)
@click.option("--vocab-size", type=click.IntRange(min=1), metavar="N", help="Cut or add rows for N tokens.")
@click.option("--quantize", metavar="HOW", help="Round to int4, int8-g32 ... (mlx, gguf); see polyllama quantize.")
@click.option("--task", type=PluginName("task"), help="The task head; the checkpoint's own by default.")
@click.option("--max-shard-size", metavar="SIZE", help="Largest file of weights (hf, mlx); 5GB by default.")
@click.option("--overwrite", is_flag=True, help="Replace what is at DESTINATION.")
@click.option("--load-format", default="auto", metavar="FORMAT", help="Format of SOURCE, where it is not recognized.")
@source_options
@json_option
def convert(source: str, destination: str, as_json: bool, **options: Any) -> None:
    """Write SOURCE in another format to DESTINATION: a folder, or a .gguf file.

    SOURCE may be of any format that can be read. Memory holds about one tensor, whatever the model, and DESTINATION
    appears only when everything is written.
    """
    from ...core.export.converting import convert as run

    with progress_bar("converting", not as_json) as progress:
        made = run(source, destination, progress=progress, **options)
    if as_json:
        files = {str(file.relative_to(made.path)) if file != made.path else file.name: file for file in made.files}
        sizes = {name: file.stat().st_size for name, file in files.items()}
        print_json(
            {"path": made.path, "format": made.format, "dtype": made.dtype, "bytes": made.nbytes, "files": sizes}
        )
        return
    count = f"{len(made.files)} file{'s' * (len(made.files) > 1)}"
    click.echo(visible(f"{made.path}: {made.format}, {made.dtype}, {count}, {with_unit(made.nbytes, 'B')}"))

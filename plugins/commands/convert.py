"""``polyllama convert``: a checkpoint of one format in, of another out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...cli.console import examples, json_option, print_json, progress_bar, with_unit
from ...cli.options import ModelName, PluginName, ignore_option, overrides_option, parse_overrides, source_options
from ...core.messages import counted, visible
from .conversion_script import read_script, script_options, write_tokenizer


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
        "polyllama convert --input_dir ./meta --model_size 7B --output_dir ./llama-7b-hf # as transformers' script",
    ),
)
@click.argument("source", type=ModelName(), required=False)
@click.argument("destination", type=click.Path(), required=False)
@click.option("--to", type=_Written(), help="hf, mlx, gguf, meta, or a plugin's format.")
@click.option("--dtype", metavar="DTYPE", help="Round floats to float32, float16 or bfloat16; else they stay.")
@click.option("--adapter", metavar="FOLDER", help="Merge this LoRA adapter (PEFT's or mlx-lm's) into the weights.")
@click.option(
    "--kv-heads",
    "num_key_value_heads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Average key/value heads to N (multi-head to grouped-query attention).",
)
@click.option("--vocab-size", type=click.IntRange(min=1), metavar="N", help="Cut or add rows for N tokens.")
@click.option("--quantize", metavar="HOW", help="Round to int4, int8-g32 ... (mlx; gguf: int8 is Q8_0, int4 Q4_1).")
@click.option("--task", type=PluginName("task"), help="The task head; the checkpoint's own by default.")
@click.option("--max-shard-size", metavar="SIZE", help="Largest file of weights (hf, mlx); 5GB by default.")
@click.option("--overwrite", is_flag=True, help="Replace what is at DESTINATION.")
@click.option("--load-format", default="auto", metavar="FORMAT", help="Format of SOURCE, where it is not recognized.")
@ignore_option
@overrides_option
@source_options
@script_options
@json_option
def convert(
    source: str | None,
    destination: str | None,
    to: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Write SOURCE in another format to DESTINATION: a folder, or a .gguf file.

    SOURCE may be of any format that can be read. Memory holds about one tensor, whatever the model, and DESTINATION
    appears only when everything is written.

    Meta's originals may be named as for transformers' conversion script: --input_dir DIR --model_size 7B
    --output_dir OUT takes the weights from DIR/7B, or from DIR where they are in it, and writes the format hf.
    """
    from ...core.export.converting import convert as run

    script, config = read_script(source, destination, options), parse_overrides(overrides)
    if script is not None:
        source, destination, to = script.source, script.destination, to or "hf"
        config = {**script.config, **config}
        if script.tokenizer_only:
            _say_where(write_tokenizer(script), as_json)
            return
    for name, value in (("'SOURCE'", source), ("'DESTINATION'", destination), ("'--to'", to)):
        if value is None:
            raise click.UsageError(f"Missing {'option' if '-' in name else 'argument'} {name}.")
    with progress_bar("converting", not as_json) as progress:
        made = run(str(source), str(destination), to=str(to), config=config, progress=progress, **options)
    if as_json:
        files = {str(file.relative_to(made.path)) if file != made.path else file.name: file for file in made.files}
        sizes = {name: file.stat().st_size for name, file in files.items()}
        print_json(
            {"path": made.path, "format": made.format, "dtype": made.dtype, "types": dict(made.types)}
            | {"bytes": made.nbytes, "files": sizes}
        )
        return
    count = counted(len(made.files), "file")
    types = " and ".join(f"{kind} ({counted(number, 'tensor')})" for kind, number in made.types.items())
    click.echo(visible(f"{made.path}: {made.format}, {types}, {count}, {with_unit(made.nbytes, 'B')}"))


def _say_where(folder: Path, as_json: bool) -> None:
    """Where the tokenizer was written, and nothing else."""
    if as_json:
        print_json({"path": folder, "files": {file.name: file.stat().st_size for file in sorted(folder.iterdir())}})
    else:
        click.echo(visible(f"{folder}: the tokenizer"))

"""``polyllama tokenize``: how a model cuts a text."""

from __future__ import annotations

from typing import Any

import click

from ...cli.console import examples, json_option, print_json, print_table
from ...cli.options import TypedText, model_argument, source_options
from ...cli.texts import read_prompt
from ...core.messages import counted


@click.command(
    "tokenize",
    epilog=examples('polyllama tokenize tiny "Once upon a time"', "polyllama tokenize tiny --json < story.txt"),
)
@model_argument
@click.argument("text", type=TypedText(), required=False)
@click.option(
    "--special/--no-special", default=True, help="Add the special tokens that the model expects, or leave them out."
)
@source_options
@json_option
def tokenize(model: str, text: str | None, special: bool, as_json: bool, **options: Any) -> None:
    """Show the tokens of TEXT (or of standard input) under MODEL's tokenizer; no weights are loaded."""
    from ...core.loading.describe import tokenizer_of
    from ...core.plugin_system.manager import plugin_manager
    from ...core.sources.locate import resolve_checkpoint_folder

    content = read_prompt(text)
    tokenizer = tokenizer_of(resolve_checkpoint_folder(model, files="tokenizer", **options), plugins=plugin_manager())
    ids = tokenizer.encode(content, add_special_tokens=special)
    pieces = tokenizer.convert_ids_to_tokens(ids)
    if as_json:
        print_json({"text": content, "token_ids": ids, "tokens": pieces, "count": len(ids)})
        return
    rows = [(index, token_id, repr(piece)) for index, (token_id, piece) in enumerate(zip(ids, pieces, strict=True))]
    print_table(["#", "id", "token"], rows)
    click.echo(counted(len(ids), "token"))

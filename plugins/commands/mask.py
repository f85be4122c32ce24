"""``polyllama mask``: which token may look at which."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...cli.console import examples, in_colour, json_option, on_terminal, print_compact_json
from ...cli.options import TypedText, load_arguments, load_options, model_argument
from ...cli.texts import read_prompt

if TYPE_CHECKING:
    from ...core.attention_mask.picture import AttentionMask

RUNNING = ("backend", "device", "dtype", "quantize", "load_format", "ignore")


@click.command(
    "mask",
    epilog=examples(
        'polyllama mask tiny "Once upon a time"',
        'polyllama mask tiny "Once upon a time" "The sun" --padding-side right',
        'polyllama mask tiny "Once upon a time" "The sun" --packed --save mask.svg',
        'polyllama mask tiny "Once upon a time" --attention --layer 2 --head all --save heads.png',
        "polyllama mask tiny --json < story.txt",
    ),
)
@model_argument
@click.argument("texts", type=TypedText(), nargs=-1, metavar="[TEXT]...")
@click.option(
    "--padding-side",
    type=click.Choice(["left", "right"]),
    help="Where shorter texts are padded; else as the tokenizer says.",
)
@click.option("--packed", is_flag=True, help="Put all texts into one row, as for training; none sees another.")
@click.option(
    "--special/--no-special", default=True, help="Add the special tokens that the model expects, or leave them out."
)
@click.option("--tokens", metavar="A:B", help="Show only the tokens from A up to B (excluded).")
@click.option("--attention", is_flag=True, help="Run the model and show how much each token looks at each.")
@click.option("--layer", metavar="L", help="Of which layer: a number, -1 for the last (the default), or all.")
@click.option("--head", metavar="H", help="Of which head: a number, all, or mean (the default).")
@click.option(
    "--save",
    "file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the picture to FILE.svg or FILE.png.",
)
@load_options
@json_option
def mask(model: str, texts: tuple[str, ...], file: Path | None, as_json: bool, **options: Any) -> None:
    """Show which token of TEXT (or of standard input) MODEL lets look at which.

    Several texts are rows of one batch, padded to the longest, or one row with --packed. Weights are loaded only for
    --attention. In a terminal as many tokens are shown as fit, and what is left out is said; a pipe gets all.
    """
    from ...core.api.visualizer import AttentionMaskVisualizer
    from ...core.attention_mask.picture import image_kind

    needing = ("layer", "head", *RUNNING)
    if not options["attention"] and (names := [n for n in needing if options[n] not in (None, ())]):
        spelt = ", ".join(f"--{name.replace('_', '-')}" for name in names)
        raise click.UsageError(f"{spelt}: without --attention the model is not run.")
    if options["packed"] and options["padding_side"]:
        raise click.UsageError("--packed and --padding-side: packed texts are not padded.")
    if file is not None:
        image_kind(file)  # a wrong ending is said before a model is loaded
    window = _window(options["tokens"])
    content = list(texts) if texts and texts != ("-",) else [read_prompt(texts[0] if texts else None)]
    if options["packed"] and len(content) < 2:
        raise click.UsageError("--packed: there is one text, give two or more.")
    visualizer = AttentionMaskVisualizer(model, **load_arguments(options))
    picture = visualizer.picture(
        content,
        padding_side=options["padding_side"],
        packed=options["packed"],
        add_special_tokens=options["special"],
        attention=options["attention"],
        layer=_number_or_word(options["layer"]),
        head=_number_or_word(options["head"]),
    )
    if window is not None:
        picture = picture.window(*window)
    if file is not None:
        click.echo(f"{picture.save(file)}", err=as_json)
    if as_json:
        print_compact_json(picture.to_dict())
    elif file is None:
        _show(picture)


def _show(picture: AttentionMask) -> None:
    columns = shutil.get_terminal_size().columns if on_terminal() else None
    shown = picture.text(
        width=columns,
        colour=in_colour(),
        ascii_only=not _can_hold("■·▁…◌"),
        more="--tokens A:B shows others, --save FILE.svg all of them, and so does a pipe (| less -S)",
    )
    click.echo(shown)


def _can_hold(signs: str) -> bool:
    try:
        signs.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _number_or_word(text: str | None) -> int | str | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return text


def _window(text: str | None) -> tuple[int | None, int | None] | None:
    if text is None:
        return None
    start, separator, stop = text.partition(":")
    try:
        if not separator:
            raise ValueError
        return (int(start) if start.strip() else None, int(stop) if stop.strip() else None)
    except ValueError:
        raise click.UsageError(f"--tokens {text!r} is not A:B, such as 0:40.") from None

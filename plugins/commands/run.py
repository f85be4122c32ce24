"""``polyllama run``: a text in; out comes what the model's task is: more text, a label, entities, an answer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ...cli.console import examples, json_option, print_json, write_text
from ...cli.options import (
    GENERATION_NAMES,
    generation_options,
    given,
    load_model,
    load_options,
    model_argument,
    task_options,
)
from ...cli.texts import (
    read_prompt,  # other commands take it from here
    refuse_silence,
)

if TYPE_CHECKING:
    from ...core.api.llama import Llama
    from ...core.generation.calls import TextStream
    from ...core.generation.outputs import Generation, GenerationStats


@click.command(
    "run",
    epilog=examples(
        'polyllama run tiny "Once upon a time"',
        'polyllama run tiny "Once" --temperature 0.8 --seed 7 --max-new-tokens 60',
        "cat letter.txt | polyllama run llama-3.2-1b --backend torch:cuda --dtype bfloat16",
        'polyllama run ./my-model "Hello" --json | jq -r .text',
        'polyllama run ./my-classifier "What a day" --top-k 3',
        "polyllama run ./my-classifier --file reviews.txt --json",
        'polyllama run ./my-entities "Ann met Tom in Oslo" --option aggregation_strategy=first',
        'polyllama run ./my-reader --question "Who sang?" --context-file story.txt',
    ),
)
@model_argument
@click.argument("prompt", nargs=-1)
@load_options
@task_options
@generation_options
@click.option("--stream/--no-stream", default=True, help="Show the text as it appears, or all at once.")
@click.option("--echo", is_flag=True, help="Print the prompt before what follows it.")
@json_option
@click.pass_context
def run(ctx: click.Context, /, model: str, prompt: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Run MODEL on PROMPT and print what comes of it.

    A language model goes on writing. PROMPT is text, or - to read it from standard input, which is also done where it
    is left out and something is piped in (one newline at its end is dropped). The text goes to standard output, how
    fast it came to standard error.

    A model of another task prints its labels, entities or answers: for each PROMPT, or for each line of --file or of
    standard input. --task says which task, where the checkpoint is of another one.
    """
    if not prompt and not any(options[name] for name in ("question", "context", "context_file", "file")):
        refuse_silence()
    from ...cli.predictions import predict, refuse_others, show, show_json

    llm = load_model(model, options)
    generates = llm.task_head.generates
    refuse_others(ctx, llm, generates=generates)
    if not generates:
        texts, results = predict(llm, prompt, options)
        if as_json:
            show_json(model, llm, texts, results)
        else:
            show(texts, results)
        return
    if len(prompt) > 1:
        raise click.UsageError(f"PROMPT is one text, {len(prompt)} given; put it into quotes.")
    _write_on(model, llm, read_prompt(prompt[0] if prompt else None), as_json, options)


def _write_on(model: str, llm: Llama, text: str, as_json: bool, options: dict[str, Any]) -> None:
    """What a language model does with a prompt."""
    generation = given(options, GENERATION_NAMES)
    if as_json:
        result = llm.generate(text, **generation)
        print_json({"model": model, "prompt": text, **as_data(result), **where_it_ran(llm)})
        return
    if options["echo"]:
        write_text(text)
    if options["stream"]:
        result = stream_text(llm.stream(text, **generation))
    else:
        result = llm.generate(text, **generation)
        write_text(result.text)
    write_text("\n")
    print(speed(result.stats, llm), file=sys.stderr)


def stream_text(pieces: TextStream) -> Generation:
    """Write the text as it is generated; an interrupt leaves the cursor on a line of its own."""
    try:
        for piece in pieces:
            write_text(piece)
    except KeyboardInterrupt:
        write_text("\n")
        raise
    result = pieces.result
    assert result is not None  # set once the pieces are exhausted
    return result


def as_data(result: Generation) -> dict[str, Any]:
    """A generation as JSON holds it."""
    stats = result.stats
    return {
        "text": result.text,
        "token_ids": list(result.token_ids),
        "prompt_token_ids": list(result.prompt_token_ids),
        "finish_reason": result.finish_reason,
        "stop_reason": result.stop_reason,
        "seed": result.seed,
        "stats": {
            "prompt_tokens": stats.prompt_tokens,
            "new_tokens": stats.new_tokens,
            "prefill_seconds": stats.prefill_seconds,
            "decode_seconds": stats.decode_seconds,
            "prefill_tokens_per_second": stats.prompt_tokens_per_second,
            "decode_tokens_per_second": stats.tokens_per_second,
        },
    }


def where_it_ran(llm: Llama) -> dict[str, str]:
    """Backend, device and dtype of a loaded model."""
    return {"backend": llm.backend, "device": llm.device, "dtype": llm.dtype}


def speed(stats: GenerationStats, llm: Llama) -> str:
    """One line: how many tokens, how fast, on what."""
    parts = []
    if stats.prompt_tokens_per_second is not None:
        parts.append(f"prefill {stats.prompt_tokens} tokens at {stats.prompt_tokens_per_second:,.1f} tokens/s")
    if stats.tokens_per_second is not None:
        parts.append(f"decode {stats.new_tokens} tokens at {stats.tokens_per_second:,.1f} tokens/s")
    elif stats.new_tokens:
        parts.append(f"decode {stats.new_tokens} token{'s' if stats.new_tokens > 1 else ''}")
    where = where_it_ran(llm)
    return f"{', '.join(parts)} ({where['backend']} on {where['device']}, {where['dtype']})"

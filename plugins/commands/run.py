"""``polyllama run``: a text in; out comes what the model's task is: more text, a label, entities, an answer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ...cli.console import examples, json_option, print_json, write_text
from ...cli.generations import parse_data
from ...cli.options import (
    ModelName,
    TypedText,
    checked_text,
    generation_arguments,
    generation_options,
    load_model,
    load_options,
    refuse_others,
    task_options,
)
from ...cli.texts import (
    read_prompt,  # other commands take it from here
    refuse_silence,
)
from ...core.messages import counted

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
        'polyllama run llama-3.2-1b "A fox, as JSON:" --json-schema @fox.json',
        'polyllama run ./my-classifier "What a day" --top-k 3',
        'echo "Plants make" | polyllama run --task text-generation --model tiny --device cpu',
        'polyllama run tiny "The sun" "Long ago" --max-new-tokens 20',
        "polyllama run llama-3.2-1b --file prompts.jsonl --jsonl > results.jsonl",
        "polyllama run ./my-classifier --file reviews.txt --jsonl",
        'polyllama run ./my-entities "Ann met Tom in Oslo" --option aggregation_strategy=first',
        'polyllama run ./my-reader --question "Who sang?" --context-file story.txt',
    ),
)
@click.argument("model", type=ModelName(), required=False)
@click.argument("prompt", type=TypedText(), nargs=-1)
@click.option("--model", "named", type=ModelName(), metavar="MODEL", help="The model by name; all words are PROMPTs.")
@load_options
@task_options
@generation_options
@click.option("--stream/--no-stream", default=True, help="Show the text as it appears, or all at once.")
@click.option("--echo", is_flag=True, help="Print the prompt before what follows it.")
@click.option("--batch-size", type=int, metavar="N", help="Texts that run at once; 8 by default.")
@json_option
@click.option("--jsonl", is_flag=True, help="Print JSON, a document per line for each text.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    model: str | None,
    prompt: tuple[str, ...],
    named: str | None,
    as_json: bool,
    jsonl: bool,
    **options: Any,
) -> None:
    """Run MODEL on PROMPT and print what comes of it.

    MODEL is the first word, or is given with --model. A language model goes on writing. PROMPT is text, or - to read
    it from standard input, which is also done where it is left out and something is piped in (one newline at its end
    is dropped). The text goes to standard output, how fast it came to standard error. Several PROMPTs, or the lines
    of --file, run --batch-size at a time, and each text is printed below its prompt.

    A model of another task prints its labels, entities or answers: for each PROMPT, or for each line of --file or of
    standard input. --task says which task, where the checkpoint is of another one.

    A line of a .jsonl file is a JSON text, or an object with "prompt" (for other tasks "text", or "question" and
    "context"); what else it has, such as an id, goes into the results of --json and --jsonl as it is. With --adapters
    its "adapter" is the name of one, or null for none.
    """
    model, prompt = _model_and_prompts(model, prompt, named)
    if as_json and jsonl:
        raise click.UsageError("--json is one document and --jsonl one per text; give one of the two.")
    if not prompt and not any(options[name] for name in ("question", "context", "context_file", "file")):
        refuse_silence()
    if options["form"] is not None and options["file"] is None:
        raise click.UsageError("--format says what --file holds, and there is no --file.")
    how = "jsonl" if jsonl else "json" if as_json else "text"
    llm = load_model(model, options)
    generates = llm.task_head.generates
    refuse_others(ctx, llm, generates=generates)
    if generates:
        _generate(ctx, model, llm, prompt, how, options)
        return
    from ...cli.predictions import predict, show, show_json, show_lines

    texts, results = predict(llm, prompt, options)
    if how == "json":
        show_json(model, llm, texts, results)
    elif how == "jsonl":
        show_lines(texts, results)
    else:
        show(texts, results)


def _model_and_prompts(model: str | None, prompt: tuple[str, ...], named: str | None) -> tuple[str, tuple[str, ...]]:
    """The model and the prompts: with ``--model`` the first word is a prompt like the others."""
    if named is not None:
        return named, prompt if model is None else (checked_text(model), *prompt)
    if model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    return model, prompt


def _generate(
    ctx: click.Context, model: str, llm: Llama, prompt: tuple[str, ...], how: str, options: dict[str, Any]
) -> None:
    """What a language model does with one prompt, or with several."""
    if options["file"] is None and len(prompt) < 2 and how != "jsonl":
        if options["batch_size"] is not None:
            raise click.UsageError("--batch-size is for several prompts, and this is one.")
        if _has_beams(llm, options) and how != "json":
            if ctx.get_parameter_source("stream") is ParameterSource.COMMANDLINE and options["stream"]:
                raise click.UsageError("--stream and --num-beams: a beam has no text before its end.")
            options = {**options, "stream": False}
        _write_on(model, llm, read_prompt(prompt[0] if prompt else None), how == "json", options)
        return
    from ...cli.generations import BATCH, adapters_of, generate_all, read_prompts, show_document, show_lines, show_texts

    if ctx.get_parameter_source("stream") is ParameterSource.COMMANDLINE and options["stream"]:
        raise click.UsageError("--stream is for one prompt; of several, each text is printed when it is whole.")
    if options["file"] is None and prompt in ((), ("-",)):
        rows = [{"prompt": read_prompt("-")}]
    else:
        rows = read_prompts(prompt, options["file"], options["form"])
    batch = BATCH if options["batch_size"] is None else options["batch_size"]
    generation = {**generation_arguments(options), "batch_size": batch}
    if options["adapters"]:
        generation |= adapters_of(rows, options["adapter"])
    results = generate_all(llm, rows, generation, not sys.stdout.isatty())
    if how == "json":
        every = list(results)
        last = every[-1]
        show_document(model, rows, every, where_it_ran(llm))
    else:
        last = show_lines(rows, results) if how == "jsonl" else show_texts(rows, results, options["echo"])
        print(speed(last.stats, llm), file=sys.stderr)


def _has_beams(llm: Llama, options: dict[str, Any]) -> bool:
    """Whether beams are searched, be it by the checkpoint's defaults."""
    return llm.generation_options(**generation_arguments(options)).num_beams > 1


def _write_on(model: str, llm: Llama, text: str, as_json: bool, options: dict[str, Any]) -> None:
    """What a language model does with a prompt."""
    generation = generation_arguments(options)
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
    if result.parse_error is not None:
        print(f"! {result.parse_error}", file=sys.stderr)
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
    score = {} if result.score is None else {"score": result.score}
    return {
        "text": result.text,
        **score,
        "token_ids": list(result.token_ids),
        "prompt_token_ids": list(result.prompt_token_ids),
        "finish_reason": result.finish_reason,
        "stop_reason": result.stop_reason,
        "seed": result.seed,
        **parse_data(result),
        "stats": {
            "prompt_tokens": stats.prompt_tokens,
            "cached_tokens": stats.cached_tokens,
            "proposed_tokens": stats.proposed_tokens,
            "accepted_tokens": stats.accepted_tokens,
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
        known = f", {stats.cached_tokens} known" if stats.cached_tokens else ""
        parts.append(
            f"prefill {counted(stats.prompt_tokens, 'token')}{known} at {stats.prompt_tokens_per_second:,.1f} tokens/s"
        )
    if stats.tokens_per_second is not None:
        parts.append(f"decode {counted(stats.new_tokens, 'token')} at {stats.tokens_per_second:,.1f} tokens/s")
    elif stats.new_tokens:
        parts.append(f"decode {counted(stats.new_tokens, 'token')}")
    if stats.proposed_tokens:
        parts.append(f"{stats.accepted_tokens} of {counted(stats.proposed_tokens, 'guess', 'guesses')} right")
    where = where_it_ran(llm)
    return f"{', '.join(parts)} ({where['backend']} on {where['device']}, {where['dtype']})"

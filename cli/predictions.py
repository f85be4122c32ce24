"""Predictions on the command line: by what kind of result it is, so that a plugin's task is shown like the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import InputError
from ..core.messages import shortened, visible
from ..core.prediction.predict import options_of
from ..core.tasks.results import Answer, Entity, Label, as_data
from .console import in_colour, print_compact_json, print_json, print_pairs, print_table
from .options import adapter_of_call, parse_pairs
from .texts import is_jsonl, read_all, read_rows, read_texts

if TYPE_CHECKING:
    from ..core.api.llama import Llama

Texts = list[dict[str, Any]]

COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "red")
SHORT = 60
"""Characters of a text in a table."""


def predict(llm: Llama, prompts: tuple[str, ...], options: dict[str, Any]) -> tuple[Texts, list[Any]]:
    """The texts, by the names that the task takes, and the result of each."""
    chosen = parse_pairs(options["task_options"], "--option")
    if options["top_k"] is not None:
        if "top_k" in chosen:
            raise click.UsageError("top_k is given twice: --top-k and --option.")
        chosen["top_k"] = options["top_k"]
    if options["batch_size"] is not None:
        if "batch_size" in chosen:
            raise click.UsageError("batch_size is given twice: --batch-size and --option.")
        chosen["batch_size"] = options["batch_size"]
    chosen |= adapter_of_call(options)
    texts = _texts(llm, prompts, options)
    names = [name for name in _names(llm) if name in texts[0]]
    for name in names:
        if name in chosen:
            raise click.UsageError(f"--option {name}: the {name} is given already.")
    if len(texts) == 1:
        return texts, [llm.predict(**{name: texts[0][name] for name in names}, **chosen)]
    found = llm.predict(**{name: [row[name] for row in texts] for name in names}, **chosen)
    return texts, list(found)


def _names(llm: Llama) -> tuple[str, ...]:
    task = llm.task_head
    return (*task.texts, *task.optional_texts)


def _texts(llm: Llama, prompts: tuple[str, ...], options: dict[str, Any]) -> Texts:
    names = _names(llm)
    if is_jsonl(options["file"], options["form"]):
        return _rows(llm, prompts, options)
    if "question" not in names or "context" not in names:
        for name in ("question", "context", "context_file"):
            if options[name]:
                raise click.UsageError(
                    f"--{name.replace('_', '-')} is for question answering; this model's task is {llm.task}."
                )
        return [{names[0]: text} for text in read_texts(prompts, options["file"])]
    return _questions(prompts, options)


def _rows(llm: Llama, prompts: tuple[str, ...], options: dict[str, Any]) -> Texts:
    """The documents of a JSONL file; where a text is optional, either all have it or none."""
    for name in ("question", "context", "context_file"):
        if options[name] or prompts:
            raise click.UsageError("Texts are given twice: on the command line and with --file.")
    task = llm.task_head
    taken = {*options_of(task), "result", "model"} - set(_names(llm))
    rows = read_rows(options["file"], task.texts, taken)
    for name in task.optional_texts:
        if len({name in row for row in rows}) > 1:
            raise InputError(f"{options['file']}: some lines have {name!r} and others have not")
    return rows


def _questions(prompts: tuple[str, ...], options: dict[str, Any]) -> Texts:
    """Each question with the context; PROMPT, a file's or standard input's text stands for one that is missing."""
    questions, context = list(options["question"]), options["context"]
    if context is not None and options["context_file"] is not None:
        raise click.UsageError("The context is given twice: --context and --context-file.")
    if options["context_file"] is not None:
        context = read_all(options["context_file"])
    if not questions and context is None:
        raise click.UsageError("This model answers questions: give --question, and --context or --context-file.")
    if questions and context is not None:
        if prompts or options["file"] is not None:
            raise click.UsageError("There is a question and a context, so there must be no other text.")
        return [{"question": question, "context": context} for question in questions]
    if questions:
        contexts = read_texts(prompts, options["file"]) if prompts or options["file"] else [read_all("-")]
        return [{"question": question, "context": text} for text in contexts for question in questions]
    return [{"question": question, "context": context} for question in read_texts(prompts, options["file"])]


def show_json(model: str, llm: Llama, texts: Texts, results: Sequence[Any]) -> None:
    """One document: each text with its result, and where it ran."""
    rows = [{**row, "result": as_data(result)} for row, result in zip(texts, results, strict=True)]
    where = {"backend": llm.backend, "device": llm.device, "dtype": llm.dtype}
    print_json({"model": model, "task": llm.task, "results": rows, **where})


def show_lines(texts: Texts, results: Sequence[Any]) -> None:
    """One JSON document a line: each text with its result."""
    for row, result in zip(texts, results, strict=True):
        print_compact_json({**row, "result": as_data(result)})


def show(texts: Texts, results: Sequence[Any]) -> None:
    """Results for people: tables of labels and answers, entities marked in their text."""
    if all(_is_list_of(Entity, result) or result == [] for result in results if isinstance(result, list)) and all(
        isinstance(result, list) for result in results
    ):
        _show_entities([next(iter(row.values())) for row in texts], results)
        return
    rows: list[tuple[dict[str, str], Any]] = []
    for row, result in zip(texts, results, strict=True):
        rows += [(row, item) for item in result] if isinstance(result, list) else [(row, result)]
    several = len(texts) > 1
    kind = type(rows[0][1])
    if kind is Label:
        _table(["label", "score"], [[label.label, f"{label.score:.4f}"] for _, label in rows], rows, several, "text")
    elif kind is Answer:
        cells = [[a.text or "(no answer)", f"{a.score:.4f}", _characters(a)] for _, a in rows]
        _table(["answer", "score", "characters"], cells, rows, several, "question")
    elif dataclasses.is_dataclass(kind) or issubclass(kind, Mapping):
        _show_fields(rows, several)
    else:
        for row, item in rows:
            prefix = f"{_short(next(iter(row.values())))}  " if several else ""
            click.echo(prefix + _one_line(item))


def _is_list_of(kind: type, result: Any) -> bool:
    return isinstance(result, list) and bool(result) and all(isinstance(item, kind) for item in result)


def _characters(answer: Answer) -> str:
    return f"{answer.start}-{answer.end}" if answer.text else ""


def _table(
    headers: list[str], cells: list[list[str]], rows: Sequence[tuple[dict[str, str], Any]], several: bool, name: str
) -> None:
    """The cells, and where there are several texts which one each is of."""
    if several:
        headers = [*headers, name]
        cells = [[*cell, _short(row.get(name, ""))] for cell, (row, _) in zip(cells, rows, strict=True)]
    print_table(headers, [[visible(cell) for cell in line] for line in cells])


def _show_fields(rows: Sequence[tuple[dict[str, str], Any]], several: bool) -> None:
    for number, (row, item) in enumerate(rows):
        if number:
            click.echo()
        if several:
            click.echo(visible(_short(next(iter(row.values())))))
        names = list(item) if isinstance(item, Mapping) else [field.name for field in dataclasses.fields(item)]
        values = item.values() if isinstance(item, Mapping) else [getattr(item, name) for name in names]
        print_pairs([(name, _one_line(value)) for name, value in zip(names, values, strict=True)])


def _show_entities(texts: Sequence[str], results: Sequence[list[Entity]]) -> None:
    labels = sorted({entity.label for found in results for entity in found})
    colours = {label: COLOURS[number % len(COLOURS)] for number, label in enumerate(labels)}
    for text, found in zip(texts, results, strict=True):
        click.echo(marked(text, found, colours if in_colour() else None))
    if len(texts) > 1:
        return
    if not results[0]:
        click.echo("nothing found")
        return
    click.echo()
    rows = [(visible(e.word), e.label, f"{e.score:.4f}", f"{e.start}-{e.end}") for e in results[0]]
    print_table(["entity", "label", "score", "characters"], rows)


def marked(text: str, entities: Sequence[Entity], colours: dict[str, str] | None = None) -> str:
    """The text with its entities in brackets, or in colour, each with its label.

    >>> marked("Ask Sarah.", [Entity("PER", 0.9, "Sarah", 4, 9)])
    'Ask [Sarah PER].'
    """
    pieces, done = [], 0
    for entity in entities:
        if entity.start < done:  # tokens of one character, where tokens are not put together
            continue
        pieces.append(visible(text[done : entity.start]))
        word = visible(entity.word)
        if colours is None:
            pieces.append(f"[{word} {entity.label}]")
        else:
            colour = colours[entity.label]
            pieces.append(
                click.style(word, fg=colour, bold=True) + click.style(f" {entity.label}", fg=colour, dim=True)
            )
        done = entity.end
    return "".join(pieces) + visible(text[done:])


def _short(text: str) -> str:
    line = " ".join(text.split())
    return shortened(line, SHORT)


def _one_line(value: Any) -> str:
    """A value of a result in one line; of an array its shape and how it begins."""
    shape = getattr(value, "shape", None)
    if shape:
        first = " ".join(f"{number:.4f}" for number in value.reshape(-1)[:6].tolist())
        return f"{' x '.join(map(str, shape))} numbers: {first} ..."
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return " ".join(_one_line(item) for item in value)
    return visible(str(value))

"""Texts in, results out: encode, run in padded batches, and hand each text's outputs to the task."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config.context_length import context_length
from ..errors import BackendError, InputError, UnsupportedError, warn
from ..forward.adapters import named_adapters
from ..messages import counted, did_you_mean, mention, subject
from ..tasks.loaded_model import FIELDS_ALONE
from ..tasks.task import Task
from ..tasks.windows import Encoder, Example, Window
from .inputs import Texts, read_texts
from .progress import Progress

if TYPE_CHECKING:
    import numpy as np

    from ..tasks.loaded_model import LoadedModel


@dataclass(frozen=True)
class RunOptions:
    """What ``predict`` takes whatever the task.

    Attributes:
        batch_size: most rows that run at once; those of similar length run together.
        truncation: cut texts that are too long, and say so, instead of an error.
        max_length: most tokens of a row; by default the model's context.
        progress: see :class:`~polyllama.core.prediction.progress.Progress`.
        adapter: the name of one of the model's adapters, or a list with one for each text.
    """

    batch_size: int = 8
    truncation: bool = False
    max_length: int | None = None
    progress: bool | Callable[[int, int], object] | None = None
    adapter: str | Sequence[str | None] | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_length"):
            value = getattr(self, name)
            if name == "max_length" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(subject(name, value) + f" is {value!r:.80}, wanted a positive integer")
        if not isinstance(self.truncation, bool):
            raise InputError(
                subject("truncation", self.truncation) + f" is {self.truncation!r:.80}, wanted True or False"
            )
        if not (self.progress is None or isinstance(self.progress, bool) or callable(self.progress)):
            raise InputError(f"progress is {self.progress!r:.80}, wanted True, False or a function")


def predict(model: LoadedModel, task: Task, given: Any, options: Mapping[str, Any]) -> Any:
    """The task's result for a text, or for each of a list of them, by one pass over each.

    Raises:
        InputError: no text, an empty one, something that is no text, one that is too long, or an unknown option.
        UnsupportedError: the task does not say how its output becomes a result.
    """
    if type(task).result is Task.result:
        raise UnsupportedError(
            f"task {task.name!r} does not say how its output becomes a result",
            hint="use forward, or give the task a method result",
        )
    named = {name: options[name] for name in (*task.texts, *task.optional_texts) if name in options}
    rest = {name: value for name, value in options.items() if name not in named}
    run, encoding, reading = _split_options(task, rest)
    single, examples = read_texts(task, given, named)
    _refuse_training(model)
    adapters = named_adapters(model.adapters, run.adapter, len(examples), "text") if run.adapter is not None else ()
    rows = _encode(model, task, examples, run, encoding)
    results: dict[int, Any] = {}
    progress = Progress(len(examples), run.progress)
    try:
        for number, outputs in _run(model, task, rows, run.batch_size, adapters):
            example = Example(examples[number], rows[number], outputs, model.config, model.tokenizer)
            results[number] = task.result(example, **reading)
            progress.advance()
    finally:
        progress.finish()
    return results[0] if single else task.combine_results([results[number] for number in range(len(examples))])


def options_of(task: Task) -> dict[str, Any]:
    """What ``predict`` takes for a task beside texts, with defaults.

    >>> from polyllama.plugins.tasks.sequence_classification import SequenceClassification
    >>> list(options_of(SequenceClassification()))
    ['batch_size', 'truncation', 'max_length', 'progress', 'adapter', 'top_k', 'function_to_apply']
    """
    found = {name: getattr(RunOptions, name) for name in RunOptions.__dataclass_fields__}
    for method in (task.encode, task.result):
        found |= _keywords(method)
    return found


def check_names(options: Iterable[str], known: Sequence[str], what: str) -> None:
    """Refuse options that there are none of.

    >>> check_names(["topk"], ["top_k", "stride"], "predict")
    Traceback (most recent call last):
    ...
    polyllama.extend.InputError: predict has no option 'topk'; did you mean 'top_k'?
    """
    for name in options:
        if name not in known:
            hint = did_you_mean(name, known, f"it takes {', '.join(known)}")
            raise InputError(f"{what} has no option {name!r}", hint=hint)


def _keywords(method: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(method).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _split_options(task: Task, options: Mapping[str, Any]) -> tuple[RunOptions, dict[str, Any], dict[str, Any]]:
    """Those of running, of the task's ``encode`` and of its ``result``."""
    known = [*task.texts, *task.optional_texts, *options_of(task)]
    check_names(options, known, f"predict for task {task.name!r}")
    parts = (
        {name: value for name, value in options.items() if name in names}
        for names in (RunOptions.__dataclass_fields__, _keywords(task.encode), _keywords(task.result))
    )
    run, encoding, reading = parts
    return RunOptions(**run), encoding, reading


def _refuse_training(model: LoadedModel) -> None:
    if model.training:
        raise InputError("the module is in training mode, so dropout would change results", hint="llm.module.eval()")


def _encode(
    model: LoadedModel, task: Task, examples: Sequence[Texts], run: RunOptions, options: Mapping[str, Any]
) -> list[list[Window]]:
    context = context_length(model.config)
    if context is not None and run.max_length is not None and run.max_length > context:
        raise InputError(f"max_length is {run.max_length}, the model's context is {context}")
    cut: list[int] = []
    rows = []
    for number, texts in enumerate(examples):
        name = f"text {number}" if len(examples) > 1 else "the text"
        encoder = Encoder(model.tokenizer, context, run.max_length, run.truncation, name, cut)
        rows.append(list(task.encode(encoder, texts, **options)))
    if cut:
        which = f"{len(cut)} of {len(examples)} texts were" if len(examples) > 1 else "the text was"
        warn(f"{which} cut to {counted(min(encoder.limit or 0, max(cut)), 'token')} (the longest had {max(cut)})")
    return rows


def _run(
    model: LoadedModel,
    task: Task,
    rows: Sequence[Sequence[Window]],
    batch_size: int,
    adapters: Sequence[str | None] = (),
) -> Iterator[tuple[int, list[Mapping[str, np.ndarray]]]]:
    """Number and outputs of each example, as soon as all its rows have run."""
    outputs: list[dict[int, Mapping[str, np.ndarray]]] = [{} for _ in rows]
    jobs = [(number, place) for number, windows in enumerate(rows) for place in range(len(windows))]
    for batch in _batches(jobs, lambda job: len(rows[job[0]][job[1]]), batch_size, task):
        own = {"adapter": [adapters[number] for number, _ in batch]} if adapters else {}
        found = _forward(model, task, [rows[number][place] for number, place in batch], own)
        for (number, place), output in zip(batch, found, strict=True):
            outputs[number][place] = output
            if len(outputs[number]) == len(rows[number]):
                yield number, [outputs[number][i] for i in range(len(rows[number]))]
                outputs[number] = {}


def _batches(
    jobs: Sequence[tuple[int, int]], length: Callable[[tuple[int, int]], int], size: int, task: Task
) -> Iterator[list[tuple[int, int]]]:
    """Rows of similar length together, the longest first: what does not fit into memory fails at once.

    A task that does not say what its outputs are per gets rows of one length only: nobody knows what padding would do
    to it.
    """
    batch: list[tuple[int, int]] = []
    for job in sorted(jobs, key=lambda job: -length(job)):
        padded = task.outputs_per is not None or not batch or length(job) == length(batch[0])
        if batch and (len(batch) == size or not padded):
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def _forward(
    model: LoadedModel, task: Task, windows: Sequence[Window], more: Mapping[str, Any]
) -> list[dict[str, np.ndarray]]:
    """Each row's outputs, without padding."""
    import numpy as np

    longest = max(map(len, windows))
    ids = np.full((len(windows), longest), model.config.pad_token_id or 0, np.int64)
    mask = np.zeros_like(ids)
    for row, window in enumerate(windows):
        ids[row, : len(window)] = window.input_ids
        mask[row, : len(window)] = 1
    output = model.forward(ids, attention_mask=mask, **FIELDS_ALONE, **more).numpy()
    per_token = task.outputs_per == "token"
    found = [
        {name: array[row, : len(window)] if per_token else array[row] for name, array in output.items()}
        for row, window in enumerate(windows)
    ]
    for name, array in ((name, array) for row in found for name, array in row.items()):
        # Infinitely little (-inf) is a score that a head may give on purpose.
        if (np.isnan(array) | (array == np.inf)).any():
            kind = "NaN" if np.isnan(array).any() else "infinite"
            raise BackendError(
                f"{name} came out as {kind} on {model.backend} in {model.dtype}",
                hint="try " + mention("dtype", "float32") + ", or check the weights",
            )
    return found

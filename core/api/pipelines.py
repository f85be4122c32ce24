"""``pipeline``: a model and a task under one call, by the names and with the results that transformers documents."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError, PolyllamaWarning, UnsupportedError
from ..messages import mention, subject
from ..prediction.predict import check_names, options_of
from ..public import public
from ..tasks.results import as_data
from .llama import Llama

if TYPE_CHECKING:
    from pathlib import Path

    from ..tasks.task import Task
    from ..tokenizer.base import Tokenizer

SPELLINGS = {"max_seq_len": "max_length", "topk": "top_k", "torch_dtype": "dtype"}
"""Older names of options."""

INSTEAD = {
    "framework": "name a backend: " + mention("backend", "torch"),
    "grouped_entities": "aggregation_strategy='simple' puts tokens together",
    "ignore_subwords": "aggregation_strategy='first' decides by a word's first token",
    "max_question_len": "questions are never cut",
    "model_kwargs": "give them to pipeline itself",
    "padding": "rows are padded by themselves, where they run together",
    "return_all_scores": mention("top_k", None) + " gives every label",
    "tokenizer": "the model's own is taken: save another one beside its weights",
}
"""Options of transformers' pipelines that there are none of here, and what to do."""


@public
def pipeline(
    task: str | None = None,
    model: str | Path | Llama | None = None,
    *,
    backend: str | None = None,
    device: Any = None,
    **options: Any,
) -> Pipeline:
    """A model for a task, to be called with texts; results are plain lists and dictionaries.

    Args:
        task: ``"text-classification"`` (``"sentiment-analysis"``), ``"token-classification"`` (``"ner"``),
            ``"question-answering"``, ``"text-generation"``, ``"feature-extraction"``, or any installed task by its
            name or an alias of it; by default what the checkpoint is for.
        model: a registry name, a Hub repository, a folder, or a loaded :class:`~polyllama.Llama`.
        backend: as in :meth:`~polyllama.Llama.load`; so is `device`, which may also be the number of a CUDA
            device, or -1 for the CPU.
        options: those of the task are kept for every call (``aggregation_strategy="simple"``); the others go to
            ``Llama.load``.

    Raises:
        InputError: no model, a model of another task, an unknown option, or one that is given twice.
        PluginError: an unknown task.

    >>> write = pipeline("text-generation", model="tiny", backend="reference", max_new_tokens=5)
    >>> write("Once upon a time")[0]["generated_text"].startswith("Once upon a time")
    True
    """
    name = None if task is None else task_of(task)
    if model is None:
        raise InputError("pipeline needs a model", hint=f"pipeline({task or 'text-generation'!r}, model=...)")
    options = _spelt(options)
    if isinstance(model, Llama):
        if name is not None and name != model.task:
            raise InputError(
                f"the model was loaded for task {model.task!r}, not {name!r}",
                hint="load it with " + mention("task", name),
            )
        if backend is not None or device is not None:
            raise InputError(
                mention("backend") + " and device are for a model that is yet to be loaded", hint="leave them out"
            )
        return _made(model, options)
    kind = name if name is not None or not options else _own_task(model, options)
    calls = {key: value for key, value in options.items() if not _is_for_loading(key, kind)}
    loading = {key: value for key, value in options.items() if key not in calls}
    return _made(Llama.load(model, task=name, backend=backend, device=_device(device), **loading), calls)


def task_of(name: str) -> str:
    """Our name of a task, from a documented one.

    >>> task_of("sentiment-analysis")
    'sequence-classification'
    """
    from ..plugin_system.hookspecs import TaskDescriptor
    from ..plugin_system.manager import plugin_manager

    if not isinstance(name, str):
        raise InputError(subject("task", name) + f" is {name!r:.80}, wanted a name such as 'text-classification'")
    return plugin_manager().find(TaskDescriptor, name).name


def _own_task(model: Any, options: Mapping[str, Any]) -> str:
    """What a checkpoint is for, by its configuration; whatever is to be said of that, loading will say."""
    from ..loading.describe import DUMMY, describe
    from ..settings.schema import load_settings

    settings = load_settings(offline=options.get("offline"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PolyllamaWarning)
        return describe(model, revision=options.get("revision"), load_format=DUMMY, settings=settings).task.name


def _spelt(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options by the names they have here."""
    found: dict[str, Any] = {}
    for given, value in options.items():
        if given in INSTEAD:
            raise InputError(f"a pipeline has no option {given!r}", hint=INSTEAD[given])
        name = SPELLINGS.get(given, given)
        if name in found:
            raise InputError(f"{name} is given twice", hint=f"{given} is another name of it")
        found[name] = value
    return found


def _device(device: Any) -> Any:
    """``0`` is the first CUDA device and ``-1`` the CPU, as documented."""
    if isinstance(device, bool) or not isinstance(device, int):
        return device
    return "cpu" if device < 0 else f"cuda:{device}"


def _is_for_loading(name: str, task: str | None) -> bool:
    """Whether an option is one of ``Llama.load``. Only ``seed`` is one of both, and then it is of generating."""
    import inspect

    from ..config.loader_arguments import LOADER_ARGUMENTS
    from ..config.schema import LlamaConfig
    from ..loading.tasks import CONFIG_SPELLINGS

    if name == "seed" and task == "causal-lm":
        return False
    heads = _task(task).load_options if task is not None else ()
    known = {*inspect.signature(Llama.load).parameters, *LlamaConfig.model_fields, *CONFIG_SPELLINGS, *heads}
    return name in known or name in LOADER_ARGUMENTS  # which it refuses, each with a reason


def _task(name: str) -> Task:
    from ..loading.tasks import instantiate
    from ..plugin_system.hookspecs import TaskDescriptor
    from ..plugin_system.manager import plugin_manager

    return instantiate(plugin_manager().find(TaskDescriptor, name).load())


def _made(llm: Llama, options: Mapping[str, Any]) -> Pipeline:
    """The pipeline, its options checked now and not with the first text."""
    kind = _KINDS.get(llm.task, Pipeline)
    if llm.task_head.generates:
        llm._options({name: value for name, value in options.items() if name not in kind.own})
    else:
        known = [*options_of(llm.task_head), *kind.own]
        check_names(options, known, f"pipeline for task {llm.task!r}")
    return kind(llm, options)


class Pipeline:
    """A loaded model that is called with texts; of a plugin's task, its results as plain data.

    Attributes:
        model: the loaded :class:`~polyllama.Llama`.
        defaults: options that every call has, unless it says otherwise.
    """

    own: ClassVar[tuple[str, ...]] = ()
    """Options of the pipeline itself, beside those of ``Llama.predict``."""

    def __init__(self, model: Llama, defaults: Mapping[str, Any]) -> None:
        self.model, self.defaults = model, dict(defaults)

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.model.task

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.model.tokenizer

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"

    def __call__(self, inputs: Any = None, **options: Any) -> Any:
        """The results for a text, or for each of a list; options are those of ``Llama.predict``."""
        return self._call(inputs, self.defaults | _spelt(options))

    def _call(self, inputs: Any, options: dict[str, Any]) -> Any:
        return as_data(self.model.predict(inputs, **options))


class TextClassification(Pipeline):
    """``[{"label": ..., "score": ...}]``; with ``top_k`` (``None`` for all labels) such a list for each text."""

    def _call(self, inputs: Any, options: dict[str, Any]) -> Any:
        asked = "top_k" in options
        if asked and options["top_k"] is None:
            options["top_k"] = "all"
        found = super()._call(inputs, options)
        return [found] if isinstance(inputs, str) and isinstance(found, dict) else found


class TokenClassification(Pipeline):
    """A list of dictionaries for each text: ``entity`` and ``index``, or ``entity_group``; ``score``, ``word``, places.

    By the documented default tokens are not put together: ``aggregation_strategy="none"``.
    """

    def _call(self, inputs: Any, options: dict[str, Any]) -> Any:
        return super()._call(inputs, {"aggregation_strategy": "none"} | options)


class QuestionAnswering(Pipeline):
    """``{"score", "start", "end", "answer"}``, or with ``top_k`` above 1 a list of them."""

    def _call(self, inputs: Any, options: dict[str, Any]) -> Any:
        if options.get("top_k") == 1:
            del options["top_k"]
        return super()._call(inputs, options)


class FeatureExtraction(Pipeline):
    """Hidden states of each text as nested lists ``[1, S, hidden_size]``; arrays with ``return_tensors=True``."""

    own = ("return_tensors",)

    def _call(self, inputs: Any, options: dict[str, Any]) -> Any:
        keep = options.pop("return_tensors", None)
        if not (keep is None or isinstance(keep, bool) or keep == "np"):
            raise InputError(
                f"return_tensors is {keep!r:.80}, and arrays are NumPy's here: True or 'np'",
                hint="llm.forward gives the backend's own",
            )
        found = self.model.predict(inputs, **options)
        if isinstance(inputs, str):
            return found[None] if keep else [as_data(found)]
        return [states[None] if keep else [as_data(states)] for states in found]


class TextGeneration(Pipeline):
    """``[{"generated_text": ...}]`` for a prompt or a conversation, a list of such lists for a list of them.

    The text has the prompt before it, or the conversation with one more message; not with ``return_full_text=False``.
    """

    own = ("return_full_text",)

    def _call(self, inputs: Any, options: dict[str, Any]) -> Any:
        full = options.pop("return_full_text", True)
        if isinstance(inputs, str) or _is_chat(inputs):
            return self._records(inputs, full, options)
        if not isinstance(inputs, Sequence) or not inputs:
            raise InputError(f"a prompt is a text or a conversation, not {inputs!r:.80}")
        if all(isinstance(prompt, str) for prompt in inputs):
            results = self.model.generate(list(inputs), **options)
            return [_as_records(prompt, found, full) for prompt, found in zip(inputs, results, strict=True)]
        return [self._records(prompt, full, options) for prompt in inputs]

    def _records(self, prompt: Any, full: bool, options: dict[str, Any]) -> list[dict[str, Any]]:
        chat = not isinstance(prompt, str)
        if chat and not _is_chat(prompt):
            raise InputError(f"a prompt is a text or a conversation, not {prompt!r:.80}")
        if chat and prompt[-1].get("role") == "assistant":
            raise UnsupportedError(
                "the conversation ends with the assistant's own message, which is not continued here",
                hint="end it with the user's",
            )
        found = self.model.chat(prompt, **options) if chat else self.model.generate(prompt, **options)
        return _as_records(prompt, found, full)


def _is_chat(inputs: Any) -> bool:
    return isinstance(inputs, Sequence) and bool(inputs) and all(isinstance(item, Mapping) for item in inputs)


def _as_records(prompt: Any, found: Any, full: bool) -> list[dict[str, Any]]:
    texts = [result.text for result in (found if isinstance(found, list) else [found])]
    if not full:
        return [{"generated_text": text} for text in texts]
    if isinstance(prompt, str):
        return [{"generated_text": prompt + text} for text in texts]
    return [{"generated_text": [*prompt, {"role": "assistant", "content": text}]} for text in texts]


_KINDS: dict[str, type[Pipeline]] = {
    "sequence-classification": TextClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
    "causal-lm": TextGeneration,
    "base": FeatureExtraction,
}

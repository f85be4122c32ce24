"""``pipeline``: a task and a model's name in, a loaded pipeline out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...arguments import checked
from ...errors import InputError, PolyllamaWarning
from ...messages import mention, subject
from ...prediction.predict import check_names, options_of
from ...public import public
from ..chatting import CHAT_OPTIONS
from ..llama import Llama, facade_of
from .base import Pipeline
from .options import check_spelling, is_for_loading, one_device, spelt, whole_model_options
from .predictors import FeatureExtraction, QuestionAnswering, TextClassification, TokenClassification
from .text_generation import TextGeneration

if TYPE_CHECKING:
    from pathlib import Path

    from ...tasks.task import Task
    from ...tokenizer.tokenizer import Tokenizer

KINDS: dict[str, type[Pipeline]] = {
    "sequence-classification": TextClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
    "causal-lm": TextGeneration,
    "base": FeatureExtraction,
}

DOCUMENTED_NAMES = {
    "sequence-classification": "text-classification",
    "causal-lm": "text-generation",
    "base": "feature-extraction",
}
"""What transformers calls a task, where that is another name."""

OF_ANY_CALL = ("num_workers",)


@public
@checked
def pipeline(
    task: str | None = None,
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    *,
    backend: str | None = None,
    device: Any = None,
    device_map: Any = None,
    **options: Any,
) -> Pipeline:
    """A model for a task, to be called with texts; results are plain lists and dictionaries.

    Args:
        task: ``"text-classification"`` (``"sentiment-analysis"``), ``"token-classification"`` (``"ner"``),
            ``"question-answering"``, ``"text-generation"``, ``"feature-extraction"``, or any installed task by its
            name or an alias of it; by default what the checkpoint is for.
        model: a registry name, a Hub repository, a folder, or a loaded model of any of polyllama's classes.
        config: another configuration than the checkpoint's.
        tokenizer: another tokenizer than the model's own: one that is loaded, or where one is.
        backend: as in :meth:`~polyllama.Llama.load`; so is `device`, which may also be the number of a CUDA
            device, or -1 for the CPU.
        device_map: ``"auto"`` for the best device there is, or the one that is meant.
        options: those of the task are kept for every call (``aggregation_strategy="simple"``); the others, and
            those in ``model_kwargs``, are for loading, as ``from_pretrained`` has them (``dtype="float16"``).

    Raises:
        InputError: no model, a model of another task, an unknown option, or one that is given twice.
        PluginError: an unknown task.

    >>> write = pipeline("text-generation", model="tiny", backend="reference", max_new_tokens=5)
    >>> write("Once upon a time")[0]["generated_text"].startswith("Once upon a time")
    True
    >>> [len(found) for found in write(text for text in ("Once", "One day"))]
    [1, 1]
    """
    name = None if task is None else task_of(task)
    if model is None:
        raise InputError("pipeline needs a model", hint=f"pipeline({task or 'text-generation'!r}, model=...)")
    given = {"backend": backend, "device": device, "device_map": device_map, "config": config}
    asked = whole_model_options(spelt({**given, **options}))
    loaded = facade_of(model)
    if loaded is None and not isinstance(model, str | os.PathLike):
        raise InputError(
            f"model is a {type(model).__module__.partition('.')[0]}.{type(model).__name__}",
            hint="give a name, a folder, or a model that polyllama loaded",
        )
    if loaded is not None:
        calls = _calls_of_loaded(loaded, name, asked)
    else:
        model, calls = _loaded(model, name, asked)
        loaded = model
    kind = KINDS.get(loaded.task, Pipeline)
    shown = task or DOCUMENTED_NAMES.get(loaded.task, loaded.task)
    made = kind(model, calls, task=shown, tokenizer=_tokenizer(tokenizer))
    _check_calls(made)
    return made


def task_of(name: str) -> str:
    """Our name of a task, from a documented one.

    >>> task_of("sentiment-analysis")
    'sequence-classification'
    """
    from ...plugin_system.hookspecs import TaskDescriptor
    from ...plugin_system.manager import plugin_manager

    if not isinstance(name, str):
        raise InputError(subject("task", name) + f" is {name!r:.80}, wanted a name such as 'text-classification'")
    return plugin_manager().find(TaskDescriptor, name).name


def _loaded(source: str | Path, name: str | None, asked: Mapping[str, Any]) -> tuple[Llama, dict[str, Any]]:
    """A model that is yet to be loaded, and the options that are left for the calls."""
    options = {key: value for key, value in asked.items() if value is not None or key not in _PLACES}
    task = name if name is not None or not set(options) - {*_PLACES} else _own_task(source, options)
    head = None if task is None else _task(task)
    loads = () if head is None else tuple(head.load_options)
    calls = {key: value for key, value in options.items() if not is_for_loading(key, task, loads)}
    if head is not None and not head.generates:
        check_spelling(calls, _options_of(head, KINDS.get(head.name, Pipeline)))
    loading = {key: value for key, value in options.items() if key not in calls}
    backend = loading.get("backend")
    device = one_device(loading.pop("device_map", None), loading.pop("device", None), backend)
    llm = Llama.from_pretrained(source, task=name, device=device, **loading)
    if llm.task_head.generates:  # what its template reads is known only now
        check_spelling(calls, _names_for_chat(llm, calls))
    return llm, calls


_PLACES = ("backend", "device", "device_map", "config")


def _calls_of_loaded(llm: Llama, name: str | None, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a model that is loaded, all of which are for the calls."""
    if name is not None and name != llm.task:
        raise InputError(
            f"the model was loaded for task {llm.task!r}, not {name!r}", hint="load it with " + mention("task", name)
        )
    options = dict(asked)
    backend, device = options.pop("backend"), options.pop("device")
    device_map, config = options.pop("device_map"), options.pop("config")
    wanted = one_device(device_map, device, llm.backend)
    others = [
        backend is not None and backend.partition(":")[0] != llm.backend,
        wanted is not None and not _same_device(str(wanted), llm.device),
    ]
    if any(others):
        raise InputError(
            mention("backend") + f" and device are for a model that is yet to be loaded; this one runs on {llm.backend}"
            f" on {llm.device}",
            hint="leave them out",
        )
    if config is not None and config is not llm.config:
        raise InputError("config is for a model that is yet to be loaded", hint="leave it out")
    heads = tuple(llm.task_head.load_options)
    for name in [name for name in options if is_for_loading(name, llm.task, heads)]:
        value = options.pop(name)
        same = name == "dtype" and value is not None and _dtype_name(value) in ("auto", llm.dtype)
        if not (same or value is None or value is False):
            raise InputError(
                mention(name, value, limit=60) + " is for a model that is yet to be loaded", hint="leave it out"
            )
    return options


def _dtype_name(dtype: Any) -> str:
    from ...dtypes import name_of

    return str(name_of(dtype))


def _same_device(one: str, other: str) -> bool:
    return one.removesuffix(":0") == other.removesuffix(":0")


def _tokenizer(given: Any) -> Tokenizer | None:
    """The tokenizer that was given, loaded where it is a path or a name."""
    from ...tokenizer.tokenizer import Tokenizer

    if given is None or isinstance(given, Tokenizer):
        return given
    if isinstance(given, str | os.PathLike):
        from ...loading.describe import tokenizer_of
        from ...settings.schema import load_settings
        from ...sources.locate import locate

        path = locate(given, files="tokenizer", settings=load_settings()).path
        return tokenizer_of(path)
    raise InputError(
        f"tokenizer is a {type(given).__module__.partition('.')[0]}.{type(given).__name__}",
        hint="load it with polyllama.LlamaTokenizer.from_pretrained, or give the folder it is in",
    )


def _own_task(model: Any, options: Mapping[str, Any]) -> str:
    """What a checkpoint is for, by its configuration; whatever is to be said of that, loading will say."""
    from ...loading.describe import DUMMY, describe
    from ...settings.schema import load_settings
    from ...sources.access import HubAccess, local_only

    settings = load_settings(offline=local_only(options.get("offline"), options.get("local_files_only")))
    access = HubAccess.taken_from(dict(options))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PolyllamaWarning)
        found = describe(model, revision=options.get("revision"), load_format=DUMMY, settings=settings, access=access)
    return found.task.name


def _names_for_chat(llm: Llama, calls: Mapping[str, Any]) -> list[str]:
    """The options of a model that generates, and what the template reads that a conversation would be written by."""
    from ...generation.option_rules import OPTION_RULES

    return [*OPTION_RULES, *CHAT_OPTIONS, *TextGeneration.own, *OF_ANY_CALL, *sorted(llm.read_by_template(calls))]


def _options_of(head: Task, kind: type[Pipeline]) -> list[str]:
    return [*options_of(head), *kind.own, *OF_ANY_CALL]


def _task(name: str) -> Task:
    from ...loading.tasks import instantiate
    from ...plugin_system.hookspecs import TaskDescriptor
    from ...plugin_system.manager import plugin_manager

    return instantiate(plugin_manager().find(TaskDescriptor, name).load())


def _check_calls(made: Pipeline) -> None:
    """Check the options of every call now and not with the first text."""
    llm, kind = made.llm, type(made)
    options: Sequence[str] = [*kind.own, *OF_ANY_CALL]
    if llm.task_head.generates:
        asked = made.merged({})
        generation, _ = llm.split_chat_options({n: v for n, v in asked.items() if n not in options})
        llm.generation_options(**generation)
    else:
        check_names(made.defaults, _options_of(llm.task_head, kind), f"pipeline for task {llm.task!r}")

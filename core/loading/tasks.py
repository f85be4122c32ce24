"""Which task head a model gets, and which fields override its configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..arguments import meant
from ..config.loader_arguments import LOADER_ARGUMENTS
from ..config.schema import LlamaConfig
from ..errors import CheckpointError, UnknownArgumentError
from ..messages import in_quotes, mention
from ..plugin_system.manager import Plugins
from ..tasks.task import Task

DEFAULT_TASK = "causal-lm"


LOAD_ARGUMENTS = (
    *("backend", "task", "dtype", "device", "quantize", "revision", "load_format", "offline", "seed", "fresh_head"),
    *("adapter", "merge_adapter", "adapters", "ignore", "attn_implementation", "config", "draft"),
    "ignore_mismatched_sizes",
    *("cache_dir", "token", "force_download", "subfolder", "gguf_file"),
)


CONFIG_SPELLINGS = ("rope_theta", "rope_scaling", "torch_dtype", "num_labels", "partial_rotary_factor")


def known_overrides(options: Iterable[str] = ()) -> set[str]:
    """Names of config fields that a call may change, in any spelling, and a task's `options`."""
    return {*LlamaConfig.model_fields, *CONFIG_SPELLINGS, *options} - {"extra"}


def check_overrides(
    overrides: Mapping[str, Any], options: Iterable[str] = (), *, function: str = "load", arguments: Iterable[str] = ()
) -> None:
    """Refuse arguments that are no config fields: in a file an unknown key is kept, in a call it is a mistake.

    Args:
        options: further names, which the task takes.
        function: what was called, where that is not ``Llama.load``; `arguments` are its own.

    >>> check_overrides({"load_fromat": "dummy"})
    Traceback (most recent call last):
    ...
    polyllama.extend.UnknownArgumentError: load has no argument 'load_fromat'; did you mean 'load_format'?
    """
    fields = known_overrides(options)
    for name in overrides:
        if name in fields:
            continue
        if function != "load" and name in LOAD_ARGUMENTS:
            advice: str | None = "it is an argument of Llama.load"
        else:
            likely = meant(name, [*(arguments if function != "load" else LOAD_ARGUMENTS), *sorted(fields)])
            suggestion = None if likely is None else "did you mean " + in_quotes(likely) + "?"
            advice = LOADER_ARGUMENTS.get(name) or suggestion
        raise UnknownArgumentError(name, function=function, advice=advice)


def check_task_overrides(overrides: Mapping[str, Any], plugins: Plugins, task: str | None, **called: Any) -> None:
    """:func:`check_overrides` with the options of a task that was named; `called` says what was called."""
    check_overrides(overrides, () if task is None else _named_task(plugins, task).load_options, **called)


def find_task(plugins: Plugins, name: str | None, config: LlamaConfig) -> Task:
    """The task called `name`, or the one the checkpoint's ``architectures`` name; a language model by default.

    Raises:
        PluginError: no plugin offers it.
        CheckpointError: the checkpoint is of a task that no plugin offers.
    """
    from ..plugin_system.hookspecs import TaskDescriptor

    if name is not None:
        return _named_task(plugins, name)
    for architecture in config.architectures or ():
        descriptor = plugins.task_for_architecture(architecture)
        if descriptor is not None:
            return instantiate(descriptor.load())
    if config.architectures:
        raise CheckpointError(
            f"no installed task answers to architectures {list(config.architectures)}",
            hint="name one yourself: " + mention("task", shown=", ".join(sorted(plugins.tasks()))),
        )
    return instantiate(plugins.find(TaskDescriptor, DEFAULT_TASK).load())


def _named_task(plugins: Plugins, name: str) -> Task:
    from ..plugin_system.hookspecs import TaskDescriptor

    return instantiate(plugins.find(TaskDescriptor, name).load())


def instantiate(task: Any) -> Task:
    """A task from its class, or as it is."""
    made: Task = task() if isinstance(task, type) else task
    return made

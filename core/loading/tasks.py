"""Which task head a model gets, and which fields override its configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..config.loader_arguments import LOADER_ARGUMENTS
from ..config.schema import LlamaConfig
from ..errors import CheckpointError, UnknownArgumentError
from ..messages import closest, in_quotes, mention
from ..plugin_system.manager import Plugins
from ..tasks.task import Task

DEFAULT_TASK = "causal-lm"


_LOAD_ARGUMENTS = (
    *("backend", "task", "dtype", "device", "quantize", "revision", "load_format", "offline", "seed", "fresh_head"),
    *("adapter", "merge_adapter"),
)


CONFIG_SPELLINGS = ("rope_theta", "rope_scaling", "torch_dtype", "num_labels", "partial_rotary_factor")


def check_overrides(overrides: Mapping[str, Any], options: Iterable[str] = ()) -> None:
    """Refuse arguments that are no config fields: in a file an unknown key is kept, in a call it is a mistake.

    Args:
        options: further names, which the task takes.

    >>> check_overrides({"load_fromat": "dummy"})
    Traceback (most recent call last):
    ...
    polyllama.extend.UnknownArgumentError: load has no argument 'load_fromat'; did you mean 'load_format'?
    """
    fields = {*LlamaConfig.model_fields, *CONFIG_SPELLINGS, *options} - {"extra"}
    for name in overrides:
        if name in fields:
            continue
        meant = closest(name, [*_LOAD_ARGUMENTS, *sorted(fields)])
        suggestion = None if meant is None else "did you mean " + in_quotes(meant) + "?"
        raise UnknownArgumentError(name, advice=LOADER_ARGUMENTS.get(name) or suggestion)


def check_task_overrides(overrides: Mapping[str, Any], plugins: Plugins, task: str | None) -> None:
    """:func:`check_overrides` with the options of a task that was named."""
    check_overrides(overrides, () if task is None else _named_task(plugins, task).load_options)


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

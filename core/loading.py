"""From a name to a running model: name -> checkpoint -> config -> graph -> weights -> backend."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .backend import Choice, Model, RealizeOptions, choose_backend
from .config import LOADER_ARGUMENTS, LlamaConfig
from .config_keys import CHANGES_THE_MODEL
from .dtypes import numpy_dtype
from .errors import (
    CheckpointError,
    InputError,
    PolyllamaWarning,
    RegistryError,
    UnknownArgumentError,
    UnsupportedError,
)
from .graph import Dropout, Graph, nodes_of_type
from .llama import build_graph
from .messages import closest, in_quotes, mention, subject
from .plugins import Plugins, plugin_manager
from .settings import Settings, load_settings, settings_of_call
from .task import Task

if TYPE_CHECKING:
    import numpy as np

    from .checkpoint.weights import Weights
    from .tokenizer import Tokenizer

DUMMY = "dummy"
DEFAULT_TASK = "causal-lm"


@dataclass(frozen=True)
class Described:
    """A model whose weights have not been touched yet.

    Attributes:
        name: what the user called it.
        folder: where its files are; ``None`` for a model made from a config alone.
        checkpoint: the open checkpoint, ``None`` for dummy weights.
        plain_graph: where weights are quantized on the way, the graph of what they are made from.
    """

    name: str
    folder: Path | None
    checkpoint: Any
    config: LlamaConfig
    task: Task
    graph: Graph
    settings: Settings
    plugins: Plugins
    plain_graph: Graph | None = None


@dataclass(frozen=True)
class Loaded:
    """A model that runs, and what it came from."""

    name: str
    folder: Path | None
    config: LlamaConfig
    task: Task
    graph: Graph
    settings: Settings
    choice: Choice
    model: Model
    checkpoint: Any = None


def describe(
    source: str | Path | LlamaConfig,
    *,
    task: str | None = None,
    revision: str | None = None,
    load_format: str = "auto",
    config_overrides: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
) -> Described:
    """Everything about a model short of its weights: config, task and graph.

    Raises:
        PolyllamaError: as :meth:`polyllama.core.model.Llama.load`.
    """
    settings = settings if settings is not None else load_settings()
    overrides = dict(config_overrides or {})
    if not isinstance(source, (str, os.PathLike, LlamaConfig)):
        raise InputError(f"a model is named by text or a path, not by a {type(source).__name__}")
    if task is not None and (not isinstance(task, str) or not task):
        raise InputError(
            subject("task", task) + f" is {task!r}", hint="give a name such as 'causal-lm', or leave it out"
        )
    plugins = plugin_manager(settings)
    check_task_overrides(overrides, plugins, task)
    if load_format == "auto":
        load_format = settings.load_format
    checkpoint = folder = None
    if isinstance(source, LlamaConfig):
        if load_format != DUMMY:
            raise InputError(
                "a LlamaConfig has no weights", hint="pass " + mention("load_format", "dummy") + " for random ones"
            )
        if revision is not None:
            raise InputError(mention("revision", revision) + " goes with a Hub repository, not with a LlamaConfig")
        name, config = "config", source.replace(**overrides) if overrides else source
    else:
        from .hub import locate

        files: Any = "config" if load_format == DUMMY else "all"
        name = str(source)
        try:
            path = locate(source, revision=revision, files=files, settings=settings).path
        except OSError as error:
            raise RegistryError(f"{name[:80]!r} cannot be looked up: {error.strerror or error}") from None
        folder = path if path.is_dir() else path.parent
        if load_format == DUMMY:
            config = _config_alone(path, plugins, overrides)
        else:
            from .checkpoint import open_checkpoint

            checkpoint = open_checkpoint(path, load_format, plugins.checkpoint_formats())
            config = checkpoint.config(**overrides)
    _warn_of_other_architectures(config)
    found = find_task(plugins, task, config)
    graph = build_graph(config, found)
    _warn_of_dropout_without_place(overrides, graph)
    config, graph, plain = _quantized(config, graph, checkpoint, settings)
    return Described(name, folder, checkpoint, config, found, graph, settings, plugins, plain)


def _quantized(
    config: LlamaConfig, graph: Graph, checkpoint: Any, settings: Settings
) -> tuple[LlamaConfig, Graph, Graph | None]:
    """Config and graph of a model that is stored quantized, or that is wanted quantized; and the plain graph."""
    if config.quantization is None and settings.quantize is None:
        return config, graph, None
    from .quantization.settings import Quantization, asks_for_group, parse_quantize
    from .quantization.transform import as_stored, plan, quantize_graph

    stored = config.quantization
    if settings.quantize is not None:
        wanted = parse_quantize(settings.quantize)
        if stored is not None and (stored.group_size, stored.bits) != (wanted.group_size, wanted.bits):
            raise UnsupportedError(
                mention("quantize", settings.quantize) + f": the weights are quantized already ({stored})",
                hint="leave " + mention("quantize") + " out, or quantize the original checkpoint",
            )
    if stored is None:
        asked = asks_for_group(settings.quantize or "")
        chosen = Quantization(group_size=wanted.group_size, bits=wanted.bits)
        chosen = plan(graph, chosen, group_is_asked_for=asked)
    else:
        chosen = as_stored(graph, stored, None if checkpoint is None else checkpoint.tensors())
    made_here = graph if stored is None or checkpoint is None else None
    return config.describing(quantization=chosen), quantize_graph(graph, chosen), made_here


def _config_alone(path: Path, plugins: Plugins, overrides: Mapping[str, Any]) -> LlamaConfig:
    """The configuration without the weights: a JSON file where there is one, else what the weights' file says."""
    beside = path.is_dir() and any((path / name).exists() for name in ("config.json", "params.json"))
    if beside or path.suffix == ".json":
        return LlamaConfig.from_pretrained(path, **overrides)
    from .checkpoint import open_checkpoint

    config: LlamaConfig = open_checkpoint(path, "auto", plugins.checkpoint_formats()).config(**overrides)
    return config


def tokenizer_of(source: Path, checkpoint: Any = None, plugins: Plugins | None = None) -> Tokenizer:
    """The tokenizer of a model: the one that its checkpoint carries, or the one in its folder.

    Args:
        source: the folder or file.
        checkpoint: the open checkpoint, where there is one; else it is opened where the folder has no tokenizer.
        plugins: who may open it.

    Raises:
        TokenizerError: there is none, or it is damaged.
    """
    from .tokenizer import load_tokenizer

    if checkpoint is None and plugins is not None and not _has_tokenizer(source):
        from .checkpoint import open_checkpoint

        checkpoint = open_checkpoint(source, "auto", plugins.checkpoint_formats())
    carried = getattr(checkpoint, "tokenizer", None)
    if carried is not None:
        tokenizer: Tokenizer = carried()
        return tokenizer
    return load_tokenizer(source if source.is_dir() or checkpoint is None else source.parent)


def _has_tokenizer(source: Path) -> bool:
    if source.is_dir():
        return any((source / name).exists() for name in ("tokenizer.model", "tokenizer.json"))
    return source.suffix in (".model", ".json")


def _warn_of_dropout_without_place(overrides: Mapping[str, Any], graph: Graph) -> None:
    """Say that a head's dropout was asked for where the head has none."""
    asked = [name for name in ("classifier_dropout", "hidden_dropout") if overrides.get(name)]
    if asked and not nodes_of_type(graph, Dropout):
        warnings.warn(
            f"{' and '.join(asked)} does nothing: the head of task {graph.task!r} has no dropout",
            PolyllamaWarning,
            stacklevel=4,
        )


def _warn_of_other_architectures(config: LlamaConfig) -> None:
    """Say which keys of the config would change what is computed if this were not run as a plain Llama."""
    set_keys = [key for key in CHANGES_THE_MODEL if config.extra.get(key)]
    if config.extra.get("use_sliding_window") is False:
        set_keys = [key for key in set_keys if key != "sliding_window"]
    if set_keys:
        warnings.warn(
            f"the config sets {', '.join(set_keys)}, which a Llama does not have; run as a plain Llama",
            PolyllamaWarning,
            stacklevel=4,
        )


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
    polyllama.core.errors.UnknownArgumentError: load has no argument 'load_fromat'; did you mean 'load_format'?
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


def load(
    source: str | Path | LlamaConfig,
    *,
    backend: str | None,
    task: str | None,
    dtype: str,
    device: str | None,
    quantize: str | None,
    revision: str | None,
    load_format: str,
    offline: bool | None,
    seed: int | None,
    fresh_head: bool,
    adapter: str | Path | None = None,
    merge_adapter: bool = False,
    config_overrides: Mapping[str, Any],
) -> Loaded:
    """See :meth:`polyllama.core.model.Llama.load`."""
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise InputError(subject("seed", seed) + f" is {seed!r}, wanted an integer from 0 up")
    settings = settings_of_call(backend=backend, device=device, dtype=dtype, quantize=quantize, offline=offline)
    described = describe(
        source,
        task=task,
        revision=revision,
        load_format=load_format,
        config_overrides=config_overrides,
        settings=settings,
    )
    choice = choose_backend(settings.backend, described.plugins.backends(), settings.device)
    _warn_of_the_reference(choice)
    _check_kv_cache(settings, choice.backend)
    options = RealizeOptions(settings.dtype, choice.device, settings.threads, settings.kv_cache)
    if adapter is not None:
        from .adapters.loading import adapted

        described, weights = adapted(
            described, settings, adapter, merge=merge_adapter, seed=seed, fresh_head=fresh_head
        )
    elif merge_adapter:
        raise InputError(
            mention("merge_adapter") + " goes with adapter", hint="give " + mention("adapter", shown="folder")
        )
    else:
        weights = weights_for(described, settings, seed=seed, fresh_head=fresh_head)
    model = choice.backend.realize(described.graph, weights, options, config=described.config, task=described.task)
    return Loaded(
        described.name,
        described.folder,
        described.config,
        described.task,
        described.graph,
        settings,
        choice,
        model,
        described.checkpoint,
    )


def _warn_of_the_reference(choice: Choice) -> None:
    """It is there to be right; whoever gets it without asking should know why, and what to do about it."""
    cpu = next((row for row in choice.considered if row.name == "cpu"), None)
    if choice.backend.name == "reference" and cpu is not None:  # among others, so nobody asked for one by name
        warnings.warn(
            f"backend 'reference' is taken, which is slow: nothing else can run here (cpu: {cpu.reason}); "
            + mention("backend", "reference")
            + " takes it without this warning",
            PolyllamaWarning,
            stacklevel=4,
        )


def _check_kv_cache(settings: Settings, backend: Any) -> None:
    """A cache's element type is obeyed or refused, never passed over."""
    known = getattr(backend, "kv_caches", ())
    if settings.kv_cache != "auto" and settings.kv_cache not in known:
        offered = f"it offers {', '.join(known)}" if known else "it offers no choice"
        hint = "leave kv_cache at auto, or take backend cpu"
        raise UnsupportedError(f"kv_cache={settings.kv_cache}: not on backend {backend.name!r}; {offered}", hint=hint)


def described_weights(folder: Path) -> tuple[Described, Mapping[str, np.ndarray]]:
    """What lies in a folder, and its weights as they are stored, for those who prepare them ahead of loading."""
    settings = load_settings().model_copy(update={"quantize": None})
    described = describe(folder, settings=settings)
    return described, weights_for(described, settings)


def weights_for(
    described: Described, settings: Settings, *, seed: int | None = None, fresh_head: bool = False
) -> Mapping[str, np.ndarray]:
    """What a backend is handed; quantized on the way where the checkpoint is not."""
    head: dict[str, Any] = {"seed": seed, "fresh_head": fresh_head}
    if described.plain_graph is None:
        return stored_weights(described, described.graph, settings, **head)
    from .quantization.weights import quantized_weights

    plain = stored_weights(described, described.plain_graph, settings, **head)
    return quantized_weights(plain, described.graph)


def stored_weights(
    described: Described, graph: Graph, settings: Settings, *, seed: int | None = None, fresh_head: bool = False
) -> Weights:
    """The tensors of a graph as the checkpoint has them, checked; or random ones."""
    from .checkpoint import check, dummy_weights, weights_from
    from .checkpoint.names import HEADS

    parameters = graph.parameters()
    config, checkpoint = described.config, described.checkpoint
    seed = seed if seed is not None else settings.seed or 0
    head = [p.name for p in parameters if p.of_head]
    if fresh_head and not head:
        raise InputError(f"fresh_head: task {described.task.name!r} has no head weights here", hint="leave it out")
    if checkpoint is None:
        dtype = config.dtype or "float32"
        if settings.dtype != "auto":
            dtype = settings.dtype
        numpy_dtype(dtype)  # an unknown name is an error here, not in the middle of a backend
        return dummy_weights(parameters, seed=seed, dtype=dtype, initializer_range=config.initializer_range)
    anew = head if fresh_head else []
    aside = {name.partition(".")[0] for name in anew}
    if described.graph.head is not None and not any(node.path for node in described.graph.head.walk()):
        aside |= set(HEADS)  # a head that holds no weights, tied ones neither, is for the trunk of any checkpoint
    weight_map = check(
        checkpoint,
        parameters,
        config=config,
        ignore=sorted(f"{name}.*" for name in aside),
        fresh=anew,
    )
    return weights_from(checkpoint, parameters, weight_map, seed=seed, initializer_range=config.initializer_range)


def find_task(plugins: Plugins, name: str | None, config: LlamaConfig) -> Task:
    """The task called `name`, or the one the checkpoint's ``architectures`` name; a language model by default.

    Raises:
        PluginError: no plugin offers it.
        CheckpointError: the checkpoint is of a task that no plugin offers.
    """
    from .hookspecs import TaskDescriptor

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
    from .hookspecs import TaskDescriptor

    return instantiate(plugins.find(TaskDescriptor, name).load())


def instantiate(task: Any) -> Task:
    """A task from its class, or as it is."""
    made: Task = task() if isinstance(task, type) else task
    return made

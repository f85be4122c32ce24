"""What a source holds, described without reading weights."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.keys import CHANGES_THE_MODEL
from ..config.schema import LlamaConfig
from ..errors import InputError, PolyllamaWarning, RegistryError, UnsupportedError
from ..graph.from_config import build_graph
from ..graph.graph import Graph, nodes_of_type
from ..graph.nodes import Dropout
from ..messages import mention, subject
from ..plugin_system.manager import Plugins, plugin_manager
from ..settings.schema import Settings, load_settings
from ..tasks.task import Task
from .tasks import check_task_overrides, find_task

if TYPE_CHECKING:
    from ..tokenizer.base import Tokenizer


DUMMY = "dummy"


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
        PolyllamaError: as :meth:`polyllama.Llama.load`.
    """
    settings = settings if settings is not None else load_settings()
    overrides = dict(config_overrides or {})
    _check_names(source, task)
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
        from ..sources.locate import locate

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
            from ..checkpoint.opening import open_checkpoint

            checkpoint = open_checkpoint(path, load_format, plugins.checkpoint_formats())
            config = checkpoint.config(**overrides)
    _warn_of_other_architectures(config)
    found = find_task(plugins, task, config)
    graph = build_graph(config, found)
    _warn_of_dropout_without_place(overrides, graph)
    config, graph, plain = _quantized(config, graph, checkpoint, settings)
    return Described(name, folder, checkpoint, config, found, graph, settings, plugins, plain)


def _check_names(source: object, task: object) -> None:
    if not isinstance(source, (str, os.PathLike, LlamaConfig)):
        raise InputError(f"a model is named by text or a path, not by a {type(source).__name__}")
    if task is not None and (not isinstance(task, str) or not task):
        raise InputError(
            subject("task", task) + f" is {task!r}", hint="give a name such as 'causal-lm', or leave it out"
        )


def _quantized(
    config: LlamaConfig, graph: Graph, checkpoint: Any, settings: Settings
) -> tuple[LlamaConfig, Graph, Graph | None]:
    """Config and graph of a model that is stored quantized, or that is wanted quantized; and the plain graph."""
    if config.quantization is None and settings.quantize is None:
        return config, graph, None
    from ..quantization.settings import Quantization, asks_for_group, parse_quantize
    from ..transforms.quantize_graph import as_stored, plan, quantize_graph

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
    from ..checkpoint.opening import open_checkpoint

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
    from ..tokenizer.llama import load_tokenizer

    if checkpoint is None and plugins is not None and not _has_tokenizer(source):
        from ..checkpoint.opening import open_checkpoint

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

"""What a source holds, described without reading weights."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.ignoring import ignore_patterns, ignoring
from ..config.keys import changes_the_model
from ..config.schema import LlamaConfig
from ..errors import ConfigError, InputError, UnsupportedError, about_model, model_at_hand, warn
from ..graph.from_config import build_graph
from ..graph.graph import Graph, nodes_of_type
from ..graph.nodes import Dropout
from ..messages import few, mention, shortened, subject
from ..plugin_system.manager import Plugins, plugin_manager
from ..settings.schema import Settings, load_settings
from ..sources.naming import check_name
from ..tasks.task import Task
from .tasks import check_task_overrides, find_task

if TYPE_CHECKING:
    from ..checkpoint.protocol import Checkpoint
    from ..quantization.torchao import TorchAoConfig
    from ..sources.access import HubAccess
    from ..sources.entry import RegistryEntry
    from ..tokenizer.tokenizer import Tokenizer


DUMMY = "dummy"


@dataclass(frozen=True)
class Described:
    """A model whose weights have not been touched yet.

    Attributes:
        name: what the user called it.
        folder: where its files are; ``None`` for a model made from a config alone.
        checkpoint: the open checkpoint, ``None`` for dummy weights.
        plain_graph: where weights are quantized on the way, the graph of what they are made from.
        tokenizer_folder: where the tokenizer is, if not with the model: an adapter's that changes the vocabulary.
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
    tokenizer_folder: Path | None = None


def describe(
    source: str | Path | LlamaConfig,
    *,
    task: str | None = None,
    revision: str | None = None,
    load_format: str = "auto",
    config_overrides: Mapping[str, Any] | None = None,
    ignore: Any = None,
    settings: Settings | None = None,
    config: LlamaConfig | None = None,
    access: HubAccess | None = None,
    torchao: TorchAoConfig | None = None,
) -> Described:
    """Everything about a model short of its weights: config, task and graph.

    Args:
        config: instead of the checkpoint's own.
        access: how the Hub is asked.
        torchao: what ``settings.quantize`` was said in, which also says what is left plain.

    Raises:
        PolyllamaError: as :meth:`polyllama.Llama.load`.
    """
    settings = settings if settings is not None else load_settings()
    overrides = dict(config_overrides or {})
    patterns = ignore_patterns(ignore)
    _check_names(source, task)
    config = _own_config(config)
    plugins = plugin_manager(settings)
    check_task_overrides(overrides, plugins, task)
    if load_format == "auto":
        load_format = settings.load_format
    dummy = load_format == DUMMY
    _check_weights_are_read(dummy or isinstance(source, LlamaConfig), patterns if dummy else (), config)
    checkpoint = folder = None
    if isinstance(source, LlamaConfig):
        _check_config_alone(dummy, revision)
        name, config = "config", source.replace(**overrides) if overrides else source
    else:
        name = str(source)
        path, entry = _located(source, revision, "config" if dummy else "all", settings, access)
        settings = settings if entry is None else entry.preferring(settings)
        folder = path if path.is_dir() else path.parent
        if dummy:
            config = _config_alone(path, plugins, overrides)
        else:
            checkpoint = ignoring(_open(path, load_format, plugins), patterns)
            config = checkpoint.config(**overrides) if config is None else _instead(checkpoint, config, overrides)
    _warn_of_other_architectures(config)
    found = find_task(plugins, task, config)
    graph = build_graph(config, found)
    _warn_of_dropout_without_place(overrides, graph)
    config, graph, plain = _quantized(config, graph, checkpoint, settings, torchao)
    return Described(name, folder, checkpoint, config, found, graph, settings, plugins, plain)


def _instead(checkpoint: Any, config: LlamaConfig, overrides: Mapping[str, Any]) -> LlamaConfig:
    """A config given for a checkpoint's own, which still says how the weights are stored and what head they have."""
    stored = None
    with contextlib.suppress(ConfigError):  # what is wrong with it does not matter: it is not used
        stored = checkpoint.config()
    config = config.replace(**overrides) if overrides else config
    if stored is None:
        return config
    return config.describing(
        dtype=config.dtype or stored.dtype,
        architectures=config.architectures or stored.architectures,
        quantization=stored.quantization,
    )


def _check_names(source: object, task: object) -> None:
    if not isinstance(source, LlamaConfig):
        check_name(source)
    if task is not None and (not isinstance(task, str) or not task):
        raise InputError(
            subject("task", task) + f" is {task!r}", hint="give a name such as 'causal-lm', or leave it out"
        )


def _own_config(config: Any) -> LlamaConfig | None:
    if config is None or isinstance(config, LlamaConfig):
        return config
    from .documented import config_of

    return config_of(config)


def _check_weights_are_read(none: bool, patterns: Sequence[str], config: LlamaConfig | None) -> None:
    """Refuse what is about stored weights where none are read."""
    if patterns:
        raise InputError(
            mention("ignore", list(patterns))
            + " is about weights; with "
            + mention("load_format", DUMMY)
            + " none are read",
            hint="leave one of them out",
        )
    if none and config is not None:
        raise InputError(mention("config") + " goes with stored weights", hint="give the config in the model's place")


def _open(path: Path, load_format: str, plugins: Plugins) -> Checkpoint:
    from ..checkpoint.opening import open_checkpoint

    return open_checkpoint(path, load_format, plugins.checkpoint_formats())


def _check_config_alone(dummy: bool, revision: str | None) -> None:
    if not dummy:
        raise InputError(
            "a LlamaConfig has no weights", hint="pass " + mention("load_format", DUMMY) + " for random ones"
        )
    if revision is not None:
        raise InputError(mention("revision", revision) + " goes with a Hub repository, not with a LlamaConfig")


def _located(
    source: str | Path, revision: str | None, files: Any, settings: Settings, access: HubAccess | None
) -> tuple[Path, RegistryEntry | None]:
    from ..sources.locate import locate

    found = locate(source, revision=revision, files=files, settings=settings, access=access)
    return found.path, found.entry


def _quantized(
    config: LlamaConfig, graph: Graph, checkpoint: Any, settings: Settings, torchao: TorchAoConfig | None
) -> tuple[LlamaConfig, Graph, Graph | None]:
    """Config and graph of a model that is stored quantized, or that is wanted quantized; and the plain graph."""
    if config.quantization is None and settings.quantize is None:
        return config, graph, None
    from ..quantization.scheme import Quantization, asks_for_group, parse_quantize
    from ..transforms.quantize_graph import as_stored, left_plain, plan, quantize_graph

    stored = config.quantization
    if stored is not None:
        stored = as_stored(graph, stored, None if checkpoint is None else checkpoint.tensors())
    if stored is None and settings.quantize is None:
        return config.describing(quantization=None), graph, None
    if settings.quantize is not None:
        wanted = parse_quantize(settings.quantize)
        if stored is not None and (stored.group_size, stored.bits) != (wanted.group_size, wanted.bits):
            raise UnsupportedError(
                mention("quantize", settings.quantize) + f": the weights are quantized already ({stored})",
                hint="leave " + mention("quantize") + " out, or quantize the original checkpoint",
            )
    if stored is None:
        asked = torchao is None and asks_for_group(settings.quantize or "")
        plain = {} if torchao is None else left_plain(graph, torchao)
        chosen = Quantization(group_size=wanted.group_size, bits=wanted.bits, modules=plain)
        chosen = plan(graph, chosen, group_is_asked_for=asked)
    else:
        chosen = stored
    made_here = graph if stored is None or checkpoint is None else None
    return config.describing(quantization=chosen), quantize_graph(graph, chosen), made_here


def _config_alone(path: Path, plugins: Plugins, overrides: Mapping[str, Any]) -> LlamaConfig:
    """The configuration without the weights: a JSON file where there is one, else what the weights' file says."""
    beside = path.is_dir() and any((path / name).exists() for name in ("config.json", "params.json"))
    if beside or path.suffix == ".json":
        from ..checkpoint.huggingface.leftover import leftover_quantization
        from ..config.files import find_config, read_json_object

        file = find_config(path)
        said = leftover_quantization(read_json_object(file), None, str(file))
        return LlamaConfig.from_pretrained(path, **{**said, **overrides})
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
    from ..tokenizer.llama_tokenizer import load_tokenizer

    if checkpoint is None and plugins is not None and not has_tokenizer(source):
        from ..checkpoint.opening import open_checkpoint

        checkpoint = open_checkpoint(source, "auto", plugins.checkpoint_formats())
    carried = getattr(checkpoint, "tokenizer", None)
    with about_model(model_at_hand() or str(source)):
        if carried is not None:
            tokenizer: Tokenizer = carried()
            return tokenizer
        return load_tokenizer(source if source.is_dir() or checkpoint is None else source.parent)


def has_tokenizer(source: Path) -> bool:
    """Whether a tokenizer's files lie in a folder, or the file is one."""
    if source.is_dir():
        return any((source / name).exists() for name in ("tokenizer.model", "tokenizer.json"))
    return source.suffix in (".model", ".json")


def _warn_of_dropout_without_place(overrides: Mapping[str, Any], graph: Graph) -> None:
    """Say that a head's dropout was asked for where the head has none."""
    asked = [name for name in ("classifier_dropout", "hidden_dropout") if overrides.get(name)]
    if asked and not nodes_of_type(graph, Dropout):
        warn(f"{' and '.join(asked)} does nothing: the head of task {graph.task!r} has no dropout")


def _warn_of_other_architectures(config: LlamaConfig) -> None:
    """Say which keys of the config would change what is computed if this were not run as a plain Llama."""
    set_keys = changes_the_model(config.extra)
    if set_keys:
        warn(f"the config sets {', '.join(set_keys)}, which a Llama does not have; run as a plain Llama")
    for key in ("auto_map", "custom_pipelines"):
        code = config.extra.get(key)
        if code:
            named = few(sorted(set(map(str, code.values()))), 3) if isinstance(code, Mapping) else shortened(repr(code))
            warn(f"the config names code of its own ({key}: {named}), which is not run; run as a plain Llama")

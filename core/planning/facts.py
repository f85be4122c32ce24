"""Where a plan's facts come from: the headers on this machine, those on the Hub, or what the registry knows."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.ignoring import ignoring, split_ignored
from ..config.schema import LlamaConfig
from ..errors import CheckpointError, ConfigError, DownloadError, PolyllamaWarning, UnsupportedError
from ..graph.from_config import build_graph
from ..graph.graph import Graph
from ..loading.tasks import check_task_overrides, find_task
from ..plugin_system.manager import Plugins, plugin_manager
from ..tasks.task import Task

if TYPE_CHECKING:
    from ..checkpoint.protocol import TensorInfo
    from ..settings.schema import Settings
    from ..sources.entry import RegistryEntry
    from ..sources.locate import Interpretation

REGISTRY_DTYPE = "bfloat16"
"""What weights are taken to be stored in where only their number is known."""


@dataclass(frozen=True)
class Facts:
    """What is known of a model without its weights.

    Attributes:
        known_from: ``"files"`` (local headers), ``"headers"`` (the Hub's), ``"config"`` or ``"registry"``.
        graph: the graph as it is stored; quantized where the checkpoint is.
        tensors: what is stored, by stored name; ``None`` where that is not known.
        mapped: whether the weights would be mapped from files.
        notes: what a reader should know.
        opened: the open checkpoint, or the remote one, where there is one.
        entry: the registry's, where it was asked for by a name.
    """

    name: str
    known_from: str
    config: LlamaConfig
    task: Task
    graph: Graph
    tensors: Mapping[str, TensorInfo] | None
    plugins: Plugins
    mapped: bool = True
    notes: list[str] = field(default_factory=list)
    opened: Any = None
    entry: RegistryEntry | None = None

    @property
    def stored_dtype(self) -> str:
        """The dtype that most of the weights are stored in."""
        if self.tensors is None:
            return self.config.dtype or REGISTRY_DTYPE
        from ..checkpoint.weights import Weights

        def unread() -> Any:
            raise CheckpointError("only the header is read")

        return Weights((info, unread) for info in self.tensors.values()).dtype


def find_facts(
    source: str | Path | LlamaConfig,
    *,
    task: str | None,
    revision: str | None,
    overrides: Mapping[str, Any],
    settings: Settings,
    ignore: Sequence[str] = (),
    arguments: Iterable[str] = (),
) -> Facts:
    """What is known of `source`; nothing is downloaded but a configuration and headers, and those only when online.

    Args:
        overrides: fields of the configuration; `arguments` are what else the caller takes, to suggest.

    Raises:
        PolyllamaError: nothing is known under that name.
    """
    plugins = plugin_manager(settings)
    check_task_overrides(overrides, plugins, task, function="plan", arguments=arguments)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", PolyllamaWarning)
        if isinstance(source, LlamaConfig):
            config = source.replace(**overrides) if overrides else source
            facts = _facts("config", "config", config, None, task, plugins, mapped=False)
        else:
            from ..sources.locate import at_revision, interpret

            meaning = at_revision(interpret(source, settings=settings), revision)
            facts = _named(source, meaning, task, revision, overrides, settings, plugins, ignore)
            facts = replace(facts, entry=meaning.entry)
    facts.notes.extend(dict.fromkeys(str(w.message) for w in said if issubclass(w.category, PolyllamaWarning)))
    return facts


def _facts(
    name: str,
    known_from: str,
    config: LlamaConfig,
    tensors: Mapping[str, TensorInfo] | None,
    task: str | None,
    plugins: Plugins,
    **more: Any,
) -> Facts:
    found = find_task(plugins, task, config)
    graph = build_graph(config, found)
    if config.quantization is not None:
        from ..transforms.quantize_graph import as_stored, quantize_graph

        stored = as_stored(graph, config.quantization, tensors)
        if stored is None:
            config = config.describing(quantization=None)
        else:
            graph = quantize_graph(graph, stored)
    return Facts(name, known_from, config, found, graph, tensors, plugins, **more)


def _named(
    source: str | Path,
    meaning: Interpretation,
    task: str | None,
    revision: str | None,
    overrides: Mapping[str, Any],
    settings: Settings,
    plugins: Plugins,
    ignore: Sequence[str],
) -> Facts:
    from ..sources.locate import locate

    name = str(source)
    if meaning.repo_id is None:  # on this machine, or nowhere: then locate says what would bring it
        path = locate(source, settings=settings).path
        return _local(name, path, task, overrides, plugins, ignore)
    try:
        cached = locate(source, revision=revision, settings=settings.model_copy(update={"offline": True})).path
        return _local(name, cached, task, overrides, plugins, ignore)
    except DownloadError:
        pass  # not in the cache, or not all of it
    reason = "offline"
    if not settings.offline:
        from ..checkpoint.huggingface.leftover import leftover_quantization
        from ..checkpoint.huggingface.remote import read_remote

        try:
            remote = read_remote(meaning.repo_id, revision or meaning.revision)
            tensors, ignored = split_ignored(remote.tensors, ignore, meaning.repo_id)
            remote = replace(remote, tensors=tensors, ignored=ignored)
            where = f"{meaning.repo_id}/config.json"
            said = leftover_quantization(remote.config, remote.tensors, where)
            config = LlamaConfig.from_dict(remote.config, source=where, **{**said, **overrides})
            facts = _facts(name, "headers", config, remote.tensors, task, plugins, opened=remote)
            facts.notes.append(f"{remote.received:,} bytes of headers read from the Hub, nothing downloaded")
            return facts
        except DownloadError as error:
            reason = error.message
            if meaning.entry is None or meaning.entry.config is None:
                raise
    return _registered(name, meaning.entry, reason, task, overrides, plugins)


def _registered(
    name: str,
    entry: RegistryEntry | None,
    reason: str,
    task: str | None,
    overrides: Mapping[str, Any],
    plugins: Plugins,
) -> Facts:
    """What the registry knows of a model by itself; `reason` says why there is nothing better."""
    if entry is None or entry.config is None:
        raise DownloadError(
            f"{name}: nothing is known of it ({reason}): it is not in the cache, and the registry has no sizes",
            hint="plan it once while online, or give the path of its config.json",
        )
    fields = entry.config.as_fields()
    if entry.context is not None:
        fields["max_position_embeddings"] = entry.context
    config = LlamaConfig.from_dict(
        {"dtype": REGISTRY_DTYPE, **fields}, source=f"the registry's entry {entry.name!r}", **overrides
    )
    facts = _facts(name, "registry", config, None, task, plugins)
    facts.notes.append(
        f"from the registry's sizes alone ({reason}); weights are taken to be stored in {REGISTRY_DTYPE}"
    )
    return facts


def _local(
    name: str, path: Path, task: str | None, overrides: Mapping[str, Any], plugins: Plugins, ignore: Sequence[str]
) -> Facts:
    """Headers and configuration of a folder or file; of a configuration alone where there is nothing else."""
    from ..checkpoint.opening import open_checkpoint

    if path.name == "config.json" or path.name == "params.json":
        return _facts(name, "config", LlamaConfig.from_pretrained(path, **overrides), None, task, plugins)
    try:
        checkpoint = ignoring(open_checkpoint(path, "auto", plugins.checkpoint_formats()), ignore)
    except CheckpointError as error:
        if not path.is_dir() or any(path.glob("*.safetensors*")):
            raise
        try:
            config = LlamaConfig.from_pretrained(path, **overrides)
        except ConfigError:
            raise error from None
        facts = _facts(name, "config", config, None, task, plugins)
        facts.notes.append(f"from the configuration alone: {error.message}")
        return facts
    config = checkpoint.config(**overrides)
    try:
        return _facts(name, "files", config, checkpoint.tensors(), task, plugins, opened=checkpoint)
    except UnsupportedError as error:
        raise CheckpointError(f"{path}: {error.message}", hint=error.hint) from None

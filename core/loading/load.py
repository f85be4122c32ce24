"""From a name to a running model: name -> checkpoint -> config -> graph -> weights -> backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backend.choice import ALIASES, AUTO, Choice, choose_backend
from ..backend.protocol import Model, RealizeOptions
from ..config.schema import LlamaConfig
from ..errors import (
    InputError,
    TokenizerError,
    UnsupportedError,
    about_model,
    warn,
)
from ..graph.graph import Graph
from ..messages import mention, subject
from ..plugin_system.manager import plugin_manager
from ..settings.files import DEFAULT
from ..settings.schema import Settings, load_settings, settings_of_call
from ..tasks.task import Task
from .attention import attention_asked_for
from .describe import Described, describe, tokenizer_of
from .ownership import BuiltModel
from .read_weights import weights_for

if TYPE_CHECKING:
    import numpy as np

    from ..quantization.torchao import TorchAoConfig
    from ..sources.access import HubAccess
    from ..tokenizer.tokenizer import Tokenizer


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
    tokenizer_folder: Path | None = None
    attention: str | None = None

    @classmethod
    def of(
        cls, described: Described, settings: Settings, choice: Choice, model: Model, attention: str | None = None
    ) -> Loaded:
        """A described model that `choice` made into `model`."""
        return cls(
            described.name,
            described.folder,
            described.config,
            described.task,
            described.graph,
            settings,
            choice,
            model,
            described.checkpoint,
            described.tokenizer_folder,
            attention,
        )

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer that goes with it, read anew.

        Raises:
            TokenizerError: there is none, or it is damaged.
        """
        if self.folder is None:
            raise TokenizerError("a model made from a config alone has no tokenizer", hint="give token ids")
        if self.tokenizer_folder is not None:
            return tokenizer_of(self.tokenizer_folder)
        return tokenizer_of(self.folder, self.checkpoint)


@dataclass(frozen=True)
class Lora:
    """The adapters that are asked for, as of :meth:`polyllama.Llama.load`.

    Attributes:
        adapter: the folder of one that all rows have; `merge`: whether it is added into the weights.
        by_row: names and folders of those among which each row chooses.
    """

    adapter: str | Path | None = None
    merge: bool = False
    by_row: Mapping[str, str | Path] | None = None


def load(
    source: str | Path | LlamaConfig,
    *,
    backend: str | None,
    task: str | None,
    dtype: str,
    device: str | None,
    quantize: str | TorchAoConfig | None,
    revision: str | None,
    load_format: str,
    offline: bool | None,
    seed: int | None,
    fresh_head: bool,
    lora: Lora | None = None,
    ignore: Any = None,
    prefers: str | None = None,
    attn_implementation: Any = None,
    config: LlamaConfig | None = None,
    ignore_mismatched_sizes: bool = False,
    access: HubAccess | None = None,
    config_overrides: Mapping[str, Any],
) -> Loaded:
    """See :meth:`polyllama.Llama.load`; `prefers` is the backend to take where none is asked for."""
    check_seed(seed)
    torchao, quantize = (None, quantize) if quantize is None or isinstance(quantize, str) else _torchao(quantize)
    settings = settings_of_call(backend=backend, device=device, dtype=dtype, quantize=quantize, offline=offline)
    head = {"seed": seed, "fresh_head": fresh_head, "ignore_mismatched_sizes": ignore_mismatched_sizes}
    with about_model(None if isinstance(source, LlamaConfig) else str(source)):
        described = describe(
            source,
            task=task,
            revision=revision,
            load_format=load_format,
            config_overrides=config_overrides,
            ignore=ignore,
            settings=settings,
            config=config,
            access=access,
            torchao=torchao,
        )
        settings = described.settings  # what a name stands for may say the dtype
        choice = _choice(settings, described, prefers)
        _warn_of_the_reference(choice)
        options = _options(settings, choice, attn_implementation)
        described, weights = _weights(described, settings, lora or Lora(), head)
        loaded = _realized(described, settings, choice, options, weights)
    if isinstance(source, LlamaConfig):
        source._models.add(loaded.config)
    return loaded


def _options(settings: Settings, choice: Choice, attn_implementation: Any) -> RealizeOptions:
    """How the backend is asked to realize the graph.

    Raises:
        UnsupportedError: something that the backend does not offer.
    """
    _check_kv_cache(settings, choice.backend)
    attention = attention_asked_for(attn_implementation, choice.backend)
    return RealizeOptions(settings.dtype, choice.device, settings.threads, settings.kv_cache, attention)


def _realized(
    described: Described, settings: Settings, choice: Choice, options: RealizeOptions, weights: Mapping[str, Any]
) -> Loaded:
    """The model made, with a config of its own."""
    described = with_own_config(described, options.attn_implementation)
    model = choice.backend.realize(described.graph, weights, options, config=described.config, task=described.task)
    if described.graph.adapters and not getattr(model, "adapts_rows", False):
        raise UnsupportedError(
            f"backend {choice.backend.name!r} cannot give the rows of a batch different adapters",
            hint="load one with " + mention("adapter", shown="folder") + ", or take another backend",
        )
    return Loaded.of(described, settings, choice, model, options.attn_implementation)


def with_own_config(described: Described, attention: str | None = None) -> Described:
    """The model with a copy of its config, so that models made from one config do not change each other's."""
    config = described.config.owned(BuiltModel(described.task))
    if described.folder is not None:
        config.update({"name_or_path": described.name})
    if attention is not None:
        config._attn_implementation = attention
    return replace(described, config=config)


def _weights(
    described: Described, settings: Settings, lora: Lora, head: Mapping[str, Any]
) -> tuple[Described, Mapping[str, np.ndarray]]:
    """What a backend is handed, and the model as it is with its adapter or adapters."""
    if lora.by_row is not None:
        if lora.adapter is not None or lora.merge:
            given = mention("adapter") if lora.adapter is not None else mention("merge_adapter")
            raise InputError(
                mention("adapters") + " and " + given + " do not go together",
                hint="adapters are for rows that choose among them, adapter for all rows",
            )
        from .adapters import with_adapters

        return with_adapters(described, settings, lora.by_row, **head)
    if lora.adapter is not None:
        from .adapter import adapted

        return adapted(described, settings, lora.adapter, merge=lora.merge, **head)
    if lora.merge:
        raise InputError(
            mention("merge_adapter") + " goes with adapter", hint="give " + mention("adapter", shown="folder")
        )
    return described, weights_for(described, settings, **head)


def asked_backend(backend: str | None = None) -> str | None:
    """Name of the backend that a call, a file or the environment asks for, ``None`` where nobody does.

    Of ``"auto"``, the one that it comes to; of ``"torch:cuda"`` the part without the device.

    >>> asked_backend("torch:cpu")
    'torch'
    """
    settings = load_settings(backend=backend)
    if settings.provenance["backend"] == DEFAULT:
        return None
    name = ALIASES.get(settings.backend, settings.backend)
    if name == AUTO:
        return choose_backend(name, plugin_manager(settings).backends(), settings.device).backend.name
    return name.partition(":")[0]


def _choice(settings: Settings, described: Described, prefers: str | None) -> Choice:
    """The backend that is asked for, else the one to prefer, else the best that can run here."""
    if settings.provenance["backend"] != DEFAULT:
        prefers = None
    return choose_backend(settings.backend, described.plugins.backends(), settings.device, prefers=prefers)


def _torchao(quantize: Any) -> tuple[TorchAoConfig, str]:
    """A config in torchao's words, and the text that says as much of it as one can."""
    from ..quantization.torchao import TorchAoConfig

    if not isinstance(quantize, TorchAoConfig):
        raise UnsupportedError(mention("quantize", quantize, limit=80) + " is not known", hint="use int4, int8")
    return quantize, quantize.quantize


def check_seed(seed: object, most: int | None = None) -> None:
    """Refuse a seed of random weights that is none.

    Raises:
        InputError: it is no whole number from 0 up, or above `most`.
    """
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise InputError(subject("seed", seed) + f" is {seed!r}, wanted an integer from 0 up")
    if most is not None and isinstance(seed, int) and seed > most:
        raise InputError(subject("seed", seed) + f" is {seed}, at most {most:,} is taken")


def _warn_of_the_reference(choice: Choice) -> None:
    """It is there to be right; whoever gets it without asking should know why, and what to do about it."""
    cpu = next((row for row in choice.considered if row.name == "cpu"), None)
    if choice.backend.name == "reference" and cpu is not None:  # among others, so nobody asked for one by name
        warn(
            f"backend 'reference' is taken, which is slow: nothing else can run here (cpu: {cpu.reason}); "
            + mention("backend", "reference")
            + " takes it without this warning"
        )


def _check_kv_cache(settings: Settings, backend: Any) -> None:
    """A cache's element type is obeyed or refused, never passed over."""
    known = getattr(backend, "kv_caches", ())
    if settings.kv_cache != "auto" and settings.kv_cache not in known:
        offered = f"it offers {', '.join(known)}" if known else "it offers no choice"
        hint = "leave kv_cache at auto, or take backend cpu"
        raise UnsupportedError(f"kv_cache={settings.kv_cache}: not on backend {backend.name!r}; {offered}", hint=hint)

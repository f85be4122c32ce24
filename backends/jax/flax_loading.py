"""How the Flax names come to a model: from a configuration without parameters, or loaded and laid out over devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.api.llama import Llama
from ...core.backend.choice import choose_backend
from ...core.config.schema import LlamaConfig
from ...core.errors import InputError
from ...core.loading.describe import DUMMY, describe
from ...core.loading.documented import device_of_map
from ...core.loading.load import Loaded, with_own_config
from ...core.machine.devices import numbered_device
from ...core.settings.schema import settings_of_call
from .arrays import dtype_of, find_device
from .flax_params import placed_everywhere, several_devices
from .model import JaxModel


def without_params(config: LlamaConfig, task: str, dtype: str, backend: str, options: Mapping[str, Any]) -> Llama:
    """A model of a configuration whose parameters are yet to be made; it takes them in every call.

    Args:
        options: ``device``; fields of the configuration to change.
    """
    if not isinstance(config, LlamaConfig):
        raise InputError(f"config is a {type(config).__name__}, wanted a LlamaConfig")
    dtype_of(dtype)
    overrides = dict(options)
    device = overrides.pop("device", None)
    settings = settings_of_call(backend=backend, device=device, dtype=dtype, quantize=None, offline=None)
    described = with_own_config(
        describe(config, task=task, load_format=DUMMY, config_overrides=overrides, settings=settings)
    )
    config._models.add(described.config)
    choice = choose_backend(settings.backend, described.plugins.backends(), settings.device)
    place = find_device(choice.device)
    model = JaxModel(described.graph, described.config, described.task, {}, dtype, place)
    return Llama(Loaded.of(described, settings, choice, model))


def load(source: str | Path, task: str, dtype: str, backend: str, device_map: Any, options: Mapping[str, Any]) -> Llama:
    """A model with its parameters; with ``device_map="auto"`` over all devices, where there are several."""
    asked = {name: value for name, value in options.items() if name != "from_pt"}  # such files are read anyway
    spread = device_map == "auto" and several_devices()
    device = _device(device_map)
    if device_map is not None:
        if asked.get("device") is not None or ":" in backend:
            raise InputError("device_map and a device are both given", hint="give one of them")
        asked["device"] = "cpu" if spread else device
    llm = Llama.from_pretrained(source, backend=backend, task=task, dtype=dtype, **asked)
    if spread:  # read into the host's memory, so that no device ever holds the whole
        model: JaxModel = llm.model  # type: ignore[assignment]
        model.params = placed_everywhere(model.params, llm.graph)
    return llm


def _device(device_map: Any) -> str | None:
    """The one device that a map names; ``None`` for JAX's best."""
    if isinstance(device_map, int) and not isinstance(device_map, bool):
        return numbered_device(device_map, "jax")
    found = device_of_map(device_map)
    return None if found is None else str(found)

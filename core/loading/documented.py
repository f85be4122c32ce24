"""``from_pretrained``'s keywords as the documents have them, turned into those of ``Llama.load``.

Each documented keyword has one rule: it is handed on, says what something else here says, means nothing at its usual
value, or is refused with the reason. So none of them is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..arguments import meant
from ..config.loader_arguments import NEUTRAL, REFUSED
from ..config.schema import LlamaConfig
from ..errors import InputError, UnknownArgumentError, UnsupportedError, warn
from ..machine.devices import numbered_device, plain_device
from ..messages import counted, in_quotes, mention, subject
from .tasks import LOAD_ARGUMENTS, known_overrides

Arguments = dict[str, Any]


def load_arguments(options: Mapping[str, Any]) -> Arguments:
    """The keywords of ``Llama.load`` that say what documented ones do; those of ``load`` itself stay as they are.

    Raises:
        InputError: a value that is wrong, or two keywords that contradict each other.
        UnsupportedError: something that is not offered, with the reason.

    >>> load_arguments({"torch_dtype": "float16", "device_map": {"": "cpu"}, "low_cpu_mem_usage": True})
    {'dtype': 'float16', 'device': 'cpu'}
    """
    left = dict(options)
    made: Arguments = {}
    for name, rule in _RULES.items():
        if name in left:
            for argument, value in rule(left.pop(name)).items():
                if argument in made or left.get(argument) is not None:
                    raise InputError(mention(argument) + f" and {name} are both given", hint=f"give {argument}")
                left.pop(argument, None)
                made[argument] = value
    for name in [name for name in left if name in NEUTRAL]:
        value = left.pop(name)
        if not any(value is usual or value == usual for usual in NEUTRAL[name]):
            raise UnsupportedError(mention(name, value, limit=80) + " is not offered", hint=REFUSED[name])
    for name in _FLAGS:
        if name in left and left[name] is None:
            del left[name]
    _check_names(left)
    return {**left, **made}


def _check_names(left: Mapping[str, Any]) -> None:
    """Answer a misspelt documented keyword with the right one; ``load`` answers the others."""
    known = {*LOAD_ARGUMENTS, *known_overrides()}
    documented = [*_RULES, *NEUTRAL]
    for name in left:
        likely = None if name in known else meant(name, [*documented, *sorted(known)], cutoff=0.8)
        if likely in documented:
            advice = "did you mean " + in_quotes(likely) + "?"
            raise UnknownArgumentError(name, function="from_pretrained", advice=advice)


def is_of_loading(name: str) -> bool:
    """Whether a keyword is one that loading takes or refuses by name; any other is somebody else's."""
    return name in LOAD_ARGUMENTS or name in known_overrides() or name in _RULES or name in NEUTRAL


def device_of_map(device_map: Any) -> Any:
    """The one device that a ``device_map`` names; ``None`` for ``"auto"``, the backend's best.

    >>> device_of_map({"": 0}), device_of_map("auto"), device_of_map("cpu")
    ('cuda:0', None, 'cpu')
    """
    if isinstance(device_map, Mapping):
        named = {str(_device(device)) for device in device_map.values()}
        if len(named) != 1:
            raise UnsupportedError(
                mention("device_map", device_map, limit=80)
                + f" names {counted(len(named), 'device')}: a model runs on one so far",
                hint="several come later; give one, such as " + mention("device_map", "cuda:0"),
            )
        return device_of_map(named.pop())
    device = _device(device_map)
    if device in ("balanced", "balanced_low_0", "sequential"):
        raise UnsupportedError(
            mention("device_map", device) + " spreads a model over several devices, which comes later",
            hint="use " + mention("device_map", "auto") + " for the best device",
        )
    if device in ("disk", "meta"):
        raise UnsupportedError(
            mention("device_map", device) + ": weights stay on the device that computes with them",
            hint="use " + mention("device_map", "auto"),
        )
    return None if device in (None, "auto") else device


def _device(device: Any) -> str | None:
    if device is None:
        return None
    if isinstance(device, bool) or (isinstance(device, int) and device < 0):
        raise InputError(subject("device_map", device) + f" is {device!r}", hint="give 'auto', 'cpu' or 'cuda:0'")
    return numbered_device(device) if isinstance(device, int) else plain_device(str(device))


def _dtype(value: Any) -> Arguments:
    if isinstance(value, Mapping):
        raise UnsupportedError(
            mention("dtype", value, limit=80) + ": a model has one dtype", hint="give " + mention("dtype", "bfloat16")
        )
    return {} if value is None else {"dtype": value}


def _device_map(value: Any) -> Arguments:
    device = device_of_map(value)
    return {} if device is None else {"device": device}


def _quantization_config(value: Any) -> Arguments:
    from ..quantization.torchao import asked_for

    return {} if value is None else {"quantize": asked_for(value)}


def _bits(bits: int) -> Callable[[Any], Arguments]:
    def rule(value: Any) -> Arguments:
        if not value:
            return {}
        raise UnsupportedError(
            mention(f"load_in_{bits}bit", value) + " is of bitsandbytes, which is not used",
            hint="use " + mention("quantize", f"int{bits}"),
        )

    return rule


def _use_safetensors(value: Any) -> Arguments:
    if value is None:
        return {}
    if not isinstance(value, bool):
        raise InputError(subject("use_safetensors", value) + f" is {value!r}, wanted True, False or None")
    return {"load_format": "huggingface" if value else "pytorch"}


def _local_files_only(value: Any) -> Arguments:
    from ..sources.access import local_only

    offline = local_only(None, value)
    return {} if offline is None else {"offline": offline}


def _trust_remote_code(value: Any) -> Arguments:
    if value:
        warn("trust_remote_code=True has no effect: code of a checkpoint is never run, and a Llama needs none")
    return {}


def _config(value: Any) -> Arguments:
    return {} if value is None else {"config": config_of(value)}


def config_of(value: Any) -> LlamaConfig:
    """A configuration from polyllama's, transformers' (through its ``to_dict``), a dictionary or a path."""
    if isinstance(value, LlamaConfig):
        return value
    if isinstance(value, Mapping):
        return LlamaConfig.from_dict(value, source="config")
    if callable(getattr(value, "to_dict", None)):
        return LlamaConfig.from_dict(value.to_dict(), source=type(value).__name__)
    if isinstance(value, str) or hasattr(value, "__fspath__"):
        return LlamaConfig.from_pretrained(value)
    raise InputError(f"config is a {type(value).__name__}", hint="give a LlamaConfig, or the path of a config.json")


def _low_cpu_mem_usage(value: Any) -> Arguments:
    """Nothing: weights are mapped, so there never is a second copy of them."""
    if value is not None and not isinstance(value, bool):
        raise InputError(subject("low_cpu_mem_usage", value) + f" is {value!r:.60}, wanted True, False or None")
    return {}


def _flash(value: Any) -> Arguments:
    return {"attn_implementation": "flash_attention_2"} if value else {}


_FLAGS = ("output_hidden_states", "output_attentions", "return_dict", "use_cache")
"""Fields of the config; ``None`` leaves them as they are."""

_RULES: dict[str, Callable[[Any], Arguments]] = {
    "dtype": _dtype,
    "torch_dtype": _dtype,
    "device_map": _device_map,
    "quantization_config": _quantization_config,
    "load_in_8bit": _bits(8),
    "load_in_4bit": _bits(4),
    "use_safetensors": _use_safetensors,
    "local_files_only": _local_files_only,
    "trust_remote_code": _trust_remote_code,
    "config": _config,
    "use_flash_attention_2": _flash,
    "use_return_dict": lambda value: {} if value is None else {"return_dict": value},
    "low_cpu_mem_usage": _low_cpu_mem_usage,
}

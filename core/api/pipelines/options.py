"""Options of pipelines by their documented names: which are for loading, which for calls, which there are none of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...errors import InputError, UnsupportedError
from ...machine.devices import numbered_device, plain_device
from ...messages import closest, mention, subject
from ..llama import Llama

SPELLINGS = {"max_seq_len": "max_length", "topk": "top_k", "torch_dtype": "dtype"}
"""Older names of options."""

INSTEAD = {
    "args_parser": "give the arguments to the call itself",
    "assistant_tokenizer": "assisted decoding comes with a later release",
    "binary_output": "results are plain data: pickle.dump writes them",
    "feature_extractor": "a Llama reads texts alone",
    "grouped_entities": "aggregation_strategy='simple' puts tokens together",
    "ignore_subwords": "aggregation_strategy='first' decides by a word's first token",
    "image_processor": "a Llama reads texts alone",
    "max_question_len": "questions are never cut",
    "pipeline_class": "a plugin's task is found by its name; see docs/plugins.md",
    "processor": "a Llama reads texts alone",
    "return_type": "return_full_text=False gives the new text alone, return_tensors=True its ids",
    "tokenizer_kwargs": "give truncation=True and max_length=... themselves",
}
"""Options of transformers' pipelines that there are none of here, and what to do."""

FRAMEWORKS = {"pt": "torch", "torch": "torch", "flax": "jax", "jax": "jax", "mlx": "mlx"}
"""The backend that ``framework=`` names."""

DOCUMENTED = frozenset(
    {
        *("attn_implementation", "cache_dir", "config", "device_map", "force_download", "ignore_mismatched_sizes"),
        *("local_files_only", "low_cpu_mem_usage", "max_memory", "output_attentions", "output_hidden_states"),
        *("quantization_config", "subfolder", "token", "trust_remote_code", "use_auth_token", "use_safetensors"),
    }
)
"""Keywords of ``from_pretrained`` that are neither arguments of ``Llama.load`` nor fields of the configuration."""


def spelt(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options by the names they have here.

    Raises:
        InputError: one that there is none of, with what to do; one that is given twice.
    """
    found: dict[str, Any] = {}
    for given, value in options.items():
        if given in INSTEAD:
            raise InputError(f"a pipeline has no option {given!r}", hint=INSTEAD[given])
        if given == "padding":
            _check_padding(value)
            continue
        name = SPELLINGS.get(given, given)
        if name in found:
            raise InputError(f"{name} is given twice", hint=f"{given} is another name of it")
        found[name] = value
    return found


def _check_padding(value: Any) -> None:
    """``padding=True`` asks for what is done anyway."""
    if not (value is True or value in (None, "longest")):
        raise InputError(
            f"a pipeline has no option 'padding'; {value!r:.40} is given",
            hint="rows are padded by themselves, where they run together",
        )


def whole_model_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with those of ``model_kwargs`` among them, ``framework`` and ``use_fast`` read.

    Raises:
        InputError: an option that is given in both places, or a value that is none.
        UnsupportedError: TensorFlow; the slow tokenizer.
    """
    left = dict(options)
    kwargs = left.pop("model_kwargs", None)
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InputError(f"model_kwargs is a {type(kwargs).__name__}, wanted a dictionary of options of loading")
    for name, value in spelt(kwargs or {}).items():
        if left.get(name) is not None:
            raise InputError(f"{name} is given to pipeline and in model_kwargs", hint="give it once")
        left[name] = value
    if left.pop("use_fast", True) not in (True, None):
        raise UnsupportedError(
            "use_fast=False: the checkpoint says which tokenizer it has",
            hint="give another: " + mention("tokenizer", shown="LlamaTokenizer.from_pretrained(...)"),
        )
    framework = left.pop("framework", None)
    if framework is not None:
        backend = FRAMEWORKS.get(framework) if isinstance(framework, str) else None
        if backend is None:
            raise UnsupportedError(
                f"framework is {framework!r:.40}, which no backend is of",
                hint="name a backend: " + mention("backend", "torch"),
            )
        if left.get("backend") is not None and str(left["backend"]).partition(":")[0] != backend:
            raise InputError(f"framework={framework!r} and " + mention("backend", left["backend"]) + " contradict")
        left["backend"] = left.get("backend") or backend
    return left


def device_name(device: Any, backend: str | None = None) -> Any:
    """``0`` is the first accelerator and ``-1`` the CPU, as documented; others are devices as they are."""
    if isinstance(device, bool) or not isinstance(device, int):
        return device if device is None else plain_device(str(device))
    return numbered_device(device, backend)


def one_device(device_map: Any, device: Any, backend: str | None) -> Any:
    """The device that ``device_map`` and ``device`` name together; ``None`` for the best there is.

    Raises:
        InputError: two devices that contradict.
        UnsupportedError: several devices.
    """
    from ...loading.documented import device_of_map

    named = device_name(device, backend)
    mapped = device_of_map(device_map)
    if mapped is not None and named is not None and str(mapped) != str(named):
        raise InputError(f"device {str(named)!r} and device_map {str(mapped)!r} contradict", hint="give one of them")
    return named if mapped is None else mapped


def is_for_loading(name: str, task: str | None, heads: Collection[str]) -> bool:
    """Whether an option is one of loading. One that generating has too, such as ``seed``, is of generating.

    Args:
        heads: options of loading that the task itself has.
    """
    import inspect

    from ...config.loader_arguments import LOADER_ARGUMENTS
    from ...config.schema import LlamaConfig
    from ...generation.options import option_names
    from ...loading.tasks import CONFIG_SPELLINGS

    if task == "causal-lm" and (name in option_names() or name in ("generation_config", "pad_token_id")):
        return False
    known = {*inspect.signature(Llama.load).parameters, *LlamaConfig.model_fields, *CONFIG_SPELLINGS, *heads}
    return name in known or name in DOCUMENTED or name in LOADER_ARGUMENTS


def check_spelling(calls: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse what is left for the calls, of which none is `known` to them, and is a misspelt argument of loading."""
    import inspect

    loading = {*inspect.signature(Llama.load).parameters} - {"source", "config_overrides"}
    for name in calls:
        meant = closest(name, [*loading, *known], cutoff=0.8)
        if name not in known and meant in loading:
            raise InputError(f"a pipeline has no option {name!r}", hint=f"did you mean {meant!r}?")


def flag(options: dict[str, Any], name: str) -> bool | None:
    """Take an option that is ``True``, ``False`` or ``None`` out of the options."""
    value = options.pop(name, None)
    if value is not None and not isinstance(value, bool):
        raise InputError(subject(name, value) + f" is {value!r:.80}, wanted True or False")
    return value

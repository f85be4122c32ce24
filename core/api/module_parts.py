"""What a torch module has and a model of another backend has not, answered by name."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from ..dtypes import DTYPES, name_of
from ..errors import InputError, NoModuleError
from ..messages import mention

if TYPE_CHECKING:
    from ..loading.load import Loaded

PARTS = frozenset({
    *("parameters", "named_parameters", "buffers", "named_buffers", "modules", "named_modules", "children"),
    *("named_children", "state_dict", "load_state_dict", "zero_grad", "requires_grad_", "get_parameter"),
    *("get_submodule", "register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook", "apply"),
    *("to", "cpu", "cuda", "half", "float", "bfloat16", "double", "lm_head", "score", "layers", "embed_tokens", "norm"),
    *("get_input_embeddings", "set_input_embeddings", "get_output_embeddings", "set_output_embeddings"),
    *("tie_weights", "enable_input_require_grads", "disable_input_require_grads", "set_attn_implementation"),
    *("prepare_inputs_for_generation", "base_model", "get_decoder", "set_decoder", "loss_function", "prune_heads"),
    *("activation_checkpointing_enable", "activation_checkpointing_disable", "is_activation_checkpointing"),
    *("add_model_tags", "model_tags", "post_init", "get_parameter_or_buffer"),
})  # fmt: skip
"""Names that belong to the module: on torch ``llm.parameters()`` is ``llm.module.parameters()``."""


_MOVES = {
    **{"to": None, "cpu": "cpu", "cuda": "cuda"},
    **{"half": "float16", "bfloat16": "bfloat16", "float": "float32", "double": "float64"},
}
"""Methods of a module that move or cast it, and where to or to what."""


class ModuleParts:
    """Hands what belongs to the module on to it; where a backend has no torch module, says so."""

    _loaded: Loaded

    if not TYPE_CHECKING:  # a type checker that saw this would take every misspelt name for a part

        def __getattr__(self, name: str) -> Any:
            if name not in PARTS:  # `_loaded` is none, where one is made without
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            backend = self._loaded.choice.backend.name
            if backend == "torch":
                self._loaded.model.handed_out = True
                module = self._loaded.model.module
                return partial(_to, module) if name == "to" else getattr(module, name)
            if name in _MOVES:
                return partial(self._stay, name)
            raise NoModuleError(
                f"{name} is a part of a torch module, and backend {backend!r} has none",
                hint="load with " + mention("backend", "torch"),
            )

    def _stay(self, name: str, *given: Any, **named: Any) -> Self:
        """``to`` and its like where there is no module to move: nothing to do where all is as it is asked for.

        Raises:
            NoModuleError: it is not.
            InputError: an argument that there is not.
        """
        for unknown in set(named) - {"device", "dtype", "non_blocking", "copy", "memory_format"}:
            raise InputError(f"{name} has no argument {unknown!r}", hint="it takes a device and a dtype")
        model = self._loaded.model
        for value in (*given, named.get("device"), named.get("dtype"), _MOVES[name]):
            text = str(getattr(value, "platform", name_of(value)))
            if value is None or isinstance(value, bool) or text in (model.dtype, *_same_device(model.device)):
                continue  # a boolean is non_blocking, by position
            where = f"in {model.dtype}" if text in DTYPES else f"on {model.device}"
            raise NoModuleError(
                f"{name} asks for {text!r:.40}: the model is {where}, and a torch module alone can be moved and cast",
                hint="load it with " + mention("dtype" if text in DTYPES else "device", text),
            )
        return self


def _same_device(device: str) -> tuple[str, ...]:
    """What a device is called, by other frameworks too."""
    names = (device, *(("cuda", "mps") if device == "gpu" else ()))
    return (*names, *(f"{name}:0" for name in names if ":" not in name))


def _to(module: Any, *given: Any, **named: Any) -> Any:
    """A torch module's ``to``, which takes the names of types too, as ``llm.dtype`` is one."""

    def read(value: Any) -> Any:
        return getattr(import_module("torch"), value) if isinstance(value, str) and value in DTYPES else value

    return module.to(*map(read, given), **{name: read(value) for name, value in named.items()})

"""polyllama: describe a Llama once, run it anywhere.

>>> from polyllama import Llama
>>> llm = Llama.load("tiny", backend="reference")
>>> len(llm.generate("Once upon a time", max_new_tokens=8).token_ids)
8

Importing this package loads nothing heavy: every public name is fetched from its module when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backends.jax.flax_names import FlaxLlamaForCausalLM, FlaxLlamaModel
    from .core.api.llama import Llama
    from .core.api.names import (
        LlamaForCausalLM,
        LlamaForQuestionAnswering,
        LlamaForSequenceClassification,
        LlamaForTokenClassification,
        LlamaModel,
    )
    from .core.api.pipelines import pipeline
    from .core.api.visualizer import AttentionMaskVisualizer
    from .core.config.rope import RopeParameters
    from .core.config.schema import LlamaConfig
    from .core.errors import PolyllamaError, PolyllamaWarning
    from .core.export.converting import convert
    from .core.generation.outputs import Generation
    from .core.plugin_system.hookspecs import hookimpl
    from .core.tokenizer.llama import LlamaTokenizer, LlamaTokenizerFast

__version__ = "0.1.0"

_EXPORTS = {
    "AttentionMaskVisualizer": "core.api.visualizer",
    "FlaxLlamaForCausalLM": "backends.jax.flax_names",
    "FlaxLlamaModel": "backends.jax.flax_names",
    "Llama": "core.api.llama",
    "LlamaForCausalLM": "core.api.names",
    "LlamaForQuestionAnswering": "core.api.names",
    "LlamaForSequenceClassification": "core.api.names",
    "LlamaForTokenClassification": "core.api.names",
    "LlamaModel": "core.api.names",
    "LlamaConfig": "core.config.schema",
    "RopeParameters": "core.config.rope",
    "LlamaTokenizer": "core.tokenizer.llama",
    "LlamaTokenizerFast": "core.tokenizer.llama",
    "convert": "core.export.converting",
    "Generation": "core.generation.outputs",
    "PolyllamaError": "core.errors",
    "PolyllamaWarning": "core.errors",
    "hookimpl": "core.plugin_system.hookspecs",
    "pipeline": "core.api.pipelines",
}

__all__ = [
    "AttentionMaskVisualizer",
    "FlaxLlamaForCausalLM",
    "FlaxLlamaModel",
    "Generation",
    "Llama",
    "LlamaConfig",
    "LlamaForCausalLM",
    "LlamaForQuestionAnswering",
    "LlamaForSequenceClassification",
    "LlamaForTokenClassification",
    "LlamaModel",
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "PolyllamaError",
    "PolyllamaWarning",
    "RopeParameters",
    "__version__",
    "convert",
    "hookimpl",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:  # before any import: pytest runs this file by itself, as no package, and asks for hooks
        raise AttributeError(f"module 'polyllama' has no attribute {name!r}")
    from .core.lazy import fetched_when_used

    return fetched_when_used(__name__, _EXPORTS)(name)


def __dir__() -> list[str]:
    return __all__

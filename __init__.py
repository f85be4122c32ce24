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
    from .core.attention_mask import AttentionMaskVisualizer
    from .core.config import LlamaConfig, RopeParameters
    from .core.converting import convert
    from .core.errors import PolyllamaError, PolyllamaWarning
    from .core.generation import Generation
    from .core.hookspecs import hookimpl
    from .core.model import Llama
    from .core.named_models import (
        LlamaForCausalLM,
        LlamaForQuestionAnswering,
        LlamaForSequenceClassification,
        LlamaForTokenClassification,
        LlamaModel,
    )
    from .core.pipelines import pipeline
    from .core.tokenizer import LlamaTokenizer, LlamaTokenizerFast

__version__ = "0.1.0"

_EXPORTS = {
    "AttentionMaskVisualizer": "core.attention_mask",
    "FlaxLlamaForCausalLM": "backends.jax.flax_names",
    "FlaxLlamaModel": "backends.jax.flax_names",
    "Llama": "core.model",
    "LlamaForCausalLM": "core.named_models",
    "LlamaForQuestionAnswering": "core.named_models",
    "LlamaForSequenceClassification": "core.named_models",
    "LlamaForTokenClassification": "core.named_models",
    "LlamaModel": "core.named_models",
    "LlamaConfig": "core.config",
    "RopeParameters": "core.config",
    "LlamaTokenizer": "core.tokenizer",
    "LlamaTokenizerFast": "core.tokenizer",
    "convert": "core.converting",
    "Generation": "core.generation",
    "PolyllamaError": "core.errors",
    "PolyllamaWarning": "core.errors",
    "hookimpl": "core.hookspecs",
    "pipeline": "core.pipelines",
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

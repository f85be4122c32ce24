"""polyllama: describe a Llama once, run it anywhere.

>>> from polyllama import Llama
>>> llm = Llama.load("tiny", backend="reference")
>>> len(llm.generate("Once upon a time", max_new_tokens=8).token_ids)
8

Importing this package loads nothing heavy: every public name is fetched from its module when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as of typing, whose import would be most of the time that importing this package takes
if TYPE_CHECKING:
    import typing

    from .backends.jax.flax_names import FlaxLlamaForCausalLM, FlaxLlamaModel
    from .backends.torch.documented_names import (
        LlamaForCausalLM,
        LlamaForQuestionAnswering,
        LlamaForSequenceClassification,
        LlamaForTokenClassification,
        LlamaModel,
    )
    from .core.api.auto_classes import (
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )
    from .core.api.llama import Llama
    from .core.api.pipelines.making import pipeline
    from .core.api.visualizer import AttentionMaskVisualizer
    from .core.config.rope import RopeParameters
    from .core.config.schema import LlamaConfig
    from .core.errors import PolyllamaError, PolyllamaWarning
    from .core.export.converting import convert
    from .core.forward.documented_caches import DynamicCache, StaticCache
    from .core.generation.array_outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
    from .core.generation.config import GenerationConfig
    from .core.generation.logits_processors import (
        LogitsProcessor,
        LogitsProcessorList,
        MinLengthLogitsProcessor,
        MinNewTokensLengthLogitsProcessor,
        NoRepeatNGramLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
        SuppressTokensLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )
    from .core.generation.outputs import Generation
    from .core.generation.seeding import set_seed
    from .core.generation.stopping_criteria import (
        EosTokenCriteria,
        MaxLengthCriteria,
        MaxTimeCriteria,
        StoppingCriteria,
        StoppingCriteriaList,
        StopStringCriteria,
    )
    from .core.generation.streamers import TextIteratorStreamer, TextStreamer
    from .core.plugin_system.hookspecs import hookimpl
    from .core.quantization.torchao import TorchAoConfig
    from .core.tokenizer.auto_tokenizer import AutoTokenizer
    from .core.tokenizer.batch_encoding import BatchEncoding
    from .core.tokenizer.engines.added_tokens import AddedToken
    from .core.tokenizer.llama_tokenizer import LlamaTokenizer, LlamaTokenizerFast
    from .core.tool_calls.protocol import ToolCall

__version__ = "0.1.0"

_EXPORTS = {
    "AddedToken": "core.tokenizer.engines.added_tokens",
    "AttentionMaskVisualizer": "core.api.visualizer",
    "AutoConfig": "core.api.auto_classes",
    "AutoModel": "core.api.auto_classes",
    "AutoModelForCausalLM": "core.api.auto_classes",
    "AutoModelForQuestionAnswering": "core.api.auto_classes",
    "AutoModelForSequenceClassification": "core.api.auto_classes",
    "AutoModelForTokenClassification": "core.api.auto_classes",
    "AutoTokenizer": "core.tokenizer.auto_tokenizer",
    "BatchEncoding": "core.tokenizer.batch_encoding",
    "DynamicCache": "core.forward.documented_caches",
    "FlaxLlamaForCausalLM": "backends.jax.flax_names",
    "FlaxLlamaModel": "backends.jax.flax_names",
    "Llama": "core.api.llama",
    "LlamaForCausalLM": "backends.torch.documented_names",
    "LlamaForQuestionAnswering": "backends.torch.documented_names",
    "LlamaForSequenceClassification": "backends.torch.documented_names",
    "LlamaForTokenClassification": "backends.torch.documented_names",
    "LlamaModel": "backends.torch.documented_names",
    "LlamaConfig": "core.config.schema",
    "RopeParameters": "core.config.rope",
    "TorchAoConfig": "core.quantization.torchao",
    "LlamaTokenizer": "core.tokenizer.llama_tokenizer",
    "LlamaTokenizerFast": "core.tokenizer.llama_tokenizer",
    "convert": "core.export.converting",
    "GenerateBeamDecoderOnlyOutput": "core.generation.array_outputs",
    "GenerateDecoderOnlyOutput": "core.generation.array_outputs",
    "Generation": "core.generation.outputs",
    "GenerationConfig": "core.generation.config",
    "PolyllamaError": "core.errors",
    "PolyllamaWarning": "core.errors",
    "hookimpl": "core.plugin_system.hookspecs",
    "pipeline": "core.api.pipelines.making",
    "StaticCache": "core.forward.documented_caches",
    "set_seed": "core.generation.seeding",
    "LogitsProcessor": "core.generation.logits_processors",
    "LogitsProcessorList": "core.generation.logits_processors",
    "MinLengthLogitsProcessor": "core.generation.logits_processors",
    "MinNewTokensLengthLogitsProcessor": "core.generation.logits_processors",
    "NoRepeatNGramLogitsProcessor": "core.generation.logits_processors",
    "RepetitionPenaltyLogitsProcessor": "core.generation.logits_processors",
    "SuppressTokensLogitsProcessor": "core.generation.logits_processors",
    "TemperatureLogitsWarper": "core.generation.logits_processors",
    "TopKLogitsWarper": "core.generation.logits_processors",
    "TopPLogitsWarper": "core.generation.logits_processors",
    "EosTokenCriteria": "core.generation.stopping_criteria",
    "MaxLengthCriteria": "core.generation.stopping_criteria",
    "MaxTimeCriteria": "core.generation.stopping_criteria",
    "StopStringCriteria": "core.generation.stopping_criteria",
    "StoppingCriteria": "core.generation.stopping_criteria",
    "StoppingCriteriaList": "core.generation.stopping_criteria",
    "TextIteratorStreamer": "core.generation.streamers",
    "TextStreamer": "core.generation.streamers",
    "ToolCall": "core.tool_calls.protocol",
}

__all__ = [
    "AddedToken",
    "AttentionMaskVisualizer",
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoTokenizer",
    "BatchEncoding",
    "DynamicCache",
    "EosTokenCriteria",
    "FlaxLlamaForCausalLM",
    "FlaxLlamaModel",
    "GenerateBeamDecoderOnlyOutput",
    "GenerateDecoderOnlyOutput",
    "Generation",
    "GenerationConfig",
    "Llama",
    "LlamaConfig",
    "LlamaForCausalLM",
    "LlamaForQuestionAnswering",
    "LlamaForSequenceClassification",
    "LlamaForTokenClassification",
    "LlamaModel",
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "LogitsProcessor",
    "LogitsProcessorList",
    "MaxLengthCriteria",
    "MaxTimeCriteria",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "PolyllamaError",
    "PolyllamaWarning",
    "RepetitionPenaltyLogitsProcessor",
    "RopeParameters",
    "StaticCache",
    "StopStringCriteria",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "SuppressTokensLogitsProcessor",
    "TemperatureLogitsWarper",
    "TextIteratorStreamer",
    "TextStreamer",
    "ToolCall",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TorchAoConfig",
    "__version__",
    "convert",
    "hookimpl",
    "pipeline",
    "set_seed",
]


def __getattr__(name: str) -> typing.Any:
    if name not in _EXPORTS:  # before any import: pytest runs this file by itself, as no package, and asks for hooks
        raise AttributeError(f"module 'polyllama' has no attribute {name!r}")
    from .core.lazy import fetched_when_used

    return fetched_when_used(__name__, _EXPORTS)(name)


def __dir__() -> list[str]:
    return __all__

"""What plugin authors import: the one module beside ``polyllama`` and ``polyllama.testing``.

Backends, task heads, graph nodes, commands, model registries and checkpoint formats of other packages need nothing
deeper, and should use nothing deeper: every other module may move, and these names stay. A name that is to go, or whose
meaning is to change, first warns for a minor version. docs/plugins.md lists them all, by kind, and builds a package of
each kind.

    from polyllama.extend import BackendDescriptor, hookimpl

Importing this module loads nothing heavy: each name is fetched from its module when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .core.lazy import fetched_when_used

if TYPE_CHECKING:
    from .cli.console import json_option, print_json, print_pairs, print_table, progress_bar
    from .cli.options import load_model, load_options, model_argument, source_options, task_options
    from .cli.texts import read_prompt, read_texts
    from .core.backend.protocol import Availability, Backend, Model, RealizeOptions
    from .core.backend.training import Measure, Trains
    from .core.checkpoint.huggingface.safetensors import SafetensorsFile
    from .core.checkpoint.huggingface.save_safetensors import save_safetensors
    from .core.checkpoint.mapped import MappedFile
    from .core.checkpoint.opening import FormatReader
    from .core.checkpoint.protocol import Checkpoint, TensorInfo, own_config, parse_strict_json
    from .core.checkpoint.rotary_order import halves_from_pairs, pairs_from_halves
    from .core.checkpoint.weights import Weights
    from .core.checkpoint.writing import FormatWriter, ModelToWrite
    from .core.config.schema import LlamaConfig
    from .core.dtypes import Array, dtype_name, itemsize, numpy_dtype
    from .core.errors import (
        BackendError,
        BackendUnavailableError,
        CheckpointConfigError,
        CheckpointError,
        ConfigError,
        DownloadError,
        GenerationError,
        InputError,
        NoModuleError,
        NoTokenizerError,
        PluginError,
        PolyllamaError,
        PolyllamaWarning,
        RegistryError,
        SettingsError,
        TokenizerError,
        UnknownArgumentError,
        UnsupportedError,
    )
    from .core.forward.arguments import ForwardArguments
    from .core.forward.forward import Engine, Request, forward
    from .core.forward.inputs import HostInputs, read_inputs, read_labels
    from .core.forward.spec_model import SpecModel
    from .core.graph.activations import ACTIVATIONS
    from .core.graph.adapted import LoraEmbedding, LoraLinear
    from .core.graph.cache import Cache, CachedRows, ConcatenatingCache, History
    from .core.graph.from_config import build_graph
    from .core.graph.graph import Graph, nodes_of_type
    from .core.graph.node import Context, Node, Override, Parameter
    from .core.graph.nodes import (
        Attention,
        Chain,
        Decoder,
        DecoderLayer,
        Dropout,
        Embedding,
        GatedMLP,
        Linear,
        Pool,
        RMSNorm,
    )
    from .core.graph.quantized import QuantizedEmbedding, QuantizedLinear
    from .core.graph.rope import Rope
    from .core.graph.serialize import node_type
    from .core.graph.text_tokens import text_tokens
    from .core.http_interface import Call, Endpoint, HttpError, HttpInterface, Plain, Running, ServedModel, Streamed
    from .core.memory.estimate import MemoryEstimate, Workload, load_peak, run_ghosts, spec_estimate
    from .core.messages import mention, subject
    from .core.plugin_system.hookspecs import (
        BackendDescriptor,
        CheckpointFormatDescriptor,
        CommandDescriptor,
        NodeDescriptor,
        RegistryDescriptor,
        RoutesDescriptor,
        TaskDescriptor,
        hookimpl,
    )
    from .core.plugin_system.manager import plugin_manager
    from .core.sources.entry import RegistryEntry
    from .core.sources.locate import resolve_checkpoint_folder
    from .core.sources.registry import Registry, load_registry
    from .core.tasks.entities import ScoredTokens, check_ignored, find_entities, put_together, trimmed
    from .core.tasks.labels import (
        as_labels,
        check_classes,
        check_finite,
        check_integers,
        check_shape,
        check_token_ids,
        warn_of_padding,
    )
    from .core.tasks.loaded_model import LoadedModel
    from .core.tasks.losses import (
        IGNORE_INDEX,
        binary_cross_entropy,
        causal_lm_loss,
        cross_entropy,
        ignore_padding,
        log_softmax,
        mean_squared_error,
        span_loss,
    )
    from .core.tasks.option_checks import check_flag, check_top_k, check_whole
    from .core.tasks.outputs import (
        BaseModelOutput,
        CausalLMOutput,
        EmbeddingOutput,
        ModelOutput,
        QuestionAnsweringOutput,
        SequenceClassifierOutput,
        TokenClassifierOutput,
    )
    from .core.tasks.results import Answer, Entity, Label
    from .core.tasks.scores import sigmoid, softmax
    from .core.tasks.spans import Span, as_answers, best_answers, best_spans
    from .core.tasks.task import Task
    from .core.tasks.windows import Encoder, Example, Window
    from .core.tokenizer.tokenizer import Tokenizer

_NAMES = {
    # hooks and what they return
    "core.plugin_system.hookspecs": "hookimpl BackendDescriptor TaskDescriptor NodeDescriptor RegistryDescriptor "
    "CommandDescriptor CheckpointFormatDescriptor RoutesDescriptor",
    "core.plugin_system.manager": "plugin_manager",
    # backends: what one is, a pass, caches, memory, arrays
    "core.backend.protocol": "Availability RealizeOptions Backend Model",
    "core.backend.training": "Trains Measure",
    "core.forward.forward": "Engine Request forward",
    "core.forward.spec_model": "SpecModel",
    "core.forward.arguments": "ForwardArguments",
    "core.forward.inputs": "HostInputs read_inputs read_labels",
    "core.graph.cache": "Cache CachedRows ConcatenatingCache History",
    "core.memory.estimate": "MemoryEstimate Workload spec_estimate load_peak run_ghosts",
    "core.dtypes": "Array dtype_name itemsize numpy_dtype",
    # graphs and nodes
    "core.graph.graph": "Graph nodes_of_type",
    "core.graph.from_config": "build_graph",
    "core.graph.serialize": "node_type",
    "core.graph.node": "Node Parameter Context Override",
    "core.graph.nodes": "Embedding RMSNorm Linear Attention GatedMLP DecoderLayer Decoder Chain Pool Dropout",
    "core.graph.rope": "Rope",
    "core.graph.text_tokens": "text_tokens",
    "core.graph.quantized": "QuantizedLinear QuantizedEmbedding",
    "core.graph.adapted": "LoraEmbedding LoraLinear",
    "core.graph.activations": "ACTIVATIONS",
    # task heads
    "core.tasks.task": "Task",
    "core.tasks.loaded_model": "LoadedModel",
    "core.tasks.windows": "Example Encoder Window",
    "core.tasks.outputs": "ModelOutput BaseModelOutput CausalLMOutput SequenceClassifierOutput TokenClassifierOutput "
    "QuestionAnsweringOutput EmbeddingOutput",
    "core.tasks.results": "Label Entity Answer",
    "core.tasks.losses": "IGNORE_INDEX log_softmax cross_entropy causal_lm_loss mean_squared_error "
    "binary_cross_entropy span_loss ignore_padding",
    "core.tasks.labels": "as_labels check_integers check_shape check_classes check_token_ids check_finite "
    "warn_of_padding",
    "core.tasks.scores": "softmax sigmoid",
    "core.tasks.entities": "ScoredTokens find_entities put_together trimmed check_ignored",
    "core.tasks.spans": "Span best_spans as_answers best_answers",
    "core.tasks.option_checks": "check_whole check_top_k check_flag",
    "core.tokenizer.tokenizer": "Tokenizer",
    # checkpoint formats
    "core.checkpoint.opening": "FormatReader",
    "core.checkpoint.writing": "FormatWriter ModelToWrite",
    "core.checkpoint.protocol": "Checkpoint TensorInfo own_config parse_strict_json",
    "core.checkpoint.weights": "Weights",
    "core.checkpoint.mapped": "MappedFile",
    "core.checkpoint.huggingface.safetensors": "SafetensorsFile",
    "core.checkpoint.huggingface.save_safetensors": "save_safetensors",
    "core.checkpoint.rotary_order": "halves_from_pairs pairs_from_halves",
    "core.config.schema": "LlamaConfig",
    # registries of models
    "core.sources.entry": "RegistryEntry",
    "core.sources.registry": "Registry load_registry",
    "core.sources.locate": "resolve_checkpoint_folder",
    # commands
    "cli.options": "model_argument source_options load_options task_options load_model",
    "cli.console": "json_option print_json print_table print_pairs progress_bar",
    "cli.texts": "read_prompt read_texts",
    # HTTP interfaces of `polyllama serve`
    "core.http_interface": "HttpInterface Endpoint Call ServedModel Running Streamed Plain HttpError",
    # errors, warnings and their messages
    "core.errors": "PolyllamaError ConfigError CheckpointError CheckpointConfigError TokenizerError "
    "SettingsError RegistryError DownloadError BackendError BackendUnavailableError PluginError "
    "GenerationError InputError NoModuleError NoTokenizerError UnknownArgumentError UnsupportedError PolyllamaWarning",
    "core.messages": "mention subject",
}

__all__ = [
    "ACTIVATIONS",
    "IGNORE_INDEX",
    "Answer",
    "Array",
    "Attention",
    "Availability",
    "Backend",
    "BackendDescriptor",
    "BackendError",
    "BackendUnavailableError",
    "BaseModelOutput",
    "Cache",
    "CachedRows",
    "Call",
    "CausalLMOutput",
    "Chain",
    "Checkpoint",
    "CheckpointConfigError",
    "CheckpointError",
    "CheckpointFormatDescriptor",
    "CommandDescriptor",
    "ConcatenatingCache",
    "ConfigError",
    "Context",
    "Decoder",
    "DecoderLayer",
    "DownloadError",
    "Dropout",
    "Embedding",
    "EmbeddingOutput",
    "Encoder",
    "Endpoint",
    "Engine",
    "Entity",
    "Example",
    "FormatReader",
    "FormatWriter",
    "ForwardArguments",
    "GatedMLP",
    "GenerationError",
    "Graph",
    "History",
    "HostInputs",
    "HttpError",
    "HttpInterface",
    "InputError",
    "Label",
    "Linear",
    "LlamaConfig",
    "LoadedModel",
    "LoraEmbedding",
    "LoraLinear",
    "MappedFile",
    "Measure",
    "MemoryEstimate",
    "Model",
    "ModelOutput",
    "ModelToWrite",
    "NoModuleError",
    "NoTokenizerError",
    "Node",
    "NodeDescriptor",
    "Override",
    "Parameter",
    "Plain",
    "PluginError",
    "PolyllamaError",
    "PolyllamaWarning",
    "Pool",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "QuestionAnsweringOutput",
    "RMSNorm",
    "RealizeOptions",
    "Registry",
    "RegistryDescriptor",
    "RegistryEntry",
    "RegistryError",
    "Request",
    "Rope",
    "RoutesDescriptor",
    "Running",
    "SafetensorsFile",
    "ScoredTokens",
    "SequenceClassifierOutput",
    "ServedModel",
    "SettingsError",
    "Span",
    "SpecModel",
    "Streamed",
    "Task",
    "TaskDescriptor",
    "TensorInfo",
    "TokenClassifierOutput",
    "Tokenizer",
    "TokenizerError",
    "Trains",
    "UnknownArgumentError",
    "UnsupportedError",
    "Weights",
    "Window",
    "Workload",
    "as_answers",
    "as_labels",
    "best_answers",
    "best_spans",
    "binary_cross_entropy",
    "build_graph",
    "causal_lm_loss",
    "check_classes",
    "check_finite",
    "check_flag",
    "check_ignored",
    "check_integers",
    "check_shape",
    "check_token_ids",
    "check_top_k",
    "check_whole",
    "cross_entropy",
    "dtype_name",
    "find_entities",
    "forward",
    "halves_from_pairs",
    "hookimpl",
    "ignore_padding",
    "itemsize",
    "json_option",
    "load_model",
    "load_options",
    "load_peak",
    "load_registry",
    "log_softmax",
    "mean_squared_error",
    "mention",
    "model_argument",
    "node_type",
    "nodes_of_type",
    "numpy_dtype",
    "own_config",
    "pairs_from_halves",
    "parse_strict_json",
    "plugin_manager",
    "print_json",
    "print_pairs",
    "print_table",
    "progress_bar",
    "put_together",
    "read_inputs",
    "read_labels",
    "read_prompt",
    "read_texts",
    "resolve_checkpoint_folder",
    "run_ghosts",
    "save_safetensors",
    "sigmoid",
    "softmax",
    "source_options",
    "span_loss",
    "spec_estimate",
    "subject",
    "task_options",
    "text_tokens",
    "trimmed",
    "warn_of_padding",
]

__getattr__ = fetched_when_used(
    __name__, {name: module for module, names in _NAMES.items() for name in names.split()}, package="polyllama"
)


def __dir__() -> list[str]:
    return __all__

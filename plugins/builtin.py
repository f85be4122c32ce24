"""What polyllama itself offers, through the same door as everybody's plugins."""

from __future__ import annotations

from ..core.plugin_system.hookspecs import (
    BackendDescriptor,
    CheckpointFormatDescriptor,
    CommandDescriptor,
    ConstraintDescriptor,
    NodeDescriptor,
    RegistryDescriptor,
    RoutesDescriptor,
    TaskDescriptor,
    ToolParserDescriptor,
    hookimpl,
)


@hookimpl
def polyllama_backends() -> list[BackendDescriptor]:
    folder = "polyllama.backends"
    return [
        BackendDescriptor(
            "reference", f"{folder}.reference.backend:ReferenceBackend", "the spec running itself in NumPy, on the CPU"
        ),
        BackendDescriptor(
            "torch", f"{folder}.torch.backend:TorchBackend", "PyTorch on CUDA, MPS or the CPU", requires=("torch",)
        ),
        BackendDescriptor(
            "mlx", f"{folder}.mlx.backend:MlxBackend", "MLX on Apple silicon's GPU or a CPU", requires=("mlx",)
        ),
        BackendDescriptor(
            "cpu", f"{folder}.cpu.backend:CpuBackend", "native kernels for the processor at hand, without a framework"
        ),
        BackendDescriptor("jax", f"{folder}.jax.backend:JaxBackend", "JAX on CPU, GPU and TPU", requires=("jax",)),
    ]


@hookimpl
def polyllama_tasks() -> list[TaskDescriptor]:
    return [
        TaskDescriptor(
            "causal-lm",
            "polyllama.plugins.tasks.causal_lm:CausalLM",
            "next-token prediction, for generating text",
            architectures=("LlamaForCausalLM",),
            aliases=("text-generation",),
        ),
        TaskDescriptor(
            "base",
            "polyllama.plugins.tasks.base:Base",
            "the trunk alone: hidden states",
            architectures=("LlamaModel",),
            aliases=("feature-extraction",),
        ),
        TaskDescriptor(
            "sequence-classification",
            "polyllama.plugins.tasks.sequence_classification:SequenceClassification",
            "labels or a score for a whole text",
            architectures=("LlamaForSequenceClassification",),
            aliases=("text-classification", "sentiment-analysis"),
        ),
        TaskDescriptor(
            "token-classification",
            "polyllama.plugins.tasks.token_classification:TokenClassification",
            "a label for every token",
            architectures=("LlamaForTokenClassification",),
            aliases=("ner",),
        ),
        TaskDescriptor(
            "question-answering",
            "polyllama.plugins.tasks.question_answering:QuestionAnswering",
            "where in a text the answer to a question is",
            architectures=("LlamaForQuestionAnswering",),
        ),
        TaskDescriptor(
            "embedding",
            "polyllama.plugins.tasks.embedding:Embedding",
            "a text as a vector of length 1",
            architectures=("LlamaForEmbedding",),
        ),
    ]


@hookimpl
def polyllama_nodes() -> list[NodeDescriptor]:
    return [
        *(
            NodeDescriptor(name, f"polyllama.core.graph.nodes:{name}")
            for name in (
                *("Embedding", "RMSNorm", "Linear", "Attention", "GatedMLP", "DecoderLayer", "Decoder"),
                *("Chain", "Dropout", "Pool"),
            )
        ),
        NodeDescriptor("Rope", "polyllama.core.graph.rope:Rope"),
        NodeDescriptor("QuantizedEmbedding", "polyllama.core.graph.quantized:QuantizedEmbedding"),
        NodeDescriptor("QuantizedLinear", "polyllama.core.graph.quantized:QuantizedLinear"),
        NodeDescriptor("LoraEmbedding", "polyllama.core.graph.adapted:LoraEmbedding"),
        NodeDescriptor("LoraLinear", "polyllama.core.graph.adapted:LoraLinear"),
    ]


@hookimpl
def polyllama_registries() -> list[RegistryDescriptor]:
    return [
        RegistryDescriptor(
            "builtin", "polyllama.core.sources.registry:BUILTIN_REGISTRY", "the models polyllama knows by name"
        )
    ]


@hookimpl
def polyllama_checkpoint_formats() -> list[CheckpointFormatDescriptor]:
    return [
        CheckpointFormatDescriptor(
            "huggingface",
            "polyllama.core.checkpoint.huggingface.writer:HuggingFaceReaderWriter",
            "config.json beside safetensors files, single or sharded",
            writes=True,
            aliases=("hf",),
            files=("*.safetensors", "*.safetensors.index.json"),
        ),
        CheckpointFormatDescriptor(
            "mlx",
            "polyllama.core.checkpoint.huggingface.writer:MlxFormat",
            "Hugging Face's folder with MLX's packed weights",
            writes=True,
            files=("*.safetensors", "*.safetensors.index.json"),
        ),
        CheckpointFormatDescriptor(
            "pytorch",
            "polyllama.core.checkpoint.huggingface.reader:PyTorchFormat",
            "config.json beside pytorch_model.bin files, whose pickles are never run",
            files=("pytorch_model*",),
        ),
        CheckpointFormatDescriptor(
            "meta",
            "polyllama.core.checkpoint.meta.writer:MetaWriter",
            "Meta's originals: params.json beside consolidated.NN.pth",
            writes=True,
            files=("consolidated.*.pth",),
        ),
        CheckpointFormatDescriptor(
            "gguf",
            "polyllama.core.checkpoint.gguf.writer:GgufWriter",
            "GGUF of llama.cpp: weights, configuration and tokenizer in one file",
            writes=True,
            files=("*.gguf",),
        ),
        CheckpointFormatDescriptor(
            "llama2c",
            "polyllama.core.checkpoint.llama2c:Llama2cFormat",
            "llama2.c's .bin, legacy and version 1",
            files=("*.bin",),
        ),
    ]


@hookimpl
def polyllama_constraints() -> list[ConstraintDescriptor]:
    return [
        ConstraintDescriptor(
            "llguidance",
            "polyllama.plugins.constraints.llguidance_compiler:LLGuidance",
            "JSON schemas, regular expressions, Lark grammars and choices by llguidance",
        )
    ]


@hookimpl
def polyllama_tool_parsers() -> list[ToolParserDescriptor]:
    parsers = "polyllama.plugins.tool_parsers"
    return [
        ToolParserDescriptor(
            "llama",
            f"{parsers}.llama:LlamaParser",
            "Llama 3.1, 3.2 and 3.3: JSON with name and parameters, <|python_tag|>, built-in tools",
            marks=("<|python_tag|>", '"parameters": dictionary of argument name'),
        ),
        ToolParserDescriptor(
            "hermes",
            f"{parsers}.hermes:HermesParser",
            "Hermes and many ChatML models: JSON between <tool_call> and </tool_call>",
            marks=("<tool_call>",),
        ),
    ]


@hookimpl
def polyllama_commands() -> list[CommandDescriptor]:
    commands = "polyllama.plugins.commands"
    return [
        CommandDescriptor("run", f"{commands}.run:run", "Run a model on a text: it writes on, labels, answers ..."),
        CommandDescriptor("embed", f"{commands}.embed:embed", "Turn texts into vectors, and compare them."),
        CommandDescriptor("chat", f"{commands}.chat:chat", "Talk to a chat model, turn by turn."),
        CommandDescriptor("serve", f"{commands}.serve:serve", "Serve models over HTTP, to OpenAI's clients too."),
        CommandDescriptor(
            "evaluate", f"{commands}.evaluate:evaluate", "Measure how well a model predicts a text, and how fast."
        ),
        CommandDescriptor("show", f"{commands}.show:show", "Show a model: configuration, graph, parameters, sizes."),
        CommandDescriptor(
            "plan", f"{commands}.plan:plan", "Say what a model would take, and what fits, before loading it."
        ),
        CommandDescriptor(
            "quantize", f"{commands}.quantize:quantize", "Write a model with 4-bit or 8-bit weights into a new folder."
        ),
        CommandDescriptor("pack", f"{commands}.pack:pack", "Write a model's weights as a backend reads them."),
        CommandDescriptor("tokenize", f"{commands}.tokenize:tokenize", "Show the tokens of a text."),
        CommandDescriptor("mask", f"{commands}.mask:mask", "Show which token may look at which."),
        CommandDescriptor("download", f"{commands}.download:download", "Fetch a model's files into the cache."),
        CommandDescriptor("convert", f"{commands}.convert:convert", "Write a checkpoint in another format."),
        CommandDescriptor("models", f"{commands}.models:models", "List the models known by name."),
        CommandDescriptor("list", f"{commands}.list:list_models", "List the models on this machine: names and sizes."),
        CommandDescriptor("rm", f"{commands}.rm:rm", "Remove downloaded models from the cache."),
        CommandDescriptor(
            "backends", f"{commands}.backends:backends", "List the backends: which can run, and why not."
        ),
        CommandDescriptor("certify", f"{commands}.certify:certify", "Hold a backend to the spec, check by check."),
        CommandDescriptor(
            "compare", f"{commands}.compare:compare", "Say whether two backends differ by a bug or by rounding."
        ),
        CommandDescriptor("bench", f"{commands}.bench:bench", "Measure backend cpu beside llama.cpp and transformers."),
        CommandDescriptor("plugins", f"{commands}.plugins:plugins", "List the plugins and what each offers."),
        CommandDescriptor(
            "config",
            f"{commands}.config:config",
            "Show the settings in effect and where each came from.",
            aliases=("settings",),
        ),
        CommandDescriptor("completion", f"{commands}.completion:completion", "Print a shell completion script."),
        CommandDescriptor(
            "version", f"{commands}.version:version", "Show the versions of polyllama and its libraries."
        ),
    ]


@hookimpl
def polyllama_routes() -> list[RoutesDescriptor]:
    folder = "polyllama.plugins.serve"
    return [
        RoutesDescriptor(
            "openai", f"{folder}.openai.interface:INTERFACE", "OpenAI's: chats, completions, embeddings, models"
        ),
        RoutesDescriptor("anthropic", f"{folder}.anthropic.interface:INTERFACE", "Anthropic's: messages"),
        RoutesDescriptor("ollama", f"{folder}.ollama.interface:INTERFACE", "Ollama's: chat, generate, embed, lists"),
        RoutesDescriptor("own", f"{folder}.own.interface:INTERFACE", "health, metrics, tokens"),
        RoutesDescriptor("page", f"{folder}.page.interface:INTERFACE", "the page at /"),
    ]

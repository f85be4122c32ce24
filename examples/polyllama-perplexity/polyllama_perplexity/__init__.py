"""How surprised a model is by a text: a polyllama task, a command and a registry."""

from pathlib import Path

from polyllama.extend import CommandDescriptor, RegistryDescriptor, TaskDescriptor, hookimpl

REGISTRY = Path(__file__).with_name("registry.yaml")


@hookimpl
def polyllama_tasks() -> list[TaskDescriptor]:
    return [
        TaskDescriptor(
            "perplexity",
            "polyllama_perplexity.task:Perplexity",
            "log-probabilities of every next token, and how uncertain the model is",
            architectures=("LlamaForPerplexity",),
        )
    ]


@hookimpl
def polyllama_commands() -> list[CommandDescriptor]:
    return [
        CommandDescriptor(
            "perplexity", "polyllama_perplexity.command:perplexity", "Measure how surprised a model is by a text."
        )
    ]


@hookimpl
def polyllama_registries() -> list[RegistryDescriptor]:
    return [RegistryDescriptor("perplexity", "polyllama_perplexity:REGISTRY")]

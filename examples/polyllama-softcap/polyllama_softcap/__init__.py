"""A language model whose logits are softly capped: a polyllama node and a task."""

from polyllama.extend import NodeDescriptor, TaskDescriptor, hookimpl


@hookimpl
def polyllama_nodes() -> list[NodeDescriptor]:
    return [NodeDescriptor("SoftCap", "polyllama_softcap.head:SoftCap")]


@hookimpl
def polyllama_tasks() -> list[TaskDescriptor]:
    return [
        TaskDescriptor(
            "softcapped-lm",
            "polyllama_softcap.head:SoftCappedLM",
            "a language model whose logits stay within a cap",
            architectures=("LlamaForSoftCappedLM",),
        )
    ]

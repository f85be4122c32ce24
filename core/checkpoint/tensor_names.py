"""What tensor names tell: prefixes in front of the trunk, and which head a tensor belongs to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from .base import ParameterLike

TRUNK_PREFIXES = ("", "model.", "transformer.")
"""What architectures put before the same trunk: a base model, most heads, the question-answering head."""

WRAPPERS: Mapping[str, str] = MappingProxyType(
    {
        "base_model.model.": "that PEFT adds: merge the adapter (merge_and_unload) and save the merged model",
        "_orig_mod.": "that torch.compile adds: save the model that was compiled (model._orig_mod)",
        "module.": "that DistributedDataParallel adds: save model.module",
        "_fsdp_wrapped_module.": "that FSDP adds: save a full state dict",
    }
)
"""Prefixes of training wrappers, and where each comes from."""

HEADS: Mapping[str, str] = MappingProxyType(
    {
        "lm_head": "causal language modelling",
        "score": "sequence or token classification",
        "qa_outputs": "question answering",
        "classifier": "classification",
        "v_head": "a value head for reinforcement learning",
    }
)
"""First component of a head's tensor names, and its task."""


def head_of(name: str) -> str | None:
    """Which known head a tensor belongs to.

    >>> head_of("qa_outputs.weight"), head_of("model.norm.weight")
    ('qa_outputs', None)
    """
    head = name.partition(".")[0]
    return head if head in HEADS else None


@dataclass(frozen=True)
class Renaming:
    """How the trunk's parameter names become stored names: one prefix in place of another."""

    graph_prefix: str = ""
    stored_prefix: str = ""

    def stored_name(self, parameter: ParameterLike) -> str:
        """The name this parameter has in the checkpoint; heads keep theirs."""
        if is_trunk(parameter) and parameter.name.startswith(self.graph_prefix):
            return self.stored_prefix + parameter.name.removeprefix(self.graph_prefix)
        return parameter.name


def is_trunk(parameter: ParameterLike) -> bool:
    """Whether a parameter belongs to the decoder that all tasks share."""
    return not parameter.of_head and head_of(parameter.name) is None


def find_renaming(
    parameters: Sequence[ParameterLike],
    stored: Collection[str],
    prefixes: Sequence[str] = TRUNK_PREFIXES,
) -> Renaming:
    """The prefix change that finds the most trunk tensors; none at all where it finds no more than the plain names."""
    trunk = [p for p in parameters if is_trunk(p)]
    graph_prefix = max(TRUNK_PREFIXES[1:], key=lambda prefix: sum(p.name.startswith(prefix) for p in trunk))
    if not any(p.name.startswith(graph_prefix) for p in trunk):
        graph_prefix = ""
    candidates = [Renaming(graph_prefix, graph_prefix), *(Renaming(graph_prefix, prefix) for prefix in prefixes)]
    return max(candidates, key=lambda r: sum(r.stored_name(p) in stored for p in trunk))

"""What tensor names tell: prefixes in front of the trunk, and which head a tensor belongs to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

from .protocol import ParameterLike, TensorInfo

TRUNK_PREFIXES = ("", "model.", "transformer.")
"""What architectures put before the same trunk: a base model, most heads, the question-answering head."""

WRAPPERS: Mapping[str, str] = MappingProxyType(
    {
        "_orig_mod": "torch.compile",
        "module": "DataParallel and DistributedDataParallel",
        "_module": "wrappers for private training",
        "_fsdp_wrapped_module": "FSDP",
        "_fpw_module": "FSDP as fairscale had it",
        "_checkpoint_wrapped_module": "gradient checkpointing of FSDP",
        "_forward_module": "Lightning",
        "base_model.model": "PEFT",
        "base_layer": "PEFT",
    }
)
"""Parts that wrappers of modules put into names, anywhere in them, and which wrappers these are."""


def _parts_of(wrappers: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<![^.])(?:{'|'.join(map(re.escape, wrappers))})\.")


_WRAPPER_PARTS = _parts_of(WRAPPERS)
_NOT_OF_PEFT = _parts_of(part for part, whose in WRAPPERS.items() if whose != "PEFT")

_MOST_LEADING_PARTS = 8
"""How many parts a trainer may put before all names; each is tried, and names are of any length in a strange file."""

_BUFFERS = (
    *("*.inv_freq", "*.original_inv_freq", "*.cos_cached", "*.sin_cached", "*.long_inv_freq"),
    *("rope.freqs", "*.rope.freqs", "freqs_cis", "*.freqs_cis", "freqs_cos", "freqs_sin", "*.attn_rot_embd.weight"),
    *("*.masked_bias", "position_ids", "*.position_ids", "*.cos_sin_cache"),
)
"""Stored by transformers, Meta's code and vLLM, in some versions; computed from the config, and no masks are stored."""

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


def is_buffer(info: TensorInfo) -> bool:
    """Whether a stored tensor is none of the model's weights: rotary tables, and causal masks kept beside attention.

    >>> is_buffer(TensorInfo("model.layers.0.self_attn.rotary_emb.cos_cached", "float16", (1, 1, 2048, 128)))
    True
    """
    if any(fnmatchcase(info.name, pattern) for pattern in _BUFFERS):
        return True
    mask = info.name.endswith(("attn.bias", ".attention.bias")) and len(info.shape) == 4
    return mask and info.shape[:2] == (1, 1)


def without_wrappers(name: str, *, adapted: bool = False) -> str:
    """The name that a tensor has in the bare model: without the parts that wrappers of modules put into it.

    Args:
        adapted: keep PEFT's, which tell what is an adapter's.

    >>> without_wrappers("model._orig_mod.layers.0._fsdp_wrapped_module.mlp.up_proj.weight")
    'model.layers.0.mlp.up_proj.weight'
    """
    return (_NOT_OF_PEFT if adapted else _WRAPPER_PARTS).sub("", name)


def spellings(name: str) -> tuple[str, ...]:
    """A name of the trunk with each prefix that models have before it.

    >>> spellings("model.norm.weight")
    ('model.norm.weight', 'norm.weight', 'transformer.norm.weight')
    """
    bare = next((name.removeprefix(prefix) for prefix in TRUNK_PREFIXES[1:] if name.startswith(prefix)), name)
    return tuple(dict.fromkeys((name, *(prefix + bare for prefix in TRUNK_PREFIXES))))


def plain_names(parameters: Sequence[ParameterLike], stored: Iterable[str]) -> dict[str, str]:
    """The names of stored tensors as a bare model has them -> their stored names.

    Wrappers' parts are left out, and so is what most names begin with (``llm.`` of a trainer's ``self.llm``), where
    more of the graph's parameters are found without. Names that would become the same stay as they are.

    >>> from polyllama.core.graph.node import Parameter
    >>> plain_names([Parameter("model.norm.weight", (8,), "norm")], ["net._orig_mod.model.norm.weight"])
    {'model.norm.weight': 'net._orig_mod.model.norm.weight'}
    """
    wanted = {p.name for p in parameters}
    names = list(stored)
    bare = [name if name in wanted else without_wrappers(name) for name in names]
    times = Counter(bare)
    plain = {one if times[one] == 1 else name: name for one, name in zip(bare, names, strict=True)}
    best, most = plain, _number_found(parameters, plain)
    for _ in range(_MOST_LEADING_PARTS):
        if not plain or most == len(wanted):
            break
        lead = Counter(name.partition(".")[0] for name in plain).most_common(1)[0][0] + "."
        shorter = {name.removeprefix(lead): stored_name for name, stored_name in plain.items()}
        if len(shorter) < len(plain) or shorter.keys() == plain.keys():
            break
        plain = shorter
        if (number := _number_found(parameters, plain)) > most:
            best, most = plain, number
    return best


def _number_found(parameters: Sequence[ParameterLike], plain: Collection[str]) -> int:
    renaming = find_renaming(parameters, plain)
    return sum(renaming.stored_name(p) in plain for p in parameters)


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

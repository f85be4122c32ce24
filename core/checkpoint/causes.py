"""Why a checkpoint does not fit a graph, in the words of somebody who has seen it before."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..messages import counted
from .protocol import ParameterLike, TensorInfo
from .tensor_names import HEADS, head_of, without_wrappers
from .tensor_summary import ranges

if TYPE_CHECKING:
    from ..config.schema import LlamaConfig

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")

# A fragment of a name that tells one architecture from all others.
_OTHER_ARCHITECTURES = (
    (".attn.c_attn.", "GPT-2"),
    ("gpt_neox.", "GPT-NeoX"),
    (".self_attention.query_key_value.", "Falcon or BLOOM"),
    ("encoder.layer.", "BERT"),
    (".SelfAttention.", "T5"),
    (".block_sparse_moe.", "Mixtral"),
    (".mlp.experts.", "a mixture of experts"),
    (".pre_feedforward_layernorm.", "Gemma 2 or 3"),
    (".post_feedforward_layernorm.", "OLMo 2 or Gemma"),
    (".self_attn.q_norm.", "Qwen 3 or OLMo 2"),
    (".self_attn.kv_a_proj_with_mqa.", "DeepSeek"),
    (".mixer.", "Mamba"),
    ("vision_tower.", "a vision-language model"),
    ("vision_model.", "a vision-language model"),
)
_QUANTIZED = (
    (".qweight", "GPTQ or AWQ"),
    (".weight.absmax", "bitsandbytes"),
    (".weight_scale_inv", "FP8"),
    (".weight_scale", "compressed-tensors"),
    (".SCB", "bitsandbytes"),
)
_FUSED = {
    ".self_attn.qkv_proj.": "q_proj, k_proj and v_proj",
    ".attention.wqkv.": "wq, wk and wv",
    ".attn.Wqkv.": "q_proj, k_proj and v_proj",
    ".mlp.gate_up_proj.": "gate_proj and up_proj",
}


@dataclass(frozen=True)
class Findings:
    """What does not fit, and what it was compared with. Stored tensors go by their names in a bare model.

    ``ignored``: names that the caller wanted left out. ``lost``: names in the index that no file holds -> the file in
    which it places them.
    """

    parameters: Sequence[ParameterLike]
    stored: Mapping[str, TensorInfo]
    missing: Sequence[ParameterLike]
    unexpected: Sequence[TensorInfo]
    misshaped: Sequence[tuple[ParameterLike, TensorInfo]]
    not_floats: Sequence[TensorInfo]
    not_packed: Sequence[TensorInfo] = ()
    config: LlamaConfig | None = None
    model_type: str | None = None
    ignored: Collection[str] = ()
    lost: Mapping[str, str] = field(default_factory=dict)

    def any(self) -> bool:
        """Whether anything is wrong at all."""
        return bool(self.missing or self.unexpected or self.misshaped or self.not_floats or self.not_packed)

    def without(self, names: Collection[str]) -> Findings:
        """The same, not minding some unexpected tensors."""
        return replace(self, unexpected=[info for info in self.unexpected if info.name not in names])


def likely_causes(findings: Findings) -> list[str]:
    """One sentence each, the most telling first. Where the names are all foreign, nothing about shapes is added."""
    foreign = [cause for rule in _FOREIGN for cause in rule(findings)]
    if not foreign and len(findings.missing) == len(findings.parameters):
        foreign = ["no tensor has a name that a Llama has: these are the weights of something else"]
    causes = [*_other_model_type(findings), *_ignored(findings), *_lost(findings)] + (
        foreign or [c for rule in _RULES for c in rule(findings)]
    )
    return list(dict.fromkeys(causes))


def _other_model_type(f: Findings) -> Iterator[str]:
    if f.model_type not in (None, "llama"):
        yield f"not a Llama: model_type is {f.model_type!r}"


def _ignored(f: Findings) -> Iterator[str]:
    needed = {p.name for p in f.missing} & {without_wrappers(name) for name in f.ignored}
    if needed:
        yield f"ignore leaves out {counted(len(needed), 'tensor')} that the model needs, such as {sorted(needed)[0]}"


def _lost(f: Findings) -> Iterator[str]:
    needed = {p.name.removeprefix("model.") for p in f.missing}
    lost = {name: file for name, file in f.lost.items() if without_wrappers(name).removeprefix("model.") in needed}
    for name, file in list(lost.items())[:1]:
        yield (
            f"the index names {counted(len(lost), 'tensor')} that no file holds, such as {name}, which should be in "
            f"{file}: download or save the checkpoint again"
        )


def _adapter(f: Findings) -> Iterator[str]:
    if any(".lora_A." in i.name or ".lora_B." in i.name for i in f.unexpected):
        yield "a PEFT adapter (lora_A, lora_B), not a model: load the base model, or merge first with merge_and_unload"


def _flat(f: Findings) -> Iterator[str]:
    if any(i.name.endswith("_flat_param") for i in f.unexpected):
        yield "FSDP's flattened parameters (_flat_param), which only its own ranks take apart: save a full state dict"


def _meta(f: Findings) -> Iterator[str]:
    if any(i.name.endswith(("tok_embeddings.weight", ".attention.wq.weight")) for i in f.unexpected):
        yield (
            "the names are those of Meta's own format (tok_embeddings, wq ...): use the Hugging Face edition of this "
            "model, or convert it (wq and wk must be reordered too)"
        )


def _other_architecture(f: Findings) -> Iterator[str]:
    for fragment, architecture in _OTHER_ARCHITECTURES:
        if any(fragment in f".{i.name}" or i.name.startswith(fragment) for i in f.unexpected):
            yield f"not a Llama: names with {fragment.strip('.')!r} are those of {architecture}"
            return


def _quantized(f: Findings) -> Iterator[str]:
    for suffix, scheme in _QUANTIZED:
        if any(i.name.endswith(suffix) for i in f.unexpected):
            yield f"the weights are quantized ({scheme}), which this version does not read: use the unquantized edition"
            return
    if any(i.dtype == "uint32" for i in f.not_floats) and any(i.name.endswith(".scales") for i in f.unexpected):
        yield (
            "the weights are quantized (MLX: packed uint32 with scales), and the config does not say how: "
            'add "quantization": {"group_size": 64, "bits": 4} to config.json, with the numbers they were made with'
        )
    elif f.not_floats:
        yield "integers where floats are expected: the weights are quantized, or saved by mistake"


def _packing(f: Findings) -> Iterator[str]:
    """Packed for other bits or groups than the config says: both show in the shapes of words and scales."""
    scales = {p.name.removesuffix(".scales"): i for p, i in f.misshaped if p.name.endswith(".scales")}
    for parameter, info in f.misshaped:
        if parameter.bits is None or len(info.shape) != 2 or len(parameter.shape) != 2:
            continue
        inputs = parameter.shape[1] * 32 // parameter.bits
        if info.shape[0] == parameter.shape[0] and info.shape[1] * 32 % inputs == 0:
            found = info.shape[1] * 32 // inputs
            yield f"the weights are packed with {found} bits, the config says bits={parameter.bits}"
            return
    for name, info in scales.items():
        words = next((p for p in f.parameters if p.name == f"{name}.weight"), None)
        if words is not None and words.bits and len(info.shape) == 2 and info.shape[1]:
            inputs = words.shape[1] * 32 // words.bits
            if inputs % info.shape[1] == 0:
                yield f"the weights are quantized in groups of {inputs // info.shape[1]}, the config says otherwise"
                return


def _fused(f: Findings) -> Iterator[str]:
    for fragment, parts in _FUSED.items():
        if any(fragment in i.name for i in f.unexpected):
            yield f"{fragment.strip('.').rpartition('.')[2]} is {parts} in one tensor: not a Llama's layout, split it"


def _number_of_layers(f: Findings) -> Iterator[str]:
    stored = {int(m[1]) for name in f.stored if (m := _LAYER.search(name))}
    wanted = {int(m[1]) for p in f.parameters if (m := _LAYER.search(p.name))}
    if not stored or not wanted or stored == wanted:
        return
    if stored == set(range(len(stored))):
        yield (
            f"the checkpoint has {counted(len(stored), 'layer')}, the config says num_hidden_layers={len(wanted)}: "
            "this config belongs to another model"
        )
    elif wanted - stored:
        yield f"layers {ranges(wanted - stored)} are not there at all: a file is missing or incomplete"


def _sizes(f: Findings) -> Iterator[str]:
    embedding = next(((p, i) for p, i in f.misshaped if p.role == "embedding"), None)
    if embedding is not None:
        wanted, stored = embedding[0].shape, embedding[1].shape
        if len(stored) == len(wanted) == 2 and stored != wanted[::-1]:
            if stored[0] != wanted[0]:
                padded = ": padded rows; override vocab_size" if 0 < stored[0] - wanted[0] < 256 else ""
                yield f"the vocabulary has {stored[0]} rows, the config says vocab_size={wanted[0]}{padded}"
            if stored[1] != wanted[1]:
                yield f"the hidden size is {stored[1]}, the config says hidden_size={wanted[1]}: another model's config"
                return
    yield from _differing_rows(f, ".mlp.gate_proj.weight", lambda n, w: f"intermediate_size is {n}, not {w}")
    yield from _differing_rows(
        f, ".self_attn.q_proj.weight", lambda n, w: f"num_attention_heads * head_dim is {n}, not {w}"
    )
    yield from _differing_rows(f, ".self_attn.k_proj.weight", lambda n, w: _kv_heads(n, w, f.config))


def _differing_rows(f: Findings, suffix: str, sentence: Callable[[int, int], str]) -> Iterator[str]:
    """A sentence about the commonest wrong row count of one kind of matrix, columns being right."""
    counts = Counter(
        (i.shape[0], p.shape[0])
        for p, i in f.misshaped
        if p.name.endswith(suffix) and len(i.shape) == 2 and i.shape[1] == p.shape[1]
    )
    if counts:
        yield sentence(*counts.most_common(1)[0][0])


def _kv_heads(rows: int, wanted: int, config: LlamaConfig | None) -> str:
    if config is None:
        return f"another number of key/value heads: k_proj has {rows} rows, not {wanted}"
    if rows % config.head_dim:
        return f"k_proj has {rows} rows, which is no multiple of head_dim={config.head_dim}"
    return (
        f"the checkpoint has num_key_value_heads={rows // config.head_dim}, "
        f"the config says {config.num_key_value_heads}"
    )


def _transposed(f: Findings) -> Iterator[str]:
    turned = [p for p, i in f.misshaped if len(i.shape) == 2 and i.shape[::-1] == tuple(p.shape)]
    if turned:
        count = counted(len(turned), "matrix is", "matrices are")
        yield f"{count} stored transposed: a linear layer is stored as [out_features, in_features]"


def _heads(f: Findings) -> Iterator[str]:
    missing = {head for p in f.missing if (head := head_of(p.name))}
    others = {head for i in f.unexpected if (head := head_of(i.name))}
    wanted = {head for p in f.parameters if (head := head_of(p.name))}
    if others - wanted:
        tasks = " and ".join(f"{head} ({HEADS[head]})" for head in sorted(others - wanted))
        yield f"head weights of another task: {tasks}; load it for that task"
    elif "lm_head" in missing:
        yield (
            "there is no lm_head: either the embedding is used as the head (tie_word_embeddings=True), "
            "or this is a base model without a head"
        )
    stored = f.stored.get("lm_head.weight")
    embedding = next((p for p in f.missing if p.role == "embedding"), None)
    if embedding is not None and stored is not None and stored.shape == tuple(embedding.shape):
        yield (
            "there is no embedding, only an lm_head of its shape: the two are one, and the config does not say so: "
            "override tie_word_embeddings=True"
        )
    biases = [p.name for p in f.missing if p.name == "score.bias"] + [
        i.name for i in f.unexpected if i.name == "score.bias"
    ]
    if biases:
        yield (
            "head weights of another task: token classification has score.bias, sequence classification has none; "
            "fresh_head=True starts a new head"
        )
    for parameter, info in f.misshaped:
        head = head_of(parameter.name)
        if head not in (None, "lm_head") and len(info.shape) == 2 and info.shape[1:] == tuple(parameter.shape)[1:]:
            yield (
                f"{head} was trained for {counted(info.shape[0], 'label')}, "
                f"the config says {parameter.shape[0]} (num_labels): "
                "leave num_labels and id2label out to use it, or start a new head with fresh_head=True"
            )


def _biases(f: Findings) -> Iterator[str]:
    for part, option in ((".self_attn.", "attention_bias"), (".mlp.", "mlp_bias")):
        if any(part in i.name and i.name.endswith("_proj.bias") for i in f.unexpected):
            yield f"the checkpoint has biases in {part.strip('.')}, the config says {option}=False"
        if any(part in p.name and p.name.endswith("_proj.bias") for p in f.missing):
            yield f"the config says {option}=True, the checkpoint has no such biases"


_Rule = Callable[[Findings], Iterator[str]]
_FOREIGN: tuple[_Rule, ...] = (_adapter, _flat, _meta, _other_architecture, _quantized, _fused)
_RULES: tuple[_Rule, ...] = (_packing, _number_of_layers, _sizes, _transposed, _heads, _biases)

"""Checking stored tensors against a graph's parameters: what matches, and what each mismatch is called."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from polyllama.core.checkpoint.check import check
from polyllama.core.checkpoint.huggingface.save_safetensors import save_safetensors
from polyllama.core.checkpoint.ignoring import ignoring
from polyllama.core.checkpoint.opening import open_checkpoint
from polyllama.core.checkpoint.protocol import TensorInfo
from polyllama.core.config.schema import LlamaConfig
from polyllama.core.errors import CheckpointError, PolyllamaWarning
from polyllama.core.graph.node import Parameter
from safetensors.numpy import save_file

VOCAB, HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM = 96, 32, 48, 4, 2, 8
CONFIG = LlamaConfig(
    vocab_size=VOCAB,
    hidden_size=HIDDEN,
    intermediate_size=INNER,
    num_hidden_layers=4,
    num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS,
)
TIED = LlamaConfig(**{**CONFIG.to_dict(), "tie_word_embeddings": True})

Stored = dict[str, TensorInfo]


def trunk(layers: int = 4, prefix: str = "model.", bias: bool = False) -> list[Parameter]:
    result = [Parameter(f"{prefix}embed_tokens.weight", (VOCAB, HIDDEN), "embedding")]
    for layer in range(layers):
        at = f"{prefix}layers.{layer}."
        result.append(Parameter(f"{at}input_layernorm.weight", (HIDDEN,), "norm"))
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            result.append(Parameter(f"{at}self_attn.{name}_proj.weight", (heads * HEAD_DIM, HIDDEN), "linear"))
            if bias:
                result.append(Parameter(f"{at}self_attn.{name}_proj.bias", (heads * HEAD_DIM,), "bias"))
        result.append(Parameter(f"{at}self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_DIM), "linear"))
        result.append(Parameter(f"{at}post_attention_layernorm.weight", (HIDDEN,), "norm"))
        for name in ("gate", "up"):
            result.append(Parameter(f"{at}mlp.{name}_proj.weight", (INNER, HIDDEN), "linear"))
        result.append(Parameter(f"{at}mlp.down_proj.weight", (HIDDEN, INNER), "linear"))
    return [*result, Parameter(f"{prefix}norm.weight", (HIDDEN,), "norm")]


LM_HEAD = Parameter("lm_head.weight", (VOCAB, HIDDEN), "head")
CAUSAL = [*trunk(), LM_HEAD]
BASE = trunk(prefix="")
CLASSIFIER = [*trunk(), Parameter("score.weight", (3, HIDDEN), "head")]
TOKEN_CLASSIFIER = [*CLASSIFIER, Parameter("score.bias", (3,), "head.bias")]
QA = [
    *trunk(prefix="transformer."),
    Parameter("qa_outputs.weight", (2, HIDDEN), "head"),
    Parameter("qa_outputs.bias", (2,), "head.bias"),
]


def stored(parameters: list[Parameter], dtype: str = "bfloat16") -> Stored:
    return {p.name: TensorInfo(p.name, dtype, p.shape) for p in parameters}


def changed(tensors: Stored, name: str, **fields: Any) -> Stored:
    """The tensors whose names end like this, replaced by ones with other fields."""
    old = {"dtype": "bfloat16", "shape": ()}
    return {
        n: TensorInfo(n, **{**old, "dtype": i.dtype, "shape": i.shape, **fields}) if n.endswith(name) else i
        for n, i in tensors.items()
    }


def renamed(tensors: Stored, rename: Callable[[str], str]) -> Stored:
    return {rename(n): TensorInfo(rename(n), i.dtype, i.shape) for n, i in tensors.items()}


def extra(tensors: Stored, name: str, shape: tuple[int, ...] = (2, 2), dtype: str = "bfloat16") -> Stored:
    return {**tensors, name: TensorInfo(name, dtype, shape)}


def without(tensors: Stored, *fragments: str) -> Stored:
    return {n: i for n, i in tensors.items() if not any(f in n for f in fragments)}


def failure(tensors: Stored, parameters: list[Parameter], **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        check(tensors, parameters, **{"path": Path("folder"), "config": CONFIG, **options})
    return str(caught.value)


# ---- what matches ----


def test_the_parameters_used_here_are_those_of_transformers():
    from transformers import LlamaConfig as HFConfig
    from transformers import LlamaForCausalLM, LlamaForQuestionAnswering, LlamaForTokenClassification, LlamaModel

    config = HFConfig(
        **{k: getattr(CONFIG, k) for k in ("vocab_size", "hidden_size", "intermediate_size")}
        | {"num_hidden_layers": 4, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "num_labels": 3}
    )
    with torch.device("meta"):
        for cls, ours in (
            (LlamaForCausalLM, CAUSAL),
            (LlamaModel, BASE),
            (LlamaForTokenClassification, TOKEN_CLASSIFIER),
        ):
            assert {n: tuple(t.shape) for n, t in cls(config).state_dict().items()} == {p.name: p.shape for p in ours}
        config.num_labels = 2
        theirs = LlamaForQuestionAnswering(config).state_dict()
        assert {n: tuple(t.shape) for n, t in theirs.items()} == {p.name: p.shape for p in QA}


@pytest.mark.parametrize("parameters", [CAUSAL, BASE, CLASSIFIER, TOKEN_CLASSIFIER, QA, trunk(bias=True)])
def test_a_fitting_checkpoint_maps_every_name_to_itself(parameters: list[Parameter]):
    result = check(stored(parameters), parameters)
    assert dict(result) == {p.name: p.name for p in parameters}
    assert list(result) == [p.name for p in parameters] and result.fresh == () and len(result) == len(parameters)


@pytest.mark.parametrize("graph", ["", "model.", "transformer."])
@pytest.mark.parametrize("file", ["", "model.", "transformer."])
def test_the_trunk_is_found_under_any_prefix_that_transformers_gives_it(graph: str, file: str):
    result = check(stored(trunk(prefix=file)), trunk(prefix=graph))
    assert dict(result) == {graph + p.name: file + p.name for p in BASE}


def test_a_base_checkpoint_cannot_be_a_causal_lm_unless_tied():
    message = failure(stored(BASE), CAUSAL)
    assert "1 missing" in message and "lm_head.weight" in message
    assert "tie_word_embeddings=True" in message and "base model without a head" in message
    assert dict(check(stored(BASE), trunk(), config=TIED))["model.norm.weight"] == "norm.weight"


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda n: f"_orig_mod.{n}",
        lambda n: f"module.{n}",
        lambda n: f"base_model.model.{n}",
        lambda n: f"_forward_module.module._orig_mod.{n}",
        lambda n: f"_fsdp_wrapped_module.{n}".replace(".mlp.", "._fsdp_wrapped_module.mlp._checkpoint_wrapped_module."),
        lambda n: n.replace("model.", "model._orig_mod."),
        lambda n: n.replace("_proj.", "_proj.base_layer."),
        lambda n: f"model.{n}",
        lambda n: f"model._orig_mod.{n}",
        lambda n: f"student.llm.{n}",
    ],
)
def test_names_that_wrappers_of_modules_gave_are_the_bare_ones(wrapped: Any):
    for parameters in (CAUSAL, QA, TOKEN_CLASSIFIER):
        found = check(renamed(stored(parameters), wrapped), parameters)
        assert dict(found) == {p.name: wrapped(p.name) for p in parameters}
    with pytest.warns(PolyllamaWarning, match=r"lm_head.weight not used: a head of another task"):
        found = check(renamed(stored(CAUSAL), wrapped), BASE)
    assert found.unused == (wrapped("lm_head.weight"),) and found["norm.weight"] == wrapped("model.norm.weight")


def test_wrapped_names_beside_bare_ones_are_unexpected():
    tensors = extra(stored(CAUSAL), "module.model.norm.weight", (HIDDEN,))
    assert "unexpected  module.model.norm.weight" in failure(tensors, CAUSAL)
    message = failure(extra(renamed(S, lambda n: f"llm.{n}"), "criterion.weight"), CAUSAL)
    assert "1 unexpected" in message and "criterion.weight" in message


def test_a_parameter_called_like_a_wrapper_is_found():
    own = [*CAUSAL, Parameter("model.layers.0.module.weight", (3,), "linear")]
    assert check(stored(own), own)["model.layers.0.module.weight"] == "model.layers.0.module.weight"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.self_attn.rotary_emb.cos_cached", (1, 1, 64, 8)),
        ("model.layers.0.self_attn.rotary_emb.sin_cached", (1, 1, 64, 8)),
        ("model.rotary_emb.inv_freq", (4,)),
        ("rotary_emb.original_inv_freq", (4,)),
        ("rope.freqs", (4,)),
        ("model.layers.0.attention.inner_attention.rope.freqs", (4,)),
        ("model.layers.0.self_attn.masked_bias", ()),
        ("model.layers.0.self_attn.bias", (1, 1, 64, 64)),
    ],
)
def test_tables_and_masks_of_old_layers_are_no_weights(name: str, shape: tuple[int, ...]):
    assert name not in check(extra(stored(CAUSAL), name, shape), CAUSAL).values()
    own = [*CAUSAL, Parameter(name, shape, "linear")]
    assert check(stored(own), own)[name] == name


def test_a_bias_of_attention_is_no_mask():
    assert "model.layers.0.self_attn.bias" in failure(extra(S, "model.layers.0.self_attn.bias", (HIDDEN,)), CAUSAL)


def test_rotary_buffers_and_what_the_caller_ignores_are_left_out():
    tensors = stored(CAUSAL)
    for layer in range(4):
        tensors = extra(tensors, f"model.layers.{layer}.self_attn.rotary_emb.inv_freq", (4,), "float32")
    assert dict(check(tensors, CAUSAL)) == {p.name: p.name for p in CAUSAL}
    tensors = extra(tensors, "model.extra.buffer")
    assert "model.extra.buffer" in failure(tensors, CAUSAL)
    check(tensors, CAUSAL, ignore=["model.extra.*"])


# ---- heads ----


def test_a_head_that_is_not_stored_starts_fresh_and_is_said_once():
    with pytest.warns(PolyllamaWarning) as caught:
        result = check(stored(CAUSAL), QA, path=Path("folder"))
    assert len(caught) == 1
    text = str(caught[0].message)
    assert text.startswith("folder: qa_outputs.weight, qa_outputs.bias not stored, starting from random values")
    assert "lm_head.weight not used: a head of another task (causal language modelling)" in text
    assert result.fresh == ("qa_outputs.weight", "qa_outputs.bias") and result.unused == ("lm_head.weight",)
    assert result["transformer.norm.weight"] == "model.norm.weight" and "qa_outputs.bias" not in result


def test_the_trunk_alone_takes_any_checkpoint_and_says_which_head_it_leaves():
    for parameters, head in ((CAUSAL, "lm_head"), (TOKEN_CLASSIFIER, "score"), (QA, "qa_outputs")):
        with pytest.warns(PolyllamaWarning, match=f"{head}.weight.* not used: a head of another task"):
            check(stored(parameters), BASE)


def test_only_whole_heads_start_fresh():
    message = failure(without(stored(QA), "qa_outputs.bias"), QA)
    assert "1 missing" in message and "qa_outputs.bias" in message
    message = failure(stored(CLASSIFIER), TOKEN_CLASSIFIER)
    assert "sequence classification has none" in message
    message = failure(stored(TOKEN_CLASSIFIER), CLASSIFIER)
    assert "head weights of another task: token classification has score.bias" in message


def test_a_head_does_not_start_fresh_on_a_broken_trunk():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "model.norm.weight" in failure(without(stored(CAUSAL), "model.norm"), CLASSIFIER)


def test_the_caller_may_allow_more_to_start_fresh():
    for fresh in (["lm_head.weight"], lambda p: p.name.startswith("lm_head")):
        with pytest.warns(PolyllamaWarning, match="lm_head.weight not stored, starting from random values"):
            assert check(stored(BASE), CAUSAL, fresh=fresh).fresh == ("lm_head.weight",)


def test_a_classifier_is_no_causal_lm():
    message = failure(stored(CLASSIFIER), CAUSAL)
    assert "head weights of another task: score (sequence or token classification); load it for that task" in message
    assert "missing     lm_head.weight" in message and "unexpected  score.weight" in message


def test_another_number_of_labels():
    message = failure(changed(stored(CLASSIFIER), "score.weight", shape=(5, HIDDEN)), CLASSIFIER)
    assert "score was trained for 5 labels, the config says 3 (num_labels)" in message


# ---- a stored head although the embeddings are tied ----


def save_tied(folder: Path, head: np.ndarray | None) -> Any:
    rng = np.random.default_rng(0)
    tensors = {p.name: rng.normal(size=p.shape).astype(np.float32) for p in trunk()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] if head is None else head
    save_safetensors(folder, tensors)
    return open_checkpoint(folder)


def test_a_stored_copy_of_the_tied_embedding_is_nothing_to_speak_of(tmp_path: Path):
    checkpoint = save_tied(tmp_path, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = check(checkpoint, trunk(), config=TIED)
    assert set(result) == {p.name for p in trunk()}
    with pytest.warns(PolyllamaWarning, match="not used: a head of another task"):
        check(checkpoint, trunk(), config=CONFIG)


@pytest.mark.parametrize("prefix", ["model.", "", "_orig_mod.model."])
def test_a_tied_model_may_be_stored_as_its_head_alone(prefix: str):
    wrapper = prefix.removesuffix("model.")
    tensors = without(renamed(stored(CAUSAL), lambda n: n.replace("model.", prefix)), "embed_tokens")
    tensors = renamed(tensors, lambda n: n.replace("lm_head", f"{wrapper}lm_head"))
    found = check(tensors, trunk(), config=TIED)
    assert found["model.embed_tokens.weight"] == f"{wrapper}lm_head.weight" and found.unused == ()
    assert check(tensors, trunk(), config=TIED, ignore=["lm_head.*"])["model.embed_tokens.weight"] in tensors
    assert "missing     model.embed_tokens.weight" in failure(tensors, CAUSAL, config=CONFIG)
    message = failure(changed(tensors, "lm_head.weight", shape=(VOCAB + 1, HIDDEN)), trunk(), config=TIED)
    assert "missing     model.embed_tokens.weight" in message


def test_names_that_safetensors_dropped_stand_for_what_is_stored(tmp_path: Path):
    class Shared(torch.nn.Module):
        """A model whose head is its embedding, though no config says so."""

        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.ModuleDict({"embed_tokens": torch.nn.Embedding(VOCAB, HIDDEN)})
            self.lm_head = torch.nn.Linear(HIDDEN, VOCAB, bias=False)
            self.lm_head.weight = self.model["embed_tokens"].weight

    file = str(tmp_path / "model.safetensors")
    safetensors.torch.save_model(Shared(), file)
    opened = open_checkpoint(file)
    assert len(opened.tensors()) == 1
    both = [Parameter("model.embed_tokens.weight", (VOCAB, HIDDEN), "embedding"), LM_HEAD]
    assert set(check(opened, both, config=CONFIG).values()) == set(opened.tensors())


@pytest.mark.parametrize("wrapped", [lambda n: f"_orig_mod.{n}", lambda n: f"net.{n}", lambda n: n])
def test_shared_names_go_with_those_that_wrappers_gave(wrapped: Callable[[str], str], tmp_path: Path):
    file = tmp_path / "model.safetensors"
    tensors = {wrapped(p.name): np.zeros(p.shape, np.float32) for p in trunk()}
    embedding = wrapped("model.embed_tokens.weight")
    save_file(tensors, file, metadata={"format": "pt", wrapped("lm_head.weight"): embedding})
    opened = open_checkpoint(file)
    assert check(opened, CAUSAL, config=CONFIG)["lm_head.weight"] == embedding
    with pytest.warns(PolyllamaWarning, match="tensors? ignored as asked"):
        ignored = ignoring(opened, [embedding])
    with pytest.raises(CheckpointError, match="2 missing"):
        check(ignored, CAUSAL, config=CONFIG)


def test_the_task_of_a_head_that_a_trainer_wrapped_is_named():
    tensors = renamed(
        stored([*trunk(), Parameter("qa_outputs.weight", (2, HIDDEN), "head")]), lambda n: f"net._orig_mod.{n}"
    )
    with pytest.warns(PolyllamaWarning, match=r"head of another task \(question answering\)"):
        check(tensors, trunk())


def test_a_stored_head_that_differs_from_the_tied_embedding_is_said(tmp_path: Path):
    checkpoint = save_tied(tmp_path, np.zeros((VOCAB, HIDDEN), np.float32))
    with pytest.warns(
        PolyllamaWarning, match=r"lm_head.weight not used, though it differs from model.embed_tokens.*=False"
    ):
        check(checkpoint, trunk(), tied=True)
    same_bits = checkpoint.read("model.embed_tokens.weight").view(np.int32)
    with pytest.warns(PolyllamaWarning, match="differs"):
        check(save_tied(tmp_path / "other dtype", same_bits), trunk(), tied=True)


def test_a_stored_head_of_another_shape_is_an_error_when_tied():
    message = failure(extra(stored(trunk()), "lm_head.weight", (VOCAB + 1, HIDDEN)), trunk(), config=TIED)
    assert "unexpected  lm_head.weight bfloat16 [97, 32]" in message


# ---- causes ----


def test_everything_wrong_is_listed_at_once_and_layers_are_grouped():
    tensors = without(stored(CAUSAL), "model.norm.weight", "layers.1.mlp.up_proj", "layers.2.mlp.up_proj")
    tensors = extra(tensors, "model.surprise", (3,))
    tensors = changed(tensors, "down_proj.weight", shape=(INNER, HIDDEN))
    tensors = changed(tensors, "layers.0.input_layernorm.weight", dtype="int8")
    message = failure(tensors, CAUSAL)
    first, *rest = message.split("\n")
    assert first == (
        "folder: does not fit this model of 39 tensors: "
        "3 missing, 1 unexpected, 4 of the wrong shape, 1 not floating-point"
    )
    for line in (
        "  missing     model.layers.{1-2}.mlp.up_proj.weight (2 tensors) [48, 32]",
        "  missing     model.norm.weight [32]",
        "  unexpected  model.surprise bfloat16 [3]",
        "  wrong shape model.layers.{0-3}.mlp.down_proj.weight (4 tensors): "
        "stored [48, 32], expected [32, 48], stored transposed",
        "  wrong dtype model.layers.0.input_layernorm.weight: stored int8, expected floats",
    ):
        assert line in rest, message


def test_long_lists_are_cut_and_counted():
    tensors = stored(CAUSAL)
    for i in range(50):
        tensors = extra(tensors, f"model.thing_{chr(97 + i % 26)}{'x' * i}")
    message = failure(tensors, CAUSAL)
    assert "50 unexpected" in message and "... and 30 more of this kind" in message
    assert len(message.split("\n")) < 25


def test_names_cannot_break_the_message():
    message = failure(extra(stored(CAUSAL), "evil\n\x1b[31m" + "y" * 5000), CAUSAL)
    assert "\x1b" not in message and len(message.split("\n")) == 2 and len(message) < 1000


def meta_name(name: str) -> str:
    for ours, theirs in (
        ("model.embed_tokens", "tok_embeddings"),
        ("model.", ""),
        ("lm_head", "output"),
        ("self_attn.q_proj", "attention.wq"),
        ("self_attn.k_proj", "attention.wk"),
    ):
        name = name.replace(ours, theirs)
    return name


def gptq(tensors: Stored) -> Stored:
    result: Stored = {}
    for name in tensors:
        if name.endswith("_proj.weight"):
            base = name.removesuffix(".weight")
            result = extra(extra(result, f"{base}.qweight", (4, 32), "int32"), f"{base}.scales", (1, 32))
        else:
            result[name] = tensors[name]
    return result


def mlx(tensors: Stored) -> Stored:
    result = changed(tensors, "_proj.weight", dtype="uint32", shape=(32, 4))
    for name in tensors:
        if name.endswith("_proj.weight"):
            result = extra(result, name.replace(".weight", ".scales"))
    return result


def fused(tensors: Stored) -> Stored:
    kept = without(tensors, "q_proj", "k_proj", "v_proj")
    return extra(kept, "model.layers.0.self_attn.qkv_proj.weight", (64, 32))


S = stored(CAUSAL)
CAUSES: dict[str, tuple[Stored, list[Parameter], str]] = {
    "transposed": (
        changed(S, "gate_proj.weight", shape=(HIDDEN, INNER)),
        CAUSAL,
        "4 matrices are stored transposed: a linear layer is stored as [out_features, in_features]",
    ),
    "more layers in the file": (
        stored([*trunk(6), LM_HEAD]),
        CAUSAL,
        "the checkpoint has 6 layers, the config says num_hidden_layers=4",
    ),
    "fewer layers in the file": (
        stored([*trunk(3), LM_HEAD]),
        CAUSAL,
        "the checkpoint has 3 layers, the config says num_hidden_layers=4",
    ),
    "layers lost": (without(S, "layers.1.", "layers.2."), CAUSAL, "layers 1-2 are not there at all"),
    "vocabulary": (
        changed(changed(S, "embed_tokens.weight", shape=(100, HIDDEN)), "lm_head.weight", shape=(100, HIDDEN)),
        CAUSAL,
        "the vocabulary has 100 rows, the config says vocab_size=96",
    ),
    "hidden size": (
        changed(S, "embed_tokens.weight", shape=(VOCAB, 64)),
        CAUSAL,
        "the hidden size is 64, the config says hidden_size=32",
    ),
    "intermediate size": (
        changed(S, "gate_proj.weight", shape=(56, HIDDEN)),
        CAUSAL,
        "intermediate_size is 56, not 48",
    ),
    "key/value heads": (
        changed(changed(S, "k_proj.weight", shape=(8, HIDDEN)), "v_proj.weight", shape=(8, HIDDEN)),
        CAUSAL,
        "the checkpoint has num_key_value_heads=1, the config says 2",
    ),
    "key rows odd": (
        changed(S, "k_proj.weight", shape=(12, HIDDEN)),
        CAUSAL,
        "12 rows, which is no multiple of head_dim=8",
    ),
    "query rows": (
        changed(S, "q_proj.weight", shape=(64, HIDDEN)),
        CAUSAL,
        "num_attention_heads * head_dim is 64, not 32",
    ),
    "biases stored": (
        stored([*trunk(bias=True), LM_HEAD]),
        CAUSAL,
        "the checkpoint has biases in self_attn, the config says attention_bias=False",
    ),
    "biases wanted": (
        S,
        [*trunk(bias=True), LM_HEAD],
        "the config says attention_bias=True, the checkpoint has no such",
    ),
    "mlp biases": (
        extra(S, "model.layers.0.mlp.up_proj.bias", (INNER,)),
        CAUSAL,
        "the checkpoint has biases in mlp, the config says mlp_bias=False",
    ),
    "PEFT adapter": (
        {
            n: TensorInfo(n, "float32", (8, 32))
            for n in ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",)
        },
        CAUSAL,
        "a PEFT adapter (lora_A, lora_B), not a model",
    ),
    "FSDP": (
        {n: TensorInfo(n, "float32", (9,)) for n in ("_flat_param", "model.layers.0._fsdp_wrapped_module._flat_param")},
        CAUSAL,
        "FSDP's flattened parameters",
    ),
    "Meta": (renamed(S, meta_name), CAUSAL, "those of Meta's own format (tok_embeddings, wq ...)"),
    "fused": (fused(S), CAUSAL, "qkv_proj is q_proj, k_proj and v_proj in one tensor"),
    "GPTQ": (gptq(S), CAUSAL, "the weights are quantized (GPTQ or AWQ)"),
    "MLX": (mlx(S), CAUSAL, "the weights are quantized (MLX: packed uint32 with scales)"),
    "integers": (changed(S, "q_proj.weight", dtype="int8"), CAUSAL, "integers where floats are expected"),
    "GPT-2": (
        {n: TensorInfo(n, "float32", (8,)) for n in ("wte.weight", "h.0.attn.c_attn.weight")},
        CAUSAL,
        "not a Llama: names with 'attn.c_attn' are those of GPT-2",
    ),
    "Mixtral": (
        extra(without(S, "mlp"), "model.layers.0.block_sparse_moe.gate.weight"),
        CAUSAL,
        "not a Llama: names with 'block_sparse_moe' are those of Mixtral",
    ),
    "nothing of it": ({"x": TensorInfo("x", "float32", (1,))}, CAUSAL, "no tensor has a name that a Llama has"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_likely_causes(case: str):
    tensors, parameters, cause = CAUSES[case]
    message = failure(tensors, parameters)
    causes = [line for line in message.split("\n") if line.startswith("  likely cause: ")]
    assert cause in "\n".join(causes), message
    assert len(causes) <= 2, message


def test_without_a_config_the_key_value_heads_are_still_named():
    assert "another number of key/value heads: k_proj has 8 rows, not 16" in failure(
        changed(S, "k_proj.weight", shape=(8, HIDDEN)), CAUSAL, config=None
    )


def test_another_model_type_is_named(tmp_path: Path):
    save_safetensors(tmp_path, {"model.norm.weight": np.ones(HIDDEN, np.float32)})
    (tmp_path / "config.json").write_text('{"model_type": "phi3"}')
    with pytest.raises(CheckpointError, match="likely cause: not a Llama: model_type is 'phi3'") as caught:
        check(open_checkpoint(tmp_path), CAUSAL)
    assert str(caught.value).startswith(f"{tmp_path}: does not fit this model")
    assert "model_type is 'gemma'" in failure(without(S, "norm"), CAUSAL, model_type="gemma")


def test_square_matrices_are_not_called_transposed():
    message = failure(changed(S, "gate_proj.weight", shape=(HIDDEN, INNER)), CAUSAL)
    assert "q_proj" not in message


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_map_is_given_only_for_a_checkpoint_that_fits(data: st.DataObject):
    """Whatever is removed, added or reshaped: either an error, or every parameter has a tensor of its shape."""
    tensors = dict(stored(data.draw(st.sampled_from([CAUSAL, BASE, QA, CLASSIFIER]))))
    for _ in range(data.draw(st.integers(0, 3))):
        name = data.draw(st.sampled_from(sorted(tensors)))
        info = tensors.pop(name)
        action = data.draw(st.sampled_from(["drop", "rename", "reshape", "retype"]))
        if action == "rename":
            new = data.draw(st.sampled_from(["model.", "module.", "x", ""])) + name
            tensors[new] = TensorInfo(new, info.dtype, info.shape)
        elif action == "reshape":
            tensors[name] = TensorInfo(name, info.dtype, data.draw(st.permutations(info.shape)) and info.shape[::-1])
        elif action == "retype":
            tensors[name] = TensorInfo(name, "int8", info.shape)
    parameters = data.draw(st.sampled_from([CAUSAL, BASE, QA, CLASSIFIER]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PolyllamaWarning)
            result = check(tensors, parameters, config=data.draw(st.sampled_from([None, CONFIG])))
    except CheckpointError:
        return
    assert len(set(result.values())) == len(result)
    for p in parameters:
        if p.name in result:
            assert tensors[result[p.name]].shape == p.shape and tensors[result[p.name]].dtype == "bfloat16"
        else:
            assert p.name in result.fresh and p.role.startswith("head") and p.name != "lm_head.weight"
    assert set(tensors) - set(result.values()) == set(result.unused)


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_an_untied_model_stored_as_its_head_alone_names_the_field(prefix: str) -> None:
    stored = {f"{prefix}{p.name}": TensorInfo(f"{prefix}{p.name}", "float32", p.shape) for p in CAUSAL[1:]}
    with pytest.raises(CheckpointError, match=r"only an lm_head of its shape.*override tie_word_embeddings=True"):
        check(stored, CAUSAL, config=CONFIG)
    check(stored, trunk(), config=TIED)


@pytest.mark.parametrize(
    "name", ["model.position_ids", "position_ids", "model.layers.0.self_attn.rotary_emb.cos_sin_cache"]
)
def test_further_buffers_are_left_out(name: str) -> None:
    stored = {p.name: TensorInfo(p.name, "float32", p.shape) for p in CAUSAL}
    assert name not in check(stored | {name: TensorInfo(name, "int64", (1, 64))}, CAUSAL, config=CONFIG).values()

"""PEFT on the documented classes, unpatched: trained as transformers' own models are, saved, loaded, merged."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polyllama
import pytest
from polyllama import Llama
from polyllama.core.errors import PolyllamaError

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from documented_models import IDS, LABELS, SIZES, TASKS  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*lm_head.weight not used"),  # a language model's checkpoint, read as a trunk
    pytest.mark.filterwarnings("ignore:.*generated texts stay empty"),
]

TASK_TYPES = {
    "LlamaForCausalLM": "CAUSAL_LM",
    "LlamaForSequenceClassification": "SEQ_CLS",
    "LlamaForTokenClassification": "TOKEN_CLS",
    "LlamaForQuestionAnswering": "QUESTION_ANS",
    "LlamaModel": "FEATURE_EXTRACTION",
}
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "init_lora_weights": False}


def train(model: Any, name: str, steps: int = 3) -> list[float]:
    """Losses of some steps."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        output = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), **LABELS[name])
        loss = output.loss if LABELS[name] else output.last_hidden_state.square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def tuned(model: Any, make: Callable[[], Any], name: str) -> tuple[Any, list[float]]:
    torch.manual_seed(3)
    found = peft.get_peft_model(model, make())
    return found, train(found, name)


def first(output: Any) -> Any:
    return output[0].detach()


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"{name}, {kind}": (name, {"task_type": kind}) for name, kind in TASK_TYPES.items()},
    **{f"{name}, no type": (name, {"target_modules": ["q_proj", "up_proj"]}) for name in TASK_TYPES},
    "all-linear": ("LlamaForCausalLM", {"task_type": "CAUSAL_LM", "target_modules": "all-linear"}),
    "all-linear of a classifier": (
        "LlamaForSequenceClassification",
        {"task_type": "SEQ_CLS", "target_modules": "all-linear"},
    ),
    "modules_to_save": (
        "LlamaForCausalLM",
        {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    "an embedding": ("LlamaForCausalLM", {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "embed_tokens"]}),
    "dora": ("LlamaForCausalLM", {"task_type": "CAUSAL_LM", "use_dora": True}),
    "one layer": ("LlamaForCausalLM", {"task_type": "CAUSAL_LM", "layers_to_transform": [1]}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_lora_trains_saves_and_merges_as_on_transformers(saved: Any, tmp_path: Path, case: str) -> None:
    name, options = CASES[case]
    ours, theirs = saved.both(name)
    adapted, losses = tuned(ours, lambda: peft.LoraConfig(**LORA, **options), name)
    other, wanted = tuned(theirs, lambda: peft.LoraConfig(**LORA, **options), name)
    assert np.allclose(losses, wanted, rtol=1e-5) and losses[2] != losses[0]
    output = first(adapted(IDS))
    # A span's loss sees differences between positions alone: its bias' gradient is rounding, which Adam enlarges.
    shift = first(other(IDS)) - output if name == "LlamaForQuestionAnswering" else torch.zeros(1)
    assert torch.allclose(output + shift.mean(), first(other(IDS)), atol=1e-5) and shift.abs().max() < 1e-2
    assert {n: p.shape for n, p in adapted.named_parameters()} == {n: p.shape for n, p in other.named_parameters()}
    adapted.save_pretrained(tmp_path / "adapter")
    base = getattr(polyllama, name).from_pretrained(saved.of(name))
    again = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.allclose(first(again(IDS)), output, atol=1e-6)
    elsewhere = peft.PeftModel.from_pretrained(
        getattr(transformers, name).from_pretrained(saved.of(name)), tmp_path / "adapter"
    )
    assert torch.allclose(first(elsewhere.eval()(IDS)), output, atol=1e-5)
    merged = again.merge_and_unload()
    assert merged is base and type(merged) is getattr(polyllama, name)
    assert torch.allclose(first(merged(IDS)), output, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    read = getattr(transformers, name).from_pretrained(tmp_path / "merged").eval()
    assert torch.allclose(first(read(IDS)), output, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "cpu", "torch", "jax", "mlx"])
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "LlamaForSequenceClassification"])
def test_the_saved_adapter_on_other_backends(saved: Any, tmp_path: Path, name: str, backend: str) -> None:
    needs = {"cpu": "polyllama.backends.cpu._kernels", "mlx": "mlx.core", "reference": "numpy"}
    pytest.importorskip(needs.get(backend, backend))
    ours, _ = saved.both(name)
    adapted, _ = tuned(ours, lambda: peft.LoraConfig(**LORA, task_type=TASK_TYPES[name]), name)
    adapted.save_pretrained(tmp_path)
    llm = Llama.load(saved.of(name), backend=backend, adapter=tmp_path, task=TASKS[name], dtype="float32")
    found = llm.forward(IDS.tolist()).numpy()["logits"]
    plain = first(saved.both(name)[1].eval()(IDS)).numpy()
    wanted = first(adapted(IDS)).numpy()
    assert np.abs(found - wanted).max() < 2e-5 < np.abs(plain - wanted).max()


OTHERS: dict[str, Callable[[], Any]] = {
    "prompt tuning": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix tuning": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "p-tuning": lambda: peft.PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=16
    ),
    "ia3": lambda: peft.IA3Config(task_type="CAUSAL_LM"),
    "adalora": lambda: peft.AdaLoraConfig(task_type="CAUSAL_LM", total_step=10),
}  # fmt: skip


@pytest.mark.parametrize("method", OTHERS)
def test_other_methods(saved: Any, tmp_path: Path, method: str) -> None:
    ours, theirs = saved.both("LlamaForCausalLM")
    adapted, losses = tuned(ours, OTHERS[method], "LlamaForCausalLM")
    _, wanted = tuned(theirs, OTHERS[method], "LlamaForCausalLM")
    assert np.allclose(losses, wanted, rtol=1e-5)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(saved.both("LlamaForCausalLM")[0], tmp_path).eval()
    assert torch.allclose(first(again(IDS)), first(adapted(IDS)), atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"use_reentrant": False}, {"use_reentrant": True}])
def test_under_gradient_checkpointing(saved: Any, options: dict[str, Any]) -> None:
    found = []
    for model in saved.both("LlamaForCausalLM"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        model.enable_input_require_grads()
        found.append(tuned(model, lambda: peft.LoraConfig(task_type="CAUSAL_LM"), "LlamaForCausalLM")[1])
    assert np.allclose(found[0], found[1], rtol=1e-5)
    model, _ = saved.both("LlamaForCausalLM")
    prepared = peft.prepare_model_for_kbit_training(model)
    assert prepared is model and not any(p.requires_grad for p in model.parameters())
    assert len(set(tuned(prepared, lambda: peft.LoraConfig(**LORA), "LlamaForCausalLM")[1])) == 3


def test_an_adapted_model_generates(saved: Any) -> None:
    ours, theirs = saved.both("LlamaForCausalLM")
    rows = []
    for model in (ours, theirs):
        adapted, _ = tuned(model, lambda: peft.LoraConfig(**LORA, task_type="CAUSAL_LM"), "LlamaForCausalLM")
        given = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "do_sample": False, "pad_token_id": 0}
        rows.append(adapted.generate(**given, max_new_tokens=6))
    assert isinstance(rows[0], torch.Tensor) and torch.equal(rows[0], rows[1]) and rows[0].shape[1] > 4


@pytest.mark.parametrize("method", ["prompt tuning", "p-tuning"])
def test_a_learned_prompt_is_generated_from(saved: Any, method: str) -> None:
    rows = []
    given = {"input_ids": IDS, "attention_mask": torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]]), "do_sample": False}
    for model in saved.both("LlamaForCausalLM"):
        plain = model.generate(**given, max_new_tokens=5, pad_token_id=0)
        adapted, _ = tuned(model, OTHERS[method], "LlamaForCausalLM")
        rows.append(adapted.generate(**given, max_new_tokens=5, pad_token_id=0))
        assert not torch.equal(rows[-1], plain)
    assert torch.equal(*rows)


def test_a_prefix_in_the_cache_is_refused(saved: Any) -> None:
    ours, _ = saved.both("LlamaForCausalLM")
    adapted, _ = tuned(ours, OTHERS["prefix tuning"], "LlamaForCausalLM")
    with pytest.raises(PolyllamaError, match="prepares no inputs_embeds, such as prefix tuning's"):
        adapted.generate(input_ids=IDS, max_new_tokens=3)
    assert ours.generate(IDS, max_new_tokens=3, do_sample=False).shape == (2, 7)


def test_what_peft_says_of_the_model(saved: Any, tmp_path: Path) -> None:
    ours, _ = saved.both("LlamaForCausalLM")
    plain = first(ours(IDS))
    adapted = peft.get_peft_model(ours, peft.LoraConfig(**LORA, task_type="CAUSAL_LM"))
    assert adapted.get_base_model() is ours and adapted.config is ours.config and adapted.device == ours.device
    assert adapted.peft_config["default"].base_model_name_or_path == str(saved.of("LlamaForCausalLM"))
    with adapted.disable_adapter():
        assert torch.equal(first(adapted(IDS)), plain)
    assert not torch.equal(first(adapted(IDS)), plain)
    status = adapted.get_model_status()
    assert status.base_model_type == "LlamaForCausalLM" and status.enabled
    adapted.add_adapter("second", peft.LoraConfig(**LORA, task_type="CAUSAL_LM"))
    adapted.set_adapter("second")
    with pytest.raises(PolyllamaError, match="holds other parameters than its graph"):
        ours.save_pretrained(tmp_path)
    fresh = polyllama.LlamaForCausalLM(polyllama.LlamaConfig(**SIZES))
    made = peft.get_peft_model(fresh, peft.LoraConfig(task_type="CAUSAL_LM"))
    assert made.peft_config["default"].base_model_name_or_path is None


def test_tied_embeddings_stay_tied_in_an_adapter(saved: Any) -> None:
    found = []
    for model in saved.both("LlamaForCausalLM", tie_word_embeddings=True):
        options = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "task_type": "CAUSAL_LM"}
        found.append(tuned(model, lambda options=options: peft.LoraConfig(**LORA, **options), "LlamaForCausalLM")[1])
    assert np.allclose(found[0], found[1], rtol=1e-5)


def test_peft_is_not_needed_to_read_an_adapter() -> None:
    assert importlib.util.find_spec("peft") is not None
    for name in ("polyllama.core.loading.adapter", "polyllama.backends.torch.pretrained"):
        source = importlib.util.find_spec(name)
        assert source is not None and source.origin is not None
        assert "import peft" not in Path(source.origin).read_text(encoding="utf-8")

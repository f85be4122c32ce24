"""transformers' Trainer on the documented classes, unpatched: losses, folders and resuming as with its own models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from polyllama import Llama, LlamaForCausalLM, LlamaForQuestionAnswering, LlamaForSequenceClassification, LlamaTokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from documented_models import IDS  # noqa: E402

ROWS, WIDTH = 8, 8


class Rows(torch.utils.data.Dataset):
    """Rows of ids; classified ones end in padding."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ids = torch.randint(3, 96, (ROWS, WIDTH), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, number: int) -> dict[str, Any]:
        ids, mask = self.ids[number].clone(), torch.ones(WIDTH, dtype=torch.long)
        if self.name == "LlamaForCausalLM":
            return {"input_ids": ids, "attention_mask": mask, "labels": ids.clone()}
        if self.name == "LlamaForQuestionAnswering":  # without padding, which has no part in our loss
            positions = {"start_positions": torch.tensor(number % 3), "end_positions": torch.tensor(number % 3 + 1)}
            return {"input_ids": ids, "attention_mask": mask, **positions}
        if number % 3:
            ids[-(number % 3) :] = 0
        mask = (ids != 0).long()
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(number % 3)}


def trainer(model: Any, name: str, folder: Path, **options: Any) -> Any:
    given: dict[str, Any] = {
        **{"output_dir": str(folder), "max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-2},
        **{"logging_steps": 1, "save_steps": 2, "report_to": [], "use_cpu": True, "seed": 1, "disable_tqdm": True},
    }
    arguments = transformers.TrainingArguments(**given | options)
    return transformers.Trainer(model=model, args=arguments, train_dataset=Rows(name), eval_dataset=Rows(name))


def losses(made: Any) -> list[float]:
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


def trained(model: Any, name: str, folder: Path, **options: Any) -> tuple[Any, list[float]]:
    made = trainer(model, name, folder, **options)
    made.train()
    return made, [*losses(made), made.evaluate()["eval_loss"]]


def assert_trains_alike(saved: Any, tmp_path: Path, name: str, fields: dict[str, Any], **options: Any) -> Any:
    ours, theirs = saved.both(name, **fields)
    made, found = trained(ours, name, tmp_path / "ours", **options)
    _, wanted = trained(theirs, name, tmp_path / "theirs", **options)
    assert np.allclose(found, wanted, atol=1e-5), (found, wanted)
    assert len(set(found)) > 2
    return made


HEADS: dict[str, tuple[Any, dict[str, Any]]] = {
    "LlamaForCausalLM": (LlamaForCausalLM, {}),
    "LlamaForSequenceClassification": (LlamaForSequenceClassification, {"num_labels": 3}),
    "LlamaForQuestionAnswering": (LlamaForQuestionAnswering, {}),
}


@pytest.mark.parametrize("name", HEADS)
def test_train_evaluate_save_and_resume(saved: Any, tmp_path: Path, name: str) -> None:
    kind, fields = HEADS[name]
    made = assert_trains_alike(saved, tmp_path, name, fields)
    model, ids = made.model.eval(), IDS
    wanted = model(ids)[0].detach()
    made.save_model(str(tmp_path / "final"))
    assert (tmp_path / "final" / "config.json").is_file()
    assert torch.equal(kind.from_pretrained(tmp_path / "final")(ids)[0], wanted)
    theirs = getattr(transformers, name).from_pretrained(tmp_path / "final").eval()
    assert torch.allclose(theirs(ids)[0], wanted, atol=1e-5)
    llm = Llama.load(tmp_path / "final", backend="reference")
    assert np.abs(next(iter(llm.forward(ids.tolist()).numpy().values())) - wanted.numpy()).max() < 1e-4
    resumed = trainer(kind.from_pretrained(saved.of(name, **fields)), name, tmp_path / "ours")
    resumed.train(resume_from_checkpoint=str(tmp_path / "ours" / "checkpoint-2"))
    assert np.allclose(losses(resumed), losses(made), atol=1e-6)
    assert torch.allclose(resumed.model.eval()(ids)[0], wanted, atol=1e-6)
    predicted = made.predict(Rows(name)).predictions
    first = predicted[0] if isinstance(predicted, tuple) else predicted
    assert len(first) == ROWS and np.isfinite(first).all()


def test_the_module_of_a_loaded_model(saved: Any, tmp_path: Path) -> None:
    llm = Llama.load(saved.of("LlamaForCausalLM"), backend="torch", dtype="float32")
    _, theirs = saved.both("LlamaForCausalLM")
    made, found = trained(llm.module, "LlamaForCausalLM", tmp_path / "ours")
    assert np.allclose(found, trained(theirs, "LlamaForCausalLM", tmp_path / "theirs")[1], atol=1e-5)
    assert made.model is llm.module
    assert torch.allclose(llm.forward(IDS).logits, llm.module.eval()(IDS).logits, atol=1e-6)


OPTIONS: dict[str, dict[str, Any]] = {
    "gradient checkpointing": {"gradient_checkpointing": True},
    "with re-entrance": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "without": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "every second layer": {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": 2}},
    "accumulation": {"gradient_accumulation_steps": 2},
    "the best at the end": {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "noisy embeddings": {"neftune_noise_alpha": 5},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated")
def test_options_of_training(saved: Any, tmp_path: Path, options: str) -> None:
    made = assert_trains_alike(saved, tmp_path, "LlamaForCausalLM", {}, **OPTIONS[options])
    assert made.model.is_gradient_checkpointing == ("checkpointing" in str(OPTIONS[options]))


def test_in_bfloat16(saved: Any, tmp_path: Path) -> None:
    found = [
        trained(model, "LlamaForCausalLM", tmp_path / str(number), bf16=True)[1]
        for number, model in enumerate(saved.both("LlamaForCausalLM"))
    ]
    assert np.allclose(found[0], found[1], atol=2e-2)


def test_an_adapter_in_the_trainer(saved: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    found = []
    for number, model in enumerate(saved.both("LlamaForCausalLM")):
        torch.manual_seed(2)
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM"))
        made, values = trained(adapted, "LlamaForCausalLM", tmp_path / str(number))
        made.save_model(str(tmp_path / f"adapter-{number}"))
        found.append(values)
    assert np.allclose(found[0], found[1], atol=1e-5)
    llm = Llama.load(saved.of("LlamaForCausalLM"), backend="reference", adapter=tmp_path / "adapter-0")
    wanted = adapted.eval()(IDS).logits.detach().numpy()
    assert np.abs(llm.forward(IDS.tolist()).numpy()["logits"] - wanted).max() < 1e-4


COLLATORS: dict[str, Callable[[Any], Any]] = {
    "language modelling": lambda tokenizer: transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False),
    "padding": lambda tokenizer: transformers.DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
}


@pytest.mark.parametrize("collator", COLLATORS)
@pytest.mark.filterwarnings("ignore:.*deprecat")
def test_collators_take_our_tokenizer(tmp_path: Path, collator: str) -> None:
    folder = Path(__file__).resolve().parents[2] / "models" / "tiny"
    texts = ["Once upon a time", "The sun", "Lily and Tom went to the park."]
    batches, tokenizers = [], []
    for tokenizer in (LlamaTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)):
        tokenizer.pad_token = tokenizer.eos_token
        rows = [dict(tokenizer(text)) for text in texts]
        batches.append(COLLATORS[collator](tokenizer)(rows))
        tokenizers.append(tokenizer)
    ours, theirs = batches
    assert set(ours) >= {"input_ids", "attention_mask"}
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    if collator == "padding":
        return
    model = LlamaForCausalLM.from_pretrained(folder, dtype="float32")
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True
    )
    tokens = [dict(tokenizers[0](text)) for text in texts]
    made = transformers.Trainer(
        model, arguments, COLLATORS[collator](tokenizers[0]), tokens, processing_class=tokenizers[0]
    )
    made.train()
    made.save_model(str(tmp_path / "final"))
    again = Llama.load(tmp_path / "final", backend="reference")
    assert again.tokenizer("Once")["input_ids"] == tokenizers[0]("Once")["input_ids"]
    assert (
        transformers.AutoTokenizer.from_pretrained(tmp_path / "final")("Once")["input_ids"]
        == again.tokenizer("Once")["input_ids"]
    )

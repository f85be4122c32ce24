"""Loading heads, their losses and dropout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polyllama
import pytest
from head_models import IDS, SEQUENCE, SPAN, TOKEN, TOLERANCE, Heads, agree, fresh, oracle
from polyllama import Llama, LlamaConfig, PolyllamaWarning
from polyllama.core.api import task_classes
from polyllama.core.errors import ConfigError, InputError, PolyllamaError, UnsupportedError
from tiny_models import ALL_BACKENDS, SIZES, relative_error


class TestDropout:
    @pytest.mark.parametrize(
        ("fields", "wanted"),
        [
            ({}, 0.1),
            ({"hidden_dropout": 0.3}, 0.3),
            ({"hidden_dropout": 0.3, "classifier_dropout": 0.2}, 0.2),
            ({"classifier_dropout": 0.0}, 0.0),
        ],
    )
    def test_which_probability(self, fields: dict[str, float], wanted: float) -> None:
        head: Any = fresh(TOKEN, **fields).graph.head
        assert head.steps[0].p == wanted

    @pytest.mark.parametrize("backend", [name for name in ALL_BACKENDS if name in ("torch", "mlx")])
    @pytest.mark.parametrize("field", ["classifier_dropout", "attention_dropout"])
    def test_only_while_training(self, backend: str, field: str) -> None:
        llm = fresh(TOKEN, backend, **({"classifier_dropout": 0.0} | {field: 0.5}))
        before = llm.forward(IDS).numpy()["logits"]
        llm.module.train()
        first, second = (llm.forward(IDS).numpy()["logits"] for _ in range(2))
        assert relative_error(first, before) > 0.01 and relative_error(first, second) > 0.01
        llm.module.eval()
        assert np.array_equal(llm.forward(IDS).numpy()["logits"], before)
        still = fresh(TOKEN, backend, classifier_dropout=0.0)
        still.module.train()
        assert relative_error(still.forward(IDS).numpy()["logits"], before) < TOLERANCE


class TestLoading:
    def test_a_fresh_head_is_said_once_by_name_and_seeded(self, tiny_models: Any) -> None:
        folder = tiny_models()[1]
        for task, names in ((SEQUENCE, "score.weight"), (SPAN, "qa_outputs.weight, qa_outputs.bias")):
            with pytest.warns(PolyllamaWarning, match=f"{names} not stored, starting from random") as said:
                llm = Llama.load(folder, task=task, backend="reference", num_labels=3)
            assert len(said) == 1 and "lm_head.weight not used" in str(said[0].message)
            with pytest.warns(PolyllamaWarning):
                again = Llama.load(folder, task=task, backend="torch", num_labels=3)
            with pytest.warns(PolyllamaWarning):
                other = Llama.load(folder, task=task, backend="reference", num_labels=3, seed=1)
            ours, same, differs = (dict(state(each)) for each in (llm, again, other))
            name = names.partition(",")[0]
            assert np.array_equal(ours[name], same[name]) and not np.array_equal(ours[name], differs[name])
            assert 0.1 < ours[name].std() < 0.2  # initializer_range is 0.15
            assert not ours.get("qa_outputs.bias", np.zeros(1)).any()
            trunk = next(n for n in ours if n.endswith("layers.1.mlp.up_proj.weight"))
            assert np.array_equal(ours[trunk], differs[trunk])

    @pytest.mark.parametrize("task", [SEQUENCE, TOKEN, SPAN, "embedding", "base", "causal-lm"])
    def test_a_saved_head_comes_back_by_itself(self, task: str, tmp_path: Path) -> None:
        import transformers

        labels = {0: "no", 1: "yes", 2: "perhaps"}
        llm = fresh(task, id2label=labels)
        saved = json.loads((llm.save(tmp_path) / "config.json").read_text())
        assert saved["architectures"] == [llm._loaded.task.architecture]
        assert saved["id2label"] == {"0": "no", "1": "yes", "2": "perhaps"} and "problem_type" not in saved
        again = Llama.load(tmp_path, backend="reference")
        assert again.task == task and again.config.id2label == labels
        for name, value in llm.forward(IDS).numpy().items():
            assert np.array_equal(again.forward(IDS).numpy()[name], value)
        if task != "embedding":
            theirs = getattr(transformers, saved["architectures"][0]).from_pretrained(tmp_path, dtype="float32").eval()
            agree(again.forward(IDS), oracle(theirs, IDS))

    def test_what_was_chosen_for_a_task_is_saved(self, tmp_path: Path) -> None:
        config = LlamaConfig(**SIZES, pad_token_id=0)
        llm = Llama.load(config, task="embedding", pooling="last", load_format="dummy", backend="reference")
        again = Llama.load(llm.save(tmp_path), backend="reference")
        assert again.graph.head == llm.graph.head and again.graph.head.pooling == "last"  # type: ignore[union-attr]
        assert Llama.load(tmp_path, task="embedding", pooling="mean", backend="reference").graph.head != llm.graph.head
        with pytest.raises(ConfigError, match="pooling is 'max', which task 'embedding' does not know"):
            Llama.load(tmp_path, task="embedding", pooling="max", backend="reference")
        with pytest.raises(InputError, match="no argument 'pooling'"):
            Llama.load(tmp_path, task="base", pooling="last", backend="reference")

    def test_embeddings_of_a_language_model_and_of_its_trunk(self, tiny_models: Any, tmp_path: Path) -> None:
        model, folder = tiny_models()
        model.model.save_pretrained(tmp_path)
        whole = Llama.load(folder, task="embedding", backend="reference")  # without a word about its lm_head
        with pytest.warns(PolyllamaWarning, match=r"lm_head\.weight not used"):
            Llama.load(folder, task="base", backend="reference")
        trunk = Llama.load(tmp_path, task="embedding", backend="reference")
        mask = np.ones_like(IDS)
        found, wanted = (each.forward(IDS, attention_mask=mask).numpy()["embeddings"] for each in (whole, trunk))
        assert np.array_equal(found, wanted)

    def test_another_number_of_labels(self, heads: Heads) -> None:
        _, folder = heads("ForSequenceClassification", num_labels=4)
        assert Llama.load(folder, num_labels=4, backend="reference").config.num_labels == 4
        with pytest.raises(PolyllamaError, match=r"score was trained for 4 labels, the config says 2.*fresh_head=True"):
            Llama.load(folder, num_labels=2, backend="reference")
        with pytest.warns(PolyllamaWarning, match="score.weight left aside as asked, starting from random"):
            llm = Llama.load(folder, id2label={0: "bad", 1: "good"}, fresh_head=True, backend="reference")
        assert llm.forward(IDS).numpy()["logits"].shape == (3, 2) and llm.config.label2id == {"bad": 0, "good": 1}
        with pytest.warns(PolyllamaWarning, match=r"score\.bias not stored.*score\.weight left aside"):
            Llama.load(folder, task=TOKEN, num_labels=2, fresh_head=True, backend="reference")
        with pytest.raises(PolyllamaError, match=r"token classification has score\.bias.*fresh_head=True"):
            Llama.load(folder, task=TOKEN, backend="reference")
        with pytest.raises(InputError, match="fresh_head: task 'base' has no head weights"):
            Llama.load(folder, task="base", fresh_head=True, backend="reference")

    def test_labels_that_contradict_each_other(self, heads: Heads) -> None:
        _, folder = heads("ForSequenceClassification", num_labels=4)
        with pytest.raises(ConfigError, match="num_labels=3 contradicts the 2 labels"):
            Llama.load(folder, num_labels=3, id2label={0: "a", 1: "b"})
        with pytest.raises(ConfigError, match=r"label2id.*contradicts id2label"):
            Llama.load(folder, label2id={"a": 1, "b": 0}, id2label={0: "a", 1: "b"})

    def test_a_number_of_labels_keeps_the_names_there_are(self, tmp_path: Path) -> None:
        fresh(SEQUENCE, id2label={0: "no", 1: "yes", 2: "perhaps"}).save(tmp_path)
        assert LlamaConfig.from_pretrained(tmp_path, num_labels=3).id2label[2] == "perhaps"
        assert LlamaConfig.from_pretrained(tmp_path, num_labels=4).id2label[2] == "LABEL_2"

    @pytest.mark.parametrize("seed", [-1, 1.5, True])
    def test_a_seed_that_is_none(self, seed: Any) -> None:
        with pytest.raises(InputError, match="wanted an integer from 0 up"):
            Llama.load(LlamaConfig(**SIZES), load_format="dummy", seed=seed)

    def test_every_class_has_its_task(self, heads: Heads) -> None:
        for kind, task in (
            ("ForSequenceClassification", SEQUENCE),
            ("ForTokenClassification", TOKEN),
            ("ForQuestionAnswering", SPAN),
            ("Model", "base"),
        ):
            cls = getattr(polyllama, f"Llama{kind}")
            llm = cls.from_pretrained(heads(kind)[1], backend="reference")
            assert type(llm) is getattr(task_classes, f"Llama{kind}") and isinstance(llm, cls) and llm.task == task
            assert f"Llama{kind}" in polyllama.__all__
            if not issubclass(cls, Llama):  # where torch is installed
                module = cls.from_pretrained(heads(kind)[1])
                assert type(module) is cls and module.task == task
            with pytest.raises(InputError, match=f"is for task '{task}'"):
                cls.load(heads(kind)[1], task="causal-lm")
        assert polyllama.LlamaForTokenClassification(LlamaConfig(**SIZES), backend="reference").task == TOKEN
        with pytest.raises(UnsupportedError, match="does not generate"):
            llm.generate("Once")


def state(llm: Llama) -> Any:
    return ((info.name, np.asarray(read(), np.float64)) for info, read in llm.model.state())


class TestLosses:
    def test_binary_cross_entropy_of_extremes(self) -> None:
        from polyllama.core.tasks.losses import binary_cross_entropy

        logits = np.float32([-1e4, 1e4, 30, -30, 0])
        targets = np.float32([0, 1, 1, 0, 0])
        assert float(binary_cross_entropy(np, logits, targets, 1)) == pytest.approx(2 * 9.357623e-14 + np.log(2))
        assert float(binary_cross_entropy(np, logits[:1], 1 - targets[:1])) == 1e4

    def test_cross_entropy_of_extremes(self) -> None:
        """Of logits whose exponentials float32 does not hold: the same loss wherever the largest of them lies."""
        from polyllama.core.tasks.losses import cross_entropy

        for largest in (-1e4, -100.0, 100.0, 1e4):
            logits = np.float32([[largest, largest - 1, largest - 2]])
            for label in range(3):
                wanted = label + np.log(1 + np.exp(-1) + np.exp(-2))
                # Differences are exact; three exponentials, two sums, a logarithm and a difference round.
                assert abs(float(cross_entropy(np, logits, np.array([label]))) - wanted) < 16 * 2.0**-24 * (1 + wanted)

    def test_its_gradient_where_a_new_head_starts(self) -> None:
        import array_api_compat.torch as xp
        import torch
        from polyllama.core.tasks.losses import binary_cross_entropy

        logits = torch.zeros(2, requires_grad=True)
        binary_cross_entropy(xp, logits, torch.tensor([1.0, 0.0]), 1).backward()
        assert logits.grad.tolist() == [-0.5, 0.5]

    def test_a_loss_refuses_shapes_that_would_broadcast(self) -> None:
        """Where labels are traced or on another device nothing else looks at them."""
        from polyllama.plugins.tasks.question_answering import QuestionAnswering
        from polyllama.plugins.tasks.sequence_classification import SequenceClassification
        from polyllama.plugins.tasks.token_classification import TokenClassification

        with pytest.raises(InputError, match=r"\[3\], wanted \[2\]"):
            SequenceClassification().loss(np, {"logits": np.ones((2, 1))}, labels=np.ones(3))
        with pytest.raises(InputError, match=r"\[2\], wanted \[2, 3\]"):
            TokenClassification().loss(np, {"logits": np.ones((2, 3, 4))}, labels=np.ones(2, int))
        logits, ones = np.ones((2, 3)), np.ones(1, int)
        with pytest.raises(InputError, match=r"\[1\], wanted \[2\]"):
            QuestionAnswering().loss(
                np, {"start_logits": logits, "end_logits": logits}, start_positions=ones, end_positions=ones
            )


def test_graphs_with_heads_survive_json() -> None:
    from polyllama.core.graph.graph import Graph

    for task in (SEQUENCE, TOKEN, SPAN, "embedding"):
        graph = fresh(task).graph
        assert Graph.from_json(graph.to_json()) == graph

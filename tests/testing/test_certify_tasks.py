"""Heads of other people's packages in the conformance kit: examples of their own, and what is said without any."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from polyllama.core.plugin_system.manager import reset_plugins
from polyllama.extend import TaskDescriptor, hookimpl, plugin_manager
from polyllama.testing.candidate import Candidate
from polyllama.testing.catalogue import all_checks
from polyllama.testing.checks import Result, run_check
from polyllama.testing.probes import SIZES
from sabotage import SpecBackend

STRANGERS = '''
import numpy as np
from polyllama.extend import Chain, InputError, Linear, ModelOutput, Pool, SequenceClassifierOutput, Task

class Ranker(Task):
    """Each row and its rival, the next one: the better should score higher, by a margin of its own."""

    name, architecture, output_type = "ranker", "LlamaForRanking", SequenceClassifierOutput
    labels, outputs_per = ("margins", "strengths"), "row"

    def head(self, config, decoder):
        return Chain((Pool("mean", config.pad_token_id), Linear("rank", config.hidden_size, 1, True, role="head")))

    def outputs(self, ctx, raw, hidden):
        return {"logits": ctx.widen(raw)}

    def check_labels(self, config, labels, attended):
        for name in self.labels:
            if labels[name].dtype.kind != "f" or labels[name].shape != (len(attended) // 2, 3):
                raise InputError(f"{name} are of another kind")

    def loss(self, xp, outputs, margins, strengths, **options):
        scores = outputs["logits"][:, 0]
        away = (scores[0::2] - scores[1::2])[:, None] - xp.astype(margins, scores.dtype)
        return xp.mean(away * away * xp.astype(strengths, scores.dtype))

class WithExamples(Ranker):
    name = "ranker-with-examples"

    def examples(self, config):
        ids = np.arange(1, 25).reshape(4, 6) % config.vocab_size
        margins = np.array([[0.5, 1.0, 0.25], [-0.5, 0.0, 2.0]])
        mask = np.ones_like(ids)
        mask[1, :2] = 0
        strengths = np.array([[1.0, 2.0, 0.5]] * 2)
        return [{"input_ids": ids, "attention_mask": mask, "margins": margins, "strengths": strengths}]

class WrongExamples(WithExamples):
    name = "ranker-of-wrong-examples"

    def examples(self, config):
        return [given | {"margins": np.array([1, 2])} for given in super().examples(config)]

class Careless(Ranker):
    """Raises whatever comes, for labels of another form."""

    name = "careless"

    def check_labels(self, config, labels, attended):
        pass

    def loss(self, xp, outputs, margins, strengths, **options):
        raise KeyError("what")

class Lossless(Ranker):
    name = "lossless"
    loss = Task.loss
'''
NAMES = {
    "ranker": "Ranker",
    "ranker-with-examples": "WithExamples",
    "ranker-of-wrong-examples": "WrongExamples",
    "careless": "Careless",
    "lossless": "Lossless",
}


class Strangers:
    @hookimpl
    def polyllama_tasks(self) -> list[TaskDescriptor]:
        return [TaskDescriptor(name, f"strangers_heads:{cls}", "a head of a test") for name, cls in NAMES.items()]


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "strangers_heads.py").write_text(STRANGERS)
    sys.path.insert(0, str(folder))
    reset_plugins()
    plugin_manager().register(Strangers(), "strangers")
    yield all_checks()
    reset_plugins()
    sys.path.remove(str(folder))
    sys.modules.pop("strangers_heads", None)


def outcome(checks: Any, name: str, backend: Any = None) -> Result:
    return run_check(checks[name], Candidate(backend or SpecBackend(), "float32"))


def trained() -> Any:
    from polyllama.core.backend.choice import choose_backend

    return choose_backend("torch:cpu", plugin_manager().backends()).backend


def test_a_loss_is_tried_on_the_tasks_own_examples(checks: Any) -> None:
    assert outcome(checks, "task.ranker-with-examples").status == "passed"
    result = outcome(checks, "gradients.ranker-with-examples", trained())
    assert result.status == "passed" and result.bound > 0


def test_a_wrong_loss_is_caught_by_them(checks: Any) -> None:
    result = outcome(checks, "task.ranker-with-examples", _LosingBackend())
    assert result.status == "failed" and "loss for margins [2, 3] and strengths [2, 3], padded" in result.detail


class _LosingBackend(SpecBackend):
    """Gives a loss that is a little too large."""

    def realize(self, *args: Any, **options: Any) -> Any:
        model = super().realize(*args, **options)
        forward = model.forward

        def more(arguments: Any) -> Any:
            output = forward(arguments)
            if output.loss is not None:
                output.loss = output.loss * 1.01
            return output

        model.forward = more
        return model


@pytest.mark.parametrize("name", ["ranker", "careless"])
def test_without_examples_the_loss_is_skipped_by_name(name: str, checks: Any) -> None:
    result = outcome(checks, f"task.{name}")
    assert (result.status, result.error) == ("skipped", 0.0)
    assert result.detail == (
        "its outputs are right; its loss is not tried: margins and strengths of no usual form are taken, and the task "
        "gives no examples"
    )
    result = outcome(checks, f"gradients.{name}", trained())
    assert result.status == "skipped" and result.detail.startswith("its loss is not tried: margins and strengths")


def test_an_example_that_makes_no_loss_is_the_tasks_fault(checks: Any) -> None:
    for check, backend in (("task", None), ("gradients", trained())):
        result = outcome(checks, f"{check}.ranker-of-wrong-examples", backend)
        assert result.status == "failed" and "example 0 of task 'ranker-of-wrong-examples'" in result.detail


def test_a_task_without_a_loss_is_tried_for_its_outputs(checks: Any) -> None:
    assert outcome(checks, "task.lossless").status == "passed"
    assert outcome(checks, "gradients.lossless", trained()).status == "passed"


@pytest.mark.parametrize("task", ["causal-lm", "sequence-classification", "token-classification", "question-answering"])
def test_the_losses_of_our_own_are_tried_padded_too(task: str, checks: Any) -> None:
    from polyllama.testing.checks_tasks import passes, probe_of

    descriptor = plugin_manager().tasks()[task]
    tried = list(passes(probe_of(task, descriptor.load)))
    padded = [given for given in tried if "attention_mask" in given]
    assert len(tried) > len(padded) == 1
    assert SIZES["pad_token_id"] in padded[0]["input_ids"]

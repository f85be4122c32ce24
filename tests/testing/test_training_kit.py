"""The conformance kit's checks of gradients: wrong ones are caught, right ones pass, who does not train is skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from polyllama.backends.reference.backend import ReferenceBackend
from polyllama.testing.candidate import Candidate
from polyllama.testing.catalogue import all_checks
from polyllama.testing.certificate import certify
from polyllama.testing.checks import Result, run_check

torch = pytest.importorskip("torch")

from polyllama.backends.torch.backend import TorchBackend  # noqa: E402

LAYER = "model.layers.{}.self_attn.q_proj.weight"


class Broken(TorchBackend):
    """The torch backend with something done to its models."""

    def __init__(self, breaks: Callable[[Any], None]) -> None:
        self.breaks = breaks

    def realize(self, *arguments: Any, **named: Any) -> Any:
        model = super().realize(*arguments, **named)
        self.breaks(model)
        return model


def after(change: Callable[[dict[str, Any]], None]) -> Callable[[Any], None]:
    """Change the gradients that a model gives."""

    def breaks(model: Any) -> None:
        right = model.value_and_gradients

        def wrong(*arguments: Any, **named: Any) -> Any:
            value, found = right(*arguments, **named)
            change(found)
            return value, found

        model.value_and_gradients = wrong

    return breaks


def scaled(found: dict[str, Any]) -> None:
    found[LAYER.format(1)] = found[LAYER.format(1)] * 1.001


def exchanged(found: dict[str, Any]) -> None:
    found[LAYER.format(0)], found[LAYER.format(1)] = found[LAYER.format(1)], found[LAYER.format(0)]


def missing(found: dict[str, Any]) -> None:
    del found[LAYER.format(1)]


def flat(found: dict[str, Any]) -> None:
    found[LAYER.format(1)] = found[LAYER.format(1)].reshape(-1)


def not_a_number(found: dict[str, Any]) -> None:
    found["model.norm.weight"][3] = float("nan")


def cut_off(model: Any) -> None:
    """No gradient goes through the keys of the first layer."""
    model.module.model.layers[0].self_attn.k_proj.register_forward_hook(lambda *given: given[2].detach())


def untied(model: Any) -> None:
    """The head's part of a tied weight's gradient is lost."""
    model.module.lm_head.register_forward_hook(
        lambda module, given, _: torch.nn.functional.linear(given[0], module.weight.detach())
    )


def run(backend: Any, check: str = "gradients.model", dtype: str = "float32") -> Result:
    return run_check(all_checks()[check], Candidate(backend, dtype))


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (after(scaled), "slope along model.layers.*.self_attn.q_proj.weight"),
        (after(exchanged), "slope along model.layers.*.self_attn.q_proj.weight"),
        (after(missing), "no gradient of model.layers.1.self_attn.q_proj.weight"),
        (after(flat), "the gradient of model.layers.1.self_attn.q_proj.weight has shape [2304], not [48, 48]"),
        (after(not_a_number), "the gradient of model.norm.weight is nan"),
        (cut_off, "slope along model.layers.*.self_attn.k_proj.weight"),
        (untied, "slope along model.embed_tokens.weight"),
    ],
)
def test_a_wrong_gradient_is_caught_and_named(breaks: Callable[[Any], None], says: str) -> None:
    result = run(Broken(breaks))
    assert result.status == "failed" and result.detail.startswith(says), result
    assert run(Broken(lambda model: None)).status == "passed"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_wrong_loss_is_caught(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss whose value is right, as the other checks see, and whose gradient is not."""
    from polyllama.core.tasks import losses

    right = losses.log_softmax

    def without_its_sum(xp: Any, logits: Any) -> Any:
        if not isinstance(logits, torch.Tensor):
            return right(xp, logits)
        y = right(xp, logits)
        return logits + (y - logits).detach()

    monkeypatch.setattr(losses, "log_softmax", without_its_sum)
    assert run(TorchBackend(), "task.token-classification", dtype).status == "passed"
    assert run(TorchBackend(), "gradients.token-classification", dtype).status == "failed"
    monkeypatch.setattr(losses, "log_softmax", right)
    assert run(TorchBackend(), "gradients.token-classification", dtype).status == "passed"


def test_who_does_not_train_is_skipped_and_who_only_says_so_fails() -> None:
    assert run(ReferenceBackend()).status == "skipped"
    assert "does not declare that it trains" in run(ReferenceBackend()).detail
    assert run(TorchBackend(), dtype="bfloat16").status == "skipped"

    class Boasts(ReferenceBackend):
        trains = True

    result = run(Boasts())
    assert result.status == "failed" and "its model has no value_and_gradients" in result.detail
    certificate = certify(Boasts(), dtypes=["float32"], only=["gradients.base"])
    assert not certificate.passed

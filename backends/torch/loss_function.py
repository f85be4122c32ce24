"""A head's loss as a function of logits and labels, for whoever writes a forward pass of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import array_api_compat.torch as xp
from torch import Tensor

from ...core.errors import InputError, UnsupportedError
from ...core.messages import mention
from ...core.tasks.losses import IGNORE_INDEX, cross_entropy
from .inputs import widened

if TYPE_CHECKING:
    from ...core.config.schema import LlamaConfig
    from ...core.tasks.task import Task


def loss_function(task: Task, config: LlamaConfig) -> Callable[..., Tensor]:
    """The function that ``model.loss_function`` is, with transformers' arguments.

    That of a head without a loss raises ``UnsupportedError``.
    """
    if task.labels not in ((), ("labels",)):
        return _of_several(task, config)

    def loss(
        logits: Tensor | None = None,
        labels: Tensor | None = None,
        vocab_size: int | None = None,
        num_items_in_batch: Any = None,
        ignore_index: int = IGNORE_INDEX,
        shift_labels: Tensor | None = None,
        *,
        pooled_logits: Tensor | None = None,
        config: Any = config,
    ) -> Tensor:
        """The loss of `logits` against `labels`, both not shifted; of a language model ``[B, S, vocab_size]``.

        Args:
            vocab_size: taken as documented; the logits' last axis tells it.
            num_items_in_batch: divide the sum by this instead of by the number of labels that count.
            ignore_index: the label of what does not count.
            shift_labels: labels that stand beside the logits that they are for, instead of `labels`.
            pooled_logits: the logits of a classifier of texts, ``[B, num_labels]``.
        """
        logits = logits if pooled_logits is None else pooled_logits
        labels, shift_labels = widened(labels), widened(shift_labels)
        if not task.labels:
            raise UnsupportedError(f"task {task.name!r} has no loss", hint="compute one from its output")
        if logits is None or (labels is None and shift_labels is None):
            raise InputError("the loss function needs logits and labels")
        if shift_labels is not None:
            flat, beside = logits.float().reshape(-1, logits.shape[-1]), shift_labels.reshape(-1)
            beside = beside.masked_fill(beside == ignore_index, IGNORE_INDEX)
            return cross_entropy(xp, flat, beside.to(logits.device), num_items_in_batch)  # type: ignore[no-any-return]
        assert labels is not None
        if ignore_index != IGNORE_INDEX:
            labels = labels.masked_fill(labels == ignore_index, IGNORE_INDEX)
        options = {"config": config, "num_items_in_batch": num_items_in_batch}
        return task.loss(xp, {"logits": logits.float()}, labels=labels.to(logits.device), **options)  # type: ignore[no-any-return]

    return loss


def _of_several(task: Task, config: LlamaConfig) -> Callable[..., Tensor]:
    """Of a head with several outputs and labels, given by their names: those of a question answering head."""
    outputs = ("start_logits", "end_logits")

    def loss(*given: Tensor, **named: Any) -> Tensor:
        names = (*outputs, *task.labels)
        arguments = {**dict(zip(names, given, strict=False)), **named}
        unknown = sorted(set(arguments) - {*names, "num_items_in_batch"})
        missing = [name for name in names if name not in arguments]
        if unknown or missing:
            raise InputError(
                "the loss function takes " + ", ".join(names), hint="leave out " + unknown[0] if unknown else None
            )
        labels = {name: arguments[name] for name in task.labels}
        options = {"config": config, "num_items_in_batch": arguments.get("num_items_in_batch")}
        return task.loss(xp, {name: arguments[name].float() for name in outputs}, **labels, **options)  # type: ignore[no-any-return]

    return loss


def refuse_another(value: Any) -> None:
    """Refuse to be given another loss: the passes of every backend take the head's."""
    raise UnsupportedError(
        mention("loss_function") + " is the head's and cannot be set",
        hint="compute your loss from output.logits, or write a head with a loss of its own (docs/plugins.md)",
    )

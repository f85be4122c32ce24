"""Classifying or scoring whole texts: one result per row, from its last token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...core.errors import InputError
from ...core.graph.node import Node
from ...core.graph.nodes import Chain, Decoder, Linear, Pool
from ...core.tasks.labels import check_classes, check_finite, check_integers, check_shape
from ...core.tasks.losses import binary_cross_entropy, cross_entropy, mean_squared_error
from ...core.tasks.outputs import SequenceClassifierOutput
from ...core.tasks.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from ...core.config.schema import LlamaConfig
    from ...core.graph.node import Context
    from ...core.tasks.results import Label
    from ...core.tasks.windows import Example

REGRESSION, SINGLE_LABEL, MULTI_LABEL = "regression", "single_label_classification", "multi_label_classification"


class SequenceClassification(Task):
    """``score``, without a bias, on the last token of each row's text.

    The attention mask says which that is; without one it is the rightmost that is not ``pad_token_id``. Labels are, by
    ``config.problem_type`` or as it is inferred from them, and never written down:

    - regression (the model has one label): numbers ``[B]``; mean squared error;
    - single-label classification (integers): ``[B]`` numbers of labels, -100 ignored; cross entropy;
    - multi-label classification (floats or booleans): ``[B, num_labels]`` from 0 to 1; binary cross entropy.
    """

    name = "sequence-classification"
    architecture = "LlamaForSequenceClassification"
    output_type = SequenceClassifierOutput
    outputs_per = "row"
    optional_texts = ("text_pair",)

    def head(self, config: LlamaConfig, decoder: Decoder) -> Node:
        score = Linear("score", config.hidden_size, config.num_labels, role="head")
        return Chain((Pool("last", config.pad_token_id), score))

    def outputs(self, ctx: Context, raw: Any, hidden: Any) -> dict[str, Any]:
        return {"logits": ctx.widen(raw)}

    def check_labels(self, config: LlamaConfig, labels: Mapping[str, np.ndarray], attended: np.ndarray) -> None:
        given, count = labels["labels"], config.num_labels
        problem = problem_type(config.problem_type, count, integers=given.dtype.kind in "iu")
        _check_shape(problem, tuple(given.shape), len(attended), count)
        if problem == SINGLE_LABEL:
            check_integers(given, hint=f"the config's problem_type is {problem}")
            check_classes(given, count)
            return
        check_finite(given)
        if problem == MULTI_LABEL and (given.min() < 0 or given.max() > 1):
            wrong = given[(given < 0) | (given > 1)][0]
            raise InputError(f"labels hold {wrong:g}, those of {problem} go from 0 to 1")

    def loss(self, xp: Any, outputs: Mapping[str, Any], labels: Any, **options: Any) -> Any:
        logits, num_items = outputs["logits"], options.get("num_items_in_batch")
        batch, count = logits.shape
        config = options.get("config")
        asked = None if config is None else config.problem_type
        problem = problem_type(asked, count, integers=xp.isdtype(labels.dtype, "integral"))
        _check_shape(problem, tuple(labels.shape), batch, count)
        if problem == SINGLE_LABEL:
            return cross_entropy(xp, logits, xp.reshape(labels, (batch,)), num_items)
        targets = xp.reshape(xp.astype(labels, logits.dtype), (batch, count))
        measure = mean_squared_error if problem == REGRESSION else binary_cross_entropy
        return measure(xp, logits, targets, num_items)

    def result(
        self, example: Example, *, top_k: int | str | None = None, function_to_apply: str | None = None
    ) -> Label | list[Label]:
        """The likeliest label with its probability; for regression the value under its label, or a list of several.

        Probabilities are a softmax over the labels, or for multi-label problems each label's own.

        Args:
            top_k: a list of the best so many labels instead, or ``"all"`` of them.
            function_to_apply: ``"softmax"``, ``"sigmoid"`` or ``"none"`` instead of what the problem's type says.
        """
        import numpy as np

        from ...core.tasks.option_checks import check_top_k
        from ...core.tasks.results import Label
        from ...core.tasks.scores import sigmoid, softmax

        functions: dict[str, Callable[[np.ndarray], np.ndarray]]
        functions = {"softmax": softmax, "sigmoid": sigmoid, "none": np.asarray}
        problem = problem_type(example.config.problem_type, example.config.num_labels, integers=True)
        usual = {REGRESSION: "none", MULTI_LABEL: "sigmoid", SINGLE_LABEL: "softmax"}[problem]
        name = usual if function_to_apply is None else function_to_apply
        if name not in functions:
            raise InputError(f"function_to_apply is {name!r:.80}", hint=f"one of {', '.join(functions)}")
        count = check_top_k(top_k, everything=example.config.num_labels)
        scores = functions[name](example.output["logits"]).tolist()
        labels = [Label(example.config.id2label[number], score) for number, score in enumerate(scores)]
        if problem == REGRESSION and count is None and len(labels) > 1:
            return labels  # none of several values is the answer
        labels.sort(key=lambda label: -label.score)
        return labels[0] if count is None else labels[:count]


def problem_type(asked: str | None, num_labels: int, *, integers: bool) -> str:
    """What kind of problem labels pose, where the config does not say.

    >>> problem_type(None, 3, integers=True)
    'single_label_classification'
    """
    if asked is not None:
        return asked
    if num_labels == 1:
        return REGRESSION
    return SINGLE_LABEL if integers else MULTI_LABEL


def _check_shape(problem: str, shape: tuple[int, ...], batch: int, count: int) -> None:
    """``[B]`` where a row has one label, ``[B, 1]`` too; else ``[B, num_labels]``."""
    one = problem == SINGLE_LABEL or count == 1
    if one and shape == (batch, 1):
        return
    hint = None
    if problem == SINGLE_LABEL and shape == (batch, count):
        hint = "several labels per row are given as floats"
    elif problem == MULTI_LABEL and shape == (batch,):
        hint = "classes are given as integers; a single number per row is for num_labels=1"
    check_shape(shape, (batch,) if one else (batch, count), f"labels of {problem}", hint)

"""Pipelines of tasks that say something about texts: labels, entities, answers, features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import InputError
from ...tasks.results import as_data
from .base import Pipeline
from .options import flag


class TextClassification(Pipeline):
    """``[{"label": ..., "score": ...}]``; with ``top_k`` (``None`` for all labels) such a list for each text.

    ``return_all_scores=True`` gives every label too, in the order of their numbers.
    """

    own = ("return_all_scores",)

    def _call(self, inputs: Any, options: dict[str, Any]) -> Any:
        every = flag(options, "return_all_scores")
        if every is not None and "top_k" in options:
            raise InputError("return_all_scores and top_k are both given", hint="give top_k, which came after it")
        if every or ("top_k" in options and options["top_k"] is None):
            options["top_k"] = "all"
        function = options.get("function_to_apply")
        if isinstance(function, str):
            options["function_to_apply"] = function.lower()
        found = super()._call(inputs, options)
        if every:
            return self._by_number(inputs, found)
        return [found] if isinstance(inputs, str) and isinstance(found, dict) else found

    def _by_number(self, inputs: Any, found: list[Any]) -> list[Any]:
        """Every label in the order of the config; of one text a list of such a list."""
        numbers = {label: number for number, label in self.llm.config.id2label.items()}

        def ordered(row: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return sorted(row, key=lambda label: numbers[label["label"]])

        if isinstance(inputs, Mapping):
            return ordered(found)
        return [ordered(row) for row in ([found] if isinstance(inputs, str) else found)]


class TokenClassification(Pipeline):
    """A list of dictionaries for each text: ``entity`` and ``index``, or ``entity_group``; ``score``, ``word``, places.

    By the documented default tokens are not put together: ``aggregation_strategy="none"``.
    """

    def _call(self, inputs: Any, options: dict[str, Any]) -> Any:
        return super()._call(inputs, {"aggregation_strategy": "none"} | options)


class QuestionAnswering(Pipeline):
    """``{"score", "start", "end", "answer"}``, or with ``top_k`` above 1 a list of them.

    Called as ``(question=..., context=...)``, as ``(question, context)``, or with a mapping of both or a list of them.
    """

    def _first(self, inputs: Any, more: tuple[Any, ...], given: dict[str, Any]) -> Any:
        if len(more) == 1 and isinstance(inputs, str) and not {"question", "context"} & set(given):
            given |= {"question": inputs, "context": more[0]}
            return None
        return super()._first(inputs, more, given)

    def _call(self, inputs: Any, options: dict[str, Any]) -> Any:
        if options.get("top_k") == 1:
            del options["top_k"]
        return super()._call(inputs, options)


class FeatureExtraction(Pipeline):
    """Hidden states of each text as nested lists ``[1, S, hidden_size]``; arrays with ``return_tensors=True``."""

    own = ("return_tensors",)

    def _call(self, inputs: Any, options: dict[str, Any]) -> Any:
        keep = options.pop("return_tensors", None)
        if not (keep is None or isinstance(keep, bool) or keep == "np"):
            raise InputError(
                f"return_tensors is {keep!r:.80}, and arrays are NumPy's here: True or 'np'",
                hint="llm.forward gives the backend's own",
            )
        found = self.llm.predict(inputs, **options)
        if isinstance(inputs, str):
            return found[None] if keep else [as_data(found)]
        return [states[None] if keep else [as_data(states)] for states in found]

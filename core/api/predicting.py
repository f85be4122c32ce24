"""The part of :class:`~polyllama.Llama` that says what its task says about texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from ..loading.load import Loaded
    from ..tasks.loaded_model import LoadedModel


class Predicting:
    """Prediction by a loaded model's task."""

    _loaded: Loaded

    def predict(self, text: Any = None, **options: Any) -> Any:
        """What the task says about a text, or about each of a list of them.

        ============================  ====================================================  ==========================
        task                          result for one text                                   options
        ============================  ====================================================  ==========================
        ``sequence-classification``   a ``Label``                                           ``top_k``,
                                      with a probability (regression: the value)            ``function_to_apply``
        ``token-classification``      a list of ``Entity``, with characters of the text     ``aggregation_strategy``,
                                                                                            ``ignore_labels`` ...
        ``question-answering``        an ``Answer``, from ``question=...`` and              ``top_k``, ``doc_stride``,
                                      ``context=...``                                       ``max_answer_len`` ...
        ``embedding``                 ``[hidden_size]`` float32; ``[N, hidden_size]``
                                      for a list
        ``base``                      ``[S, hidden_size]`` float32, a row for each token
        ``causal-lm``                 a ``Generation``, as from ``generate``                those of ``generate``
        ============================  ====================================================  ==========================

        The other options are in the docstrings of the tasks' ``encode`` and ``result``; a plugin's task has its own.
        Texts run in padded batches of similar length, and each gets what it gets alone.

        Args:
            text: a text or a list; where a task takes several texts for a result, give them by name, or as mappings.
            options: the task's; and ``batch_size`` (8), ``truncation`` (cut texts that are too long, instead of an
                error), ``max_length`` (most tokens, by default the model's context), ``progress`` (``True``, ``False``,
                or a function of how many are done and of how many there are).

        Raises:
            InputError: no text, an empty one, something that is no text, one that is too long, or an unknown option.

        >>> from polyllama import Llama
        >>> llm = Llama.load("tiny", task="embedding", backend="reference")
        >>> llm.predict(["Once upon a time", "The end"]).shape
        (2, 128)
        """
        return self._loaded.task.predict(cast("LoadedModel", self), text, options)

    def predict_each(self, given: Any, options: Mapping[str, Any]) -> Any:
        """:meth:`predict` by one pass over each text; a task whose results take more begins with it.

        Args:
            given: a text, a mapping of names to texts, or a list of either; ``None`` where `options` name them all.
            options: texts by name, options of running, and those of the task's ``encode`` and ``result``.
        """
        from ..prediction.predict import predict

        return predict(cast("LoadedModel", self), self._loaded.task, given, options)

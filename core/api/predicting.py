"""The part of :class:`~polyllama.Llama` that says what its task says about texts, and how well it predicts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from ..arguments import checked_methods, meant, unknown_argument
from ..errors import about_model

if TYPE_CHECKING:
    from ..loading.load import Loaded
    from ..prediction.perplexity import LanguageModel, Perplexity
    from ..tasks.loaded_model import LoadedModel


@checked_methods
class Predicting:
    """Prediction by a loaded model's task."""

    _loaded: Loaded

    if TYPE_CHECKING:

        @property
        def _name(self) -> str | None: ...

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
        Texts run in padded batches of similar length, and each gets what it gets alone, but for rounding.

        Args:
            text: a text or a list; where a task takes several texts for a result, give them by name, or as mappings.
            options: the task's; and ``batch_size`` (8), ``truncation`` (cut texts that are too long, instead of an
                error), ``max_length`` (most tokens, by default the model's context), ``adapter`` (the name of one of
                :attr:`~polyllama.Llama.adapters`, or a list with one for each text), ``progress`` (``True``, ``False``,
                or a function of how many are done and of how many there are).

        Raises:
            InputError: no text, an empty one, something that is no text, one that is too long, or an unknown option.

        >>> from polyllama import Llama
        >>> llm = Llama.load("tiny", task="embedding", backend="reference")
        >>> llm.predict(["Once upon a time", "The end"]).shape
        (2, 128)
        """
        task = self._loaded.task
        for name in options if text is None else ():
            if name not in (*task.texts, *task.optional_texts) and meant(name, ["text"], cutoff=1) is not None:
                raise unknown_argument(name, "predict", ["text"], "")
        with about_model(self._name):
            return task.predict(cast("LoadedModel", self), text, options)

    def predict_each(self, given: Any, options: Mapping[str, Any]) -> Any:
        """:meth:`predict` by one pass over each text; a task whose results take more begins with it.

        Args:
            given: a text, a mapping of names to texts, or a list of either; ``None`` where `options` name them all.
            options: texts by name, options of running, and those of the task's ``encode`` and ``result``.
        """
        from ..prediction.predict import predict

        return predict(cast("LoadedModel", self), self._loaded.task, given, options)

    def perplexity(
        self,
        text: str | Sequence[int],
        *,
        context: int | None = None,
        stride: int | None = None,
        progress: bool | Callable[[int, int], object] | None = None,
    ) -> Perplexity:
        """Measure how well a language model predicts a text of any length, in overlapping windows.

        Each token is predicted once, from what its window holds before it: at least ``context - stride`` tokens, but
        at the beginning of the text. The perplexity is ``exp`` of the mean of ``-log p`` over all predicted tokens.
        This is the strided perplexity of transformers' document "Perplexity of fixed-length models", where each
        window's loss counts by the number of tokens that it is the mean of; the code in that document counts one less
        in every window after the first.

        Args:
            text: a text, or token ids. A text gets the special tokens that the tokenizer puts around it; no window but
                the first begins with one.
            context: most tokens of a window; by default the model's context, at most 2048.
            stride: how far each window begins after the one before; by default half of the context. Smaller is slower,
                and closer to what the model can do; `context` itself gives windows that do not overlap.
            progress: as for :meth:`predict`, counting windows.

        Returns:
            A :class:`~polyllama.core.prediction.perplexity.Perplexity`: ``perplexity``, ``loss``, ``tokens``,
            ``windows``, ``tokens_per_second`` ...

        Raises:
            InputError: a text of less than two tokens, a context beyond the model's, or a stride beyond the context.
            UnsupportedError: the model's task is not to predict the next token.

        >>> from polyllama import Llama
        >>> found = Llama.load("tiny", backend="reference").perplexity("Once upon a time there was a dog.", context=8)
        >>> found.stride, [(window.begin, window.end, window.predicted) for window in found.windows]
        (4, [(0, 8, 7), (4, 11, 3)])
        """
        from ..prediction.perplexity import measure_perplexity

        model, task = cast("LanguageModel", self), self._loaded.task
        with about_model(self._name):
            return measure_perplexity(model, task, text, context=context, stride=stride, progress=progress)

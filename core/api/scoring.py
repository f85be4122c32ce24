"""The part of :class:`~polyllama.Llama` that scores what it has generated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..arguments import checked_methods

if TYPE_CHECKING:
    from ..loading.load import Loaded


@checked_methods
class Scoring:
    """Scores of generated tokens."""

    _loaded: Loaded

    def compute_transition_scores(
        self, sequences: Any, scores: Any, beam_indices: Any = None, normalize_logits: bool = False
    ) -> Any:
        """How each generated token was scored at its step, from what ``generate`` returned.

        Args:
            sequences: ``[rows, width + steps]`` ids, the output's ``sequences``.
            scores: the output's ``scores``, or its ``logits``: of each step ``[rows, vocab_size]``.
            beam_indices: the output's, where a beam search has found it.
            normalize_logits: give log probabilities.

        Returns:
            ``[rows, steps]`` scores, an array of the kind that came in.

        Raises:
            InputError: they do not fit together.

        >>> import numpy as np
        >>> from polyllama import Llama
        >>> llm, ids = Llama.load("tiny", backend="reference"), np.array([[1, 400, 401]])
        >>> out = llm.generate(ids, max_new_tokens=4, return_dict_in_generate=True, output_scores=True)
        >>> llm.compute_transition_scores(out.sequences, out.scores, normalize_logits=True).shape
        (1, 4)
        """
        from ..generation.transition_scores import transition_scores

        vocab_size = self._loaded.config.vocab_size
        return transition_scores(
            sequences, scores, beam_indices, normalize_logits=normalize_logits, vocab_size=vocab_size
        )

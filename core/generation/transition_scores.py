"""How likely each generated token was, of what ``generate`` returned: ``compute_transition_scores`` as documented."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..array_kinds import as_numpy, device_of, kind_among, to_kind
from ..errors import InputError, UnsupportedError
from ..forward.inputs import as_integers, check_ids
from ..messages import counted


def transition_scores(
    sequences: Any, scores: Any, beam_indices: Any, *, normalize_logits: bool, vocab_size: int
) -> Any:
    """The score of each token at its step, ``[rows, steps]`` in the kind of array that came in.

    Args:
        sequences: ``[rows, width + steps]`` ids.
        scores: of each step ``[rows, vocab_size]``.
        beam_indices: ``None``: there is no beam search.
        normalize_logits: give log probabilities.

    Raises:
        InputError: they do not fit together.
        UnsupportedError: beams.
    """
    if beam_indices is not None:
        raise UnsupportedError("beam_indices are of beam search, which is not offered", hint="leave beam_indices out")
    if not isinstance(scores, Sequence) or isinstance(scores, str) or not scores:
        raise InputError(
            "scores is "
            + ("empty" if isinstance(scores, Sequence) else f"a {type(scores).__name__}")
            + ", wanted an array for each step",
            hint="generate gives them with return_dict_in_generate=True and output_scores=True",
        )
    ids = as_integers(sequences, "sequences")
    check_ids(ids, vocab_size, "sequences")
    steps = [as_numpy(step, f"scores[{place}]") for place, step in enumerate(scores)]
    for place, step in enumerate(steps):
        if step.shape != (len(ids), vocab_size) or ids.shape[1] < len(steps):
            raise InputError(
                f"scores[{place}] of {counted(len(steps), 'step')} has shape {list(step.shape)}, and sequences "
                f"{list(ids.shape)}: wanted [{len(ids)}, {vocab_size}] for each of the last tokens"
            )
    taken = np.stack([_normal(step) if normalize_logits else step for step in steps], axis=1)  # [rows, steps, vocab]
    found = np.take_along_axis(taken, ids[:, -len(steps) :, None], axis=2)[:, :, 0].astype(steps[0].dtype)
    kind = kind_among([sequences, *scores]) or "numpy"
    return to_kind(found, kind, device_of(scores[0]))


def _normal(step: Any) -> Any:
    """Log probabilities of scores, those of tokens that were filtered out being minus infinity."""
    wide = step.astype(np.float64)
    wide = wide - wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))

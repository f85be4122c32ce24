"""How likely each generated token was, of what ``generate`` returned: ``compute_transition_scores`` as documented."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..array_kinds import as_numpy, device_of, kind_among, to_kind
from ..errors import InputError
from ..forward.inputs import as_integers, check_ids
from ..messages import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray


def transition_scores(
    sequences: Any, scores: Any, beam_indices: Any, *, normalize_logits: bool, vocab_size: int
) -> Any:
    """The score of each token at its step, ``[rows, steps]`` in the kind of array that came in.

    Args:
        sequences: ``[rows, width + steps]`` ids.
        scores: of each step ``[rows, vocab_size]``; of a beam search ``[rows of all beams, vocab_size]``.
        beam_indices: ``[rows, steps]``, of a beam search: the row of `scores` that each token was chosen by, -1 behind
            a text's end, where the score is 0. Without, each row's own.
        normalize_logits: give log probabilities.

    Raises:
        InputError: they do not fit together.
    """
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
    beams = None if beam_indices is None else as_integers(beam_indices, "beam_indices")
    count = len(steps) if beams is None else _beam_steps(beams, ids, steps)
    rows = len(ids) if beams is None else len(steps[0])
    for place, step in enumerate(steps):
        if step.shape != (rows, vocab_size) or ids.shape[1] < count:
            raise InputError(
                f"scores[{place}] of {counted(len(steps), 'step')} has shape {list(step.shape)}, and sequences "
                f"{list(ids.shape)}: wanted [{rows}, {vocab_size}] for each of the last tokens"
            )
    found = np.zeros((len(ids), count), steps[0].dtype)
    own = np.arange(len(ids))
    for place, step in enumerate(steps[:count]):
        taken = _normal(step) if normalize_logits else step
        chosen = own if beams is None else beams[:, place]
        value = taken[np.maximum(chosen, 0), ids[:, ids.shape[1] - count + place]]
        found[:, place] = np.where(chosen < 0, 0, value)
    kind = kind_among([sequences, *scores]) or "numpy"
    return to_kind(found, kind, device_of(scores[0]))


def _beam_steps(beams: NDArray[np.int64], ids: NDArray[np.int64], steps: Sequence[NDArray[Any]]) -> int:
    """How many tokens the longest text of a beam search has.

    Raises:
        InputError: beam indices that do not fit to the rest.
    """
    rows = len(steps[0]) if steps[0].ndim else 0
    if beams.ndim != 2 or len(beams) != len(ids) or (beams.size and int(beams.max()) >= rows):
        raise InputError(
            f"beam_indices has shape {list(beams.shape)}"
            + (f" and numbers up to {int(beams.max())}" if beams.size else "")
            + f", sequences {list(ids.shape)} and each step of scores {rows} rows: they do not belong together",
            hint="give those of one output of generate",
        )
    count = int((beams >= 0).sum(axis=1).max(initial=0))
    if count > len(steps):
        raise InputError(f"beam_indices is of {counted(count, 'step')}, scores of {len(steps)}")
    return count


def _normal(step: Any) -> Any:
    """Log probabilities of scores, those of tokens that were filtered out being minus infinity."""
    wide = step.astype(np.float64)
    wide = wide - wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))

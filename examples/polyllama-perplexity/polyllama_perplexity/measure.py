"""What the command does, for Python."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyllama import Llama, PolyllamaWarning
from polyllama.extend import InputError

if TYPE_CHECKING:
    import numpy as np
    from polyllama.extend import Tokenizer


@dataclass(frozen=True)
class Surprise:
    """How surprised a model was by a text.

    Attributes:
        tokens: the text's tokens; the first has nothing before it and so is not predicted.
        surprisals: ``-log p`` of each further token, in nats.
        perplexity: ``exp`` of their mean: among how many equally likely tokens the model was choosing, so to speak.
    """

    tokens: tuple[str, ...]
    surprisals: tuple[float, ...]
    perplexity: float


def measure(llm: Llama, text: str) -> Surprise:
    """Measure `text` under a model that was loaded with ``task="perplexity"``.

    Raises:
        InputError: the model has another task, or the text is shorter than two tokens.
    """
    if llm.task != "perplexity":
        raise InputError(f"this model was loaded for task {llm.task!r}", hint="load it with task='perplexity'")
    ids = llm.tokenizer.encode(text)
    if len(ids) > llm.config.max_position_embeddings:
        warnings.warn(
            f"the text has {len(ids)} tokens, the model was made for {llm.config.max_position_embeddings}",
            PolyllamaWarning,
            stacklevel=2,
        )
    return surprise(llm.tokenizer, ids, llm.forward([ids]).numpy()["log_probs"][0])


def surprise(tokenizer: Tokenizer, ids: Sequence[int], log_probs: np.ndarray) -> Surprise:
    """What the log-probabilities ``[S, V]`` say of the tokens that came.

    Raises:
        InputError: the text is shorter than two tokens.
    """
    if len(ids) < 2:
        raise InputError(f"the text has {len(ids)} tokens, and the first is not predicted", hint="give a longer one")
    surprisals = tuple(-float(log_probs[place, after]) for place, after in enumerate(ids[1:]))
    tokens = tuple(tokenizer.convert_ids_to_tokens(list(ids)))
    return Surprise(tokens, surprisals, math.exp(sum(surprisals) / len(surprisals)))

"""How likely a model finds the tokens of a prompt: what ``echo`` with ``logprobs`` asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ....core.api.llama import Llama
    from ....core.generation.sampling import TokenLogprob


@dataclass(frozen=True)
class PromptScores:
    """The tokens of a prompt and each one's log-probability; ``None`` of the first, which nothing comes before."""

    ids: list[int]
    logprobs: list[TokenLogprob | None]


def score_prompt(llm: Llama, ids: Sequence[int], top: int, **how: Any) -> PromptScores:
    """Run a prompt once and look at each token under the logits before it.

    Args:
        how: options of ``forward``, such as ``adapter``.

    >>> from polyllama import Llama
    >>> found = score_prompt(Llama.load("tiny", backend="reference"), [1, 400, 401], 0)
    >>> found.logprobs[0], round(found.logprobs[2].logprob) < 0
    (None, True)
    """
    from ....core.generation.sampling import token_logprob

    logits = llm.forward([list(ids)], use_cache=False, **how).numpy()["logits"][0]
    found = [token_logprob(logits[place], token_id, top) for place, token_id in enumerate(ids[1:])]
    return PromptScores(list(ids), [None, *found])

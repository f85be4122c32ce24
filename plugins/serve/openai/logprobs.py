"""Log-probabilities of tokens in OpenAI's two forms; never a number that JSON does not have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ....core.generation.sampling import TokenLogprob
    from ....core.tokenizer.tokenizer import Tokenizer

LOWEST = -9999.0
"""What OpenAI's interface has for a token that cannot come up."""


def finite(value: float) -> float:
    """A log-probability that JSON can hold.

    >>> finite(float("-inf")), finite(-0.5)
    (-9999.0, -0.5)
    """
    return value if math.isfinite(value) else LOWEST


class TokenTexts:
    """The texts and bytes of tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)

    def text(self, token_id: int) -> str:
        """A token as text; what is no whole character as replacement characters."""
        found = self.bytes(token_id)
        return found.decode("utf-8", "replace") if found is not None else self._name(token_id)

    def bytes(self, token_id: int) -> bytes | None:
        """What a token adds to a text; ``None`` of one that stands for something else."""
        return None if token_id in self._special else self._tokenizer.token_bytes(token_id)

    def _name(self, token_id: int) -> str:
        return str(self._tokenizer.convert_ids_to_tokens([token_id])[0])

    def entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        """A token as chats have it."""
        found = self.bytes(token_id)
        listed = None if found is None else list(found)
        return {"token": self.text(token_id), "logprob": finite(logprob), "bytes": listed}

    def chat(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The log-probabilities of a chat's answer, or of a piece of it."""
        content = [
            {**self.entry(one.token_id, one.logprob), "top_logprobs": [self.entry(*other) for other in one.top]}
            for one in logprobs
        ]
        return {"content": content, "refusal": None}

    def completion(self, logprobs: Sequence[TokenLogprob | None], ids: Sequence[int], start: int) -> dict[str, Any]:
        """The log-probabilities of a completion, or of a piece of it.

        Args:
            logprobs: ``None`` for the first token of a prompt, which nothing comes before.
            start: letters of the text before the first of the tokens.
        """
        tokens = [self.text(token_id) for token_id in ids]
        offsets = []
        for token in tokens:
            offsets.append(start)
            start += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [None if one is None else finite(one.logprob) for one in logprobs],
            "top_logprobs": [None if one is None else self._best(one) for one in logprobs],
            "text_offset": offsets,
        }

    def _best(self, one: TokenLogprob) -> dict[str, float]:
        """The likeliest tokens and the one that came; of several that are the same text the likeliest."""
        found: dict[str, float] = {}
        for token_id, logprob in (*one.top, (one.token_id, one.logprob)):
            found.setdefault(self.text(token_id), finite(logprob))
        return found

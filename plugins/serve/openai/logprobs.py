"""Log-probabilities of tokens in OpenAI's two forms; never a number that JSON does not have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

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


_MADE: WeakKeyDictionary[Any, TokenTexts] = WeakKeyDictionary()


class TokenTexts:
    """The texts and bytes of tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)
        self._known: dict[int, tuple[str, list[int] | None]] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> TokenTexts:
        """Those of a tokenizer, which remember what was asked before."""
        found = _MADE.get(tokenizer)
        if found is None:
            found = _MADE[tokenizer] = cls(tokenizer)
        return found

    def text(self, token_id: int) -> str:
        """A token as text; what is no whole character as replacement characters."""
        return self._look(token_id)[0]

    def _look(self, token_id: int) -> tuple[str, list[int] | None]:
        """A token's text, and the bytes that it adds to a text; ``None`` of one that stands for something else."""
        known = self._known.get(token_id)
        if known is None:
            found = None if token_id in self._special else self._tokenizer.token_bytes(token_id)
            if found is None:
                known = str(self._tokenizer.convert_ids_to_tokens([token_id])[0]), None
            else:
                known = found.decode("utf-8", "replace"), list(found)
            self._known[token_id] = known
        return known

    def entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        """A token as chats have it."""
        text, content = self._look(token_id)
        return {"token": text, "logprob": finite(logprob), "bytes": content}

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

"""Byte-level tokenizers as GGUF's metadata says them: merges that cross words, so that ids tell how a text was cut."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from hypothesis import strategies as st
from tokenizer_models import corpus, plain_text
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

PREFIX = "tokenizer.ggml."
SPECIAL = ("<|begin|>", "<|end|>", "<|turn|>")
MORE = [
    "Ab1 23 456 7890 it's IT'S we'LL e\u0301t\u00e9 CamelCase camelCase x+y=z <a|b> ~ ``` $5.00\r\n\r\n \t end   " * 3
]
texts = st.one_of(plain_text, st.text(alphabet="aAbBé\u0301É 日の한12٣①'sStTlL.,!$+<|`~_\n\r\t\u00a0", max_size=30))
"""Texts in which words begin and end in every way."""


@cache
def crossing_merges() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary and its merges, trained without cutting texts into words at all."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.train_from_iterator(
        [line[start : start + 12] for line in corpus(300) + MORE for start in range(0, len(line), 12)],
        trainers.BpeTrainer(
            vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, min_frequency=1
        ),
    )
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def oracle(pre_tokenizer: Any, *, whole_words: bool = False) -> Tokenizer:
    """The same vocabulary in the tokenizers library, cut into words by ``pre_tokenizer``."""
    vocabulary, merges = crossing_merges()
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=whole_words))
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return backend


def metadata(pre: str | None, **more: Any) -> dict[str, Any]:
    """The pairs of a GGUF file's metadata that say the vocabulary; ``more`` go under ``tokenizer.ggml.``."""
    vocabulary, merges = crossing_merges()
    tokens = [*sorted(vocabulary, key=vocabulary.__getitem__), *SPECIAL]
    pairs: dict[str, Any] = {
        "model": "gpt2",
        "tokens": tokens,
        "token_type": [1] * len(vocabulary) + [3] * len(SPECIAL),
        "merges": [" ".join(merge) for merge in merges],
        "bos_token_id": len(vocabulary),
        "eos_token_id": len(vocabulary) + 1,
    }
    return {f"{PREFIX}{key}": value for key, value in (pairs | ({} if pre is None else {"pre": pre}) | more).items()}

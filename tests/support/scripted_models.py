"""Shared by the tests of core/generation: models and helpers."""

from __future__ import annotations

import codecs
import weakref
from collections.abc import Sequence

import numpy as np
from polyllama.core.config.schema import LlamaConfig
from polyllama.core.forward.arguments import ForwardArguments
from polyllama.core.generation.calls import generate
from polyllama.core.generation.options import GenerationOptions
from polyllama.core.graph.cache import Cache
from polyllama.core.tasks.outputs import CausalLMOutput

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


BOS, EOS, EOT = 1, 2, 3


BYTES = 4  # first of 256 byte tokens


WORDS = ["he", "ll", "o E", "END", "ND", "世界", "é", " the", "a", "\n\n"]


VOCAB = BYTES + 256 + len(WORDS)


SPECIAL = {0: "<unk>", BOS: "<s>", EOS: "</s>", EOT: "<eot>"}


class ByteTokenizer:
    """A whole small tokenizer: bytes and a few longer pieces, greedily matched, and three special tokens."""

    bos_token_id = BOS
    eos_token_id = EOS
    all_special_ids = tuple(SPECIAL)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        for token_id, name in SPECIAL.items():
            if text == name:
                return [BOS] * add_special_tokens + [token_id]
        ids, place = [BOS] * add_special_tokens, 0
        while place < len(text):
            word = max((w for w in WORDS if text.startswith(w, place)), key=len, default=None)
            if word is None:
                ids += [BYTES + byte for byte in text[place].encode()]
                place += 1
            else:
                ids.append(BYTES + 256 + WORDS.index(word))
                place += len(word)
        return ids

    def piece(self, token_id: int, skip_special_tokens: bool) -> bytes:
        if token_id < BYTES:
            return b"" if skip_special_tokens else SPECIAL[token_id].encode()
        return bytes([token_id - BYTES]) if token_id < BYTES + 256 else WORDS[token_id - BYTES - 256].encode()

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return b"".join(self.piece(i, skip_special_tokens) for i in token_ids).decode(errors="replace")

    def ids_without_token(self, size: int) -> list[int]:
        return []

    def stream_decoder(self, prompt_ids: Sequence[int] = (), skip_special_tokens: bool = True) -> ByteDecoder:
        return ByteDecoder(self, prompt_ids, skip_special_tokens)


class ByteDecoder:
    def __init__(self, tokenizer: ByteTokenizer, prompt_ids: Sequence[int], skip_special_tokens: bool) -> None:
        self._piece = lambda token_id: tokenizer.piece(token_id, skip_special_tokens)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token_id in prompt_ids:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        return self._decoder.decode(self._piece(token_id))

    def finish(self) -> str:
        return self._decoder.decode(b"", True)


class EchoCache(Cache):
    """What the recurrent model remembers: the ids so far."""

    ids: np.ndarray

    def _take(self, array, rows):
        return array[rows]

    def _select(self, source, rows):
        self.ids = source.ids[rows]


class RecurrentModel:
    """A language model whose logits depend on every attended token, on how far back it is and on the position.

    ``logits = position[p] + last[token] + sum over attended tokens of 0.7**distance * memory[token]``: a padded token
    that is attended to, a position that counts padding, or a cache row that is mixed up changes them.
    """

    def __init__(self, seed: int = 0, config: LlamaConfig | None = None, sharpness: float = 3.0) -> None:
        random = np.random.default_rng(seed)
        self.config = config or LlamaConfig(vocab_size=VOCAB, max_position_embeddings=512, **SMALL)
        vocab = self.config.vocab_size
        self.graph, self.dtype, self.device = None, "float32", "cpu"
        self.position, self.last, self.memory = (
            (random.normal(size=(rows, vocab)) * sharpness).astype(np.float32) for rows in (700, vocab, vocab)
        )
        self.calls: list[tuple[int, int]] = []
        self.caches: list[weakref.ref] = []

    def new_cache(self, batch: int, capacity: int) -> EchoCache:
        cache = EchoCache(batch, capacity)
        cache.ids = np.zeros((batch, 0), np.int64)
        self.caches.append(weakref.ref(cache))
        return cache

    def to_numpy(self, array):
        return np.asarray(array, np.float32)

    def forward(self, arguments):
        assert arguments.use_cache and arguments.logits_to_keep == 1
        ids, cache = np.asarray(arguments.input_ids), arguments.past_key_values
        attention_mask = arguments.attention_mask
        cache.claim(self, ids.shape[0])
        assert attention_mask.shape == (ids.shape[0], cache.length + ids.shape[1])
        assert attention_mask.any(axis=1).all()
        assert attention_mask.shape[1] <= cache.capacity
        self.calls.append(ids.shape)
        cache.ids = np.concatenate([cache.ids, ids], axis=1)
        cache.advance(ids.shape[1], attention_mask.astype(bool))
        rows = []
        for row, mask in zip(cache.ids, cache.mask, strict=True):
            seen = row[mask]
            weights = 0.7 ** np.arange(len(seen) - 1, -1, -1)
            rows.append(self.position[len(seen) - 1] + self.last[seen[-1]] + weights @ self.memory[seen])
        return CausalLMOutput(logits=np.stack(rows)[:, None].astype(np.float32), past_key_values=cache)


class Scripted(RecurrentModel):
    """The same model with positions so strong that it says a given sequence after any prompt of one token."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        super().__init__(1)
        for position, token_id in enumerate(token_ids):
            self.position[position, token_id] += 1000


MODEL = RecurrentModel()


TOKENIZER = ByteTokenizer()


PROMPTS = [[BOS, 40, 50, 60], [BOS], [BOS, 7, 7, 9, 200, 31, 5], [BOS, 40, 50, 60]]


def options(**arguments) -> GenerationOptions:
    return GenerationOptions.resolve(arguments)


def run(prompts=PROMPTS, model=MODEL, **arguments):
    return generate(model, TOKENIZER, prompts, options(**{"max_new_tokens": 12, **arguments}))


def tokens(results) -> list[list[int]]:
    return [result.token_ids for result in results]


def brute_force(prompt: list[int], count: int, model=MODEL) -> list[int]:
    """Greedy decoding by definition: the whole text again for every token, alone, without a loop of ours."""
    ids = list(prompt)
    for _ in range(count):
        out = model.forward(
            ForwardArguments(
                input_ids=[ids],
                attention_mask=np.ones((1, len(ids)), int),
                past_key_values=model.new_cache(1, len(ids)),
                use_cache=True,
                logits_to_keep=1,
            )
        )
        ids.append(int(out.logits[0, -1].argmax()))
    return ids[len(prompt) :]
